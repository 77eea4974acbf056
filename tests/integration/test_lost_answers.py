"""A worker makes a call and writes nothing, perhaps since the answer ended it: the account learns of it."""

from datetime import date

import pytest
from driving import make_runtime
from ledger_acts import (
    Held,
    add_account,
    add_ids,
    add_poll,
    execute,
    expire_lease,
    fetch,
    plan,
    row,
    take,
    vairo_body,
)
from sqlalchemy import Engine, text

from ulak.models.ledger.recovery import COOLDOWN_SECONDS, MAX_CLAIMS, windows_cooling_down
from ulak.models.ledger.taking import Taken
from ulak.models.overview import overview
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps import upkeep

END_READY = "UPDATE fetches SET state = 'done', finished_at = now() WHERE account_id = :a AND state = 'ready'"
CLOSE_BREAKER = "UPDATE accounts SET breaker_state = 'closed', breaker_failures = 0 WHERE id = :a"


@pytest.fixture
def runtime(shared_database: Engine) -> Runtime:
    """A runtime whose credentials are always found."""
    return make_runtime(shared_database, resolve=lambda _: "secret")


def lose(runtime: Runtime, *fetch_ids: int) -> list[str]:
    """Workers take these fetches, ask, and end; the reconciler finds their leases. What it logs of their accounts."""
    for fetch_id in fetch_ids:
        assert isinstance(take(runtime.engine, fetch_id), Taken)
        # What was noticed before lies an hour behind the call, as `expire_lease` puts that into the past.
        execute(
            runtime.engine,
            "UPDATE accounts SET last_trouble_at = last_trouble_at - interval '2 hours' WHERE id ="
            " (SELECT account_id FROM fetches WHERE id = :id)",
            id=fetch_id,
        )
    for fetch_id in fetch_ids:
        expire_lease(runtime.engine, fetch_id)
    # Other tests' leases in this database may be over, too.
    accounts = {row(runtime.engine, "fetches", fetch_id)["account_id"] for fetch_id in fetch_ids}
    lines = upkeep.reconcile(runtime).lines
    return [event for _, event, fields in lines if fields.get("account") in accounts]


def test_a_response_that_ends_every_worker_is_the_accounts_trouble_and_opens_its_breaker(runtime: Runtime) -> None:
    """From the first time on; the fetch is dead after five."""
    engine, account_id = runtime.engine, add_account(runtime.engine, provider="iletimerkezi")
    _, [fetch_id] = add_poll(engine, account_id, [fetch(1)])
    seen, logged = [], []
    for _ in range(MAX_CLAIMS):
        logged += lose(runtime, fetch_id)
        account = row(engine, "accounts", account_id)
        seen.append((account["breaker_failures"], account["breaker_state"], row(engine, "fetches", fetch_id)["state"]))
        assert account["last_trouble"].startswith("LeaseExpired: a worker made a call and wrote no answer")
    assert seen == [(n, "closed", "ready") for n in range(1, MAX_CLAIMS)] + [(MAX_CLAIMS, "open", "dead")]
    assert logged == ["fetch.lost"] * MAX_CLAIMS + ["account.breaker_opened"]
    with engine.connect() as connection:
        [stands] = overview(connection, account_id)
    assert (stands.state, stands.reason, stands.dead_fetches) == ("breaker open", stands.last_trouble, 1)


def test_what_ends_with_one_worker_counts_once(runtime: Runtime) -> None:
    """A worker of many threads that is killed says one thing about the account, not one for each thread."""
    engine, account_id = runtime.engine, add_account(runtime.engine)
    _, fetch_ids = add_poll(engine, account_id, [fetch(n) for n in range(8)])
    assert lose(runtime, *fetch_ids) == ["fetch.lost"]
    account = row(engine, "accounts", account_id)
    assert (account["breaker_failures"], account["breaker_state"]) == (1, "closed")


def test_a_sweep_that_died_so_is_not_repeated_at_the_next_tick(runtime: Runtime) -> None:
    """Its window rests for half an hour, other days are swept, and the watermark waits."""
    engine, account_id = runtime.engine, add_account(runtime.engine, provider="iletimerkezi")
    today, *closed = plan(runtime, account_id)
    days = row(engine, "fetches", today)["params"]["window"]
    for _ in range(MAX_CLAIMS):
        lose(runtime, today)
        execute(engine, CLOSE_BREAKER, a=account_id)
    assert row(engine, "fetches", today)["state"] == "dead"
    with engine.connect() as connection:
        assert windows_cooling_down(connection, account_id) == [tuple(map(date.fromisoformat, days))]
    execute(engine, END_READY, a=account_id)
    assert planned(runtime, account_id) == [row(engine, "fetches", each)["params"]["window"] for each in closed]
    execute(
        engine,
        "UPDATE fetches SET finished_at = finished_at - make_interval(secs => :rest) WHERE id = :id",
        id=today,
        rest=COOLDOWN_SECONDS,
    )
    assert days in planned(runtime, account_id)


def planned(runtime: Runtime, account_id: str) -> list[list[str]]:
    """The windows that the next tick opens, all intervals being over."""
    over = "UPDATE accounts SET planned_at = NULL, closed_swept_at = NULL WHERE id = :a"
    execute(runtime.engine, END_READY, a=account_id)
    execute(runtime.engine, over, a=account_id)
    return [row(runtime.engine, "fetches", each)["params"]["window"] for each in plan(runtime, account_id)]


def test_an_answer_after_all_ends_the_count(runtime: Runtime) -> None:
    """The breaker counts in a row."""
    engine, account_id = runtime.engine, add_account(runtime.engine)
    add_ids(engine, account_id, ["s1:+905321234567"])
    [fetch_id] = plan(runtime, account_id)
    lose(runtime, fetch_id)
    assert row(engine, "accounts", account_id)["breaker_failures"] == 1
    Held(runtime, fetch_id).answer(vairo_body("s1:+905321234567", "DELIVERED"))
    assert row(engine, "accounts", account_id)["breaker_failures"] == 0


def test_an_account_that_is_locked_delays_only_its_own_leases(runtime: Runtime) -> None:
    """A worker frozen within a transaction must not keep the reconciler from all others; the next look heals it."""
    engine = runtime.engine
    accounts = [add_account(engine) for _ in range(2)]
    fetch_ids = [add_poll(engine, account_id, [fetch(1)])[1][0] for account_id in accounts]
    for fetch_id in fetch_ids:
        assert isinstance(take(engine, fetch_id), Taken)
        expire_lease(engine, fetch_id)
    with engine.begin() as holder:
        holder.execute(text("SELECT 1 FROM accounts WHERE id = :a FOR UPDATE"), {"a": accounts[0]})
        upkeep.reconcile(runtime)
        assert [row(engine, "fetches", each)["state"] for each in fetch_ids] == ["sending", "ready"]
    upkeep.reconcile(runtime)
    assert [row(engine, "fetches", each)["state"] for each in fetch_ids] == ["ready", "ready"]
