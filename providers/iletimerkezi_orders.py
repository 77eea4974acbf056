"""What iletimerkezi says about orders and their recipients, read item by item.

Sources: toplusmsapi.com/sms/rapor/paket-ozet/json and …/liste/json, and the tests of the official client libraries,
which give every code and count both as a number and as text.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from models.keys import join_key
from models.report import DeliveryReport, Hint, TrackedKey, Unreadable
from models.vocabulary import Granularity, Reason, Status
from providers.adapter import Account, Parsed
from providers.decoding import Fields, as_count, as_int, as_key, as_text, dump_item, scrub
from providers.numbers import recipient
from providers.statuses import judge

FAILED: Final = "115"
ORDER_STATUS: Final[Mapping[str, tuple[Status, Reason | None]]] = {
    "113": (Status.ENROUTE, None),  # "Siparişin gönderimi devam ediyor": open whatever its counts
    FAILED: (Status.REJECTED, None),  # "Sipariş gönderilemedi": the whole order failed
}
FINISHED: Final = "114"
"""The third order code, "Siparişin gönderimi tamamlandı": sending has ended, its counts say how (`judge_finished`)."""

MESSAGE_STATUS: Final[Mapping[str, tuple[Status, Reason | None]]] = {
    "110": (Status.ENROUTE, None),  # "Mesaj gönderiliyor": no acknowledgement yet
    "111": (Status.DELIVERED, None),  # "Mesaj gönderildi": the operator confirmed the delivery
    "112": (Status.UNDELIVERABLE, None),  # "Mesaj gönderilemedi": no cause is ever given
}

ORDER: Final = "order"
"""The kind of tracked id: an order that a list page told of."""

_COUNTERS: Final = ("total", "delivered", "undelivered", "waiting")
_STATED: Final = ("id", "status", *_COUNTERS, "submitAt", "sendAt", "sender", "price")


@dataclass(frozen=True, slots=True)
class Order:
    """One order as a list or a detail answer states it."""

    id: str
    report: DeliveryReport
    unreadable: tuple[Unreadable, ...]
    submitted_at: datetime | None


def judge_finished(total: int | None, delivered: int | None, undelivered: int | None, waiting: int | None) -> Status:
    """What a finished order (114) amounts to, by its counts.

    Final only where the counts account for every recipient. Where some are still missing the order stays open; where
    the counts are absent or impossible nothing can be said (`unknown`).
    """
    if total is None or delivered is None or undelivered is None:
        return Status.UNKNOWN
    done = delivered + undelivered
    if total == 0 or done + (waiting or 0) > total:
        return Status.UNKNOWN
    if done < total:
        return Status.ENROUTE
    if undelivered == 0:
        return Status.DELIVERED
    return Status.UNDELIVERABLE if delivered == 0 else Status.PARTIALLY_DELIVERED


def rank_equal_numbers(code: str, account: Account | None = None) -> tuple[int, str]:
    """Where a recipient stands among the equal numbers of one page, by its status code.

    The provider has no id for a recipient, so equal numbers of an order can only be told apart by place, and nobody
    promises that a second read keeps the places. They are therefore matched as a multiset: delivered from the first
    ordinal upward, undelivered from the last downward, all others between. While the delivered and undelivered among
    them only grow, no ordinal ever changes from one final to another, however they are shuffled within the page.
    """
    place = {Status.DELIVERED: 0, Status.UNDELIVERABLE: 2}
    return place.get(_message_status(code, account)[0], 1), code


def read_order(item: Any, account: Account) -> Order | Unreadable:
    """One order of a list or detail answer, or why it cannot be read."""
    if not isinstance(item, dict):
        return Unreadable(reason="An order is not an object.", raw=dump_item(item))
    order, code = as_key(item.get("id")), code_text(item.get("status"))
    if order is None or code is None:
        return Unreadable(reason="An order lacks its id or status.", raw=dump_item(item))
    fields = Fields(item, account.timezone)
    counts = {name: fields.count(name) for name in _COUNTERS}
    status, reason = judge(account, ORDER_STATUS, code)
    why = "An order has a status code that is not documented."
    if code == FINISHED:
        status, why = judge_finished(**counts), "A finished order lacks its counts or they do not add up."
    submitted_at, title = fields.time("submitAt"), fields.text("sender")
    extra = {"sender": title, "submit_at": submitted_at.isoformat() if submitted_at else None}
    report = DeliveryReport(
        granularity=Granularity.ORDER,
        provider_key=order,
        status=status,
        provider_status=code,
        reason=reason,
        total=counts["total"],
        delivered=counts["delivered"],
        undelivered=counts["undelivered"],
        waiting=counts["waiting"],
        sent_at=fields.time("sendAt"),
        extra={name: value for name, value in extra.items() if value is not None},
        statement=_statement(item),
        tracked=TrackedKey(id_kind=ORDER, value=order),
    )
    unknown = Unreadable(reason=why, raw=dump_item(_statement(item)), provider_key=order)
    troubles = ((unknown,) if status is Status.UNKNOWN else ()) + fields.unreadable("An order")
    return Order(id=order, report=report, unreadable=troubles, submitted_at=submitted_at)


def _statement(item: Mapping[str, Any]) -> dict[str, Any]:
    return scrub({name: item[name] for name in _STATED if name in item})


def code_text(value: Any) -> str | None:
    """A code as text: 114, "114" and 114.0 are the same; None where there is none."""
    number = as_int(value)
    return as_text(value) if number is None else str(number)


def _message_status(code: str, account: Account | None) -> tuple[Status, Reason | None]:
    if account is None:
        return MESSAGE_STATUS.get(code, (Status.UNKNOWN, None))
    return judge(account, MESSAGE_STATUS, code)


def summarise_order(
    order: Mapping[str, Any], account: Account
) -> tuple[tuple[DeliveryReport, ...], tuple[Unreadable, ...]]:
    """The order's own statement in a detail answer: newer answers carry the counters, the 2024 sample does not."""
    if any(as_count(order.get(name)) is None for name in ("total", "delivered", "undelivered")):
        return (), ()
    found = read_order(order, account)
    return ((), (found,)) if isinstance(found, Unreadable) else ((found.report,), found.unreadable)


def read_recipients(
    order: str, items: Sequence[Any], before: Mapping[str, int], account: Account | None = None
) -> tuple[list[DeliveryReport], tuple[str, ...], list[Unreadable]]:
    """Reports of the recipients on a page, their numbers in the order they stand, and what could not be read.

    `before`: how often each number stood on the pages before this one.
    """
    unreadable: list[Unreadable] = []
    seen: list[str] = []
    by_number: defaultdict[str, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for item in items:
        raw, code = (
            (as_key(item.get("number")), code_text(item.get("status"))) if isinstance(item, dict) else (None, None)
        )
        if raw is None or code is None:
            unreadable.append(Unreadable(reason="A recipient lacks number or status.", raw=dump_item(item)))
            continue
        number = recipient(raw)
        seen.append(number)
        by_number[number].append((code, item))
    reports = [
        _recipient_report(order, number, ordinal, code, item, _message_status(code, account))
        for number, found in by_number.items()
        for ordinal, (code, item) in enumerate(
            sorted(found, key=lambda one: rank_equal_numbers(one[0], account)), start=before.get(number, 0) + 1
        )
    ]
    unreadable += [_unknown(report) for report in reports if report.status is Status.UNKNOWN]
    return reports, tuple(seen), unreadable


def read_recipient(order: str, item: Mapping[str, Any], account: Account | None = None) -> Parsed:
    """A recipient that was cut out of its page, as a hint: its ordinal is known where its number stands there once."""
    reports, _, unreadable = read_recipients(order, [item], {}, account)
    hints = tuple(
        Hint(
            report=report,
            twin_key=join_key(order, report.recipient or "", 2),
            ask=TrackedKey(id_kind=ORDER, value=order),
        )
        for report in reports
    )
    return Parsed(hints=hints, unreadable=tuple(unreadable))


def _recipient_report(  # noqa: PLR0917 - the parts of one row
    order: str, number: str, ordinal: int, code: str, item: Mapping[str, Any], meaning: tuple[Status, Reason | None]
) -> DeliveryReport:
    status, reason = meaning
    return DeliveryReport(
        granularity=Granularity.MESSAGE,
        provider_key=join_key(order, number, ordinal),
        parent_key=order,
        recipient=number,
        status=status,
        reason=reason,
        provider_status=code,
        statement=scrub({name: item[name] for name in ("number", "status")}),
        tracked=TrackedKey(id_kind=ORDER, value=order),
    )


def _unknown(report: DeliveryReport) -> Unreadable:
    reason = "A recipient has a status code that is not documented."
    return Unreadable(reason=reason, raw=dump_item(report.statement), provider_key=report.provider_key)
