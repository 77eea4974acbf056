"""Laws of the iletimerkezi adapter: no foreign exception and no final that was not stated, whatever comes."""

import itertools
import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from ulak.models.report import Report, TrackedKey
from ulak.models.vocabulary import Granularity, Status, is_final
from ulak.providers.adapter import Account, Answer, DueId, Fetch, Parsed
from ulak.providers.errors import OurBug, ProviderError
from ulak.providers.iletimerkezi import ADAPTER, IletimerkeziOptions
from ulak.providers.iletimerkezi_orders import decode_recipient, read_recipients

ACCOUNT = Account(
    id="toplu",
    provider="iletimerkezi",
    base_url="https://api.iletimerkezi.com",
    timezone=ZoneInfo("Europe/Istanbul"),
    credentials={"key": "KEYKEYKEY", "hash": "HASHHASH"},
    options=IletimerkeziOptions(),
)
ORDER = TrackedKey(id_kind="order", value="7")
DAY = date(2026, 3, 1)
FETCHES = (
    Fetch(spec=ADAPTER.plan_window(ACCOUNT, DAY, DAY)[0]),
    Fetch(spec=ADAPTER.plan_ids(ACCOUNT, [DueId(key=ORDER)], DAY)[0], ids={ORDER: DueId(key=ORDER, expected=2)}),
)

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.text(st.characters(codec=None), max_size=8)
    | st.sampled_from([110, 111, 112, 113, 114, 115, "111", "114", "115", 7, "7", 2**70, "2026-02-30 10:00:00", "\x00"])
)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))
numbers = st.sampled_from(["+905301234567", 5301234568, "05301234567", "9053XXXXXXXX", "", None]) | leaves
recipients = st.fixed_dictionaries({}, optional={"number": numbers, "status": leaves}) | values
counts = st.sampled_from([0, 1, 2, 3, "2", None]) | leaves
orders = (
    st.fixed_dictionaries(
        {},
        optional={
            "id": st.sampled_from([7, "7", 8]) | leaves,
            "status": st.sampled_from([113, 114, 115, "114"]) | leaves,
            "total": counts,
            "delivered": counts,
            "undelivered": counts,
            "waiting": counts,
            "submitAt": st.just("2026-02-28 10:00:00") | leaves,
            "sendAt": st.just("2026-02-28 10:00:00") | leaves,
            "sender": leaves,
            "message": st.lists(recipients, max_size=4) | leaves,
        },
    )
    | values
)
codes = st.sampled_from([200, "200"]) | leaves
contents = st.fixed_dictionaries(
    {"status": st.fixed_dictionaries({"code": codes}) | values},
    optional={"count": counts, "orders": st.lists(orders, max_size=4) | values, "order": orders},
)
bodies = st.binary(max_size=200) | st.builds(
    lambda value: json.dumps(value).encode(), st.fixed_dictionaries({"response": contents | values}) | values
)
statuses = st.sampled_from([200, 200, 200, 204, 301, 400, 401, 404, 429, 455, 456, 500, 503])


def texts(value: Any) -> list[str]:
    """Every text inside a JSON value, names of fields included."""
    if isinstance(value, dict):
        return [found for pair in value.items() for part in pair for found in texts(part)]
    if isinstance(value, list):
        return [found for part in value for found in texts(part)]
    return [value] if isinstance(value, str) else []


def read(fetch: Fetch, body: bytes, status: int = 200) -> Parsed | ProviderError:
    """What the adapter says, errors of the tree included."""
    answer = Answer(status=status, body=body, received_at=datetime(2026, 3, 1, tzinfo=UTC))
    try:
        return ADAPTER.parse(ACCOUNT, fetch, answer)
    except ProviderError as error:
        return error


def was_stated(report: Report) -> bool:
    """Whether the raw statement itself says this final, read naively."""
    code = str(report.statement["status"]).strip().lstrip("+0").removesuffix(".0")
    if report.granularity is Granularity.MESSAGE:
        return {"111": Status.DELIVERED, "112": Status.UNDELIVERABLE}.get(code) is report.status
    if code == "115":
        return report.status is Status.REJECTED
    total, delivered, undelivered = report.total, report.delivered, report.undelivered
    if code != "114" or total is None or delivered is None or undelivered is None:
        return False
    wanted = {delivered == total: Status.DELIVERED, undelivered == total: Status.UNDELIVERABLE}
    return delivered + undelivered == total and report.status is wanted.get(True, Status.PARTIALLY_DELIVERED)


@settings(max_examples=400)
@given(fetch=st.sampled_from(FETCHES), body=bodies, status=statuses)
def test_no_body_makes_a_wrong_final_or_a_foreign_exception(fetch: Fetch, body: bytes, status: int) -> None:
    """Any bytes under any HTTP status: an error of the tree without secrets, or storable rows that were stated."""
    said = read(fetch, body, status)
    if isinstance(said, ProviderError):
        assert not isinstance(said, OurBug)
        assert "KEYKEY" not in said.message
        assert "HASHHASH" not in said.message
        return
    assert all(was_stated(report) for report in said.reports if is_final(report.status))
    stored = "".join(texts([[report.provider_key, report.extra, report.statement] for report in said.reports]))
    assert "\x00" not in stored
    stored.encode()  # raises on a lone surrogate
    unknown = {report.provider_key for report in said.reports if report.status is Status.UNKNOWN}
    assert unknown <= {item.provider_key for item in said.unreadable}
    assert all(not answer.settled or status < 300 for answer in said.answers)


NUMBER = "+905301234567"


def walk(words: list[str], page_size: int = 1000, due: DueId | None = None, status: int = 114) -> Parsed:
    """What all pages of an order say together: of one number, unless a word names another as `number=code`."""
    items = [
        {"number": number or NUMBER, "status": code} for number, _, code in (word.rpartition("=") for word in words)
    ]
    fetch = Fetch(spec=FETCHES[1].spec, ids={ORDER: due or DueId(key=ORDER)})
    seen: Counter[str] = Counter()
    for start in itertools.count(0, page_size):
        order = {"id": 7, "status": status, "total": len(words), "message": items[start : start + page_size]}
        body = json.dumps({"response": {"status": {"code": 200}, "order": order}}).encode()
        said = read(replace(fetch, seen_before=seen), body)
        assert isinstance(said, Parsed)
        if not said.children:
            return said
        assert (said.reports, said.answers) == ((), ())
        seen.update(said.seen)
        fetch = replace(fetch, spec=said.children[0])
    raise AssertionError


def confirmed(words: list[str], page_size: int = 1000, status: int = 114) -> Parsed:
    """What is said once the answer before held the same numbers."""
    first = walk(words, page_size, status=status).answers[0].fingerprint
    return walk(words, page_size, DueId(key=ORDER, fingerprint=first), status)


def finals(said: Parsed) -> dict[str, str]:
    """Key → final code."""
    return {report.provider_key: report.provider_status for report in said.reports if is_final(report.status)}


# Pages of one row that hold one number again and again look like a page that was repeated, which no server does.
_SIZES = st.integers(2, 9)


@settings(max_examples=200)
@given(data=st.data(), page_size=_SIZES)
def test_finals_of_equal_numbers_never_flip_while_they_only_grow(data: st.DataObject, page_size: int) -> None:
    """Recipients of one number turn final one after another; every read shuffles them, across pages too."""
    words = data.draw(st.lists(st.sampled_from(["110", "119"]), min_size=1, max_size=6))
    known: dict[str, str] = {}
    for _ in range(data.draw(st.integers(1, 5))):
        words = [word if word in {"111", "112"} else data.draw(st.sampled_from([word, "111", "112"])) for word in words]
        said = confirmed(data.draw(st.permutations(words)), max(page_size, len(words) // 2 + 1), status=113)
        assert len({report.provider_key for report in said.reports}) == len(words)
        assert known.items() <= finals(said).items()
        known = finals(said)


_NUMBERS = ("+905301234561", "+905301234562", "+905301234563", "+905301234564")


@settings(max_examples=400)
@given(data=st.data(), truth=st.lists(st.tuples(st.sampled_from(_NUMBERS), st.sampled_from([111, 112])), max_size=6))
def test_a_wrong_answer_never_stores_what_is_not_so(data: st.DataObject, truth: list[tuple[str, int]]) -> None:
    """Rows are dropped and repeated at will, never twice in a row with the same numbers: no phantom, no wrong final."""
    right = finals(confirmed([f"{number}={code}" for number, code in truth])) if truth else {}
    before, fingerprint = None, None
    for _ in range(data.draw(st.integers(1, 4))):
        rows = data.draw(st.lists(st.sampled_from(truth), max_size=len(truth) + 1)) if truth else []
        held = sorted(number for number, _ in rows)
        is_right = held == sorted(number for number, _ in truth)
        if (held == before and not is_right) or (is_right and sorted(rows) != sorted(truth)):
            continue
        before = held
        counts = {"delivered": sum(code == 111 for _, code in truth), "undelivered": sum(c == 112 for _, c in truth)}
        order = {"id": 7, "status": 114, "total": len(truth), **counts, "waiting": 0}
        fetch = Fetch(spec=FETCHES[1].spec, ids={ORDER: DueId(key=ORDER, fingerprint=fingerprint)})
        message = [{"number": number, "status": code} for number, code in rows]
        said = read_to_the_end(fetch, {**order, "message": message})
        fingerprint = None
        if isinstance(said, Parsed):
            stated = {key: code for key, code in finals(said).items() if key != "7"}
            assert stated.items() <= right.items()
            assert not said.answers[0].settled or stated == right
            fingerprint = said.answers[0].fingerprint


def read_to_the_end(fetch: Fetch, order: dict[str, Any]) -> Parsed | ProviderError:
    """A walk whose later pages are empty."""
    said = read(fetch, json.dumps({"response": {"status": {"code": 200}, "order": order}}).encode())
    if isinstance(said, Parsed) and said.children:
        further = replace(fetch, spec=said.children[0], seen_before=Counter(said.seen))
        return read_to_the_end(further, {**order, "message": []})
    return said


@settings(max_examples=100)
@given(count=st.integers(0, 400))
def test_every_page_of_a_window_is_asked_exactly_once(count: int) -> None:
    """Page one and its children hold every order of the window, each once; only the last says so."""
    first, listed, last = FETCHES[0], list[str](), list[int]()
    fetches = [first]
    for fetch in fetches:
        page = fetch.spec.params["page"]
        ids = range(30 * (page - 1), min(30 * page, count))
        content = {"status": {"code": 200}, "count": count, "orders": [{"id": number, "status": 113} for number in ids]}
        said = read(fetch, json.dumps({"response": content}).encode())
        assert isinstance(said, Parsed)
        fetches += [Fetch(spec=child) for child in said.children]
        listed += said.seen
        assert said.page is not None
        last += [page] if said.page.last else []
    assert sorted(listed, key=int) == [str(number) for number in range(count)]
    assert last == [max(1, -(-count // 30))]


@settings(max_examples=100)
@given(data=st.data(), size=st.integers(1, 9), page_size=st.integers(1, 4))
def test_an_order_is_settled_exactly_when_all_its_pages_are_final(
    data: st.DataObject, size: int, page_size: int
) -> None:
    """However the provider cuts the pages, the last one sums them up."""
    codes = data.draw(st.lists(st.sampled_from([110, 111, "112"]), min_size=size, max_size=size))
    words = [f"+9053012345{place:02}={code}" for place, code in enumerate(codes)]
    said = walk(words, page_size)
    messages = [report.provider_key for report in said.reports if report.granularity is Granularity.MESSAGE]
    assert sorted(messages) == [f"7:+9053012345{place:02}:1" for place in range(size)]
    assert [answer.settled for answer in said.answers] == [110 not in codes]


_TEXTS = st.text(st.characters(codec=None, exclude_characters="\x00"), min_size=1, max_size=8)


@settings(max_examples=200)
@given(number=numbers | _TEXTS, code=leaves)
def test_what_a_page_hands_on_is_read_like_the_row_itself(number: Any, code: Any) -> None:
    """Number, code and the raw form come through, whatever they are."""
    rows, _ = read_recipients([{"number": number, "status": code}])
    for row in rows:
        assert decode_recipient(row.encode()) == row
        row.encode().encode()  # raises on a lone surrogate
