"""BiP: whatever is pushed, no wrong final, no foreign exception, and nobody gets in without the password."""

import base64
import json
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from ulak.models.vocabulary import Granularity, Status
from ulak.providers.adapter import Account, Callback, Parsed
from ulak.providers.bip import ADAPTER, RECORD
from ulak.providers.decoding import as_int
from ulak.providers.errors import ProviderError

FIXTURES = Path(__file__).parents[1] / "fixtures" / "bip"
SAMPLES = [path.read_bytes() for path in sorted(FIXTURES.iterdir())]
ACCOUNT = Account(
    id="bip-1",
    provider="bip",
    base_url="http://127.0.0.1",
    timezone=ZoneInfo("Europe/Istanbul"),
    credentials={"callback_user": "ulak", "callback_password": "şifre"},
    options=RECORD.options(),
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))
LIKELY_ITEM: dict[str, st.SearchStrategy[Any]] = {
    "receiver": st.sampled_from(["905399999999", "hash="]),
    "resultcode": st.sampled_from([0, "0", 312, "301"]),
    "reportid": st.sampled_from(["r-1", "r-2"]),
    "numberofmessage": st.just(1),
}
ITEMS = st.fixed_dictionaries({}, optional={name: likely | JSON for name, likely in LIKELY_ITEM.items()})
LIKELY_BODY: dict[str, st.SearchStrategy[Any]] = {
    "type": st.sampled_from(["R", "M", "E"]),
    "sender": st.just("905399999999"),
    "sendtime": st.sampled_from(["18.05.2018 16:11:58.633 +0300", "31.02.2018 16:11:58.633 +0300"]),
    "report": st.fixed_dictionaries({"reportid": st.just("r-1") | JSON, "reporttype": st.integers(0, 2) | JSON}),
    "txnid": st.just("t-1"),
    "resultcode": st.sampled_from([0, 1]),
    "list": st.lists(st.fixed_dictionaries(LIKELY_ITEM) | ITEMS | JSON, max_size=4),
}
DOCUMENTS = st.fixed_dictionaries({}, optional={name: likely | JSON for name, likely in LIKELY_BODY.items()})


@st.composite
def torn(draw: st.DrawFn) -> bytes:
    """A recorded body with a piece replaced by other bytes."""
    body = draw(st.sampled_from(SAMPLES))
    start = draw(st.integers(0, len(body)))
    return body[:start] + draw(st.binary(max_size=6)) + body[start + draw(st.integers(0, 12)) :]


BODIES = st.binary(max_size=60) | torn() | DOCUMENTS.map(lambda value: json.dumps(value).encode())


def read(tail: str, body: bytes) -> Parsed:
    """What the adapter makes of it; nothing where it raises an error of the tree."""
    try:
        return ADAPTER.parse_callback(ACCOUNT, Callback(tail=tail, body=body))
    except ProviderError:
        return Parsed()


@settings(max_examples=400)
@given(BODIES)
def test_no_notice_makes_a_wrong_final(body: bytes) -> None:
    """Delivered and read stand only where the notice's own `reporttype` was 0 or 1."""
    meanings = {0: Status.DELIVERED, 1: Status.READ}
    for report in read("", body).reports:
        given_type = as_int(report.statement["report"]["reporttype"])
        assert report.status is (meanings.get(given_type, Status.UNKNOWN) if given_type is not None else Status.UNKNOWN)
        assert report.granularity is Granularity.MESSAGE
        assert (report.parent_key, report.client_ref) == (None, None)
        assert "\\u0000" not in json.dumps([report.statement, report.extra, report.recipient], allow_nan=False)


@settings(max_examples=400)
@given(BODIES, st.sampled_from(["report", "send_reply"]))
def test_no_report_makes_a_wrong_final(body: bytes, tail: str) -> None:
    """Only a result code other than 0 refuses, success is never more than `enroute`, and keys are never shared."""
    reports = read(tail, body).reports
    for report in reports:
        code = as_int(report.statement["resultcode"])
        assert report.status is (Status.ENROUTE if code == 0 else Status.REJECTED)
        assert report.as_of is None
        assert "\\u0000" not in json.dumps([report.statement, report.extra, report.recipient], allow_nan=False)
    failed = [report.provider_key for report in reports if report.status is Status.REJECTED]
    assert len(failed) == len(set(failed))


@given(st.text(max_size=20), st.text(max_size=20), st.binary(max_size=20), st.none() | st.text(max_size=12))
def test_nobody_gets_in_without_the_password(user: str, password: str, noise: bytes, ip: str | None) -> None:
    """Only the exact pair opens the door, and no header breaks it."""
    pair = f"{user}:{password}".encode("utf-8", "surrogatepass")
    for header in (
        "Basic " + base64.b64encode(pair).decode(),
        "Basic " + base64.b64encode(noise).decode(),
        noise.decode("latin-1"),
        "Basic " + user,
    ):
        callback = Callback(tail="", body=b"", headers={"authorization": header}, client_ip=ip)
        assert not ADAPTER.authorise_callback(ACCOUNT, callback) or (user, password) == ("ulak", "şifre")
