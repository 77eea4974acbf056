"""Reports of iletimerkezi about orders and their recipients, parsed item by item.

Sources: toplusmsapi.com/sms/rapor/paket-ozet/json and …/liste/json, and the tests of the official client libraries,
which give every code and count both as a number and as text.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast

from msgspec import UNSET, UnsetType

from ulak.models.facts import Facts
from ulak.models.keys import join_key, split_key
from ulak.models.report import AmbiguousReport, DeliveryReport, PlainReport, Report, TrackedKey, Unreadable
from ulak.models.vocabulary import Granularity, Reason, Status, is_final
from ulak.providers.adapter import Account, Parsed
from ulak.providers.decoding import Fields, as_count, as_int, as_key, as_text, dump_item, scrub
from ulak.providers.errors import AnswerNotUnderstood
from ulak.providers.ids import bare
from ulak.providers.iletimerkezi_plain import PlainOrder, PlainRecipient
from ulak.providers.phone_numbers import recipient
from ulak.providers.plain import (
    NotPlainError,
    plain_amount,
    plain_count,
    plain_key,
    plain_text,
    plain_time,
)
from ulak.providers.statuses import judge

SENDING: Final = "113"
FAILED: Final = "115"
ORDER_STATUS: Final[Mapping[str, tuple[Status, Reason | None]]] = {
    SENDING: (Status.ENROUTE, None),  # "Siparişin gönderimi devam ediyor": open whatever its counts
    FAILED: (Status.REJECTED, None),  # "Sipariş gönderilemedi": the whole order failed
}
FINISHED: Final = "114"
"""The third order code, "Siparişin gönderimi tamamlandı": sending has ended, its counts say how (`judge_finished`)."""

SCHEDULED: Final = "456"
"""No code of an order but the answer of get-report, "Sipariş gönderim tarihi henüz gelmedi"."""

MESSAGE_STATUS: Final[Mapping[str, tuple[Status, Reason | None]]] = {
    "110": (Status.ENROUTE, None),  # "Mesaj gönderiliyor": no acknowledgement yet
    "111": (Status.DELIVERED, None),  # "Mesaj gönderildi": the operator confirmed the delivery
    "112": (Status.UNDELIVERABLE, None),  # "Mesaj gönderilemedi": no cause is ever given
}

ORDER: Final = "order"
"""The kind of tracked id: an order that a list page named."""
MESSAGE_ID: Final = "message_id"
"""Where `extra` keeps the provider's id of one message, which only its webhook states."""

_COUNTERS: Final = ("total", "delivered", "undelivered", "waiting")
_STATED: Final = ("id", "status", *_COUNTERS, "submitAt", "sendAt", "sender", "price")
_OF_A_RECIPIENT: Final = ("number", "status")
_KEY_PARTS: Final = 3
"""Order, number, ordinal."""


@dataclass(frozen=True, slots=True)
class Order:
    """One order as a list or a detail answer states it."""

    id: str
    report: Report
    unreadable: tuple[Unreadable, ...]
    """Why its status is unknown, and `unreadable_fields`."""
    unreadable_fields: tuple[Unreadable, ...]
    """Its optional fields that are there and cannot be read."""
    submitted_at: datetime | None
    sending_at: datetime | None
    """`sendAt`, whether it has come or not."""
    is_ahead: bool
    """`sendAt` lies after the moment of the answer."""

    @property
    def has_no_end(self) -> bool:
        """Whether the order is open and counts no recipient as delivered or undelivered."""
        report = self.report
        return (report.delivered, report.undelivered) == (0, 0) and not is_final(report.status)


def judge_finished(total: int | None, delivered: int | None, undelivered: int | None, waiting: int | None) -> Status:
    """What a finished order (114) amounts to, by its counts.

    Final only where the counts account for every recipient; an order without any (0 of 0) has nothing outstanding, and
    both official libraries call it completed. Where some are still missing the order stays open; where the counts are
    absent or impossible, the status is `unknown`.
    """
    if total is None or delivered is None or undelivered is None:
        return Status.UNKNOWN
    done = delivered + undelivered
    if done + (waiting or 0) > total:
        return Status.UNKNOWN
    if done < total:
        return Status.ENROUTE
    if undelivered == 0:
        return Status.DELIVERED
    return Status.UNDELIVERABLE if delivered == 0 else Status.PARTIALLY_DELIVERED


def rank_equal_numbers(code: str, account: Account | None = None) -> tuple[int, str]:
    """The position of a recipient among the equal numbers of its order, by its status code.

    The provider has no id for a recipient, so equal numbers of an order can only be told apart by place, and nobody
    promises that a second read keeps the places. They are therefore matched as a multiset over all pages: delivered
    from the first ordinal upward, undelivered from the last downward, all others between. While the delivered and
    undelivered among them only grow, no ordinal ever changes from one final to another, however they are shuffled.
    """
    place = {Status.DELIVERED: 0, Status.UNDELIVERABLE: 2}
    return place.get(message_status(code, account)[0], 1), code


def read_order(item: Any, account: Account, now: datetime | None = None) -> Order | Unreadable:
    """One order of a list or detail answer, or why it cannot be read.

    `now`: when the request was made. A `sendAt` after that is the plan of an order that is still to be sent: it is
    `scheduled`, `sent_at` stays empty, and the plan is kept as `send_at` in `extra`. None: the moment is not known.
    """
    if isinstance(item, PlainOrder):
        return _read_plain_order(item, account, now)
    if not isinstance(item, dict):
        return Unreadable(reason="An order is not an object.", raw=dump_item(item))
    given, code = as_key(item.get("id")), code_text(item.get("status"))
    if given is None or code is None:
        return Unreadable(reason="An order lacks its id or status.", raw=dump_item(item))
    order = bare(given)
    fields = Fields(item, account.timezone)
    counts = {name: fields.count(name) for name in _COUNTERS}
    submitted_at, sending_at = fields.time("submitAt"), fields.time("sendAt")
    is_ahead = now is not None and sending_at is not None and sending_at > now
    status, reason = _judge_order(account, code, counts, is_ahead=is_ahead)
    extra = {
        "sender": fields.text("sender"),
        "submit_at": submitted_at.isoformat() if submitted_at else None,
        "send_at": sending_at.isoformat() if sending_at and is_ahead else None,
        "price": fields.amount("price"),
    }
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
        sent_at=None if is_ahead else sending_at,
        extra={name: value for name, value in extra.items() if value is not None},
        statement=_statement(item),
        # What is still to be sent cannot have outlived its validity, whatever the tracked id states.
        tracked=None if status is Status.SCHEDULED else TrackedKey(id_kind=ORDER, value=order),
    )
    why = "An order has a status code that is not documented."
    if code == FINISHED:
        why = "A finished order lacks its counts or they do not add up."
    unknown = Unreadable(reason=why, raw=dump_item(_statement(item)), provider_key=order)
    wrong = fields.unreadable("An order", _statement(item))
    return Order(
        id=order,
        report=report,
        unreadable=(unknown, *wrong) if status is Status.UNKNOWN else wrong,
        unreadable_fields=wrong,
        submitted_at=submitted_at,
        sending_at=sending_at,
        is_ahead=is_ahead,
    )


def _judge_order(
    account: Account, code: str, counts: Mapping[str, int | None], *, is_ahead: bool
) -> tuple[Status, Reason | None]:
    if code == SCHEDULED or (is_ahead and code == SENDING):
        return Status.SCHEDULED, None
    if code == FINISHED:
        return judge_finished(**counts), None
    return judge(account, ORDER_STATUS, code)


def _read_plain_order(item: PlainOrder, account: Account, now: datetime | None) -> Order:
    """What `read_order` gives for an order of a plain list."""
    order, code, zone = bare(plain_key(item.id)), _plain_code(item.status), account.timezone
    counts = {name: plain_count(getattr(item, name)) for name in _COUNTERS}
    submitted, sending = plain_time(item.submitAt, zone), plain_time(item.sendAt, zone)
    submitted_at, sending_at = (None if text is None else datetime.fromisoformat(text) for text in (submitted, sending))
    is_ahead = now is not None and sending_at is not None and sending_at > now
    status, reason = _judge_order(account, code, counts, is_ahead=is_ahead)
    if status is Status.UNKNOWN or item.message is not UNSET:
        raise NotPlainError
    extra = {
        "sender": plain_text(item.sender),
        "submit_at": submitted,
        "send_at": sending if is_ahead else None,
        "price": plain_amount(item.price),
    }
    facts = Facts(
        extra={name: value for name, value in extra.items() if value is not None} or None,
        provider_status=code,
        reason=reason,
        sent_at=None if is_ahead else sending,
        status=status,
        total=counts["total"],
        delivered=counts["delivered"],
        undelivered=counts["undelivered"],
        waiting=counts["waiting"],
    )
    tracked = None if status is Status.SCHEDULED else TrackedKey(id_kind=ORDER, value=order)
    return Order(
        id=order,
        report=PlainReport(
            granularity=Granularity.ORDER, provider_key=order, facts=facts, statement=item, tracked=tracked
        ),
        unreadable=(),
        unreadable_fields=(),
        submitted_at=submitted_at,
        sending_at=sending_at,
        is_ahead=is_ahead,
    )


def _plain_code(value: str | float | UnsetType | None) -> str:
    """What `code_text` gives."""
    return str(int(text)) if (text := plain_key(value)).isdecimal() else text


def scheduled_order(order: str, total: int | None, account: Account) -> Report:
    """Code 456 for the requested order: none of it has been sent yet.

    `total`: its recipients as a list stated them. Nothing sent means that all of them wait; without these counts the
    statement would take those of the list out of the row.
    """
    counts = {} if total is None else {"total": total, "delivered": 0, "undelivered": 0, "waiting": total}
    found = read_order({"id": order, "status": int(SCHEDULED), **counts}, account)
    if isinstance(found, Unreadable):
        raise AnswerNotUnderstood("The order that was asked for has no id.")
    return found.report


def _statement(item: Mapping[str, Any]) -> dict[str, Any]:
    return scrub({name: item[name] for name in _STATED if name in item})


def code_text(value: Any) -> str | None:
    """A code as text: 114, "114" and 114.0 are the same; None where there is none."""
    number = as_int(value)
    return as_text(value) if number is None else str(number)


def message_status(code: str, account: Account | None) -> tuple[Status, Reason | None]:
    """(status, reason) of a recipient's code, with the account's map for what is not documented."""
    if account is None:
        return MESSAGE_STATUS.get(code, (Status.UNKNOWN, None))
    return judge(account, MESSAGE_STATUS, code)


def summarise_order(
    order: Mapping[str, Any], account: Account, now: datetime | None
) -> tuple[tuple[Report, ...], tuple[Unreadable, ...]]:
    """The order's own statement in a detail answer: newer answers carry the counters, the 2024 sample does not.

    Without the counters it makes no row, but a field that is there and cannot be read is named all the same.
    """
    found = read_order(order, account, now)
    if isinstance(found, Unreadable):
        return (), (found,)
    if any(as_count(order.get(name)) is None for name in ("total", "delivered", "undelivered")):
        return (), found.unreadable_fields
    return (found.report,), found.unreadable


@dataclass(frozen=True, slots=True)
class Recipient:
    """One recipient of an order as an answer states it."""

    number: str
    code: str
    statement: Mapping[str, Any]

    def encode(self) -> str:
        """As a text, for what a later page needs: number, code, and whether each was a text (`t`) or a number (`n`).

        The parts stand as in a key, so that an erasure finds the number.
        """
        values = [self.statement[name] for name in _OF_A_RECIPIENT]
        forms = "".join("t" if isinstance(value, str) else "n" for value in values)
        return join_key(*(value if isinstance(value, str) else json.dumps(value) for value in values), forms)


def decode_recipient(text: str) -> Recipient | None:
    """What `Recipient.encode` made a text of; None for a text in another form."""
    *texts, forms = split_key(text)
    if len(texts) != len(_OF_A_RECIPIENT) or len(forms) != len(texts) or set(forms) - {"t", "n"}:
        return None
    values = [value if form == "t" else json.loads(value) for value, form in zip(texts, forms, strict=True)]
    found = _recipient(dict(zip(_OF_A_RECIPIENT, values, strict=True)))
    return found if isinstance(found, Recipient) else None


def read_recipients(items: Sequence[Any]) -> tuple[list[Recipient], list[Unreadable]]:
    """The recipients on a page, and what could not be read."""
    read = [_recipient(item) for item in items]
    return (
        [found for found in read if isinstance(found, Recipient)],
        [found for found in read if isinstance(found, Unreadable)],
    )


def _recipient(item: Any) -> Recipient | Unreadable:
    if isinstance(item, PlainRecipient):
        number = recipient(plain_key(item.number))
        return Recipient(number=number, code=_plain_code(item.status), statement=cast("Mapping[str, Any]", item))
    stated = isinstance(item, dict)
    raw, code = (as_key(item.get("number")), code_text(item.get("status"))) if stated else (None, None)
    if raw is None or code is None:
        return Unreadable(reason="A recipient lacks number or status.", raw=dump_item(item))
    statement = scrub({name: item[name] for name in _OF_A_RECIPIENT})
    return Recipient(number=recipient(raw), code=code, statement=statement)


def report_recipients(
    order: str,
    everyone: Sequence[Recipient],
    account: Account | None = None,
    *,
    is_sure: bool = True,
    is_one_missing: bool = False,
) -> tuple[list[Report], list[Unreadable]]:
    """Reports of the recipients of an order, all pages together, and those with a code that is not documented.

    Equal numbers get ordinals by `rank_equal_numbers`, which is right where the answer holds each number as often as
    the order does. Where that is not sure (`is_sure`), no second ordinal is stored. And where a delivered recipient may
    be missing from the answer (`is_one_missing`), an undelivered one may be the second of its number, although it
    occurs alone: it is left to a later response.
    """
    by_number: defaultdict[str, list[Recipient]] = defaultdict(list)
    for one in everyone:
        by_number[one.number].append(one)
    reports = [
        _recipient_report(order, one, ordinal, account)
        for found in by_number.values()
        for ordinal, one in enumerate(sorted(found, key=lambda one: rank_equal_numbers(one.code, account)), 1)
        if (is_sure or ordinal == 1)
        and not (is_one_missing and message_status(one.code, account)[0] is Status.UNDELIVERABLE)
    ]
    return reports, [_unknown(report) for report in reports if report.status is Status.UNKNOWN]


def read_recipient(order: str, item: Mapping[str, Any], account: Account | None = None) -> Parsed:
    """A recipient cut out of its page, as an ambiguous report: its ordinal is known if its number occurs once."""
    found = _recipient(item)
    if isinstance(found, Unreadable):
        return Parsed(unreadable=(found,))
    reports, unreadable = report_recipients(order, [found], account)
    ambiguous = tuple(
        AmbiguousReport(
            report=report, twin_key=join_key(order, found.number, 2), ask=TrackedKey(id_kind=ORDER, value=order)
        )
        for report in reports
    )
    return Parsed(ambiguous=ambiguous, unreadable=tuple(unreadable))


def is_repetition(key: str) -> bool:
    """Whether a recipient's `provider_key` has an ordinal from 2 on."""
    parts = split_key(key)
    return len(parts) == _KEY_PARTS and parts[-1] != "1"


def restate_recipient(key: str, statement: Mapping[str, Any], account: Account) -> Report | None:
    """The report of one recipient under the `provider_key` that it has; None where the statement cannot be read."""
    found, parts = _recipient(statement), split_key(key)
    if isinstance(found, Unreadable) or len(parts) != _KEY_PARTS:
        return None
    return _recipient_report(parts[0], found, int(parts[-1]), account)


def _recipient_report(order: str, one: Recipient, ordinal: int, account: Account | None) -> Report:
    status, reason = message_status(one.code, account)
    key, tracked = join_key(order, one.number, ordinal), TrackedKey(id_kind=ORDER, value=order)
    if isinstance(one.statement, PlainRecipient):
        facts = Facts(parent_key=order, provider_status=one.code, reason=reason, recipient=one.number, status=status)
        return PlainReport(
            granularity=Granularity.MESSAGE, provider_key=key, facts=facts, statement=one.statement, tracked=tracked
        )
    return DeliveryReport(
        granularity=Granularity.MESSAGE,
        provider_key=key,
        parent_key=order,
        recipient=one.number,
        status=status,
        reason=reason,
        provider_status=one.code,
        statement=one.statement,
        tracked=tracked,
    )


def _unknown(report: Report) -> Unreadable:
    reason = "A recipient has a status code that is not documented."
    return Unreadable(reason=reason, raw=dump_item(report.statement), provider_key=report.provider_key)
