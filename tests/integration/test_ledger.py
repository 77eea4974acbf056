"""The ledger's promises about one fetch: taking, finishing, fencing, returning, healing, pruning."""

import threading
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from driving import make_runtime, perform, scalar, sent_by
from ledger_acts import (
    Held,
    add_account,
    add_ids,
    add_poll,
    deliveries,
    execute,
    expire_lease,
    fetch,
    give_back_expired,
    give_back_failed,
    give_back_unsent,
    held_fetch,
    plan,
    row,
    run_at_once,
    take,
    vairo_body,
    woken,
)
from sqlalchemy import Engine, text

from ulak.core import clock
from ulak.core.credentials import CredentialError
from ulak.models.account import FOREVER
from ulak.models.accounts import pause, resume
from ulak.models.ledger import ending as ledger
from ulak.models.ledger import opening, taking
from ulak.models.ledger.deciding import NOTHING_READY
from ulak.models.report import IdAnswer, TrackedKey
from ulak.providers.adapter import FetchSpec, Parsed
from ulak.providers.errors import PauseAccount, SlowDown, TryAgainAt, TryAgainSoon
from ulak.tasks.effects import Effects
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps import draining, upkeep
from ulak.tasks.steps.draining import drain
from ulak.tasks.steps.failures import return_unsent
from ulak.tasks.steps.ondemand import open_on_demand
from ulak.tasks.steps.planning import plan_poll


@pytest.fixture
def runtime(shared_database: Engine) -> Runtime:
    """A runtime whose credentials are always found."""
    return make_runtime(shared_database, resolve=lambda _: "secret")


# ------------------------------------------------------------------------------------------ taking
def test_a_repeated_message_does_nothing(runtime: Runtime) -> None:
    """A fetch that is in the air, and one that is done, are not asked for again, and no second call row is written."""
    account_id, _, held = held_fetch(runtime)
    nothing = taking.NotYet(account_id=account_id, why=NOTHING_READY)
    assert take(runtime.engine, held.taken.fetch_id) == nothing
    assert sent_by(drain(runtime, held.taken.fetch_id)) == []
    held.answer(vairo_body("s1:+905321234567", "DELIVERED"))
    assert sent_by(drain(runtime, held.taken.fetch_id)) == []
    assert take(runtime.engine, held.taken.fetch_id) == nothing
    assert take(runtime.engine, 10**15) == taking.Gone()
    with runtime.engine.connect() as connection:
        query = text("SELECT outcome FROM calls WHERE account_id = :a")
        assert connection.execute(query, {"a": account_id}).scalars().all() == ["ok"]


def test_of_many_that_take_the_same_fetch_one_wins(runtime: Runtime) -> None:
    """Eight threads, one ready fetch: one holds it, the others find it gone."""
    account_id = add_account(runtime.engine)
    _, [fetch_id] = add_poll(runtime.engine, account_id, [fetch(1)])
    results: list[object] = []
    gate = threading.Barrier(8)

    def take_at_once() -> None:
        gate.wait()
        results.append(take(runtime.engine, fetch_id))

    run_at_once([take_at_once] * 8)
    assert sorted(type(result).__name__ for result in results) == ["NotYet"] * 7 + ["Taken"]


def test_what_may_not_be_asked_now_stays_ready_and_uncounted(runtime: Runtime) -> None:
    """Paused, throttled, an open breaker, a used limit or concurrency, a later retry: nothing is counted."""
    engine = runtime.engine
    cases = {
        "paused": "UPDATE accounts SET paused_until = now() + interval '1 minute' WHERE id = :a",
        "throttled": "UPDATE accounts SET not_before = now() + interval '1 minute' WHERE id = :a",
        "disabled": "UPDATE accounts SET enabled = false WHERE id = :a",
        "breaker open": "UPDATE accounts SET breaker_state = 'open', breaker_until = now() + interval '1 minute'"
        " WHERE id = :a",
        NOTHING_READY: "UPDATE fetches SET available_at = now() + interval '1 minute' WHERE account_id = :a",
        "limit used": "UPDATE accounts SET limit_requests = 1 WHERE id = :a",
        "concurrency used": "UPDATE accounts SET limit_concurrency = 1 WHERE id = :a",
    }
    found = {}
    for why, change in cases.items():
        # The first call must still be in the air when the second is asked for, however slow the machine is.
        account_id = add_account(engine, options={"deadline_seconds": 60.0})
        _, [first, second] = add_poll(engine, account_id, [fetch(1), fetch(2)])
        if why.endswith("used"):
            take(engine, first)
        execute(engine, change, a=account_id)
        found[why] = take(engine, second)
        after = row(engine, "fetches", second)
        assert (after["state"], after["claims"], after["attempts"]) == ("ready", 0, 0)
    assert {why: result.why for why, result in found.items() if isinstance(result, taking.NotYet)} == {
        why: why for why in cases
    }


def test_a_worker_that_wakes_too_late_to_send_leaves_the_fetch_to_its_new_holder(runtime: Runtime) -> None:
    """Neither its permit nor its lease holds: nothing is sent, written or raised."""
    _, _, held = held_fetch(runtime)
    give_back_expired(held)
    again = take(runtime.engine, held.taken.fetch_id)
    assert isinstance(again, taking.Taken)
    permit = replace(held.taken.permit, committed_boot=held.taken.permit.committed_boot - 60)
    found = draining._make(runtime, Effects(), replace(held.taken, permit=permit), ends=0.0)
    assert isinstance(found, taking.NotYet)
    stored = row(runtime.engine, "fetches", held.taken.fetch_id)
    assert (stored["state"], stored["lease_token"]) == ("sending", again.lease_token)


def test_a_call_that_was_never_sent_takes_no_slot_and_no_claim(runtime: Runtime) -> None:
    """Not a byte left: the call row is gone, the slot is free at once, and claims of dead workers stay counted."""
    engine = runtime.engine
    account_id = add_account(engine, requests=1, per_seconds=60)
    _, [fetch_id] = add_poll(engine, account_id, [fetch(1)])
    execute(engine, "UPDATE fetches SET claims = 3 WHERE id = :id", id=fetch_id)
    taken = take(engine, fetch_id)
    assert isinstance(taken, taking.Taken)
    return_unsent(runtime, taken)
    after = row(engine, "fetches", fetch_id)
    assert (after["state"], after["claims"], after["attempts"]) == ("ready", 3, 0)
    assert isinstance(take(engine, fetch_id), taking.Taken)


# ------------------------------------------------------------------------------------------ finishing
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
    """A body that kills workers does not loop forever: its poll ends with errors, its ids are not planned at once."""
    engine = runtime.engine
    account_id, tracked_id, held = held_fetch(runtime)
    for _ in range(4):
        expire_lease(engine, held.taken.fetch_id)
        upkeep.reconcile(runtime)
        assert isinstance(take(engine, held.taken.fetch_id), taking.Taken)
    expire_lease(engine, held.taken.fetch_id)
    upkeep.reconcile(runtime)
    unanswered = "SELECT count(*) FROM calls WHERE fetch_id = :id AND outcome IS DISTINCT FROM 'abandoned'"
    assert scalar(engine, unanswered, id=held.taken.fetch_id) == 0
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
            ledger.drop_call(connection, held.taken.fetch_id, held.taken.lease_token, held.taken.permit.call_id)
            ledger.end_fetch(connection, ledger.FetchEnd(fetch_id=held.taken.fetch_id, state="done"))
            ends.append(count_poll(connection, held.taken.poll_id, ledger.PollCounts(ended=1, calls=1, reports=2)))

    run_at_once([partial(finish_one, held) for held in helds])
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


def test_a_request_that_cannot_be_built_dies_instead_of_being_taken_for_ever(runtime: Runtime) -> None:
    """A wrong id is found when its request is built: no call, a dead fetch, an ended poll, and the next may go."""
    account_id = add_account(runtime.engine)
    add_ids(runtime.engine, account_id, ["no such form"])
    [fetch_id] = plan(runtime, account_id)
    assert sent_by(drain(runtime, fetch_id)) == []
    dead = row(runtime.engine, "fetches", fetch_id)
    assert (dead["state"], dead["claims"], dead["last_error"].partition(":")[0]) == ("dead", 1, "RequestIsWrong")
    assert scalar(runtime.engine, "SELECT count(*) FROM calls WHERE account_id = :a", a=account_id) == 0
    assert row(runtime.engine, "polls", dead["poll_id"])["state"] == "complete_with_errors"
    assert plan(runtime, account_id) == []


# ------------------------------------------------------------------------------------------ trouble
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
    account_id, _, held = held_fetch(runtime, retry={"base_seconds": 60.0})
    held.answer(error)
    after = row(engine, "fetches", held.taken.fetch_id)
    assert (after["state"], after["attempts"], after["claims"]) == ("ready", 0, 0)
    assert row(engine, "accounts", account_id)[column] > clock.now()
    assert dict(row(engine, "accounts", other)) == other_before
    assert isinstance(take(engine, held.taken.fetch_id), taking.NotYet)
    with engine.begin() as connection:
        resume(connection, account_id)
    Held(runtime, held.taken.fetch_id).answer(vairo_body("s1:+905321234567", "DELIVERED"))
    assert deliveries(engine, account_id) == [("1", "delivered")]
    assert row(engine, "accounts", account_id)["throttles"] == 0


def test_no_answer_shortens_a_rest_that_lasts_longer(runtime: Runtime) -> None:
    """A person's pause keeps its end and its reason, a long throttle its end; each throttle counts all the same."""
    engine = runtime.engine
    account_id, _, held = held_fetch(runtime)
    with engine.begin() as connection:
        pause(connection, account_id, None, "A person says so.")
    held.answer(PauseAccount("The key is refused."))
    rested = row(engine, "accounts", account_id)
    assert (rested["paused_until"], rested["pause_reason"]) == (FOREVER, "A person says so.")
    account_id = add_account(engine, retry={"base_seconds": 1.0})
    add_ids(engine, account_id, ["s1:+905321234501", "s2:+905321234502"])
    helds = [Held(runtime, fetch_id) for fetch_id in plan(runtime, account_id)]
    helds[0].answer(SlowDown("Too many at once."))
    later = clock.now() + timedelta(hours=3)
    execute(engine, "UPDATE accounts SET not_before = :later WHERE id = :a", later=later, a=account_id)
    helds[1].answer(SlowDown("Too many at once."))
    slowed = row(engine, "accounts", account_id)
    assert (slowed["not_before"], slowed["throttles"]) == (later, 2)


def test_the_ids_of_a_fetch_that_is_given_up_rest(runtime: Runtime) -> None:
    """As long as the longest wait of the poll policy, or what cannot be answered would be asked without end."""
    engine = runtime.engine
    account_id, tracked_id, held = held_fetch(runtime, retry={"max_attempts": 1}, poll={"max_check_seconds": 7200})
    held.answer(TryAgainSoon("The connection broke."))
    freed = row(engine, "tracked_ids", tracked_id)
    rest = freed["next_check_at"] - held.taken.asked_at
    assert (row(engine, "fetches", held.taken.fetch_id)["state"], freed["fetch_id"]) == ("dead", None)
    assert (rest, plan(runtime, account_id)) == (timedelta(hours=2), [])


def test_the_breaker_opens_after_five_soon_errors_probes_once_and_closes_on_success(runtime: Runtime) -> None:
    """Failures in the air when it opens, and the one that opened it, are not counted against their fetches."""
    engine = runtime.engine
    # A probe that is unanswered for longer than its deadline is counted no more.
    wide = {"deadline_seconds": 60.0}
    account_id = add_account(engine, retry={"base_seconds": 0.001, "cap_seconds": 0.001}, options=wide)
    add_ids(engine, account_id, [f"s{number}:+9053212345{number:02}" for number in range(8)])
    helds = [Held(runtime, fetch_id) for fetch_id in plan(runtime, account_id)]
    for held in helds[:7]:
        held.answer(TryAgainSoon("The connection broke."))
    attempts = [row(engine, "fetches", held.taken.fetch_id)["attempts"] for held in helds[:7]]
    account = row(engine, "accounts", account_id)
    assert (attempts, account["breaker_state"], account["breaker_failures"]) == ([1, 1, 1, 1, 0, 0, 0], "open", 5)
    assert woken(engine, account_id) is None
    helds[7].answer(vairo_body("s7:+905321234507", "WAITING"))
    assert row(engine, "accounts", account_id)["breaker_state"] == "open"
    execute(engine, "UPDATE accounts SET breaker_until = now() - interval '1 second' WHERE id = :a", a=account_id)
    found = woken(engine, account_id)
    assert found is not None
    probe = Held(runtime, found.fetch_id)
    others = [held.taken.fetch_id for held in helds[:7] if held.taken.fetch_id != found.fetch_id]
    assert take(engine, others[0]) == taking.NotYet(account_id=account_id, why="breaker open")
    probe.answer(TryAgainSoon("The connection broke."))
    account = row(engine, "accounts", account_id)
    assert (account["breaker_state"], account["breaker_trips"]) == ("open", 2)
    execute(engine, "UPDATE accounts SET breaker_until = now() - interval '1 second' WHERE id = :a", a=account_id)
    again = Held(runtime, probe.taken.fetch_id)
    again.answer(vairo_body(f"{next(iter(again.prepared.tracked)).value}", "WAITING"))
    account = row(engine, "accounts", account_id)
    assert (account["breaker_state"], account["breaker_failures"], account["breaker_trips"]) == ("closed", 0, 0)
    assert isinstance(take(engine, others[0]), taking.Taken)


def test_an_id_waits_for_the_moment_that_the_provider_named_while_its_poll_ends(runtime: Runtime) -> None:
    """TryAgainAt is no failed attempt and keeps no poll open for days."""
    at = clock.now().replace(microsecond=0) + timedelta(days=2)
    _, tracked_id, held = held_fetch(runtime)
    held.answer(TryAgainAt("The order is scheduled.", at=at))
    assert row(runtime.engine, "polls", held.taken.poll_id)["state"] == "complete"
    freed = row(runtime.engine, "tracked_ids", tracked_id)
    assert (freed["fetch_id"], freed["next_check_at"]) == (None, at)


def test_credentials_that_cannot_be_found_pause_the_account_once_and_lose_nothing(shared_database: Engine) -> None:
    """Neither planning nor a message nor a poll asks or counts anything; once they are there, all goes on."""
    missing = make_runtime(shared_database, resolve=_nothing_there)
    whole = make_runtime(shared_database, resolve=lambda _: "secret")
    account_id = add_account(shared_database)
    add_ids(shared_database, account_id, ["s1:+905321234567"])
    [fetch_id] = plan(whole, account_id)
    assert sent_by(drain(missing, fetch_id)) == []
    paused = row(shared_database, "accounts", account_id)["paused_until"]
    assert paused > clock.now()
    poll_id = open_on_demand(missing, account_id, trigger="api")
    assert plan_poll(missing, account_id, poll_id) == Effects()
    assert row(shared_database, "accounts", account_id)["paused_until"] == paused
    execute(shared_database, "UPDATE accounts SET paused_until = NULL WHERE id = :a", a=account_id)
    plan_poll(whole, account_id, poll_id)
    Held(whole, fetch_id).answer(vairo_body("s1:+905321234567", "DELIVERED"))
    assert row(shared_database, "polls", poll_id)["state"] == "complete"
    assert deliveries(shared_database, account_id) == [("1", "delivered")]


def test_credentials_that_cannot_be_found_do_not_shorten_a_pause_of_a_person(shared_database: Engine) -> None:
    """A call that was being made finds no key; the account rests on, for the reason that was given."""
    engine = shared_database
    missing = make_runtime(engine, resolve=_nothing_there)
    account_id = add_account(engine)
    _, [fetch_id] = add_poll(engine, account_id, [fetch(1)])
    taken = take(engine, fetch_id)
    assert isinstance(taken, taking.Taken)
    with engine.begin() as connection:
        pause(connection, account_id, None, "A person says so.")
    assert isinstance(draining._make(missing, Effects(), taken, ends=0.0), taking.NotYet)
    paused = row(engine, "accounts", account_id)
    assert (paused["paused_until"], paused["pause_reason"]) == (FOREVER, "A person says so.")
    assert "TEST_KEY" in paused["last_trouble"]
    after = row(engine, "fetches", fetch_id)
    assert (after["state"], after["claims"], after["attempts"]) == ("ready", 0, 0)
    assert scalar(engine, "SELECT count(*) FROM calls WHERE account_id = :a", a=account_id) == 0


def _nothing_there(reference: str) -> str:
    raise CredentialError(f"{reference} is not set.")


# ------------------------------------------------------------------------------------------ healing
def test_a_lost_message_is_repeated(runtime: Runtime) -> None:
    """One that nobody took within its time counts as lost: the reconciler finds the account, and wakes it."""
    engine = runtime.engine
    account_id = add_account(engine, concurrency=1)
    _, [fetch_id] = add_poll(engine, account_id, [fetch(1)])
    lost = woken(engine, account_id, by_message=False)
    assert (lost and lost.fetch_id, woken(engine, account_id, by_message=False)) == (fetch_id, None)
    assert account_id not in woken_by_reconcile(runtime)
    execute(engine, "UPDATE accounts SET wake_at = wake_at - interval '6 seconds' WHERE id = :a", a=account_id)
    [message] = [each for each in upkeep.reconcile(runtime).messages if each.kwargs.get("account_id") == account_id]
    assert [each.kwargs for each in perform(runtime, message)] == [{"fetch_id": fetch_id}]


def woken_by_reconcile(runtime: Runtime) -> set[object]:
    """The accounts that the reconciler wakes."""
    return {message.kwargs.get("account_id") for message in upkeep.reconcile(runtime).messages}


def test_an_account_that_was_asked_just_now_is_left_to_itself(runtime: Runtime) -> None:
    """The end of its call takes what comes next; the reconciler looks once that is overdue."""
    engine = runtime.engine
    account_id = add_account(engine)
    _, ids = add_poll(engine, account_id, [fetch(1), fetch(2)])
    take(engine, ids[0])
    execute(engine, "UPDATE accounts SET wake_at = NULL WHERE id = :a", a=account_id)
    assert account_id not in woken_by_reconcile(runtime)
    execute(engine, "UPDATE accounts SET last_asked_at = last_asked_at - interval '6 s' WHERE id = :a", a=account_id)
    assert account_id in woken_by_reconcile(runtime)


def test_a_timer_that_was_lost_is_found_once_its_moment_has_passed(runtime: Runtime) -> None:
    """While it lies ahead it is waited for; afterwards the reconciler sends what it would have sent."""
    engine = runtime.engine
    account_id = add_account(engine)
    add_poll(engine, account_id, [fetch(1)])
    told = {}
    for name, moment in {"ahead": "now() + interval '4 seconds'", "passed": "now() - interval '6 seconds'"}.items():
        execute(engine, f"UPDATE accounts SET wake_at = {moment} WHERE id = :a", a=account_id)
        told[name] = account_id in woken_by_reconcile(runtime)
    assert told == {"ahead": False, "passed": True}


def test_a_rest_that_has_ended_is_found_and_one_that_lasts_is_left(runtime: Runtime) -> None:
    """A pause, a throttle and an open breaker that are over hold nobody back, though no answer wakes the account."""
    engine = runtime.engine
    told = {}
    for rest in ("paused_until = {}", "not_before = {}", "breaker_state = 'open', breaker_until = {}"):
        for moment in ("now() - interval '1 second'", "now() + interval '1 hour'"):
            account_id = add_account(engine)
            add_poll(engine, account_id, [fetch(1)])
            execute(engine, f"UPDATE accounts SET {rest.format(moment)} WHERE id = :a", a=account_id)
            told[account_id] = "-" in moment
    sent = woken_by_reconcile(runtime)
    assert {account_id: account_id in sent for account_id in told} == told


def test_an_id_that_an_ended_fetch_still_holds_is_freed(runtime: Runtime) -> None:
    """It would never be planned again; ids of fetches that wait or are in the air stay theirs."""
    engine = runtime.engine
    account_id = add_account(engine)
    ids = add_ids(engine, account_id, [f"s{number}:+9053212345{number:02}" for number in range(5)])
    fetches = plan(runtime, account_id)
    holders = {row(engine, "tracked_ids", each)["fetch_id"]: each for each in ids}
    take(engine, fetches[0])
    ended = "UPDATE fetches SET state = :state, finished_at = now() WHERE id = :id"
    for fetch_id, state in zip(fetches[2:], ("done", "dead", "cancelled"), strict=True):
        execute(engine, ended, state=state, id=fetch_id)
    upkeep.reconcile(runtime)
    held = [row(engine, "tracked_ids", holders[fetch_id])["fetch_id"] for fetch_id in fetches]
    assert held == [*fetches[:2], None, None, None]


def test_a_lost_planning_message_is_sent_again(runtime: Runtime) -> None:
    """A poll that stands unplanned for three seconds is planned by what the reconciler sends."""
    account_id = add_account(runtime.engine)
    add_ids(runtime.engine, account_id, ["s1:+905321234567"])
    poll_id = open_on_demand(runtime, account_id, trigger="api")
    execute(runtime.engine, "UPDATE polls SET started_at = now() - interval '4 seconds' WHERE id = :id", id=poll_id)
    [message] = [each for each in upkeep.reconcile(runtime).messages if each.kwargs.get("poll_id") == poll_id]
    perform(runtime, message)
    assert row(runtime.engine, "polls", poll_id)["open_fetches"] == 1


def test_a_superseded_fetch_ends_and_its_poll_vouches_for_no_day(runtime: Runtime) -> None:
    """Where an equal fetch stands ready in another poll, the one that comes back ends, and moves no watermark."""
    engine = runtime.engine
    account_id = add_account(engine, provider="iletimerkezi")
    window = {"window": ["2026-01-01", "2026-01-02"], "page": 1}
    pages = [opening.NewFetch(kind="page", params=window, label="p", priority=40)]
    day = clock.now().date()
    found = {}
    ways = {"returned": give_back_failed, "unsent": give_back_unsent, "healed": give_back_expired}
    for name, give_back in ways.items():
        mine, [fetch_id] = add_poll(engine, account_id, pages, sweep_through=day)
        held = Held(runtime, fetch_id)
        other, [ready] = add_poll(engine, account_id, pages)
        give_back(held)
        poll = row(engine, "polls", mine)
        found[name] = (row(engine, "fetches", fetch_id)["state"], poll["state"], poll["sweep_through"])
        with engine.begin() as connection:
            opening.cancel(connection, other)
        execute(engine, "UPDATE accounts SET breaker_failures = 0 WHERE id = :a", a=account_id)
        assert row(engine, "fetches", ready)["state"] == "cancelled"
    assert found == dict.fromkeys(ways, ("cancelled", "complete", None))


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


def test_no_prune_takes_what_somebody_has_yet_to_look_at(runtime: Runtime) -> None:
    """Dead fetches keep their poll, and the poll that swept days is the watermark's witness; others go."""
    engine = runtime.engine
    account_id = add_account(engine)
    kept = {}
    for name, state, through in (("dead", "dead", None), ("swept", "done", clock.now().date()), ("old", "done", None)):
        poll_id, [fetch_id] = add_poll(engine, account_id, [fetch(1)], sweep_through=through)
        execute(engine, "UPDATE fetches SET state = :state, finished_at = now() WHERE id = :id",
                state=state, id=fetch_id)  # fmt: skip
        execute(engine, "UPDATE polls SET state = 'complete', open_fetches = 0,"
                " finished_at = now() - interval '20 days' WHERE id = :id", id=poll_id)  # fmt: skip
        kept[name] = (poll_id, fetch_id)
    upkeep.prune(runtime)
    count = "SELECT count(*) FROM {} WHERE id = :id"
    found = {
        name: (scalar(engine, count.format("polls"), id=poll_id), scalar(engine, count.format("fetches"), id=fetch_id))
        for name, (poll_id, fetch_id) in kept.items()
    }
    assert found == {"dead": (1, 1), "swept": (1, 0), "old": (0, 0)}
