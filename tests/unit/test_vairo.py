"""Vairo: every sample, every word, every refusal, and what is said of a whole send."""

import dataclasses
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from ulak.models.report import DeliveryReport, IdAnswer, KeptStatement, TrackedKey, Unreadable
from ulak.models.vocabulary import Granularity, Reason, Status
from ulak.providers.adapter import Account, Answer, DueId, Fetch, Parsed
from ulak.providers.errors import (
    AnswerNotUnderstood,
    PauseAccount,
    ProviderError,
    RequestIsWrong,
    SlowDown,
    TryAgainSoon,
)
from ulak.providers.vairo import ADAPTER, RECORD, STATUS

FIXTURES = Path(__file__).parents[1] / "fixtures" / "vairo"
TODAY, NOW = date(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC)
KEY = TrackedKey(id_kind="number", value="187:5399999999")
UNDERSTOOD_NOTHING = Parsed(answers=(IdAnswer(key=KEY, found=False),))
ASKED_AGAIN = (IdAnswer(key=KEY, found=False, is_incomplete=True),)
"""What an answer that cannot be read says of the id."""


def account(form: str = "national", base_url: str = "https://vairosms.com/Panel/api/v1") -> Account:
    """An account with a key that needs quoting in a URL."""
    return Account(
        id="vairo-1",
        provider="vairo",
        base_url=base_url,
        timezone=ZoneInfo("Europe/Istanbul"),
        credentials={"api_key": "k&y"},
        options=RECORD.options.from_stored({"number_form": form}),
    )


def due(value: str, kind: str = "number") -> DueId:
    """One due number, or one due send."""
    return DueId(key=TrackedKey(id_kind=kind, value=value))


def fetch_of(*values: str, kind: str = "number") -> Fetch:
    """The first fetch planned for these ids."""
    items = [due(value, kind) for value in values]
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
    """A report that names another send or number is not this id's response, and the id is polled again soon."""
    parsed = parse(changed(**fields))
    assert (parsed.reports, parsed.answers, len(parsed.unreadable)) == ((), ASKED_AGAIN, 1)


@pytest.mark.parametrize("fields", [{"id": None}, {"id": True}, {"durum_gonderim": None}, {"durum_gonderim": {}}])
def test_a_report_without_key_or_word_is_only_unreadable(fields: dict[str, Any]) -> None:
    """Without `id` or `durum_gonderim` there is nothing to store but the bytes."""
    parsed = parse(changed(**fields))
    assert (parsed.reports, parsed.answers, len(parsed.unreadable)) == ((), ASKED_AGAIN, 1)


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


@pytest.mark.parametrize("nothing", ["null", "[]", "{}", '""'])
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


def test_every_number_is_polled_itself_however_many_its_send_has() -> None:
    """A running send says nothing about its numbers, so no number of due ones is asked about as a whole."""
    many = [due(f"187:53999999{digit:02}") for digit in range(40)]
    specs = ADAPTER.plan_ids(account(), [*many, due("187", "send")], TODAY)
    assert [spec.ids for spec in specs] == [(item.key,) for item in [*many, due("187", "send")]]
    assert {spec.params["call"] for spec in specs[:-1]} == {"NumaraRaporu"}
    assert specs[-1].params == {"call": "GonderimBilgisi", "send": "187"}
    request = ADAPTER.request(account(), Fetch(spec=specs[-1]), NOW)
    assert (request.method, request.body, request.endpoint) == ("GET", b"", "GonderimBilgisi")
    assert request.url == "https://vairosms.com/Panel/api/v1/GonderimBilgisi/187?api_key=k%26y"


SEND = TrackedKey(id_kind="send", value="187")
SEND_UNKNOWN = Parsed(answers=(IdAnswer(key=SEND, found=False),))


def send_info(*without: str, **fields: Any) -> bytes:
    """The documented answer about a send with some fields changed."""
    envelope = json.loads(sample("send_info.json"))
    envelope["aciklama"] |= fields
    return json.dumps(
        {**envelope, "aciklama": {k: v for k, v in envelope["aciklama"].items() if k not in without}}
    ).encode()


def parse_send(body: bytes, status: int = 200) -> Parsed:
    """What the adapter reads for the send of the sample."""
    answer = Answer(status=status, body=body, asked_at=NOW, received_at=NOW)
    return ADAPTER.parse(account(), fetch_of("187", kind="send"), answer)


def test_the_documented_send_becomes_exactly_this_order() -> None:
    """Credits, title and times are the send's; that it finished says nothing of how many messages arrived."""
    report = DeliveryReport(
        granularity=Granularity.ORDER,
        provider_key="187",
        status=Status.SENT,
        provider_status="1",
        total=6,
        credits=6.0,
        sent_at=datetime(2016, 8, 1, 11, 30, 14, tzinfo=UTC),
        done_at=datetime(2016, 8, 2, 11, 30, 14, tzinfo=UTC),
        valid_until=datetime(2016, 8, 2, 11, 30, 14, tzinfo=UTC),
        extra={"sender": "BASLIK"},
        statement=json.loads(sample("send_info.json"))["aciklama"],
        tracked=SEND,
    )
    assert parse_send(sample("send_info.json")) == Parsed(
        reports=(report,), answers=(IdAnswer(key=SEND, found=True, settled=True),)
    )


@pytest.mark.parametrize(
    ("code", "planned", "status", "settled", "strange"),
    [
        (0, "0000-00-00 00:00:00", Status.ENROUTE, False, 0),
        ("0", None, Status.ENROUTE, False, 0),
        (0, "2025-12-31 12:00:00", Status.ENROUTE, False, 0),
        (0, "2026-01-02 12:00:00", Status.SCHEDULED, False, 0),
        (1, "2025-12-31 12:00:00", Status.SENT, True, 0),
        ("-1", "2026-01-02 12:00:00", Status.REJECTED, True, 0),
        (2, "0000-00-00 00:00:00", Status.UNKNOWN, False, 1),
    ],
)
def test_each_state_of_a_send_has_its_status(
    code: object, planned: object, status: Status, settled: bool, strange: int
) -> None:
    """Failed, running, planned for later, finished, and a code that is not documented; no number is ever answered."""
    parsed = parse_send(send_info(paket_durum=code, ileri_tarih=planned))
    assert [(report.status, report.granularity) for report in parsed.reports] == [(status, Granularity.ORDER)]
    assert parsed.answers == (IdAnswer(key=SEND, found=True, settled=settled),)
    assert len(parsed.unreadable) == strange
    assert (parsed.reports[0].sent_at is None) == (status in {Status.SCHEDULED, Status.REJECTED})


def test_a_send_that_begins_while_its_answer_is_on_the_way_reads_the_same_again() -> None:
    """Requested before its planned time and answered after it: reading it again as of the request gives the same."""
    begins = (NOW + timedelta(seconds=1)).astimezone(account().timezone)
    body = send_info(paket_durum=0, ileri_tarih=f"{begins:%Y-%m-%d %H:%M:%S}")
    answer = Answer(status=200, body=body, asked_at=NOW, received_at=NOW + timedelta(seconds=2))
    [report] = ADAPTER.parse(account(), fetch_of("187", kind="send"), answer).reports
    kept = KeptStatement(
        granularity=report.granularity,
        provider_key=report.provider_key,
        parent_key=None,
        recipient=None,
        source=report.source,
        as_of=NOW,
        statement=json.loads(body)["aciklama"],
    )
    again = ADAPTER.restate(account(), kept)
    assert again is not None
    assert (again.status, again.sent_at) == (report.status, report.sent_at) == (Status.SCHEDULED, None)


@pytest.mark.parametrize(
    ("log", "error", "reason", "strange"),
    [
        ({"hata": "SEND_ERROR"}, "SEND_ERROR", Reason.OTHER, 0),
        (
            {"detay": [{"kod": " BLACKLISTED_DESTINATION_ADDRESS "}]},
            "BLACKLISTED_DESTINATION_ADDRESS",
            Reason.BLACKLISTED,
            0,
        ),
        ("MISSING_MESSAGE", "MISSING_MESSAGE", Reason.OTHER, 0),
        ({"hata": "Ayşe Yılmaz 5399999999 numarasına gönderilemedi"}, None, Reason.OTHER, 1),
        ({"hata": 12}, None, Reason.OTHER, 1),
        (None, None, Reason.OTHER, 0),
        ([], None, Reason.OTHER, 0),
    ],
)
def test_the_cause_of_a_failed_send_is_kept_and_no_other_text(
    log: object, error: str | None, reason: Reason, strange: int
) -> None:
    """Only documented words leave `log`: what else stands there may name a person, and is sealed."""
    parsed = parse_send(send_info(paket_durum=-1, kredi_toplam=0, log=log))
    [report] = parsed.reports
    assert (report.provider_error, report.reason, report.credits) == (error, reason, 0.0)
    assert report.statement.get("log") == error
    assert [trouble.once for trouble in parsed.unreadable] == [True] * strange
    assert "Ayşe" not in repr(parsed)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (sample("unknown_send.json"), 400),
        (sample("refused_word.json"), 400),
        (b"<html>", 404),
        (b"<html>", 405),
        (b'{"durum": true, "aciklama": null}', 200),
    ],
)
def test_a_send_that_is_refused_is_not_known_yet(body: bytes, status: int) -> None:
    """Its numbers are polled all the same, so nothing is given up."""
    assert parse_send(body, status) == SEND_UNKNOWN


@pytest.mark.parametrize("body", [send_info(id=188), send_info("paket_durum"), send_info(paket_durum=[])])
def test_an_answer_about_another_send_is_kept_and_settles_nothing(body: bytes) -> None:
    """Another id, or no state: nothing is written, and the send stays open."""
    parsed = parse_send(body)
    [answer] = parsed.answers
    assert (parsed.reports, len(parsed.unreadable)) == ((), 1)
    assert (answer.found, answer.settled, answer.is_incomplete) == (False, False, True)


def test_trouble_of_the_account_is_told_by_a_send_too() -> None:
    """A wrong key, throttling, outages and bodies that are no answer mean the same as for a number."""
    for body, status, error in (
        (sample("api_key_refused.json"), 401, PauseAccount),
        (b"", 429, SlowDown),
        (b"", 503, TryAgainSoon),
        (b"<html>", 200, AnswerNotUnderstood),
        (b'{"durum": true, "aciklama": 5}', 200, AnswerNotUnderstood),
    ):
        with pytest.raises(error):
            parse_send(body, status)


def test_a_scheduled_message_was_not_sent_yet() -> None:
    """`DEFAULT` means that nothing was processed: `created_at` is no sending time before that."""
    assert parse(changed(durum_gonderim="DEFAULT")).reports[0].sent_at is None
    assert parse(changed(durum_gonderim="SENDING")).reports[0].sent_at is not None


@pytest.mark.parametrize(
    ("given", "form"),
    [
        ("187:5399999999", "187:5399999999"),
        ("0187:+905399999999", "187:+905399999999"),
        (" 0187 : 0539 999 99 99 ", "187:+905399999999"),
        ("\u202a187:+90 539\u00a0999-99\u201199\u202c", "187:+905399999999"),
        ("١٨٧:५३९९९९९९९९", "187:5399999999"),
        ("187:61491570156", "187:61491570156"),
        ("187:0212 123 45 67", "187:+902121234567"),
        ("187:4444", "187:4444"),
    ],
)
def test_a_tracked_number_has_one_form(given: str, form: str) -> None:
    """Blanks, zeros in front, invisible marks and spellings of the number make no second id."""
    assert ADAPTER.record.id_forms["number"](given) == form
    assert ADAPTER.record.id_forms["number"](form) == form


@pytest.mark.parametrize(
    "given", ["", "187", "187:", ":5399999999", "s1:5399999999", "1.87:5399999999", "-1:5399999999", "187:Ali", "1:2:3"]
)
def test_what_cannot_be_a_number_of_a_send_is_refused_with_what_would_be_right(given: str) -> None:
    """The sentence shows the form, and does not repeat what was given."""
    with pytest.raises(RequestIsWrong, match=r"<send id>:<number>|187:5399999999"):
        ADAPTER.record.id_forms["number"](given)


@pytest.mark.parametrize("named", ["0187", 187, " 187 "])
def test_a_send_is_the_same_with_zeros_in_front(named: object) -> None:
    """An id that was stored in another form meets the answer, and so does an answer in another form."""
    for value in ("187:5399999999", "0187:5399999999"):
        fetch = fetch_of(value)
        parsed = ADAPTER.parse(account(), fetch, Answer(status=200, body=changed(sms_gonderim_id=named)))
        assert [(report.status, report.parent_key) for report in parsed.reports] == [(Status.DELIVERED, "187")]
        assert [(answer.key.value, answer.settled) for answer in parsed.answers] == [(value, True)]


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"created_at": "2016-08-01T14:30:14.283041Z", "updated_at": "2016-08-01T17:30:24+03:00"}, []),
        ({"created_at": "yesterday"}, ["created_at"]),
        ({"updated_at": 1470000000, "mesaj_boy": "one"}, ["mesaj_boy", "updated_at"]),
        ({"durum_iade": {"a": 1}}, ["durum_iade"]),
        ({"created_at": "0000-00-00 00:00:00", "updated_at": "", "mesaj_boy": [], "durum_iade": {}}, []),
    ],
)
def test_an_optional_field_that_cannot_be_read_is_told_and_the_row_stays(
    fields: dict[str, Any], names: list[str]
) -> None:
    """The message is delivered all the same; what is absent is no mistake."""
    parsed = parse(changed(**fields))
    assert [report.status for report in parsed.reports] == [Status.DELIVERED]
    assert parsed.answers[0].settled
    assert [trouble.reason for trouble in parsed.unreadable] == [
        f"A report has a `{name}` that cannot be read." for name in names
    ]
    assert all(trouble.once and trouble.provider_key is None for trouble in parsed.unreadable)


def test_an_account_may_name_the_status_of_a_word_that_is_not_documented() -> None:
    """Only of such a word: what the documents say stays as it is."""
    options = {"status_map": {"NOT_ALLOWED_BY_IYS": "rejected/opted_out", "DELIVERED": "rejected", "2": "expired"}}
    mapped = dataclasses.replace(account(), options=RECORD.options.from_stored(options))
    answer = Answer(status=200, body=changed(durum_gonderim="NOT_ALLOWED_BY_IYS"))
    parsed = ADAPTER.parse(mapped, fetch_of(KEY.value), answer)
    assert [(report.status, report.reason) for report in parsed.reports] == [(Status.REJECTED, Reason.OPTED_OUT)]
    assert (parsed.unreadable, parsed.answers[0].settled) == ((), True)
    documented = ADAPTER.parse(mapped, fetch_of(KEY.value), Answer(status=200, body=sample("report.json")))
    assert [report.status for report in documented.reports] == [Status.DELIVERED]
    ended = ADAPTER.parse(mapped, fetch_of("187", kind="send"), Answer(status=200, body=send_info(paket_durum=2)))
    assert [report.status for report in ended.reports] == [Status.EXPIRED]


def test_vairo_has_no_list_and_pushes_nothing() -> None:
    """No windows are planned."""
    assert ADAPTER.plan_window(account(), TODAY, TODAY) == ()


def test_quarantined_bytes_hold_the_item() -> None:
    """What could not be understood is kept whole, sealed by whoever stores it."""
    trouble = parse(changed(durum_gonderim="NEW")).unreadable[0]
    assert isinstance(trouble, Unreadable)
    assert json.loads(trouble.raw)["durum_gonderim"] == "NEW"
