"""The ledger's promises about polls and ids: cancel, on demand, take over, close, reopen."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from driving import make_runtime, miscounted_polls
from ledger_acts import (
    Held,
    add_account,
    add_ids,
    add_poll,
    deliveries,
    execute,
    fetch,
    fetches_of,
    free_ids,
    give_back_expired,
    give_back_failed,
    give_back_unsent,
    held_fetch,
    plan,
    row,
    take,
    vairo_body,
)
from sqlalchemy import Engine

from ulak.core import clock
from ulak.models.ledger import ending as ledger
from ulak.models.ledger import opening
from ulak.providers.adapter import Answer, FetchSpec, Parsed
from ulak.providers.errors import TryAgainSoon
from ulak.tasks.effects import Effects
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.ondemand import open_on_demand
from ulak.tasks.steps.planning import plan_poll


@pytest.fixture
def runtime(shared_database: Engine) -> Runtime:
    """A runtime whose credentials are always found."""
    return make_runtime(shared_database, resolve=lambda _: "secret")


# ------------------------------------------------------------------------------------------ cancelling
def children_of(held: Held, *numbers: int) -> tuple[FetchSpec, ...]:
    """Further fetches of its ids, as an answer calls for them."""
    ids = tuple(held.prepared.tracked)
    return tuple(FetchSpec(kind="batch", params={"call": "more", "n": number}, ids=ids) for number in numbers)


def test_cancel_ends_ready_fetches_and_a_late_finisher_still_writes_its_reports(runtime: Runtime) -> None:
    """The one in the air keeps its answer, adds no children, frees its ids, and the poll stays cancelled."""
    engine = runtime.engine
    account_id = add_account(engine)
    add_ids(engine, account_id, ["s1:+905321234501", "s2:+905321234502"])
    first, second = plan(runtime, account_id)
    held = Held(runtime, first)
    with engine.begin() as connection:
        assert opening.cancel(connection, held.taken.poll_id) == 1
        assert opening.cancel(connection, held.taken.poll_id) is None
    assert row(engine, "fetches", second)["state"] == "cancelled"
    parsed = held.prepared.adapter.parse(
        held.prepared.account, held.prepared.fetch, answer_of(vairo_body("s1:+905321234501", "DELIVERED"))
    )
    held.finish(replace(parsed, children=children_of(held, 1, 2)))
    poll = row(engine, "polls", held.taken.poll_id)
    assert (poll["state"], poll["open_fetches"], poll["reports"]) == ("cancelled", 0, 1)
    assert deliveries(engine, account_id) == [("1", "delivered")]
    assert fetches_of(engine, account_id, "ready", "sending") == []
    assert free_ids(engine, account_id) == 2


def answer_of(body: bytes) -> Answer:
    """A plain answer."""
    return Answer(status=200, body=body)


def test_cancel_between_the_children_and_the_count_leaves_nothing_ready_and_keeps_the_answer(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The finisher has inserted five children, more than the poll has open, when somebody cancels: they go with it."""
    engine = runtime.engine
    account_id, tracked_id, held = held_fetch(runtime)
    lock_poll = opening.lock_poll

    def cancel_first(connection: Any, poll_id: int) -> Any:
        monkeypatch.setattr(opening, "lock_poll", lock_poll)
        with engine.begin() as other:
            assert opening.cancel(other, poll_id) == 0
        return lock_poll(connection, poll_id)

    monkeypatch.setattr(opening, "lock_poll", cancel_first)
    parsed = held.prepared.adapter.parse(
        held.prepared.account, held.prepared.fetch, answer_of(vairo_body("s1:+905321234567", "WAITING"))
    )
    held.finish(replace(parsed, children=children_of(held, 1, 2, 3, 4, 5)))
    assert deliveries(engine, account_id) == [("1", "enroute")]
    assert fetches_of(engine, account_id, "ready", "sending") == []
    poll = row(engine, "polls", held.taken.poll_id)
    assert (poll["state"], poll["open_fetches"]) == ("cancelled", 0)
    assert row(engine, "tracked_ids", tracked_id)["fetch_id"] is None


@pytest.mark.parametrize("give_back", [give_back_failed, give_back_unsent, give_back_expired])
def test_a_fetch_that_comes_back_after_its_poll_was_cancelled_is_not_made_ready(
    runtime: Runtime, give_back: Callable[[Held], None]
) -> None:
    """A failure, an unsent call and an expired lease in a cancelled poll end the fetch and free its ids at once."""
    engine = runtime.engine
    account_id, tracked_id, held = held_fetch(runtime)
    with engine.begin() as connection:
        opening.cancel(connection, held.taken.poll_id)
    give_back(held)
    assert row(engine, "fetches", held.taken.fetch_id)["state"] == "cancelled"
    poll = row(engine, "polls", held.taken.poll_id)
    assert (poll["state"], poll["open_fetches"], poll["dead"]) == ("cancelled", 0, 0)
    freed = row(engine, "tracked_ids", tracked_id)
    assert (freed["fetch_id"], freed["next_check_at"] < clock.now()) == (None, True)
    assert len(plan(runtime, account_id)) == 1


def test_a_poll_that_was_cancelled_before_it_was_planned_asks_nothing(runtime: Runtime) -> None:
    """The planning message that comes after the cancel finds nothing to do."""
    account_id = add_account(runtime.engine)
    add_ids(runtime.engine, account_id, ["s1:+905321234567"])
    poll_id = open_on_demand(runtime, account_id, trigger="api")
    with runtime.engine.begin() as connection:
        opening.cancel(connection, poll_id)
    assert plan_poll(runtime, account_id, poll_id) == Effects()
    assert fetches_of(runtime.engine, account_id, "ready") == []


def test_dead_and_cancelled_fetches_free_their_ids(runtime: Runtime) -> None:
    """An id is never held by a fetch that has ended."""
    engine = runtime.engine
    account_id = add_account(engine, retry={"max_attempts": 1})
    add_ids(engine, account_id, ["s1:+905321234501", "s2:+905321234502"])
    first, second = plan(runtime, account_id)
    held = Held(runtime, first)
    held.answer(TryAgainSoon("The connection broke."))
    with engine.begin() as connection:
        opening.cancel(connection, held.taken.poll_id)
    states = [row(engine, "fetches", each)["state"] for each in (first, second)]
    assert states == ["dead", "cancelled"]
    assert free_ids(engine, account_id) == 2


# ------------------------------------------------------------------------------------------ demand
def test_an_on_demand_poll_takes_over_ready_fetches_and_makes_its_own_for_those_in_the_air(runtime: Runtime) -> None:
    """Nothing that waits is asked twice; what was asked before the demand is asked again for it."""
    engine = runtime.engine
    account_id = add_account(engine)
    add_ids(engine, account_id, ["s1:+905321234501", "s2:+905321234502"])
    first, second = plan(runtime, account_id)
    scheduled = row(engine, "fetches", first)["poll_id"]
    held = Held(runtime, first)
    poll_id = open_on_demand(runtime, account_id, trigger="api")
    plan_poll(runtime, account_id, poll_id)
    assert plan_poll(runtime, account_id, poll_id) == Effects()
    mine = fetches_of(engine, account_id, "ready")
    assert (len(mine), second in mine, first in mine) == (2, True, False)
    assert [row(engine, "polls", each)["open_fetches"] for each in (scheduled, poll_id)] == [1, 2]
    held.answer(vairo_body("s1:+905321234501", "DELIVERED"))
    assert row(engine, "polls", scheduled)["state"] == "complete"
    for fetch_id in mine:
        each = Held(runtime, fetch_id)
        send, number = each.taken.params["send"], each.taken.params["number"]
        each.answer(vairo_body(f"{send}:{number}", "DELIVERED", key=int(send[1:])))
    assert row(engine, "polls", poll_id)["state"] == "complete"
    assert miscounted_polls(engine, account_id) == []


def test_a_poll_whose_planning_message_comes_twice_asks_once(runtime: Runtime) -> None:
    """Also when its fetches are in the air by then, where nothing holds a second page of the same window back."""
    engine = runtime.engine
    account_id = add_account(engine, provider="iletimerkezi")
    day = clock.now().date() - timedelta(days=1)
    poll_id = open_on_demand(runtime, account_id, trigger="api", window=(day, day))
    plan_poll(runtime, account_id, poll_id)
    [fetch_id] = fetches_of(engine, account_id, "ready")
    take(engine, fetch_id)
    assert plan_poll(runtime, account_id, poll_id) == Effects()
    assert (fetches_of(engine, account_id, "ready"), row(engine, "polls", poll_id)["open_fetches"]) == ([], 1)


def test_a_page_that_continues_a_chain_is_not_taken_over(runtime: Runtime) -> None:
    """Its pages before stay with their poll, and without them its rows would get wrong keys."""
    engine = runtime.engine
    account_id = add_account(engine)
    [tracked_id] = add_ids(engine, account_id, ["s1:+905321234567"])
    poll_id, [first] = add_poll(engine, account_id, [fetch(1, chain="c", ids=[tracked_id])])
    take(engine, first)
    with engine.begin() as connection:
        child = fetch(2, chain="c", ids=[tracked_id])
        opening.insert_fetches(connection, poll_id, account_id, [child])
        ledger.end_fetch(connection, ledger.FetchEnd(fetch_id=first, state="done", seen=("a",)))
        ledger.count_poll(connection, poll_id, ledger.PollCounts(ended=1, children=1))
    with engine.begin() as connection:
        new, _ = opening.open_poll(connection, opening.NewPoll(account_id=account_id, trigger="api"))
        assert new is not None
        taken = opening.take_over(connection, new, account_id, hashes=[], ids=[tracked_id], priority=10)
        opening.close_plan(connection, new, taken)
    assert (taken, row(engine, "polls", poll_id)["open_fetches"]) == (0, 1)


def test_an_empty_on_demand_plan_is_complete_at_once(runtime: Runtime) -> None:
    """Nothing to ask: the poll ends in the transaction that plans it."""
    account_id = add_account(runtime.engine)
    poll_id = open_on_demand(runtime, account_id, trigger="api", key="k")
    assert open_on_demand(runtime, account_id, trigger="api", key="k") == poll_id
    plan_poll(runtime, account_id, poll_id)
    assert row(runtime.engine, "polls", poll_id)["state"] == "complete"


def test_a_closed_id_that_two_polls_ask_for_is_asked_once_for_both(runtime: Runtime) -> None:
    """A fetch that holds no id is known by what it asks: the second poll takes it over instead of ending empty."""
    engine = runtime.engine
    account_id = add_account(engine)
    [tracked_id] = add_ids(engine, account_id, ["s1:+905321234567"])
    execute(engine, "UPDATE tracked_ids SET closed_at = now(), close_reason = 'final', next_check_at = NULL"
            " WHERE id = :id", id=tracked_id)  # fmt: skip
    ids = [{"kind": "number", "value": "s1:+905321234567"}]
    polls = [open_on_demand(runtime, account_id, trigger="api", ids=ids) for _ in range(2)]
    for poll_id in polls:
        plan_poll(runtime, account_id, poll_id)
    assert len(fetches_of(engine, account_id, "ready")) == 1
    assert row(engine, "polls", polls[1])["open_fetches"] == 1


# ------------------------------------------------------------------------------------------ closing
def test_an_answer_asked_before_the_last_change_does_not_close_an_id(runtime: Runtime) -> None:
    """A list that was asked later has shown a change: the older answer closes nothing, the id is due again."""
    engine = runtime.engine
    account_id, tracked_id, held = held_fetch(runtime)
    later = held.taken.asked_at + timedelta(seconds=1)
    with engine.begin() as connection:
        changed: list[Mapping[str, Any]] = [{"id_kind": "number", "value": "s1:+905321234567", "expected": None}]
        ledger.discover(connection, account_id, later, [], changed)
        ledger.discover(connection, account_id, later - timedelta(minutes=1), [], changed)
    held.answer(vairo_body("s1:+905321234567", "DELIVERED"))
    still = row(engine, "tracked_ids", tracked_id)
    assert (still["closed_at"], still["fetch_id"], still["changed_as_of"]) == (None, None, later)
    execute(engine, "UPDATE accounts SET last_asked_at = :at WHERE id = :a", at=later, a=account_id)
    [fetch_id] = plan(runtime, account_id)
    Held(runtime, fetch_id).answer(vairo_body("s1:+905321234567", "DELIVERED"))
    closed = row(engine, "tracked_ids", tracked_id)
    assert (closed["close_reason"], closed["next_check_at"]) == ("final", None)
    with engine.begin() as connection:
        ledger.discover(connection, account_id, later + timedelta(hours=1), [], changed)
    reopened = row(engine, "tracked_ids", tracked_id)
    assert (reopened["closed_at"], reopened["close_reason"]) == (None, None)
    assert len(plan(runtime, account_id)) == 1


def test_an_answer_asked_before_the_last_change_does_not_put_an_id_off(runtime: Runtime) -> None:
    """The change made it due; what an older answer would have it wait for does not hold any more."""
    engine = runtime.engine
    account_id, tracked_id, held = held_fetch(runtime)
    changed: list[Mapping[str, Any]] = [{"id_kind": "number", "value": "s1:+905321234567", "expected": 7}]
    wait = "UPDATE tracked_ids SET next_check_at = now() + interval '1 hour' WHERE id = :id"
    execute(engine, wait, id=tracked_id)
    with engine.begin() as connection:
        ledger.discover(connection, account_id, held.taken.asked_at + timedelta(seconds=1), [], changed)
    held.answer(vairo_body("s1:+905321234567", "WAITING"))
    after = row(engine, "tracked_ids", tracked_id)
    assert (after["fetch_id"], after["expected"], after["next_check_at"] <= clock.now()) == (None, 7, True)
    assert len(plan(runtime, account_id)) == 1


def long_gone(runtime: Runtime) -> tuple[Engine, str, int, int]:
    """(engine, account, id, fetch): an id that every provider has forgotten, and the ready fetch that asks for it."""
    account_id = add_account(runtime.engine)
    long_ago = clock.now() - timedelta(days=3650)
    [tracked_id] = add_ids(runtime.engine, account_id, ["s1:+905321234567"], valid_until=long_ago, sent_at=long_ago)
    [fetch_id] = plan(runtime, account_id)
    return runtime.engine, account_id, tracked_id, fetch_id


def test_an_id_that_a_further_fetch_goes_on_asking_for_is_neither_counted_nor_forgotten(runtime: Runtime) -> None:
    """The page that ends the walk says what it means for the id, though the provider would be done with it by now."""
    engine, account_id, tracked_id, fetch_id = long_gone(runtime)
    held = Held(runtime, fetch_id)
    held.finish(Parsed(children=children_of(held, 1)))
    [child] = fetches_of(engine, account_id, "ready")
    kept = row(engine, "tracked_ids", tracked_id)
    assert (kept["fetch_id"], kept["checks"], kept["closed_at"]) == (child, 0, None)


def test_an_id_that_the_provider_has_forgotten_is_asked_for_no_more(runtime: Runtime) -> None:
    """The last check brought nothing final: the id is closed as forgotten, and no tick plans it again."""
    engine, account_id, tracked_id, fetch_id = long_gone(runtime)
    Held(runtime, fetch_id).answer(vairo_body("s1:+905321234567", "WAITING"))
    closed = row(engine, "tracked_ids", tracked_id)
    assert (closed["close_reason"], closed["next_check_at"], closed["fetch_id"]) == ("forgotten", None, None)
    assert (closed["closed_at"] is not None, plan(runtime, account_id)) == (True, [])


NOTHING = b'{"durum": false, "aciklama": "yok"}'


UNREADABLE = b'{"durum": true, "aciklama": {"id": 1}}'


@pytest.mark.parametrize(("days", "then"), [(2, None), (3650, "forgotten")], ids=["rare checks", "forgotten"])
@pytest.mark.parametrize("answer", [NOTHING, UNREADABLE], ids=["empty", "unreadable"])
def test_one_empty_answer_after_validity_neither_closes_an_id_nor_puts_it_off_for_a_day(
    runtime: Runtime, answer: bytes, days: int, then: str | None
) -> None:
    """An id that was not polled before its validity ended is polled twice within seconds.

    The second empty response counts; after an unreadable one the checks go on, with doubling pauses.
    """
    engine = runtime.engine
    account_id = add_account(engine)
    ended = clock.now() - timedelta(days=days, hours=5)
    sent = ended - timedelta(days=1)
    [tracked_id] = add_ids(engine, account_id, ["s1:+905321234567"], valid_until=ended, sent_at=sent)
    for place in range(3):
        if (before := row(engine, "tracked_ids", tracked_id))["closed_at"] is not None:
            break
        execute(engine, "UPDATE tracked_ids SET next_check_at = now() WHERE id = :id", id=tracked_id)
        [fetch_id] = plan(runtime, account_id)
        Held(runtime, fetch_id).answer(answer)
        after = row(engine, "tracked_ids", tracked_id)
        if place == 0:
            assert (before["last_checked_at"], after["closed_at"]) == (None, None)
            assert (after["next_check_at"] - after["last_checked_at"]).total_seconds() == pytest.approx(5)
        elif answer == UNREADABLE:
            assert (after["next_check_at"] - after["last_checked_at"]).total_seconds() == pytest.approx(5 * 2**place)
        elif then is None:
            assert (after["next_check_at"] - after["last_checked_at"]).total_seconds() > 3600
    assert row(engine, "tracked_ids", tracked_id)["close_reason"] == (then if answer == NOTHING else None)


def test_ours_is_written_only_by_a_check_after_validity_and_a_later_final_overrules_it(runtime: Runtime) -> None:
    """Asked before the end of validity: open. Asked after it: `unreported`. Then the provider says final: that wins."""
    engine = runtime.engine
    account_id, tracked_id, held = held_fetch(runtime)
    execute(engine, "UPDATE tracked_ids SET valid_until = clock_timestamp() WHERE id = :id", id=tracked_id)
    held.answer(vairo_body("s1:+905321234567", "WAITING"))
    assert deliveries(engine, account_id) == [("1", "enroute")]
    for word, status in (("WAITING", "unreported"), ("NO_SUCH_WORD", "unreported"), ("DELIVERED", "delivered")):
        execute(engine, "UPDATE tracked_ids SET next_check_at = now() WHERE id = :id", id=tracked_id)
        [fetch_id] = plan(runtime, account_id)
        Held(runtime, fetch_id).answer(vairo_body("s1:+905321234567", word))
        assert deliveries(engine, account_id) == [("1", status)]
