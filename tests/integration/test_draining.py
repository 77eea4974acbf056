"""One message drains an account: the transaction that stores a response takes the next fetch."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from driving import make_runtime, scalar, sent_by
from ledger_acts import add_account, add_ids, expire_lease, fetches_of, plan, row, take
from sqlalchemy import Engine, event, text
from tiny_provider import Reply, Request, TinyProvider, vairo_reply

from ulak.core import clock, task_names
from ulak.models.ledger import ending as ledger
from ulak.models.ledger import taking
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps import draining, upkeep
from ulak.tasks.steps.draining import drain

MANY = 6


@pytest.fixture
def runtime(migrated_database: Engine) -> Iterator[Runtime]:
    """A runtime whose credentials are always found."""
    made = make_runtime(migrated_database, resolve=lambda _: "secret")
    yield made
    made.door.close()


@pytest.fixture
def commits(migrated_database: Engine) -> Iterator[list[str]]:
    """The transactions that write, as they are committed."""
    found: list[str] = []

    def note(connection: Any) -> None:
        is_written = connection.connection.dbapi_connection.execute("SELECT pg_current_xact_id_if_assigned()")
        if is_written.fetchone()[0] is not None:
            found.append("written")

    event.listen(migrated_database, "commit", note)
    yield found
    event.remove(migrated_database, "commit", note)


@pytest.fixture
def statements(migrated_database: Engine) -> Iterator[list[str]]:
    """The statements sent to PostgreSQL, without commits."""
    found: list[str] = []

    def note(*given: Any) -> None:
        found.append(given[2])

    event.listen(migrated_database, "before_cursor_execute", note)
    yield found
    event.remove(migrated_database, "before_cursor_execute", note)


@pytest.fixture
def tiny() -> Iterator[TinyProvider]:
    """A provider that reports every number as delivered."""
    with TinyProvider(lambda request: vairo_reply(request, "DELIVERED")) as running:
        yield running


def account_of(runtime: Runtime, tiny: TinyProvider, **limit: Any) -> tuple[str, list[int]]:
    """An account with some ready fetches."""
    account_id = add_account(runtime.engine, base_url=tiny.address("a"), options={"deadline_seconds": 20.0}, **limit)
    add_ids(runtime.engine, account_id, [f"s{n}:+9053212345{n:02}" for n in range(MANY)])
    return account_id, plan(runtime, account_id)


def test_one_message_makes_every_call_with_one_transaction_each(
    runtime: Runtime, tiny: TinyProvider, commits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the take that the message has led to; nothing is left to be published."""
    monkeypatch.setattr(draining, "DRAIN_SECONDS", 60.0)
    account_id, ids = account_of(runtime, tiny, concurrency=1)
    commits.clear()
    assert sent_by(drain(runtime, ids[0])) == []
    assert len(commits) == MANY + 1
    assert (len(tiny.requests("a")), len(fetches_of(runtime.engine, account_id, "done"))) == (MANY, MANY)
    assert row(runtime.engine, "polls", row(runtime.engine, "fetches", ids[0])["poll_id"])["state"] == "complete"


def test_a_call_of_a_drain_takes_seven_statements(
    runtime: Runtime, tiny: TinyProvider, statements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the end of one call to the next request."""
    monkeypatch.setattr(draining, "DRAIN_SECONDS", 60.0)
    _, ids = account_of(runtime, tiny, concurrency=1)
    steps = drain(runtime, ids[0])
    for _ in range(MANY // 2):
        next(steps)
    statements.clear()
    next(steps)
    next(steps)
    assert len(statements) == 7, statements
    steps.close()


@pytest.mark.parametrize("reason", ["the time is over", "the process stops"])
def test_a_drain_hands_over_by_a_message_at_the_next_boundary(
    runtime: Runtime, tiny: TinyProvider, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """What it holds is finished; the message names the best fetch of those that are left."""
    if reason == "the time is over":
        monkeypatch.setattr(draining, "DRAIN_SECONDS", 0.0)
    else:
        runtime.stopping.set()
    account_id, ids = account_of(runtime, tiny, concurrency=1)
    [message] = sent_by(drain(runtime, ids[0]))
    assert (message.task, message.kwargs, message.countdown_seconds) == (
        task_names.FETCH_BATCH,
        {"fetch_id": ids[1]},
        0.0,
    )
    assert message.display.startswith(f"{account_id} send s1")
    assert fetches_of(runtime.engine, account_id, "sending") == []
    assert len(tiny.requests("a")) == 1


def test_a_response_is_stored_while_another_holds_the_account(runtime: Runtime, tiny: TinyProvider) -> None:
    """The end of a call never waits for the account; the next take does, in a transaction of its own."""
    account_id, ids = account_of(runtime, tiny, concurrency=1)
    steps = drain(runtime, ids[0])
    next(steps)
    worker = threading.Thread(target=lambda: list(steps))
    with runtime.engine.begin() as other:
        other.execute(text("SELECT FROM accounts WHERE id = :a FOR NO KEY UPDATE"), {"a": account_id})
        worker.start()
        end = time.monotonic() + 30
        while not fetches_of(runtime.engine, account_id, "done"):
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(0.3)
        assert len(fetches_of(runtime.engine, account_id, "done")) == 1
    worker.join(60)
    assert len(fetches_of(runtime.engine, account_id, "done")) > 1


def test_a_fetch_whose_worker_dies_before_its_request_comes_back(runtime: Runtime, tiny: TinyProvider) -> None:
    """It was taken with the commit of the response before; its lease runs out, and its call counts as made."""
    account_id, ids = account_of(runtime, tiny, concurrency=1)
    steps = drain(runtime, ids[0])
    for _ in range(2):
        next(steps)
    steps.close()
    assert fetches_of(runtime.engine, account_id, "done", "sending") == ids[:2]
    expire_lease(runtime.engine, ids[1])
    upkeep.reconcile(runtime)
    assert fetches_of(runtime.engine, account_id, "ready") == ids[1:]
    calls = "SELECT count(*) FROM calls WHERE account_id = :a"
    assert scalar(runtime.engine, calls, a=account_id) == 2
    list(drain(runtime, ids[1]))
    assert fetches_of(runtime.engine, account_id, "done") == ids


def test_an_error_ends_the_drain_and_the_account_goes_on_by_a_message(runtime: Runtime) -> None:
    """At once where others are ready; the failed one waits for its retry."""

    def reply(_: Request) -> Reply:
        return Reply(b"", status=500)

    with TinyProvider(reply) as tiny:
        account_id, ids = account_of(runtime, tiny, concurrency=1, retry={"base_seconds": 60.0})
        [message] = sent_by(drain(runtime, ids[0]))
        assert (message.kwargs, message.countdown_seconds, len(tiny.requests("a"))) == ({"fetch_id": ids[1]}, 0.0, 1)
    assert row(runtime.engine, "fetches", ids[0])["state"] == "ready"
    assert row(runtime.engine, "accounts", account_id)["breaker_failures"] == 1


def test_further_threads_are_called_up_one_after_the_other(runtime: Runtime, tiny: TinyProvider) -> None:
    """The message leaves before the request, so that the next thread need not wait for its response."""
    _, ids = account_of(runtime, tiny, concurrency=MANY)
    first, second = drain(runtime, ids[0]), drain(runtime, ids[1])
    [message] = next(first).messages
    assert (message.kwargs, message.countdown_seconds, tiny.requests("a")) == ({"fetch_id": ids[1]}, 0.0, [])
    [message] = next(second).messages
    assert message.kwargs == {"fetch_id": ids[2]}
    first.close()
    second.close()


@pytest.mark.parametrize("tries", [1, len(taking.BUSY_WAITS)])
def test_a_finisher_waits_a_little_for_an_account_that_another_take_holds(
    runtime: Runtime, tiny: TinyProvider, monkeypatch: pytest.MonkeyPatch, tries: int
) -> None:
    """Let go within the time, the call is taken; the account is never waited for longer, since both might wait."""
    account_id, _ = account_of(runtime, tiny)
    waits: list[float] = []
    with runtime.engine.connect() as holder, runtime.engine.connect() as finisher:

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == tries:
                holder.rollback()

        monkeypatch.setattr(clock, "sleep", sleep)
        holder.execute(text("SELECT id FROM accounts WHERE id = :a FOR NO KEY UPDATE"), {"a": account_id})
        found = taking.take(finisher, runtime.holder, account_id=account_id, may_wait=False)
        assert isinstance(found, taking.Taken)
        finisher.rollback()
        tries, waits = 0, []
        holder.execute(text("SELECT id FROM accounts WHERE id = :a FOR NO KEY UPDATE"), {"a": account_id})
        assert isinstance(taking.take(finisher, None, account_id=account_id, may_wait=False), taking.Busy)
        assert waits == list(taking.BUSY_WAITS)


@pytest.mark.parametrize("is_free", [True, False])
def test_the_end_of_a_fetch_locks_its_account_and_waits_for_no_other_holder(
    runtime: Runtime, tiny: TinyProvider, is_free: bool
) -> None:
    """What the take then reads is locked by nobody else, or it is not given at all."""
    account_id, [fetch_id, *_] = account_of(runtime, tiny)
    taken = take(runtime.engine, fetch_id)
    assert isinstance(taken, taking.Taken)
    end = ledger.FetchEnd(fetch_id=fetch_id, state="done")
    unless_held = text("SELECT id FROM accounts WHERE id = :id FOR NO KEY UPDATE SKIP LOCKED")
    with runtime.engine.begin() as other, runtime.engine.begin() as finisher:
        if not is_free:
            other.execute(unless_held, {"id": account_id})
        finisher.execute(text("SET LOCAL lock_timeout = '20s'"))
        ended, locked = ledger.end_and_count(finisher, taken.poll_id, ledger.PollCounts(ended=1), end)
        assert (ended, locked and locked.id) == (None, account_id if is_free else None)
        if is_free:
            assert locked is not None
            assert locked.now is not None
            assert other.execute(unless_held, {"id": account_id}).all() == []
    assert row(runtime.engine, "fetches", fetch_id)["state"] == "done"


def test_the_account_that_the_end_of_a_fetch_gives_is_what_was_committed_while_it_waited_for_the_poll(
    runtime: Runtime, tiny: TinyProvider
) -> None:
    """A limit that was changed meanwhile holds for the next take."""
    account_id, [fetch_id, *_] = account_of(runtime, tiny, concurrency=1)
    taken = take(runtime.engine, fetch_id)
    assert isinstance(taken, taking.Taken)
    end, found = ledger.FetchEnd(fetch_id=fetch_id, state="done"), []

    def finish() -> None:
        with runtime.engine.begin() as finisher:
            found.append(ledger.end_and_count(finisher, taken.poll_id, ledger.PollCounts(ended=1), end))

    worker = threading.Thread(target=finish)
    with runtime.engine.begin() as other:
        other.execute(text("SELECT FROM polls WHERE id = :id FOR UPDATE"), {"id": taken.poll_id})
        worker.start()
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        end_of_wait = time.monotonic() + 60
        while scalar(runtime.engine, f"{sessions} AND wait_event_type = 'Lock'") == 0:
            assert time.monotonic() < end_of_wait
            time.sleep(0.05)
        other.execute(text("UPDATE accounts SET limit_concurrency = 7 WHERE id = :id"), {"id": account_id})
    worker.join(60)
    [(_, locked)] = found
    assert locked is not None
    assert locked.limit_concurrency == 7
