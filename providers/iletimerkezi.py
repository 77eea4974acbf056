"""iletimerkezi.com: orders of a date range (`get-reports`) and the recipients of one order (`get-report`).

Sources: the provider's pages "Paket özeti" and "Rapor" (toplusmsapi.com/sms/rapor) with their newer English twins, and
the tests of its official client libraries, which give every code and count both as a number and as text.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from http import HTTPStatus
from typing import Any, Final

from models.keys import join_key
from models.report import Discovered, IdAnswer, TrackedKey, Unreadable
from models.vocabulary import Granularity, is_open
from providers.adapter import (
    Account,
    Answer,
    Callback,
    DueId,
    Fetch,
    FetchSpec,
    Limit,
    OptionSpec,
    Parsed,
    PollNumbers,
    ProviderRecord,
    Request,
    SweepPage,
)
from providers.decoding import (
    as_count,
    as_int,
    as_key,
    check_http,
    load_object,
    refuse_client_error,
    retry_after,
)
from providers.errors import (
    AnswerNotUnderstood,
    PauseAccount,
    ProviderError,
    RequestIsWrong,
    SlowDown,
    TryAgainAt,
    TryAgainSoon,
)
from providers.iletimerkezi_orders import (
    FAILED,
    FINISHED,
    ORDER,
    Order,
    code_text,
    read_order,
    read_recipient,
    read_recipients,
    summarise_order,
)
from providers.iletimerkezi_webhook import MESSAGE_TEXT, WEBHOOK_SECRET, read_webhook

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
    NOT_YET: (TryAgainAt, "The order is scheduled for later."),
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

_DETAILS: Final = OptionSpec(
    name="details", type=bool, default=True, meaning="ask for the recipients of every order, not only its counts"
)


def sent_hash(credentials: Mapping[str, str]) -> str:
    """The hash that stands in every request."""
    return credentials.get("hash") or derive_hash(credentials["key"], credentials["secret"])


def derive_hash(key: str, secret: str) -> str:
    """The hash that the panel shows, made from key and secret as two independent clients make it."""
    return hmac.new(secret.encode(), key.encode(), hashlib.sha256).hexdigest()


class Iletimerkezi:
    """The adapter: list windows of orders, then the recipients of each order that is not settled; and the webhook."""

    record = ProviderRecord(
        name="iletimerkezi",
        title="iletimerkezi",
        base_url="https://api.iletimerkezi.com",
        credentials=(("key", "hash"), ("key", "secret")),
        limit=Limit(requests=1, per_seconds=1.0, concurrency=1),
        poll=PollNumbers(steps_seconds=(10.0, 30.0, 60.0), growth=1.6, max_seconds=1800.0),
        validity_hours=48.0,
        options=(
            _DETAILS,
            OptionSpec(
                name="window_days",
                type=int,
                default=10,
                meaning="calendar days (inclusive) that one list window spans",
                minimum=1,
                maximum=10,
            ),
        ),
        sweep_window_days=10,
        optional_credentials=(WEBHOOK_SECRET,),
        derived_secret=sent_hash,
        callback_secret=WEBHOOK_SECRET,
        callback_drops=(MESSAGE_TEXT,),
    )

    def plan_window(self, account: Account, start: date, end: date) -> tuple[FetchSpec, ...]:  # noqa: ARG002
        """Page one of the window; the others follow once it has told the count."""
        return (_list_page([start.isoformat(), end.isoformat()], 1),)

    def plan_ids(self, account: Account, due: Sequence[DueId], today: date) -> tuple[FetchSpec, ...]:  # noqa: ARG002
        """Page one of the recipients of each order: the provider takes one order a call."""
        return tuple(_order_page(item.key.value, page=1, rows=0, still_open=0) for item in due)

    def request(self, account: Account, fetch: Fetch, now: datetime) -> Request:  # noqa: ARG002
        """`get-report` for the recipients of an order, `get-reports` for a page of a window."""
        params = fetch.spec.params
        if ORDER in params:
            subject = {"id": _order_number(params[ORDER]), "page": params["page"], "rowCount": ROW_COUNT}
            return _request(account, "get-report", {"order": subject})
        start, end = params["window"]
        return _request(account, "get-reports", {"filter": {"start": start, "end": end, "page": params["page"]}})

    def parse(self, account: Account, fetch: Fetch, answer: Answer) -> Parsed:
        """Orders of a list page, or recipients of an order; the code in the body decides, then the HTTP status."""
        code, response = _response(answer)
        if ORDER in fetch.spec.params:
            return _parse_order(account, fetch, answer, code=code, response=response)
        _refuse(code, answer)
        return _parse_list(account, fetch, answer, response)

    def parse_item(self, account: Account, fetch: Fetch, item: bytes) -> Parsed | None:
        """One order, or one recipient of the order that was asked for.

        A recipient alone does not tell which of equal numbers it is, so what it says is a hint.
        """
        value, params = load_object(item), fetch.spec.params
        if "number" in value:
            return read_recipient(str(params[ORDER]), value) if ORDER in params else None
        found = read_order(value, account.timezone)
        if isinstance(found, Unreadable):
            return Parsed(unreadable=(found,))
        return Parsed(reports=(found.report,), unreadable=found.unreadable)

    def parse_callback(self, account: Account, callback: Callback) -> Parsed:
        """What the webhook says of one recipient of an order; there is no other body that could be handed over."""
        if callback.tail:
            raise RequestIsWrong("iletimerkezi pushes to one address only, and its send replies hold no report.")
        details = account.options.get(_DETAILS.name, _DETAILS.default)
        return read_webhook(load_object(callback.body), details=bool(details))

    def authorise_callback(self, account: Account, callback: Callback) -> bool:
        """Whether the tail of the address is the account's secret: the webhook is signed by nothing else."""
        secret = account.credentials.get(WEBHOOK_SECRET, "")
        given = callback.tail.encode("utf-8", "surrogatepass")
        return bool(secret) and hmac.compare_digest(given, secret.encode())


def _list_page(window: Sequence[str], page: int) -> FetchSpec:
    label = f"{window[0]}..{window[1]} page {page}"
    return FetchSpec(kind="page", params={"window": list(window), "page": page}, label=label)


def _order_page(order: str, *, page: int, rows: int, still_open: int) -> FetchSpec:
    """One page of an order's recipients. `rows` and `still_open` are those of the pages before, for the last one."""
    params = {
        "chain": join_key(ORDER, order),
        ORDER: order,
        "page": page,
        "rows": rows,
        "open": still_open,
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
        endpoint=f"{function} page",
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


def _refuse(code: int, answer: Answer, at: datetime | None = None) -> None:
    """Raise what a code other than 200 means. `at`: when an order that is scheduled for later is to be sent."""
    if code == OK:
        return
    error, sentence = ERRORS.get(code, _unlisted(code))
    wait = retry_after(answer)
    if error is SlowDown or (error is TryAgainSoon and wait is not None):
        raise SlowDown(sentence, retry_after_seconds=wait, code=str(code))
    if error is TryAgainAt:
        raise TryAgainAt(sentence, at=at, after_seconds=None if at else NOT_YET_SECONDS, code=str(code))
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
    count, items = as_count(response.get("count")), response.get("orders")
    if items is None and count == 0:
        items = []
    if not isinstance(items, list):
        raise AnswerNotUnderstood("The answer holds no list of orders.", raw=answer.body)
    read = [read_order(item, account.timezone) for item in items]
    orders = [found for found in read if isinstance(found, Order)]
    unreadable = [found for found in read if isinstance(found, Unreadable)]
    unreadable += [trouble for order in orders for trouble in order.unreadable]
    last = not items or (count is not None and number * PAGE_SIZE >= count)
    if count is None:
        # Without a count the window can be called complete only where one short page holds it all.
        last = number == 1 and len(items) < PAGE_SIZE
        unreadable.append(Unreadable(reason="A list of orders lacks its count.", raw=answer.body))
    pages = range(2, 2 if last or count is None or number > 1 else min(-(-count // PAGE_SIZE), MAX_PAGES) + 1)
    details = account.options.get(_DETAILS.name, _DETAILS.default)
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
    """Each order once, as an id to be asked for; its validity runs from the sending, which may be scheduled."""
    found: dict[str, Discovered] = {}
    for order in orders:
        sending = order.report.sent_at or order.submitted_at
        found[order.id] = Discovered(
            key=TrackedKey(id_kind=ORDER, value=order.id),
            expected=order.report.total,
            sent_at=order.submitted_at,
            valid_until=None if sending is None else sending + timedelta(hours=account.validity_hours),
            reopen_on=(Granularity.ORDER, order.id),
        )
    return tuple(found.values())


def _parse_order(account: Account, fetch: Fetch, answer: Answer, *, code: int, response: Mapping[str, Any]) -> Parsed:
    """One page of an order's recipients; the last page answers for the order, pages before it add up in `params`."""
    asked = str(fetch.spec.params[ORDER])
    key = TrackedKey(id_kind=ORDER, value=asked)
    if code == NOT_FOUND:
        return Parsed(answers=(IdAnswer(key=key, found=False),))
    _refuse(code, answer, at=_scheduled_for(account, fetch, answer, key))
    order = response.get("order")
    if not isinstance(order, dict) or as_key(order.get("id")) != asked:
        raise AnswerNotUnderstood("The answer is not about the order that was asked for.", raw=answer.body)
    items = order.get("message")
    items = [] if items is None else items
    if not isinstance(items, list):
        raise AnswerNotUnderstood("The answer holds no list of recipients.", raw=answer.body)
    reports, seen, unreadable = read_recipients(asked, items, fetch.seen_before)
    still_open = fetch.spec.params["open"] + len(items) - sum(not is_open(report.status) for report in reports)
    child, settled = _continue(fetch, order, len(items), still_open)
    summary, troubles = summarise_order(order, account.timezone)
    return Parsed(
        reports=(*summary, *reports),
        children=() if child is None else (child,),
        answers=(IdAnswer(key=key, found=True, settled=settled),) if child is None else (),
        seen=seen,
        unreadable=(*troubles, *unreadable),
    )


def _scheduled_for(account: Account, fetch: Fetch, answer: Answer, key: TrackedKey) -> datetime | None:
    """When an order that the list announced for later is to be sent; None where unknown or already past."""
    row = fetch.ids.get(key)
    if row is None or row.valid_until is None or answer.received_at is None:
        return None
    sending = row.valid_until - timedelta(hours=account.validity_hours)
    return sending if sending > answer.received_at else None


def _continue(fetch: Fetch, order: Mapping[str, Any], rows: int, still_open: int) -> tuple[FetchSpec | None, bool]:
    """(the next page, False), or (None, whether the order is settled) on the last page.

    Settled: the order has ended, all its recipients stood on the pages, and every one of them is final.
    """
    params = fetch.spec.params
    total = _expected(fetch, order)
    page, so_far = params["page"], params["rows"] + rows
    more = rows >= ROW_COUNT if total is None else so_far < total
    if rows and more and page < MAX_PAGES:
        return _order_page(params[ORDER], page=page + 1, rows=so_far, still_open=still_open), False
    ended = code_text(order.get("status")) in {FINISHED, FAILED}
    return None, ended and still_open == 0 and so_far == total


def _expected(fetch: Fetch, order: Mapping[str, Any]) -> int | None:
    """How many recipients the order has, by this answer or by the list that discovered it."""
    total = as_count(order.get("total"))
    if total is not None:
        return total
    return next((row.expected for row in fetch.ids.values() if row.expected is not None), None)


ADAPTER = Iletimerkezi()
