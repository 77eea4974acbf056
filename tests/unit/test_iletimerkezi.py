"""iletimerkezi: what its documented answers become, row by row."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from ulak.models.merge import fold, normalise, observe
from ulak.models.report import DeliveryReport, Discovered, IdAnswer, KeptStatement, TrackedKey, Unreadable
from ulak.models.vocabulary import Granularity, Reason, Source, Status
from ulak.providers.adapter import Account, Answer, Callback, DueId, Fetch, FetchSpec, Parsed, SweepPage
from ulak.providers.errors import (
    AnswerNotUnderstood,
    PauseAccount,
    ProviderError,
    RequestIsWrong,
    SlowDown,
    TryAgainAt,
    TryAgainSoon,
)
from ulak.providers.iletimerkezi import ADAPTER, ERRORS, MAX_PAGES, IletimerkeziOptions
from ulak.providers.iletimerkezi_orders import MESSAGE_STATUS, ORDER_STATUS, judge_finished

FIXTURES = Path(__file__).parent.parent / "fixtures" / "iletimerkezi"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ACCOUNT = Account(
    id="toplu",
    provider="iletimerkezi",
    base_url="https://api.iletimerkezi.com",
    timezone=ZoneInfo("Europe/Istanbul"),
    credentials={"key": "507caf2e1fcdb5eea9786332ca2d8785", "hash": "0db4e316db72c519ba08121985f6ddf479809053d555c"},
    options=IletimerkeziOptions(),
)
WINDOW = ["2024-11-11", "2024-11-20"]


def order_key(value: str) -> TrackedKey:
    """The tracked id of an order."""
    return TrackedKey(id_kind="order", value=value)


def list_fetch(page: int = 1) -> Fetch:
    """A page of the sample's window."""
    return Fetch(spec=FetchSpec(kind="page", params={"window": WINDOW, "page": page}))


def detail_fetch(
    order: str,
    *,
    page: int = 1,
    rows: int = 0,
    still_open: int = 0,
    due: DueId | None = None,
    seen_before: Mapping[str, int] | None = None,
) -> Fetch:
    """A page of one order's recipients."""
    params = {"chain": f"order:{order}", "order": order, "page": page, "rows": rows, "open": still_open}
    spec = FetchSpec(kind="batch", params=params, ids=(order_key(order),), label=f"recipients page {page}")
    return Fetch(spec=spec, ids={order_key(order): due or DueId(key=order_key(order))}, seen_before=seen_before or {})


def body_of(code: Any = 200, **content: Any) -> bytes:
    """An answer body with this code and content."""
    return json.dumps({"response": {"status": {"code": code, "message": "…"}, **content}}).encode()


def parse(fetch: Fetch, body: bytes, status: int = 200, account: Account = ACCOUNT, **headers: str) -> Parsed:
    """What the adapter makes of a body."""
    return ADAPTER.parse(
        account, fetch, Answer(status=status, headers=headers, body=body, asked_at=NOW, received_at=NOW)
    )


def order(**changes: Any) -> dict[str, Any]:
    """One order of a list, finished with everybody reached, unless changed."""
    given = {"id": 7, "status": 114, "total": 2, "delivered": 2, "undelivered": 0, "waiting": 0}
    return {**given, "submitAt": "2026-02-28 10:00:00", "sendAt": "2026-02-28 10:00:05", "sender": "eMarka", **changes}


def sample_report(number: int, submitted: datetime, local: str) -> DeliveryReport:
    """A row of the documented list sample, written by hand."""
    return DeliveryReport(
        granularity=Granularity.ORDER,
        provider_key=str(number),
        status=Status.ENROUTE,
        provider_status="113",
        total=1,
        delivered=0,
        undelivered=0,
        waiting=1,
        sent_at=submitted,
        extra={"sender": "eMarka", "submit_at": submitted.isoformat()},
        statement={
            "id": number,
            "status": 113,
            "total": 1,
            "delivered": 0,
            "undelivered": 0,
            "waiting": 1,
            "submitAt": local,
            "sendAt": local,
            "sender": "eMarka",
        },
        tracked=order_key(str(number)),
    )


@pytest.mark.parametrize(
    ("changes", "is_due"),
    [
        ({"status": 113, "delivered": 0}, False),
        ({"status": 113, "delivered": 1}, True),
        ({"status": 113, "delivered": 0, "undelivered": 1}, True),
        ({"status": 113, "delivered": None}, True),
        ({"status": 115, "delivered": 0}, True),
        ({"status": 114}, True),
    ],
)
def test_a_changed_order_is_due_once_it_counts_an_end(changes: dict[str, Any], is_due: bool) -> None:
    """Before that its recipients are on their way, and the order's own schedule says when to look."""
    body = body_of(count=1, orders=[order(**changes)])
    [found] = parse(list_fetch(), body).discovered
    assert found.reopen_on == ((Granularity.ORDER, "7") if is_due else None)


def test_the_documented_list_sample_gives_two_open_orders() -> None:
    """Both orders of the sample become order rows in UTC, are discovered, and the window holds no further page."""
    first, second = datetime(2024, 11, 11, 23, 4, 8, tzinfo=UTC), datetime(2024, 11, 13, 16, 4, 8, tzinfo=UTC)
    assert parse(list_fetch(), (FIXTURES / "get-reports.json").read_bytes()) == Parsed(
        reports=(
            sample_report(89, first, "2024-11-12 02:04:08"),
            sample_report(98, second, "2024-11-13 19:04:08"),
        ),
        discovered=tuple(
            Discovered(
                key=order_key(number),
                expected=1,
                sent_at=at,
                valid_until=at + timedelta(hours=48),
            )
            for number, at in (("89", first), ("98", second))
        ),
        seen=("89", "98"),
        page=SweepPage(number=1, count=2, last=True, size=30, newest_first=False),
    )


def test_the_text_typed_list_sample_fans_out_by_its_count() -> None:
    """A count of 123 calls for pages 2 to 5 of the same window; the codes as text read like numbers."""
    parsed = parse(list_fetch(), (FIXTURES / "get-reports.text-typed.json").read_bytes())
    assert [(report.provider_key, report.status, report.provider_status) for report in parsed.reports] == [
        ("247079966", Status.DELIVERED, "114")
    ]
    assert parsed.page == SweepPage(number=1, count=123, last=False, size=30)
    assert parsed.children == tuple(
        FetchSpec(kind="page", params={"window": WINDOW, "page": page}, label=f"2024-11-11..2024-11-20 page {page}")
        for page in (2, 3, 4, 5)
    )


def test_the_documented_detail_sample_gives_a_row_per_recipient_and_none_for_the_order() -> None:
    """The 2024 sample lacks counters and gives numbers as integers; the order is still open."""
    wanted = [
        ("428:+905301234567:1", Status.ENROUTE, "110", 5301234567),
        ("428:+905301234568:1", Status.DELIVERED, "111", 5301234568),
        ("428:+905301234569:1", Status.UNDELIVERABLE, "112", 5301234569),
        ("428:+905301234560:1", Status.DELIVERED, "111", 5301234560),
        ("428:+905301234561:1", Status.DELIVERED, "111", 5301234561),
    ]
    due = DueId(key=order_key("428"), expected=5)
    assert parse(detail_fetch("428", due=due), (FIXTURES / "get-report.2024.json").read_bytes()) == Parsed(
        reports=tuple(
            DeliveryReport(
                granularity=Granularity.MESSAGE,
                provider_key=key,
                parent_key="428",
                recipient=f"+90{number}",
                status=status,
                provider_status=word,
                statement={"number": number, "status": int(word)},
                tracked=order_key("428"),
            )
            for key, status, word, number in wanted
        ),
        answers=(IdAnswer(key=order_key("428"), found=True),),
        seen=tuple(f"+90{number}" for *_, number in wanted),
    )


def test_the_text_typed_detail_sample_settles_its_order() -> None:
    """114 with its one recipient delivered: the order row, the recipient row, and the id is settled."""
    parsed = parse(detail_fetch("247155523"), (FIXTURES / "get-report.text-typed.json").read_bytes())
    assert [(report.granularity, report.provider_key, report.status) for report in parsed.reports] == [
        (Granularity.ORDER, "247155523", Status.DELIVERED),
        (Granularity.MESSAGE, "247155523:+905301234567:1", Status.DELIVERED),
    ]
    assert parsed.reports[0].statement["price"] == "0,0372"
    assert parsed.answers == (IdAnswer(key=order_key("247155523"), found=True, settled=True),)
    assert (parsed.children, parsed.unreadable) == ((), ())


def test_list_and_detail_state_the_same_about_an_order() -> None:
    """The order row of a list (numbers) equals that of a detail answer (texts), except for the raw statement."""
    texts = {name: str(value) for name, value in order().items()}
    from_list = parse(list_fetch(), body_of(count=1, orders=[order()])).reports[0]
    from_detail = parse(detail_fetch("7"), body_of(order={**texts, "message": []})).reports[0]
    alike = [msgspec.structs.replace(report, statement={}) for report in (from_detail, from_list)]
    assert alike[0] == alike[1]


@pytest.mark.parametrize(("price", "stored"), [(1, 1.0), (0.5, 0.5), ("0,0372", 0.0372), ("0.0372", 0.0372)])
def test_the_price_of_an_order_is_a_fact_like_any_other(price: Any, stored: float) -> None:
    """Only a detail answer states it; list and detail merge without loss, in either order."""
    listed = parse(list_fetch(), body_of(count=1, orders=[order()])).reports[0]
    detailed = parse(detail_fetch("7"), body_of(order={**order(price=price), "message": []})).reports[0]
    one, other = observe(listed, asked_at=NOW), observe(detailed, asked_at=NOW + timedelta(seconds=1))
    assert one.content_hash != other.content_hash
    rows = [fold(Granularity.ORDER, told) for told in ([one, other], [other, one], [other, one, other])]
    assert rows == [rows[0]] * 3
    assert (rows[0].status, rows[0].extra["price"], rows[0].extra["sender"]) == ("delivered", stored, "eMarka")
    assert msgspec.structs.replace(rows[0], extra=listed.extra) == fold(Granularity.ORDER, [one])


def test_a_price_that_cannot_be_read_is_kept_and_not_dropped_silently() -> None:
    """The order is stored without it, and the statement goes to quarantine with the reason."""
    body = body_of(
        order={**order(total=1, delivered=1, price="free"), "message": [{"number": "5301234567", "status": 111}]}
    )
    parsed = parse(detail_fetch("7"), body)
    assert [report.status for report in parsed.reports] == [Status.DELIVERED, Status.DELIVERED]
    assert [(item.reason, item.provider_key) for item in parsed.unreadable] == [
        ("An order has a `price` that cannot be read.", None)
    ]


@pytest.mark.parametrize("missing", ["total", "delivered", "undelivered"])
def test_a_detail_without_all_of_its_counters_says_nothing_about_the_order(missing: str) -> None:
    """The 2024 sample has none: half of them must not make a finished order an unknown one."""
    counted = {name: value for name, value in order().items() if name != missing}
    parsed = parse(detail_fetch("7"), body_of(order={**counted, "message": []}))
    assert (parsed.reports, parsed.unreadable) == ((), ())


def test_an_empty_window_is_complete_at_once() -> None:
    """No order, count 0: the only page is the last."""
    parsed = parse(list_fetch(), (FIXTURES / "get-reports.empty.json").read_bytes())
    assert parsed == Parsed(page=SweepPage(number=1, count=0, last=True, size=30))


@pytest.mark.parametrize("content", [{"count": 0}, {"count": "0", "orders": None}])
def test_no_list_beside_a_count_of_none_is_an_empty_window(content: dict[str, Any]) -> None:
    """There is nothing that could stand in it; a count of some without its list is not understood."""
    assert parse(list_fetch(), body_of(**content)) == Parsed(page=SweepPage(number=1, count=0, last=True, size=30))
    with pytest.raises(AnswerNotUnderstood):
        parse(list_fetch(), body_of(**content | {"count": 1}))


@pytest.mark.parametrize(
    ("page", "count", "orders", "wanted"),
    [
        (1, 30, 30, (True, 0)),
        (1, 31, 30, (False, 1)),
        (1, 60, 30, (False, 1)),
        (1, 61, 30, (False, 2)),
        (1, "61", 30, (False, 2)),
        (1, 5, 0, (True, 0)),  # a count without any order
        (2, 61, 30, (False, 0)),  # only page one fans out
        (3, 61, 1, (True, 0)),
        (2, 20, 0, (True, 0)),  # the count has shrunk: past the end
        (9, 900, 0, (True, 0)),
        (1, 10**6, 30, (False, MAX_PAGES - 1)),
    ],
)
def test_pages_follow_from_the_count(page: int, count: Any, orders: int, wanted: tuple[bool, int]) -> None:
    """(last, number of further pages) of a page."""
    items = [order(id=number) for number in range(orders)]
    parsed = parse(list_fetch(page), body_of(count=count, orders=items))
    assert parsed.page is not None
    assert (parsed.page.last, len(parsed.children)) == wanted


def test_a_list_without_its_count_keeps_its_orders_and_is_not_called_complete() -> None:
    """A missing count goes to quarantine; a full page without it cannot be the last."""
    body = body_of(orders=[order(id=number) for number in range(30)])
    parsed = parse(list_fetch(), body)
    assert (len(parsed.reports), parsed.page) == (
        30,
        SweepPage(number=1, count=None, last=False, size=30, newest_first=False),
    )
    assert parsed.unreadable == (Unreadable(reason="A list of orders lacks its count.", raw=body),)


@pytest.mark.parametrize(("page", "orders", "last"), [(1, 29, True), (1, 0, True), (2, 29, False), (2, 0, False)])
def test_without_a_count_only_a_short_first_page_holds_it_all(page: int, orders: int, last: bool) -> None:
    """A later page says nothing of those before it, so its window is not called complete."""
    parsed = parse(list_fetch(page), body_of(orders=[order(id=number) for number in range(orders)]))
    newest_first = None if orders == 0 else False
    assert parsed.page == SweepPage(number=page, count=None, last=last, size=30, newest_first=newest_first)


@pytest.mark.parametrize(
    ("first", "last", "newest_first"),
    [
        ({"id": 9, "submitAt": "2026-02-28 10:00:00"}, {"id": 10, "submitAt": "2026-02-28 09:00:00"}, True),
        ({"id": 9, "submitAt": "2026-02-28 09:00:00"}, {"id": 10, "submitAt": "2026-02-28 10:00:00"}, False),
        ({"id": 9}, {"id": "10"}, False),
        ({"id": 9}, {"id": 9}, None),
        ({"id": 9}, {"id": 10, "submitAt": None}, None),
    ],
)
def test_a_page_shows_in_which_order_the_list_runs(first: Any, last: Any, newest_first: bool | None) -> None:
    """By the orders' times, then by their ids as numbers."""
    parsed = parse(list_fetch(), body_of(count=2, orders=[order(**first), order(**last)]))
    assert parsed.page is not None
    assert parsed.page.newest_first is newest_first


def test_without_details_no_order_is_asked_for() -> None:
    """The option `details` off: order rows only."""
    account = replace(ACCOUNT, options=IletimerkeziOptions(details=False))
    parsed = parse(list_fetch(), body_of(count=1, orders=[order()]), account=account)
    assert (len(parsed.reports), parsed.discovered) == (1, ())


def test_an_order_that_stands_twice_on_a_page_is_discovered_once() -> None:
    """Two rows about one order: two statements, one id."""
    parsed = parse(list_fetch(), body_of(count=2, orders=[order(), order()]))
    assert (len(parsed.reports), len(parsed.discovered), parsed.seen) == (2, 1, ("7", "7"))


def test_a_scheduled_order_is_valid_from_its_sending() -> None:
    """The validity of a discovered order runs from sendAt, its age from submitAt."""
    scheduled = order(status=113, sendAt="2026-03-05 10:00:00")
    (found,) = parse(list_fetch(), body_of(count=1, orders=[scheduled])).discovered
    assert (found.sent_at, found.valid_until) == (
        datetime(2026, 2, 28, 7, tzinfo=UTC),
        datetime(2026, 3, 7, 7, tzinfo=UTC),
    )


@pytest.mark.parametrize("word", [*ORDER_STATUS, *(int(word) for word in ORDER_STATUS)])
@pytest.mark.parametrize("counts", [(2, 2, 0, 0), (2, 0, 2, 0), (2, 0, 0, 2), (None, None, None, None)])
def test_113_and_115_do_not_look_at_the_counts(word: int | str, counts: tuple[int | None, ...]) -> None:
    """113 is open and 115 rejected, whatever the counts are."""
    item = order(status=word, **dict(zip(("total", "delivered", "undelivered", "waiting"), counts, strict=True)))
    (report,) = parse(list_fetch(), body_of(count=1, orders=[item])).reports
    wanted = {"113": Status.ENROUTE, "115": Status.REJECTED}[str(word)]
    assert (report.status, report.reason, report.provider_status) == (wanted, None, str(word))


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        ((1, 1, 0, 0), Status.DELIVERED),
        ((3, 3, 0, None), Status.DELIVERED),
        ((3, 0, 3, 0), Status.UNDELIVERABLE),
        ((3, 1, 2, 0), Status.PARTIALLY_DELIVERED),
        ((2000, 1500, 300, 200), Status.ENROUTE),  # an official test's answer: 114 with 200 still waiting
        ((3, 2, 0, 0), Status.ENROUTE),
        ((3, 0, 0, 0), Status.ENROUTE),
        ((0, 0, 0, 0), Status.DELIVERED),  # official tests' empty order: nothing is outstanding
        ((0, 0, 0, None), Status.DELIVERED),
        ((0, 0, 0, 1), Status.UNKNOWN),
        ((1, 1, 1, 0), Status.UNKNOWN),
        ((1, 1, 0, 1), Status.UNKNOWN),
        ((None, 1, 0, 0), Status.UNKNOWN),
        ((1, None, 0, 0), Status.UNKNOWN),
        ((1, 1, None, 0), Status.UNKNOWN),
    ],
)
def test_a_finished_order_is_what_its_counts_say(counts: tuple[int | None, ...], wanted: Status) -> None:
    """114 is final only where the counts account for every recipient."""
    assert judge_finished(*counts) is wanted


def test_an_unknown_order_code_is_kept_raw_and_quarantined() -> None:
    """Code 116 is not documented: status unknown, the code kept, its row named in quarantine."""
    parsed = parse(list_fetch(), body_of(count=1, orders=[order(status=116)]))
    assert [(report.status, report.provider_status) for report in parsed.reports] == [(Status.UNKNOWN, "116")]
    assert [item.provider_key for item in parsed.unreadable] == ["7"]


@pytest.mark.parametrize("item", [None, 5, [], {}, {"status": 114}, {"id": None, "status": 114}, {"id": 1}])
def test_an_unreadable_order_does_not_sink_its_page(item: Any) -> None:
    """The item goes to quarantine, its neighbour is stored."""
    parsed = parse(list_fetch(), body_of(count=2, orders=[item, order()]))
    assert ([report.provider_key for report in parsed.reports], len(parsed.unreadable)) == (["7"], 1)


@pytest.mark.parametrize("word", list(MESSAGE_STATUS))
@pytest.mark.parametrize("typed", [str, int])
def test_every_recipient_code_has_its_status(word: str, typed: type) -> None:
    """110 is open, 111 delivered, 112 undeliverable, as number and as text."""
    item = {"number": "+905333128320", "status": typed(word)}
    (report,) = parse(detail_fetch("7"), body_of(order={"id": 7, "status": 113, "message": [item]})).reports
    wanted = {"110": Status.ENROUTE, "111": Status.DELIVERED, "112": Status.UNDELIVERABLE}[word]
    assert (report.status, report.reason, report.provider_status, report.sent_at, report.done_at) == (
        wanted,
        None,
        word,
        None,
        None,
    )


def test_an_unknown_recipient_code_keeps_the_order_open() -> None:
    """A code 119 is never final: the row is unknown and quarantined, the finished order stays open."""
    messages = [{"number": "+905301234567", "status": 119}, {"number": "+905301234568", "status": 111}]
    body = body_of(order={"id": 7, "status": 114, "total": 2, "message": messages})
    parsed = parse(detail_fetch("7"), body)
    assert [report.status for report in parsed.reports] == [Status.UNKNOWN, Status.DELIVERED]
    assert [item.provider_key for item in parsed.unreadable] == ["7:+905301234567:1"]
    assert parsed.answers == (IdAnswer(key=order_key("7"), found=True),)


@pytest.mark.parametrize(
    "item", [None, 5, {}, {"number": "+905301234567"}, {"status": 111}, {"number": "", "status": 1}]
)
def test_an_unreadable_recipient_keeps_the_order_open(item: Any) -> None:
    """Its neighbour is stored, the item is quarantined, and the order is not settled."""
    messages = [item, {"number": "+905301234568", "status": 111}]
    parsed = parse(detail_fetch("7"), body_of(order={"id": 7, "status": 114, "total": 2, "message": messages}))
    assert (len(parsed.reports), len(parsed.unreadable), parsed.answers[0].settled) == (1, 1, False)


NUMBERS = ("+905057023100", "+905057023101", "+905057023102")


def recipients(*words: tuple[int, int]) -> list[dict[str, Any]]:
    """Rows of a detail answer: (which number, its code)."""
    return [{"number": NUMBERS[place], "status": code} for place, code in words]


def ended(total: int | None, *words: tuple[int, int], **changes: Any) -> bytes:
    """A detail answer of an order that has ended, its counts as many as the rows show unless changed."""
    counts = {"delivered": sum(code == 111 for _, code in words), "undelivered": sum(code == 112 for _, code in words)}
    return body_of(order={"id": 7, "status": 114, "total": total, **counts, "message": recipients(*words), **changes})


def stored(parsed: Parsed) -> list[tuple[str, str]]:
    """(number and ordinal, code) of the recipients' reports."""
    messages = [report for report in parsed.reports if report.granularity is Granularity.MESSAGE]
    return sorted((report.provider_key.partition(":")[2], report.provider_status) for report in messages)


def read_again(body: bytes, earlier: Parsed | None = None, expected: int | None = None) -> Parsed:
    """The answer to an order whose last answer was `earlier`."""
    fingerprint = None if earlier is None else earlier.answers[0].fingerprint
    due = DueId(key=order_key("7"), expected=expected, fingerprint=fingerprint)
    parsed = parse(detail_fetch("7", due=due), body)
    return read_on(parsed, body, due) if parsed.children else parsed


def read_on(first: Parsed, body: bytes, due: DueId) -> Parsed:
    """The end of a walk whose first page lacked recipients: the page after it holds none."""
    answer = json.loads(body)
    answer["response"]["order"]["message"] = []
    fetch = Fetch(spec=first.children[0], ids={due.key: due}, seen_before=Counter(first.seen))
    last = parse(fetch, json.dumps(answer).encode())
    return replace(last, unreadable=first.unreadable + last.unreadable)


def test_equal_numbers_get_ordinals_once_two_answers_in_a_row_agree_on_the_numbers() -> None:
    """Three times the same number, as in an official test: one answer alone could have repeated a row."""
    body = ended(3, (0, 110), (0, 111), (0, 112), status=113)
    first = read_again(body)
    assert stored(first) == [(f"{NUMBERS[0]}:1", "111")]
    again = read_again(ended(3, (0, 112), (0, 111), (0, 110), status=113), first)
    assert stored(again) == [(f"{NUMBERS[0]}:1", "111"), (f"{NUMBERS[0]}:2", "110"), (f"{NUMBERS[0]}:3", "112")]


def test_a_row_in_the_place_of_another_stores_no_phantom_and_settles_nothing() -> None:
    """A, A for A, B has as many rows as the order has recipients; only the next answer shows what was wrong."""
    wrong = read_again(ended(2, (0, 111), (0, 111)))
    assert stored(wrong) == [(f"{NUMBERS[0]}:1", "111")]
    assert (wrong.answers[0].settled, wrong.answers[0].is_incomplete, wrong.answers[0].found) == (False, True, False)
    right = read_again(ended(2, (0, 111), (1, 111)), wrong)
    assert stored(right) == [(f"{NUMBERS[0]}:1", "111"), (f"{NUMBERS[1]}:1", "111")]
    assert right.answers == (IdAnswer(key=order_key("7"), found=True, settled=True),)
    other = read_again(ended(2, (1, 111), (1, 111)), wrong)
    assert (stored(other), other.answers[0].settled) == ([(f"{NUMBERS[1]}:1", "111")], False)


def test_numbers_that_really_stand_twice_settle_at_the_second_answer() -> None:
    """Whatever order they come in: the multiset is compared, not the places or the codes."""
    first = read_again(ended(3, (0, 111), (0, 112), (1, 111)))
    second = read_again(ended(3, (1, 111), (0, 112), (0, 111)), first)
    assert (first.answers[0].settled, second.answers[0].settled) == (False, True)
    assert stored(second) == [(f"{NUMBERS[0]}:1", "111"), (f"{NUMBERS[0]}:2", "112"), (f"{NUMBERS[1]}:1", "111")]


@pytest.mark.parametrize("status", [113, 114, 115])
@pytest.mark.parametrize(("total", "expected"), [(1, None), ("1", 5), (None, 1), ("?", 1), (0, 1)])
def test_more_recipients_than_the_order_has_refuse_the_answer_as_a_whole(
    status: int, total: Any, expected: int | None
) -> None:
    """Nothing of it is stored, the order's own counts neither; the walk begins again. A missing total: the list's."""
    body = ended(total, (0, 111), (0, 111), status=status)
    with pytest.raises(AnswerNotUnderstood) as caught:
        read_again(body, expected=expected)
    assert (caught.value.raw, caught.value.restart) == (body, detail_fetch("7").spec)


def test_without_any_total_neither_surplus_nor_missing_recipients_can_be_noticed() -> None:
    """What stands there is stored, equal numbers wait for a second answer, and the order stays open."""
    once = read_again(ended(None, (0, 111), (1, 112)))
    assert stored(once) == [(f"{NUMBERS[0]}:1", "111"), (f"{NUMBERS[1]}:1", "112")]
    assert once.answers == (IdAnswer(key=order_key("7"), found=True),)
    twice = read_again(ended(None, (0, 111), (0, 111)))
    assert (stored(twice), twice.answers[0].is_incomplete) == ([(f"{NUMBERS[0]}:1", "111")], True)
    none = read_again(ended(None))
    assert (none.answers[0].is_incomplete, none.answers[0].settled) == (True, False)


MISSING = pytest.mark.parametrize(
    "message",
    [None, [], {}, "", ..., "?", 5, [None], [{"number": "", "status": 111}], [{"status": 111}], {"number": "5301"}],
    ids=str,
)


@MISSING
def test_an_answer_without_its_recipients_is_incomplete_and_settles_nothing(message: Any) -> None:
    """The order is stored; what cannot be read goes to quarantine; a complete answer is expected soon."""
    body = {**order(total=1, delivered=1), "message": message}
    parsed = parse(detail_fetch("7"), body_of(order={name: body[name] for name in body if body[name] is not ...}))
    assert [report.granularity for report in parsed.reports] == [Granularity.ORDER]
    answer = parsed.answers[0]
    assert (answer.is_incomplete, answer.settled, answer.found) == (True, False, False)
    assert len(parsed.unreadable) == bool(message is not ... and message)


@pytest.mark.parametrize("total", [3, None])
def test_an_incomplete_answer_keeps_the_rows_that_can_be_read(total: int | None) -> None:
    """One is missing, one unreadable: the others are stored, the order stays open and is asked again soon."""
    messages = [*recipients((0, 111), (1, 110)), {"number": 5}]
    parsed = read_again(ended(total, message=messages), expected=3)
    assert stored(parsed) == [(f"{NUMBERS[0]}:1", "111"), (f"{NUMBERS[1]}:1", "110")]
    assert (len(parsed.unreadable), parsed.answers[0].is_incomplete) == (1, True)


@MISSING
def test_an_order_that_is_still_being_sent_is_not_asked_more_often(message: Any) -> None:
    """113: it may well show fewer recipients than it will have."""
    parsed = read_again(ended(2, status=113, message=None if message is ... else message))
    assert (parsed.answers[0].is_incomplete, parsed.answers[0].settled) == (False, False)


def test_an_undelivered_row_beside_missing_ones_waits_until_it_cannot_be_the_second_of_its_number() -> None:
    """Its number may stand among the missing, delivered: then the first ordinal is delivered, not this one."""
    truncated = read_again(ended(2, (0, 112), delivered=1, undelivered=1))
    assert (stored(truncated), truncated.answers[0].is_incomplete) == ([], True)
    whole = read_again(ended(2, (0, 112), (0, 111)), read_again(ended(2, (0, 111), (0, 112)), truncated))
    assert stored(whole) == [(f"{NUMBERS[0]}:1", "111"), (f"{NUMBERS[0]}:2", "112")]
    again = read_again(ended(2, (0, 112), delivered=1, undelivered=1), truncated)
    assert stored(again) == [(f"{NUMBERS[0]}:1", "112")]
    counted = read_again(ended(3, (0, 112), (1, 111), delivered=1, undelivered=2))
    assert stored(counted) == [(f"{NUMBERS[0]}:1", "112"), (f"{NUMBERS[1]}:1", "111")]


def test_a_fingerprint_names_no_number_and_belongs_to_one_order_of_one_account() -> None:
    """Numbers are few enough to be tried one by one, so it is keyed."""
    first = read_again(ended(2, (0, 111), (0, 111))).answers[0].fingerprint
    key = replace(ACCOUNT, credentials={**ACCOUNT.credentials, "hash": "another"})
    other = parse(detail_fetch("7"), ended(2, (0, 111), (0, 111)), account=key).answers[0].fingerprint
    assert first is not None
    assert (len(first), first == other, "5057023100" in first) == (64, False, False)


def test_a_server_that_ignores_the_page_makes_no_second_recipients() -> None:
    """A page beyond an incomplete one that repeats it counts as empty: nothing of it is a further recipient."""
    due = DueId(key=order_key("7"))
    for _ in range(2):
        body = ended(2, (0, 111))
        first = parse(detail_fetch("7", due=due), body)
        again = Fetch(spec=first.children[0], ids={due.key: due}, seen_before=Counter(first.seen))
        last = parse(again, body)
        assert (stored(last), last.answers[0].settled) == ([(f"{NUMBERS[0]}:1", "111")], False)
        due = replace(due, fingerprint=last.answers[0].fingerprint)


def test_an_order_without_recipients_is_settled() -> None:
    """114 with all counts 0 and no messages, as two official libraries test it: completed, nothing is strange."""
    empty = {**order(total=0, delivered=0), "message": []}
    parsed = parse(detail_fetch("7"), body_of(order=empty))
    assert [(report.status, report.total) for report in parsed.reports] == [(Status.DELIVERED, 0)]
    assert parsed.unreadable == ()
    assert parsed.answers == (IdAnswer(key=order_key("7"), found=True, settled=True),)


def test_an_order_that_denies_the_recipients_of_its_list_is_incomplete() -> None:
    """All counts 0 where a list stated 2: nothing final is written, and it is asked again soon."""
    empty = {**order(total=0, delivered=0), "message": []}
    parsed = read_again(body_of(order=empty), expected=2)
    assert (parsed.reports, len(parsed.unreadable), parsed.answers[0].is_incomplete) == ((), 1, True)


def test_php_writes_a_list_with_a_gap_as_an_object() -> None:
    """Orders and recipients alike are read in the order of their indexes."""
    parsed = parse(list_fetch(), body_of(count=2, orders={"3": order(id=9), "1": order(id=8)}))
    assert parsed.seen == ("8", "9")
    detail = read_again(ended(2, message={"4": recipients((0, 111))[0], "11": recipients((1, 111))[0]}))
    assert stored(detail) == [(f"{NUMBERS[0]}:1", "111"), (f"{NUMBERS[1]}:1", "111")]


def test_a_number_that_is_none_is_kept_as_given() -> None:
    """A masked number stands in key and recipient as the provider wrote it."""
    item = {"number": "9053XXXXXXXX", "status": 111}
    (report,) = parse(detail_fetch("7"), body_of(order={"id": 7, "status": 113, "message": [item]})).reports
    assert (report.provider_key, report.recipient) == ("7:9053XXXXXXXX:1", "9053XXXXXXXX")


def test_the_pages_of_an_order_are_one_answer() -> None:
    """Page one of 1,001 recipients says nothing yet; the last page says what all of them state, in their raw form."""
    messages = [{"number": f"+90530{number:07}", "status": 111 if number else "110"} for number in range(1000)]
    head = {"id": 7, "status": 114, "total": 1001}
    first = parse(detail_fetch("7"), body_of(order={**head, "message": messages}))
    [child] = first.children
    assert (first.reports, first.answers) == ((), ())
    assert {name: child.params[name] for name in ("page", "rows", "total")} == {"page": 2, "rows": 1000, "total": 1001}
    more = [{"number": 5311111111, "status": 111}]
    fetch = Fetch(spec=child, seen_before=Counter(first.seen))
    last = parse(fetch, body_of(order={**head, "message": more}))
    assert (len(last.reports), last.children) == (1001, ())
    assert last.answers == (IdAnswer(key=order_key("7"), found=True, settled=False),)
    raw = {report.provider_key: report.statement for report in last.reports}
    assert raw["7:+905300000000:1"] == {"number": "+905300000000", "status": "110"}
    assert raw["7:+905311111111:1"] == {"number": 5311111111, "status": 111}
    with pytest.raises(AnswerNotUnderstood) as caught:
        parse(fetch, body_of(order={**head, "message": more * 2}))
    assert caught.value.restart is not None
    assert caught.value.restart.params["page"] == 1


def test_pages_that_an_earlier_version_read_are_read_again() -> None:
    """It left only the numbers of its pages behind, and has stored their rows."""
    parsed = parse(detail_fetch("7", page=2, rows=1000, seen_before={"+905057023100": 1}), ended(1001, (1, 111)))
    assert parsed == Parsed(answers=(IdAnswer(key=order_key("7"), found=False, is_incomplete=True),))


@pytest.mark.parametrize(
    ("status", "total", "words", "settled"),
    [
        (114, 1, [111], True),
        (115, 1, [112], True),
        (115, 1, [110], False),
        (113, 1, [111], False),  # the order itself is not ended
        (114, 1, [110], False),  # an official test's answer: finished order, recipient still sending
        (114, 2, [111], False),  # a recipient is missing
        (114, 2, [], False),
    ],
)
def test_an_order_is_settled_by_all_of_its_recipients(status: int, total: int, words: list[int], settled: bool) -> None:
    """Ended, complete and every recipient final; nothing less."""
    messages = [{"number": f"+90530123456{place}", "status": word} for place, word in enumerate(words)]
    counted = detail_fetch("7", due=DueId(key=order_key("7"), expected=total))
    parsed = parse(counted, body_of(order={"id": "7", "status": status, "message": messages}))
    if parsed.children:
        last = Fetch(spec=parsed.children[0], ids=counted.ids, seen_before=Counter(parsed.seen))
        parsed = parse(last, body_of(order={"id": 7, "status": status}))
    assert [answer.settled for answer in parsed.answers] == [settled]


def test_an_order_that_is_not_found_stays_open() -> None:
    """The documented error sample: code 455 is an answer, not a failure."""
    parsed = parse(detail_fetch("428"), (FIXTURES / "get-report.error.json").read_bytes(), status=455)
    assert parsed == Parsed(answers=(IdAnswer(key=order_key("428"), found=False),))


@pytest.mark.parametrize("body", [body_of(order={"id": 8, "status": 114, "message": []}), body_of(), body_of(order=[])])
def test_an_answer_about_another_order_is_not_understood(body: bytes) -> None:
    """Nothing may be written under the wrong order."""
    with pytest.raises(AnswerNotUnderstood):
        parse(detail_fetch("7"), body)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (400, RequestIsWrong),
        (401, PauseAccount),
        (403, PauseAccount),
        (404, RequestIsWrong),
        (429, SlowDown),
        (455, RequestIsWrong),
        (456, TryAgainAt),
        (458, RequestIsWrong),
        (464, RequestIsWrong),
        (503, TryAgainSoon),
        (422, RequestIsWrong),
        (473, RequestIsWrong),
        (499, RequestIsWrong),
        (500, TryAgainSoon),
        (599, TryAgainSoon),
        (600, AnswerNotUnderstood),
        (110, AnswerNotUnderstood),
    ],
)
@pytest.mark.parametrize("status", [200, None, 500])
@pytest.mark.parametrize("typed", [str, int])
def test_every_code_says_what_to_do(code: int, error: type[ProviderError], status: int | None, typed: type) -> None:
    """The code in the body decides, as number or text, under any HTTP status."""
    http = status if status is not None else code if code >= 400 else 200
    with pytest.raises(error) as caught:
        parse(list_fetch(), body_of(typed(code)), status=http)
    assert (type(caught.value), caught.value.code) == (error, str(code))


def test_every_code_of_the_table_is_tested() -> None:
    """The rows above name each code of ERRORS."""
    assert set(ERRORS) == {400, 401, 403, 404, 429, 455, 456, 458, 464, 503}


def test_the_documented_refusal_pauses_the_account() -> None:
    """Body and HTTP both say 401."""
    with pytest.raises(PauseAccount):
        parse(list_fetch(), (FIXTURES / "error.401.json").read_bytes(), status=401)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (302, TryAgainSoon),
        (401, PauseAccount),
        (403, PauseAccount),
        (404, RequestIsWrong),
        (429, SlowDown),
        (502, TryAgainSoon),
        (200, AnswerNotUnderstood),
    ],
)
@pytest.mark.parametrize("body", [b"<html>no</html>", b"", b"[]", b'{"response": 5}'])
def test_without_a_code_the_http_status_decides(status: int, error: type[ProviderError], body: bytes) -> None:
    """A body that says nothing leaves the HTTP status; under 200 it is not understood."""
    with pytest.raises(error):
        parse(list_fetch(), body, status=status)


def test_success_in_the_body_of_a_server_error_is_not_believed() -> None:
    """Code 200 under HTTP 500 contradicts itself: ask again."""
    with pytest.raises(TryAgainSoon):
        parse(list_fetch(), body_of(count=0, orders=[]), status=500)


def test_throttling_slows_the_account_by_retry_after() -> None:
    """HTTP 429 and a 503 that names a time slow the whole account down."""
    for status, body in ((429, b""), (503, body_of(503)), (429, body_of(429))):
        with pytest.raises(SlowDown) as caught:
            parse(list_fetch(), body, status, ACCOUNT, **{"retry-after": "7"})
        assert caught.value.retry_after_seconds == 7


def test_an_order_scheduled_for_later_is_stored_so_and_asked_for_when_it_is_sent() -> None:
    """Code 456 with a known sending time names that moment, otherwise a fixed wait; all of its recipients wait."""
    due = DueId(key=order_key("7"), expected=3, valid_until=NOW + timedelta(hours=50))
    known = parse(detail_fetch("7", due=due), body_of(456), status=456)
    past = parse(detail_fetch("7", due=replace(due, valid_until=NOW, expected=None)), body_of("456"))
    counts = [(report.status, report.total, report.waiting, report.sent_at) for report in known.reports + past.reports]
    assert counts == [(Status.SCHEDULED, 3, 3, None), (Status.SCHEDULED, None, None, None)]
    waits = [answer.not_before for answer in known.answers + past.answers]
    assert waits == [NOW + timedelta(hours=2), timedelta(seconds=600)]


@pytest.mark.parametrize("status", [113, 114, 115])
def test_a_sending_time_that_is_still_to_come_is_a_plan(status: int) -> None:
    """An order that is to be sent tomorrow is scheduled; whatever its status, it was not sent tomorrow."""
    tomorrow = order(status=status, sendAt="2026-03-02 10:00:00")
    now = order(status=status, sendAt="2026-03-01 15:00:00")
    early, late = parse(list_fetch(), body_of(count=2, orders=[tomorrow, now])).reports
    wanted = {113: (Status.SCHEDULED, Status.ENROUTE), 114: (Status.DELIVERED,) * 2, 115: (Status.REJECTED,) * 2}
    assert (early.status, late.status) == wanted[status]
    assert (early.sent_at, early.extra["send_at"]) == (None, "2026-03-02T07:00:00+00:00")
    assert (late.sent_at, "send_at" in late.extra) == (NOW, False)


def test_an_order_that_is_sent_while_its_list_is_on_the_way_reads_the_same_again() -> None:
    """Requested before its sending and answered after it: reading it again as of the request gives the same facts."""
    sent = order(status=113, sendAt="2026-03-01 15:00:01")
    answer = Answer(
        status=200,
        body=body_of(count=1, orders=[sent]),
        asked_at=NOW,
        received_at=NOW + timedelta(seconds=2),
    )
    [report] = ADAPTER.parse(ACCOUNT, list_fetch(), answer).reports
    first = observe(report, asked_at=NOW)
    kept = KeptStatement(
        granularity=report.granularity,
        provider_key=report.provider_key,
        parent_key=None,
        recipient=None,
        source=report.source,
        as_of=NOW,
        statement=sent,
    )
    again = ADAPTER.restate(ACCOUNT, kept)
    assert again is not None
    assert observe(again, asked_at=NOW).facts == first.facts


def test_the_detail_of_an_order_that_is_still_to_be_sent_waits_for_its_sending() -> None:
    """No recipient stands there, and none is missing: it is asked for when it is sent."""
    planned = {**order(status=113, delivered=0, waiting=2, sendAt="2026-03-02 10:00:00"), "message": []}
    [answer] = parse(detail_fetch("7"), body_of(order=planned)).answers
    assert (answer.is_incomplete, answer.not_before) == (False, datetime(2026, 3, 2, 7, tzinfo=UTC))


def test_a_scheduled_order_goes_on_to_be_sent() -> None:
    """456 counts as later than the list before it; the list after the sending counts as later than both."""
    listed = [order(status=113, delivered=0, waiting=2, sendAt=at) for at in (None, "2026-03-01 14:00:00")]
    plain, sent = (parse(list_fetch(), body_of(count=1, orders=[one])).reports[0] for one in listed)
    due = DueId(key=order_key("7"), expected=2)
    refused = parse(detail_fetch("7", due=due), body_of(456)).reports[0]
    told = [observe(one, asked_at=NOW + timedelta(minutes=n)) for n, one in enumerate((plain, refused, sent))]
    rows = [fold(Granularity.ORDER, told[:many]) for many in (1, 2, 3)]
    assert [row.status for row in rows] == ["enroute", "scheduled", "enroute"]
    assert [(row.total, row.waiting) for row in rows] == [(2, 2)] * 3


def test_the_balance_is_asked_for_to_see_whether_the_credentials_are_accepted() -> None:
    """The documented call with nothing but the authentication; its content is of no interest, a refusal is one."""
    assert ADAPTER.record.probe is not None
    fetch = Fetch(spec=ADAPTER.record.probe)
    request = ADAPTER.request(ACCOUNT, fetch, NOW)
    assert request.url == "https://api.iletimerkezi.com/v1/get-balance/json"
    assert json.loads(request.body) == {"request": {"authentication": dict(ACCOUNT.credentials)}}
    assert parse(fetch, body_of(balance={"amount": "12.50", "sms": "336"})) == Parsed()
    with pytest.raises(PauseAccount):
        parse(fetch, body_of(401), status=401)


def test_the_list_request_is_byte_exact() -> None:
    """The documented form: authentication and filter, with the page inside the filter."""
    (spec,) = ADAPTER.plan_window(ACCOUNT, date(2024, 11, 11), date(2024, 11, 20))
    assert spec == replace(list_fetch().spec, label="2024-11-11..2024-11-20 page 1")
    request = ADAPTER.request(ACCOUNT, Fetch(spec=spec), NOW)
    wanted = json.loads((FIXTURES / "get-reports.request.json").read_bytes())
    wanted["request"]["authentication"] |= ACCOUNT.credentials
    wanted["request"]["filter"] |= {"start": "2024-11-11", "end": "2024-11-20"}
    assert request.body == json.dumps(wanted, separators=(",", ":")).encode()
    assert (request.method, request.url) == ("POST", "https://api.iletimerkezi.com/v1/get-reports/json")
    assert request.headers["Content-Type"] == "application/json"


def test_the_detail_request_is_byte_exact() -> None:
    """The documented sample with the largest page; the id goes out as a number."""
    (spec,) = ADAPTER.plan_ids(ACCOUNT, [DueId(key=order_key("428"))], date(2024, 11, 11))
    assert spec == detail_fetch("428").spec
    request = ADAPTER.request(ACCOUNT, Fetch(spec=spec), NOW)
    wanted = json.loads((FIXTURES / "get-report.request.json").read_bytes())
    wanted["request"]["order"]["rowCount"] = 1000
    assert request.body == json.dumps(wanted, separators=(",", ":")).encode()
    assert request.url == "https://api.iletimerkezi.com/v1/get-report/json"


def test_the_hash_can_be_derived_from_the_secret() -> None:
    """HMAC-SHA256 with the secret as key over the API key, in small hex letters, as RFC 4231 shows it."""
    account = replace(ACCOUNT, credentials={"key": "what do ya want for nothing?", "secret": "Jefe"})
    request = ADAPTER.request(account, list_fetch(), NOW)
    wanted = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert json.loads(request.body)["request"]["authentication"] == {
        "key": "what do ya want for nothing?",
        "hash": wanted,
    }


SECRET = "4f1c9a7be0d25368"
WITH_WEBHOOK = replace(ACCOUNT, credentials={**ACCOUNT.credentials, "webhook_secret": SECRET})


def push(account: Account = WITH_WEBHOOK, **fields: Any) -> Parsed:
    """What the documented webhook says, with some fields changed (`...`: left out)."""
    documented = {"id": 9471, "packet_id": 57330124, "status": "delivered", "to": "+905301234567"}
    item = {name: value for name, value in (documented | fields).items() if value is not ...}
    return ADAPTER.parse_callback(account, Callback(tail="", body=json.dumps({"report": item}).encode()))


def test_only_who_knows_the_secret_may_push() -> None:
    """The tail of the address is compared whole; without a secret nobody is let in."""
    tails = ("", SECRET, SECRET[:-1], f"{SECRET}/", SECRET.upper(), "\udcff")
    allowed = {tail: ADAPTER.authorise_callback(WITH_WEBHOOK, Callback(tail=tail, body=b"")) for tail in tails}
    assert allowed == {tail: tail == SECRET for tail in tails}
    assert ADAPTER.authorise_callback(ACCOUNT, Callback(tail="", body=b"")) is False


@pytest.mark.parametrize(
    ("word", "code"),
    [("accepted", "110"), ("delivered", "111"), ("undelivered", "112"), (110, "110"), ("111", "111"), (112.0, "112")],
)
def test_a_push_says_what_a_read_of_the_order_says(word: Any, code: str) -> None:
    """Words and codes alike become what `get-report` says, beside the id of the message that only a push has."""
    detail = {"order": {"id": 57330124, "status": 113, "message": [{"number": "5301234567", "status": int(code)}]}}
    answer = Answer(status=200, body=json.dumps({"response": {"status": {"code": 200}, **detail}}).encode())
    [polled] = ADAPTER.parse(ACCOUNT, detail_fetch("57330124"), answer).reports
    [ambiguous_report] = push(status=word).ambiguous
    assert ambiguous_report.report is not None
    assert normalise(ambiguous_report.report) == msgspec.structs.replace(
        normalise(polled), extra={"message_id": "9471"}
    )
    assert (ambiguous_report.report.as_of, ambiguous_report.report.source) == (None, Source.CALLBACK)
    assert (ambiguous_report.report.provider_key, ambiguous_report.twin_key, ambiguous_report.ask) == (
        "57330124:+905301234567:1",
        "57330124:+905301234567:2",
        order_key("57330124"),
    )


def test_a_word_that_nobody_knows_makes_the_order_due_and_is_put_aside() -> None:
    """It never becomes a status."""
    parsed = push(status="bounced")
    [ambiguous_report], [strange] = parsed.ambiguous, parsed.unreadable
    assert (parsed.reports, ambiguous_report.report, ambiguous_report.ask) == ((), None, order_key("57330124"))
    assert json.loads(strange.raw)["report"]["status"] == "bounced"


@pytest.mark.parametrize("packet_id", [7, "007", " 7 ", 7.0, "7\u200b", "\u202a٧\u202c"])
def test_a_pushed_order_id_is_the_number_that_it_is(packet_id: Any) -> None:
    """In whatever form it comes, it names the order under which the polls store."""
    [ambiguous_report] = push(packet_id=packet_id).ambiguous
    assert ambiguous_report.report is not None
    assert (ambiguous_report.ask, ambiguous_report.report.provider_key) == (order_key("7"), "7:+905301234567:1")


@pytest.mark.parametrize("packet_id", ["abc", "7-1", "9" * 20, True, [7]])
def test_a_pushed_order_id_that_can_be_none_asks_for_nothing(packet_id: Any) -> None:
    """It is put aside: an order of that name could only be asked for in vain."""
    parsed = push(packet_id=packet_id)
    assert (parsed.ambiguous, len(parsed.unreadable)) == ((), 1)


def test_a_pushed_word_gets_the_status_that_the_account_maps_it_to() -> None:
    """The map holds for every way in, and for what is stored; the documented words cannot be mapped."""
    mapped = replace(
        WITH_WEBHOOK, options=IletimerkeziOptions(status_map={"bounced": "rejected/opted_out", "delivered": "expired"})
    )
    parsed = push(mapped, status="bounced")
    [ambiguous_report] = parsed.ambiguous
    assert ambiguous_report.report is not None
    facts = (ambiguous_report.report.status, ambiguous_report.report.reason, ambiguous_report.report.provider_status)
    assert (facts, parsed.unreadable) == ((Status.REJECTED, Reason.OPTED_OUT, "bounced"), ())
    stored = KeptStatement(
        granularity=Granularity.MESSAGE,
        provider_key=ambiguous_report.report.provider_key,
        parent_key="57330124",
        recipient=ambiguous_report.report.recipient,
        source=Source.CALLBACK,
        as_of=None,
        statement=ambiguous_report.report.statement,
    )
    again = ADAPTER.restate(mapped, stored)
    assert again is not None
    assert normalise(again) == normalise(ambiguous_report.report)
    [documented] = push(mapped, status="delivered").ambiguous
    assert documented.report is not None
    assert documented.report.status is Status.DELIVERED
    assert {"accepted", "delivered", "undelivered"} < ADAPTER.record.status_codes


@pytest.mark.parametrize("name", ["packet_id", "to", "status"])
def test_a_push_without_its_parts_is_put_aside_without_what_it_should_not_hold(name: str) -> None:
    """Of fields that are not documented only the names are kept: one may carry the text of the message."""
    changes: dict[str, Any] = {name: ..., "text": "Sayın Ayşe"}
    parsed = push(**changes)
    [strange] = parsed.unreadable
    assert (parsed.reports, parsed.ambiguous, b"Ay" in strange.raw) == ((), (), False)
    assert "text" in json.loads(strange.raw)["report"]["fields"]


@pytest.mark.parametrize("given", ["007", " 7", 7.0])
def test_an_order_has_one_key_in_a_list_and_in_its_details(given: Any) -> None:
    """Whole numbers have one form, or a list and a registration would make two orders of one."""
    listed = parse(list_fetch(), body_of(count=1, orders=[order(id=given)]))
    asked = parse(detail_fetch("7"), body_of(order=order(id=given, message=[])))
    assert {report.provider_key for report in (*listed.reports, *asked.reports)} == {"7"}
    assert [found.key for found in listed.discovered] == [order_key("7")]


@pytest.mark.parametrize("nothing", [{}, "", None, []])
@pytest.mark.parametrize("count", [0, "0"])
def test_an_empty_list_may_be_written_in_any_way(nothing: Any, count: Any) -> None:
    """Where the count says that there is nothing, nothing is missing; else the list is."""
    page = parse(list_fetch(), body_of(count=count, orders=nothing)).page
    assert page is not None
    assert page.last
    if nothing != []:
        with pytest.raises(AnswerNotUnderstood):
            parse(list_fetch(), body_of(count=5, orders=nothing))


@pytest.mark.parametrize(
    ("name", "value"), [("total", "iki"), ("delivered", "x"), ("price", "0,03 TL"), ("sendAt", "dün")]
)
def test_a_field_of_an_order_without_counts_that_cannot_be_read_is_named(name: str, value: str) -> None:
    """No row is made of an order that does not state its counts, but nothing is dropped in silence either."""
    stated = {"id": 7, "status": 114, name: value, "message": [{"number": "+905301234567", "status": 111}]}
    reasons = [trouble.reason for trouble in parse(detail_fetch("7"), body_of(order=stated)).unreadable]
    assert reasons == [f"An order has a `{name}` that cannot be read."]


def test_without_recipients_a_push_says_nothing() -> None:
    """With `details = false` there is no row that it could be about."""
    assert push(replace(WITH_WEBHOOK, options=IletimerkeziOptions(details=False))) == Parsed()


def test_a_send_reply_holds_no_report() -> None:
    """Only the webhook's body can be read."""
    with pytest.raises(RequestIsWrong):
        ADAPTER.parse_callback(ACCOUNT, Callback(tail="send_reply", body=b"{}"))


def test_the_record_says_what_configuration_needs() -> None:
    """Credentials, window and options as documented on the provider's page."""
    record = ADAPTER.record
    assert (record.credentials, record.sweep_window_days, record.id_kinds, record.callback_paths) == (
        (("key", "hash"), ("key", "secret")),
        10,
        (),
        None,
    )
    assert record.options().model_dump(include=set(record.options.own_names())) == {
        "details": True,
        "window_days": 10,
        "status_map": {},
    }
