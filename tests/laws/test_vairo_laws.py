"""Vairo: whatever bytes come, no wrong final and no foreign exception."""

import json
from datetime import date
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from ulak.models.report import TrackedKey
from ulak.models.vocabulary import Granularity, Status, is_final
from ulak.providers.adapter import Account, Answer, DueId, Fetch, Parsed
from ulak.providers.errors import ProviderError, RequestIsWrong
from ulak.providers.vairo import ADAPTER, SEND_STATUS, STATUS, VairoOptions, written

FIXTURES = Path(__file__).parents[1] / "fixtures" / "vairo"
SAMPLES = [path.read_bytes() for path in sorted(FIXTURES.glob("*.json"))]
ACCOUNT = Account(
    id="vairo-1",
    provider="vairo",
    base_url="http://127.0.0.1/Panel/api/v1",
    timezone=ZoneInfo("Europe/Istanbul"),
    credentials={"api_key": "k"},
    options=VairoOptions(),
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.sampled_from([*STATUS])
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))
NAMES = ["id", "sms_gonderim_id", "numara", "mesaj_boy", "durum_gonderim", "durum_iade", "created_at", "updated_at"]
SEND_NAMES = [
    "sms_baslik",
    "numara_toplam",
    "kredi_toplam",
    "sonlanma_zamani",
    "ileri_tarih",
    "gecerlilik_suresi",
    "paket_durum",
    "log",
]
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "id": st.just(3024),
    "sms_gonderim_id": st.just(187),
    "numara": st.just("5399999999"),
    "durum_gonderim": st.sampled_from([*STATUS, "delivered", "NEW"]),
    "paket_durum": st.sampled_from([0, 1, -1, "1"]),
}
ITEMS = st.fixed_dictionaries({}, optional={name: LIKELY.get(name, JSON) | JSON for name in [*NAMES, *SEND_NAMES]})
ENVELOPES = st.fixed_dictionaries({}, optional={"durum": st.booleans() | JSON, "aciklama": ITEMS | JSON})
STATUSES = st.sampled_from([200, 200, 200, 400, 401, 404, 429, 500, 302])


@st.composite
def torn(draw: st.DrawFn) -> bytes:
    """A recorded body with a piece replaced by other bytes."""
    body = draw(st.sampled_from(SAMPLES))
    start = draw(st.integers(0, len(body)))
    return body[:start] + draw(st.binary(max_size=6)) + body[start + draw(st.integers(0, 12)) :]


BODIES = st.binary(max_size=60) | torn() | ENVELOPES.map(lambda value: json.dumps(value).encode())


def fetch(kind: str) -> Fetch:
    """The call about one number, or about its send."""
    item = DueId(key=TrackedKey(id_kind=kind, value="187:5399999999" if kind == "number" else "187"))
    (spec,) = ADAPTER.plan_ids(ACCOUNT, [item], date(2026, 1, 1))
    return Fetch(spec=spec, ids={item.key: item})


def read(kind: str, status: int, body: bytes) -> Parsed:
    """What the adapter makes of it; nothing where it raises an error of the tree."""
    try:
        return ADAPTER.parse(ACCOUNT, fetch(kind), Answer(status=status, body=body))
    except ProviderError:
        return Parsed()


@settings(max_examples=400)
@given(BODIES, STATUSES)
def test_no_body_makes_a_wrong_final(body: bytes, status: int) -> None:
    """A final status stands only where a documented final word stood in a report about the number asked for."""
    parsed = read("number", status, body)
    for report in parsed.reports:
        expected = STATUS.get(report.statement["durum_gonderim"].strip(), (Status.UNKNOWN, None))
        assert (report.status, report.reason) == expected
        assert (report.parent_key, report.recipient) == ("187", "+905399999999")
        assert (report.status is Status.UNKNOWN) == any(not trouble.once for trouble in parsed.unreadable)
        json.dumps([report.statement, report.extra], allow_nan=False).encode()
        assert "\\u0000" not in json.dumps([report.statement, report.extra, report.provider_status])
    settled = [answer for answer in parsed.answers if answer.settled]
    assert bool(settled) == any(is_final(report.status) for report in parsed.reports)


@settings(max_examples=300)
@given(BODIES, STATUSES)
def test_no_body_about_a_send_says_anything_about_a_number(body: bytes, status: int) -> None:
    """Its only row is the send's order, final only with a documented state, and no number is answered."""
    parsed = read("send", status, body)
    assert {(report.granularity, report.provider_key) for report in parsed.reports} <= {(Granularity.ORDER, "187")}
    for report in parsed.reports:
        allowed = {SEND_STATUS.get(report.provider_status, (Status.UNKNOWN, None))[0]}
        assert report.status in allowed | ({Status.SCHEDULED} if Status.ENROUTE in allowed else set())
        json.dumps([report.statement, report.extra], allow_nan=False).encode()
    assert {answer.key.id_kind for answer in parsed.answers} <= {"send"}
    assert any(answer.settled for answer in parsed.answers) == any(is_final(one.status) for one in parsed.reports)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9)), max_size=40), st.sets(st.integers(1, 3)))
def test_every_due_id_is_asked_exactly_once(due: list[tuple[int, int]], sends: set[int]) -> None:
    """A plan leaves nobody out and asks for nobody twice, numbers and sends alike."""
    keys = {TrackedKey(id_kind="number", value=f"{send}:539999999{digit}") for send, digit in due}
    keys |= {TrackedKey(id_kind="send", value=str(send)) for send in sends}
    specs = ADAPTER.plan_ids(ACCOUNT, [DueId(key=key) for key in keys], date(2026, 1, 1))
    asked = [key for spec in specs for key in spec.ids]
    assert (len(asked), set(asked)) == (len(keys), keys)
    assert len({json.dumps(spec.params, sort_keys=True) for spec in specs}) == len(specs)


@given(st.integers(0, 10**15), st.sampled_from(["", " ", "0", "00", "\u200e"]), st.text(max_size=12))
def test_the_one_form_of_an_id_is_its_own_form(send: int, before: str, number: str) -> None:
    """Whatever is given is refused or has a form that stays as it is, and that the plan asks for."""
    try:
        form = ADAPTER.record.id_forms["number"](f"{before}{send}:{number}")
    except RequestIsWrong:
        return
    assert ADAPTER.record.id_forms["number"](form) == form
    (spec,) = ADAPTER.plan_ids(ACCOUNT, [DueId(key=TrackedKey(id_kind="number", value=form))], date(2026, 1, 1))
    assert spec.params["send"] == str(send)


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
