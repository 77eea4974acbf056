"""What is planned when: sweeps and their watermark, fair plans; and when an account is woken."""

from datetime import date, timedelta
from typing import Any

import msgspec
import pytest
from driving import make_runtime, miscounted_polls, perform
from ledger_acts import (
    Held,
    add_account,
    add_ids,
    add_poll,
    execute,
    fetch,
    fetches_of,
    plan,
    row,
    take,
    take_next,
    woken,
)
from sqlalchemy import Engine

from ulak.core import clock
from ulak.models.ledger import ending as ledger
from ulak.models.ledger import opening, taking
from ulak.models.ledger.clockwatch import ClockWatch
from ulak.models.ledger.planner_queries import oldest_open_order, promote_waiting
from ulak.tasks.messages import wake_up
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.ondemand import open_on_demand
from ulak.tasks.steps.planning import _plan_scheduled, plan_due, plan_poll


@pytest.fixture
def runtime(shared_database: Engine) -> Runtime:
    """A runtime whose credentials are always found."""
    return make_runtime(shared_database, resolve=lambda _: "secret")


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
        assert miscounted_polls(engine, account_id) == []
    assert ends == {
        "whole": ("complete", [1], yesterday),
        "shifted once": ("complete", [1, 2], yesterday),
        "drifting": ("complete_with_errors", [1, 2, 3], None),
        "without a count": ("complete", [1], yesterday),
    }


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


def test_the_oldest_order_that_is_still_open_and_not_forgotten_decides_how_far_back_a_sweep_begins(
    runtime: Runtime,
) -> None:
    """Final orders, messages and what the provider has forgotten ask for no day; an unknown time is that of arrival."""
    engine = runtime.engine
    account_id = add_account(engine, provider="iletimerkezi")
    insert = (
        "INSERT INTO delivery_status (account_id, provider, granularity, provider_key, status, provider_status,"
        " is_final, sent_at, first_seen_at)"
        " VALUES (:a, 'iletimerkezi', :granularity, :key, 'enroute', '113', :final, :sent, :seen)"
    )
    now = clock.now().replace(microsecond=0)
    found = []
    for key, (granularity, final, sent, seen) in enumerate(
        [
            ("order", True, 9, 9),
            ("message", False, 9, 9),
            ("order", False, 40, 40),
            ("order", False, None, 3),
            ("order", False, 5, 2),
        ]
    ):
        moments = {"sent": None if sent is None else now - timedelta(days=sent), "seen": now - timedelta(days=seen)}
        execute(engine, insert, a=account_id, granularity=granularity, key=str(key), final=final, **moments)
        with engine.begin() as connection:
            oldest = oldest_open_order(connection, account_id, 30.0)
        found.append(None if oldest is None else (now - oldest).days)
    assert found == [None, None, None, 3, 5]


def test_a_window_whose_page_is_in_the_air_is_not_opened_again(runtime: Runtime) -> None:
    """Its interval has passed, but what was asked is not answered yet."""
    engine = runtime.engine
    account_id = add_account(engine, provider="iletimerkezi", options={"details": False})
    for fetch_id in plan(runtime, account_id):
        take(engine, fetch_id)
    execute(engine, "UPDATE accounts SET planned_at = NULL, closed_swept_at = NULL WHERE id = :a", a=account_id)
    assert plan(runtime, account_id) == []


def test_closed_days_are_swept_as_often_as_there_is_reason_to(runtime: Runtime) -> None:
    """An unswept day at every interval, an open order at every tenth, else once an hour; then the next is counted."""
    engine = runtime.engine
    yesterday = clock.now().date() - timedelta(days=1)
    order = (
        "INSERT INTO delivery_status (account_id, provider, granularity, provider_key, status, provider_status,"
        " is_final) VALUES (:a, 'iletimerkezi', 'order', '1', 'enroute', '113', false)"
    )
    opened = {}
    for why, minutes in (("unswept", 2), ("open", 2), ("open", 11), ("none", 11), ("none", 61)):
        account_id = add_account(engine, provider="iletimerkezi", options={"details": False},
                                 poll={"every_seconds": 60})  # fmt: skip
        if why == "open":
            execute(engine, order, a=account_id)
        execute(engine, "UPDATE accounts SET closed_swept_at = now() - make_interval(mins => :minutes),"
                " swept_through = :through WHERE id = :a", a=account_id, minutes=minutes,
                through=None if why == "unswept" else yesterday)  # fmt: skip
        windows = [row(engine, "fetches", each)["params"]["window"] for each in plan(runtime, account_id)]
        swept = row(engine, "accounts", account_id)["closed_swept_at"]
        opened[why, minutes] = (len(windows) > 1, clock.now() - swept < timedelta(minutes=1))
    assert opened == {
        ("unswept", 2): (True, True),
        ("open", 2): (False, False),
        ("open", 11): (True, True),
        ("none", 11): (False, False),
        ("none", 61): (True, True),
    }


def test_a_plan_that_leaves_a_closed_window_to_another_poll_vouches_for_no_day(runtime: Runtime) -> None:
    """The other poll may end in errors; the days are swept again until one poll has seen them all."""
    engine = runtime.engine
    account_id = add_account(engine, provider="iletimerkezi", options={"details": False, "window_days": 1})
    today, *closed = plan(runtime, account_id)
    left = Held(runtime, closed[0]).taken.params["window"]
    for fetch_id in (today, *closed[1:]):
        Held(runtime, fetch_id).answer(list_body([], 0))
    execute(engine, "UPDATE accounts SET planned_at = NULL, closed_swept_at = NULL WHERE id = :a", a=account_id)
    again = [row(engine, "fetches", fetch_id) for fetch_id in plan(runtime, account_id)]
    assert len(again) == len(closed)
    assert left not in [fetch["params"]["window"] for fetch in again]
    assert row(engine, "polls", again[0]["poll_id"])["sweep_through"] is None


def test_a_window_that_drifts_is_not_forgotten_when_another_is_whole(runtime: Runtime) -> None:
    """The poll ends with errors whichever of its fetches ends last."""
    engine = runtime.engine
    account_id = add_account(engine)
    poll_id, ids = add_poll(engine, account_id, [fetch(1), fetch(2)], sweep_through=clock.now().date())
    for fetch_id, drifting in zip(ids, (True, False), strict=True):
        with engine.begin() as connection:
            ledger.end_fetch(connection, ledger.FetchEnd(fetch_id=fetch_id, state="done"))
            ledger.count_poll(connection, poll_id, ledger.PollCounts(ended=1, drifting=drifting))
    assert row(engine, "polls", poll_id)["state"] == "complete_with_errors"


def test_an_on_demand_poll_asks_for_the_days_it_names_or_for_all(runtime: Runtime) -> None:
    """Its days up to today, in windows as long as the provider allows; without, the lookback and all open ids."""
    engine = runtime.engine
    today = clock.now().date()
    far, near, yesterday, tomorrow = (today + timedelta(days=days) for days in (-13, -2, -1, 1))
    found = {}
    for name, window in {
        "days": (near, yesterday),
        "long": (far, yesterday),
        "ahead": (yesterday, tomorrow),
        "all": (None, None),
    }.items():
        account_id = add_account(engine, provider="iletimerkezi", options={"window_days": 99},
                                 poll={"lookback_days": 2})  # fmt: skip
        add_ids(engine, account_id, ["7", "8"], kind="order")
        poll_id = open_on_demand(runtime, account_id, trigger="api", window=window)
        plan_poll(runtime, account_id, poll_id)
        asked = [row(engine, "fetches", each)["params"] for each in fetches_of(engine, account_id, "ready")]
        windows = [tuple(params["window"]) for params in asked if "window" in params]
        found[name] = (windows, len(asked) - len(windows))
    days = {day: day.isoformat() for day in (far, near, yesterday, today)}
    tenth, next_day = (far + timedelta(days=9)).isoformat(), (far + timedelta(days=10)).isoformat()
    assert found == {
        "days": ([(days[near], days[yesterday])], 0),
        "long": ([(days[far], tenth), (next_day, days[yesterday])], 0),
        "ahead": ([(days[yesterday], days[yesterday]), (days[today], days[today])], 0),
        "all": ([(days[near], days[yesterday]), (days[today], days[today])], 2),
    }


# ------------------------------------------------------------------------------------------ fair
def test_what_has_been_due_for_long_is_planned_though_young_ones_fill_every_plan(runtime: Runtime) -> None:
    """Young ids go first, but none that is due for more than an hour longer waits behind them."""
    engine = runtime.engine
    account_id = add_account(engine, requests=1, per_seconds=10)
    now = clock.now()
    old: dict[str, Any] = {"sent_at": now - timedelta(days=1), "valid_until": now + timedelta(days=1)}
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
    found = take_next(engine, account_id)
    assert isinstance(found, taking.Taken)
    assert found.fetch_id == ids[0]


def test_raising_what_waits_lowers_nothing(runtime: Runtime) -> None:
    """A fetch on demand keeps its rank, however long it has waited."""
    engine = runtime.engine
    account_id = add_account(engine)
    _, ids = add_poll(engine, account_id, [fetch(1, priority=10), fetch(2, priority=60), fetch(3, priority=61)])
    waited = "UPDATE fetches SET available_at = now() - interval '1 hour' WHERE id = ANY(:ids)"
    execute(engine, waited, ids=ids[:2])
    with engine.begin() as connection:
        promote_waiting(connection, account_id, priority=30, waited_seconds=60)
    assert [row(engine, "fetches", each)["priority"] for each in ids] == [10, 30, 61]


def test_one_account_that_cannot_be_planned_keeps_no_other_from_it(runtime: Runtime) -> None:
    """Its trouble is one line in the log; the others of the provider are planned."""
    execute(runtime.engine, "UPDATE accounts SET enabled = false WHERE provider = 'vairo'")
    first, second = sorted(add_account(runtime.engine) for _ in range(2))
    for account_id in (first, second):
        add_ids(runtime.engine, account_id, ["s1:+905321234567"])
    execute(runtime.engine, "UPDATE accounts SET timezone = 'No/Where' WHERE id = :a", a=first)
    list(plan_due(runtime, "vairo"))
    execute(runtime.engine, "UPDATE accounts SET enabled = false WHERE id = :a", a=first)
    assert [len(fetches_of(runtime.engine, each, "ready")) for each in (first, second)] == [0, 1]


def test_an_id_that_is_being_asked_for_is_not_planned_again(runtime: Runtime) -> None:
    """Neither while its fetch waits nor while it is in the air, young or old."""
    engine = runtime.engine
    account_id = add_account(engine)
    hours_ago = clock.now() - timedelta(hours=3)
    add_ids(engine, account_id, ["s1:+905321234501"])
    add_ids(engine, account_id, ["s2:+905321234502"], sent_at=hours_ago, next_check_at=hours_ago)
    ready = plan(runtime, account_id)
    for fetch_id in ready:
        take(engine, fetch_id)
    assert (len(ready), plan(runtime, account_id)) == (2, [])


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


def test_an_id_that_is_being_asked_for_fills_no_further_batch(runtime: Runtime) -> None:
    """Its own fetch would lose it, and it would be asked for twice."""
    engine = runtime.engine
    account_id = add_account(engine, provider="organik", options={"batch_size": 10})
    soon = clock.now() + timedelta(seconds=60)
    add_ids(engine, account_id, ["1"], kind="gsm_track")
    [held] = plan(runtime, account_id)
    execute(engine, "UPDATE tracked_ids SET next_check_at = :soon WHERE account_id = :a", soon=soon, a=account_id)
    take(engine, held)
    add_ids(engine, account_id, ["2"], kind="gsm_track")
    [fetch_id] = plan(runtime, account_id)
    assert row(engine, "fetches", fetch_id)["params"]["ids"] == ["2"]


# ------------------------------------------------------------------------------------------ waking
def test_a_message_comes_for_the_next_free_slot_and_for_the_next_retry(runtime: Runtime) -> None:
    """What waits for a slot, or for its retry, is tried again then, and not before; one message is on its way."""
    engine = runtime.engine
    account_id = add_account(engine, requests=1, per_seconds=4)
    _, ids = add_poll(engine, account_id, [fetch(1), fetch(2)])
    began = clock.boot()
    taken = take(engine, ids[0])
    assert isinstance(taken, taking.Taken)
    assert taken.wake_up is None
    with engine.begin() as connection:
        end = ledger.CallEnd(call_id=taken.permit.call_id, outcome="ok", http_status=200, duration_seconds=0.0,
                             seconds_since=0.0)  # fmt: skip
        ledger.close_call(connection, taken.fetch_id, taken.lease_token, end)
    slot, again = (woken(engine, account_id, by_message=False) for _ in range(2))
    assert (slot and slot.fetch_id, again) == (ids[1], None)
    assert slot is not None
    assert 4 - (clock.boot() - began) - 0.1 <= slot.delay_seconds <= 4.1
    execute(engine, "UPDATE accounts SET wake_at = now() - interval '1 second' WHERE id = :a", a=account_id)
    assert woken(engine, account_id, by_message=False) is None, "it may have been published, and not been heard yet"
    found = take_heard(engine, ids[1])
    assert isinstance(found, taking.NotYet)
    assert found.wake_up is not None, "a message that was heard is on its way no more"
    early = take_heard(engine, ids[1])
    assert isinstance(early, taking.NotYet)
    assert early.wake_up is None, "the account's message is another one, and due later"
    # That one is published early when its process stops.
    [message] = perform(runtime, wake_up(found.wake_up)[0].early())
    assert (message.kwargs, message.countdown_seconds > 2) == ({"fetch_id": ids[1]}, True)
    other = add_account(engine)
    _, ids = add_poll(engine, other, [fetch(1), fetch(2)])
    began = clock.boot()
    execute(engine, "UPDATE fetches SET available_at = now() + interval '4 seconds' WHERE id = :id", id=ids[1])
    retry = take_next(engine, other)
    assert isinstance(retry, taking.Taken)
    assert retry.wake_up is not None
    assert (retry.fetch_id, retry.wake_up.fetch_id) == (ids[0], ids[1])
    assert 4 - (clock.boot() - began) - 0.1 <= retry.wake_up.delay_seconds <= 4.1


def take_heard(engine: Engine, fetch_id: int) -> taking.TakeResult:
    """Take as one to whom a message has come."""
    holder = taking.LeaseHolder(watch=ClockWatch(), lease_margin_seconds=1.0)
    with engine.begin() as connection:
        return taking.take(connection, holder, fetch_id=fetch_id, by_message=True)


def test_each_take_has_one_further_message_published_while_there_is_room(runtime: Runtime) -> None:
    """Until the concurrency or the work is used up; a message that is on its way already is not repeated."""
    engine = runtime.engine
    account_id = add_account(engine, concurrency=3)
    _, ids = add_poll(engine, account_id, [fetch(number) for number in range(5)])
    found = [take_heard(engine, ids[0]), take_next(engine, account_id), take_heard(engine, ids[0])]
    assert [each.fetch_id for each in found if isinstance(each, taking.Taken)] == ids[:3]
    call_ups = [each.wake_up for each in found if isinstance(each, taking.Taken | taking.NotYet)]
    assert [each and (each.fetch_id, each.delay_seconds) for each in call_ups] == [(ids[1], 0.0), None, None]
    assert take_heard(engine, ids[0]) == taking.NotYet(account_id=account_id, why="concurrency used")


def test_an_account_that_is_switched_off_is_not_woken(runtime: Runtime) -> None:
    """Its fetches could not be taken, and each message would bring the next."""
    engine = runtime.engine
    account_id = add_account(engine)
    add_poll(engine, account_id, [fetch(1)])
    execute(engine, "UPDATE accounts SET enabled = false WHERE id = :a", a=account_id)
    assert woken(engine, account_id) is None
    assert row(engine, "accounts", account_id)["wake_at"] is None


def test_a_message_whose_fetch_was_cancelled_has_the_next_one_made(runtime: Runtime) -> None:
    """Nothing waits for the reconciler."""
    engine = runtime.engine
    account_id = add_account(engine, concurrency=1)
    poll_id, [first] = add_poll(engine, account_id, [fetch(1, priority=10)])
    _, [second] = add_poll(engine, account_id, [fetch(2)])
    found = woken(engine, account_id)
    assert (found and found.fetch_id) == first
    with engine.begin() as connection:
        opening.cancel(connection, poll_id)
    taken = take_heard(engine, first)
    assert isinstance(taken, taking.Taken)
    assert taken.fetch_id == second
