"""iletimerkezi.com: orders of a date range (`get-reports`) and the recipients of one order (`get-report`).

Sources: the provider's pages "Paket özeti" and "Rapor" (toplusmsapi.com/sms/rapor) with their newer English twins, and
the tests of its official client libraries, which give every code and count both as a number and as text.
"""

import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from http import HTTPStatus
from typing import Any, Final

from pydantic import Field

from ulak.models.keys import join_key
from ulak.models.report import Discovered, IdAnswer, KeptStatement, Report, TrackedKey, Unreadable
from ulak.models.vocabulary import Granularity, Source, Status, is_final
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
    SweepPage,
)
from ulak.providers.decoding import (
    as_count,
    as_int,
    as_key,
    as_list,
    as_text,
    check_http,
    dump_item,
    in_utf8,
    load_object,
    refuse_client_error,
    retry_after,
)
from ulak.providers.errors import (
    AnswerNotUnderstood,
    PauseAccount,
    ProviderError,
    RequestIsWrong,
    SlowDown,
    TryAgainAt,
    TryAgainSoon,
)
from ulak.providers.ids import bare, whole_id
from ulak.providers.iletimerkezi_codes import CODES
from ulak.providers.iletimerkezi_orders import (
    FINISHED,
    MESSAGE_STATUS,
    ORDER,
    ORDER_STATUS,
    SENDING,
    Order,
    Recipient,
    code_text,
    decode_recipient,
    is_repetition,
    message_status,
    read_order,
    read_recipient,
    read_recipients,
    report_recipients,
    restate_recipient,
    scheduled_order,
    summarise_order,
)
from ulak.providers.iletimerkezi_plain import read_plain_response
from ulak.providers.iletimerkezi_webhook import MESSAGE_TEXT, WEBHOOK_SECRET, WORDS, read_webhook
from ulak.providers.options import ValidityHours
from ulak.providers.plain import NotPlainError
from ulak.providers.statuses import MappedOptions, judge

OK: Final = 200
NOT_FOUND: Final = 455
NOT_YET: Final = 456
ERRORS: Final[Mapping[int, tuple[type[ProviderError], str]]] = {
    400: (RequestIsWrong, "iletimerkezi could not parse the request."),
    401: (
        PauseAccount,
        "iletimerkezi refuses key and hash, the panel's switch for API access is off, or the address is not allowed.",
    ),
    403: (PauseAccount, "iletimerkezi refuses the account."),
    404: (RequestIsWrong, "iletimerkezi does not know this method (base_url)."),
    429: (SlowDown, "iletimerkezi asks us to slow down."),
    NOT_FOUND: (RequestIsWrong, "iletimerkezi knows no such order."),  # of get-report: an answer, see `_parse_order`
    NOT_YET: (TryAgainAt, "The order is scheduled for later."),  # of get-report: an answer, see `_scheduled`
    458: (RequestIsWrong, "iletimerkezi refuses the date range."),
    464: (RequestIsWrong, "iletimerkezi refuses the page number."),
    503: (TryAgainSoon, "iletimerkezi is out of service for a while."),
}
"""Code in the body (which the HTTP status mirrors) → what to do. Other 4xx: the request is wrong; 5xx: try again."""

PAGE_SIZE: Final = 30
"""Orders on a page of get-reports: a constant of four official client libraries."""
ROW_COUNT: Final = 1000
"""Recipients on a page of get-report: the documented maximum."""
MAX_PAGES: Final = 2000
NOT_YET_SECONDS: Final = 600.0
PROBE: Final = "probe"
BALANCE: Final = "get-balance"
"""The function whose answer shows that key and hash are accepted; the provider's documents call it free of charge."""


def sent_hash(credentials: Mapping[str, str]) -> str:
    """The hash contained in every request."""
    return credentials.get("hash") or derive_hash(credentials["key"], credentials["secret"])


def derive_hash(key: str, secret: str) -> str:
    """The hash that the panel shows, made from key and secret as two independent clients make it."""
    return hmac.new(secret.encode(), key.encode(), hashlib.sha256).hexdigest()


class IletimerkeziOptions(MappedOptions):
    """What an account of İleti Merkezi may set."""

    validity_hours: ValidityHours = 48.0
    details: bool = Field(
        default=True,
        description="Ask for the recipients of every order. `false`: order rows only, with far fewer calls.",
    )
    window_days: int = Field(
        default=10,
        ge=1,
        le=10,
        description="Calendar days (inclusive) of one list window; the provider refuses more than 10.",
    )

    @property
    def longest_window_days(self) -> int:
        """As configured."""
        return self.window_days


class Iletimerkezi:
    """The adapter: list windows of orders, then the recipients of each order that is not settled; and the webhook."""

    record = ProviderRecord(
        name="iletimerkezi",
        title="İleti Merkezi",
        base_url="https://api.iletimerkezi.com",
        credentials=(("key", "hash"), ("key", "secret")),
        limit=Limit(requests=1, per_seconds=1.0, concurrency=1),
        poll=PollSchedule(steps_seconds=(10.0, 30.0, 60.0), growth=1.6, max_seconds=1800.0),
        options=IletimerkeziOptions,
        meanings=CODES,
        sweep_window_days=10,
        id_forms={ORDER: whole_id},
        status_codes=frozenset({*ORDER_STATUS, FINISHED, *MESSAGE_STATUS, *WORDS}),
        optional_credentials=(WEBHOOK_SECRET,),
        derived_secret=sent_hash,
        callback_secret=WEBHOOK_SECRET,
        dropped_fields=(MESSAGE_TEXT,),
        is_repetition=is_repetition,
        person_fields=frozenset({"number", "to"}),
        reference_kinds=REFERENCES_OF_MESSAGES,
        settled_by_parts=frozenset({ORDER}),
        probe=FetchSpec(kind="batch", params={PROBE: BALANCE}, label="credential check"),
    )

    def plan_window(self, account: Account, start: date, end: date) -> tuple[FetchSpec, ...]:
        """Page one of the window; the others follow once the count is known."""
        return (_list_page([start.isoformat(), end.isoformat()], 1),)

    def plan_ids(self, account: Account, due: Sequence[DueId], today: date) -> tuple[FetchSpec, ...]:
        """Page one of the recipients of each order: the provider takes one order a call."""
        return tuple(_order_page(item.key.value, page=1, rows=0, total=item.expected) for item in due)

    def request(self, account: Account, fetch: Fetch, now: datetime) -> Request:
        """`get-report` for the recipients of an order, `get-reports` for a page of a window."""
        params = fetch.spec.params
        if PROBE in params:
            return _request(account, params[PROBE], {})
        if ORDER in params:
            subject = {"id": _order_number(params[ORDER]), "page": params["page"], "rowCount": ROW_COUNT}
            return _request(account, "get-report", {"order": subject})
        start, end = params["window"]
        return _request(account, "get-reports", {"filter": {"start": start, "end": end, "page": params["page"]}})

    def parse(self, account: Account, fetch: Fetch, answer: Answer) -> Parsed:
        """Orders of a list page, or recipients of an order; the code in the body decides, then the HTTP status."""
        answer = in_utf8(answer)
        if answer.status == HTTPStatus.OK:
            try:
                return _parse_plain(account, fetch, answer)
            except NotPlainError:
                pass
        code, response = _response(answer)
        if PROBE in fetch.spec.params:
            _refuse(code, answer)
            return Parsed()
        if ORDER in fetch.spec.params:
            return _parse_order(account, fetch, answer, code=code, response=response)
        _refuse(code, answer)
        return _parse_list(account, fetch, answer, response)

    def error_text(self, answer: Answer) -> str | None:
        """`status.message` beside any other code than 200."""
        try:
            response = load_object(in_utf8(answer).body).get("response")
        except ProviderError:
            return None
        stated = response.get("status") if isinstance(response, dict) else None
        if not isinstance(stated, dict) or as_int(stated.get("code")) == OK:
            return None
        return as_text(stated.get("message"))

    def parse_item(self, account: Account, fetch: Fetch, item: bytes) -> Parsed | None:
        """One order, or one recipient of the order that was asked for.

        A recipient alone does not identify which of equal numbers it is, so its report is ambiguous.
        """
        value, params = load_object(item), fetch.spec.params
        if "number" in value:
            return read_recipient(str(params[ORDER]), value, account) if ORDER in params else None
        found = read_order(value, account)
        if isinstance(found, Unreadable):
            return Parsed(unreadable=(found,))
        return Parsed(reports=(found.report,), unreadable=found.unreadable)

    def restate(self, account: Account, kept: KeptStatement) -> Report | None:
        """One order, one recipient of an order, or a webhook event about one."""
        if kept.granularity is Granularity.ORDER:
            found = read_order(kept.statement, account, kept.as_of)
            return found.report if isinstance(found, Order) else None
        if kept.source is Source.CALLBACK:
            pushed = read_webhook(account, {"report": kept.statement}, details=True)
            return next((ambiguous_report.report for ambiguous_report in pushed.ambiguous), None)
        return restate_recipient(kept.provider_key, kept.statement, account)

    def parse_callback(self, account: Account, callback: Callback) -> Parsed:
        """The webhook's report about one recipient of an order; there is no other body that could be submitted."""
        if callback.tail:
            raise RequestIsWrong("iletimerkezi pushes to one address only, and its send replies hold no report.")
        details = IletimerkeziOptions.of(account.options).details
        return read_webhook(account, load_object(in_utf8(callback).body), details=details)

    def authorise_callback(self, account: Account, callback: Callback) -> bool:
        """Whether the tail of the address is the account's secret: the webhook is signed by nothing else."""
        secret = account.credentials.get(WEBHOOK_SECRET, "")
        given = callback.tail.encode("utf-8", "surrogatepass")
        return bool(secret) and hmac.compare_digest(given, secret.encode())


def _list_page(window: Sequence[str], page: int) -> FetchSpec:
    label = f"{window[0]}..{window[1]} page {page}"
    return FetchSpec(kind="page", params={"window": list(window), "page": page}, label=label)


def _order_page(order: str, *, page: int, rows: int, total: int | None) -> FetchSpec:
    """One page of an order's recipients. `rows` are those of the pages before, `total` the order's as far as known."""
    params = {
        "chain": join_key(ORDER, order),
        ORDER: order,
        "page": page,
        "rows": rows,
        # Read by workers of an earlier version alone: they must not settle an order whose first pages they cannot read.
        "open": page - 1,
        **({} if total is None else {"total": total}),
    }
    ids = (TrackedKey(id_kind=ORDER, value=order),)
    return FetchSpec(kind="batch", params=params, ids=ids, label=f"recipients page {page}")


def _order_number(order: str) -> int | str:
    """The id as the provider's own sample sends it: a number."""
    number = as_int(order)
    return order if number is None or str(number) != order else number


def _request(account: Account, function: str, subject: Mapping[str, Any]) -> Request:
    credentials = account.credentials
    key = credentials["key"]
    secret_hash = sent_hash(credentials)
    wanted = {"request": {"authentication": {"key": key, "hash": secret_hash}, **subject}}
    return Request(
        method="POST",
        url=f"{account.base_url.rstrip('/')}/v1/{function}/json",
        headers={"Content-Type": "application/json", "Accept": "application/json"},
        body=json.dumps(wanted, separators=(",", ":")).encode("ascii"),
        endpoint=function if function == BALANCE else f"{function} page",
    )


def _response(answer: Answer) -> tuple[int, Mapping[str, Any]]:
    """The code and the content of an answer, whatever its HTTP status; without a code the HTTP status is the code."""
    if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
        check_http(answer)
    try:
        response = load_object(answer.body).get("response")
        stated = response.get("status") if isinstance(response, dict) else None
        code = as_int(stated.get("code")) if isinstance(stated, dict) else None
    except AnswerNotUnderstood:
        response = code = None
    if code is None or (code == OK and not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES):
        check_http(answer)
        refuse_client_error(answer)
        code = OK
    if not isinstance(response, dict):
        raise AnswerNotUnderstood("The answer holds no response object.", raw=answer.body)
    return code, response


def _parse_plain(account: Account, fetch: Fetch, answer: Answer) -> Parsed:
    """What `Iletimerkezi.parse` gives for an answer in which everything is plain."""
    if PROBE in fetch.spec.params:
        raise NotPlainError
    response = read_plain_response(answer.body)
    if as_int(response["status"]) != OK:
        raise NotPlainError
    if ORDER in fetch.spec.params:
        parsed = _parse_order(account, fetch, answer, code=OK, response=response)
    else:
        parsed = _parse_list(account, fetch, answer, response)
    if parsed.unreadable:
        # What is put away has to be as it was given.
        raise NotPlainError
    return parsed


def _refuse(code: int, answer: Answer) -> None:
    """Raise what a code other than 200 means."""
    if code == OK:
        return
    error, sentence = ERRORS.get(code, _unlisted(code))
    wait = retry_after(answer)
    if error is SlowDown or (error is TryAgainSoon and wait is not None):
        raise SlowDown(sentence, retry_after_seconds=wait, code=str(code))
    if error is TryAgainAt:
        raise TryAgainAt(sentence, after_seconds=NOT_YET_SECONDS, code=str(code))
    if error is AnswerNotUnderstood:
        raise AnswerNotUnderstood(sentence, raw=answer.body, code=str(code))
    raise error(sentence, code=str(code))


def _unlisted(code: int) -> tuple[type[ProviderError], str]:
    if HTTPStatus.BAD_REQUEST <= code < HTTPStatus.INTERNAL_SERVER_ERROR:
        return RequestIsWrong, "iletimerkezi refuses the request."
    if HTTPStatus.INTERNAL_SERVER_ERROR <= code < 600:  # noqa: PLR2004 - the end of HTTP's own range
        return TryAgainSoon, "iletimerkezi has a fault of its own."
    return AnswerNotUnderstood, "The answer has a code that is not documented."


def _parse_list(account: Account, fetch: Fetch, answer: Answer, response: Mapping[str, Any]) -> Parsed:
    """One page of a window: each order's counts, and, with `details`, the order as an id to be asked for."""
    number, window = fetch.spec.params["page"], fetch.spec.params["window"]
    count, stated = as_count(response.get("count")), response.get("orders")
    items = [] if not stated and count == 0 else as_list(stated)
    if items is None:
        raise AnswerNotUnderstood("The answer holds no list of orders.", raw=answer.body)
    read = [read_order(item, account, answer.asked_at) for item in items]
    orders = [found for found in read if isinstance(found, Order)]
    unreadable = [found for found in read if isinstance(found, Unreadable)]
    unreadable += [trouble for order in orders for trouble in order.unreadable]
    last = not items or (count is not None and number * PAGE_SIZE >= count)
    if count is None:
        # Without a count the window can be called complete only where one short page holds it all.
        last = number == 1 and len(items) < PAGE_SIZE
        unreadable.append(Unreadable(reason="A list of orders lacks its count.", raw=answer.body))
    pages = range(2, 2 if last or count is None or number > 1 else min(-(-count // PAGE_SIZE), MAX_PAGES) + 1)
    details = IletimerkeziOptions.of(account.options).details
    return Parsed(
        reports=tuple(order.report for order in orders),
        children=tuple(_list_page(window, page) for page in pages),
        discovered=_discover(account, orders) if details else (),
        seen=tuple(order.id for order in orders),
        page=SweepPage(number=number, count=count, last=last, size=PAGE_SIZE, newest_first=_is_newest_first(orders)),
        unreadable=tuple(unreadable),
    )


def _is_newest_first(orders: Sequence[Order]) -> bool | None:
    """Whether the page runs from new to old; the documents show lists in both orders. By time, then by id."""
    if len(orders) < 2 or orders[0].submitted_at is None or orders[-1].submitted_at is None:  # noqa: PLR2004
        return None
    first, last = ((order.submitted_at, len(order.id), order.id) for order in (orders[0], orders[-1]))
    return None if first == last else first > last


def _discover(account: Account, orders: Sequence[Order]) -> tuple[Discovered, ...]:
    """Each order once, as an id to poll; its validity runs from the sending, which may be scheduled.

    A changed row makes its order due, save where it counts no end yet: then the order's own schedule is soon enough.
    """
    found: dict[str, Discovered] = {}
    for order in orders:
        sending = order.sending_at or order.submitted_at
        found[order.id] = Discovered(
            key=TrackedKey(id_kind=ORDER, value=order.id),
            expected=order.report.total,
            sent_at=order.submitted_at,
            valid_until=None if sending is None else sending + timedelta(hours=account.options.validity_hours),
            reopen_on=None if order.has_no_end else (Granularity.ORDER, order.id),
        )
    return tuple(found.values())


def _parse_order(account: Account, fetch: Fetch, answer: Answer, *, code: int, response: Mapping[str, Any]) -> Parsed:
    """One page of an order's recipients. Only the last page yields reports: the pages together are one response.

    An answer with more recipients than the order has is refused as a whole, so nothing of a page can be stored before
    the last one is read; until then `seen` carries what the pages state.
    """
    params = fetch.spec.params
    asked = str(params[ORDER])
    key = TrackedKey(id_kind=ORDER, value=asked)
    before = _decoded(fetch.seen_before)
    if before is None:
        # A worker of an earlier version read the pages before this one. Read them again.
        return Parsed(answers=(IdAnswer(key=key, found=False, is_incomplete=True),))
    if code == NOT_FOUND:
        # Behind a page of recipients it contradicts that page.
        return Parsed(answers=(IdAnswer(key=key, found=False, is_incomplete=params["page"] > 1),))
    if code == NOT_YET:
        return _scheduled(account, fetch, answer, key)
    _refuse(code, answer)
    order = response.get("order")
    named = as_key(order.get("id")) if isinstance(order, dict) else None
    if not isinstance(order, dict) or named is None or bare(named) != bare(asked):
        raise AnswerNotUnderstood("The answer is not about the order that was asked for.", raw=answer.body)
    items = _messages(order)
    here, unreadable = read_recipients(items)
    if _is_repeated(params, before, here):
        items, here = [], []
    total, rows = _total(fetch, order), params["rows"] + len(items)
    if total is not None and rows > total:
        raise AnswerNotUnderstood(
            "The answer holds more recipients than the order has.",
            raw=answer.body,
            restart=_order_page(asked, page=1, rows=0, total=params.get("total")),
        )
    more = len(items) >= ROW_COUNT if total is None else rows < total
    if items and more and params["page"] < MAX_PAGES:
        child = _order_page(asked, page=params["page"] + 1, rows=rows, total=total)
        return Parsed(children=(child,), seen=tuple(one.encode() for one in here), unreadable=tuple(unreadable))
    whole = _Whole(
        order=asked,
        account=account,
        stated=order,
        before=before,
        here=here,
        rows=rows,
        total=total,
        listed=_listed(fetch),
    )
    return _judge(account, fetch, answer, whole, unreadable)


def _decoded(seen_before: Mapping[str, int]) -> list[Recipient] | None:
    """The recipients on the pages before this one; None where another version of this code wrote them down."""
    found: list[Recipient] = []
    for text, times in seen_before.items():
        one = decode_recipient(text)
        if one is None:
            return None
        found += [one] * times
    return found


def _messages(order: Mapping[str, Any]) -> list[Any]:
    """The rows of a page. What is there and no list is one row that cannot be read."""
    stated = order.get("message")
    if not stated:
        return []
    items = as_list(stated)
    return [stated] if items is None else items


def _is_repeated(params: Mapping[str, Any], before: Sequence[Recipient], here: Sequence[Recipient]) -> bool:
    """Whether the page holds the numbers of those before it once more, which it does where its number was ignored.

    Full pages are believed: only an answer that lacked recipients made us ask for a page beyond the documented size.
    """
    if not here or params["rows"] >= ROW_COUNT * (params["page"] - 1):
        return False
    return sorted(one.number for one in before) == sorted(one.number for one in here)


def _total(fetch: Fetch, order: Mapping[str, Any]) -> int | None:
    """How many recipients the order has: by this answer, by a page before it, or by the list that named the order.

    An answer that states none at all for an order whose list states some contradicts the list, which is believed.
    None if unknown: then neither missing nor surplus recipients can be noticed.
    """
    stated = as_count(order.get("total"))
    known = fetch.spec.params.get("total")
    if known is None:
        known = _listed(fetch)
    return known if stated is None or (stated == 0 and known is not None) else stated


def _listed(fetch: Fetch) -> int | None:
    return next((row.expected for row in fetch.ids.values() if row.expected is not None), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Whole:
    """All pages of an order's recipients."""

    order: str
    account: Account
    stated: Mapping[str, Any]
    """The order as the last page states it."""
    before: Sequence[Recipient]
    """Those on the pages before the last."""
    here: Sequence[Recipient]
    rows: int
    """Recipients on the pages, those that cannot be read included."""
    total: int | None
    listed: int | None
    """How many recipients the list that named the order has stated."""

    @property
    def everyone(self) -> Sequence[Recipient]:
        """The recipients that could be read."""
        return (*self.before, *self.here)

    @property
    def numbers(self) -> list[str]:
        """The multiset of numbers, in a fixed order."""
        return sorted(one.number for one in self.everyone)

    @property
    def counts(self) -> tuple[int | None, int | None]:
        """How many recipients are delivered and undelivered by the order's own statement."""
        return as_count(self.stated.get("delivered")), as_count(self.stated.get("undelivered"))

    @property
    def is_short_of_list(self) -> bool:
        """Whether the order has fewer recipients by this answer than by the list."""
        return self.total is not None and self.listed is not None and self.total < self.listed

    @property
    def repeats(self) -> bool:
        """Whether a number occurs more than once."""
        return len(set(self.numbers)) < len(self.everyone)

    @property
    def lacks_some(self) -> bool:
        """Whether recipients are missing or unreadable. An order without any lacks them unless its total is 0."""
        if self.total is None:
            return not self.everyone or len(self.everyone) < self.rows
        return len(self.everyone) < self.total

    def count_of(self, status: Status) -> int:
        """How many recipients here have this status."""
        return sum(message_status(one.code, self.account)[0] is status for one in self.everyone)

    @property
    def shows_all_delivered(self) -> bool:
        """Whether the order has ended and its counts confirm that each delivered recipient is listed."""
        delivered, undelivered = self.counts
        if self.repeats or delivered is None or undelivered is None or delivered + undelivered != self.total:
            return False
        return delivered == self.count_of(Status.DELIVERED)

    @property
    def agrees_with_counts(self) -> bool:
        """Whether the order states its counts, and no more recipients are final here than these say."""
        delivered, undelivered = self.counts
        if delivered is None or undelivered is None:
            return False
        return self.count_of(Status.DELIVERED) <= delivered and self.count_of(Status.UNDELIVERABLE) <= undelivered

    @property
    def doubtful_codes(self) -> list[str]:
        """The codes of equal numbers where the order's counts do not confirm them, in a fixed order.

        An answer that repeats one of them in the place of another holds each number as often as a right one does.
        """
        times = Counter(self.numbers)
        if self.agrees_with_counts:
            return []
        return sorted(f"{one.number} {one.code}" for one in self.everyone if times[one.number] > 1)


def _judge(account: Account, fetch: Fetch, answer: Answer, whole: _Whole, unreadable: Sequence[Unreadable]) -> Parsed:
    """What all pages together say of the order: its recipients, its counts, and when it is to be asked again.

    An answer may be wrong without showing it: it repeats one recipient in the place of another (A, A for A, B). So
    where it repeats numbers, lacks some, or has fewer than the list stated, it is trusted as to which number occurs how
    often only when the answer before it held the same numbers equally often; until then the order is not settled. The
    repeated recipient may be one of equal numbers too: where the order's counts do not confirm their codes, these must
    agree as well.

    Settled: the order has ended, all its recipients stood on the pages, and every one of them is final.
    """
    key = TrackedKey(id_kind=ORDER, value=whole.order)
    doubtful = whole.repeats or whole.lacks_some or whole.is_short_of_list
    fingerprint = _fingerprint(account, whole) if doubtful else None
    row = fetch.ids.get(key)
    is_confirmed = not doubtful or (row is not None and row.fingerprint == fingerprint)
    reports, unknown = report_recipients(
        whole.order,
        whole.everyone,
        account,
        is_sure=is_confirmed,
        is_one_missing=not is_confirmed and not whole.shows_all_delivered,
    )
    summary, troubles = _summarise(account, answer, whole)
    if whole.is_short_of_list and not is_confirmed:
        summary = ()
    code = code_text(whole.stated.get("status"))
    has_ended = code is not None and (code == FINISHED or is_final(judge(account, ORDER_STATUS, code)[0]))
    is_whole = is_confirmed and not whole.lacks_some
    planned = _planned(account, answer, whole.stated) if code == SENDING else None
    all_final = all(is_final(report.status) for report in reports)
    settled = has_ended and is_whole and whole.total is not None and all_final
    again = IdAnswer(
        key=key,
        found=is_whole,
        settled=settled,
        not_before=planned,
        # An order that is still being sent may well show fewer recipients than it will have.
        is_incomplete=not is_whole and code != SENDING,
        fingerprint=fingerprint,
    )
    return Parsed(
        reports=(*summary, *reports),
        answers=(again,),
        seen=tuple(one.number for one in whole.here),
        unreadable=(*troubles, *unreadable, *unknown),
    )


def _summarise(account: Account, answer: Answer, whole: _Whole) -> tuple[tuple[Report, ...], tuple[Unreadable, ...]]:
    """The order's own statement, unless its total contradicts what a list has stated."""
    stated = as_count(whole.stated.get("total"))
    if stated is not None and stated != whole.total:
        kept = {name: value for name, value in whole.stated.items() if name != "message"}
        reason = "An order says that it has no recipients, though a list said that it has some."
        return (), (Unreadable(reason=reason, raw=dump_item(kept)),)
    return summarise_order(whole.stated, account, answer.asked_at)


def _fingerprint(account: Account, whole: _Whole) -> str:
    """Distinguishes one multiset of numbers (and of doubtful codes) from another without revealing any number.

    Numbers are few enough to be tried one by one, so it is keyed with what only the account's requests know.
    """
    shown = "\n".join([whole.order, *whole.numbers, *whole.doubtful_codes]).encode()
    return hmac.digest(sent_hash(account.credentials).encode(), shown, hashlib.sha256).hex()


def _planned(account: Account, answer: Answer, order: Mapping[str, Any]) -> datetime | None:
    """`sendAt` where it is still to come."""
    found = read_order(order, account, answer.asked_at)
    return found.sending_at if isinstance(found, Order) and found.is_ahead else None


def _scheduled(account: Account, fetch: Fetch, answer: Answer, key: TrackedKey) -> Parsed:
    """Code 456: nothing has been sent; the order is asked for when it is sent, or after a while where that is unknown.

    The sending time is that of the list, from which the validity of the tracked id runs.
    """
    row, now = fetch.ids.get(key), answer.received_at
    again: datetime | timedelta = timedelta(seconds=NOT_YET_SECONDS)
    if row is not None and row.valid_until is not None and now is not None:
        sending = row.valid_until - timedelta(hours=account.options.validity_hours)
        again = sending if sending > now else again
    report = scheduled_order(key.value, None if row is None else row.expected, account)
    return Parsed(reports=(report,), answers=(IdAnswer(key=key, found=False, not_before=again),))


ADAPTER = Iletimerkezi()
