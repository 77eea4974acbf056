"""The rows of an Organik report, one at a time: what `status` and `errorcode` mean, and the two ways to read them.

Source: organikapi.com/documents/reports_detailed.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import UNSET

from ulak.models.facts import Facts
from ulak.models.report import DeliveryReport, PlainReport, Report, TrackedKey, Unreadable
from ulak.models.vocabulary import Granularity, Reason, Status, is_final
from ulak.providers.adapter import Account
from ulak.providers.decoding import Fields, as_int, as_key, as_text, dump_item, scrub
from ulak.providers.phone_numbers import recipient
from ulak.providers.plain import (
    Count,
    NotPlainError,
    PlainItem,
    Text,
    Unset,
    Whole,
    plain_amount,
    plain_key,
    plain_text,
    plain_time,
    read_plain,
)
from ulak.providers.statuses import judge_unlisted

STATUS: Final[Mapping[int, tuple[Status, Reason | None]]] = {
    0: (Status.SCHEDULED, None),  # "henüz gönderilmedi"
    1: (Status.ENROUTE, None),  # "operatöre iletildi"
    2: (Status.DELIVERED, None),  # "alıcıya iletildi"
    3: (Status.UNDELIVERABLE, Reason.INVALID_NUMBER),  # "hatalı numara"; an errorcode knows better
    4: (Status.EXPIRED, Reason.EXPIRED),  # "zaman aşımı"; an errorcode knows better
}
"""`status` of a row, with the reason that holds where no errorcode gives another."""

REASON: Final[Mapping[int, Reason]] = {
    1: Reason.INVALID_NUMBER,
    2: Reason.INVALID_NUMBER,  # "Operator numarası hatalı"
    3: Reason.ABSENT,
    4: Reason.ABSENT,  # "Pasif Numara"
    5: Reason.OPTED_OUT,  # "Kampanya smslerine kapalı numara"
    6: Reason.CONTENT,  # "Operator Kriterlerine uymayan mesaj içeriği"
    7: Reason.ABSENT,
    8: Reason.SMS_BARRED,  # "SMS alımına kapalı."
    9: Reason.HANDSET,
    10: Reason.NETWORK,
    11: Reason.NETWORK,
    12: Reason.HANDSET,
    13: Reason.NETWORK,
    14: Reason.HANDSET,
    15: Reason.NETWORK,
    16: Reason.HANDSET,
    17: Reason.HANDSET,
    18: Reason.NETWORK,
    19: Reason.NETWORK,
    20: Reason.NETWORK,
    21: Reason.NETWORK,
    22: Reason.OTHER,  # "Operator işlemi onaylayamadı."
    23: Reason.OPTED_OUT,  # "İYS Retli numara listesinde": the national consent register
    88: Reason.TEST,
    99: Reason.INVALID_NUMBER,  # "Hatalı numara"; it comes with status 4 in the documents' own sample
}
"""`errorcode` of a row: explains status 3 and 4 and never touches 0, 1, 2. An unknown one is `other`."""

_STATED: Final = (
    "gsm",
    "transaction_id",
    "gsm_track_id",
    "delivery_track_id",
    "create_date",
    "start_date",
    "finish_date",
    "status",
    "sms_count",
    "credit_amount",
    "is_foreign_gsm",
    "errorcode",
)
"""The documented fields of a row, kept as its statement. A field that is not known may be a text or a name."""

REFUSALS: Final = frozenset({5, 6, 8, 23})
"""Errorcodes that turn status 3 or 4 into `rejected`: the message was refused, it did not fail to reach the phone."""


def read_row(account: Account, row: Any, owner: TrackedKey | None) -> tuple[Report | None, tuple[Unreadable, ...]]:
    """The report of one row, and what of it could not be understood."""
    key = as_key(row.get("gsm_track_id")) if isinstance(row, dict) else None
    number = as_int(row.get("status")) if key is not None else None
    word = str(number) if number is not None else (as_text(row.get("status"), limit=100) if key is not None else None)
    if key is None or word is None:
        return None, (Unreadable(reason="A row lacks `gsm_track_id` or `status`.", raw=dump_item(row)),)
    fields = Fields(row, account.timezone)
    status, reason, error = _judge(account, number, word, fields)
    foreign = fields.whole("is_foreign_gsm")
    gsm = fields.text("gsm", limit=100)
    report = DeliveryReport(
        granularity=Granularity.MESSAGE,
        provider_key=key,
        parent_key=fields.read("transaction_id", as_key),
        client_ref=fields.text("delivery_track_id"),
        recipient=recipient(gsm, foreign=foreign == 1) if gsm else None,
        status=status,
        reason=reason,
        provider_status=word,
        provider_error=error,
        segments=fields.count("sms_count"),
        credits=fields.amount("credit_amount"),
        # While it is only scheduled, the start is a plan.
        sent_at=None if status is Status.SCHEDULED else fields.time("start_date"),
        done_at=fields.time("finish_date") if is_final(status) else None,
        extra=_extra(fields, foreign),
        statement=scrub({name: row[name] for name in _STATED if name in row}),
        tracked=owner,
    )
    troubles = fields.unreadable("A row")
    if status is Status.UNKNOWN:
        unknown = Unreadable(reason="Unknown value in `status`.", raw=dump_item(row), provider_key=key)
        troubles = (unknown, *troubles)
    return report, troubles


def _extra(fields: Fields, foreign: int | None) -> dict[str, Any]:
    created = fields.time("create_date")
    extra = {"is_foreign_gsm": foreign, "create_date": None if created is None else created.isoformat()}
    return {name: value for name, value in extra.items() if value is not None}


def _judge(account: Account, number: int | None, word: str, fields: Fields) -> tuple[Status, Reason | None, str | None]:
    """(status, reason, raw errorcode) of a row. An errorcode that is absent (XML) is not 0: it is unknown."""
    given = fields.text("errorcode", limit=100)
    code = as_int(given)
    # 0 means no error.
    raw = None if code == 0 else str(code) if code is not None else given
    if number is None or number not in STATUS:
        return *judge_unlisted(account, word), raw
    return _judge_listed(number, code, raw)


@lru_cache(maxsize=1024)
def _judge_listed(number: int, code: int | None, raw: str | None) -> tuple[Status, Reason | None, str | None]:
    """The same of a documented status: by `code`, the errorcode's number, and `raw`, what is kept of it."""
    status, reason = STATUS[number]
    if status not in {Status.UNDELIVERABLE, Status.EXPIRED} or raw is None:
        return status, reason, raw
    explained = REASON.get(code, Reason.OTHER) if code is not None else Reason.OTHER
    return (Status.REJECTED if code in REFUSALS else status), explained, raw


class _PlainRow(PlainItem):
    gsm: Whole | Text | Unset | None = UNSET
    transaction_id: Whole | Text | Unset | None = UNSET
    gsm_track_id: Whole | Text | Unset | None = UNSET
    delivery_track_id: Whole | Text | Unset | None = UNSET
    create_date: Text | Unset | None = UNSET
    start_date: Text | Unset | None = UNSET
    finish_date: Text | Unset | None = UNSET
    status: Whole | Unset = UNSET
    sms_count: Count | Unset | None = UNSET
    credit_amount: float | int | Text | Unset | None = UNSET
    is_foreign_gsm: Whole | Unset | None = UNSET
    errorcode: Whole | Unset | None = UNSET


class _PlainResponse(msgspec.Struct, forbid_unknown_fields=True):
    result: bool
    data: list[_PlainRow]


class _PlainReply(msgspec.Struct, forbid_unknown_fields=True):
    response: _PlainResponse


_DECODE: Final = msgspec.json.Decoder(_PlainReply).decode


def read_plain_rows(body: bytes) -> Sequence[_PlainRow]:
    """The rows of a reply; `NotPlainError` where it is not plain, or reports an error."""
    response = read_plain(_DECODE, body).response
    if not response.result:
        raise NotPlainError
    return response.data


_MESSAGE, _SCHEDULED = Granularity.MESSAGE, Status.SCHEDULED


@lru_cache(maxsize=1024)
def _judge_plain(number: int | Unset, code: int | Unset | None) -> tuple[str, Status, Reason | None, str | None, bool]:
    """The status as text, what `_judge` gives, and whether it is final."""
    if isinstance(number, Unset) or number not in STATUS:
        raise NotPlainError
    code = None if isinstance(code, Unset) else code
    status, reason, error = _judge_listed(number, code, str(code) if code else None)
    return str(number), status, reason, error, is_final(status)


def report_plain_row(account: Account, row: _PlainRow, owner: TrackedKey | None) -> Report:
    """What `read_row` gives for a plain row."""
    number, foreign = row.status, row.is_foreign_gsm
    word, status, reason, error, final = _judge_plain(number, row.errorcode)
    zone, gsm = account.timezone, plain_text(row.gsm)
    created_at, started_at = plain_time(row.create_date, zone), plain_time(row.start_date, zone)
    finished_at = plain_time(row.finish_date, zone)
    extra: dict[str, Any] = {}
    if created_at is not None:
        extra["create_date"] = created_at
    if foreign is not UNSET and foreign is not None:
        extra["is_foreign_gsm"] = foreign
    facts = Facts(
        client_ref=plain_text(row.delivery_track_id),
        credits=plain_amount(row.credit_amount),
        done_at=finished_at if final else None,
        extra=extra or None,
        parent_key=plain_text(row.transaction_id),
        provider_error=error,
        provider_status=word,
        reason=reason,
        recipient=recipient(gsm, foreign=foreign == 1) if gsm else None,
        segments=None if row.sms_count is UNSET else row.sms_count,
        sent_at=None if status is _SCHEDULED else started_at,
        status=status,
    )
    return PlainReport(
        granularity=_MESSAGE,
        provider_key=plain_key(row.gsm_track_id),
        facts=facts,
        statement=row,
        tracked=owner,
    )
