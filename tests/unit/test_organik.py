"""Organik: both reply forms, every status and error, batches, splits and what settles an id."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from ulak.models.report import DeliveryReport, Discovered, IdAnswer, TrackedKey
from ulak.models.vocabulary import Granularity, Reason, Status
from ulak.providers.adapter import Account, Answer, Callback, DueId, Fetch, Parsed
from ulak.providers.errors import (
    AnswerNotUnderstood,
    PauseAccount,
    ProviderError,
    RequestIsWrong,
    SlowDown,
    TryAgainSoon,
)
from ulak.providers.organik import ADAPTER, ERROR, OrganikOptions
from ulak.providers.organik_rows import REASON, STATUS

FIXTURES = Path(__file__).parents[1] / "fixtures" / "organik"
TODAY, NOW = date(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC)
KEY = "ce136df4c9c92d1428e828aba07d3b05"
BOTH = ("14094857", "16334701")


def account(credentials: Mapping[str, str] | None = None, **options: Any) -> Account:
    """An account with the vendor's sample key."""
    return Account(
        id="organik-1",
        provider="organik",
        base_url="https://organikapi.com",
        timezone=ZoneInfo("Europe/Istanbul"),
        credentials=credentials or {"api_key": KEY},
        options=OrganikOptions(**options),
    )


def due(kind: str, value: str, expected: int | None = None) -> DueId:
    """One due id."""
    return DueId(key=TrackedKey(id_kind=kind, value=value), expected=expected)


def fetch_of(kind: str, *values: str, expected: int | None = None) -> Fetch:
    """The one fetch planned for these ids."""
    items = [due(kind, value, expected) for value in values]
    (spec,) = ADAPTER.plan_ids(account(), items, TODAY)
    return Fetch(spec=spec, ids={item.key: item for item in items})


def sample(name: str) -> bytes:
    """A recorded body, byte for byte."""
    return (FIXTURES / name).read_bytes()


def row(**fields: Any) -> dict[str, Any]:
    """The documented first row with some fields changed."""
    first: dict[str, Any] = json.loads(sample("reply.json"))["response"]["data"][0]
    return {name: value for name, value in (first | fields).items() if value is not ...}


def reply(rows: Iterable[Any]) -> bytes:
    """A reply with these rows."""
    return json.dumps({"response": {"result": True, "data": list(rows)}}).encode()


def refusal(**error: Any) -> bytes:
    """A reply that refuses."""
    return json.dumps({"response": {"result": False, "error": error}}).encode()


def parse(body: bytes, fetch: Fetch | None = None, status: int = 200) -> Parsed:
    """What the adapter reads, by default for the two transactions of the sample."""
    return ADAPTER.parse(account(), fetch or fetch_of("transaction", *BOTH), Answer(status=status, body=body))


def sample_reports(*, xml: bool) -> tuple[DeliveryReport, ...]:
    """The three rows of the documented sample as a reader would write them by hand."""
    raw = json.loads(sample("reply.json"))["response"]["data"]
    if xml:
        raw = [{k: None if v is None else str(v) for k, v in item.items() if k != "errorcode"} for item in raw]
    first, second = (TrackedKey(id_kind="transaction", value=value) for value in BOTH)
    common: dict[str, Any] = {"granularity": Granularity.MESSAGE}
    return (
        DeliveryReport(
            **common,
            provider_key="410471976",
            parent_key="14094857",
            client_ref="b627ffe79fc148e8ea7425222c4ed8",
            recipient="+905445359675",
            status=Status.DELIVERED,
            provider_status="2",
            segments=1,
            credits=1.0,
            sent_at=datetime(2016, 11, 2, 8, 47, 38, tzinfo=UTC),
            done_at=datetime(2016, 11, 2, 9, 47, 42, tzinfo=UTC),
            extra={"is_foreign_gsm": 0, "create_date": "2016-11-02T08:47:38+00:00"},
            statement=raw[0],
            tracked=first,
        ),
        DeliveryReport(
            **common,
            provider_key="410471979",
            parent_key="14094857",
            client_ref="b627ffe79fc148e8ea7425222c4ed8",
            recipient="+61491570156",
            status=Status.EXPIRED,
            reason=Reason.EXPIRED if xml else Reason.INVALID_NUMBER,
            provider_status="4",
            provider_error=None if xml else "99",
            segments=1,
            credits=0.0,
            sent_at=datetime(2016, 11, 2, 8, 47, 38, tzinfo=UTC),
            done_at=datetime(2016, 11, 2, 10, 47, 45, tzinfo=UTC),
            extra={"is_foreign_gsm": 1, "create_date": "2016-11-02T08:47:38+00:00"},
            statement=raw[1],
            tracked=first,
        ),
        DeliveryReport(
            **common,
            provider_key="474057742",
            parent_key="16334701",
            client_ref="6959792d54f3c7510bcbb6303a67a4",
            recipient="+905445359675",
            status=Status.SCHEDULED,
            provider_status="0",
            segments=0,
            credits=0.0,
            extra={"is_foreign_gsm": 0, "create_date": "2017-02-02T08:36:09+00:00"},
            statement=raw[2],
            tracked=second,
        ),
    )


@pytest.mark.parametrize(
    ("name", "xml"), [("reply.json", False), ("reply_rootless.xml", True), ("reply_rooted.xml", True)]
)
def test_the_documented_reply_becomes_exactly_these_rows(name: str, xml: bool) -> None:
    """The vendor's sample in all three forms: final rows settle their transaction, an open one does not."""
    first, second = (TrackedKey(id_kind="transaction", value=value) for value in BOTH)
    parsed = parse(sample(name), fetch_of("transaction", *BOTH, expected=1))
    answers = (IdAnswer(key=first, found=True, settled=True), IdAnswer(key=second, found=True))
    assert parsed == Parsed(reports=sample_reports(xml=xml), answers=answers)


STATUS_ROWS = [
    (0, Status.SCHEDULED, None),
    (1, Status.ENROUTE, None),
    (2, Status.DELIVERED, None),
    (3, Status.UNDELIVERABLE, Reason.INVALID_NUMBER),
    (4, Status.EXPIRED, Reason.EXPIRED),
]


def test_a_field_that_is_not_documented_is_not_kept() -> None:
    """It may hold the text or a name, whatever it is called."""
    assert parse(reply([row(message="Merhaba", name="Ada")])).reports == parse(reply([row()])).reports


@pytest.mark.parametrize(("number", "status", "reason"), STATUS_ROWS)
@pytest.mark.parametrize("errorcode", [..., 0, "0", None])
def test_every_status_has_its_row(number: int, status: Status, reason: Reason | None, errorcode: object) -> None:
    """The five statuses, as number or text, where no errorcode says more."""
    for given in (number, str(number)):
        report = parse(reply([row(status=given, errorcode=errorcode)])).reports[0]
        assert (report.status, report.reason, report.provider_status) == (status, reason, str(number))
        assert report.provider_error is None
        assert (report.sent_at is None) == (number == 0)
    assert len(STATUS) == 5


REASON_ROWS = [
    *((code, Reason.INVALID_NUMBER) for code in (1, 2, 99)),
    *((code, Reason.ABSENT) for code in (3, 4, 7)),
    *((code, Reason.OPTED_OUT) for code in (5, 23)),
    (6, Reason.CONTENT),
    (8, Reason.SMS_BARRED),
    *((code, Reason.HANDSET) for code in (9, 12, 14, 16, 17)),
    *((code, Reason.NETWORK) for code in (10, 11, 13, 15, 18, 19, 20, 21)),
    (22, Reason.OTHER),
    (88, Reason.TEST),
    (777, Reason.OTHER),
    ("new", Reason.OTHER),
]


@pytest.mark.parametrize(("errorcode", "reason"), REASON_ROWS)
@pytest.mark.parametrize("number", [0, 1, 2, 3, 4])
def test_every_errorcode_explains_a_failure_and_nothing_else(errorcode: object, reason: Reason, number: int) -> None:
    """Errorcodes give the reason of 3 and 4, four of them make it a refusal, and none touches 0, 1, 2."""
    report = parse(reply([row(status=number, errorcode=errorcode)])).reports[0]
    plain = STATUS[number][0]
    failed = number in {3, 4}
    status = Status.REJECTED if failed and errorcode in {5, 6, 8, 23} else plain
    assert (report.status, report.reason, report.provider_error) == (
        status,
        reason if failed else None,
        str(errorcode),
    )
    assert {code for code, _ in REASON_ROWS if isinstance(code, int)} - {777} == set(REASON)


@pytest.mark.parametrize("given", [5, "5", -1, "delivered", 2.5, "2.0"])
def test_an_unknown_status_is_kept_raw_and_never_final(given: object) -> None:
    """A status outside the table is unknown, alarmed, and leaves its transaction open; a fraction is no status."""
    parsed = parse(reply([row(status=given, errorcode=5)]))
    assert not any(answer.settled for answer in parsed.answers)
    if isinstance(given, float):
        assert (parsed.reports, len(parsed.unreadable)) == ((), 1)
        return
    report = parsed.reports[0]
    assert (report.status, report.provider_status, report.reason) == (Status.UNKNOWN, str(given), None)
    assert [trouble.provider_key for trouble in parsed.unreadable] == ["410471976"]


@pytest.mark.parametrize("bad", [5, None, [], {}, row(gsm_track_id=...), row(status=...), row(gsm_track_id=True)])
def test_one_bad_row_never_sinks_the_others(bad: object) -> None:
    """The good rows count, the bad one is kept aside, and no id settles that it might belong to."""
    parsed = parse(reply([bad, row()]))
    assert [report.provider_key for report in parsed.reports] == ["410471976"]
    assert (len(parsed.unreadable), [answer.settled for answer in parsed.answers]) == (1, [False, False])


def test_an_xml_row_with_a_field_twice_is_unreadable() -> None:
    """Which of two values is meant nobody can tell."""
    body = b"<item><gsm_track_id>1</gsm_track_id><status>2</status><status>3</status></item>"
    parsed = parse(body)
    assert (parsed.reports, len(parsed.unreadable)) == ((), 1)


@pytest.mark.parametrize(("given", "amount"), [(1, 1.0), (0.5, 0.5), ("0,0372", 0.0372), ("x", None), (None, None)])
def test_a_message_may_cost_a_fraction_of_a_credit(given: object, amount: float | None) -> None:
    """With a decimal point or a comma; what is no amount is not said."""
    assert [report.credits for report in parse(reply([row(credit_amount=given)])).reports] == [amount]


def test_ids_without_a_row_stay_open() -> None:
    """A partial answer settles what it shows and says of the rest only that it was not found."""
    parsed = parse(reply([row()]), fetch_of("transaction", "14094857", "5", expected=1))
    assert {answer.key.value: (answer.found, answer.settled) for answer in parsed.answers} == {
        "14094857": (True, True),
        "5": (False, False),
    }


def test_a_row_that_nobody_asked_for_is_still_what_the_provider_said() -> None:
    """It is reported under its own key and settles nothing."""
    parsed = parse(reply([row(transaction_id=99)]))
    assert [(report.parent_key, report.tracked) for report in parsed.reports] == [("99", None)]
    assert {(answer.found, answer.settled) for answer in parsed.answers} == {(False, False)}


@pytest.mark.parametrize("body", [sample("error.json"), sample("error.xml"), refusal(number="86")])
@pytest.mark.parametrize("status", [200, 404])
def test_no_records_means_no_rows(body: bytes, status: int) -> None:
    """86 and 87 are answers, not failures."""
    assert parse(body, status=status) == Parsed(
        answers=tuple(IdAnswer(key=TrackedKey(id_kind="transaction", value=value), found=False) for value in BOTH)
    )


ERROR_ROWS = [
    *((code, TryAgainSoon) for code in (1, 84, 85, 94, 95)),
    *((code, PauseAccount) for code in (88, 89, 90, 98, 99)),
    *((code, RequestIsWrong) for code in (91, 92, 96, 97)),
    (93, SlowDown),
]


@pytest.mark.parametrize(("code", "error"), ERROR_ROWS)
def test_every_error_says_what_to_do_next(code: int, error: type[ProviderError]) -> None:
    """The table's number is found in `number` or `code`, as text or number, in both forms."""
    bodies = (
        refusal(number=str(code), message="x"),
        refusal(number="x", code=code),
        f"<response><result>0</result><error><number>{code}</number></error></response>".encode(),
        f"<result>0</result><error><code> {code} </code></error>".encode(),
        f"<error><number>{code}</number></error>".encode(),
        json.dumps({"response": {"result": False, "error": code}}).encode(),
        refusal(number=str(code), code=93 if code != 93 else 1),  # where both are known, `number` is believed
    )
    for body in bodies:
        with pytest.raises(error) as caught:
            parse(body, fetch_of("transaction", "1"))
        assert caught.value.code == str(code)
    assert {known for known, _ in ERROR_ROWS} == set(ERROR)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, b"", AnswerNotUnderstood),
        (200, b"<html><body>hello</body></html>", AnswerNotUnderstood),
        (200, b"<html><br></html>", AnswerNotUnderstood),
        (200, b"[]", AnswerNotUnderstood),
        (200, b'{"response": []}', AnswerNotUnderstood),
        (200, b'{"response": {"data": []}}', AnswerNotUnderstood),
        (200, b'{"response": {"result": true, "data": false}}', AnswerNotUnderstood),
        (200, b'{"response": {"result": true}}', AnswerNotUnderstood),
        (200, b"<response><result>2</result></response>", AnswerNotUnderstood),
        (200, refusal(), AnswerNotUnderstood),
        (200, refusal(number="110"), AnswerNotUnderstood),
        (200, b'{"response": {"result": false}}', AnswerNotUnderstood),
        (429, refusal(number="99"), SlowDown),
        (500, refusal(number="99"), PauseAccount),
        (500, refusal(), TryAgainSoon),
        (500, reply([row()]), TryAgainSoon),
        (503, b"", TryAgainSoon),
        (301, b"", TryAgainSoon),
        (401, b"", PauseAccount),
        (404, b"<html>", RequestIsWrong),
        (400, reply([row()]), RequestIsWrong),
    ],
)
def test_bodies_and_statuses_beyond_the_documents(status: int, body: bytes, error: type[ProviderError]) -> None:
    """A table error is believed first, then the HTTP status, and what is neither is not understood."""
    with pytest.raises(error) as caught:
        parse(body, status=status)
    assert KEY not in caught.value.message


@pytest.mark.parametrize(
    "body",
    [
        b'<!DOCTYPE x [<!ENTITY a "b">]><item><gsm_track_id>&a;</gsm_track_id></item>',
        b'<?xml version="1.0"?><!DOCTYPE x SYSTEM "file:///etc/passwd"><item/>',
        b"<item>&undefined;</item>",
        b"</reply><item/><reply>",
        b"<item>\x00</item>",
        b"<item>\xff</item>",
        b"<a>" * 200_000,
    ],
)
def test_hostile_xml_is_refused(body: bytes) -> None:
    """No document type, no entity, no way out of our root."""
    with pytest.raises(AnswerNotUnderstood):
        parse(body)


def test_deeply_nested_xml_is_harmless() -> None:
    """Depth alone neither crashes the reader nor makes a row."""
    with pytest.raises(AnswerNotUnderstood):
        parse(b"<a>" * 50_000 + b"</a>" * 50_000)


@pytest.mark.parametrize("code", [96, 97])
def test_one_bad_id_does_not_sink_its_batch(code: int) -> None:
    """A batch refused for its form is asked again in halves, until the bad id stands alone and is refused alone."""
    fetch = fetch_of("transaction", "1", "2", "3")
    parsed = parse(refusal(number=str(code)), fetch)
    assert [child.params for child in parsed.children] == [
        {"by": "transaction", "ids": ["1"]},
        {"by": "transaction", "ids": ["2", "3"]},
    ]
    assert tuple(key for child in parsed.children for key in child.ids) == fetch.spec.ids
    assert (parsed.reports, parsed.answers) == ((), ())
    pair = parse(refusal(number=str(code)), Fetch(spec=parsed.children[1]))
    assert [child.params["ids"] for child in pair.children] == [["2"], ["3"]]
    with pytest.raises(RequestIsWrong):
        parse(refusal(number=str(code)), Fetch(spec=parsed.children[0]))


def test_requests_are_byte_exact() -> None:
    """Address with the key in its path, headers and body, in both forms."""
    fetch = fetch_of("delivery_track", "a&b", "c")
    as_json = ADAPTER.request(account(), fetch, NOW)
    as_xml = ADAPTER.request(account(format="xml"), fetch, NOW)
    assert (as_json.method, as_xml.method, as_json.endpoint) == ("POST", "POST", "detailedreport")
    assert as_json.url == f"https://organikapi.com/v2/{KEY}/detailedreport/json/"
    assert as_xml.url == f"https://organikapi.com/v2/{KEY}/detailedreport/xml/"
    assert as_json.headers == {"accept": "application/json", "content-type": "application/json"}
    assert as_xml.headers == {"accept": "application/xml", "content-type": "application/xml"}
    assert as_json.body == b'{"data": {"delivery_track_ids": ["a&b", "c"]}}'
    assert as_xml.body == (
        b'<?xml version="1.0" encoding="UTF-8"?>\n<document>\n<data>\n'
        b"<delivery_track_ids>a&amp;b</delivery_track_ids>\n<delivery_track_ids>c</delivery_track_ids>\n"
        b"</data>\n</document>\n"
    )
    assert KEY not in repr(as_json)


def test_the_key_is_made_of_user_name_and_password() -> None:
    """The vendor's own example: MD5 of both, one after the other."""
    made = account({"username": "OrganikHaberlesme", "password": "mn_0g4R!"})
    url = ADAPTER.request(made, fetch_of("transaction", "1"), NOW).url
    assert url == f"https://organikapi.com/v2/{KEY}/detailedreport/json/"


def test_a_key_of_any_letters_stays_one_part_of_the_path() -> None:
    """A slip of the hand in the key must not reach another address of the provider."""
    url = ADAPTER.request(account({"api_key": "a/../b?c#d"}), fetch_of("transaction", "1"), NOW).url
    assert url == "https://organikapi.com/v2/a%2F..%2Fb%3Fc%23d/detailedreport/json/"


def test_batches_hold_one_kind_and_are_filled_to_the_brim() -> None:
    """Kinds never mix; a batch is full before the next begins; text forms of gsm ids go alone."""
    items = [due("transaction", str(number)) for number in range(1000, 1250)]
    items += [due("gsm_track", "16502030-4730-63032793"), due("gsm_track", "7"), due("delivery_track", "x-1")]
    specs = ADAPTER.plan_ids(account(), items, TODAY)
    assert [(spec.params["by"], len(spec.ids)) for spec in specs] == [
        ("transaction", 100),
        ("transaction", 100),
        ("transaction", 50),
        ("delivery_track", 1),
        ("gsm_track", 1),
        ("gsm_track", 1),
    ]
    assert {spec.kind for spec in specs} == {"batch"}


def test_big_transactions_do_not_share_one_call() -> None:
    """The sum of expected rows per call is capped; small ids still fill the room that is left."""
    items = [due("transaction", str(number), expected) for number, expected in enumerate([4000, 3000, 900, 9000, 5])]
    specs = ADAPTER.plan_ids(account(), items, TODAY)
    assert [spec.params["ids"] for spec in specs] == [["0", "2", "4"], ["1"], ["3"]]


@pytest.mark.parametrize(("expected", "settled"), [(1, True), (2, False)])
def test_a_transaction_settles_only_with_all_its_expected_rows(expected: int, settled: bool) -> None:
    """Final rows alone do not settle while the sender knows of more; the same row twice is one row."""
    [answer] = parse(reply([row(), row()]), fetch_of("transaction", "14094857", expected=expected)).answers
    assert (answer.settled, answer.is_incomplete) == (settled, not settled)


@pytest.mark.parametrize("kind", ["transaction", "delivery_track"])
def test_rows_that_nobody_has_counted_settle_nothing_before_two_answers_in_a_row_agree(kind: str) -> None:
    """A alone, or A, A for A, B: a row may be missing, or stand in the place of another, without being missed."""
    key = TrackedKey(id_kind=kind, value="7")
    one, other = (row(gsm_track_id=number, **{f"{kind}_id": 7}) for number in (1, 2))
    running = {**other, "status": 1}

    def said(rows: list[Any], before: IdAnswer | None) -> IdAnswer:
        due = DueId(key=key, fingerprint=None if before is None else before.fingerprint)
        fetch = replace(fetch_of(kind, key.value), ids={key: due})
        return parse(reply(rows), fetch).answers[0]

    for wrong in ([one], [one, one], [other]):
        first = said(wrong, None)
        assert (first.found, first.settled, first.is_incomplete) == (True, False, True)
        right = said([one, other], first)
        assert (right.settled, right.is_incomplete) == (False, True)
        assert said([other, one], right).settled
    # While some are still open an answer needs no confirmation, and the last one is confirmed by those before it.
    before = said([one, running], None)
    assert (before.settled, before.is_incomplete) == (False, False)
    assert said([one, other], before).settled
    # Nor does a number of rows that the sender has counted, or an id that has only one.
    counted = replace(fetch_of(kind, key.value), ids={key: DueId(key=key, expected=2)})
    assert parse(reply([one, other]), counted).answers[0].settled
    assert parse(reply([one]), fetch_of("gsm_track", "1")).answers[0].settled


@pytest.mark.parametrize("bad", [{"gsm_track_id": None}, {"status": None}])
def test_a_row_of_the_id_that_cannot_be_read_makes_its_answer_incomplete(bad: dict[str, Any]) -> None:
    """It is polled again soon; rows that are still open follow the age schedule."""
    fetch = fetch_of("transaction", "14094857")
    [answer] = parse(reply([row(), row(**bad)]), fetch).answers
    assert (answer.settled, answer.is_incomplete) == (False, True)
    [running] = parse(reply([row(status=1)]), fetch_of("transaction", "14094857", expected=2)).answers
    assert (running.settled, running.is_incomplete) == (False, False)


@pytest.mark.parametrize(
    ("tail", "kind", "value"),
    [
        ("0016502030", "transaction", "16502030"),
        (" 880\u200b", "transaction", "880"),
        ("transaction=0880", "transaction", "880"),
        ("delivery_track=a=b", "delivery_track", "a=b"),
        ("delivery_track=\u202a007\u202c", "delivery_track", "007"),
        ("+880", None, None),
        ("transaction=-1", None, None),
        ("transaction=" + "9" * 20, None, None),
        ("gsm_track=7", None, None),
        ("delivery_track=", None, None),
    ],
)
def test_the_id_in_the_address_of_a_push_has_the_form_of_a_registered_one(
    tail: str, kind: str | None, value: str | None
) -> None:
    """Else one transaction would be asked for twice; and what can be no id is not asked for."""
    parsed = ADAPTER.parse_callback(account(), Callback(tail=tail, body=b"{}"))
    asked = [(ambiguous_report.ask.id_kind, ambiguous_report.ask.value) for ambiguous_report in parsed.ambiguous]
    assert asked == ([] if kind is None else [(kind, value)])
    assert [trouble.is_open for trouble in parsed.unreadable] == [kind is None]


@pytest.mark.parametrize("nothing", ["null", "{}", '""', "[]"])
def test_an_empty_list_of_rows_may_be_written_in_any_way(nothing: str) -> None:
    """No row, and nothing is settled."""
    parsed = parse(f'{{"response": {{"result": true, "data": {nothing}}}}}'.encode(), fetch_of("transaction", "1"))
    assert [(answer.found, answer.settled) for answer in parsed.answers] == [(False, False)]


@pytest.mark.parametrize("errorcode", [True, {"a": 1}, ["5"]])
def test_an_errorcode_that_cannot_be_read_is_named(errorcode: Any) -> None:
    """The failure stays as it is."""
    parsed = parse(reply([row(status=3, errorcode=errorcode)]), fetch_of("transaction", "14094857"))
    assert [trouble.reason for trouble in parsed.unreadable] == ["A row has a `errorcode` that cannot be read."]
    assert parsed.reports[0].provider_error is None


def test_the_text_form_of_a_gsm_id_owns_whatever_its_call_brings() -> None:
    """It comes back as another, whole number; only the call says whose it is."""
    fetch = fetch_of("gsm_track", "16502030-4730-63032793")
    parsed = parse(reply([row()]), fetch)
    assert [report.tracked for report in parsed.reports] == list(fetch.spec.ids)
    assert parsed.answers == (IdAnswer(key=fetch.spec.ids[0], found=True, settled=True),)


def big(open_rows: int, total: int = 300) -> list[dict[str, Any]]:
    """A big transaction of which some rows are open."""
    return [row(gsm_track_id=number, status=1 if number < open_rows else 2) for number in range(total)]


def test_stragglers_of_a_big_transaction_are_asked_by_themselves() -> None:
    """Few open rows among many become ids of their own, and the transaction is closed as split."""
    fetch = fetch_of("transaction", "14094857", expected=300)
    parsed = parse(reply(big(2)), fetch)
    assert parsed.answers == (IdAnswer(key=fetch.spec.ids[0], found=True, settled=True, close_reason="split"),)
    assert parsed.discovered == tuple(
        Discovered(
            key=TrackedKey(id_kind="gsm_track", value=str(number)),
            client_ref="b627ffe79fc148e8ea7425222c4ed8",
            recipient="+905445359675",
            sent_at=datetime(2016, 11, 2, 8, 47, 38, tzinfo=UTC),
        )
        for number in range(2)
    )


def test_a_straggler_keeps_what_the_sender_said_of_its_transaction() -> None:
    """Times and reference of the registered id hold on; of the reference the row's own is believed first."""
    registered = DueId(
        key=TrackedKey(id_kind="transaction", value="14094857"),
        client_ref="order-77",
        expected=300,
        sent_at=datetime(2016, 11, 2, 8, 40, tzinfo=UTC),
        valid_until=datetime(2016, 11, 4, 8, 40, tzinfo=UTC),
    )
    (spec,) = ADAPTER.plan_ids(account(), [registered], TODAY)
    rows = big(2)
    rows[0] |= {"delivery_track_id": None}
    parsed = parse(reply(rows), Fetch(spec=spec, ids={registered.key: registered}))
    assert parsed.discovered == tuple(
        Discovered(
            key=TrackedKey(id_kind="gsm_track", value=str(number)),
            client_ref=client_ref,
            recipient="+905445359675",
            sent_at=registered.sent_at,
            valid_until=registered.valid_until,
        )
        for number, client_ref in enumerate(("order-77", "b627ffe79fc148e8ea7425222c4ed8"))
    )


@pytest.mark.parametrize(
    ("rows", "expected"), [(big(101), 300), (big(2, 200), 200), (big(2), 301), ([*big(2), row(status=...)], 300)]
)
def test_a_transaction_is_not_split_too_early(rows: list[dict[str, Any]], expected: int) -> None:
    """Too many open rows, too few rows in all, rows still missing or unreadable: it is asked again as a whole."""
    parsed = parse(reply(rows), fetch_of("transaction", "14094857", expected=expected))
    assert (parsed.discovered, [answer.settled for answer in parsed.answers]) == ((), [False])


def test_organik_has_no_list() -> None:
    """No windows are planned."""
    assert ADAPTER.plan_window(account(), TODAY, TODAY) == ()


def test_php_writes_a_list_with_a_gap_as_an_object() -> None:
    """Its rows are read in the order of their indexes, like those of an array."""
    rows = [row(), row()]
    as_object = json.dumps({"response": {"result": 1, "data": {"4": rows[1], "0": rows[0]}}}).encode()
    assert parse(as_object) == parse(reply(rows))
