"""A tick of planning costs little, however many accounts have nothing due; and it misses none that has."""

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from driving import make_runtime
from ledger_acts import add_account, add_ids, add_poll, execute, fetch, fetches_of, row
from sqlalchemy import Engine, event

from ulak.core import clock
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.planning import plan_due

IDLE = 2000
COPY = """
    INSERT INTO accounts (id, provider, base_url, timezone, credentials, credentials_hash, limit_requests,
        limit_per_seconds, limit_concurrency, poll, options, retry, planned_at, closed_swept_at)
    SELECT id || '-' || n, provider, base_url, timezone, credentials, id || n, limit_requests, limit_per_seconds,
           limit_concurrency, poll, options, retry, now(), now()
    FROM accounts, generate_series(1, :many) n WHERE id = :a
"""
IDS = """
    INSERT INTO tracked_ids (account_id, id_kind, value, origin, sent_at, valid_until, next_check_at)
    SELECT a.id, 'number', 's' || n, 'sender', now(), now() + interval '1 day', now() + interval '1 hour'
    FROM accounts a, generate_series(1, 20) n WHERE a.id LIKE :some
"""


@pytest.fixture
def runtime(migrated_database: Engine) -> Runtime:
    """A runtime whose credentials are always found."""
    return make_runtime(migrated_database, resolve=lambda _: "secret", tick_seconds=0.01)


@pytest.fixture
def asked(migrated_database: Engine) -> Iterator[list[str]]:
    """Every statement that the engine is asked."""
    seen: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        seen.append(statement)

    event.listen(migrated_database, "before_cursor_execute", note)
    yield seen
    event.remove(migrated_database, "before_cursor_execute", note)


@pytest.mark.parametrize("provider", ["vairo", "iletimerkezi"])
def test_a_tick_over_two_thousand_idle_accounts_is_one_question(
    runtime: Runtime, asked: list[str], provider: str
) -> None:
    """One statement finds who has something due, one is the heartbeat; no account is locked, and it is quick."""
    engine = runtime.engine
    account_id = add_account(engine, provider=provider, poll={"every_seconds": 3600.0})
    execute(engine, COPY, a=account_id, many=IDLE)
    execute(engine, IDS, some=f"{account_id}-%")
    execute(engine, "UPDATE accounts SET planned_at = now() WHERE id = :a", a=account_id)
    execute(engine, "ANALYZE")
    asked.clear()
    began = time.perf_counter()
    assert list(plan_due(runtime, provider)) == []
    took = time.perf_counter() - began
    assert len(asked) <= 4
    # It takes some hundredths of a second; two thousand questions would take many times this, even on a busy machine.
    assert took < 3
    busy = f"{account_id}-77"
    add_ids(engine, busy, ["s1:+905321234567" if provider == "vairo" else "7"], kind="number")
    asked.clear()
    list(plan_due(runtime, provider))
    assert len(fetches_of(engine, busy, "ready")) == 1
    assert len(asked) < 40


def test_whatever_is_due_makes_its_account_a_candidate(runtime: Runtime) -> None:
    """An interval that has passed, a first sweep, a due id, a fetch that waits too long; nothing else does."""
    engine = runtime.engine
    now = clock.now()
    cases: dict[str, str] = {}
    given: dict[str, dict[str, Any]] = {
        "never swept": {"planned_at": None},
        "interval over": {"planned_at": now - timedelta(seconds=58)},
        "interval runs": {"planned_at": now - timedelta(seconds=30)},
        "own interval over": {"planned_at": now - timedelta(seconds=30), "every": 10.0},
        "own interval runs": {"planned_at": now - timedelta(seconds=300), "every": 3600.0},
        "paused": {"planned_at": None, "paused_until": now + timedelta(hours=1)},
        "disabled": {"planned_at": None, "enabled": False},
    }
    for name, values in given.items():
        poll = {"every_seconds": values.pop("every")} if "every" in values else {}
        account_id = add_account(engine, provider="iletimerkezi", poll=poll)
        for column, value in values.items():
            execute(engine, f"UPDATE accounts SET {column} = :v WHERE id = :a", v=value, a=account_id)
        cases[account_id] = name
    list(plan_due(runtime, "iletimerkezi"))
    planned = {name for account_id, name in cases.items() if fetches_of(engine, account_id, "ready")}
    assert planned == {"never swept", "interval over", "own interval over"}


def test_a_fetch_that_waits_too_long_is_raised_though_nothing_else_is_due(runtime: Runtime) -> None:
    """The account is looked at for it alone."""
    engine = runtime.engine
    account_id = add_account(engine)
    _, [waiting] = add_poll(engine, account_id, [fetch(1, priority=60)])
    list(plan_due(runtime, "vairo"))
    assert row(engine, "fetches", waiting)["priority"] == 60
    execute(engine, "UPDATE fetches SET available_at = now() - interval '2 minutes'")
    list(plan_due(runtime, "vairo"))
    assert row(engine, "fetches", waiting)["priority"] == 30
