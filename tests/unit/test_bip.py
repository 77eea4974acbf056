"""BiP: notices, send reports and send replies, and who may push them."""

import base64
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from ulak.models.report import DeliveryReport
from ulak.models.vocabulary import Granularity, Reason, Source, Status
from ulak.providers.adapter import Account, Answer, Callback, Fetch, FetchSpec, Parsed
from ulak.providers.bip import ADAPTER, RECORD, RESULT, send_time
from ulak.providers.codes import explain_codes
from ulak.providers.errors import AnswerNotUnderstood, OurBug, RequestIsWrong

FIXTURES = Path(__file__).parents[1] / "fixtures" / "bip"
TODAY, NOW = date(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC)
SENDTIME = datetime(2018, 5, 18, 13, 11, 58, 633000, tzinfo=UTC)
BASIC = "Basic " + base64.b64encode("ulak:şifre:1".encode()).decode()


def account(**options: Any) -> Account:
    """An account with its callback user."""
    return Account(
        id="bip-1",
        provider="bip",
        base_url="https://tims.turkcell.com.tr/tes/rest/spi",
        timezone=ZoneInfo("Europe/Istanbul"),
        credentials={"callback_user": "ulak", "callback_password": "şifre:1"},
        options=RECORD.options.from_stored(options),
    )


def sample(name: str) -> Any:
    """A recorded body."""
    return json.loads((FIXTURES / name).read_bytes())


def parse(body: Any, tail: str = "report", **options: Any) -> Parsed:
    """What the adapter reads in a pushed or handed-over body."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ADAPTER.parse_callback(account(**options), Callback(tail=tail, body=raw))


def notice(**fields: Any) -> dict[str, Any]:
    """The documented notice with some fields changed (`...`: left out)."""
    changed: dict[str, Any] = sample("notice.json") | fields
    return {name: value for name, value in changed.items() if value is not ...}


def report(*items: Any, **fields: Any) -> dict[str, Any]:
    """A send report with these items."""
    return {"reqid": 12, "txnid": "t:1", "resultcode": 0, "list": list(items)} | fields


def item(receiver: Any = "905399999999", resultcode: Any = 0, reportid: Any = "r-1", **fields: Any) -> dict[str, Any]:
    """One receiver of a send report."""
    return fields | {
        "receiver": receiver,
        "resultcode": resultcode,
        "reportid": reportid,
        "numberofmessage": 1,
        "totalnumberofmessage": fields.get("totalnumberofmessage", 1),
    }


def test_the_documented_report_becomes_exactly_these_rows() -> None:
    """The vendor's asynchronous sample: one message taken over, one refused for its quota, both of one send."""
    head = {"reqid": 12, "txnid": "Broadcast-1Content", "send_resultcode": 0}
    raw = [head | each for each in sample("report.json")["list"]]
    common: dict[str, Any] = {
        "granularity": Granularity.MESSAGE,
        "parent_key": "Broadcast-1Content",
        "client_ref": "Broadcast-1Content",
        "recipient": "9053XXXXXXXX",
        "source": Source.CALLBACK,
    }
    assert parse(sample("report.json")) == Parsed(
        reports=(
            DeliveryReport(
                **common,
                provider_key="6a7Q8-1502",
                status=Status.ENROUTE,
                provider_status="0",
                extra={"numberofmessage": 1, "totalnumberofmessage": 1, "reqid": "12"},
                statement=raw[0],
            ),
            DeliveryReport(
                **common,
                provider_key="Broadcast-1Content:9053XXXXXXXX:1",
                status=Status.REJECTED,
                reason=Reason.QUOTA,
                provider_status="312",
                provider_error="312",
                extra={"totalnumberofmessage": 1, "reqid": "12"},
                statement=raw[1],
            ),
        )
    )


def test_a_field_of_a_notice_that_is_not_documented_is_not_kept() -> None:
    """It may hold the text or a name, whatever it is called."""
    notice = sample("notice.json")
    strange = {**notice, "ctext": "Merhaba", "report": {**notice["report"], "name": "Ada"}}
    assert parse(strange, "") == parse(notice, "")


def test_the_documented_send_reply_becomes_exactly_this_row() -> None:
    """The synchronous sample, handed over by the sender."""
    raw = {"txnid": "Broadcast-1Content", "send_resultcode": 0} | sample("send_reply.json")["list"][0]
    assert parse(sample("send_reply.json"), "send_reply") == Parsed(
        reports=(
            DeliveryReport(
                granularity=Granularity.MESSAGE,
                provider_key="6a7Q8-1502",
                parent_key="Broadcast-1Content",
                client_ref="Broadcast-1Content",
                recipient="9053XXXXXXXX",
                status=Status.ENROUTE,
                provider_status="0",
                extra={"numberofmessage": 1, "totalnumberofmessage": 1},
                source=Source.SEND_REPLY,
                statement=raw,
            ),
        )
    )


def test_the_documented_notice_becomes_exactly_this_row() -> None:
    """A notice knows its message by `reportid` alone; its own `txnid` is BiP's and names no send of ours."""
    assert parse(sample("notice.json"), "") == Parsed(
        reports=(
            DeliveryReport(
                granularity=Granularity.MESSAGE,
                provider_key="08oyS-9",
                recipient="9053XXXXXXXX",
                status=Status.DELIVERED,
                provider_status="0",
                done_at=SENDTIME,
                extra={"notice_txnid": "Gp2s9-58", "msgid": "89267368"},
                source=Source.CALLBACK,
                as_of=SENDTIME,
                provider_time=SENDTIME,
                statement=sample("notice.json"),
            ),
        )
    )


@pytest.mark.parametrize(
    ("reporttype", "status"), [(0, Status.DELIVERED), ("0", Status.DELIVERED), (1, Status.READ), ("1", Status.READ)]
)
def test_notices_say_delivered_and_read(reporttype: object, status: Status) -> None:
    """The two known types, as number or text."""
    parsed = parse(notice(report={"reportid": "r", "reporttype": reporttype}), "")
    assert [(one.status, one.done_at) for one in parsed.reports] == [(status, SENDTIME)]
    assert parsed.unreadable == ()


@pytest.mark.parametrize("reporttype", [2, "2", -1, "read", "0.0"])
def test_an_unknown_notice_type_is_kept_raw_and_never_final(reporttype: object) -> None:
    """What the map does not know is unknown and alarmed."""
    parsed = parse(notice(report={"reportid": "r", "reporttype": reporttype}), "")
    assert [(one.status, one.provider_status, one.done_at) for one in parsed.reports] == [
        (Status.UNKNOWN, str(reporttype), None)
    ]
    assert [trouble.provider_key for trouble in parsed.unreadable] == ["r"]


def test_the_meaning_of_notice_types_is_an_option() -> None:
    """An account may map them otherwise; a status that no notice can mean, or that does not exist, is unknown."""
    words = {"0": "read", "1": "undeliverable", "2": "unreported", "3": "nonsense", "4": 5}
    found = [
        parse(notice(report={"reportid": "r", "reporttype": code}), "", reporttypes=words).reports[0].status
        for code in range(6)
    ]
    assert found == [Status.READ, Status.UNDELIVERABLE, *[Status.UNKNOWN] * 4]


@pytest.mark.parametrize("kind", ["M", "E"])
def test_messages_and_follow_events_of_users_are_accepted_and_not_kept(kind: str) -> None:
    """They come to the same address and hold what users write."""
    assert parse({"type": kind, "sender": "905399999999", "content": "private"}, "") == Parsed()


@pytest.mark.parametrize(
    "body",
    [
        notice(type="X"),
        notice(type=...),
        notice(type=["M"]),
        notice(report=...),
        notice(report=[]),
        notice(report={"reporttype": 0}),
        notice(report={"reportid": "r"}),
        notice(report={"reportid": True, "reporttype": 0}),
        notice(report={"reportid": "r", "reporttype": True}),
    ],
)
def test_a_notice_of_another_shape_is_only_unreadable(body: dict[str, Any]) -> None:
    """Without type, `reportid` or `reporttype` nothing is written."""
    parsed = parse(body, "")
    assert (parsed.reports, len(parsed.unreadable)) == ((), 1)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("18.05.2018 16:11:58.633 +0300", SENDTIME),
        ("18.05.2018 13:11:58 +0000", SENDTIME.replace(microsecond=0)),
        ("18.05.2018 09:11:58.6 -04:00", SENDTIME.replace(microsecond=600000)),
        ("18.05.2018 16:11:58,633 +03", SENDTIME),
        ("18.05.2018 13:11:58.633000999Z", SENDTIME),
        ("18.05.2018 13:11:58.633 GMT", SENDTIME),
        ("31.02.2018 16:11:58.633 +0300", None),
        ("01.01.0001 00:00:00 +0300", None),
        ("01.01.1970 02:00:00.000 +0200", None),  # a clock that was never set
        ("31.12.9999 23:59:59 -1200", None),
        ("18.05.2018 16:11:58.633", None),
        ("18.05.2018 16:11:58.633 +9900", None),
        (1526649118633, None),
        (None, None),
    ],
)
def test_send_times_carry_their_own_offset(text: object, moment: datetime | None) -> None:
    """The vendor's form only; anything else is no time, and then the notice counts as the earliest possible."""
    assert send_time(text) == moment
    assert parse(notice(sendtime=text), "").reports[0].as_of == moment


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        *((code, Reason.OTHER) for code in (1, 300, 302, 303, 304, 305, 306, 307, 309, 310, 311, 999, -1)),
        (301, Reason.INVALID_NUMBER),
        (308, Reason.QUOTA),
        (312, Reason.QUOTA),
    ],
)
def test_every_result_code_but_zero_is_a_refusal(code: int, reason: Reason) -> None:
    """0 is success and everything else failure, for a receiver and for a whole send."""
    for given in (code, str(code)):
        one = parse(report(item(resultcode=given, reportid=None))).reports[0]
        assert (one.status, one.reason, one.provider_error) == (Status.REJECTED, reason, str(code))
        assert one.provider_key == "t%3A1:+905399999999:1"
        whole = parse({"txnid": "t:1", "resultcode": given}, "send_reply").reports[0]
        assert whole == DeliveryReport(
            granularity=Granularity.ORDER,
            provider_key="t:1",
            parent_key="t:1",
            client_ref="t:1",
            status=Status.REJECTED,
            reason=reason,
            provider_status=str(code),
            provider_error=str(code),
            source=Source.SEND_REPLY,
            statement={"txnid": "t:1", "resultcode": given},
        )
    assert len(RESULT) == 14


def test_failed_receivers_are_counted_over_all_items_of_the_receiver() -> None:
    """The key of a failure does not depend on how the receiver is spelled, nor on whether other items could be read."""
    parsed = parse(
        report(
            item(reportid="r-1"),
            item(receiver="+90 539 999 99 99", resultcode=312, reportid=None),
            item(receiver="nbVj/RZxGvcn/gdEYJ0MSg==", resultcode=301, reportid=None),
            item(resultcode=None),
            item(resultcode=308, reportid=None),
        )
    )
    assert [one.provider_key for one in parsed.reports] == [
        "r-1",
        "t%3A1:+905399999999:2",
        "t%3A1:nbVj/RZxGvcn/gdEYJ0MSg==:1",
        "t%3A1:+905399999999:4",
    ]
    assert [one.recipient for one in parsed.reports][2] == "nbVj/RZxGvcn/gdEYJ0MSg=="
    assert len(parsed.unreadable) == 1


@pytest.mark.parametrize(
    "bad",
    [
        5,
        None,
        [],
        {},
        item(reportid=None),
        item(reportid=""),
        item(resultcode=True),
        item(resultcode="x"),
        item(receiver=None, resultcode=312),
    ],
)
def test_one_bad_item_never_sinks_the_others(bad: object) -> None:
    """An item without its key or code is kept aside; the others count."""
    parsed = parse(report(bad, item(receiver="905388888888", reportid="r-2")))
    assert ([one.provider_key for one in parsed.reports], len(parsed.unreadable)) == (["r-2"], 1)


def test_what_is_kept_of_a_bad_item_makes_the_same_keys_when_it_is_read_again() -> None:
    """Kept is a body with the send and all items of the receiver, so a failure has the key it would have had."""
    first, other = item(resultcode=312, reportid=None), item(receiver="905388888888", reportid="r-2")
    bad = item(resultcode="?", reportid=None)
    (trouble,) = parse(report(first, other, bad)).unreadable
    assert json.loads(trouble.raw) == {"reqid": 12, "txnid": "t:1", "resultcode": 0, "list": [first, bad]}
    understood = json.loads(trouble.raw.replace(b'"?"', b"308"))
    assert [one.provider_key for one in parse(understood).reports] == [
        "t%3A1:+905399999999:1",
        "t%3A1:+905399999999:2",
    ]


@pytest.mark.parametrize(
    ("places", "keys"),
    [
        ([1], [1]),
        ([2], [2]),
        (["3"], [3]),
        ([2, 1], [2, 1]),
        ([None, None], [1, 2]),
        ([None, 5], [1, 5]),
        ([0, -1], [1, 2]),
        ([2, 2], [1, 2]),
        ([2, None], [1, 2]),
    ],
)
def test_a_failure_is_known_by_its_place_among_the_messages_of_its_receiver(places: list[Any], keys: list[int]) -> None:
    """The stated place; the position where none is stated; positions for all where two would share a place."""
    items = [item(resultcode=312, reportid=None, totalnumberofmessage=place) for place in places]
    found = [one.provider_key for one in parse(report(*items)).reports]
    assert found == [f"t%3A1:+905399999999:{n}" for n in keys]


def test_a_send_that_is_reported_in_two_bodies_keeps_both_failures() -> None:
    """`reqid` names the delivery of a report, `totalnumberofmessage` the message."""
    bodies = [
        report(item(resultcode=312, reportid=None, totalnumberofmessage=place), reqid=reqid)
        for place, reqid in ((1, 11), (2, "12"))
    ]
    found = [one for body in bodies for one in parse(body).reports]
    assert [one.provider_key for one in found] == ["t%3A1:+905399999999:1", "t%3A1:+905399999999:2"]
    assert [one.extra["reqid"] for one in found] == ["11", "12"]
    assert [one.statement["reqid"] for one in found] == [11, "12"]
    assert {one.statement["send_resultcode"] for one in found} == {0}


def test_an_accepted_send_without_a_list_says_nothing_yet() -> None:
    """An asynchronous send is only accepted; the report comes later."""
    for body in (report(), {"txnid": "t", "resultcode": "0"}, {"txnid": "t", "resultcode": 0, "list": None}):
        assert parse(body, "send_reply") == Parsed()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        {},
        {"txnid": "t"},
        {"resultcode": 312},
        {"txnid": "t", "resultcode": True},
        {"txnid": "t", "resultcode": 0, "list": 7},
    ],
)
def test_a_body_that_says_nothing_is_not_understood(body: Any) -> None:
    """Neither a list nor a result with its send."""
    with pytest.raises(AnswerNotUnderstood):
        parse(body)


@pytest.mark.parametrize(
    ("header", "ip", "options", "allowed"),
    [
        (BASIC, None, {}, True),
        (BASIC.replace("Basic", "basic"), "1.2.3.4", {}, True),
        (BASIC + "x", None, {}, False),
        ("Bearer " + BASIC[6:], None, {}, False),
        ("Basic " + base64.b64encode(b"ulak:wrong").decode(), None, {}, False),
        ("Basic ", None, {}, False),
        ("Basic ş", None, {}, False),
        ("", None, {}, False),
        (BASIC, "86.108.192.4", {"allowed_ips": ["86.108.192.4"]}, True),
        (BASIC, "::ffff:86.108.192.4", {"allowed_ips": ["86.108.192.0/24"]}, True),
        (BASIC, "86.108.193.4", {"allowed_ips": ["86.108.192.0/24", "2001:db8::/32"]}, False),
        (BASIC, None, {"allowed_ips": ["86.108.192.4"]}, False),
        (BASIC, "86.108.192.4", {"allowed_ips": ["nonsense"]}, False),
        ("", "86.108.192.4", {"allowed_ips": ["86.108.192.4"]}, False),
    ],
)
def test_only_the_callback_user_from_an_allowed_address_may_push(
    header: str, ip: str | None, options: dict[str, Any], allowed: bool
) -> None:
    """Basic authentication always, the address list where there is one; whatever cannot be read is refused."""
    callback = Callback(tail="", body=b"", headers={"authorization": header}, client_ip=ip)
    assert ADAPTER.authorise_callback(account(**options), callback) is allowed


@pytest.mark.parametrize("user", ["", "ulak"])
def test_an_account_without_a_password_lets_nobody_in(user: str) -> None:
    """Empty credentials never match empty credentials."""
    bare = Account(
        id="b",
        provider="bip",
        base_url="",
        timezone=ZoneInfo("UTC"),
        credentials={"callback_user": user} if user else {},
        options=RECORD.options(),
    )
    header = "Basic " + base64.b64encode(f"{user}:".encode()).decode()
    empty = Callback(tail="", body=b"", headers={"authorization": header})
    assert ADAPTER.authorise_callback(bare, empty) is False


def test_bip_can_only_listen() -> None:
    """Nothing is planned, asked or parsed; an unknown tail is refused."""
    assert ADAPTER.plan_window(account(), TODAY, TODAY) == ()
    assert ADAPTER.plan_ids(account(), (), TODAY) == ()
    fetch = Fetch(spec=FetchSpec(kind="batch", params={}))
    with pytest.raises(RequestIsWrong):
        ADAPTER.request(account(), fetch, NOW)
    with pytest.raises(OurBug):
        ADAPTER.parse(account(), fetch, Answer(status=200))
    with pytest.raises(RequestIsWrong):
        parse(report(), "elsewhere")


@pytest.mark.parametrize("wrap", [lambda item: [item], lambda item: {"1": item}, lambda item: item])
def test_the_receivers_are_read_as_array_as_indexed_object_and_as_the_one_object_of_the_field_table(wrap: Any) -> None:
    """The field table says object, the samples show an array, and PHP writes a list with a gap as an object."""
    item = {"receiver": "905301234567", "resultcode": 312}
    [report] = parse({"txnid": "t", "resultcode": 0, "list": wrap(item)}).reports
    assert (report.provider_key, report.provider_status) == ("t:+905301234567:1", "312")


@pytest.mark.parametrize("strange", ["x", {"a": {"receiver": "905301234567"}}, {"0": 1, "b": 2}])
def test_receivers_in_another_form_are_not_understood(strange: Any) -> None:
    """Nothing is guessed."""
    with pytest.raises(AnswerNotUnderstood):
        parse({"txnid": "t", "resultcode": 0, "list": strange})


@pytest.mark.parametrize("nothing", [None, [], {}, ""])
def test_a_send_that_failed_whole_is_told_however_its_empty_list_is_written(nothing: Any) -> None:
    """The row of the send must not be lost for the form of a list that is empty anyway."""
    body = {"reqid": 7, "txnid": "T1", "resultcode": 308, "list": nothing}
    parsed = parse(body)
    assert [(report.provider_key, report.status) for report in parsed.reports] == [("T1", Status.REJECTED)]


@pytest.mark.parametrize("name", ["txnid", "reqid"])
def test_a_head_of_a_report_that_cannot_be_read_is_named(name: str) -> None:
    """Its receivers count all the same."""
    item = {"receiver": "905301234567", "resultcode": 0, "reportid": "r1"}
    body = {"reqid": 7, "txnid": "T1", "resultcode": 0, "list": [item], name: ["x"]}
    parsed = parse(body)
    assert [trouble.reason for trouble in parsed.unreadable] == [f"A report has a `{name}` that cannot be read."]
    assert [report.provider_key for report in parsed.reports] == ["r1"]


@pytest.mark.parametrize(
    ("status", "code", "meaning"),
    [
        (Status.ENROUTE, "0", "accepted"),
        (Status.DELIVERED, "0", "delivered"),
        (Status.READ, "1", "read"),
        # Where the account's options give the number another meaning.
        (Status.DELIVERED, "1", "delivered"),
        (Status.REJECTED, "1", "general error"),
        (Status.REJECTED, "301", "the person is no BiP user"),
        (Status.READ, "7", None),
    ],
)
def test_a_number_that_notices_and_results_share_means_what_the_status_says(
    status: Status, code: str, meaning: str | None
) -> None:
    """A message that was read shows no general error."""
    row = {"provider": "bip", "granularity": "message", "provider_error": None}
    explained = explain_codes({**row, "status": status, "provider_status": code})
    assert explained["provider_status_meaning"] == meaning
