"""Organik: whatever bytes come, no wrong final and no foreign exception; batches lose nobody."""

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from defusedxml.ElementTree import fromstring
from hypothesis import given, settings
from hypothesis import strategies as st

from ulak.models.report import TrackedKey
from ulak.models.vocabulary import Status, is_final
from ulak.providers.adapter import Account, Answer, DueId, Fetch, Parsed
from ulak.providers.decoding import as_int
from ulak.providers.errors import ProviderError
from ulak.providers.organik import ADAPTER, KINDS, OrganikOptions
from ulak.providers.organik_requests import ROWS_PER_CALL
from ulak.providers.organik_rows import REFUSALS, STATUS

FIXTURES = Path(__file__).parents[1] / "fixtures" / "organik"
SAMPLES = [path.read_bytes() for path in sorted(FIXTURES.iterdir())]
ACCOUNT = Account(
    id="organik-1",
    provider="organik",
    base_url="http://127.0.0.1",
    timezone=ZoneInfo("Europe/Istanbul"),
    credentials={"api_key": "k" * 32},
    options=OrganikOptions(),
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "gsm": st.just(905445359675),
    "transaction_id": st.sampled_from([1, "2", 3]),
    "gsm_track_id": st.integers(1, 5),
    "delivery_track_id": st.just("x"),
    "start_date": st.just("2016-11-02 11:47:38"),
    "finish_date": st.just("2016-11-02 11:47:38"),
    "status": st.sampled_from([0, 1, 2, 3, 4, 5, "2", "4"]),
    "sms_count": st.just(1),
    "credit_amount": st.just("0,5"),
    "is_foreign_gsm": st.sampled_from([0, 1]),
    "errorcode": st.sampled_from([0, 5, 23, "99", 777]),
}
ROWS = st.fixed_dictionaries({}, optional={name: likely | JSON for name, likely in LIKELY.items()})
WHOLE_ROWS = st.fixed_dictionaries(LIKELY)
RESPONSES = st.fixed_dictionaries(
    {"result": st.booleans() | st.sampled_from([0, 1, "1"])},
    optional={
        "data": st.lists(WHOLE_ROWS | ROWS | JSON, max_size=4) | JSON,
        "error": st.fixed_dictionaries({}, optional={"number": st.integers(80, 100).map(str), "code": JSON}) | JSON,
    },
)


@st.composite
def torn(draw: st.DrawFn) -> bytes:
    """A recorded body with a piece replaced by other bytes."""
    body = draw(st.sampled_from(SAMPLES))
    start = draw(st.integers(0, len(body)))
    return body[:start] + draw(st.binary(max_size=6)) + body[start + draw(st.integers(0, 12)) :]


BODIES = st.binary(max_size=60) | torn() | RESPONSES.map(lambda value: json.dumps({"response": value}).encode())


def fetch(kind: str, ids: list[str], expected: int | None = None) -> Fetch:
    """The one call for these ids."""
    due = [DueId(key=TrackedKey(id_kind=kind, value=value), expected=expected) for value in ids]
    (spec,) = ADAPTER.plan_ids(ACCOUNT, due, date(2026, 1, 1))
    return Fetch(spec=spec, ids={item.key: item for item in due})


def read(asked: Fetch, status: int, body: bytes) -> Parsed:
    """What the adapter makes of it; nothing where it raises an error of the tree."""
    try:
        return ADAPTER.parse(ACCOUNT, asked, Answer(status=status, body=body))
    except ProviderError:
        return Parsed()


def judge(statement: Mapping[str, Any]) -> Status:
    """The status that the documents give to a raw row."""
    number, code = as_int(statement["status"]), as_int(statement.get("errorcode"))
    status = STATUS.get(-1 if number is None else number, (Status.UNKNOWN, None))[0]
    return Status.REJECTED if status in {Status.UNDELIVERABLE, Status.EXPIRED} and code in REFUSALS else status


@settings(max_examples=500)
@given(BODIES, st.sampled_from(KINDS), st.sampled_from([None, 1, 3]), st.sampled_from([200, 200, 400, 429, 500]))
def test_no_body_makes_a_wrong_final(body: bytes, kind: str, expected: int | None, status: int) -> None:
    """Every status follows from its row's own fields; an id settles only when all its rows are final and there."""
    asked = fetch(kind, ["1", "2"], expected)
    parsed = read(asked, status, body)
    for report in parsed.reports:
        assert report.status is judge(report.statement)
        json.dumps([dict(report.statement), report.extra], allow_nan=False).encode()
        told = json.dumps([dict(report.statement), report.extra, report.client_ref, report.recipient])
        # A backslash of the provider's own is written twice; what follows it is no escape.
        assert "\\u0000" not in told.replace("\\\\", "")
    for answer in parsed.answers:
        rows = [report for report in parsed.reports if report.tracked == answer.key]
        assert answer.found == bool(rows)
        if answer.settled:
            assert all(is_final(report.status) for report in rows)
            assert len({report.provider_key for report in rows}) >= (expected or 1)
    if parsed.children:
        assert [key for child in parsed.children for key in child.ids] == list(asked.spec.ids)


def as_xml(rows: list[dict[str, Any]], *, rooted: bool) -> bytes:
    """The same rows as the XML form gives them."""
    items = "".join(
        "<item>" + "".join(f"<{name}>{value}</{name}>" for name, value in row.items()) + "</item>" for row in rows
    )
    return (f"<response><result>1</result><data>{items}</data></response>" if rooted else items).encode()


@given(st.lists(WHOLE_ROWS, min_size=1, max_size=4), st.booleans())
def test_both_forms_of_the_same_reply_say_the_same(rows: list[dict[str, Any]], rooted: bool) -> None:
    """JSON and XML, with a root or without one, make the same reports but for the raw statement."""
    asked = fetch("transaction", ["1", "2"])
    left = read(asked, 200, json.dumps({"response": {"result": True, "data": rows}}).encode())
    right = read(asked, 200, as_xml(rows, rooted=rooted))
    strip = {"statement": None}
    assert [_fields(report) | strip for report in left.reports] == [_fields(report) | strip for report in right.reports]
    assert left.answers == right.answers


def _fields(report: Any) -> dict[str, Any]:
    full = report.in_full()
    return {name: getattr(full, name) for name in full.__struct_fields__}


@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 400), st.none() | st.integers(0, 9000)), max_size=60),
    st.integers(1, 20),
)
def test_every_due_id_is_asked_exactly_once(due: list[tuple[str, int, int | None]], size: int) -> None:
    """A plan leaves nobody out, mixes no kinds and keeps both caps, except for one id that is too big by itself."""
    items = {TrackedKey(id_kind=kind, value=str(number)): expected for kind, number, expected in due}
    account = Account(
        id="o",
        provider="organik",
        base_url="",
        timezone=ZoneInfo("UTC"),
        credentials={},
        options=OrganikOptions(batch_size=size),
    )
    specs = ADAPTER.plan_ids(account, [DueId(key=k, expected=e) for k, e in items.items()], date(2026, 1, 1))
    assert sorted((key.id_kind, key.value) for spec in specs for key in spec.ids) == sorted(
        (key.id_kind, key.value) for key in items
    )
    for spec in specs:
        assert {key.id_kind for key in spec.ids} == {spec.params["by"]}
        assert 1 <= len(spec.ids) <= size
        assert len(spec.ids) == 1 or sum(max(items[key] or 1, 1) for key in spec.ids) <= ROWS_PER_CALL


@given(
    st.lists(st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=8), min_size=1, max_size=5)
)
def test_any_id_survives_the_request_in_both_forms(ids: list[str]) -> None:
    """Ids come out of the body as they went in, whatever characters they hold."""
    asked = fetch("delivery_track", sorted(set(ids)))
    for form in ("json", "xml"):
        account = Account(
            id="o",
            provider="organik",
            base_url="",
            timezone=ZoneInfo("UTC"),
            credentials={"api_key": "k"},
            options=OrganikOptions.from_stored({"format": form}),
        )
        body = ADAPTER.request(account, asked, datetime(2026, 1, 1, tzinfo=UTC)).body
        if form == "json":
            found = json.loads(body)["data"]["delivery_track_ids"]
        else:
            found = [element.text for element in fromstring(body).iter("delivery_track_ids")]
        assert found == asked.spec.params["ids"]
