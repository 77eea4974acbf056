"""What Organik answers to a send: refused numbers become rows, accepted ones are asked for; and its pushes."""

import json
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from ulak.models.report import AmbiguousReport, Discovered, TrackedKey
from ulak.models.vocabulary import Granularity, Reason, Source, Status
from ulak.providers.adapter import Account, Callback, Parsed
from ulak.providers.errors import AnswerNotUnderstood
from ulak.providers.organik import ADAPTER, OrganikOptions

ACCOUNT = Account(
    id="organik-1",
    provider="organik",
    base_url="https://organikapi.com",
    timezone=ZoneInfo("Europe/Istanbul"),
    credentials={"api_key": "k" * 32, "webhook_secret": "gizli/yol"},
    options=OrganikOptions(),
)
VALID = [
    {"request_gsm": 5444444444, "gsm": 905445359675, "gsm_track_id": "16502030-4730-63032793", "sms_count": 1},
    {"request_gsm": 5444444445, "gsm": 905445359676, "gsm_track_id": "16502030-4730-70484559", "sms_count": 1},
]
INVALID = {"request_gsm": 5444444446, "gsm": 905444444446, "error": {"number": 110, "message": "It is incorrect."}}
XML = """<?xml version="1.0" encoding="UTF-8"?>
<response><data><result>1</result><deliveries><item>
  <track_id>2567</track_id><transaction_id>16502030</transaction_id>
  <valid>
    <item><request_gsm>5444444444</request_gsm><gsm>905444444444</gsm><gsm_track_id>16502030-4730-63032793</gsm_track_id></item>
    <item><track_id>2525</track_id><error><number>101</number></error><valid /><invalid /></item>
  </valid>
  <invalid><item><request_gsm>5444444446</request_gsm><gsm>4444</gsm><error><number>110</number><message>x</message></error></item></invalid>
</item><item>
  <track_id>2526</track_id><transaction_id /><error><number>101</number><message>x</message></error><valid /><invalid />
</item></deliveries></data></response>"""


def delivery(**fields: Any) -> dict[str, Any]:
    """The documented delivery with some fields changed; `...` takes a field away."""
    whole = {"track_id": 1234, "transaction_id": 16502030, "valid": VALID, "invalid": [INVALID], **fields}
    return {name: value for name, value in whole.items() if value is not ...}


def reply(*deliveries: Any) -> bytes:
    """A send reply."""
    return json.dumps({"response": {"result": True, "data": {"deliveries": list(deliveries)}}}).encode()


def read(body: bytes, tail: str = "send_reply") -> Parsed:
    """What the adapter reads."""
    return ADAPTER.parse_callback(ACCOUNT, Callback(tail=tail, body=body))


def test_the_documented_reply_gives_the_refused_number_and_registers_the_transaction() -> None:
    """The two accepted numbers are asked for by the transaction, which is complete with two rows."""
    parsed = read(reply(delivery()))
    (refused,) = parsed.reports
    assert (refused.granularity, refused.provider_key) == (Granularity.MESSAGE, "16502030:+905444444446:1")
    assert (refused.status, refused.reason) == (Status.UNDELIVERABLE, Reason.INVALID_NUMBER)
    assert (refused.provider_status, refused.provider_error) == ("invalid", "110")
    assert (refused.parent_key, refused.client_ref, refused.recipient) == ("16502030", "1234", "+905444444446")
    assert (refused.source, refused.as_of) == (Source.SEND_REPLY, None)
    assert "incorrect" not in json.dumps(refused.statement)
    key = TrackedKey(id_kind="transaction", value="16502030")
    assert parsed.discovered == (Discovered(key=key, client_ref="1234", expected=2),)
    assert parsed.unreadable == ()


def test_the_documented_xml_reply_is_read_alike() -> None:
    """With the slip of the provider's page, a failed delivery within `valid`, which is no number."""
    parsed = read(XML.encode())
    assert [(one.granularity, one.provider_key, one.status, one.provider_error) for one in parsed.reports] == [
        (Granularity.MESSAGE, "16502030:4444:1", Status.UNDELIVERABLE, "110"),
        (Granularity.ORDER, "2526", Status.REJECTED, "101"),
    ]
    key = TrackedKey(id_kind="transaction", value="16502030")
    assert parsed.discovered == (Discovered(key=key, client_ref="2567", recipient="+905444444444", expected=1),)


@pytest.mark.parametrize(
    ("number", "status", "reason"),
    [
        (102, Status.UNDELIVERABLE, Reason.INVALID_NUMBER),
        (103, Status.REJECTED, Reason.QUOTA),
        ("108", Status.REJECTED, Reason.QUOTA),
        (109, Status.REJECTED, Reason.BLACKLISTED),
        (110, Status.UNDELIVERABLE, Reason.INVALID_NUMBER),
        ("111", Status.UNDELIVERABLE, Reason.INVALID_NUMBER),
        (106, Status.REJECTED, Reason.CONTENT),
        (101, Status.REJECTED, Reason.OTHER),
        (777, Status.REJECTED, Reason.OTHER),
    ],
)
def test_the_error_table_says_why_a_number_was_refused(number: Any, status: Status, reason: Reason) -> None:
    """The number's own error, else that of its delivery."""
    for fields in (
        {"invalid": [{**INVALID, "error": {"number": number}}]},
        {"invalid": [{"gsm": 905444444446}], "error": {"number": number, "message": "x"}},
    ):
        (refused,) = read(reply(delivery(**fields))).reports
        assert (refused.status, refused.reason, refused.provider_error) == (status, reason, str(number))


def test_equal_refused_numbers_keep_apart_and_a_statement_can_be_read_again() -> None:
    """In whatever spelling; the statement of each gives its own row again, the last of those it holds."""
    twice = [INVALID, {**INVALID, "gsm": "+90 544 444 44 46"}, {**INVALID, "gsm": 905444444447}]
    reports = read(reply(delivery(invalid=twice))).reports
    assert [one.provider_key for one in reports] == [
        "16502030:+905444444446:1",
        "16502030:+905444444446:2",
        "16502030:+905444444447:1",
    ]
    for report in reports:
        again = read(json.dumps(report.statement).encode()).reports[-1]
        assert (again.provider_key, again.status, again.client_ref) == (
            report.provider_key,
            report.status,
            report.client_ref,
        )


def test_without_a_transaction_the_track_id_names_the_send_and_each_gsm_id_is_asked_for() -> None:
    """As far as the reply names them."""
    parsed = read(reply(delivery(transaction_id=None)))
    assert [one.provider_key for one in parsed.reports] == ["1234:+905444444446:1"]
    assert [(each.key.id_kind, each.key.value, each.recipient) for each in parsed.discovered] == [
        ("gsm_track", "16502030-4730-63032793", "+905445359675"),
        ("gsm_track", "16502030-4730-70484559", "+905445359676"),
    ]


@pytest.mark.parametrize(
    "part",
    [
        "x",
        delivery(track_id="", transaction_id=None),
        delivery(invalid=[{"error": {"number": 110}}], valid=[]),
        delivery(invalid="x"),
        delivery(track_id="", transaction_id=None, valid=[], invalid=[], error={"number": 101}),
    ],
)
def test_a_part_that_names_nobody_is_kept_and_the_others_count(part: Any) -> None:
    """And what is kept is a reply again, which can be read when the code knows more."""
    parsed = read(reply(part, delivery(transaction_id=7)))
    assert len(parsed.unreadable) == 1
    assert [one.provider_key for one in parsed.reports] == ["7:+905444444446:1"]
    if part != "x":
        assert len(read(parsed.unreadable[0].raw).unreadable) == 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"response": {"result": false, "error": {"number": "102", "code": 0}}}',
        b"<response><result>0</result><error><number>99</number></error></response>",
        reply(delivery(invalid=[], valid=[])),
        reply(),
    ],
)
def test_a_reply_that_names_no_number_says_nothing(body: bytes) -> None:
    """It is stored without a row, and is no error."""
    assert read(body) == Parsed()


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"<a/>", b'{"response": {"result": true, "data": []}}'])
def test_what_is_no_send_reply_is_not_understood(body: bytes) -> None:
    """A report, for example."""
    with pytest.raises(AnswerNotUnderstood):
        read(body)


# ------------------------------------------------------------------------------------------- pushes
@pytest.mark.parametrize(
    ("tail", "is_let_in"),
    [
        ("gizli/yol", True),
        ("gizli/yol/16502030", True),
        ("gizli/yol16502030", False),
        ("gizli/yo", False),
        ("gizli", False),
        ("", False),
        ("16502030", False),
    ],
)
def test_the_secret_in_the_address_lets_in(tail: str, is_let_in: bool) -> None:
    """As at the other provider whose pushes carry no login; without a secret nobody comes in."""
    assert ADAPTER.authorise_callback(ACCOUNT, Callback(tail=tail, body=b"")) is is_let_in
    bare = Account(id="o", provider="organik", base_url="", timezone=ACCOUNT.timezone, credentials={"api_key": "k"})
    assert ADAPTER.authorise_callback(bare, Callback(tail=tail, body=b"")) is False


@pytest.mark.parametrize(
    ("tail", "kind", "value"),
    [
        ("16502030", "transaction", "16502030"),
        ("transaction=16502030", "transaction", "16502030"),
        ("delivery_track=b627ffe7", "delivery_track", "b627ffe7"),
    ],
)
def test_a_push_asks_for_the_send_that_its_address_names_and_is_kept_unread(tail: str, kind: str, value: str) -> None:
    """Whatever its body says, even a status: nothing is derived from it, and nobody has to look at it."""
    body = b'{"transaction_id": 7, "status": 2}'
    parsed = read(body, tail)
    assert parsed.ambiguous == (AmbiguousReport(report=None, twin_key="", ask=TrackedKey(id_kind=kind, value=value)),)
    assert (parsed.reports, parsed.answers, parsed.discovered) == ((), (), ())
    (kept,) = parsed.unreadable
    assert (kept.raw, kept.is_open) == (body, False)
    assert read(b"", tail).unreadable == ()


@pytest.mark.parametrize("tail", ["", "x", "gsm_track=5", "transaction=x", "5/6", "delivery_track="])
def test_a_push_to_an_address_without_a_send_is_shown_to_operators(tail: str) -> None:
    """With what would be right."""
    parsed = read(b"{}", tail)
    assert parsed.ambiguous == ()
    (kept,) = parsed.unreadable
    assert kept.is_open
    assert "<transaction id>" in kept.reason


TRANSACTION = TrackedKey(id_kind="transaction", value="16502030")


@pytest.mark.parametrize(
    ("valid", "expected"), [({"1": VALID[0], "3": VALID[1]}, 2), ([VALID[0], None], 2), ([{"gsm": ["x"]}], 1)]
)
def test_accepted_numbers_that_cannot_be_read_are_expected_all_the_same(valid: Any, expected: int) -> None:
    """Each of them has a row in the reports: an id that expected fewer would be settled without it."""
    [found] = read(reply(delivery(valid=valid))).discovered
    assert (found.key, found.expected) == (TRANSACTION, expected)


@pytest.mark.parametrize("valid", ["x", VALID[0], 7])
def test_accepted_numbers_in_another_form_are_asked_for_and_named(valid: Any) -> None:
    """The transaction is known, so nothing is lost."""
    parsed = read(reply(delivery(valid=valid)))
    assert [(found.key, found.expected) for found in parsed.discovered] == [(TRANSACTION, None)]
    assert [trouble.reason for trouble in parsed.unreadable] == ["`valid` of a send reply is not a list."]


def test_an_accepted_number_that_can_not_be_asked_for_is_named() -> None:
    """Neither its transaction nor its own id is known; the others are registered, and what is kept is a reply again."""
    parsed = read(reply(delivery(transaction_id=None, invalid=[], valid=[VALID[0], {"gsm": 905445359676}])))
    assert [found.key.value for found in parsed.discovered] == [VALID[0]["gsm_track_id"]]
    [kept] = parsed.unreadable
    assert [again.reason for again in read(kept.raw).unreadable] == [kept.reason]


@pytest.mark.parametrize("given", ["0016502030", " 16502030 ", 16502030.0])
def test_the_transaction_of_a_reply_has_the_form_of_a_registered_one(given: Any) -> None:
    """Refused and accepted numbers of one send share their parent."""
    parsed = read(reply(delivery(transaction_id=given)))
    assert [report.parent_key for report in parsed.reports] == ["16502030"]
    assert [found.key for found in parsed.discovered] == [TRANSACTION]


@pytest.mark.parametrize("error", [110, "110", {"number": "110"}, {"code": 110.0}])
def test_the_code_of_a_refusal_is_read_in_any_form(error: Any) -> None:
    """As an object, or as the number that stands in its place."""
    parsed = read(reply(delivery(invalid=[{"gsm": 905445359676, "error": error}], valid=[])))
    assert [(report.provider_error, report.status.value) for report in parsed.reports] == [("110", "undeliverable")]
    assert parsed.unreadable == ()


@pytest.mark.parametrize("error", [[110], {"number": [110]}, {"message": "bad"}, "bad", True])
def test_a_refusal_whose_code_cannot_be_read_is_stored_and_named(error: Any) -> None:
    """The number was refused all the same; why, nobody knows."""
    for given in ({"invalid": [{"gsm": 905445359676, "error": error}]}, {"invalid": [], "error": error}):
        parsed = read(reply(delivery(valid=[], **given)))
        assert [(report.provider_error, report.status.value) for report in parsed.reports] == [(None, "rejected")]
        reason = "The `error` of a send reply has no code that can be read."
        assert [(trouble.reason, trouble.once) for trouble in parsed.unreadable] == [(reason, True)]


@pytest.mark.parametrize("name", ["transaction_id", "track_id"])
def test_an_id_of_a_delivery_that_cannot_be_read_is_named(name: str) -> None:
    """The refused number has its row, under the id that is left."""
    parsed = read(reply(delivery(**{name: ["x"]})))
    wrong = f"A delivery of a send reply has a `{name}` that cannot be read."
    assert ([trouble.reason for trouble in parsed.unreadable], len(parsed.reports)) == ([wrong], 1)
