"""Vairo: every sample, every word, every refusal, and when the send as a whole is asked first."""

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from models.report import DeliveryReport, IdAnswer, TrackedKey, Unreadable
from models.vocabulary import Granularity, Reason, Status
from providers.adapter import Account, Answer, DueId, Fetch, FetchSpec, Parsed
from providers.errors import AnswerNotUnderstood, PauseAccount, ProviderError, RequestIsWrong, SlowDown, TryAgainSoon
from providers.vairo import ADAPTER, STATUS

FIXTURES = Path(__file__).parents[1] / "fixtures" / "vairo"
TODAY, NOW = date(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC)
KEY = TrackedKey(id_kind="number", value="187:5399999999")
UNDERSTOOD_NOTHING = Parsed(answers=(IdAnswer(key=KEY, found=False),))


def account(form: str = "national", base_url: str = "https://vairosms.com/Panel/api/v1") -> Account:
    """An account with a key that needs quoting in a URL."""
    return Account(
        id="vairo-1",
        provider="vairo",
        base_url=base_url,
        timezone=ZoneInfo("Europe/Istanbul"),
        credentials={"api_key": "k&y"},
        options={"number_form": form},
    )


def due(value: str, *, gate_open: bool = False) -> DueId:
    """One due number."""
    return DueId(key=TrackedKey(id_kind="number", value=value), gate_open=gate_open)


def fetch_of(*values: str, gate_open: bool = False) -> Fetch:
    """The first fetch planned for these ids."""
    items = [due(value, gate_open=gate_open) for value in values]
    return Fetch(spec=ADAPTER.plan_ids(account(), items, TODAY)[0], ids={item.key: item for item in items})


def sample(name: str) -> bytes:
    """A recorded body, byte for byte."""
    return (FIXTURES / name).read_bytes()


def changed(**fields: Any) -> bytes:
    """The documented report with some fields changed (None: left out)."""
    envelope = json.loads(sample("report.json"))
    envelope["aciklama"] = {k: v for k, v in (envelope["aciklama"] | fields).items() if v is not None}
    return json.dumps(envelope).encode()


def parse(body: bytes, status: int = 200, *, headers: dict[str, str] | None = None) -> Parsed:
    """What the adapter reads for the one number of the sample."""
    return ADAPTER.parse(account(), fetch_of(KEY.value), Answer(status=status, headers=headers or {}, body=body))


def test_the_documented_report_becomes_exactly_this_row() -> None:
    """The vendor's own sample, byte for byte: keys, times in UTC, no message text."""
    report = DeliveryReport(
        granularity=Granularity.MESSAGE,
        provider_key="3024",
        parent_key="187",
        recipient="+905399999999",
        status=Status.DELIVERED,
        provider_status="DELIVERED",
        segments=1,
        sent_at=datetime(2016, 8, 1, 11, 30, 14, tzinfo=UTC),
        done_at=datetime(2016, 8, 1, 11, 30, 24, tzinfo=UTC),
        extra={"durum_iade": 0},
        statement={
            "id": 3024,
            "sms_gonderim_id": 187,
            "numara": "5399999999",
            "mesaj_boy": 1,
            "durum_gonderim": "DELIVERED",
            "durum_iade": 0,
            "created_at": "2016-08-01 14:30:14",
            "updated_at": "2016-08-01 14:30:24",
        },
        tracked=KEY,
    )
    assert parse(sample("report.json")) == Parsed(
        reports=(report,), answers=(IdAnswer(key=KEY, found=True, settled=True),)
    )


@pytest.mark.parametrize(
    ("word", "status", "reason", "final"),
    [
        ("DEFAULT", Status.SCHEDULED, None, False),
        ("SENDING", Status.ENROUTE, None, False),
        ("WAITING", Status.ENROUTE, None, False),
        ("DELIVERED", Status.DELIVERED, None, True),
        ("SENT", Status.SENT, None, True),
        ("NOT_DELIVERED", Status.UNDELIVERABLE, Reason.ABSENT, True),
        ("EXPIRED", Status.EXPIRED, Reason.EXPIRED, True),
        ("INVALID_DESTINATION_ADDRESS", Status.UNDELIVERABLE, Reason.INVALID_NUMBER, True),
        ("REJECTED", Status.REJECTED, Reason.CONTENT, True),
        ("SEND_ERROR", Status.UNDELIVERABLE, Reason.OTHER, True),
        ("BLACKLISTED_DESTINATION_ADDRESS", Status.REJECTED, Reason.BLACKLISTED, True),
    ],
)
def test_every_documented_word_has_its_row(word: str, status: Status, reason: Reason | None, final: bool) -> None:
    """The eleven words; only final ones settle the number and have an end time."""
    parsed = parse(changed(durum_gonderim=word))
    report = parsed.reports[0]
    assert (report.status, report.reason, report.provider_status) == (status, reason, word)
    assert (report.done_at is not None, parsed.answers[0].settled, parsed.unreadable) == (final, final, ())
    assert word in STATUS
    assert len(STATUS) == 11


@pytest.mark.parametrize(
    "word",
    [
        "DOUBLE_SEND_ERROR",
        "NOT_ALLOWED_BY_IYS",
        "MISSING_TARIFF",
        "ROUTE_NOT_AVAILABLE",
        "NETWORK_NOTCOVERED",
        "INTERNATIONAL_DENIED",
        "delivered",
        "DELİVERED",
    ],
)
def test_an_unknown_word_is_kept_raw_and_never_final(word: str) -> None:
    """Words that Vairo does not document, and documented ones in another spelling, are unknown and alarmed."""
    parsed = parse(changed(durum_gonderim=word))
    assert (parsed.reports[0].status, parsed.reports[0].provider_status) == (Status.UNKNOWN, word)
    assert parsed.answers == (IdAnswer(key=KEY, found=True, settled=False),)
    assert [trouble.provider_key for trouble in parsed.unreadable] == ["3024"]


def test_a_field_that_is_not_documented_is_not_kept() -> None:
    """It may hold the text or a name, whatever it is called."""
    assert parse(changed(mesaj_metni="Merhaba", ad_soyad="Ada")).reports == parse(sample("report.json")).reports


@pytest.mark.parametrize(
    "fields",
    [{"created_at": "0000-00-00 00:00:00", "updated_at": "0000-00-00 00:00:00"}, {"created_at": 5, "updated_at": "x"}],
)
def test_a_zero_date_is_no_time(fields: dict[str, Any]) -> None:
    """MySQL's zero date and nonsense become no time; the raw value stays in the statement."""
    report = parse(changed(**fields)).reports[0]
    assert (report.sent_at, report.done_at, report.statement["created_at"]) == (None, None, fields["created_at"])


@pytest.mark.parametrize("fields", [{"numara": "5399999998"}, {"sms_gonderim_id": 188}, {"numara": None}])
def test_an_answer_about_something_else_settles_nothing(fields: dict[str, Any]) -> None:
    """A report that names another send or number is not this id's answer: no row, no word about the id."""
    parsed = parse(changed(**fields))
    assert (parsed.reports, parsed.answers, len(parsed.unreadable)) == ((), (), 1)


@pytest.mark.parametrize("fields", [{"id": None}, {"id": True}, {"durum_gonderim": None}, {"durum_gonderim": {}}])
def test_a_report_without_key_or_word_is_only_unreadable(fields: dict[str, Any]) -> None:
    """Without `id` or `durum_gonderim` there is nothing to store but the bytes."""
    parsed = parse(changed(**fields))
    assert (parsed.reports, parsed.answers, len(parsed.unreadable)) == ((), (), 1)


@pytest.mark.parametrize("numara", [5399999999, "905399999999", "+905399999999", "05399999999"])
def test_the_number_may_come_back_in_any_form(numara: object) -> None:
    """The same number in another spelling is the same number."""
    assert parse(changed(numara=numara)).reports[0].recipient == "+905399999999"


@pytest.mark.parametrize("status", [200, 400, 404])
@pytest.mark.parametrize(
    "body", [sample("unknown_send.json"), b'{"durum": 0, "aciklama": ""}', b'{"durum": "0", "aciklama": null}']
)
def test_a_send_or_number_that_vairo_does_not_know_stays_open(status: int, body: bytes) -> None:
    """`durum: false` with free text says that nothing was found, in any HTTP status."""
    assert parse(body, status) == UNDERSTOOD_NOTHING


@pytest.mark.parametrize("nothing", ["null", "[]", "{}"])
def test_an_empty_explanation_is_no_row(nothing: str) -> None:
    """`durum: true` around nothing is nothing."""
    assert parse(f'{{"durum": true, "aciklama": {nothing}}}'.encode()) == UNDERSTOOD_NOTHING


@pytest.mark.parametrize(
    ("status", "body", "error", "code"),
    [
        (401, sample("api_key_refused.json"), PauseAccount, "401"),
        (200, sample("api_key_refused.json"), PauseAccount, "200"),
        (401, b"", PauseAccount, "401"),
        (403, b"<html>", PauseAccount, "403"),
        (403, b'{"durum":false,"aciklama":"Yetkiniz yok."}', PauseAccount, "403"),
        (401, b"{}", PauseAccount, "401"),
        (400, sample("refused_word.json"), RequestIsWrong, "INVALID_DESTINATION_ADDRESS"),
        (200, b'{"durum":false,"aciklama":"MISSING_DESTINATION_ADDRESS"}', RequestIsWrong, None),
        (400, b'{"durum":false,"aciklama":"INVALID_SOURCE_ADDRESS"}', RequestIsWrong, None),
        (400, b'{"durum":false,"aciklama":"MISSING_MESSAGE"}', RequestIsWrong, None),
        (400, b'{"durum":false,"aciklama":"MESSAGE_TOO_LONG"}', RequestIsWrong, None),
        (404, b"<html>", RequestIsWrong, "404"),
        (429, sample("unknown_send.json"), SlowDown, "429"),
        (500, sample("unknown_send.json"), TryAgainSoon, "500"),
        (502, b"<html>", TryAgainSoon, "502"),
        (302, b"", TryAgainSoon, "302"),
        (200, b"<html>", AnswerNotUnderstood, None),
        (200, b"", AnswerNotUnderstood, None),
        (200, b"[]", AnswerNotUnderstood, None),
        (200, b'{"durum": "maybe"}', AnswerNotUnderstood, None),
        (200, sample("send_reply.json"), AnswerNotUnderstood, None),
    ],
)
def test_refusals_say_what_to_do_next(status: int, body: bytes, error: type[ProviderError], code: str | None) -> None:
    """A wrong key pauses, a documented word is our fault, everything else passes or is not understood."""
    with pytest.raises(error) as caught:
        parse(body, status)
    assert code is None or caught.value.code == code
    assert "5399999999" not in caught.value.message


def test_the_waiting_time_of_a_429_is_handed_on() -> None:
    """`Retry-After` reaches the account."""
    with pytest.raises(SlowDown) as caught:
        parse(b"", 429, headers={"retry-after": "7"})
    assert caught.value.retry_after_seconds == 7.0


@pytest.mark.parametrize(
    ("form", "number"),
    [("national", "5399999999"), ("international", "905399999999"), ("plus", "+905399999999")],
)
def test_the_request_is_byte_for_byte_the_documented_one(form: str, number: str) -> None:
    """Method, address with the key quoted, headers and body; a slash at the end of the root is tolerated."""
    for root in ("https://vairosms.com/Panel/api/v1", "https://vairosms.com/Panel/api/v1/"):
        request = ADAPTER.request(account(form, root), fetch_of(KEY.value), NOW)
        assert request.method == "POST"
        assert request.url == "https://vairosms.com/Panel/api/v1/NumaraRaporu/187?api_key=k%26y"
        assert request.headers == {"accept": "application/json", "content-type": "application/json"}
        assert request.body == sample("request.json").replace(b"5399999999", number.encode())
        assert request.endpoint == "NumaraRaporu"
        assert "k&y" not in repr(request)
        assert "k%26y" not in repr(request)


def test_a_number_abroad_is_asked_with_its_country_code() -> None:
    """A foreign number is never cut or made Turkish, and its answer is recognised."""
    fetch = fetch_of("187:+61491570156")
    assert json.loads(ADAPTER.request(account(), fetch, NOW).body) == {"numara": "61491570156"}
    parsed = ADAPTER.parse(account(), fetch, Answer(status=200, body=changed(numara="61491570156")))
    assert [report.recipient for report in parsed.reports] == ["+61491570156"]


def test_a_number_abroad_is_the_same_with_and_without_its_plus() -> None:
    """Bare digits that are not Turkish are full international ones: one call, and E.164 in the row."""
    fetch = fetch_of("187:61491570156", "187:+61491570156")
    parsed = ADAPTER.parse(account(), fetch, Answer(status=200, body=changed(numara="61491570156")))
    assert [report.recipient for report in parsed.reports] == ["+61491570156"]
    assert [answer.key.value for answer in parsed.answers] == ["187:61491570156", "187:+61491570156"]


@pytest.mark.parametrize("value", ["5399999999", ":5399999999", "187:", "../x:5399999999", ""])
def test_an_id_of_another_form_is_a_wrong_request_and_never_sent(value: str) -> None:
    """Nothing but `<send id>:<number>` gets into an address."""
    with pytest.raises(RequestIsWrong):
        ADAPTER.request(account(), fetch_of(value), NOW)


def test_two_spellings_of_one_number_are_one_call() -> None:
    """Equal subjects mean one call, whose answer holds for both ids."""
    fetch = fetch_of("187:5399999999", "187:+90 539 999 99 99")
    parsed = ADAPTER.parse(account(), fetch, Answer(status=200, body=sample("report.json")))
    assert len(parsed.reports) == 1
    assert [answer.settled for answer in parsed.answers] == [True, True]


def test_a_big_send_is_asked_as_a_whole_first() -> None:
    """More than five due numbers of one send are one call; five, or those behind an open gate, are asked one by one."""
    many = [due(f"187:539999999{digit}") for digit in range(6)]
    few = [due(f"188:539999999{digit}") for digit in range(5)]
    twice = due("188:+905399999990")  # a number of `few` in another spelling: still five
    opened = [due(f"189:539999999{digit}", gate_open=True) for digit in range(6)]
    specs = ADAPTER.plan_ids(account(), [*few, twice, *many, *opened], TODAY)
    gate = FetchSpec(
        kind="batch",
        params={"call": "GonderimBilgisi", "send": "187"},
        ids=tuple(item.key for item in many),
        label="send 187, 6 numbers",
    )
    assert [spec for spec in specs if spec.params["call"] == "GonderimBilgisi"] == [gate]
    singles = [(item.key,) for item in [*few[1:], *opened]]
    assert [spec.ids for spec in specs if spec != gate] == [(few[0].key, twice.key), *singles]
    request = ADAPTER.request(account(), Fetch(spec=gate), NOW)
    assert (request.method, request.body, request.endpoint) == ("GET", b"", "GonderimBilgisi")
    assert request.url == "https://vairosms.com/Panel/api/v1/GonderimBilgisi/187?api_key=k%26y"


def gate_answer(body: bytes, status: int = 200) -> Parsed:
    """What the gate of six numbers reads."""
    fetch = fetch_of(*(f"187:539999999{digit}" for digit in range(6)))
    assert fetch.spec.params["call"] == "GonderimBilgisi"
    return ADAPTER.parse(account(), fetch, Answer(status=status, body=body))


@pytest.mark.parametrize(
    ("state", "postpone", "make_due", "strange"),
    [(0, True, False, 0), ("0", True, False, 0), (1, False, True, 0), (-1, False, True, 0), (2, False, True, 1)],
)
def test_the_gate_postpones_or_opens_and_never_closes(
    state: object, postpone: bool, make_due: bool, strange: int
) -> None:
    """Running: one step later. Ended, failed or unknown: each number is asked itself. No status comes from the gate."""
    body = sample("send_info.json").replace(b'"paket_durum": 1', f'"paket_durum": {json.dumps(state)}'.encode())
    parsed = gate_answer(body)
    assert {(answer.postpone, answer.make_due, answer.settled) for answer in parsed.answers} == {
        (postpone, make_due, False)
    }
    assert (len(parsed.answers), parsed.reports, len(parsed.unreadable)) == (6, (), strange)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (sample("unknown_send.json"), 400),
        (b"<html>", 404),
        (b"<html>", 405),
        (b'{"durum": true, "aciklama": null}', 200),
        (sample("send_info.json").replace(b'"id": 187', b'"id": 188'), 200),
    ],
)
def test_a_gate_that_cannot_tell_lets_the_numbers_through(body: bytes, status: int) -> None:
    """The gate only saves calls; where it has no word for us the numbers are asked all the same."""
    assert {answer.make_due for answer in gate_answer(body, status).answers} == {True}


def test_the_gate_knows_a_wrong_key_and_a_broken_body_too() -> None:
    """Trouble of the account is the account's at the gate as well."""
    for body, status, error in (
        (sample("api_key_refused.json"), 401, PauseAccount),
        (b"", 429, SlowDown),
        (b"", 503, TryAgainSoon),
        (b"<html>", 200, AnswerNotUnderstood),
        (b'{"durum": true, "aciklama": 5}', 200, AnswerNotUnderstood),
    ):
        with pytest.raises(error):
            gate_answer(body, status)


def test_vairo_has_no_list_and_pushes_nothing() -> None:
    """No windows are planned."""
    assert ADAPTER.plan_window(account(), TODAY, TODAY) == ()


def test_quarantined_bytes_hold_the_item() -> None:
    """What could not be understood is kept whole, sealed by whoever stores it."""
    trouble = parse(changed(durum_gonderim="NEW")).unreadable[0]
    assert isinstance(trouble, Unreadable)
    assert json.loads(trouble.raw)["durum_gonderim"] == "NEW"
