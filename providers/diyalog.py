"""Diyalog (Dlg Messenger): how many messages a customer exchanged per day, from `getcustomermessaginglist`.

Sources: the provider's page of that name and its Authentication page (diyalog.im/docs). The server belongs to each
customer, so accounts give its address. It reports daily counts with an error of up to ten, no receipts: they
become `conversation` rows with status `sent`, never `delivered`. Names and conversation links are not kept. Only the
webhook of a bot reports the outcome of single messages (`diyalog_webhook`).
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from email.utils import format_datetime
from http import HTTPStatus
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET
from pydantic import Field

from ulak.models.facts import Facts
from ulak.models.keys import join_key, split_key
from ulak.models.report import DeliveryReport, IdAnswer, KeptStatement, PlainReport, Report, TrackedKey, Unreadable
from ulak.models.vocabulary import Granularity, Reason, Status
from ulak.providers.adapter import (
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
from ulak.providers.decoding import (
    EPOCH,
    as_count,
    as_int,
    as_key,
    as_list,
    check_http,
    dump_item,
    epoch_milliseconds,
    http_date,
    in_utf8,
    load_json,
    load_object,
    refuse_client_error,
    scrub,
    text_for_people,
)
from ulak.providers.diyalog_codes import CODES
from ulak.providers.diyalog_webhook import APP_SECRET, MESSAGE_TEXT, SIGNATURE, is_signed, read_webhook, restate_event
from ulak.providers.errors import AnswerNotUnderstood, PauseAccount, RequestIsWrong, TryAgainSoon
from ulak.providers.ids import whole_number
from ulak.providers.options import ProviderOptions, ValidityHours
from ulak.providers.phone_numbers import plain
from ulak.providers.plain import Count, NotPlainError, PlainItem, Text, Unset, Whole, plain_key, read_plain

COUNTED: Final = "sendMessageCount"
"""The provider has no status word; it reports this field, so its name takes the place of a status."""

STATUS: Final[Mapping[str, tuple[Status, Reason | None]]] = {
    COUNTED: (Status.SENT, None),  # "kaç adet mesaj gönderdiği": how many were sent, not how many arrived
}

REFUSALS: Final[Mapping[str, str]] = {
    "required headers not found": "Diyalog misses a signature header (option header_names).",
    "authorization failed due to data format not valid": "Diyalog cannot read the authorization header.",
    "authorization failed due to date not valid": "Diyalog cannot read the date header.",
    "authorization failed": "Diyalog refuses the signature (access_key_id, access_key_secret, newline_before_path).",
}
"""The documented texts of HTTP 400 and 401, in small letters → our sentence; all of them pause the account."""

HEADER_NAMES: Final[Mapping[str, tuple[str, str, str]]] = {
    "x-dlg": ("x-dlg-date", "x-dlg-authorization", "x-dlg-requester-userid"),
    "legacy": ("Date", "X-Authorization", "X-Requester-UserId"),  # the names in the provider's own error table
}

PATH: Final = "/v1/reporting/getcustomermessaginglist"
PAGE_SIZE: Final = 20
"""The provider never gives more: "API maksimum 20 adet bilgi döner"."""
MAX_PAGES: Final = 250
MAX_AGAIN: Final = 3
MAX_STALE: Final = 2
CONTENT_TYPE: Final = "application/json"
CLOCK_OFFSET: Final = "clock_offset_seconds"
CLOCK_TOLERANCE_SECONDS: Final = 300.0
"""The server refuses from 15 minutes on; an offset that is right to five cannot be why it refused."""
MAX_OFFSET_SECONDS: Final = 366 * 86400.0

_KIND: Final = "customer"
_STATED: Final = ("senderId", "receiverId", "messagingDate", COUNTED, "isGroupMessaging", "groupId")


def customer_id(value: str) -> str:
    """`customerId` or `customerId:staffId`, both whole numbers; `RequestIsWrong` for any other text."""
    parts = [whole_number(part) for part in plain(value).split(":")]
    if len(parts) > 2 or None in parts:  # noqa: PLR2004 - customer and staff
        raise RequestIsWrong("A tracked customer is written as customerId or customerId:staffId, whole numbers.")
    return ":".join(part for part in parts if part is not None)


def sign(secret: str, *, sent_at: str, body: bytes, path: str, newline_before_path: bool = True) -> str:
    """The DLGA signature: base64 of HMAC-SHA256 over method, content type, date, body and path.

    `body` are the exact bytes that are sent, `sent_at` exactly the value of the date header. The documents contradict
    themselves on a newline between body and path: the prose and the worked example have it, the pseudo-code does not.
    """
    head = f"POST\n{CONTENT_TYPE}\n{sent_at}\n".encode()
    text = head + body + (b"\n" if newline_before_path else b"") + path.encode()
    return base64.b64encode(hmac.digest(secret.encode(), text, hashlib.sha256)).decode("ascii")


def plan_range(account: Account, due: Sequence[DueId], start: date, end: date) -> tuple[FetchSpec, ...]:
    """Page one of each customer over these days (inclusive).

    It is not documented whether a day is a UTC or a local one, so both are requested completely.
    """
    zone = account.timezone
    first = min(_milliseconds(start, UTC), _milliseconds(start, zone))
    last = max(_milliseconds(end + timedelta(days=1), UTC), _milliseconds(end + timedelta(days=1), zone)) - 1
    days = (start.isoformat(), end.isoformat())
    return tuple(_page(item.key, start=first, end=last, days=days) for item in due)


class DiyalogOptions(ProviderOptions):
    """What an account of Diyalog may set."""

    # The day on which a customer was registered is counted final up to 72 h later; one day more reads it twice.
    validity_hours: ValidityHours = 96.0
    newline_before_path: bool = Field(
        default=True,
        description="Whether a newline separates body and path in what is signed. If a right key gets 401, try `false`."
        "\n\nThe provider's prose and worked example have the newline, its pseudo-code does not.",
    )
    path: str = Field(
        default=PATH,
        description="Path of the report on the account's server."
        '\n\nThe line "API URI" of the provider\'s page names another function, a copying slip.',
    )
    page_base: int = Field(default=1, ge=0, le=1, description="Number of the first page, 0 or 1.")
    header_names: Literal["x-dlg", "legacy"] = Field(
        default="x-dlg",
        description="Names of the signature headers. `legacy`: `Date`, `X-Authorization`, `X-Requester-UserId`, as in "
        "the provider's error table.",
    )
    group: bool | None = Field(
        default=None, description="`true`: group conversations only; `false`: private ones only; unset: both."
    )


class Diyalog:
    """The adapter: pages of 20, newest first, one walk per tracked customer; and the webhook of a bot."""

    record = ProviderRecord(
        name="diyalog",
        title="Diyalog",
        base_url=None,
        credentials=(("access_key_id", "access_key_secret", "requester_userid"),),
        user_names=("requester_userid",),
        limit=Limit(requests=1, per_seconds=1.0, concurrency=1),
        poll=PollSchedule(steps_seconds=(60.0, 300.0), growth=1.6, max_seconds=1800.0, forget_days=7.0),
        options=DiyalogOptions,
        meanings=CODES,
        id_kinds=(_KIND,),
        id_forms={_KIND: customer_id},
        person_part={_KIND: 0},
        person_fields=frozenset({"senderId", "receiverId", "sender", "recipient", "bot", "user_id"}),
        reference_kinds={"conversation": Granularity.CONVERSATION, "message": Granularity.MESSAGE},
        plan_range=plan_range,
        callback_paths=("",),
        optional_credentials=(APP_SECRET,),
        callback_signature=SIGNATURE,
        dropped_fields=(MESSAGE_TEXT,),
    )

    def plan_window(self, account: Account, start: date, end: date) -> tuple[FetchSpec, ...]:
        """Nothing: there is no list over all customers."""
        return ()

    def plan_ids(self, account: Account, due: Sequence[DueId], today: date) -> tuple[FetchSpec, ...]:
        """Page one of each customer, from `lookback_days` ago to the end of tomorrow (UTC days).

        Tomorrow is requested too, since it is not documented whether the day is a UTC or a Turkish one.
        """
        start = _milliseconds(today - timedelta(days=account.lookback_days), UTC)
        end = _milliseconds(today + timedelta(days=2), UTC) - 1
        return tuple(_page(item.key, start=start, end=end) for item in due)

    def request(self, account: Account, fetch: Fetch, now: datetime) -> Request:
        """The signed request of one page; the clock offset that an earlier refusal taught is added to `now`."""
        options = DiyalogOptions.of(account.options)
        url = account.base_url.rstrip("/") + "/" + options.path.lstrip("/")
        body = _body(account, fetch.spec.params)
        sent_at = format_datetime((now + timedelta(seconds=_offset(account))).astimezone(UTC), usegmt=True)
        signature = sign(
            account.credentials["access_key_secret"],
            sent_at=sent_at,
            body=body,
            path=urlsplit(url).path,
            newline_before_path=options.newline_before_path,
        )
        when, authorization, requester = HEADER_NAMES[options.header_names]
        headers = {
            "Content-Type": CONTENT_TYPE,
            when: sent_at,
            authorization: f"DLGA {account.credentials['access_key_id']}:{signature}",
            requester: account.credentials["requester_userid"],
        }
        return Request(method="POST", url=url, headers=headers, body=body, endpoint="getcustomermessaginglist page")

    def parse(self, account: Account, fetch: Fetch, answer: Answer) -> Parsed:
        """The conversation-days on a page, and which page comes next (see `_next`)."""
        _check(account, answer)
        answer = in_utf8(answer)
        try:
            return _parse_plain(account, fetch, answer)
        except NotPlainError:
            pass
        items = as_list(load_json(answer.body))
        if items is None:
            raise AnswerNotUnderstood("The answer is not a list of conversations.", raw=answer.body)
        return _walk(fetch, [_read(item) for item in items])

    def error_text(self, answer: Answer) -> str | None:
        """The text of an answer that is an error: this provider's errors are nothing but text."""
        return _error_text(answer) if answer.status >= HTTPStatus.BAD_REQUEST else None

    def parse_item(self, account: Account, fetch: Fetch, item: bytes) -> Parsed | None:
        """One conversation-day of the list."""
        found = _read(load_json(item))
        return Parsed(unreadable=(found,)) if isinstance(found, Unreadable) else Parsed(reports=(found,))

    def restate(self, account: Account, kept: KeptStatement) -> Report | None:
        """One conversation-day, or one message of a bot."""
        del account
        if kept.granularity is Granularity.CONVERSATION:
            found = _read(kept.statement)
            return found if isinstance(found, DeliveryReport) else None
        return restate_event(kept.statement)

    def parse_callback(self, account: Account, callback: Callback) -> Parsed:
        """The messages of a bot that were delivered or read."""
        if callback.tail:
            raise RequestIsWrong("Diyalog pushes to one address only, and its send replies hold no report.")
        return read_webhook(load_object(in_utf8(callback).body))

    def authorise_callback(self, account: Account, callback: Callback) -> bool:
        """Whether `X-Signature` is that of the body, by the bot's `app_secret`."""
        return is_signed(account.credentials.get(APP_SECRET, ""), callback)


def _parse_plain(account: Account, fetch: Fetch, answer: Answer) -> Parsed:
    """What `Diyalog.parse` gives for an answer in which everything is plain."""
    del account
    return _walk(fetch, [_read_plain(item) for item in read_plain(_DECODE, answer.body)])


def _walk(fetch: Fetch, read: Sequence[Report | Unreadable]) -> Parsed:
    """What the items of a page say, and which page comes next."""
    reports = tuple(found for found in read if not isinstance(found, Unreadable))
    seen = tuple(report.provider_key for report in reports)
    unreadable = [found for found in read if isinstance(found, Unreadable)]
    news = any(key not in fetch.seen_before for key in seen)
    child = _next(fetch, full=len(read) >= PAGE_SIZE, news=news)
    if len(read) >= PAGE_SIZE and (fetch.spec.params["page"] >= MAX_PAGES or _stale(fetch, news=news) > MAX_STALE):
        reason = "The list continues past the last page that is read, or its pages repeat themselves."
        unreadable.append(Unreadable(reason=reason, raw=b""))
    found = bool(seen or fetch.seen_before)
    key = TrackedKey(id_kind=_KIND, value=str(fetch.spec.params["customer"]))
    return Parsed(
        reports=reports,
        children=() if child is None else (child,),
        answers=(IdAnswer(key=key, found=found),) if child is None else (),
        seen=seen,
        unreadable=tuple(unreadable),
    )


def _milliseconds(day: date, zone: tzinfo) -> int:
    """The beginning of a day as an epoch."""
    return (datetime.combine(day, time(), zone) - EPOCH) // timedelta(milliseconds=1)


def _page(
    key: TrackedKey,
    *,
    start: int,
    end: int,
    page: int = 1,
    again: int = 0,
    tally: int = 0,
    days: Sequence[str] | None = None,
) -> FetchSpec:
    """`days`: first and last day of an on-demand range; such a page is requested again as part of it."""
    params = {
        "chain": join_key(_KIND, key.value),
        "customer": key.value,
        "start": start,
        "end": end,
        "page": page,
        "again": again,
        "tally": tally,
        **({} if days is None else {"range": list(days)}),
    }
    return FetchSpec(kind="batch", params=params, ids=(key,), label=f"conversations page {page}")


def _stale(fetch: Fetch, *, news: bool) -> int:
    """How many pages of the first walk in a row held nothing new, this one included."""
    return 0 if news or fetch.spec.params["again"] else fetch.spec.params["tally"] + 1


def _next(fetch: Fetch, *, full: bool, news: bool) -> FetchSpec | None:
    """The page to read after this one, None at the end of the walk.

    The list is newest first and paged by offset, so rows that come during the walk push others on to later pages:
    walking forward sees those twice but misses what has come in front. So after the short page, page one is read
    again, and on from there while a page holds anything new, until a whole round holds nothing new. One short page
    alone is a single answer, in which nothing can have shifted. (Twenty new conversations of one customer between two
    calls could still hide one; the next check reads the same days again.)

    `tally` counts, in the first walk, the pages in a row without anything new (a server that ignores the page number
    must not be walked to the end), and in the rounds after it the pages with something new.
    """
    params = fetch.spec.params
    page, again, stale = params["page"], params["again"], _stale(fetch, news=news)
    fresh = params["tally"] + news if again else 0
    if full and page < MAX_PAGES and (news or (again == 0 and stale <= MAX_STALE)):
        page, tally = page + 1, fresh if again else stale
    elif (again == 0 and page > 1) or (fresh and again < MAX_AGAIN):
        page, again, tally = 1, again + 1, 0
    else:
        return None
    key = TrackedKey(id_kind=_KIND, value=params["customer"])
    days = params.get("range")
    return _page(key, start=params["start"], end=params["end"], page=page, again=again, tally=tally, days=days)


def _body(account: Account, params: Mapping[str, Any]) -> bytes:
    customer, *staff = split_key(str(params["customer"]))
    if not customer or len(staff) > 1 or staff == [""]:
        raise RequestIsWrong("A tracked customer is written as customerId or customerId:staffId.")
    options = DiyalogOptions.of(account.options)
    wanted = {
        "startDate": params["start"],
        "endDate": params["end"],
        "customerId": customer,
        **({"staffId": staff[0]} if staff else {}),
        **({} if options.group is None else {"isGroupMessaging": options.group}),
        "pageNumber": params["page"] - 1 + options.page_base,
        "pageSize": PAGE_SIZE,
    }
    return json.dumps(wanted, separators=(",", ":")).encode("ascii")


def _offset(account: Account) -> float:
    """The learned clock offset (server minus ours) in seconds; 0 before anything was learned."""
    offset = account.learned.get(CLOCK_OFFSET, 0)
    known = isinstance(offset, int | float) and not isinstance(offset, bool) and abs(offset) <= MAX_OFFSET_SECONDS
    return float(offset) if known else 0.0


def _check(account: Account, answer: Answer) -> None:
    """Raise what an answer other than 200 means; errors are plain text at this provider."""
    text = _error_text(answer)
    if answer.status == HTTPStatus.INTERNAL_SERVER_ERROR and text is not None:
        raise TryAgainSoon("Diyalog answered this request with an error.", code="500", is_outage=False)
    check_http(answer)
    if answer.status == HTTPStatus.FORBIDDEN:
        _refuse_time(account, answer)
    text = (text or "").rstrip(".").lower()
    if answer.status in {HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED} and text in REFUSALS:
        raise PauseAccount(REFUSALS[text], code=str(int(answer.status)))
    refuse_client_error(answer)


def _error_text(answer: Answer) -> str | None:
    """The message of an error: a plain text or a JSON string. None if the API itself sent none.

    An empty body, HTML, XML, a JSON object and the bare name of the status come from in front of the API (a
    proxy, the application server): there a 500 means that the API is unavailable.
    """
    text = text_for_people(answer).strip()
    is_page = "html" in answer.headers.get("content-type", "").lower() or text.startswith(("<", "{", "["))
    text = text.strip('"').strip()
    try:
        phrase = HTTPStatus(answer.status).phrase
    except ValueError:
        phrase = ""
    bare = text.lower().removeprefix(str(answer.status)).strip(" .:-")
    return None if is_page or bare in {"", phrase.lower()} else text


def _refuse_time(account: Account, answer: Answer) -> None:
    """A 403 means that our clock and the server's differ by more than 15 minutes: learn by how much, once.

    Where the offset in use already agrees with the server's `Date`, the clock is not the reason, and signing again
    and again would only hammer: the account is paused.
    """
    server = http_date(answer.headers.get("date", ""))
    if server is not None and answer.received_at is not None:
        offset = (server - answer.received_at).total_seconds()
        if abs(offset) <= MAX_OFFSET_SECONDS and abs(offset - _offset(account)) > CLOCK_TOLERANCE_SECONDS:
            raise TryAgainSoon(
                "Diyalog's clock differs from ours; the difference is learned.",
                code="403",
                learned={CLOCK_OFFSET: round(offset)},
            )
    raise PauseAccount("Diyalog refuses the time or the right of the request.", code="403")


def _read(item: Any) -> Report | Unreadable:
    """One conversation-day, or why it cannot be read (names and links never leave the sealed bytes)."""
    if not isinstance(item, dict):
        return Unreadable(reason="A conversation is not an object.", raw=dump_item(item))
    sender, receiver = as_key(item.get("senderId")), as_key(item.get("receiverId"))
    day, count, group = _day(item.get("messagingDate")), as_count(item.get(COUNTED)), _group(item)
    if sender is None or receiver is None or day is None or count is None or group is None:
        wrong = "senderId, receiverId, messagingDate, sendMessageCount or the group"
        return Unreadable(reason=f"A conversation lacks or garbles {wrong}.", raw=dump_item(item))
    status, reason = STATUS[COUNTED]
    return DeliveryReport(
        granularity=Granularity.CONVERSATION,
        provider_key=join_key(sender, receiver, group, day.isoformat()),
        # The customer whose conversations the list is about: what support asks for.
        parent_key=sender,
        status=status,
        reason=reason,
        provider_status=COUNTED,
        recipient=receiver,
        total=count,
        day=day,
        extra={"is_group": group != 0, "sender": sender, "group_id": group, "day": day.isoformat()},
        statement=scrub({name: item[name] for name in _STATED if name in item}),
    )


class _PlainDay(PlainItem):
    """A conversation-day; what may name a person is emptied before the item is kept."""

    senderId: Whole | Text
    receiverId: Whole | Text
    messagingDate: Whole
    sendMessageCount: Count
    isGroupMessaging: bool | Unset | None = UNSET
    groupId: Whole | Unset | None = UNSET
    conversationDetailLink: str | Unset | None = UNSET
    nameOfReceiver: str | Unset | None = UNSET
    nameOfSender: str | Unset | None = UNSET


_DECODE: Final = msgspec.json.Decoder(list[_PlainDay]).decode


def _read_plain(item: _PlainDay) -> Report:
    """What `_read` gives for a plain item."""
    item.conversationDetailLink = item.nameOfReceiver = item.nameOfSender = UNSET
    sender, receiver, date_of = plain_key(item.senderId), plain_key(item.receiverId), _day(item.messagingDate)
    group = item.groupId or 0
    if date_of is None or item.isGroupMessaging is (group == 0):
        raise NotPlainError
    day, (status, reason) = date_of.isoformat(), STATUS[COUNTED]
    facts = Facts(
        day=day,
        extra={"day": day, "group_id": group, "is_group": group != 0, "sender": sender},
        parent_key=sender,
        provider_status=COUNTED,
        reason=reason,
        recipient=receiver,
        status=status,
        total=item.sendMessageCount,
    )
    return PlainReport(
        granularity=Granularity.CONVERSATION,
        provider_key=join_key(sender, receiver, group, day),
        facts=facts,
        statement=item,
        tracked=None,
    )


def _day(value: Any) -> date | None:
    """The UTC calendar date of an epoch in milliseconds (the samples are exact UTC midnights)."""
    moment = epoch_milliseconds(value)
    return None if moment is None else moment.date()


def _group(item: Mapping[str, Any]) -> int | None:
    """The group id, 0 for a private conversation, None where the item contradicts itself."""
    flags = {True: True, False: False, "true": True, "false": False, None: None}
    flag = item.get("isGroupMessaging")
    number = as_int(item.get("groupId")) if item.get("groupId") is not None else 0
    if number is None or not isinstance(flag, bool | str | None) or flag not in flags:
        return None
    is_group = flags[flag]
    return number if is_group is None or is_group == (number != 0) else None


ADAPTER = Diyalog()
