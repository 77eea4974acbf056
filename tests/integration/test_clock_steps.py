"""The database's clock is set, forward or back: what was stored before is moved with it, and work goes on."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, cast

import msgspec
import pytest
from driving import make_runtime, scalar, sent_by
from ledger_acts import (
    Held,
    add_account,
    add_ids,
    add_poll,
    deliveries,
    execute,
    fetch,
    fetches_of,
    plan,
    row,
    take,
    vairo_body,
)
from shifted_clock import ShiftedClock
from sqlalchemy import Engine, text
from tiny_provider import Reply, Request, TinyProvider

from ulak.models.job_runs import RECONCILE, beat, stalls
from ulak.models.ledger import taking
from ulak.models.ledger.clocksteps import last_step
from ulak.models.ledger.clockwatch import ClockWatch
from ulak.models.ledger.opening import NewPoll, close_plan, open_poll
from ulak.providers.adapter import Answer, Parsed
from ulak.providers.http import Sent
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps import clock_watching, planning, upkeep
from ulak.tasks.steps.draining import drain, parse_response, prepare
from ulak.tasks.steps.tracking import track

HOUR = 3600.0


@pytest.fixture
def shifted(migrated_database: Engine) -> Iterator[ShiftedClock]:
    """A database whose clock the test may set."""
    clock = ShiftedClock(migrated_database)
    yield clock
    clock.engine.dispose()


@pytest.fixture
def runtime(shifted: ShiftedClock) -> Iterator[Runtime]:
    """A worker that has looked at the clock before."""
    found = make_runtime(shifted.engine, resolve=lambda _: "key")
    clock_watching.look(found)
    yield found
    found.door.close()


def restarted(runtime: Runtime, *, elsewhere: bool = False) -> Runtime:
    """A worker that starts now, on the same machine or on one that was never seen."""
    fresh = make_runtime(runtime.engine, resolve=lambda _: "key")
    if elsewhere:
        fresh.watch.boot_id = "another machine"
    return fresh


def steps(engine: Engine) -> list[int]:
    """The steps that were noted, in whole seconds."""
    with engine.connect() as connection:
        found = connection.execute(text("SELECT seconds FROM clock_steps ORDER BY id")).scalars()
        return [round(seconds) for seconds in found]


def now(engine: Engine) -> datetime:
    """The database's clock, as it is set."""
    found = scalar(engine, "SELECT clock_timestamp()")
    assert isinstance(found, datetime)
    return found


def ahead(engine: Engine, column: str, table: str, where: str = "true", **values: Any) -> float:
    """How far the latest of these moments lies ahead of the clock, in seconds."""
    query = f"SELECT extract(epoch FROM max({column}) - clock_timestamp()) FROM {table} WHERE {where}"
    return float(str(scalar(engine, query, **values)))


def try_take(runtime: Runtime, fetch_id: int) -> Any:
    """Take a fetch as the step does: a step of the clock is settled first."""
    taken = take(runtime.engine, fetch_id, runtime.watch)
    if isinstance(taken, taking.Stepped):
        clock_watching.settle(runtime)
        taken = take(runtime.engine, fetch_id, runtime.watch)
    return taken


def planned_within(runtime: Runtime, account_id: str, *, seconds: float) -> bool:
    """Whether beat's ticks bring a fetch of the account's list within so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        list(planning.plan_due(runtime, "iletimerkezi"))
        if fetches_of(runtime.engine, account_id, "ready"):
            return True
        time.sleep(0.1)
    return False


# ------------------------------------------------------------------------------------------------------ the limit


@pytest.mark.parametrize("seconds", [HOUR, 45.0, 3.0, -3.0, -45.0, -HOUR, 40 * 86400.0, -40 * 86400.0])
@pytest.mark.parametrize("is_new", [False, True], ids=["same worker", "restarted worker"])
def test_a_slot_stays_held_through_a_step_of_the_clock(
    runtime: Runtime, shifted: ShiftedClock, seconds: float, is_new: bool
) -> None:
    """One call a minute: after a step of any size the slot is as busy as it was, for the minute and no longer."""
    account_id = add_account(shifted.engine, requests=1, per_seconds=60.0, options={"deadline_seconds": 5.0})
    _, [first, second] = add_poll(shifted.engine, account_id, [fetch(1), fetch(2)])
    began = time.monotonic()
    assert isinstance(take(shifted.engine, first, runtime.watch), taking.Taken)
    clock_watching.look(runtime)
    shifted.step(seconds)
    worker = restarted(runtime) if is_new else runtime
    taken = try_take(worker, second)
    assert isinstance(taken, taking.NotYet)
    assert taken.why == "limit used"
    assert steps(shifted.engine) == [round(seconds)]
    # Asked a moment ago, given up in five seconds at the most, free a minute later.
    left = ahead(shifted.engine, "released_at", "calls")
    assert 4.5 - (time.monotonic() - began) < left <= 5.0
    # The minute and the deadline pass.
    execute(
        shifted.engine,
        "UPDATE calls SET asked_at = asked_at - interval '66 s', gives_up_at = gives_up_at - interval '66 s',"
        " released_at = released_at - interval '66 s'",
    )
    assert isinstance(try_take(worker, second), taking.Taken)


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_an_answer_written_after_the_step_holds_its_slot_as_long_as_any(
    runtime: Runtime, shifted: ShiftedClock, seconds: float
) -> None:
    """The question was asked under the old clock, the answer comes under the new one, before or after it is noticed."""
    account_id = add_account(shifted.engine)
    add_ids(shifted.engine, account_id, ["s1:+905321234567", "s2:+905321234567"])
    [first, second] = plan(runtime, account_id)
    held = [Held(runtime, first), Held(runtime, second)]
    shifted.step(seconds)
    held[0].answer(vairo_body("s1:+905321234567", "Beklemede"))
    clock_watching.look(runtime)
    held[1].answer(vairo_body("s2:+905321234567", "Beklemede"))
    assert -3.0 < ahead(shifted.engine, "released_at", "calls") <= 0.0
    assert -3.0 < ahead(shifted.engine, "asked_at", "calls") <= 0.0
    recent = "SELECT count(*) FROM calls WHERE released_at > clock_timestamp() - interval '10 s'"
    assert scalar(shifted.engine, recent) == 2


def test_two_workers_note_one_step_once_and_both_go_on(runtime: Runtime, shifted: ShiftedClock) -> None:
    """Each sees the step for itself; the second finds it noted."""
    other = restarted(runtime)
    clock_watching.look(other)
    shifted.step(-HOUR)
    clock_watching.look(runtime)
    clock_watching.look(other)
    shifted.step(90.0)
    clock_watching.look(other)
    clock_watching.look(runtime)
    assert steps(shifted.engine) == [-3600, 90]


def test_a_step_of_less_than_a_second_is_left_alone(runtime: Runtime, shifted: ShiftedClock) -> None:
    """NTP slews and small corrections are no event, and they never add up to one."""
    for _ in range(6):
        shifted.step(0.7)
        clock_watching.look(runtime)
    assert steps(shifted.engine) == []


def test_a_worker_of_a_new_machine_sees_by_the_stored_times_that_the_clock_was_set_back(
    runtime: Runtime, shifted: ShiftedClock
) -> None:
    """It knows no earlier reading; but what has happened cannot lie ahead."""
    account_id = add_account(shifted.engine, requests=1, per_seconds=60.0, options={"deadline_seconds": 5.0})
    _, [first, second] = add_poll(shifted.engine, account_id, [fetch(1), fetch(2)])
    assert isinstance(take(shifted.engine, first, runtime.watch), taking.Taken)
    shifted.step(-HOUR)
    assert isinstance(try_take(restarted(runtime, elsewhere=True), second), taking.NotYet)
    assert -3602 < steps(shifted.engine)[0] < -3590
    assert 3.0 < ahead(shifted.engine, "released_at", "calls") <= 5.0
    # Whoever saw the step itself finds it noted.
    clock_watching.look(runtime)
    assert len(steps(shifted.engine)) == 1


def test_a_lease_of_before_the_step_neither_ends_early_nor_late(runtime: Runtime, shifted: ShiftedClock) -> None:
    """What is on its way is not asked a second time; what was lost is found when it would have been."""
    account_id = add_account(shifted.engine, options={"deadline_seconds": 5.0})
    _, [fetch_id] = add_poll(shifted.engine, account_id, [fetch(1)])
    assert isinstance(take(shifted.engine, fetch_id, runtime.watch), taking.Taken)
    for seconds in (HOUR, -2 * HOUR):
        shifted.step(seconds)
        upkeep.reconcile(runtime)
        assert row(shifted.engine, "fetches", fetch_id)["state"] == "sending"
        assert 0.0 < ahead(shifted.engine, "lease_until", "fetches") <= 6.1


# -------------------------------------------------------------------------------------------------------- progress


def test_as_of_never_decreases_when_the_clock_is_set_back(runtime: Runtime, shifted: ShiftedClock) -> None:
    """It runs ahead of the clock until that has caught up; the call's own time is the clock's."""
    account_id = add_account(shifted.engine)
    _, ids = add_poll(shifted.engine, account_id, [fetch(1), fetch(2), fetch(3)])
    before = take(shifted.engine, ids[0], runtime.watch)
    shifted.step(-HOUR)
    taken = [before, *(try_take(runtime, fetch_id) for fetch_id in ids[1:])]
    assert sorted(each.as_of for each in taken) == [each.as_of for each in taken]
    assert len({each.as_of for each in taken}) == 3
    assert abs((taken[1].asked_at - now(shifted.engine)).total_seconds()) < 5


def test_an_id_is_due_as_if_the_clock_had_never_been_wrong(runtime: Runtime, shifted: ShiftedClock) -> None:
    """An hour ahead for a while, in which it was registered and asked for; then right."""
    shifted.step(HOUR)
    clock_watching.look(runtime)
    account_id = add_account(shifted.engine)
    track(runtime, account_id, [{"kind": "number", "value": f"s{number}:+905321234567"} for number in range(2)])
    execute(shifted.engine, "UPDATE tracked_ids SET next_check_at = clock_timestamp() WHERE value LIKE 's0%'")
    [fetch_id] = plan(runtime, account_id)
    Held(runtime, fetch_id).answer(vairo_body("s0:+905321234567", "Beklemede"))
    shifted.step(-HOUR)
    upkeep.reconcile(runtime)
    for column in ("sent_at", "registered_at", "last_checked_at", "last_found_at"):
        assert ahead(shifted.engine, column, "tracked_ids") <= 0.0
    never_checked = "last_checked_at IS NULL AND last_found_at IS NULL"
    assert scalar(shifted.engine, f"SELECT count(*) FROM tracked_ids WHERE value LIKE 's1:%' AND {never_checked}") == 1
    assert 0.0 < ahead(shifted.engine, "next_check_at", "tracked_ids") <= 20.0
    assert 23.9 * HOUR < ahead(shifted.engine, "valid_until", "tracked_ids") <= 24 * HOUR


@pytest.mark.parametrize("is_noticed", [False, True], ids=["answered unnoticed", "noticed before"])
def test_an_id_whose_answer_comes_after_the_step_is_due_as_its_age_says(
    runtime: Runtime, shifted: ShiftedClock, is_noticed: bool
) -> None:
    """It was asked for under the old clock, an hour ahead; all that its answer writes is of the new one."""
    account_id = add_account(shifted.engine)
    track(runtime, account_id, [{"kind": "number", "value": "s1:+905321234567"}])
    execute(shifted.engine, "UPDATE tracked_ids SET next_check_at = clock_timestamp()")
    [fetch_id] = plan(runtime, account_id)
    held = Held(runtime, fetch_id)
    shifted.step(-HOUR)
    if is_noticed:
        clock_watching.look(runtime)
    held.answer(vairo_body("s1:+905321234567", "Beklemede"))
    clock_watching.look(runtime)
    for column in ("sent_at", "last_checked_at", "last_found_at"):
        assert ahead(shifted.engine, column, "tracked_ids") <= 0.0
    # Its send is checked right after validity; the number itself as its age says.
    assert 0.0 < ahead(shifted.engine, "next_check_at", "tracked_ids", "id_kind = 'number'") <= 20.0


@pytest.mark.parametrize("is_noticed", [False, True], ids=["registered unnoticed", "noticed before"])
def test_what_was_sent_just_now_is_asked_for_though_the_clock_was_set_back_too_far(
    runtime: Runtime, shifted: ShiftedClock, is_noticed: bool
) -> None:
    """PostgreSQL's clock is an hour behind the sender's: nothing is to be sent in an hour. What is for tomorrow is."""
    account_id = add_account(shifted.engine)
    shifted.step(-HOUR)
    if is_noticed:
        clock_watching.look(runtime)
    truth = now(shifted.engine) + timedelta(seconds=HOUR)
    sendings = {"s1:+905321234567": truth - timedelta(seconds=1), "s2:+905321234567": truth + timedelta(days=1)}
    items = [{"kind": "number", "value": value, "sent_at": sent_at} for value, sent_at in sendings.items()]
    track(runtime, account_id, items)
    clock_watching.look(runtime)
    due = "SELECT value FROM tracked_ids WHERE next_check_at < clock_timestamp() + interval '10 s'"
    assert scalar(shifted.engine, due) == "s1:+905321234567"
    # Set right again, the clock is trusted again.
    shifted.step(HOUR)
    clock_watching.look(runtime)
    soon = now(shifted.engine) + timedelta(minutes=30)
    track(runtime, account_id, [{"kind": "number", "value": "s3:+905321234567", "sent_at": soon}])
    assert scalar(shifted.engine, "SELECT sent_at FROM tracked_ids WHERE value LIKE 's3%'") == soon


def test_lists_are_opened_at_their_interval_after_the_clock_was_set_back(
    runtime: Runtime, shifted: ShiftedClock
) -> None:
    """Not an hour later: they were last opened in what is now the future."""
    shifted.step(HOUR)
    clock_watching.look(runtime)
    account_id = add_account(shifted.engine, provider="iletimerkezi", poll={"every_seconds": 0.01})
    list(planning.plan_due(runtime, "iletimerkezi"))
    made = fetches_of(shifted.engine, account_id, "ready")
    shifted.step(-HOUR)
    upkeep.reconcile(runtime)
    for fetch_id in made:
        assert isinstance(try_take(runtime, fetch_id), taking.Taken)
    execute(
        shifted.engine,
        "UPDATE fetches SET state = 'cancelled', finished_at = now(), lease_token = NULL, lease_until = NULL",
    )
    assert planned_within(runtime, account_id, seconds=3.0)


def test_a_tick_of_before_the_step_is_not_taken_for_the_one_that_comes_again(
    runtime: Runtime, shifted: ShiftedClock
) -> None:
    """Every tick of the next minute was planned already, under the old clock; each is planned again."""
    account_id = add_account(shifted.engine, provider="iletimerkezi", poll={"every_seconds": 60})
    shifted.step(60.0)
    clock_watching.look(runtime)
    for seconds in range(-60, 60):
        tick = planning._floor(now(shifted.engine) + timedelta(seconds=seconds), 1.0)
        with shifted.engine.begin() as connection:
            new = NewPoll(account_id=account_id, trigger="schedule", scheduled_for=tick)
            poll_id, _ = open_poll(connection, new)
            assert poll_id is not None
            close_plan(connection, poll_id, 0)
    shifted.step(-60.0)
    clock_watching.look(runtime)
    assert planned_within(replace(runtime, tick_seconds=1.0), account_id, seconds=5.0)


def test_rests_of_an_account_keep_their_length_when_the_clock_is_set_back(
    runtime: Runtime, shifted: ShiftedClock
) -> None:
    """Throttled for 20 s, a breaker open for 30 s: not an hour longer. An operator's pause ends when it was said to."""
    account_id = add_account(shifted.engine)
    _, [fetch_id] = add_poll(shifted.engine, account_id, [fetch(1)])
    named = now(shifted.engine) + timedelta(hours=9)
    execute(
        shifted.engine,
        "UPDATE accounts SET not_before = clock_timestamp() + interval '20 s', breaker_state = 'open',"
        " breaker_until = clock_timestamp() + interval '30 s', wake_at = clock_timestamp() + interval '4 s',"
        " paused_until = :named WHERE id = :a",
        a=account_id,
        named=named,
    )
    execute(
        shifted.engine,
        "UPDATE fetches SET available_at = clock_timestamp() + interval '40 s'",
    )
    shifted.step(-HOUR)
    clock_watching.look(runtime)
    assert 15.0 < ahead(shifted.engine, "not_before", "accounts") <= 20.0
    assert 25.0 < ahead(shifted.engine, "breaker_until", "accounts") <= 30.0
    assert 35.0 < ahead(shifted.engine, "available_at", "fetches", "id = :id", id=fetch_id) <= 40.0
    account = row(shifted.engine, "accounts", account_id)
    assert (account["wake_at"], account["paused_until"]) == (None, named)


def test_an_account_that_was_told_to_be_silent_is_so_through_a_step_forward(
    runtime: Runtime, shifted: ShiftedClock
) -> None:
    """Throttled for 20 s, a breaker open for 30 s, paused for a minute; an operator's pause ends at its own time."""
    account_id, other = add_account(shifted.engine), add_account(shifted.engine)
    named = now(shifted.engine) + timedelta(hours=9)
    execute(
        shifted.engine,
        "UPDATE accounts SET not_before = clock_timestamp() + interval '20 s', last_trouble_at = clock_timestamp(),"
        " breaker_state = 'open', breaker_until = clock_timestamp() + interval '30 s', paused_by = 'automatic',"
        " pause_changed_at = clock_timestamp(), paused_until = clock_timestamp() + interval '1 minute' WHERE id = :a",
        a=account_id,
    )
    execute(
        shifted.engine,
        "UPDATE accounts SET paused_by = 'operator', pause_changed_at = clock_timestamp(), paused_until = :named,"
        " not_before = clock_timestamp() - interval '1 minute', last_trouble_at = clock_timestamp() - interval '2 min'"
        " WHERE id = :a",
        a=other,
        named=named,
    )
    shifted.step(HOUR)
    # Written after the step, before anybody has noticed it.
    third = add_account(shifted.engine)
    execute(
        shifted.engine,
        "UPDATE accounts SET not_before = clock_timestamp() + interval '20 s', last_trouble_at = clock_timestamp()"
        " WHERE id = :a",
        a=third,
    )
    clock_watching.look(runtime)
    for column, seconds in {"not_before": 20.0, "breaker_until": 30.0, "paused_until": 60.0}.items():
        assert seconds - 5.0 < ahead(shifted.engine, column, "accounts", "id = :a", a=account_id) <= seconds + 0.1
    assert 15.0 < ahead(shifted.engine, "not_before", "accounts", "id = :a", a=third) <= 20.0
    kept = row(shifted.engine, "accounts", other)
    assert (kept["paused_until"], kept["not_before"] < now(shifted.engine)) == (named, True)


def test_an_automatic_pause_of_a_minute_lasts_a_minute(runtime: Runtime, shifted: ShiftedClock) -> None:
    """It is moved with the clock."""
    account_id = add_account(shifted.engine)
    execute(
        shifted.engine,
        "UPDATE accounts SET paused_until = clock_timestamp() + interval '1 minute' WHERE id = :a",
        a=account_id,
    )
    shifted.step(-HOUR)
    clock_watching.look(runtime)
    assert 50.0 < ahead(shifted.engine, "paused_until", "accounts") <= 60.0


def test_an_id_rests_no_longer_than_its_account_ever_lets_one_rest(runtime: Runtime, shifted: ShiftedClock) -> None:
    """A rest after a dead letter was ordered under a clock a day ahead, though the id was looked at long before."""
    account_id = add_account(shifted.engine)
    [resting] = add_ids(
        shifted.engine, account_id, ["s1:+905321234567"], next_check_at=now(shifted.engine) + timedelta(hours=24)
    )
    execute(shifted.engine, "UPDATE tracked_ids SET registered_at = clock_timestamp() - interval '2 hours'")
    planned = now(shifted.engine) + timedelta(hours=20)
    [scheduled] = add_ids(shifted.engine, account_id, ["s2:+905321234567"], sent_at=planned, next_check_at=planned)
    execute(shifted.engine, "UPDATE tracked_ids SET registered_at = clock_timestamp() - interval '2 hours'")
    shifted.step(-60.0)
    clock_watching.look(runtime)
    assert row(shifted.engine, "tracked_ids", resting)["next_check_at"] <= now(shifted.engine)
    assert row(shifted.engine, "tracked_ids", scheduled)["next_check_at"] == planned


def test_an_id_that_a_wrong_clock_let_be_forgotten_is_asked_for_again(runtime: Runtime, shifted: ShiftedClock) -> None:
    """A clock a month ahead closes ids; set right, it takes that back. One that was settled stays closed."""
    account_id = add_account(shifted.engine)
    ids = add_ids(shifted.engine, account_id, ["s1:+905321234567", "s2:+905321234567"])
    shifted.step(30 * 86400.0)
    clock_watching.look(runtime)
    close = (
        "UPDATE tracked_ids SET closed_at = clock_timestamp(), close_reason = :why, next_check_at = NULL,"
        " last_checked_at = clock_timestamp() WHERE id = :id"
    )
    for tracked_id, why in zip(ids, ["forgotten", "final"], strict=True):
        execute(shifted.engine, close, id=tracked_id, why=why)
    shifted.step(-30 * 86400.0)
    clock_watching.look(runtime)
    assert [row(shifted.engine, "tracked_ids", each)["close_reason"] for each in ids] == [None, "final"]
    assert row(shifted.engine, "tracked_ids", ids[0])["next_check_at"] <= now(shifted.engine)


def test_days_that_have_not_come_are_not_swept(runtime: Runtime, shifted: ShiftedClock) -> None:
    """A clock a month ahead swept days that are still to come."""
    account_id = add_account(shifted.engine, provider="iletimerkezi")
    shifted.step(30 * 86400.0)
    clock_watching.look(runtime)
    wrong = now(shifted.engine).date()
    execute(shifted.engine, "UPDATE accounts SET swept_through = :day", day=wrong)
    add_poll(shifted.engine, account_id, [], sweep_through=wrong)
    shifted.step(-30 * 86400.0)
    clock_watching.look(runtime)
    account = row(shifted.engine, "accounts", account_id)
    assert account["swept_through"] < now(shifted.engine).date()
    assert scalar(shifted.engine, "SELECT count(*) FROM polls WHERE sweep_through IS NOT NULL") == 0


def test_what_one_worker_has_begun_another_finishes(
    runtime: Runtime, shifted: ShiftedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that noted the step dies before the rest is moved."""
    account_id = add_account(shifted.engine)
    _, [fetch_id] = add_poll(shifted.engine, account_id, [fetch(1)])
    take(shifted.engine, fetch_id, runtime.watch)
    shifted.step(-HOUR)
    monkeypatch.setattr(clock_watching, "_move_rest", lambda _: None)
    clock_watching.look(runtime)
    assert ahead(shifted.engine, "asked_at", "calls") > 3000
    monkeypatch.undo()
    clock_watching.look(restarted(runtime))
    assert ahead(shifted.engine, "asked_at", "calls") <= 0
    assert scalar(shifted.engine, "SELECT count(*) FROM clock_steps WHERE moved_at IS NULL") == 0
    assert steps(shifted.engine) == [-3600]


# --------------------------------------------------------------------------------------------------------- telling


def test_readiness_names_times_that_lie_ahead_until_a_worker_has_moved_them(
    runtime: Runtime, shifted: ShiftedClock
) -> None:
    """Nothing in the future counts as fresh."""
    account_id = add_account(shifted.engine)
    _, [fetch_id] = add_poll(shifted.engine, account_id, [fetch(1)])
    take(shifted.engine, fetch_id, runtime.watch)
    list(planning.plan_due(runtime, "vairo"))
    upkeep.reconcile(runtime)
    with shifted.engine.connect() as connection:
        assert stalls(connection) == []
    shifted.step(-HOUR)
    with shifted.engine.connect() as connection:
        reasons = stalls(connection)
        assert len(reasons) == 3
        assert all("set back" in reason for reason in reasons)
        assert last_step(connection) is None
    clock_watching.look(runtime)
    with shifted.engine.connect() as connection:
        assert stalls(connection) == []
        said = last_step(connection)
    assert said is not None
    assert said.startswith("The database's clock was set back by 3600.0 s (noticed at ")
    assert said.endswith("; its stored times were moved with it.")


def test_a_heartbeat_ahead_of_the_clock_is_taken_back_by_the_next(shifted: ShiftedClock) -> None:
    """No old word of the future stands for work that is done now."""
    for seconds in (HOUR, -HOUR):
        shifted.step(seconds)
        with shifted.engine.begin() as connection:
            beat(connection, RECONCILE)
    assert ahead(shifted.engine, "at", "heartbeats") <= 0


def test_a_machine_whose_own_clock_stood_still_stops_nobody(runtime: Runtime, shifted: ShiftedClock) -> None:
    """A paused virtual machine takes its boot clock for the truth: one note, and the others note nothing against it."""
    other = restarted(runtime, elsewhere=True)
    clock_watching.look(other)
    other.watch._reference = None  # as if its boot clock had gone on by itself
    clock_watching.look(other)
    known = runtime.watch._reference
    assert known is not None
    runtime.watch._reference = type(known)(least=known.least - 50, most=known.most - 50, taken=known.taken)
    for _ in range(3):
        clock_watching.look(runtime)
        clock_watching.look(other)
    assert steps(shifted.engine) == [50]


def test_a_watch_that_cannot_name_its_machine_still_sees_its_own_steps(shifted: ShiftedClock) -> None:
    """No boot id, as on macOS: nothing is stored, the process remembers."""
    watch = ClockWatch(boot_id=None)
    account_id = add_account(shifted.engine)
    _, ids = add_poll(shifted.engine, account_id, [fetch(1), fetch(2)])
    assert isinstance(take(shifted.engine, ids[0], watch), taking.Taken)
    shifted.step(20.0)
    assert isinstance(take(shifted.engine, ids[1], watch), taking.Stepped)
    with shifted.engine.begin() as connection:
        watch.keep(connection)
    assert scalar(shifted.engine, "SELECT count(*) FROM clock_readings WHERE boot_id IS NULL") == 0


# ------------------------------------------------------------------------------------------------- what is concluded


def track_one(runtime: Runtime, account_id: str, *, valid_minutes: float) -> None:
    """One number sent a minute ago, valid for so long from the clock as it is, due now."""
    at = now(runtime.engine)
    item = {
        "kind": "number",
        "value": "s1:+905321234567",
        "sent_at": at - timedelta(minutes=1),
        "valid_until": at + timedelta(minutes=valid_minutes),
    }
    track(runtime, account_id, [item])
    execute(runtime.engine, "UPDATE tracked_ids SET next_check_at = clock_timestamp()")


def test_unreported_is_withdrawn_once_the_clock_says_that_validity_has_not_ended(
    runtime: Runtime, shifted: ShiftedClock
) -> None:
    """A clock an hour ahead ended a validity of half an hour; set right, it takes that back and asks again."""
    account_id = add_account(shifted.engine)
    track_one(runtime, account_id, valid_minutes=30)
    shifted.step(HOUR)
    clock_watching.look(runtime)
    [fetch_id] = plan(runtime, account_id)
    Held(runtime, fetch_id).answer(vairo_body("s1:+905321234567", "WAITING"))
    assert deliveries(shifted.engine, account_id) == [("1", "unreported")]
    changed = "SELECT changed_in FROM delivery_status"
    before = scalar(shifted.engine, changed)
    shifted.step(-HOUR)
    clock_watching.look(runtime)
    assert deliveries(shifted.engine, account_id) == [("1", "enroute")]
    assert scalar(shifted.engine, "SELECT count(*) FROM observations WHERE source = 'ours'") == 0
    assert scalar(shifted.engine, changed) != before
    assert ahead(shifted.engine, "next_check_at", "tracked_ids", "id_kind = 'number'") <= 0.0


def test_unreported_stays_where_validity_has_ended_by_the_right_clock_too(
    runtime: Runtime, shifted: ShiftedClock
) -> None:
    """A step back withdraws only what it shows to be untrue."""
    account_id = add_account(shifted.engine)
    track_one(runtime, account_id, valid_minutes=-0.9)
    [fetch_id] = plan(runtime, account_id)
    Held(runtime, fetch_id).answer(vairo_body("s1:+905321234567", "WAITING"))
    shifted.step(-10.0)
    clock_watching.look(runtime)
    assert deliveries(shifted.engine, account_id) == [("1", "unreported")]


@pytest.mark.parametrize("is_noticed", [False, True], ids=["answered unnoticed", "noticed before"])
def test_an_answer_that_comes_after_a_step_back_ends_no_validity_that_has_not_ended(
    runtime: Runtime, shifted: ShiftedClock, is_noticed: bool
) -> None:
    """It was asked for under a clock an hour ahead."""
    account_id = add_account(shifted.engine)
    track_one(runtime, account_id, valid_minutes=30)
    shifted.step(HOUR)
    clock_watching.look(runtime)
    [fetch_id] = plan(runtime, account_id)
    held = Held(runtime, fetch_id)
    shifted.step(-HOUR)
    if is_noticed:
        clock_watching.look(runtime)
    held.answer(vairo_body("s1:+905321234567", "WAITING"))
    assert deliveries(shifted.engine, account_id) == [("1", "enroute")]


def test_what_was_sent_just_now_is_no_plan_for_a_clock_that_was_set_back_too_far(
    runtime: Runtime, shifted: ShiftedClock
) -> None:
    """PostgreSQL's clock is an hour behind the provider's: `sendAt` of now is past, and the order is polled soon.

    One that is to be sent tomorrow stays planned, and is polled when tomorrow comes by the provider's clock.
    """
    truth = now(shifted.engine)
    shifted.step(-HOUR)
    clock_watching.look(runtime)
    plans = {1: truth - timedelta(seconds=5), 2: truth + timedelta(days=1)}

    def reply(request: Request) -> Reply:
        order = request.body["request"]["order"]["id"]
        counts = {"total": 1, "delivered": 0, "undelivered": 0, "waiting": 1}
        planned = f"{plans[order]:%Y-%m-%d %H:%M:%S}"
        stated = {
            "id": order,
            "status": 113,
            "sendAt": planned,
            "message": [{"number": "+905321234567", "status": 110}],
        }
        return Reply(msgspec.json.encode({"response": {"status": {"code": 200}, "order": stated | counts}}))

    with TinyProvider(reply) as tiny:
        account_id = add_account(shifted.engine, provider="iletimerkezi", base_url=tiny.address("a"))
        due = now(shifted.engine) - timedelta(minutes=1)
        add_ids(shifted.engine, account_id, ["1", "2"], kind="order", sent_at=due, next_check_at=due)
        # Lists have nothing to do with it.
        execute(shifted.engine, "UPDATE accounts SET planned_at = clock_timestamp()")
        for fetch_id in plan(runtime, account_id):
            sent_by(drain(runtime, fetch_id))
    rows = "SELECT status, sent_at FROM delivery_status WHERE granularity = 'order' ORDER BY provider_key"
    with shifted.engine.connect() as connection:
        found = [tuple(each) for each in connection.execute(text(rows))]
    assert found == [("enroute", plans[1].replace(microsecond=0)), ("scheduled", None)]
    assert ahead(shifted.engine, "next_check_at", "tracked_ids", "value = '1'") < 600.0
    due_in = ahead(shifted.engine, "next_check_at", "tracked_ids", "value = '2'")
    assert 86400.0 - 60.0 < due_in <= 86400.0


def test_a_response_is_judged_by_the_clock_that_its_request_was_made_by(
    runtime: Runtime, shifted: ShiftedClock
) -> None:
    """A step that is noticed in between must not make a signature look right whose time was refused."""
    account_id = add_account(shifted.engine)
    add_ids(shifted.engine, account_id, ["s1:+905321234567"])
    [fetch_id] = plan(runtime, account_id)
    at = now(shifted.engine)
    received = Sent(outcome=Answer(status=403, asked_at=at, received_at=at), duration_seconds=0.1, answered_boot=0.0)
    held = Held(runtime, fetch_id)
    early = held.prepared
    shifted.step(-HOUR)
    clock_watching.look(runtime)
    late = prepare(runtime, held.taken)
    for prepared, seconds in ((early, 0.0), (late, HOUR)):
        judged: list[Answer] = []

        class Recording:
            """Reads nothing; keeps what it is given."""

            def parse(self, *given: Any, judged: list[Answer] = judged) -> Parsed:
                judged.append(given[2])
                return Parsed()

        parse_response(replace(prepared, adapter=cast("Any", Recording())), received)
        assert judged[0].asked_at == judged[0].received_at
        assert judged[0].received_at is not None
        assert (judged[0].received_at - at).total_seconds() == pytest.approx(seconds, abs=0.5)
