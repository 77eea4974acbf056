"""Vairo: whatever bytes come, no wrong final and no foreign exception."""

import json
from datetime import date
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from models.report import TrackedKey
from models.vocabulary import Status, is_final
from providers.adapter import Account, Answer, DueId, Fetch, Parsed
from providers.errors import ProviderError
from providers.vairo import ADAPTER, STATUS, written

FIXTURES = Path(__file__).parents[1] / "fixtures" / "vairo"
SAMPLES = [path.read_bytes() for path in sorted(FIXTURES.glob("*.json"))]
ACCOUNT = Account(
    id="vairo-1",
    provider="vairo",
    base_url="http://127.0.0.1/Panel/api/v1",
    timezone=ZoneInfo("Europe/Istanbul"),
    credentials={"api_key": "k"},
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.sampled_from([*STATUS])
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))
NAMES = ["id", "sms_gonderim_id", "numara", "mesaj_boy", "durum_gonderim", "durum_iade", "created_at", "updated_at"]
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "id": st.just(3024),
    "sms_gonderim_id": st.just(187),
    "numara": st.just("5399999999"),
    "durum_gonderim": st.sampled_from([*STATUS, "delivered", "NEW"]),
    "paket_durum": st.sampled_from([0, 1, -1, "1"]),
}
ITEMS = st.fixed_dictionaries({}, optional={name: LIKELY.get(name, JSON) | JSON for name in [*NAMES, "paket_durum"]})
ENVELOPES = st.fixed_dictionaries({}, optional={"durum": st.booleans() | JSON, "aciklama": ITEMS | JSON})
STATUSES = st.sampled_from([200, 200, 200, 400, 401, 404, 429, 500, 302])


@st.composite
def torn(draw: st.DrawFn) -> bytes:
    """A recorded body with a piece replaced by other bytes."""
    body = draw(st.sampled_from(SAMPLES))
    start = draw(st.integers(0, len(body)))
    return body[:start] + draw(st.binary(max_size=6)) + body[start + draw(st.integers(0, 12)) :]


BODIES = st.binary(max_size=60) | torn() | ENVELOPES.map(lambda value: json.dumps(value).encode())


def fetch(numbers: int) -> Fetch:
    """One number, or the gate of a big send."""
    due = [DueId(key=TrackedKey(id_kind="number", value=f"187:{5_399_999_999 - place}")) for place in range(numbers)]
    (spec,) = ADAPTER.plan_ids(ACCOUNT, due, date(2026, 1, 1))
    return Fetch(spec=spec, ids={item.key: item for item in due})


def read(numbers: int, status: int, body: bytes) -> Parsed:
    """What the adapter makes of it; nothing where it raises an error of the tree."""
    try:
        return ADAPTER.parse(ACCOUNT, fetch(numbers), Answer(status=status, body=body))
    except ProviderError:
        return Parsed()


@settings(max_examples=400)
@given(BODIES, STATUSES)
def test_no_body_makes_a_wrong_final(body: bytes, status: int) -> None:
    """A final status stands only where a documented final word stood in a report about the number asked for."""
    parsed = read(1, status, body)
    for report in parsed.reports:
        expected = STATUS.get(report.statement["durum_gonderim"].strip(), (Status.UNKNOWN, None))
        assert (report.status, report.reason) == expected
        assert (report.parent_key, report.recipient) == ("187", "+905399999999")
        assert (report.status is Status.UNKNOWN) == bool(parsed.unreadable)
        json.dumps([report.statement, report.extra], allow_nan=False).encode()
        assert "\\u0000" not in json.dumps([report.statement, report.extra, report.provider_status])
    settled = [answer for answer in parsed.answers if answer.settled]
    assert bool(settled) == any(is_final(report.status) for report in parsed.reports)


@settings(max_examples=150)
@given(BODIES, STATUSES)
def test_no_body_makes_the_gate_close_a_number(body: bytes, status: int) -> None:
    """The gate only postpones or opens, for all its numbers alike."""
    parsed = read(7, status, body)
    assert parsed.reports == ()
    assert {answer.settled for answer in parsed.answers} <= {False}
    assert all(answer.postpone != answer.make_due for answer in parsed.answers)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9), st.booleans()), max_size=40))
def test_every_due_id_is_asked_exactly_once(due: list[tuple[int, int, bool]]) -> None:
    """A plan leaves nobody out and asks for nobody twice, through the gate or alone."""
    items = {TrackedKey(id_kind="number", value=f"{send}:539999999{digit}"): opened for send, digit, opened in due}
    specs = ADAPTER.plan_ids(
        ACCOUNT, [DueId(key=key, gate_open=opened) for key, opened in items.items()], date(2026, 1, 1)
    )
    assert sorted(key.value for spec in specs for key in spec.ids) == sorted(key.value for key in items)
    assert len({json.dumps(spec.params, sort_keys=True) for spec in specs}) == len(specs)


@given(st.text(max_size=30), st.sampled_from(["national", "international", "plus", "other"]))
def test_any_tracked_value_makes_a_request_or_a_wrong_request(value: str, form: str) -> None:
    """No tracked value breaks the planning or slips into the address."""
    item = DueId(key=TrackedKey(id_kind="number", value=value))
    (spec,) = ADAPTER.plan_ids(ACCOUNT, [item], date(2026, 1, 1))
    try:
        request = ADAPTER.request(ACCOUNT, Fetch(spec=spec), None)  # type: ignore[arg-type]
    except ProviderError:
        return
    send = spec.params["send"]
    assert request.url == f"http://127.0.0.1/Panel/api/v1/NumaraRaporu/{send}?api_key=k"
    assert written(spec.params["number"], form)
