"""Dead letters: one for each cause however often it strikes, gone once what it kept from us was read."""

from datetime import date, timedelta
from typing import Any

import pytest
from driving import Driver, make_runtime, miscounted_polls
from ledger_acts import Held, add_account, add_ids, execute, fetches_of, plan, row, vairo_body
from sqlalchemy import Engine, RowMapping
from test_planning import list_body
from tiny_provider import Reply, Request, TinyProvider

from ulak.core import clock
from ulak.models.ledger.deadletters import list_dead
from ulak.providers.errors import RequestIsWrong, TryAgainSoon
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.ondemand import open_on_demand
from ulak.tasks.steps.planning import plan_poll
from ulak.tasks.steps.retrying import retry_dead

WRONG_PATH = RequestIsWrong("The provider does not know this method.", code="404")
LISTS: dict[str, Any] = {"provider": "iletimerkezi", "options": {"details": False}, "poll": {"lookback_days": 2}}


@pytest.fixture
def runtime(shared_database: Engine) -> Runtime:
    """A runtime whose credentials are always found."""
    return make_runtime(shared_database, resolve=lambda _: "secret")


def dead(engine: Engine, account_id: str) -> list[RowMapping]:
    """The account's dead letters."""
    with engine.connect() as connection:
        return list(list_dead(connection, account=account_id))


def counts(engine: Engine, account_id: str) -> list[tuple[int, int]]:
    """(times, unread subjects) of each dead letter, the oldest first."""
    return [(letter["times"], letter["subjects"]) for letter in reversed(dead(engine, account_id))]


def days_of(engine: Engine, fetch_id: int) -> list[int]:
    """How many days ago the unread days are."""
    today = clock.now().date()
    return sorted((today - date.fromisoformat(day)).days for day in row(engine, "fetches", fetch_id)["subjects"])


def sweep(runtime: Runtime, account_id: str) -> list[int]:
    """Plan the lists anew, as after their interval."""
    due = "UPDATE accounts SET planned_at = NULL, closed_swept_at = NULL WHERE id = :a"
    execute(runtime.engine, due, a=account_id)
    return plan(runtime, account_id)


def ask_days(runtime: Runtime, account_id: str, first: int, last: int) -> int:
    """Page one of an on-demand poll over these days ago."""
    today = clock.now().date()
    window = (today - timedelta(days=first), today - timedelta(days=last))
    plan_poll(runtime, account_id, open_on_demand(runtime, account_id, trigger="api", window=window))
    [fetch_id] = fetches_of(runtime.engine, account_id, "ready")
    return fetch_id


def due(runtime: Runtime, account_id: str) -> list[int]:
    """Plan all ids anew, as after their rest."""
    execute(runtime.engine, "UPDATE tracked_ids SET next_check_at = now() WHERE account_id = :a"
            " AND closed_at IS NULL AND fetch_id IS NULL", a=account_id)  # fmt: skip
    return plan(runtime, account_id)


def test_one_fault_of_the_lists_is_one_dead_letter_however_many_sweeps_it_strikes(runtime: Runtime) -> None:
    """Today and the closed days are one stretch; a second fault is a second dead letter."""
    engine = runtime.engine
    account_id = add_account(engine, **LISTS)
    first_failed_at = None
    for _ in range(5):
        for fetch_id in sweep(runtime, account_id):
            Held(runtime, fetch_id).answer(WRONG_PATH)
            first_failed_at = first_failed_at or row(engine, "fetches", fetch_id)["first_failed_at"]
    assert counts(engine, account_id) == [(10, 3)]
    [letter] = dead(engine, account_id)
    assert letter["first_failed_at"] == first_failed_at
    for fetch_id in sweep(runtime, account_id):
        Held(runtime, fetch_id).answer(RequestIsWrong("The provider refuses the date range.", code="458"))
    assert counts(engine, account_id) == [(10, 3), (2, 3)]
    assert miscounted_polls(engine, account_id) == []


def test_a_sweep_that_reads_its_days_whole_takes_them_off(runtime: Runtime) -> None:
    """Day by day, whichever poll reads them; with the last of them the dead letter goes."""
    engine = runtime.engine
    account_id = add_account(engine, **LISTS)
    for fetch_id in sweep(runtime, account_id):
        Held(runtime, fetch_id).answer(WRONG_PATH)
    [letter] = dead(engine, account_id)
    today, closed = sweep(runtime, account_id)
    Held(runtime, today).answer(list_body([], 0))
    assert days_of(engine, letter["id"]) == [1, 2]
    Held(runtime, closed).answer(list_body([1, 1], 2))
    assert days_of(engine, letter["id"]) == [1, 2], "what is not read whole stays"
    [again] = fetches_of(engine, account_id, "ready")
    Held(runtime, again).answer(list_body([1, 2], 2))
    assert dead(engine, account_id) == []
    gone = row(engine, "fetches", letter["id"])
    assert (gone["state"], gone["last_error"].startswith("Cleared by a later success; before: ")) == ("cancelled", True)


def test_days_that_lie_apart_are_dead_letters_of_their_own(runtime: Runtime) -> None:
    """They are asked again apart; a window between them makes them one."""
    engine = runtime.engine
    account_id = add_account(engine, **LISTS)
    for first, last in ((30, 28), (20, 18)):
        Held(runtime, ask_days(runtime, account_id, first, last)).answer(WRONG_PATH)
    assert counts(engine, account_id) == [(1, 3), (1, 3)]
    Held(runtime, ask_days(runtime, account_id, 27, 21)).answer(WRONG_PATH)
    assert counts(engine, account_id) == [(3, 13)]


def test_one_fault_of_the_ids_is_one_dead_letter_and_each_id_that_is_read_leaves_it(runtime: Runtime) -> None:
    """However often, in whatever batches; another account's letters stay."""
    engine = runtime.engine
    account_id, other = add_account(engine), add_account(engine)
    for account in (account_id, other):
        add_ids(engine, account, [f"s{n}:+9053212345{n:02}" for n in range(3)])
        for _ in range(4):
            for fetch_id in due(runtime, account):
                Held(runtime, fetch_id).answer(WRONG_PATH)
    assert (counts(engine, account_id), counts(engine, other)) == ([(12, 3)], [(12, 3)])
    left = []
    for key, fetch_id in enumerate(due(runtime, account_id)):
        held = Held(runtime, fetch_id)
        held.answer(vairo_body(next(iter(held.prepared.tracked)).value, "WAITING", key=key))
        left.append(counts(engine, account_id))
    assert left == [[(12, 2)], [(12, 1)], []]
    assert counts(engine, other) == [(12, 3)]


def test_an_answer_to_an_older_call_takes_nothing_off(runtime: Runtime) -> None:
    """It says nothing of what was tried and failed later."""
    engine = runtime.engine
    account_id = add_account(engine)
    add_ids(engine, account_id, ["s2:+905321234502"])
    [other] = plan(runtime, account_id)
    Held(runtime, other).answer(WRONG_PATH)
    add_ids(engine, account_id, ["s1:+905321234501"])
    [fetch_id] = plan(runtime, account_id)
    early = Held(runtime, fetch_id)
    plan_poll(runtime, account_id, open_on_demand(runtime, account_id, trigger="api"))
    for late in fetches_of(engine, account_id, "ready"):
        Held(runtime, late).answer(WRONG_PATH)
    early.answer(vairo_body("s1:+905321234501", "WAITING"))
    assert counts(engine, account_id) == [(3, 2)]


def test_retrying_a_dead_letter_asks_for_all_that_it_leaves_unread(runtime: Runtime) -> None:
    """By its own id or that of a fetch that it counts: the days in one stretch, or each id that is still open."""
    engine = runtime.engine
    lists = add_account(engine, **LISTS)
    noted, *_ = sweep(runtime, lists)
    for fetch_id in fetches_of(engine, lists, "ready"):
        Held(runtime, fetch_id).answer(WRONG_PATH)
    retried = retry_dead(runtime, noted, trigger="cli")
    assert retried is not None
    poll = row(engine, "polls", retried.poll_id)
    today = clock.now().date()
    assert (poll["window_from"], poll["window_to"]) == (today - timedelta(days=2), today)
    assert (dead(engine, lists), retry_dead(runtime, noted, trigger="cli")) == ([], None)

    account_id = add_account(engine)
    ids = add_ids(engine, account_id, [f"s{n}:+9053212345{n:02}" for n in range(3)])
    for fetch_id in due(runtime, account_id):
        Held(runtime, fetch_id).answer(WRONG_PATH)
    close = "UPDATE tracked_ids SET closed_at = now(), close_reason = 'final', next_check_at = NULL WHERE id = :id"
    execute(engine, close, id=ids[0])
    [letter] = dead(engine, account_id)
    retry_dead(runtime, letter["id"], trigger="cli")
    assert [row(engine, "tracked_ids", each)["fetch_id"] is not None for each in ids] == [False, True, True]
    assert dead(engine, account_id) == []


def test_a_dead_letter_of_the_previous_version_is_counted_and_cleared(runtime: Runtime) -> None:
    """It has no subjects of its own; its window tells them."""
    engine = runtime.engine
    account_id = add_account(engine, **LISTS)
    forget = "UPDATE fetches SET subjects = NULL, first_failed_at = NULL WHERE account_id = :a"
    for fetch_id in sweep(runtime, account_id):
        Held(runtime, fetch_id).answer(WRONG_PATH)
        execute(engine, forget, a=account_id)
    assert [letter["times"] for letter in dead(engine, account_id)] == [2]
    for fetch_id in sweep(runtime, account_id):
        Held(runtime, fetch_id).answer(list_body([], 0))
    assert dead(engine, account_id) == []


def test_what_killed_its_workers_or_could_not_be_asked_is_counted_too(runtime: Runtime) -> None:
    """Every way into death counts by cause."""
    engine = runtime.engine
    account_id = add_account(engine, retry={"max_attempts": 1})
    add_ids(engine, account_id, ["s1:+905321234501"])
    for _ in range(3):
        for fetch_id in due(runtime, account_id):
            Held(runtime, fetch_id).answer(TryAgainSoon("The connection broke."))
        execute(
            engine, "UPDATE accounts SET breaker_state = 'closed', breaker_failures = 0 WHERE id = :a", a=account_id
        )
    assert counts(engine, account_id) == [(3, 1)]


@pytest.mark.timeout(100)
def test_a_wrong_path_is_one_dead_letter_and_mends_itself(migrated_database: Engine) -> None:
    """Over real HTTP, swept every fraction of a second: one line, counted; once the path is right it goes."""
    runtime = make_runtime(migrated_database, resolve=lambda _: "secret")
    engine = runtime.engine
    is_wrong = True

    def reply(_: Request) -> Reply:
        body = b'{"response": {"status": {"code": 404, "message": "?"}}}'
        return Reply(body, status=404) if is_wrong else Reply(list_body([], 0))

    with TinyProvider(reply) as tiny:
        account_id = add_account(engine, provider="iletimerkezi", base_url=tiny.address("a"),
                                 options={"details": False, "deadline_seconds": 20.0},
                                 poll={"every_seconds": 0.2, "lookback_days": 2})  # fmt: skip
        with Driver(runtime).running() as driver:
            assert driver.until(lambda: sum(times for times, _ in counts(engine, account_id)) >= 8, seconds=60)
            assert len(counts(engine, account_id)) == 1
            is_wrong = False
            assert driver.until(lambda: dead(engine, account_id) == [], seconds=40)
