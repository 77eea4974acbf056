"""How every account stands, and what keeps the system from being settled."""

from typing import Any

import pytest
from database_fixtures import add_account
from sqlalchemy import Connection, Engine, text

from ulak.models.account import AccountState
from ulak.models.database import transaction
from ulak.models.deliveries import upsert
from ulak.models.overview import ProviderPace, overview, unsettled
from ulak.models.report import DeliveryReport
from ulak.models.vocabulary import Granularity, Status

PACES = {
    "iletimerkezi": ProviderPace(every_seconds=60, sweeps=True),
    "vairo": ProviderPace(every_seconds=5, sweeps=False),
}
DUE = "kampanya has 1 id to be asked for soon."


def add_poll(connection: Connection, account: str, **columns: Any) -> int:
    """A planned poll that is complete unless told otherwise."""
    values = {"state": "complete", "new": 0, "advanced": 0, "open_fetches": 0, "dead": 0} | columns
    values["finished_at"] = None if values["state"] == "running" else "2026-01-01T00:00:00Z"
    names = ", ".join(values)
    bound = ", ".join(f":{name}" for name in values)
    return int(
        connection.execute(
            text(
                f"INSERT INTO polls (account_id, kind, trigger, planned_at, {names})"
                f" VALUES (:account, 'plan', 'schedule', now(), {bound}) RETURNING id"
            ),
            values | {"account": account},
        ).scalar_one()
    )


def add_fetch(
    connection: Connection, account: str, poll: int, *, state: str = "done", params: str = '{"window": ["a", "b"]}'
) -> int:
    """A fetch of a poll; by default a finished page of a window."""
    ended = "NULL" if state == "ready" else "now()"
    return int(
        connection.execute(
            text(
                "INSERT INTO fetches (poll_id, account_id, kind, params, params_hash, state, finished_at)"
                f" VALUES (:poll, :account, 'page', CAST(:params AS jsonb), md5(random()::text), :state, {ended})"
                " RETURNING id"
            ),
            {"poll": poll, "account": account, "params": params, "state": state},
        ).scalar_one()
    )


def add_id(connection: Connection, account: str, *, due_in_seconds: float, value: str = "1:2") -> None:
    """An open id, sent a minute ago."""
    connection.execute(
        text(
            "INSERT INTO tracked_ids (account_id, id_kind, value, origin, sent_at, valid_until, next_check_at)"
            " VALUES (:account, 'number', :value, 'sender', now() - interval '1 minute', now() + interval '1 day',"
            " now() + make_interval(secs => :due))"
        ),
        {"account": account, "value": value, "due": due_in_seconds},
    )


def add_call(connection: Connection, account: str, *, ago_seconds: float, outcome: str) -> None:
    """An answered call."""
    connection.execute(
        text(
            "INSERT INTO calls (account_id, asked_at, gives_up_at, answered_at, released_at, outcome)"
            " SELECT :account, t, t, t, t, :outcome FROM (SELECT now() - make_interval(secs => :ago) AS t) AS at"
        ),
        {"account": account, "ago": ago_seconds, "outcome": outcome},
    )


def test_an_overview_counts_what_is_there(migrated_database: Engine) -> None:
    """Open and final deliveries, open ids, calls, slots, work and the last trouble of one account."""
    reports = [
        DeliveryReport(granularity=Granularity.MESSAGE, provider_key=key, status=status, provider_status="x")
        for key, status in (("a", Status.DELIVERED), ("b", Status.ENROUTE), ("c", Status.REJECTED))
    ]
    with transaction(migrated_database) as connection:
        account = add_account(connection, "kampanya")
        connection.execute(text("UPDATE accounts SET limit_requests = 3, limit_per_seconds = 60, last_trouble = 'x'"))
        upsert(connection, account, "vairo", reports, asked_at=None)
        add_id(connection, account, due_in_seconds=60)
        for ago, outcome in ((10, "failed"), (30, "ok"), (90, "ok"), (7200, "ok")):
            add_call(connection, account, ago_seconds=ago, outcome=outcome)
        running = add_poll(connection, account, state="running", open_fetches=1)
        add_fetch(connection, account, running, state="ready")
        add_fetch(connection, account, add_poll(connection, account), state="dead")
        (found,) = overview(connection)
        assert overview(connection, "nobody") == []
    assert found.freshness_seconds == pytest.approx(30, abs=5)
    assert found.oldest_unanswered is not None
    assert (found.as_of - found.oldest_unanswered).total_seconds() == pytest.approx(60, abs=5)
    told = {name: getattr(found, name) for name in found.__slots__}
    for name in ("as_of", "freshness_seconds", "oldest_unanswered"):
        del told[name]
    assert told == {
        "id": "kampanya",
        "provider": "vairo",
        "enabled": True,
        "state": AccountState.OK,
        "reason": None,
        "until": None,
        "paused_by": None,
        "open_deliveries": 1,
        "final_deliveries": 2,
        "open_tracked": 1,
        "calls_last_minute": 2,
        "calls_last_hour": 3,
        "limit_requests": 3,
        "limit_per_seconds": 60.0,
        "limit_concurrency": 1,
        "busy_slots": 2,
        "ready_fetches": 1,
        "sending_fetches": 0,
        "dead_fetches": 1,
        "running_polls": 1,
        "quarantined": 0,
        "last_trouble": "x",
        "last_trouble_at": None,
        "rejected": (),
        "objective": None,
        "keep_days": None,
        "kept_from": None,
        "removal": None,
    }


@pytest.mark.parametrize(
    ("change", "state", "reason"),
    [
        ("enabled = false, paused_until = now() + interval '1 hour'", "disabled", "switched off in the accounts file"),
        ("paused_until = now() + interval '1 hour', pause_reason = 'why', breaker_state = 'open'", "paused", "why"),
        ("paused_until = now() - interval '1 hour', pause_reason = 'why'", "ok", None),
        ("breaker_state = 'open', last_trouble = 'T', not_before = now() + interval '1 hour'", "breaker open", "T"),
        ("breaker_state = 'probing', last_trouble = 'T'", "breaker open", "T"),
        ("not_before = now() + interval '1 hour', last_trouble = 'T'", "throttled", "T"),
        ("not_before = now() - interval '1 hour', last_trouble = 'T'", "ok", None),
    ],
)
def test_the_state_is_the_strongest_reason(
    migrated_database: Engine, change: str, state: str, reason: str | None
) -> None:
    """Disabled before paused before breaker before throttled; what has passed is no reason."""
    with transaction(migrated_database) as connection:
        add_account(connection, "kampanya")
        connection.execute(text(f"UPDATE accounts SET {change}"))
        (found,) = overview(connection)
    assert (str(found.state), found.reason) == (state, reason)


@pytest.mark.parametrize(
    ("change", "succeeded_ago", "shown"),
    [
        ("enabled = true", 100, "T"),
        ("enabled = true", 30, None),
        ("breaker_state = 'open'", 30, "T"),
        ("paused_until = now() + interval '1 hour'", 30, "T"),
    ],
    ids=["earlier success", "later success", "breaker open", "paused"],
)
def test_a_trouble_is_over_once_a_call_made_after_it_has_succeeded(
    migrated_database: Engine, change: str, succeeded_ago: float, shown: str | None
) -> None:
    """Unless the account is not asked because of it: then it is the reason."""
    with transaction(migrated_database) as connection:
        account = add_account(connection, "kampanya")
        told = "last_trouble = 'T', last_trouble_at = now() - interval '1 minute'"
        connection.execute(text(f"UPDATE accounts SET {told}, {change}"))
        add_call(connection, account, ago_seconds=succeeded_ago, outcome="ok")
        add_call(connection, account, ago_seconds=10, outcome="failed")
        (found,) = overview(connection)
    assert (found.last_trouble, found.last_trouble_at is None) == (shown, shown is None)


def settle(connection: Connection, account: str = "siparis") -> None:
    """Two sweeps of an account with lists: the first found something, the second nothing."""
    add_fetch(connection, account, add_poll(connection, account, new=5, sweep_through="2026-01-01"))
    add_fetch(connection, account, add_poll(connection, account))


def test_an_account_with_lists_is_settled_after_a_sweep_that_found_nothing_new(migrated_database: Engine) -> None:
    """Before its first sweep it is not, nor right after it; polls of ids alone say nothing about lists."""
    with transaction(migrated_database) as connection:
        assert unsettled(connection, PACES) == ["No account is enabled, so nobody is asked."]
        add_account(connection, "siparis", provider="iletimerkezi")
        add_account(connection, "kampanya")
        assert unsettled(connection, PACES) == ["siparis has not been swept yet."]
        add_fetch(connection, "siparis", add_poll(connection, "siparis"), params='{"order": "1"}')
        assert unsettled(connection, PACES) == ["siparis has not been swept yet."]
        add_fetch(connection, "siparis", add_poll(connection, "siparis", new=5, sweep_through="2026-01-01"))
        assert unsettled(connection, PACES) == ["siparis: the last sweep found 5 new and 0 advanced."]
        add_fetch(connection, "siparis", add_poll(connection, "siparis"))
        assert unsettled(connection, PACES) == []


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({"state": "running", "open_fetches": 2}, ["siparis has 1 open poll."]),
        ({"state": "complete_with_errors", "dead": 1}, ["siparis: the last sweep ended with errors."]),
        ({"advanced": 1}, ["siparis: the last sweep found 0 new and 1 advanced."]),
        ({"state": "cancelled", "new": 1}, []),
    ],
)
def test_a_later_sweep_decides(migrated_database: Engine, change: dict[str, Any], reasons: list[str]) -> None:
    """One that runs, failed or found something; a cancelled one decides nothing."""
    with transaction(migrated_database) as connection:
        add_account(connection, "siparis", provider="iletimerkezi")
        settle(connection)
        add_fetch(connection, "siparis", add_poll(connection, "siparis", **change))
        assert unsettled(connection, PACES) == reasons


def test_closed_days_must_have_been_swept_without_errors(migrated_database: Engine) -> None:
    """A later look at today alone does not make up for them."""
    with transaction(migrated_database) as connection:
        add_account(connection, "siparis", provider="iletimerkezi")
        broken = {"state": "complete_with_errors", "dead": 1, "sweep_through": "2026-01-01"}
        add_fetch(connection, "siparis", add_poll(connection, "siparis", **broken))
        add_fetch(connection, "siparis", add_poll(connection, "siparis"))
        assert unsettled(connection, PACES) == ["siparis: the last sweep of closed days ended with errors."]


@pytest.mark.parametrize(
    ("statement", "reasons"),
    [
        ("UPDATE tracked_ids SET next_check_at = now() + interval '4 seconds'", [DUE]),
        ("UPDATE accounts SET poll = '{\"every_seconds\": 7200}'", [DUE]),
        ("UPDATE tracked_ids SET fetch_id = 1", ["kampanya has 1 id that a fetch holds."]),
        ("UPDATE polls SET planned_at = NULL, state = 'running', finished_at = NULL",
         ["kampanya has 1 open poll (1 not planned yet)."]),
        ("UPDATE accounts SET paused_until = now() + interval '1 hour', pause_reason = 'key refused'",
         ["kampanya is paused: key refused."]),
        ("UPDATE accounts SET breaker_state = 'open'", ["kampanya is breaker open."]),
        ("UPDATE tracked_ids SET next_check_at = NULL, closed_at = now(), close_reason = 'final'", []),
    ],
)  # fmt: skip
def test_what_is_due_or_open_or_stopped_keeps_the_system_unsettled(
    migrated_database: Engine, statement: str, reasons: list[str]
) -> None:
    """An id that is due only after the account's interval does not; an account that is switched off never does."""
    with transaction(migrated_database) as connection:
        add_account(connection, "kampanya")
        add_poll(connection, "kampanya")
        add_id(connection, "kampanya", due_in_seconds=3600)
        add_account(connection, "eski")
        connection.execute(text("UPDATE accounts SET enabled = false WHERE id = 'eski'"))
        add_poll(connection, "eski", state="running", open_fetches=1)
        add_id(connection, "eski", due_in_seconds=-60)
        assert unsettled(connection, PACES) == []
        connection.execute(
            text(f"{statement} WHERE {'id' if ' accounts ' in statement else 'account_id'} = 'kampanya'")
        )
        assert unsettled(connection, PACES) == reasons
