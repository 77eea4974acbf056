"""The webhook of a Diyalog bot: messages that were delivered or read, signed by the bot's secret."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from ulak.models.report import DeliveryReport
from ulak.models.vocabulary import Granularity, Source, Status
from ulak.providers.adapter import Account, Callback, Parsed
from ulak.providers.diyalog import ADAPTER
from ulak.providers.errors import AnswerNotUnderstood, RequestIsWrong

SECRET = "ffeceefiaae0aec8naich2queid1thoohi3"
ACCOUNT = Account(
    id="destek",
    provider="diyalog",
    base_url="https://dlg.example",
    timezone=ZoneInfo("Europe/Istanbul"),
    credentials={"app_secret": SECRET},
)
AT = datetime(2019, 6, 10, 19, 46, 8, 593000, tzinfo=UTC)


def event(**content: Any) -> dict[str, Any]:
    """The documented entry around one event."""
    head = {
        "sender": {"id": "1614379680"},
        "recipient": {"appCustomerId": "70021", "id": "243540663"},
        "timestamp": 1560195968593,
    }
    return {"id": "OTP", "time": 1560195973608, "messaging": [head | content]}


def read(*entries: Any) -> Parsed:
    """What the adapter reads."""
    body = json.dumps({"object": "dialog", "entry": list(entries)}).encode()
    return ADAPTER.parse_callback(ACCOUNT, Callback(tail="", body=body))


@pytest.mark.parametrize(("name", "status"), [("delivery", Status.DELIVERED), ("reads", Status.READ)])
def test_each_message_of_an_event_is_a_row(name: str, status: Status) -> None:
    """The documented sample, with a second message."""
    content = {"mids": ["messageId-92", 93], "watermark": 1560195968593}
    parsed = read(event(**{name: content}))
    assert [report.provider_key for report in parsed.reports] == ["messageId-92", "93"]
    assert parsed.reports[0] == DeliveryReport(
        granularity=Granularity.MESSAGE,
        provider_key="messageId-92",
        recipient="70021",
        status=status,
        provider_status=name,
        done_at=AT,
        extra={"bot": "1614379680", "user_id": "243540663"},
        source=Source.CALLBACK,
        as_of=AT,
        provider_time=AT,
        statement={
            "sender": {"id": "1614379680"},
            "recipient": {"appCustomerId": "70021", "id": "243540663"},
            "timestamp": 1560195968593,
            name: {"mids": ["messageId-92"], "watermark": 1560195968593},
        },
    )


@pytest.mark.parametrize(
    "content",
    [
        {"delivery": {"watermark": 1560195968593}},
        {"delivery": {"mids": [], "watermark": 1560195968593}},
        {"reads": {"mids": None, "watermark": 1560195968593}},
        {"messageEcho": {"app_id": 1614379680, "is_echo": True, "mid": "messageId-92"}},
        {"message": {"mid": "messageId-92"}},
    ],
)
def test_what_names_no_delivered_message_says_nothing(content: dict[str, Any]) -> None:
    """A watermark is about messages that it does not name; an echo is no delivery."""
    assert read(event(**content)) == Parsed()


@pytest.mark.parametrize(
    "entry",
    [
        event(),
        event(failure={"mids": ["x"]}),
        event(delivery={"mids": "x"}),
        event(delivery={"mids": [None]}),
        event(delivery=None),
        "x",
        {"messaging": "x"},
        {"messaging": [None]},
    ],
)
def test_what_is_not_documented_is_kept_and_the_other_events_count(entry: Any) -> None:
    """What is kept is a body again."""
    parsed = read(entry, event(reads={"mids": ["a"]}))
    assert [report.provider_key for report in parsed.reports] == ["a"]
    (kept,) = parsed.unreadable
    again = ADAPTER.parse_callback(ACCOUNT, Callback(tail="", body=kept.raw))
    assert [each.reason for each in again.unreadable] == [kept.reason]


def test_an_id_that_cannot_be_read_never_sinks_the_others_of_its_event() -> None:
    """The good ones are stored; the event is kept, to be read again."""
    parsed = read(event(delivery={"mids": ["x", None, "y"]}, reads={"mids": ["x"]}))
    assert [(report.provider_key, report.status.value) for report in parsed.reports] == [
        ("x", "delivered"),
        ("y", "delivered"),
        ("x", "read"),
    ]
    assert len(parsed.unreadable) == 1


@pytest.mark.parametrize("nothing", [None, [], {}, ""])
def test_no_ids_may_be_written_in_any_way(nothing: Any) -> None:
    """A watermark alone names no message."""
    assert read(event(delivery={"mids": nothing, "watermark": 1560195968593})) == Parsed()


def test_lists_with_a_gap_are_read() -> None:
    """As everywhere, PHP's objects with indexes as keys are lists."""
    inner = event(delivery={"mids": {"1": "x", "3": "y"}})
    body = {"object": "dialog", "entry": {"2": {**inner, "messaging": {"1": inner["messaging"][0]}}}}
    parsed = ADAPTER.parse_callback(ACCOUNT, Callback(tail="", body=json.dumps(body).encode()))
    assert [report.provider_key for report in parsed.reports] == ["x", "y"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"timestamp": "dün"}, "An event has a `timestamp` or `watermark` that cannot be read."),
        ({"timestamp": 1560195968}, "An event has a `timestamp` or `watermark` that cannot be read."),
        ({"recipient": "x"}, "An event has a `sender` or `recipient` that cannot be read."),
    ],
    ids=["text", "seconds", "recipient"],
)
def test_an_optional_part_that_cannot_be_read_is_named_once(content: dict[str, Any], reason: str) -> None:
    """The message counts all the same, and gets no time of 1970."""
    parsed = read(event(**content, delivery={"mids": ["x"]}))
    assert [(trouble.reason, trouble.once) for trouble in parsed.unreadable] == [(reason, True)]
    assert [report.done_at for report in parsed.reports] == [None if "timestamp" in content else AT]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"entry": {}}'])
def test_a_body_without_events_is_not_understood(body: bytes) -> None:
    """It is kept as a whole."""
    with pytest.raises(AnswerNotUnderstood):
        ADAPTER.parse_callback(ACCOUNT, Callback(tail="", body=body))


def test_there_is_no_send_reply() -> None:
    """Diyalog's holds no report."""
    with pytest.raises(RequestIsWrong):
        ADAPTER.parse_callback(ACCOUNT, Callback(tail="send_reply", body=b'{"entry": []}'))


def test_the_signature_is_read_in_hex_and_base64_with_and_without_a_prefix() -> None:
    """How it is written is not documented; of the right body, by the right secret, it always is the same number."""
    body = b'{"entry": []}'
    digest = hmac.new(SECRET.encode(), body, hashlib.sha1)
    for text in (digest.hexdigest(), digest.hexdigest().upper(), base64.b64encode(digest.digest()).decode()):
        for given in (text, f"sha1={text}", f" SHA1={text} "):
            for sent in (body, body + b" "):
                callback = Callback(tail="", body=sent, headers={"x-signature": given})
                assert ADAPTER.authorise_callback(ACCOUNT, callback) is (sent == body)


@pytest.mark.parametrize("given", ["", "sha1=", "x", "é", "sha256=" + "0" * 64, "=" * 28])
def test_any_other_signature_is_refused(given: str) -> None:
    """Nothing of it makes the comparison fail."""
    assert ADAPTER.authorise_callback(ACCOUNT, Callback(tail="", body=b"", headers={"x-signature": given})) is False
