"""A body is read in the charset that it declares, whoever sends it and whatever it says."""

import codecs
import json
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ulak.models.report import TrackedKey
from ulak.providers import bip, diyalog, iletimerkezi, organik, vairo
from ulak.providers.adapter import Account, Adapter, Answer, Callback, DueId, Fetch, FetchSpec, Parsed
from ulak.providers.decoding import in_utf8
from ulak.providers.errors import (
    AnswerNotUnderstood,
    PauseAccount,
    ProviderError,
    RequestIsWrong,
    SlowDown,
    TryAgainSoon,
)

WORD = "İĞÜŞ-ışğ"
"""Letters that ISO-8859-1 does not have."""
JSON_TEXT = json.dumps({"a": WORD}, ensure_ascii=False)


def answer(body: bytes, content_type: str = "application/json", status: int = 200) -> Answer:
    """An answer with this body."""
    return Answer(status=status, body=body, headers={"content-type": content_type})


def account(adapter: Adapter, **options: Any) -> Account:
    """An account of the provider."""
    record = adapter.record
    return Account(
        id="hesap",
        provider=record.name,
        base_url=record.base_url or "https://dlg.example",
        timezone=ZoneInfo("Europe/Istanbul"),
        credentials={name: "x" * 32 for names in record.credentials for name in names},
        options=record.options.from_stored(options),
    )


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (JSON_TEXT.encode(), "application/json"),
        (JSON_TEXT.encode(), "application/json; charset=utf-8"),
        (JSON_TEXT.encode("utf-8-sig"), "application/json"),
        (JSON_TEXT.encode("iso-8859-9"), "application/json; charset=ISO-8859-9"),
        (JSON_TEXT.encode("iso-8859-9"), 'application/json;charset="latin5"'),
        (JSON_TEXT.encode("windows-1254"), "application/json; Charset = windows-1254 ; x=y"),
        (JSON_TEXT.encode("utf-16"), "application/json"),
        (JSON_TEXT.encode("utf-16"), "application/json; charset=utf-16"),
        (codecs.BOM_UTF16_BE + JSON_TEXT.encode("utf-16-be"), "application/json; charset=UTF-16"),
        (JSON_TEXT.encode("utf-16-le"), "application/json; charset=utf-16"),
        (JSON_TEXT.encode("utf-16-be"), "application/json"),
        (JSON_TEXT.encode("utf-32"), "application/json"),
    ],
)
def test_the_declared_charset_counts(body: bytes, content_type: str) -> None:
    """By Content-Type, by a byte order mark, or by the zeros of wide characters."""
    read = in_utf8(answer(body, content_type))
    assert json.loads(read.body) == {"a": WORD}
    assert "harset" not in read.headers["content-type"]
    assert in_utf8(read) == read


@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-9", "windows-1254", "utf-16"])
def test_an_xml_declaration_counts(charset: str) -> None:
    """What is left does not declare the charset any more, so it can be kept and read again."""
    body = f'<?xml version="1.0" encoding="{charset}" standalone="yes"?><a>{WORD}</a>'.encode(charset)
    read = in_utf8(answer(body, "application/xml"))
    assert read.body.decode() == f'<?xml version="1.0" standalone="yes"?><a>{WORD}</a>'
    assert in_utf8(Answer(status=200, body=read.body)).body == read.body


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"a": 1}', "application/json; charset=iso-8859-9"),
        (b'{"a": 1}', "application/json; charset=utf8mb4"),
        (b'<?xml version="1.0" encoding="iso-8859-9"?><a/>', "application/xml; charset=utf-8"),
        (b'<?xml version="1.0" encoding="x-any"?><a/>', "application/xml"),
    ],
)
def test_what_is_the_same_in_all_declared_charsets_is_read(body: bytes, content_type: str) -> None:
    """Plain ASCII is, whatever the names say."""
    assert in_utf8(answer(body, content_type)).body.isascii()


@pytest.mark.parametrize(
    ("body", "content_type", "reason"),
    [
        (JSON_TEXT.encode("iso-8859-9"), "application/json", "The body is not UTF-8 and declares no other charset."),
        (
            JSON_TEXT.encode("iso-8859-9"),
            "application/json; charset=utf-8",
            "Content-Type declares UTF-8, which the body is not.",
        ),
        (
            JSON_TEXT.encode(),
            "application/json; charset=klingon",
            "Content-Type declares a charset that is not known.",
        ),
        # Python's codecs know more than charsets.
        (JSON_TEXT.encode(), "x; charset=unicode_escape", "Content-Type declares a charset that is not known."),
        (JSON_TEXT.encode(), "x; charset=zlib", "Content-Type declares a charset that is not known."),
        (JSON_TEXT.encode(), "x; charset=utf-7", "Content-Type declares a charset that is not known."),
        (b'{"a": 1}', "application/json; charset=utf-16", "Content-Type declares UTF-16, which the body is not."),
        (
            f'<?xml version="1.0" encoding="utf-16"?><a>{WORD}</a>'.encode(),
            "application/xml",
            "The XML declaration declares UTF-16, which the body is not.",
        ),
        (
            f'<?xml version="1.0" encoding="iso-8859-9"?><a>{WORD}</a>'.encode("iso-8859-9"),
            "application/xml; charset=windows-1251",
            "The body's declarations of its charset contradict each other: CP1251 and ISO8859-9.",
        ),
        (
            JSON_TEXT.encode("utf-8-sig"),
            "application/json; charset=iso-8859-9",
            "The body's declarations of its charset contradict each other: ISO8859-9 and UTF-8.",
        ),
        (
            JSON_TEXT.encode("utf-16")[:-1],
            "application/json",
            "The first bytes show UTF-16-LE, which the body is not.",
        ),
    ],
)
def test_a_declaration_that_cannot_be_right_is_the_reason(body: bytes, content_type: str, reason: str) -> None:
    """The bytes are kept as they came."""
    with pytest.raises(AnswerNotUnderstood) as caught:
        in_utf8(answer(body, content_type))
    assert (caught.value.message, caught.value.raw) == (reason, body)


@pytest.mark.parametrize(
    ("status", "error"), [(503, TryAgainSoon), (401, PauseAccount), (404, RequestIsWrong), (429, SlowDown)]
)
def test_a_status_that_says_enough_needs_no_readable_body(status: int, error: type[ProviderError]) -> None:
    """A proxy's page in whatever charset is still the page of an outage."""
    with pytest.raises(error):
        in_utf8(answer(b"<html>\xfe\xfe", "text/html; charset=utf-8", status))


@given(st.binary(max_size=60), st.text(max_size=12), st.sampled_from([b"", b'<?xml version="1.0" encoding="%s"?>']))
def test_any_body_under_any_declaration_is_read_or_refused(body: bytes, name: str, head: bytes) -> None:
    """And what is read is UTF-8, and stays what it is when it is read again."""
    whole = head.replace(b"%s", name.encode("utf-8", "replace")) + body
    try:
        read = in_utf8(answer(whole, f"x/y; charset={name}"))
    except AnswerNotUnderstood:
        return
    read.body.decode()
    assert in_utf8(read).body == read.body


def organik_fetch() -> Fetch:
    """Asks for one transaction."""
    due = DueId(key=TrackedKey(id_kind="transaction", value="880"))
    (spec,) = organik.ADAPTER.plan_ids(account(organik.ADAPTER), [due], None)  # type: ignore[arg-type]
    return Fetch(spec=spec, ids={due.key: due})


@pytest.mark.parametrize("charset", ["ISO-8859-9", "windows-1254", "UTF-16"])
def test_organik_xml_in_a_turkish_charset_is_read(charset: str) -> None:
    """A Turkish letter in the sender's own id."""
    fields = {"gsm_track_id": 1, "transaction_id": 880, "status": 2, "delivery_track_id": WORD}
    item = f"<item>{''.join(f'<{name}>{value}</{name}>' for name, value in fields.items())}</item>"
    body = f'<?xml version="1.0" encoding="{charset}" ?>\n{item}'.encode(charset)
    (report,) = organik.ADAPTER.parse(
        account(organik.ADAPTER), organik_fetch(), answer(body, "application/xml")
    ).reports
    assert report.client_ref == WORD


@pytest.mark.parametrize("charset", ["ISO-8859-9", "windows-1254", "UTF-16"])
@pytest.mark.parametrize("form", ["json", "xml"])
def test_an_organik_error_in_a_turkish_charset_pauses_the_account(charset: str, form: str) -> None:
    """Error 99 is understood, and its message is kept."""
    said = "Yetkilendirme hatası: geçersiz anahtar"
    if form == "json":
        text = json.dumps(
            {"response": {"result": False, "error": {"number": "99", "message": said}}}, ensure_ascii=False
        )
        told = answer(text.encode(charset), f"application/json; charset={charset}")
    else:
        error = f"<error><number>99</number><message>{said}</message></error>"
        text = f'<?xml version="1.0" encoding="{charset}"?><response><result>0</result>{error}</response>'
        told = answer(text.encode(charset), "application/xml")
    with pytest.raises(PauseAccount):
        organik.ADAPTER.parse(account(organik.ADAPTER), organik_fetch(), told)
    assert organik.ADAPTER.error_text(told) == said


def spec_of(adapter: Adapter, kind: str, value: str) -> Fetch:
    """A fetch for one id."""
    (spec,) = adapter.plan_ids(account(adapter), [DueId(key=TrackedKey(id_kind=kind, value=value))], None)  # type: ignore[arg-type]
    return Fetch(spec=spec)


def test_vairo_and_iletimerkezi_answers_in_a_turkish_charset_are_read() -> None:
    """Refusals too: the key that Vairo quotes pauses the account."""
    text = json.dumps({"durum": False, "aciklama": "Gönderilen api_key bilgisi hatalı"}, ensure_ascii=False)
    told = answer(text.encode("iso-8859-9"), "application/json; charset=iso-8859-9")
    with pytest.raises(PauseAccount):
        vairo.ADAPTER.parse(account(vairo.ADAPTER), spec_of(vairo.ADAPTER, "number", "7:905321234567"), told)
    assert vairo.ADAPTER.error_text(told) == "Gönderilen api_key bilgisi hatalı"
    text = json.dumps({"response": {"status": {"code": 401, "message": "Üyelik bilgileri hatalı"}}}, ensure_ascii=False)
    told = answer(text.encode("windows-1254"), "application/json; charset=windows-1254", 401)
    page = Fetch(spec=FetchSpec(kind="page", params={"window": ["2026-01-01", "2026-01-02"], "page": 1}))
    with pytest.raises(PauseAccount):
        iletimerkezi.ADAPTER.parse(account(iletimerkezi.ADAPTER), page, told)
    assert iletimerkezi.ADAPTER.error_text(told) == "Üyelik bilgileri hatalı"


def test_diyalog_answers_in_utf16_are_read() -> None:
    """The list of conversations."""
    row = {"senderId": "113377", "receiverId": "1", "messagingDate": 1617667200000, "sendMessageCount": 5}
    told = answer(json.dumps([row]).encode("utf-16"))
    fetch = Fetch(spec=FetchSpec(kind="batch", params={"customer": "113377", "page": 1, "again": 0, "tally": 0}))
    assert len(diyalog.ADAPTER.parse(account(diyalog.ADAPTER), fetch, told).reports) == 1


def test_a_push_in_a_turkish_charset_is_read() -> None:
    """BiP's send report, as an example of callbacks."""
    body = {"txnid": WORD, "resultcode": 0, "list": [{"resultcode": 0, "receiver": "905399999999", "reportid": "r"}]}
    raw = json.dumps(body, ensure_ascii=False).encode("iso-8859-9")
    pushed = Callback(tail="report", body=raw, headers={"content-type": "application/json; charset=ISO-8859-9"})
    parsed: Parsed = bip.ADAPTER.parse_callback(account(bip.ADAPTER), pushed)
    assert [report.parent_key for report in parsed.reports] == [WORD]
