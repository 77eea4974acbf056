"""The ledger's promises one by one, on a real PostgreSQL: take, finish, fence, return, heal, cancel, plan, dispatch."""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import msgspec
import pytest
from driving import make_runtime, miscounted_polls, perform, scalar
from ledger_acts import (
    Held,
    add_account,
    add_ids,
    add_poll,
    execute,
    expire_lease,
    fetch,
    row,
    take,
    vairo_body,
)
from sqlalchemy import Engine, text

from core import clock
from core.settings import CredentialError
from models.accounts import resume
from models.ledger import finishing as ledger
from models.ledger import limiter, planning
from models.ledger.dispatch import dispatch
from models.report import IdAnswer, TrackedKey
from providers.adapter import Answer, FetchSpec, Parsed
from providers.errors import PauseAccount, SlowDown, TryAgainAt, TryAgainSoon
from tasks.runtime import Runtime
from tasks.steps import fetching, upkeep
from tasks.steps.ondemand import open_on_demand
from tasks.steps.planning import _plan_scheduled, plan_due, plan_poll
from tasks.steps.trouble import return_unsent


@pytest.fixture
def runtime(shared_database: Engine) -> Runtime:
    """A runtime whose credentials are always found."""
    return make_runtime(shared_database, resolve=lambda _: "secret")


def plan(runtime: Runtime, account_id: str) -> list[int]:
    """Plan the account's tick as beat would; the ids of its ready fetches, the most valuable first."""
    # The ticks before lie behind us.
    past = "UPDATE polls SET scheduled_for = to_timestamp(id) WHERE account_id = :a AND trigger = 'schedule'"
    execute(runtime.engine, past, a=account_id)
    _plan_scheduled(runtime, account_id)
    return fetches_of(runtime.engine, account_id, "ready")


def fetches_of(engine: Engine, account_id: str, *states: str) -> list[int]:
    """Ids of the account's fetches in these states."""
    with engine.connect() as connection:
        query = "SELECT id FROM fetches WHERE account_id = :a AND state = ANY(:states) ORDER BY priority, id"
        return list(connection.execute(text(query), {"a": account_id, "states": list(states)}).scalars())


def held_fetch(runtime: Runtime, value: str = "s1:+905321234567", **account: Any) -> tuple[str, int, Held]:
    """An account with one due id, whose fetch a worker holds: (account, tracked id, held)."""
    account_id = add_account(runtime.engine, **account)
    [tracked_id] = add_ids(runtime.engine, account_id, [value])
    [fetch_id] = plan(runtime, account_id)
    return account_id, tracked_id, Held(runtime, fetch_id)


def deliveries(engine: Engine, account_id: str) -> list[tuple[str, str]]:
    """(key, status) of the account's rows."""
    with engine.connect() as connection:
        query = "SELECT provider_key, status FROM delivery_status WHERE account_id = :a ORDER BY provider_key"
        return [tuple(each) for each in connection.execute(text(query), {"a": account_id})]


# ------------------------------------------------------------------------------------------- taking


def test_a_repeated_hint_does_nothing(runtime: Runtime) -> None:
    """A fetch that is in the air, and one that is done, are not asked for again, and no second call row is written."""
    account_id, _, held = held_fetch(runtime)
    assert take(runtime.engine, held.taken.fetch_id) == limiter.Gone()
    assert fetching.make_fetch(runtime, held.taken.fetch_id) == []
    held.answer(vairo_body("s1:+905321234567", "DELIVERED"))
    assert fetching.make_fetch(runtime, held.taken.fetch_id) == []
    assert take(runtime.engine, held.taken.fetch_id) == limiter.Gone()
    with runtime.engine.connect() as connection:
        query = text("SELECT outcome FROM calls WHERE account_id = :a")
        assert connection.execute(query, {"a": account_id}).scalars().all() == ["ok"]


def test_of_many_that_take_the_same_fetch_one_wins(runtime: Runtime) -> None:
    """Eight threads, one ready fetch: one holds it, the others find it gone."""
    account_id = add_account(runtime.engine)
    _, [fetch_id] = add_poll(runtime.engine, account_id, [fetch(1)])
    results: list[object] = []
    gate = threading.Barrier(8)
    run_at_once([lambda: (gate.wait(), results.append(take(runtime.engine, fetch_id)))] * 8)
    assert sorted(type(result).__name__ for result in results) == ["Gone"] * 7 + ["Taken"]


def test_what_may_not_be_asked_now_stays_ready_and_uncounted(runtime: Runtime) -> None:
    """Paused, throttled, an open breaker, a used limit, a used concurrency, a retry that is due later: NotYet."""
    engine = runtime.engine
    cases = {
        "paused": "UPDATE accounts SET paused_until = now() + interval '1 minute' WHERE id = :a",
        "throttled": "UPDATE accounts SET not_before = now() + interval '1 minute' WHERE id = :a",
        "disabled": "UPDATE accounts SET enabled = false WHERE id = :a",
        "breaker open": "UPDATE accounts SET breaker_state = 'open', breaker_until = now() + interval '1 minute'"
        " WHERE id = :a",
        "waiting for its retry": "UPDATE fetches SET available_at = now() + interval '1 minute' WHERE account_id = :a",
        "limit used": "UPDATE accounts SET limit_requests = 1 WHERE id = :a",
        "concurrency used": "UPDATE accounts SET limit_concurrency = 1 WHERE id = :a",
    }
    found = {}
    for why, change in cases.items():
        account_id = add_account(engine)
        _, [first, second] = add_poll(engine, account_id, [fetch(1), fetch(2)])
        if why.endswith("used"):
            take(engine, first)
        execute(engine, change, a=account_id)
        found[why] = take(engine, second)
        assert {name: row(engine, "fetches", second)[name] for name in ("state", "claims", "attempts")} == {
            "state": "ready",
            "claims": 0,
            "attempts": 0,
        }
    assert {why: result.why for why, result in found.items() if isinstance(result, limiter.NotYet)} == {
        why: why for why in cases
    }


def test_a_call_that_was_never_sent_takes_no_slot_and_no_claim(runtime: Runtime) -> None:
    """Not a byte left: the call row is gone, the slot is free at once, and claims of dead workers stay counted."""
    engine = runtime.engine
    account_id = add_account(engine, requests=1, per_seconds=60)
    _, [fetch_id] = add_poll(engine, account_id, [fetch(1)])
    execute(engine, "UPDATE fetches SET claims = 3 WHERE id = :id", id=fetch_id)
    taken = take(engine, fetch_id)
    assert isinstance(taken, limiter.Taken)
    return_unsent(runtime, taken)
    after = row(engine, "fetches", fetch_id)
    assert (after["state"], after["claims"], after["attempts"]) == ("ready", 3, 0)
    assert isinstance(take(engine, fetch_id), limiter.Taken)


# ---------------------------------------------------------------------------------------- finishing


def test_a_late_finisher_is_fenced_and_writes_nothing(runtime: Runtime) -> None:
    """An expired lease comes back ready; who finishes under the old token changes no row of any table."""
    engine = runtime.engine
    account_id, tracked_id, held = held_fetch(runtime)
    expire_lease(engine, held.taken.fetch_id)
    upkeep.reconcile(runtime)
    assert row(engine, "fetches", held.taken.fetch_id)["state"] == "ready"
    before = [dict(row(engine, table, of)) for table, of in everything(held, account_id, tracked_id)]
    with pytest.raises(ledger.FencedError):
        held.answer(vairo_body("s1:+905321234567", "DELIVERED"))
    with pytest.raises(ledger.FencedError):
        held.answer(TryAgainSoon("The provider did not answer in time."))
    assert [dict(row(engine, table, of)) for table, of in everything(held, account_id, tracked_id)] == before
    assert deliveries(engine, account_id) == []
    again = Held(runtime, held.taken.fetch_id)
    with pytest.raises(ledger.FencedError):
        held.answer(vairo_body("s1:+905321234567", "DELIVERED"))
    again.answer(vairo_body("s1:+905321234567", "EXPIRED"))
    assert deliveries(engine, account_id) == [("1", "expired")]
    assert row(engine, "polls", held.taken.poll_id)["calls"] == 2


def everything(held: Held, account_id: str, tracked_id: int) -> list[tuple[str, object]]:
    """The rows that a finisher of this fetch could change."""
    return [
        ("fetches", held.taken.fetch_id),
        ("polls", held.taken.poll_id),
        ("calls", held.taken.permit.call_id),
        ("tracked_ids", tracked_id),
        ("accounts", account_id),
    ]


def test_a_fetch_that_five_workers_took_without_an_answer_is_dead_and_its_ids_rest(runtime: Runtime) -> None:
    """A body that kills workers does not loop for ever: its poll ends with errors, its ids are not planned at once."""
    engine = runtime.engine
    account_id, tracked_id, held = held_fetch(runtime)
    for _ in range(4):
        expire_lease(engine, held.taken.fetch_id)
        upkeep.reconcile(runtime)
        assert isinstance(take(engine, held.taken.fetch_id), limiter.Taken)
    expire_lease(engine, held.taken.fetch_id)
    upkeep.reconcile(runtime)
    dead = row(engine, "fetches", held.taken.fetch_id)
    poll = row(engine, "polls", held.taken.poll_id)
    assert (dead["state"], dead["last_error"].partition(":")[0]) == ("dead", "ClaimedTooOften")
    assert (poll["state"], poll["dead"], poll["open_fetches"], poll["calls"]) == ("complete_with_errors", 1, 0, 5)
    freed = row(engine, "tracked_ids", tracked_id)
    assert (freed["fetch_id"], freed["next_check_at"] > clock.now() + timedelta(minutes=20)) == (None, True)
    assert plan(runtime, account_id) == []


def test_whoever_reaches_zero_ends_the_poll_exactly_once(runtime: Runtime) -> None:
    """Twelve finishers at once: one of them ends the poll, and the counts are those of all."""
    engine = runtime.engine
    account_id = add_account(engine)
    values = [f"s{number}:+9053212345{number:02}" for number in range(12)]
    add_ids(engine, account_id, values)
    helds = [Held(runtime, fetch_id) for fetch_id in plan(runtime, account_id)]
    assert len(helds) == 12
    ends: list[str | None] = []
    gate = threading.Barrier(len(helds))
    count_poll = ledger.count_poll

    def finish_one(held: Held) -> None:
        gate.wait()
        with engine.begin() as connection:
            ledger.fence(connection, held.taken.fetch_id, held.taken.lease_token)
            ledger.end_fetch(connection, held.taken.fetch_id, state="done")
            ends.append(count_poll(connection, held.taken.poll_id, ledger.PollCounts(ended=1, calls=1, reports=2)))

    run_at_once([lambda held=held: finish_one(held) for held in helds])
    poll = row(engine, "polls", helds[0].taken.poll_id)
    assert sorted(ends, key=str) == [*[None] * 11, "complete"]
    assert [poll[name] for name in ("state", "open_fetches", "calls", "reports")] == ["complete", 0, 12, 24]


def test_what_postgresql_refuses_to_store_ends_as_our_bug_with_its_bytes_kept(runtime: Runtime) -> None:
    """A statement that fails rolls the whole answer back; the fetch is asked again, the bytes lie in quarantine."""
    account_id, _, held = held_fetch(runtime)
    wrong = Parsed(answers=(IdAnswer(key=TrackedKey(id_kind="number", value="s1:+905321234567"), found=True),),
                   children=(FetchSpec(kind="nonsense", params={"n": 1}),))  # fmt: skip
    held.finish(wrong)
    after = row(runtime.engine, "fetches", held.taken.fetch_id)
    assert (after["state"], after["attempts"], after["last_error"].partition(":")[0]) == ("ready", 1, "OurBug")
    kept = "UPDATE quarantine SET times = times WHERE account_id = :a"
    assert execute(runtime.engine, kept, a=account_id) == 1


def test_a_request_that_cannot_be_built_dies_instead_of_being_hinted_for_ever(runtime: Runtime) -> None:
    """A wrong id is found when its request is built: no call, a dead fetch, an ended poll, and the next may go."""
    account_id = add_account(runtime.engine)
    add_ids(runtime.engine, account_id, ["no such form"])
    [fetch_id] = plan(runtime, account_id)
    assert fetching.make_fetch(runtime, fetch_id) == []
    dead = row(runtime.engine, "fetches", fetch_id)
    assert (dead["state"], dead["claims"], dead["last_error"].partition(":")[0]) == ("dead", 0, "RequestIsWrong")
    assert row(runtime.engine, "polls", dead["poll_id"])["state"] == "complete_with_errors"
    assert plan(runtime, account_id) == []


# ------------------------------------------------------------------------------ trouble of the account


@pytest.mark.parametrize(
    ("error", "column"),
    [(PauseAccount("The key is refused."), "paused_until"), (SlowDown("Too many at once."), "not_before")],
)
def test_trouble_of_the_account_returns_the_fetch_uncounted_and_touches_no_other_account(
    runtime: Runtime, error: Any, column: str
) -> None:
    """A pause or a throttle rests this account alone; after a resume its fetch goes on without being touched."""
    engine = runtime.engine
    other = add_account(engine)
    other_before = dict(row(engine, "accounts", other))
    account_id, _, held = held_fetch(runtime)
    held.answer(error)
    after = row(engine, "fetches", held.taken.fetch_id)
    assert (after["state"], after["attempts"], after["claims"]) == ("ready", 0, 0)
    assert row(engine, "accounts", account_id)[column] > clock.now()
    assert dict(row(engine, "accounts", other)) == other_before
    assert isinstance(take(engine, held.taken.fetch_id), limiter.NotYet)
    with engine.begin() as connection:
        resume(connection, account_id)
    Held(runtime, held.taken.fetch_id).answer(vairo_body("s1:+905321234567", "DELIVERED"))
    assert deliveries(engine, account_id) == [("1", "delivered")]
    assert row(engine, "accounts", account_id)["throttles"] == 0


def test_the_breaker_opens_after_five_soon_errors_probes_once_and_closes_on_success(runtime: Runtime) -> None:
    """Failures in the air when it opens, and the one that opened it, are not counted against their fetches."""
    engine = runtime.engine
    account_id = add_account(engine, retry={"base_seconds": 0.001, "cap_seconds": 0.001})
    add_ids(engine, account_id, [f"s{number}:+9053212345{number:02}" for number in range(8)])
    helds = [Held(runtime, fetch_id) for fetch_id in plan(runtime, account_id)]
    for held in helds[:7]:
        held.answer(TryAgainSoon("The connection broke."))
    attempts = [row(engine, "fetches", held.taken.fetch_id)["attempts"] for held in helds[:7]]
    account = row(engine, "accounts", account_id)
    assert (attempts, account["breaker_state"], account["breaker_failures"]) == ([1, 1, 1, 1, 0, 0, 0], "open", 5)
    with engine.begin() as connection:
        assert dispatch(connection, account_id).hints == ()
    helds[7].answer(vairo_body("s7:+905321234507", "WAITING"))
    assert row(engine, "accounts", account_id)["breaker_state"] == "open"
    execute(engine, "UPDATE accounts SET breaker_until = now() - interval '1 second' WHERE id = :a", a=account_id)
    with engine.begin() as connection:
        hints = dispatch(connection, account_id).hints
    assert len(hints) == 1
    probe = Held(runtime, hints[0].fetch_id)
    others = [held.taken.fetch_id for held in helds[:7] if held.taken.fetch_id != hints[0].fetch_id]
    assert take(engine, others[0]) == limiter.NotYet(account_id=account_id, why="breaker open")
    probe.answer(TryAgainSoon("The connection broke."))
    account = row(engine, "accounts", account_id)
    assert (account["breaker_state"], account["breaker_trips"]) == ("open", 2)
    execute(engine, "UPDATE accounts SET breaker_until = now() - interval '1 second' WHERE id = :a", a=account_id)
    again = Held(runtime, probe.taken.fetch_id)
    again.answer(vairo_body(f"{next(iter(again.prepared.tracked)).value}", "WAITING"))
    account = row(engine, "accounts", account_id)
    assert (account["breaker_state"], account["breaker_failures"], account["breaker_trips"]) == ("closed", 0, 0)
    assert isinstance(take(engine, others[0]), limiter.Taken)


def test_an_id_waits_for_the_moment_that_the_provider_named_while_its_poll_ends(runtime: Runtime) -> None:
    """TryAgainAt is no failed attempt and keeps no poll open for days."""
    at = clock.now().replace(microsecond=0) + timedelta(days=2)
    _, tracked_id, held = held_fetch(runtime)
    held.answer(TryAgainAt("The order is scheduled.", at=at))
    assert row(runtime.engine, "polls", held.taken.poll_id)["state"] == "complete"
    freed = row(runtime.engine, "tracked_ids", tracked_id)
    assert (freed["fetch_id"], freed["next_check_at"]) == (None, at)


def test_credentials_that_cannot_be_found_pause_the_account_once_and_lose_nothing(shared_database: Engine) -> None:
    """Neither planning nor a hint nor an on-demand poll asks or counts anything; once they are there, all goes on."""
    missing = make_runtime(shared_database, resolve=_nothing_there)
    whole = make_runtime(shared_database, resolve=lambda _: "secret")
    account_id = add_account(shared_database)
    add_ids(shared_database, account_id, ["s1:+905321234567"])
    [fetch_id] = plan(whole, account_id)
    assert fetching.make_fetch(missing, fetch_id) == []
    paused = row(shared_database, "accounts", account_id)["paused_until"]
    assert paused > clock.now()
    poll_id = open_on_demand(missing, account_id, trigger="api")
    assert plan_poll(missing, account_id, poll_id) == []
    assert row(shared_database, "accounts", account_id)["paused_until"] == paused
    execute(shared_database, "UPDATE accounts SET paused_until = NULL WHERE id = :a", a=account_id)
    plan_poll(whole, account_id, poll_id)
    Held(whole, fetch_id).answer(vairo_body("s1:+905321234567", "DELIVERED"))
    assert row(shared_database, "polls", poll_id)["state"] == "complete"
    assert deliveries(shared_database, account_id) == [("1", "delivered")]


def _nothing_there(reference: str) -> str:
    raise CredentialError(f"{reference} is not set.")


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
        assert planning.cancel(connection, held.taken.poll_id) == 1
        assert planning.cancel(connection, held.taken.poll_id) is None
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


def free_ids(engine: Engine, account_id: str) -> int:
    """How many of the account's ids no fetch holds."""
    query = "SELECT count(*) FROM tracked_ids WHERE account_id = :a AND fetch_id IS NULL"
    return int(str(scalar(engine, query, a=account_id)))


def test_cancel_between_the_children_and_the_count_leaves_nothing_ready_and_keeps_the_answer(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The finisher has inserted five children, more than the poll has open, when somebody cancels: they go with it."""
    engine = runtime.engine
    account_id, tracked_id, held = held_fetch(runtime)
    lock_poll = planning.lock_poll

    def cancel_first(connection: Any, poll_id: int) -> Any:
        monkeypatch.setattr(planning, "lock_poll", lock_poll)
        with engine.begin() as other:
            assert planning.cancel(other, poll_id) == 0
        return lock_poll(connection, poll_id)

    monkeypatch.setattr(planning, "lock_poll", cancel_first)
    parsed = held.prepared.adapter.parse(
        held.prepared.account, held.prepared.fetch, answer_of(vairo_body("s1:+905321234567", "WAITING"))
    )
    held.finish(replace(parsed, children=children_of(held, 1, 2, 3, 4, 5)))
    assert deliveries(engine, account_id) == [("1", "enroute")]
    assert fetches_of(engine, account_id, "ready", "sending") == []
    poll = row(engine, "polls", held.taken.poll_id)
    assert (poll["state"], poll["open_fetches"]) == ("cancelled", 0)
    assert row(engine, "tracked_ids", tracked_id)["fetch_id"] is None


def _return(held: Held) -> None:
    held.answer(TryAgainSoon("The connection broke."))


def _return_unsent(held: Held) -> None:
    return_unsent(held.runtime, held.taken)


def _heal(held: Held) -> None:
    expire_lease(held.runtime.engine, held.taken.fetch_id)
    upkeep.reconcile(held.runtime)


@pytest.mark.parametrize("give_back", [_return, _return_unsent, _heal])
def test_a_fetch_that_comes_back_after_its_poll_was_cancelled_is_not_made_ready(
    runtime: Runtime, give_back: Callable[[Held], None]
) -> None:
    """A failure, an unsent call and an expired lease in a cancelled poll end the fetch and free its ids at once."""
    engine = runtime.engine
    account_id, tracked_id, held = held_fetch(runtime)
    with engine.begin() as connection:
        planning.cancel(connection, held.taken.poll_id)
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
        planning.cancel(connection, poll_id)
    assert plan_poll(runtime, account_id, poll_id) == []
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
        planning.cancel(connection, held.taken.poll_id)
    states = [row(engine, "fetches", each)["state"] for each in (first, second)]
    assert states == ["dead", "cancelled"]
    assert free_ids(engine, account_id) == 2


# --------------------------------------------------------------------------------------- on demand


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
    assert plan_poll(runtime, account_id, poll_id) == []
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
    assert miscounted_polls(engine) == []


def test_a_page_that_continues_a_chain_is_not_taken_over(runtime: Runtime) -> None:
    """Its pages before stay with their poll, and without them its rows would get wrong keys."""
    engine = runtime.engine
    account_id = add_account(engine)
    [tracked_id] = add_ids(engine, account_id, ["s1:+905321234567"])
    poll_id, [first] = add_poll(engine, account_id, [fetch(1, chain="c", ids=[tracked_id])])
    take(engine, first)
    with engine.begin() as connection:
        child = fetch(2, chain="c", ids=[tracked_id])
        planning.insert_fetches(connection, poll_id, account_id, [child])
        ledger.end_fetch(connection, first, state="done", seen=("a",))
        ledger.count_poll(connection, poll_id, ledger.PollCounts(ended=1, children=1))
    with engine.begin() as connection:
        new, _ = planning.open_poll(
            connection, planning.NewPoll(account_id=account_id, kind="on_demand", trigger="api")
        )
        assert new is not None
        taken = planning.take_over(connection, new, account_id, hashes=[], ids=[tracked_id], priority=10)
        planning.close_plan(connection, new, taken)
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


# ----------------------------------------------------------------------------------------- healing


def test_a_lost_hint_is_hinted_again(runtime: Runtime) -> None:
    """A hint that nobody took within its time is found by the reconciler, whose dispatch hints it again."""
    engine = runtime.engine
    account_id = add_account(engine)
    _, [fetch_id] = add_poll(engine, account_id, [fetch(1)])
    with engine.begin() as connection:
        assert [hint.fetch_id for hint in dispatch(connection, account_id).hints] == [fetch_id]
        assert dispatch(connection, account_id).hints == ()
    assert account_id not in [message.kwargs.get("account_id") for message in upkeep.reconcile(runtime)]
    execute(engine, "UPDATE fetches SET hinted_at = now() - interval '11 seconds' WHERE id = :id", id=fetch_id)
    [message] = [each for each in upkeep.reconcile(runtime) if each.kwargs.get("account_id") == account_id]
    assert [each.kwargs for each in perform(runtime, message)] == [{"fetch_id": fetch_id}]


def test_a_lost_planning_message_is_sent_again(runtime: Runtime) -> None:
    """A poll that stands unplanned for three seconds is planned by what the reconciler sends."""
    account_id = add_account(runtime.engine)
    add_ids(runtime.engine, account_id, ["s1:+905321234567"])
    poll_id = open_on_demand(runtime, account_id, trigger="api")
    execute(runtime.engine, "UPDATE polls SET started_at = now() - interval '4 seconds' WHERE id = :id", id=poll_id)
    [message] = [each for each in upkeep.reconcile(runtime) if each.kwargs.get("poll_id") == poll_id]
    perform(runtime, message)
    assert row(runtime.engine, "polls", poll_id)["open_fetches"] == 1


def test_a_superseded_fetch_ends_and_its_poll_vouches_for_no_day(runtime: Runtime) -> None:
    """Where an equal fetch stands ready in another poll, the one that comes back ends, and moves no watermark."""
    engine = runtime.engine
    account_id = add_account(engine, provider="iletimerkezi")
    window = {"window": ["2026-01-01", "2026-01-02"], "page": 1}
    pages = [planning.NewFetch(kind="page", params=window, label="p", priority=40)]
    day = clock.now().date()
    found = {}
    for name, give_back in (("returned", _return), ("unsent", _return_unsent), ("healed", _heal)):
        mine, [fetch_id] = add_poll(engine, account_id, pages, sweep_through=day)
        held = Held(runtime, fetch_id)
        other, [ready] = add_poll(engine, account_id, pages)
        give_back(held)
        poll = row(engine, "polls", mine)
        found[name] = (row(engine, "fetches", fetch_id)["state"], poll["state"], poll["sweep_through"])
        with engine.begin() as connection:
            planning.cancel(connection, other)
        execute(engine, "UPDATE accounts SET breaker_failures = 0 WHERE id = :a", a=account_id)
        assert row(engine, "fetches", ready)["state"] == "cancelled"
    assert found == dict.fromkeys(("returned", "unsent", "healed"), ("cancelled", "complete", None))


def test_no_prune_touches_what_the_limiter_counts(runtime: Runtime) -> None:
    """A limit of a month keeps its calls; others, and ended fetches with their polls, go after two weeks."""
    engine = runtime.engine
    kept = {}
    for name, seconds in (("short", 1.0), ("month", 30 * 86400.0)):
        account_id = add_account(engine, requests=1, per_seconds=seconds)
        add_ids(engine, account_id, ["s1:+905321234567"])
        [fetch_id] = plan(runtime, account_id)
        held = Held(runtime, fetch_id)
        held.answer(vairo_body("s1:+905321234567", "DELIVERED"))
        execute(engine, "UPDATE calls SET asked_at = asked_at - interval '20 days', answered_at = answered_at"
                " - interval '20 days', released_at = released_at - interval '20 days', gives_up_at = gives_up_at"
                " - interval '20 days' WHERE account_id = :a", a=account_id)  # fmt: skip
        execute(engine, "UPDATE polls SET finished_at = finished_at - interval '20 days' WHERE account_id = :a",
                a=account_id)  # fmt: skip
        kept[name] = account_id
    upkeep.prune(runtime)
    tables = ("calls", "fetches", "polls")
    counts = [f"SELECT count(*) FROM {table} WHERE account_id = :a" for table in tables]
    found = {name: [scalar(engine, query, a=each) for query in counts] for name, each in kept.items()}
    assert found == {"short": [0, 0, 0], "month": [1, 0, 0]}


# -------------------------------------------------------------------------- closing, reopening, ours


def test_an_answer_asked_before_the_last_change_does_not_close_an_id(runtime: Runtime) -> None:
    """A list that was asked later has shown a change: the older answer closes nothing, the id is due again."""
    engine = runtime.engine
    account_id, tracked_id, held = held_fetch(runtime)
    later = held.taken.asked_at + timedelta(seconds=1)
    with engine.begin() as connection:
        changed = [{"id_kind": "number", "value": "s1:+905321234567", "expected": None}]
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


# ------------------------------------------------------------------------------------------ sweeps


def list_body(orders: list[int], count: int) -> bytes:
    """A page of iletimerkezi's list of orders."""
    items = [{"id": order, "status": "114", "total": 1, "delivered": 1, "undelivered": 0, "waiting": 0,
              "submitAt": "2026-01-01 10:00:00", "sendAt": "2026-01-01 10:00:00"} for order in orders]  # fmt: skip
    said = {"status": {"code": "200", "message": "ok"}, "count": count, "orders": items}
    return msgspec.json.encode({"response": said})


def sweep_account(runtime: Runtime) -> tuple[str, int]:
    """An account whose first sweep is planned, its window of today read empty: (account, page one of closed days)."""
    account_id = add_account(runtime.engine, provider="iletimerkezi", options={"details": False})
    today, closed = plan(runtime, account_id)
    Held(runtime, today).answer(list_body([], 0))
    return account_id, closed


def test_the_watermark_moves_by_complete_polls_only(runtime: Runtime) -> None:
    """A window whose page shifted is walked again, at most three times; then the poll drifts and has swept nothing."""
    engine = runtime.engine
    yesterday = clock.now().date() - timedelta(days=1)
    ends = {}
    for name, answers in {
        "whole": [list_body([1, 2], 2)],
        "shifted once": [list_body([1, 1], 2), list_body([1, 2], 2)],
        "drifting": [list_body([1, 1], 2)] * 3,
        "without a count": [list_body([1, 2], 2).replace(b'"count":2,', b"")],
    }.items():
        account_id, fetch_id = sweep_account(runtime)
        poll_id = row(engine, "fetches", fetch_id)["poll_id"]
        rounds = []
        for body in answers:
            [ready] = fetches_of(engine, account_id, "ready")
            rounds.append(row(engine, "fetches", ready)["round"])
            Held(runtime, ready).answer(body)
        execute(engine, "UPDATE accounts SET planned_at = NULL WHERE id = :a", a=account_id)
        plan(runtime, account_id)
        swept = row(engine, "accounts", account_id)["swept_through"]
        ends[name] = (row(engine, "polls", poll_id)["state"], rounds, swept)
    assert ends == {
        "whole": ("complete", [1], yesterday),
        "shifted once": ("complete", [1, 2], yesterday),
        "drifting": ("complete_with_errors", [1, 2, 3], None),
        "without a count": ("complete", [1], yesterday),
    }
    assert miscounted_polls(engine) == []


def test_a_poll_whose_window_was_taken_over_moves_no_watermark(runtime: Runtime) -> None:
    """It has seen nothing of those days; the on-demand poll that took them might end in errors."""
    engine = runtime.engine
    account_id, fetch_id = sweep_account(runtime)
    scheduled = row(engine, "fetches", fetch_id)["poll_id"]
    assert row(engine, "polls", scheduled)["sweep_through"] is not None
    start, end = row(engine, "fetches", fetch_id)["params"]["window"]
    window = (date.fromisoformat(start), date.fromisoformat(end))
    poll_id = open_on_demand(runtime, account_id, trigger="api", window=window)
    plan_poll(runtime, account_id, poll_id)
    assert row(engine, "fetches", fetch_id)["poll_id"] == poll_id
    left = row(engine, "polls", scheduled)
    assert (left["state"], left["sweep_through"]) == ("complete", None)


def test_a_sweep_that_falls_due_in_a_tick_that_was_planned_already_is_not_lost(shared_database: Engine) -> None:
    """The tick's poll is there; the sweep is not noted as done, so the next tick opens it."""
    runtime = make_runtime(shared_database, resolve=lambda _: "secret", tick_seconds=3600.0)
    account_id = add_account(shared_database, provider="iletimerkezi", options={"details": False})
    _plan_scheduled(runtime, account_id)
    assert len(fetches_of(shared_database, account_id, "ready")) == 2
    execute(
        shared_database, "UPDATE accounts SET planned_at = NULL, closed_swept_at = NULL WHERE id = :a", a=account_id
    )
    execute(
        shared_database, "UPDATE fetches SET state = 'done', finished_at = now() WHERE account_id = :a", a=account_id
    )
    execute(shared_database, "UPDATE polls SET open_fetches = 0 WHERE account_id = :a", a=account_id)
    _plan_scheduled(runtime, account_id)
    account = row(shared_database, "accounts", account_id)
    assert (fetches_of(shared_database, account_id, "ready"), account["planned_at"]) == ([], None)
    assert len(plan(runtime, account_id)) == 2


# ------------------------------------------------------------------------------------- fair planning


def test_what_has_been_due_for_long_is_planned_though_young_ones_fill_every_plan(runtime: Runtime) -> None:
    """Young ids go first, but none that is due for more than an hour longer waits behind them."""
    engine = runtime.engine
    account_id = add_account(engine, requests=1, per_seconds=10)
    now = clock.now()
    old = {"sent_at": now - timedelta(days=1), "valid_until": now + timedelta(days=1)}
    add_ids(engine, account_id, ["s3:+905321234503"], next_check_at=now - timedelta(minutes=30), **old)
    add_ids(engine, account_id, ["s1:+905321234501"], next_check_at=now - timedelta(hours=2), **old)
    add_ids(engine, account_id, ["s2:+905321234502"])
    order = []
    for _ in range(3):
        [fetch_id] = plan(runtime, account_id)
        order.append(row(engine, "fetches", fetch_id)["params"]["send"])
        execute(engine, "UPDATE fetches SET available_at = now() + interval '1 hour' WHERE id = :id", id=fetch_id)
        execute(engine, "UPDATE fetches SET state = 'done', finished_at = now() WHERE id = :id", id=fetch_id)
    assert order == ["s1", "s2", "s3"]


def test_fetches_that_wait_for_a_later_retry_take_no_room_in_a_plan(runtime: Runtime) -> None:
    """The account is free meanwhile: what is due is planned beside them."""
    account_id = add_account(runtime.engine, requests=1, per_seconds=10)
    add_ids(runtime.engine, account_id, ["s1:+905321234501", "s2:+905321234502"])
    [first] = plan(runtime, account_id)
    assert plan(runtime, account_id) == [first]
    execute(runtime.engine, "UPDATE fetches SET available_at = now() + interval '5 minutes' WHERE id = :id", id=first)
    assert len(plan(runtime, account_id)) == 2


def test_a_fetch_that_waits_behind_younger_ones_is_raised(runtime: Runtime) -> None:
    """After a minute it has the rank of young messages, where the oldest goes first."""
    engine = runtime.engine
    account_id = add_account(engine, requests=1, per_seconds=1000)
    _, ids = add_poll(engine, account_id, [fetch(1, priority=60), fetch(2, priority=30)])
    execute(engine, "UPDATE fetches SET available_at = now() - interval '2 minutes' WHERE id = :id", id=ids[0])
    plan(runtime, account_id)
    with engine.begin() as connection:
        assert [hint.fetch_id for hint in dispatch(connection, account_id).hints] == [ids[0]]


def test_one_account_that_cannot_be_planned_keeps_no_other_from_it(runtime: Runtime) -> None:
    """Its trouble is one line in the log; the others of the provider are planned."""
    execute(runtime.engine, "UPDATE accounts SET enabled = false WHERE provider = 'vairo'")
    first, second = sorted(add_account(runtime.engine) for _ in range(2))
    for account_id in (first, second):
        add_ids(runtime.engine, account_id, ["s1:+905321234567"])
    execute(runtime.engine, "UPDATE accounts SET timezone = 'No/Where' WHERE id = :a", a=first)
    plan_due(runtime, "vairo")
    execute(runtime.engine, "UPDATE accounts SET enabled = false WHERE id = :a", a=first)
    assert [len(fetches_of(runtime.engine, each, "ready")) for each in (first, second)] == [0, 1]


def test_batches_are_filled_with_what_is_due_next(runtime: Runtime) -> None:
    """A call costs the same whether full or not: ids that are due soon ride along, those due later do not."""
    engine = runtime.engine
    account_id = add_account(engine, provider="organik", options={"batch_size": 10})
    now = clock.now()
    for kind, ahead, numbers in (("gsm_track", -1, range(3)), ("gsm_track", 60, range(3, 6)), ("gsm_track", 900, [9])):
        values = [str(number) for number in numbers]
        add_ids(engine, account_id, values, kind=kind, next_check_at=now + timedelta(seconds=ahead))
    [fetch_id] = plan(runtime, account_id)
    assert row(engine, "fetches", fetch_id)["params"]["ids"] == ["0", "1", "2", "3", "4", "5"]


# --------------------------------------------------------------------------------------- dispatching


def test_a_timer_is_armed_for_the_next_free_slot_and_for_the_next_retry(runtime: Runtime) -> None:
    """What waits for a slot beyond the horizon, or for its retry, is looked at again then, and not before."""
    engine = runtime.engine
    account_id = add_account(engine, requests=1, per_seconds=3)
    _, ids = add_poll(engine, account_id, [fetch(1), fetch(2)])
    taken = take(engine, ids[0])
    assert isinstance(taken, limiter.Taken)
    with engine.begin() as connection:
        end = ledger.CallEnd(call_id=taken.permit.call_id, outcome="ok", http_status=200, duration_seconds=0.0,
                             seconds_since=0.0)  # fmt: skip
        ledger.close_call(connection, end)
        slot = dispatch(connection, account_id)
        again = dispatch(connection, account_id)
    assert (slot.hints, again.wake_in_seconds) == ((), None)
    assert slot.wake_in_seconds == pytest.approx(3, abs=0.3)
    other = add_account(engine)
    _, ids = add_poll(engine, other, [fetch(1), fetch(2)])
    execute(engine, "UPDATE fetches SET available_at = now() + interval '2 seconds' WHERE id = :id", id=ids[1])
    with engine.begin() as connection:
        retry = dispatch(connection, other)
    assert [hint.fetch_id for hint in retry.hints] == [ids[0]]
    assert retry.wake_in_seconds == pytest.approx(2, abs=0.3)


def test_a_slot_whose_fetch_was_cancelled_goes_to_the_next(runtime: Runtime) -> None:
    """The hint of a cancelled fetch wakes the dispatcher: nothing waits for the reconciler."""
    engine = runtime.engine
    account_id = add_account(engine, concurrency=1)
    poll_id, [first] = add_poll(engine, account_id, [fetch(1, priority=10)])
    _, [second] = add_poll(engine, account_id, [fetch(2)])
    with engine.begin() as connection:
        assert [hint.fetch_id for hint in dispatch(connection, account_id).hints] == [first]
    with engine.begin() as connection:
        planning.cancel(connection, poll_id)
    assert [each.kwargs for each in fetching.make_fetch(runtime, first)] == [{"fetch_id": second}]


def run_at_once(acts: list[Callable[[], Any]]) -> None:
    """Run each in a thread of its own; raise the first failure."""
    failures: list[BaseException] = []

    def run(act: Callable[[], Any]) -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
