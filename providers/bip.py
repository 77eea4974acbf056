"""BiP (Bipüssü, Discover API): reports are pushed; there is nothing to poll.

Sources: bip.com/…/rapor-alma (reports), …/user-actions (notices), …/error-handling (result codes). Three bodies reach
us: delivered and read notices at the callback address itself, the report of an asynchronous send at `/report`, and the
report of a synchronous send inside the send reply, handed over by the sender.
"""

import base64
import binascii
import hmac
import ipaddress
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from pydantic import Field

from ulak.models.keys import join_key
from ulak.models.report import DeliveryReport, KeptStatement, Report, Unreadable
from ulak.models.vocabulary import Granularity, Reason, Source, Status, is_final
from ulak.providers.adapter import (
    REFERENCES_OF_MESSAGES,
    Account,
    Answer,
    Callback,
    DueId,
    Fetch,
    FetchSpec,
    Limit,
    Parsed,
    PollSchedule,
    ProviderRecord,
    Request,
)
from ulak.providers.bip_codes import CODES
from ulak.providers.decoding import (
    EMPTY,
    Fields,
    as_count,
    as_int,
    as_key,
    as_list,
    as_text,
    dump_item,
    in_utf8,
    load_object,
    local_time,
    scrub,
)
from ulak.providers.errors import AnswerNotUnderstood, OurBug, RequestIsWrong
from ulak.providers.options import ProviderOptions, ValidityHours
from ulak.providers.phone_numbers import recipient

REPORTTYPES: Final[Mapping[str, str]] = {"0": "delivered", "1": "read"}
"""`reporttype` of a notice. The vendor's page shows 0 for both; that 1 means read is assumed, hence an option."""

RESULT: Final[Mapping[int, Reason]] = {
    1: Reason.OTHER,  # general error
    300: Reason.OTHER,  # service not active
    301: Reason.INVALID_NUMBER,  # BiP user not defined
    302: Reason.OTHER,  # not authorised for this user
    303: Reason.OTHER,  # user file missing
    304: Reason.OTHER,  # user file corrupt
    305: Reason.OTHER,  # invalid record in the user file
    306: Reason.OTHER,  # may not use plain numbers
    307: Reason.OTHER,  # not authorised to use
    308: Reason.QUOTA,  # sending limit exceeded
    309: Reason.OTHER,  # synchronous sending error
    310: Reason.OTHER,  # duplicate txnid
    311: Reason.OTHER,  # method not allowed
    312: Reason.QUOTA,  # sending quota reached: not sent, which implies nothing about the number
}
"""`resultcode` other than 0: always `rejected` ("0: Başarılı, Diğer herşey: Başarısız"); one not listed is `other`."""

SUCCESS: Final = 0
IGNORED_TYPES: Final = frozenset({"M", "E"})
"""Messages and follow events of users come to the same address; they are accepted and not kept."""

_NOTICE_FIELDS: Final = ("sender", "type", "msgid", "sendtime", "txnid", "report")
_REPORT_FIELDS: Final = ("reportid", "reporttype")
_COUNTS: Final = ("numberofmessage", "totalnumberofmessage")
_ITEM_FIELDS: Final = ("receiver", "resultcode", "reportid", *_COUNTS)
_HEAD_FIELDS: Final = ("reqid", "txnid", "resultcode")
_SENDTIME: Final = re.compile(
    r"([0-9]{2})\.([0-9]{2})\.([0-9]{4}) ([0-9]{2}:[0-9]{2}:[0-9]{2})(?:[.,]([0-9]{1,9}))?"
    r" ?(?:Z|UTC|GMT|([+-][0-9]{2})(?::?([0-9]{2}))?)"
)
_UTC: Final = ZoneInfo("UTC")
_NOT_A_NOTICE: Final = frozenset({Status.UNREPORTED, Status.PARTIALLY_DELIVERED, Status.UNKNOWN})


class BipOptions(ProviderOptions):
    """What an account of BiP may set."""

    validity_hours: ValidityHours = 72.0
    reporttypes: dict[str, Any] = Field(
        default_factory=lambda: dict(REPORTTYPES), description="Which status each `reporttype` of a notice means."
    )
    allowed_ips: list[Any] = Field(
        default_factory=list,
        description="Addresses or networks that callbacks may come from; empty: any. A list with a mistake "
        "admits none.",
    )


RECORD: Final = ProviderRecord(
    name="bip",
    title="BiP",
    base_url="https://tims.turkcell.com.tr/tes/rest/spi",
    credentials=(("callback_user", "callback_password"),),
    user_names=("callback_user",),
    callback_password="callback_password",  # noqa: S106 - the name of a credential
    limit=Limit(requests=1, per_seconds=1.0, concurrency=1),
    poll=PollSchedule(steps_seconds=(60.0,)),
    options=BipOptions,
    meanings=CODES,
    callback_paths=("", "report"),
    person_fields=frozenset({"sender", "receiver"}),
    reference_kinds=REFERENCES_OF_MESSAGES,
)


class Bip:
    """Reads what BiP pushes, and decides who may push."""

    record = RECORD

    def plan_window(self, account: Account, start: date, end: date) -> tuple[FetchSpec, ...]:
        """Nothing: BiP has no list of what was sent."""
        del account, start, end
        return ()

    def plan_ids(self, account: Account, due: Sequence[DueId], today: date) -> tuple[FetchSpec, ...]:
        """Nothing: BiP cannot be asked."""
        del account, due, today
        return ()

    def request(self, account: Account, fetch: Fetch, now: datetime) -> Request:
        """Raises `RequestIsWrong`: BiP cannot be asked."""
        del account, fetch, now
        raise RequestIsWrong("BiP has nothing that could be asked for.")

    def parse(self, account: Account, fetch: Fetch, answer: Answer) -> Parsed:
        """Raises `OurBug`: there is no request that this could answer."""
        del account, fetch, answer
        raise OurBug("BiP has nothing that could be asked for.")

    def error_text(self, answer: Answer) -> str | None:
        """Nothing: there is no answer."""
        del answer
        return None

    def parse_item(self, account: Account, fetch: Fetch, item: bytes) -> None:
        """Nothing: what is kept of a push is a body again, which `parse_callback` reads."""
        del account, fetch, item

    def parse_callback(self, account: Account, callback: Callback) -> Parsed:
        """What a notice (tail ""), a send report ("report") or a send reply ("send_reply") contains."""
        callback = in_utf8(callback)
        body = load_object(callback.body)
        if callback.tail == "":
            return _parse_notice(account, body)
        if callback.tail == "report":
            return _parse_report(body, Source.CALLBACK, callback.body)
        if callback.tail == "send_reply":
            return _parse_report(body, Source.SEND_REPLY, callback.body)
        raise RequestIsWrong("BiP has no callback of this name.")

    def authorise_callback(self, account: Account, callback: Callback) -> bool:
        """Basic authentication with the account's callback user, from an allowed address."""
        user = account.credentials.get("callback_user", "")
        password = account.credentials.get("callback_password", "")
        wanted = f"{user}:{password}".encode()
        given = _basic_credentials(callback.headers.get("authorization", ""))
        known = hmac.compare_digest(given, wanted) and bool(user) and bool(password)
        return known and _is_allowed(callback.client_ip, BipOptions.of(account.options).allowed_ips)

    def restate(self, account: Account, kept: KeptStatement) -> Report | None:
        """A notice, one receiver of a report, or a send that failed as a whole."""
        stated = kept.statement
        if "report" in stated:
            return next(iter(_parse_notice(account, stated).reports), None)
        if kept.granularity is Granularity.ORDER:
            return next(iter(_parse_report(stated, kept.source, b"").reports), None)
        # The head of the report is stored beside the item's fields; earlier versions kept the item alone.
        body = {"txnid": kept.parent_key} | {name: stated[name] for name in ("txnid", "reqid") if name in stated}
        return _item_report(body, stated, _receiver(stated), kept.provider_key, kept.source)


ADAPTER: Final = Bip()


def send_time(text: Any, zone: ZoneInfo = _UTC) -> datetime | None:
    """`18.05.2018 16:11:58.633 +0300`, or ISO 8601, as an aware UTC time; None for any other form or date.

    `zone`: of an ISO time that names no offset.
    """
    match = _SENDTIME.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        return local_time(text, zone)
    day, month, year, clock, fraction, hours, minutes = match.groups()
    micros = (fraction or "").ljust(6, "0")[:6]
    offset = f"{hours or '+00'}:{minutes or '00'}"
    try:
        moment = datetime.fromisoformat(f"{year}-{month}-{day}T{clock}.{micros}{offset}").astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment if moment.year > 2000 else None  # noqa: PLR2004 - older than BiP itself: a clock that was never set


def _parse_notice(account: Account, body: Mapping[str, Any]) -> Parsed:
    kind = body.get("type")
    if isinstance(kind, str) and kind in IGNORED_TYPES:
        return Parsed()
    inner = body.get("report")
    key = as_key(inner.get("reportid")) if isinstance(inner, dict) else None
    word = _word(inner.get("reporttype")) if isinstance(inner, dict) else None
    if kind != "R" or key is None or word is None:
        reason = "The notice is of an unknown type or lacks `reportid` or `reporttype`."
        return Parsed(unreadable=(Unreadable(reason=reason, raw=dump_item(dict(body))),))
    status = _notice_status(account, word)
    fields = Fields(body, account.timezone)
    at = fields.read("sendtime", lambda text: send_time(text, account.timezone))
    who = fields.text("sender")
    extra = {"notice_txnid": fields.text("txnid"), "msgid": fields.text("msgid")}
    report = DeliveryReport(
        granularity=Granularity.MESSAGE,
        provider_key=key,
        recipient=recipient(who) if who else None,
        status=status,
        provider_status=word,
        done_at=at if is_final(status) else None,
        extra={name: value for name, value in extra.items() if value is not None},
        source=Source.CALLBACK,
        as_of=at,
        provider_time=at,
        statement=scrub(_notice_statement(body)),
    )
    troubles = fields.unreadable("A notice")
    if status is Status.UNKNOWN:
        strange = Unreadable(reason="Unknown `reporttype`.", raw=dump_item(dict(body)), provider_key=key)
        troubles = (strange, *troubles)
    return Parsed(reports=(report,), unreadable=troubles)


def _notice_statement(body: Mapping[str, Any]) -> dict[str, Any]:
    """The documented fields: one that is not known may be a text or a name."""
    known = {name: body[name] for name in _NOTICE_FIELDS if name in body}
    return {**known, "report": {name: body["report"][name] for name in _REPORT_FIELDS if name in body["report"]}}


def _word(value: Any) -> str | None:
    """A code as text, the same for 0 and "0"."""
    number = as_int(value)
    return str(number) if number is not None else as_text(value, limit=100)


def _notice_status(account: Account, word: str) -> Status:
    """The status that the account's `reporttypes` give to a code; `unknown` where it is none that a notice can mean."""
    named = BipOptions.of(account.options).reporttypes.get(word)
    if not isinstance(named, str) or named not in set(Status) or Status(named) in _NOT_A_NOTICE:
        return Status.UNKNOWN
    return Status(named)


def _parse_report(body: Mapping[str, Any], source: Source, raw: bytes) -> Parsed:
    """The receivers of a send; a send that failed whole has none and becomes one row of its own."""
    txnid, code, items = as_key(body.get("txnid")), as_int(body.get("resultcode")), _items(body.get("list"))
    if items is None:
        raise AnswerNotUnderstood("`list` is not a list.", raw=raw)
    if items:
        return _parse_items(body, items, txnid, source)
    if code is None or (code != SUCCESS and txnid is None):
        raise AnswerNotUnderstood("The report has neither a `list` nor a `resultcode` with its `txnid`.", raw=raw)
    if code == SUCCESS or txnid is None:
        # An asynchronous send was accepted; what became of it comes later.
        return Parsed()
    failed = DeliveryReport(
        granularity=Granularity.ORDER,
        provider_key=txnid,
        parent_key=txnid,
        client_ref=txnid,
        status=Status.REJECTED,
        reason=RESULT.get(code, Reason.OTHER),
        provider_status=str(code),
        provider_error=str(code),
        source=source,
        extra=_delivery_of_report(body),
        statement=scrub(_head(body)),
    )
    return Parsed(reports=(failed,))


def _items(stated: Any) -> list[Any] | None:
    """The receivers of a report; None where they cannot be read.

    The field table calls `list` an object and the samples show an array, so a single receiver may lack the array.
    """
    if stated in EMPTY:
        return []
    if isinstance(stated, dict) and "receiver" in stated:
        return [stated]
    return as_list(stated)


def _head(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a report outside its list."""
    return {name: body[name] for name in _HEAD_FIELDS if name in body}


def _item_statement(body: Mapping[str, Any], item: Mapping[str, Any]) -> dict[str, Any]:
    """The item, and the report's fields outside its list; the item's `resultcode` keeps its name."""
    head = {"send_resultcode" if name == "resultcode" else name: value for name, value in _head(body).items()}
    return head | {name: item[name] for name in _ITEM_FIELDS if name in item}


def _head_troubles(body: Mapping[str, Any]) -> tuple[Unreadable, ...]:
    """What beside the list is there and cannot be read."""
    fields = Fields(_head(body), _UTC)
    fields.read("txnid", as_key)
    fields.text("reqid")
    return fields.unreadable("A report")


def _delivery_of_report(body: Mapping[str, Any]) -> dict[str, Any]:
    """`reqid`, which names one delivery of a report: a send may be reported in several."""
    reqid = as_text(body.get("reqid"))
    return {} if reqid is None else {"reqid": reqid}


def _parse_items(body: Mapping[str, Any], items: Sequence[Any], txnid: str | None, source: Source) -> Parsed:
    reports: list[DeliveryReport] = []
    strange: list[Unreadable] = []
    spoiled: dict[str | None, None] = {}
    by_receiver: dict[str | None, list[Any]] = {}
    for item in items:
        by_receiver.setdefault(_receiver(item), []).append(item)
    places = {receiver: iter(_places(mine)) for receiver, mine in by_receiver.items()}
    for item in items:
        receiver = _receiver(item)
        place = next(places[receiver])
        key = None if txnid is None or receiver is None else join_key(txnid, receiver, place)
        report = _item_report(body, item, receiver, key, source) if isinstance(item, dict) else None
        if report is None:
            spoiled[receiver] = None
        else:
            reports.append(report)
            within = {**_head(body), "list": by_receiver[receiver]}
            strange += _counts(item).unreadable("An item of a report", within=within)
    reason = "An item lacks `resultcode`, or the `reportid` or `receiver` that it must have."
    return Parsed(
        reports=tuple(reports),
        # A body again: the send, and all items of the receiver, so that each keeps its place.
        unreadable=(
            *_head_troubles(body),
            *(
                Unreadable(reason=reason, raw=dump_item({**_head(body), "list": by_receiver[receiver]}))
                for receiver in spoiled
            ),
            *strange,
        ),
    )


def _receiver(item: Any) -> str | None:
    given = as_key(item.get("receiver")) if isinstance(item, dict) else None
    return recipient(given) if given is not None else None


def _places(items: Sequence[Any]) -> list[int]:
    """The place of each item among the messages that were sent to one receiver.

    `totalnumberofmessage` tells it ("Kullanıcıya gönderilen mesajın sırası"), since a send may be reported in several
    bodies; where it is absent, the position in this body counts. Where two failed items would share a place, the field
    holds a total, as its name suggests, and the positions count for all.
    """
    stated = [as_count(item.get("totalnumberofmessage")) if isinstance(item, dict) else None for item in items]
    places = [place or position for position, place in enumerate(stated, 1)]
    failed = [place for place, item in zip(places, items, strict=True) if not _is_taken(item)]
    return places if len(set(failed)) == len(failed) else list(range(1, len(items) + 1))


def _is_taken(item: Any) -> bool:
    return isinstance(item, dict) and as_int(item.get("resultcode")) == SUCCESS


def _counts(item: Mapping[str, Any]) -> Fields:
    """The item's fields, its counts read, so that unreadable ones are reported."""
    fields = Fields(item, _UTC)
    for name in _COUNTS:
        fields.whole(name)
    return fields


def _item_report(
    body: Mapping[str, Any], item: Mapping[str, Any], receiver: str | None, refused_key: str | None, source: Source
) -> DeliveryReport | None:
    """One receiver of a send: taken over (`enroute`) under its reportid, or refused under a key made of its parts."""
    code, txnid = as_int(item.get("resultcode")), as_key(body.get("txnid"))
    key = as_key(item.get("reportid")) if code == SUCCESS else refused_key
    if code is None or key is None:
        return None
    counts = {name: as_int(item.get(name)) for name in _COUNTS}
    return DeliveryReport(
        granularity=Granularity.MESSAGE,
        provider_key=key,
        parent_key=txnid,
        client_ref=txnid,
        recipient=receiver,
        status=Status.ENROUTE if code == SUCCESS else Status.REJECTED,
        reason=None if code == SUCCESS else RESULT.get(code, Reason.OTHER),
        provider_status=str(code),
        provider_error=None if code == SUCCESS else str(code),
        extra={name: value for name, value in counts.items() if value is not None} | _delivery_of_report(body),
        source=source,
        statement=scrub(_item_statement(body, item)),
    )


def _basic_credentials(header: str) -> bytes:
    """`user:password` of a Basic `Authorization` header; nothing where it is not one."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(encoded.strip().encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _is_allowed(client_ip: str | None, allowed: Any) -> bool:
    """Whether the address is in the list; an unreadable list admits none."""
    if not allowed:
        return True
    try:
        address = ipaddress.ip_address(client_ip or "")
        networks = [ipaddress.ip_network(str(entry), strict=False) for entry in allowed]
    except (ValueError, TypeError):
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return any((mapped or address) in network for network in networks)
