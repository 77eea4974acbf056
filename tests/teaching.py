"""Accounts that learn how long their messages take, from ids that are stored as if checks had closed them."""

from random import Random
from typing import Any

from driving import scalar
from ledger_acts import add_account, execute
from sqlalchemy import Engine

from ulak.models import latencies
from ulak.models.account import find
from ulak.schedules.latency import _WIDTHS
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.latency_learning import learn_all

HOUR_AGO = "UPDATE latencies SET read_through = now() - interval '3 hours' WHERE account_id = :a"
CLOSED = """
    INSERT INTO tracked_ids (account_id, id_kind, value, origin, sent_at, valid_until, checked_before_at,
        last_checked_at, closed_at, close_reason)
    SELECT :a, :kind, :name || n, 'sender', sent, sent + interval '1 day',
        sent + make_interval(secs => :left * :factor),
        sent + make_interval(secs => :right * :factor), sent + make_interval(secs => :right * :factor), 'final'
    FROM generate_series(1, :many) n, LATERAL (SELECT now() - interval '2 hours' + n * interval '1 second' AS sent) s
"""


def close_ids(
    engine: Engine, account_id: str, many: int, left: float, right: float, *, kind: str = "number", factor: float = 1.0
) -> None:
    """So many messages that became final between two ages."""
    name = f"s{Random().getrandbits(60)}:"
    execute(engine, CLOSED, a=account_id, kind=kind, name=name, many=many, left=left, right=right, factor=factor)


def begin(runtime: Runtime, **poll: Any) -> str:
    """An account that has begun to learn three hours ago."""
    account_id = add_account(runtime.engine, poll=poll)
    close_ids(runtime.engine, account_id, 1, 0, 5)
    learn_all(runtime)
    execute(runtime.engine, HOUR_AGO, a=account_id)
    return account_id


def plan_of(engine: Engine, account_id: str) -> dict[str, Any]:
    """The account's stored poll plan."""
    found = scalar(engine, "SELECT poll_plan FROM accounts WHERE id = :a", a=account_id)
    assert isinstance(found, dict)
    return found


def teach(runtime: Runtime, account_id: str, *, factor: float = 1.0) -> None:
    """Most messages take some six seconds, some half an hour."""
    engine = runtime.engine
    close_ids(engine, account_id, 200, 0, 5, factor=factor)
    close_ids(engine, account_id, 150, 5, 8, factor=factor)
    close_ids(engine, account_id, 60, 1500, 2100, factor=factor)
    learn_all(runtime)


def give_waiting_plan(engine: Engine, account_id: str, kind: str) -> None:
    """A plan by which no batch of ids of this kind is ever worth a call."""
    masses = [0.0] * (len(_WIDTHS) - 1) + [1.0]
    times = {"ages": [1.0], "every": 1.0, "until": 86400.0, "masses": masses}
    with engine.begin() as connection:
        row = find(connection, account_id)
        assert row is not None
        plan = {"price": 1e9, "kinds": {kind: times}, "of_one": ["gsm_track"], "settings": latencies.settings(row)}
        latencies.plan(connection, account_id, plan)
