"""Where callbacks arrive, polls only cover what they miss; where they stop, polls cover everything again."""

import json
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from callback_acts import (
    CHECKED,
    CHECKED_AGAIN,
    CLOSE,
    ONE,
    OTHER,
    account_row,
    counted,
    list_order,
    push,
    read_messages,
    ready_fetches,
    tracked_order,
    webhook_account,
)
from driving import make_runtime, scalar
from ledger_acts import add_ids, execute
from sqlalchemy import Engine
from teaching import HOUR_AGO, plan_of

from ulak.core import clock
from ulak.models import callback_shares
from ulak.models.database import transaction
from ulak.models.ledger.ending import discover
from ulak.models.vocabulary import Source, Status
from ulak.providers.adapter import Callback
from ulak.providers.registry import ADAPTERS
from ulak.schedules.policy import next_check
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.callbacks import ingest
from ulak.tasks.steps.latency_learning import learn_all
from ulak.tasks.steps.tracking import schedule_of

NUMBERS = count(1000)


@pytest.fixture
def runtime(migrated_database: Engine) -> Runtime:
    """A runtime whose credentials are always found."""
    return make_runtime(migrated_database, resolve=lambda _: "secret", tick_seconds=0.01)


def test_an_order_of_which_callbacks_have_brought_every_end_is_not_polled(runtime: Runtime) -> None:
    """It is closed where it would have been asked for; the last callback is the moment at which it was final."""
    account_id = webhook_account(runtime)
    tracked = tracked_order(runtime, account_id, "501")
    for number in (ONE, OTHER):
        push(runtime, account_id, "501", number)
    assert ready_fetches(runtime, account_id) == 0
    closed = "SELECT close_reason FROM tracked_ids WHERE id = :id AND announced_at = last_checked_at"
    assert scalar(runtime.engine, closed, id=tracked) == "final"


@pytest.mark.parametrize(
    "case", ["one is open", "more are expected", "not known how many", "not adaptive", "no webhook", "no callback"]
)
def test_an_order_that_callbacks_have_not_settled_is_polled(runtime: Runtime, case: str) -> None:
    """Whatever a poll may still find is asked for; without a webhook everything is as it was."""
    poll: dict[str, Any] = {"adaptive": False} if case == "not adaptive" else {}
    account_id = webhook_account(runtime, webhook=case != "no webhook", **poll)
    expected = {"more are expected": 3, "not known how many": None}.get(case, 2)
    tracked = tracked_order(runtime, account_id, "501", expected=expected)
    if case == "no callback":
        read_messages(runtime, account_id, "501", [ONE, OTHER], Status.DELIVERED)
    else:
        push(runtime, account_id, "501", ONE)
        if case != "one is open":
            push(runtime, account_id, "501", OTHER)
    assert ready_fetches(runtime, account_id) == 1
    assert scalar(runtime.engine, "SELECT closed_at IS NULL FROM tracked_ids WHERE id = :id", id=tracked)


@pytest.mark.parametrize("polls", [1, 2, 3])
def test_an_order_that_a_list_opens_again_is_counted_once(runtime: Runtime, polls: int) -> None:
    """Callbacks settled it; the polls that the changed order asks for find nothing that they had not brought."""
    account_id, began = webhook_account(runtime), clock.now() - timedelta(seconds=1)
    tracked = tracked_order(runtime, account_id, "501")
    for number in (ONE, OTHER):
        push(runtime, account_id, "501", number)
    assert ready_fetches(runtime, account_id) == 0
    once = callback_shares.Shares(announced=2, missed=0), 1
    assert counted(runtime, account_id, "order", began) == once
    settled = clock.now()
    with transaction(runtime.engine) as connection:
        discover(connection, account_id, clock.now(), [], [{"id_kind": "order", "value": "501"}])
    for _ in range(polls - 1):
        execute(runtime.engine, CHECKED_AGAIN, a=account_id)
    execute(runtime.engine, CLOSE, a=account_id)
    assert scalar(runtime.engine, "SELECT close_reason FROM tracked_ids WHERE id = :id", id=tracked) == "final"
    assert counted(runtime, account_id, "order", settled) == (callback_shares.Shares(announced=0, missed=0), 0)


@pytest.mark.parametrize("webhook", [True, False])
def test_a_list_asks_for_an_order_only_where_it_counts_ends_that_are_not_known(runtime: Runtime, webhook: bool) -> None:
    """What callbacks have brought is no reason to poll, whether the order is open or settled; without them it is."""
    account_id = webhook_account(runtime, webhook=webhook)
    tracked = tracked_order(runtime, account_id, "501")
    due = "SELECT next_check_at <= now() FROM tracked_ids WHERE id = :id"
    list_order(runtime, account_id, status=113, delivered=0)
    push(runtime, account_id, "501", ONE)
    list_order(runtime, account_id, status=113, delivered=1)
    assert scalar(runtime.engine, due, id=tracked) is not webhook
    list_order(runtime, account_id, status=113, delivered=1, undelivered=1)
    assert scalar(runtime.engine, due, id=tracked)
    push(runtime, account_id, "501", OTHER, "undelivered")
    assert (ready_fetches(runtime, account_id) == 0) is webhook


@pytest.mark.parametrize("counts", [(2, 0), (0, 2), (1, 1)])
def test_a_settled_order_that_ends_otherwise_in_its_list_is_polled(runtime: Runtime, counts: tuple[int, int]) -> None:
    """Callbacks brought one delivered and one not: only that sum is explained."""
    account_id = webhook_account(runtime)
    tracked = tracked_order(runtime, account_id, "501")
    push(runtime, account_id, "501", ONE)
    push(runtime, account_id, "501", OTHER, "undelivered")
    assert ready_fetches(runtime, account_id) == 0
    list_order(runtime, account_id, status=114, delivered=counts[0], undelivered=counts[1])
    is_open = "SELECT closed_at IS NULL FROM tracked_ids WHERE id = :id"
    assert scalar(runtime.engine, is_open, id=tracked) is (counts != (1, 1))


def test_unreported_settles_no_order(runtime: Runtime) -> None:
    """It is our own statement: the provider may still report the end."""
    account_id = webhook_account(runtime)
    tracked_order(runtime, account_id, "501")
    read_messages(runtime, account_id, "501", [OTHER], Status.UNREPORTED, source=Source.OURS)
    push(runtime, account_id, "501", ONE)
    assert ready_fetches(runtime, account_id) == 1


def test_a_list_that_counts_an_end_of_an_unreported_message_asks_for_its_order(runtime: Runtime) -> None:
    """The message has no end that the provider reported, so callbacks do not explain the count."""
    account_id = webhook_account(runtime)
    tracked = tracked_order(runtime, account_id, "501")
    list_order(runtime, account_id, status=113, delivered=0)
    read_messages(runtime, account_id, "501", [OTHER], Status.UNREPORTED, source=Source.OURS)
    push(runtime, account_id, "501", ONE)
    list_order(runtime, account_id, status=114, delivered=2)
    assert scalar(runtime.engine, "SELECT next_check_at <= now() FROM tracked_ids WHERE id = :id", id=tracked)


@pytest.mark.parametrize(("seconds", "announced_ends"), [(0, 1), (50, 1), (70, 0)])
def test_a_callback_that_comes_soon_after_a_poll_has_announced_the_end(
    runtime: Runtime, seconds: int, announced_ends: int
) -> None:
    """The poll was needless, however often polls come; a callback that is later than a minute announces nothing."""
    account_id, began = webhook_account(runtime), clock.now() - timedelta(seconds=1)
    tracked_order(runtime, account_id, "501", expected=1)
    read_messages(runtime, account_id, "501", [ONE, OTHER], Status.DELIVERED)
    execute(
        runtime.engine,
        "UPDATE observations SET first_seen_at = first_seen_at - make_interval(secs => :by) WHERE delivery_id IN"
        " (SELECT id FROM delivery_status WHERE account_id = :a)",
        a=account_id,
        by=seconds,
    )
    push(runtime, account_id, "501", ONE)
    execute(runtime.engine, CLOSE, a=account_id)
    shares = callback_shares.Shares(announced=announced_ends, missed=2 - announced_ends)
    assert counted(runtime, account_id, "order", began)[0] == shares


def test_an_id_that_a_callback_named_first_is_counted(runtime: Runtime) -> None:
    """Its sending, its announcement and the moment before its first check are the same."""
    account_id, began = webhook_account(runtime, "organik"), clock.now() - timedelta(seconds=1)
    ingest(runtime, account_row(runtime, account_id), Callback(tail="1", body=b""))
    execute(runtime.engine, CLOSE, a=account_id)
    same = "SELECT announced_at = sent_at AND checked_before_at = sent_at FROM tracked_ids WHERE account_id = :a"
    assert scalar(runtime.engine, same, a=account_id)
    assert counted(runtime, account_id, "transaction", began)[0] == callback_shares.Shares(announced=1, missed=0)


def _waits(runtime: Runtime, account_id: str, kind: str) -> float:
    """How long after the first check of an id the next one comes."""
    row, sent = account_row(runtime, account_id), clock.now()
    adapter = ADAPTERS[row.provider]
    moment = next_check(
        adapter.record.poll,
        sent_at=sent,
        valid_until=sent + timedelta(days=2),
        now=sent + timedelta(microseconds=1),
        **schedule_of(row, kind, None),
    )
    assert moment is not None
    return (moment - sent).total_seconds()


def _announce(runtime: Runtime, account_id: str, many: int, *, missed: int = 0) -> None:
    """Orders of one recipient that callbacks have settled, and some that a poll had to find; then a look."""
    execute(runtime.engine, "DELETE FROM tracked_ids WHERE account_id = :a", a=account_id)
    execute(runtime.engine, HOUR_AGO, a=account_id)
    orders = [str(next(NUMBERS)) for _ in range(many + missed)]
    add_ids(runtime.engine, account_id, orders, kind="order", expected=1)
    execute(runtime.engine, f"{CHECKED} AND closed_at IS NULL", a=account_id)
    for order in orders:
        read_messages(runtime, account_id, order, [ONE], Status.ENROUTE)
    for order in orders[:many]:
        push(runtime, account_id, order, ONE)
    for order in orders[many:]:
        read_messages(runtime, account_id, order, [ONE], Status.DELIVERED)
    execute(runtime.engine, CLOSE, a=account_id)
    execute(
        runtime.engine, "UPDATE tracked_ids SET closed_at = now() - interval '20 s' WHERE account_id = :a", a=account_id
    )
    learn_all(runtime)


def test_where_callbacks_come_orders_are_polled_less_and_where_they_stop_as_before(runtime: Runtime) -> None:
    """The waits grow with the share that callbacks bring, and shrink back after a handful of misses."""
    account_id = webhook_account(runtime)
    usual = _waits(runtime, account_id, "order")
    _announce(runtime, account_id, 1)
    _announce(runtime, account_id, 38, missed=2)
    assert plan_of(runtime.engine, account_id)["missed"]["order"] == pytest.approx(0.1, abs=0.05)
    assert _waits(runtime, account_id, "order") > 2.5 * usual
    _announce(runtime, account_id, 0, missed=8)
    assert plan_of(runtime.engine, account_id)["missed"] == {}
    assert _waits(runtime, account_id, "order") == pytest.approx(usual)


def _put_plan(runtime: Runtime, account_id: str, *, missed: float) -> None:
    """Let the account have learned that callbacks miss this share."""
    row = account_row(runtime, account_id)
    settings = {"form": 1, "poll": row.poll, "options": row.options}
    plan = json.dumps({"kinds": {}, "missed": {"order": missed}, "settings": settings})
    execute(runtime.engine, "UPDATE accounts SET poll_plan = CAST(:p AS jsonb) WHERE id = :a", p=plan, a=account_id)


@pytest.mark.parametrize(("every_seconds", "times"), [(300.0, 20.0), (301.0, 20.0**0.5)])
def test_orders_whose_list_is_swept_often_are_polled_even_less(
    runtime: Runtime, every_seconds: float, times: float
) -> None:
    """The list makes an order due whose end no callback brought; rare sweeps leave that to the order's own checks."""
    account_id = webhook_account(runtime, every_seconds=every_seconds)
    usual = _waits(runtime, account_id, "order")
    _put_plan(runtime, account_id, missed=0.05)
    assert _waits(runtime, account_id, "order") == pytest.approx(times * usual, rel=1e-3)


def test_configured_waits_stay_however_reliable_callbacks_are(runtime: Runtime) -> None:
    """`first_check_seconds`, `max_check_seconds` and `adaptive = false` are kept exactly."""
    for poll, wait in (
        ({"first_check_seconds": 7.0}, 7.0),
        ({"max_check_seconds": 9.0}, 9.0),
        ({"adaptive": False}, 10.0),
    ):
        account_id = webhook_account(runtime, **poll)
        _put_plan(runtime, account_id, missed=0.02)
        assert _waits(runtime, account_id, "order") == pytest.approx(wait, abs=1e-3)


def test_a_push_that_only_names_its_id_is_counted_by_the_poll_that_follows(runtime: Runtime) -> None:
    """The id is due at once; that poll finds what the push announced, any other one what no push did."""
    account_id = webhook_account(runtime, "organik")
    tracked = add_ids(runtime.engine, account_id, [str(n) for n in range(40)], kind="transaction", expected=1,
                      next_check_at=clock.now() + timedelta(hours=1))  # fmt: skip
    for number in range(30):
        ingest(runtime, account_row(runtime, account_id), Callback(tail=f"{number}", body=b""))
    due = (
        "SELECT count(*) FROM tracked_ids WHERE account_id = :a AND next_check_at <= now() AND announced_at IS NOT NULL"
    )
    assert scalar(runtime.engine, due, a=account_id) == 30
    execute(runtime.engine, f"{CLOSE} AND id = :one", a=account_id, one=tracked[0])
    settled = (
        "UPDATE tracked_ids SET closed_at = now() - interval '20 s' WHERE account_id = :a AND closed_at IS NOT NULL"
    )
    execute(runtime.engine, settled, a=account_id)
    learn_all(runtime)
    execute(runtime.engine, CLOSE, a=account_id)
    execute(runtime.engine, settled, a=account_id)
    execute(runtime.engine, HOUR_AGO, a=account_id)
    learn_all(runtime)
    assert plan_of(runtime.engine, account_id)["missed"]["transaction"] == pytest.approx(12 / 42, abs=0.05)


def test_a_push_that_brought_nothing_final_announces_nothing(runtime: Runtime) -> None:
    """The poll after it found the id open; a later poll found the end by itself."""
    account_id = webhook_account(runtime, "organik")
    add_ids(runtime.engine, account_id, ["1"], kind="transaction", expected=1)
    ingest(runtime, account_row(runtime, account_id), Callback(tail="1", body=b""))
    execute(runtime.engine, "UPDATE tracked_ids SET last_checked_at = now() WHERE account_id = :a", a=account_id)
    execute(runtime.engine, CLOSE, a=account_id)
    announced = "SELECT announced_at >= checked_before_at FROM tracked_ids WHERE account_id = :a"
    assert scalar(runtime.engine, announced, a=account_id) is False
