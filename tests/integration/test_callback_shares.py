"""Where callbacks arrive, polls only cover what they miss; where they stop, polls cover everything again."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import msgspec
import pytest
from driving import make_runtime, scalar
from ledger_acts import Held, add_account, add_ids, execute, fetches_of, plan
from sqlalchemy import Engine
from teaching import HOUR_AGO, plan_of

from ulak.core import clock
from ulak.models import callback_shares, latencies
from ulak.models.account import find
from ulak.models.database import transaction
from ulak.models.deliveries import upsert
from ulak.models.ledger.ending import discover
from ulak.models.report import DeliveryReport
from ulak.models.vocabulary import Granularity, Source, Status
from ulak.providers.adapter import Callback
from ulak.providers.registry import ADAPTERS
from ulak.schedules.policy import next_check
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.callbacks import ingest
from ulak.tasks.steps.latency_learning import learn_all
from ulak.tasks.steps.planning import plan_due
from ulak.tasks.steps.tracking import schedule_of

NUMBERS = count(1000)
ONE, OTHER = "+905301234567", "+905301234568"
CHECKED = """
    UPDATE tracked_ids SET last_checked_at = now() - interval '5 s', last_found_at = now() - interval '5 s',
        checked_before_at = sent_at
    WHERE account_id = :a
"""
LATER = "UPDATE tracked_ids SET next_check_at = now() + interval '1 h' WHERE account_id = :a AND closed_at IS NULL"
CHECKED_AGAIN = """
    UPDATE tracked_ids SET checked_before_at = last_checked_at, last_checked_at = now(), changed_as_of = NULL
    WHERE account_id = :a
"""
CLOSE = """
    UPDATE tracked_ids SET closed_at = now(), close_reason = 'final', next_check_at = NULL,
        checked_before_at = coalesce(last_checked_at, sent_at), last_checked_at = now()
    WHERE account_id = :a AND closed_at IS NULL
"""


@pytest.fixture
def runtime(migrated_database: Engine) -> Runtime:
    """A runtime whose credentials are always found."""
    return make_runtime(migrated_database, resolve=lambda _: "secret", tick_seconds=0.01)


def _account(runtime: Runtime, provider: str = "iletimerkezi", *, webhook: bool = True, **poll: Any) -> str:
    account_id = add_account(runtime.engine, provider=provider, poll={"every_seconds": 3600.0, **poll})
    if webhook:
        change = 'UPDATE accounts SET credentials = credentials || \'{"webhook_secret": "env:HOOK"}\''
        execute(runtime.engine, f"{change} WHERE id = :a", a=account_id)
    execute(runtime.engine, "UPDATE accounts SET planned_at = now() WHERE id = :a", a=account_id)
    return account_id


def _row(runtime: Runtime, account_id: str) -> Any:
    with runtime.engine.connect() as connection:
        row = find(connection, account_id)
    assert row is not None
    return row


def _push(runtime: Runtime, account_id: str, order: str, number: str, status: str = "delivered") -> None:
    """The webhook about one recipient."""
    report = {"id": 9, "packet_id": int(order), "status": status, "to": number}
    body = json.dumps({"report": report}).encode()
    ingest(runtime, _row(runtime, account_id), Callback(tail="", body=body))


def _read(
    runtime: Runtime,
    account_id: str,
    order: str,
    numbers: Sequence[str],
    status: Status,
    *,
    source: Source = Source.POLL,
) -> None:
    """What a poll of the order has stored."""
    reports = [
        DeliveryReport(
            granularity=Granularity.MESSAGE,
            provider_key=f"{order}:{number}:1",
            parent_key=order,
            recipient=number,
            status=status,
            source=source,
            provider_status="110" if status is Status.ENROUTE else "111",
        )
        for number in numbers
    ]
    with transaction(runtime.engine) as connection:
        upsert(connection, account_id, "iletimerkezi", reports, asked_at=clock.now() - timedelta(seconds=5))


def _order(runtime: Runtime, account_id: str, order: str, *, expected: int | None = 2) -> int:
    """An order that was read once, with two recipients on their way, and that is due."""
    [tracked] = add_ids(runtime.engine, account_id, [order], kind="order", expected=expected)
    execute(runtime.engine, CHECKED, a=account_id)
    _read(runtime, account_id, order, [ONE, OTHER], Status.ENROUTE)
    return tracked


def _plan(runtime: Runtime, account_id: str) -> int:
    list(plan_due(runtime, "iletimerkezi"))
    return len(fetches_of(runtime.engine, account_id, "ready"))


def test_an_order_of_which_callbacks_have_brought_every_end_is_not_polled(runtime: Runtime) -> None:
    """It is closed where it would have been asked for; the last callback is the moment at which it was final."""
    account_id = _account(runtime)
    tracked = _order(runtime, account_id, "501")
    for number in (ONE, OTHER):
        _push(runtime, account_id, "501", number)
    assert _plan(runtime, account_id) == 0
    closed = "SELECT close_reason FROM tracked_ids WHERE id = :id AND announced_at = last_checked_at"
    assert scalar(runtime.engine, closed, id=tracked) == "final"


@pytest.mark.parametrize(
    "case", ["one is open", "more are expected", "not known how many", "not adaptive", "no webhook", "no callback"]
)
def test_an_order_that_callbacks_have_not_settled_is_polled(runtime: Runtime, case: str) -> None:
    """Whatever a poll may still find is asked for; without a webhook everything is as it was."""
    poll: dict[str, Any] = {"adaptive": False} if case == "not adaptive" else {}
    account_id = _account(runtime, webhook=case != "no webhook", **poll)
    expected = {"more are expected": 3, "not known how many": None}.get(case, 2)
    tracked = _order(runtime, account_id, "501", expected=expected)
    if case == "no callback":
        _read(runtime, account_id, "501", [ONE, OTHER], Status.DELIVERED)
    else:
        _push(runtime, account_id, "501", ONE)
        if case != "one is open":
            _push(runtime, account_id, "501", OTHER)
    assert _plan(runtime, account_id) == 1
    assert scalar(runtime.engine, "SELECT closed_at IS NULL FROM tracked_ids WHERE id = :id", id=tracked)


def _counted(runtime: Runtime, account_id: str, kind: str, after: datetime) -> tuple[callback_shares.Shares, int]:
    """Shares of what was closed since, and for how many closed ids a latency is known."""
    window = after, clock.now()
    scale = latencies.Scale(per_decade=8, longest=50, factor=1.0, kinds=[kind])
    with transaction(runtime.engine) as connection:
        shares = callback_shares.shares(connection, account_id, kind, by_parts=kind == "order", window=window)
        groups = [after - timedelta(days=9)]
        found = latencies.closed(connection, account_id, kind, scale, groups=groups, window=window)
    return shares, sum(each.many for each in found)


@pytest.mark.parametrize("polls", [1, 2, 3])
def test_an_order_that_a_list_opens_again_is_counted_once(runtime: Runtime, polls: int) -> None:
    """Callbacks settled it; the polls that the changed order asks for find nothing that they had not brought."""
    account_id, began = _account(runtime), clock.now() - timedelta(seconds=1)
    tracked = _order(runtime, account_id, "501")
    for number in (ONE, OTHER):
        _push(runtime, account_id, "501", number)
    assert _plan(runtime, account_id) == 0
    once = callback_shares.Shares(announced=2, missed=0), 1
    assert _counted(runtime, account_id, "order", began) == once
    settled = clock.now()
    with transaction(runtime.engine) as connection:
        discover(connection, account_id, clock.now(), [], [{"id_kind": "order", "value": "501"}])
    for _ in range(polls - 1):
        execute(runtime.engine, CHECKED_AGAIN, a=account_id)
    execute(runtime.engine, CLOSE, a=account_id)
    assert scalar(runtime.engine, "SELECT close_reason FROM tracked_ids WHERE id = :id", id=tracked) == "final"
    assert _counted(runtime, account_id, "order", settled) == (callback_shares.Shares(announced=0, missed=0), 0)


def _list(runtime: Runtime, account_id: str, *, status: int, delivered: int, undelivered: int = 0) -> None:
    """A sweep whose page states order 501 so."""
    execute(
        runtime.engine, "UPDATE accounts SET planned_at = NULL, closed_swept_at = now() WHERE id = :a", a=account_id
    )
    execute(runtime.engine, LATER, a=account_id)
    counts = {"total": 2, "delivered": delivered, "undelivered": undelivered, "waiting": 2 - delivered - undelivered}
    sent = {"submitAt": "2026-01-01 10:00:00", "sendAt": "2026-01-01 10:00:00"}
    page = {"status": {"code": 200}, "count": 1, "orders": [{"id": 501, "status": status, **counts, **sent}]}
    [fetch_id] = plan(runtime, account_id)
    Held(runtime, fetch_id).answer(msgspec.json.encode({"response": page}))


@pytest.mark.parametrize("webhook", [True, False])
def test_a_list_asks_for_an_order_only_where_it_counts_ends_that_are_not_known(runtime: Runtime, webhook: bool) -> None:
    """What callbacks have brought is no reason to poll, whether the order is open or settled; without them it is."""
    account_id = _account(runtime, webhook=webhook)
    tracked = _order(runtime, account_id, "501")
    due = "SELECT next_check_at <= now() FROM tracked_ids WHERE id = :id"
    _list(runtime, account_id, status=113, delivered=0)
    _push(runtime, account_id, "501", ONE)
    _list(runtime, account_id, status=113, delivered=1)
    assert scalar(runtime.engine, due, id=tracked) is not webhook
    _list(runtime, account_id, status=113, delivered=1, undelivered=1)
    assert scalar(runtime.engine, due, id=tracked)
    _push(runtime, account_id, "501", OTHER, "undelivered")
    assert (_plan(runtime, account_id) == 0) is webhook


@pytest.mark.parametrize("counts", [(2, 0), (0, 2), (1, 1)])
def test_a_settled_order_that_ends_otherwise_in_its_list_is_polled(runtime: Runtime, counts: tuple[int, int]) -> None:
    """Callbacks brought one delivered and one not: only that sum is explained."""
    account_id = _account(runtime)
    tracked = _order(runtime, account_id, "501")
    _push(runtime, account_id, "501", ONE)
    _push(runtime, account_id, "501", OTHER, "undelivered")
    assert _plan(runtime, account_id) == 0
    _list(runtime, account_id, status=114, delivered=counts[0], undelivered=counts[1])
    is_open = "SELECT closed_at IS NULL FROM tracked_ids WHERE id = :id"
    assert scalar(runtime.engine, is_open, id=tracked) is (counts != (1, 1))


def test_unreported_settles_no_order(runtime: Runtime) -> None:
    """It is our own statement: the provider may still report the end."""
    account_id = _account(runtime)
    _order(runtime, account_id, "501")
    _read(runtime, account_id, "501", [OTHER], Status.UNREPORTED, source=Source.OURS)
    _push(runtime, account_id, "501", ONE)
    assert _plan(runtime, account_id) == 1


def test_a_list_that_counts_an_end_of_an_unreported_message_asks_for_its_order(runtime: Runtime) -> None:
    """The message has no end that the provider reported, so callbacks do not explain the count."""
    account_id = _account(runtime)
    tracked = _order(runtime, account_id, "501")
    _list(runtime, account_id, status=113, delivered=0)
    _read(runtime, account_id, "501", [OTHER], Status.UNREPORTED, source=Source.OURS)
    _push(runtime, account_id, "501", ONE)
    _list(runtime, account_id, status=114, delivered=2)
    assert scalar(runtime.engine, "SELECT next_check_at <= now() FROM tracked_ids WHERE id = :id", id=tracked)


@pytest.mark.parametrize(("seconds", "announced_ends"), [(0, 1), (50, 1), (70, 0)])
def test_a_callback_that_comes_soon_after_a_poll_has_announced_the_end(
    runtime: Runtime, seconds: int, announced_ends: int
) -> None:
    """The poll was needless, however often polls come; a callback that is later than a minute announces nothing."""
    account_id, began = _account(runtime), clock.now() - timedelta(seconds=1)
    _order(runtime, account_id, "501", expected=1)
    _read(runtime, account_id, "501", [ONE, OTHER], Status.DELIVERED)
    execute(
        runtime.engine,
        "UPDATE observations SET first_seen_at = first_seen_at - make_interval(secs => :by) WHERE delivery_id IN"
        " (SELECT id FROM delivery_status WHERE account_id = :a)",
        a=account_id,
        by=seconds,
    )
    _push(runtime, account_id, "501", ONE)
    execute(runtime.engine, CLOSE, a=account_id)
    shares = callback_shares.Shares(announced=announced_ends, missed=2 - announced_ends)
    assert _counted(runtime, account_id, "order", began)[0] == shares


def test_an_id_that_a_callback_named_first_is_counted(runtime: Runtime) -> None:
    """Its sending, its announcement and the moment before its first check are the same."""
    account_id, began = _account(runtime, "organik"), clock.now() - timedelta(seconds=1)
    ingest(runtime, _row(runtime, account_id), Callback(tail="1", body=b""))
    execute(runtime.engine, CLOSE, a=account_id)
    same = "SELECT announced_at = sent_at AND checked_before_at = sent_at FROM tracked_ids WHERE account_id = :a"
    assert scalar(runtime.engine, same, a=account_id)
    assert _counted(runtime, account_id, "transaction", began)[0] == callback_shares.Shares(announced=1, missed=0)


def _waits(runtime: Runtime, account_id: str, kind: str) -> float:
    """How long after the first check of an id the next one comes."""
    row, sent = _row(runtime, account_id), clock.now()
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
        _read(runtime, account_id, order, [ONE], Status.ENROUTE)
    for order in orders[:many]:
        _push(runtime, account_id, order, ONE)
    for order in orders[many:]:
        _read(runtime, account_id, order, [ONE], Status.DELIVERED)
    execute(runtime.engine, CLOSE, a=account_id)
    execute(
        runtime.engine, "UPDATE tracked_ids SET closed_at = now() - interval '20 s' WHERE account_id = :a", a=account_id
    )
    learn_all(runtime)


def test_where_callbacks_come_orders_are_polled_less_and_where_they_stop_as_before(runtime: Runtime) -> None:
    """The waits grow with the share that callbacks bring, and shrink back after a handful of misses."""
    account_id = _account(runtime)
    usual = _waits(runtime, account_id, "order")
    _announce(runtime, account_id, 1)
    _announce(runtime, account_id, 38, missed=2)
    assert plan_of(runtime.engine, account_id)["missed"]["order"] == pytest.approx(0.1, abs=0.05)
    assert _waits(runtime, account_id, "order") > 2.5 * usual
    _announce(runtime, account_id, 0, missed=8)
    assert plan_of(runtime.engine, account_id)["missed"] == {}
    assert _waits(runtime, account_id, "order") == pytest.approx(usual)


def test_configured_waits_stay_however_reliable_callbacks_are(runtime: Runtime) -> None:
    """`first_check_seconds`, `max_check_seconds` and `adaptive = false` are kept exactly."""
    for poll, wait in (
        ({"first_check_seconds": 7.0}, 7.0),
        ({"max_check_seconds": 9.0}, 9.0),
        ({"adaptive": False}, 10.0),
    ):
        account_id = _account(runtime, **poll)
        row = _row(runtime, account_id)
        settings = {"form": 1, "poll": row.poll, "options": row.options}
        plan = json.dumps({"kinds": {}, "missed": {"order": 0.02}, "settings": settings})
        execute(runtime.engine, "UPDATE accounts SET poll_plan = CAST(:p AS jsonb) WHERE id = :a", p=plan, a=account_id)
        assert _waits(runtime, account_id, "order") == pytest.approx(wait, abs=1e-3)


def test_a_push_that_only_names_its_id_is_counted_by_the_poll_that_follows(runtime: Runtime) -> None:
    """The id is due at once; that poll finds what the push announced, any other one what no push did."""
    account_id = _account(runtime, "organik")
    tracked = add_ids(runtime.engine, account_id, [str(n) for n in range(40)], kind="transaction", expected=1,
                      next_check_at=clock.now() + timedelta(hours=1))  # fmt: skip
    for number in range(30):
        ingest(runtime, _row(runtime, account_id), Callback(tail=f"{number}", body=b""))
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
    account_id = _account(runtime, "organik")
    add_ids(runtime.engine, account_id, ["1"], kind="transaction", expected=1)
    ingest(runtime, _row(runtime, account_id), Callback(tail="1", body=b""))
    execute(runtime.engine, "UPDATE tracked_ids SET last_checked_at = now() WHERE account_id = :a", a=account_id)
    execute(runtime.engine, CLOSE, a=account_id)
    announced = "SELECT announced_at >= checked_before_at FROM tracked_ids WHERE account_id = :a"
    assert scalar(runtime.engine, announced, a=account_id) is False
