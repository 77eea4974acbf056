"""Accounts without an interval of their own are swept as often as their lists change; every reader sees that."""

from typing import Any

import pytest
from driving import make_runtime
from ledger_acts import add_account, execute, fetches_of
from sqlalchemy import Engine

from ulak.api.pages.alarms import find_alarms
from ulak.models.account import find
from ulak.models.accounts import apply
from ulak.models.backlog import PLANS_MISSED, read_backlog
from ulak.models.database import transaction
from ulak.models.overview import ProviderPace, overview, unsettled
from ulak.models.sweep_intervals import every_seconds
from ulak.providers.accounts import parse_accounts
from ulak.schedules.sweeping import MAX_SECONDS, MIN_SECONDS
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.planning import plan_due
from ulak.tasks.steps.upkeep import every_minute

DEFAULT = 60.0
FILE = """
[[account]]
id = "file-{number}"
provider = "iletimerkezi"
[account.credentials]
key = "env:KEY_{number}"
hash = "env:TEST_KEY"
[account.poll]
{line}
"""
SWEEP = """
    WITH p AS (INSERT INTO polls (account_id, trigger, scheduled_for, state, planned_at, new, started_at, finished_at)
        SELECT :a, 'schedule', at, 'complete', at, :news, at, at
        FROM generate_series(1, :many) n, LATERAL (SELECT now() - n * interval '1 minute' AS at) t RETURNING id)
    INSERT INTO fetches (poll_id, account_id, kind, params, params_hash, state, finished_at)
    SELECT id, :a, 'page', '{"window": ["2026-01-01", "2026-01-01"], "page": 1}', id::text, 'done', now() FROM p
"""


@pytest.fixture
def runtime(migrated_database: Engine) -> Runtime:
    """A runtime whose credentials are always found."""
    return make_runtime(migrated_database, resolve=lambda _: "secret", tick_seconds=0.01)


def _account(runtime: Runtime, *, news: int, sweeps: int = 25, **poll: Any) -> str:
    """An account whose sweeps of the last minutes have brought so much each, after a look at it."""
    account_id = add_account(runtime.engine, provider="iletimerkezi", requests=1, poll=poll)
    execute(runtime.engine, SWEEP, a=account_id, news=news, many=sweeps)
    every_minute(runtime)
    return account_id


def _every(runtime: Runtime, account_id: str) -> float:
    """What Python says; SQL must say the same."""
    with runtime.engine.connect() as connection:
        row = find(connection, account_id)
        assert row is not None
        every = every_seconds(row, DEFAULT)
        known = read_backlog(connection)[account_id].every_seconds
    assert every == (DEFAULT if known is None else known)
    return every


def _is_planned(runtime: Runtime, account_id: str, seconds: float) -> bool:
    """Whether lists that were planned so long ago are due."""
    change = "UPDATE accounts SET planned_at = now() - make_interval(secs => :s) WHERE id = :a"
    execute(runtime.engine, change, a=account_id, s=seconds)
    list(plan_due(runtime, "iletimerkezi"))
    return bool(fetches_of(runtime.engine, account_id, "ready"))


def test_quiet_lists_are_swept_rarely(runtime: Runtime) -> None:
    """As rarely as the bound allows, which the planner keeps."""
    account_id = _account(runtime, news=0)
    assert _every(runtime, account_id) == MAX_SECONDS
    assert not _is_planned(runtime, account_id, MAX_SECONDS * 0.9)
    assert _is_planned(runtime, account_id, MAX_SECONDS * 0.96)


@pytest.mark.parametrize(
    ("objective", "every"),
    [("90 % within 45 s", 50.0), ("99 % within 1 s", MIN_SECONDS), ("95 % within 1 h", MAX_SECONDS)],
)
def test_an_objective_bounds_the_interval_of_quiet_lists(runtime: Runtime, objective: str, every: float) -> None:
    """So that what changes at any moment is known in time, as far as lists are read at all so often."""
    account_id = add_account(runtime.engine, provider="iletimerkezi", requests=1)
    execute(runtime.engine, "UPDATE accounts SET objective = :o WHERE id = :a", o=objective, a=account_id)
    execute(runtime.engine, SWEEP, a=account_id, news=0, many=25)
    every_minute(runtime)
    assert _every(runtime, account_id) == pytest.approx(every)


def test_busy_lists_are_swept_often(runtime: Runtime) -> None:
    """More often than by default."""
    account_id = _account(runtime, news=60)
    assert _every(runtime, account_id) == MIN_SECONDS
    assert _is_planned(runtime, account_id, MIN_SECONDS)


def test_an_account_of_a_file_that_names_no_interval_follows_its_lists(runtime: Runtime) -> None:
    """The provider's default is not taken for the operator's wish; an interval that the file names is one."""
    for number, (line, every) in enumerate((("", 300.0), ("every_seconds = 60", 60.0))):
        account = FILE.format(number=number, line=line)
        with transaction(runtime.engine) as connection:
            apply(connection, parse_accounts(account), prune=False)
        execute(runtime.engine, SWEEP, a=f"file-{number}", news=0, many=25)
        every_minute(runtime)
        assert _every(runtime, f"file-{number}") == pytest.approx(every)


@pytest.mark.parametrize(
    ("poll", "every"), [({"every_seconds": 45.0}, 45.0), ({"adaptive": False}, DEFAULT), ({"lookback_days": 4}, 300.0)]
)
def test_a_configured_interval_stays_exact(runtime: Runtime, poll: dict[str, Any], every: float) -> None:
    """And without adaptation the default holds."""
    account_id = _account(runtime, news=0, **poll)
    assert _every(runtime, account_id) == every
    assert not _is_planned(runtime, account_id, every * 0.9)
    assert _is_planned(runtime, account_id, every)


def test_an_interval_that_is_configured_later_holds_at_once(runtime: Runtime) -> None:
    """Also `adaptive = false`."""
    account_id = _account(runtime, news=0)
    for change, every in (('{"every_seconds": 20.0}', 20.0), ('{"adaptive": false}', DEFAULT)):
        execute(runtime.engine, f"UPDATE accounts SET poll = '{change}' WHERE id = :a", a=account_id)
        assert _every(runtime, account_id) == every


def test_the_alarm_for_a_standstill_counts_in_the_interval_in_force(runtime: Runtime) -> None:
    """No alarm while a quiet account rests as it should; one after as many intervals as before."""
    account_id = _account(runtime, news=0)
    for intervals, kinds in ((PLANS_MISSED - 0.5, []), (PLANS_MISSED + 0.5, ["stalled"])):
        change = "UPDATE accounts SET planned_at = now() - make_interval(secs => :s) WHERE id = :a"
        execute(runtime.engine, change, a=account_id, s=intervals * MAX_SECONDS)
        with runtime.engine.connect() as connection:
            found = find_alarms(overview(connection), read_backlog(connection), {"iletimerkezi": DEFAULT})
        assert [alarm.kind for alarm in found] == kinds


def test_what_is_due_within_the_interval_in_force_is_not_settled(runtime: Runtime) -> None:
    """As long as the next sweep may bring it."""
    account_id = _account(runtime, news=0)
    execute(runtime.engine, "INSERT INTO tracked_ids (account_id, id_kind, value, origin, sent_at, valid_until,"
            " next_check_at) VALUES (:a, 'order', '1', 'discovered', now(), now() + interval '1 day',"
            " now() + interval '200 s')", a=account_id)  # fmt: skip
    paces = {"iletimerkezi": ProviderPace(every_seconds=DEFAULT, sweeps=True)}
    with runtime.engine.connect() as connection:
        assert f"{account_id} has 1 id to be asked for soon." in unsettled(connection, paces)
