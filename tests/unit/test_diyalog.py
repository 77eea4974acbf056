"""Diyalog: the signature, the walk over pages of twenty, and conversation-days as the documents show them."""

import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from ulak.models.report import DeliveryReport, IdAnswer, TrackedKey, Unreadable
from ulak.models.vocabulary import Granularity, Status
from ulak.providers.adapter import Account, Answer, Callback, DueId, Fetch, Parsed
from ulak.providers.diyalog import ADAPTER, MAX_AGAIN, MAX_PAGES, REFUSALS, STATUS, DiyalogOptions, sign
from ulak.providers.errors import (
    AnswerNotUnderstood,
    PauseAccount,
    ProviderError,
    RequestIsWrong,
    SlowDown,
    TryAgainSoon,
)

FIXTURES = Path(__file__).parent.parent / "fixtures" / "diyalog"
NOW = datetime(2021, 3, 9, 13, 28, 32, tzinfo=UTC)
TODAY = date(2021, 4, 7)
ACCOUNT = Account(
    id="destek",
    provider="diyalog",
    base_url="https://dlg.example",
    timezone=ZoneInfo("Europe/Istanbul"),
    credentials={"access_key_id": "TESTKEY", "access_key_secret": "TESTSECRET", "requester_userid": "ulak"},
    options=DiyalogOptions(),
    lookback_days=3,
)
CUSTOMER = TrackedKey(id_kind="customer", value="113377")


def first_page(key: TrackedKey = CUSTOMER, account: Account = ACCOUNT) -> Fetch:
    """Page one of a customer, as it is planned."""
    (spec,) = ADAPTER.plan_ids(account, [DueId(key=key)], TODAY)
    return Fetch(spec=spec)


def page_of(number: int, *, again: int = 0, tally: int = 0, seen: Mapping[str, int] | None = None) -> Fetch:
    """A later page of the walk."""
    spec = first_page().spec
    params = {**spec.params, "page": number, "again": again, "tally": tally}
    return Fetch(spec=replace(spec, params=params), seen_before=seen or {})


def parse(fetch: Fetch, body: bytes, status: int = 200, account: Account = ACCOUNT, **headers: str) -> Parsed:
    """What the adapter makes of a body."""
    return ADAPTER.parse(account, fetch, Answer(status=status, headers=headers, body=body, received_at=NOW))


def conversation(receiver: int = 1, **changes: Any) -> dict[str, Any]:
    """One private conversation-day, unless changed."""
    given = {"senderId": "113377", "receiverId": str(receiver), "messagingDate": 1617667200000, "sendMessageCount": 5}
    return {**given, "isGroupMessaging": False, "groupId": 0, **changes}


def body_of(*items: Any) -> bytes:
    """An answer body with these items."""
    return json.dumps(items).encode()


def key_of(receiver: int) -> str:
    """The provider key of `conversation(receiver)`."""
    return f"113377:{receiver}:0:2021-04-06"


@pytest.mark.parametrize(
    ("newline", "wanted"),
    [
        (True, "T5FbNCUNnk+dqgSaMNC3RspsSk/a+khqqtmt+P5v5Kk="),
        (False, "6HtUs+L7O+UiAL+kY9QicOT67t90vq7q8Ltovqz9Lwo="),
    ],
)
def test_the_signature_equals_the_vectors(newline: bool, wanted: str) -> None:
    """Both readings of the documents, with and without the newline before the path."""
    body = (FIXTURES / "signature-vector.body").read_bytes()
    path = "/v1/reporting/getcustomermessaginglist"
    sent_at = "Tue, 09 Mar 2021 13:28:32 GMT"
    assert sign("TESTSECRET", sent_at=sent_at, body=body, path=path, newline_before_path=newline) == wanted


def sample_fetch(customer: str = "2337368") -> Fetch:
    """The documented request's time range."""
    fetch = first_page(TrackedKey(id_kind="customer", value=customer))
    params = {**fetch.spec.params, "start": 1610014524000, "end": 1617969609000}
    return Fetch(spec=replace(fetch.spec, params=params))


@pytest.mark.parametrize("newline", [True, False])
def test_the_request_is_the_vector_byte_for_byte(newline: bool) -> None:
    """Method, address, signed headers and body of the vector's request."""
    account = replace(ACCOUNT, options=DiyalogOptions(newline_before_path=newline))
    request = ADAPTER.request(account, sample_fetch(), NOW)
    signature = {
        True: "T5FbNCUNnk+dqgSaMNC3RspsSk/a+khqqtmt+P5v5Kk=",
        False: "6HtUs+L7O+UiAL+kY9QicOT67t90vq7q8Ltovqz9Lwo=",
    }[newline]
    assert (request.method, request.url) == ("POST", "https://dlg.example/v1/reporting/getcustomermessaginglist")
    assert request.body == (FIXTURES / "signature-vector.body").read_bytes()
    assert request.headers == {
        "Content-Type": "application/json",
        "x-dlg-date": "Tue, 09 Mar 2021 13:28:32 GMT",
        "x-dlg-authorization": f"DLGA TESTKEY:{signature}",
        "x-dlg-requester-userid": "ulak",
    }
    assert "TESTKEY" not in repr(request)


def test_the_documented_request_is_made_from_staff_and_group() -> None:
    """`customerId:staffId` and the option `group` give the sample's body, value for value and in its order."""
    account = replace(ACCOUNT, options=DiyalogOptions(group=True))
    request = ADAPTER.request(account, sample_fetch("2337368:45186"), NOW)
    wanted = json.loads((FIXTURES / "getcustomermessaginglist.request.json").read_bytes())
    assert request.body == json.dumps(wanted, separators=(",", ":")).encode()


def test_a_group_option_of_false_is_sent() -> None:
    """Unset leaves the field out; false asks for private conversations only."""
    account = replace(ACCOUNT, options=DiyalogOptions(group=False))
    assert json.loads(ADAPTER.request(account, sample_fetch(), NOW).body)["isGroupMessaging"] is False


def test_the_older_header_names_can_be_chosen() -> None:
    """`header_names = "legacy"` sends the names of the provider's own error table."""
    account = replace(ACCOUNT, options=DiyalogOptions(header_names="legacy"))
    headers = ADAPTER.request(account, sample_fetch(), NOW).headers
    assert list(headers) == ["Content-Type", "Date", "X-Authorization", "X-Requester-UserId"]
    assert headers["X-Authorization"] == "DLGA TESTKEY:T5FbNCUNnk+dqgSaMNC3RspsSk/a+khqqtmt+P5v5Kk="


def test_the_path_after_the_host_is_what_is_signed() -> None:
    """A base address with a prefix and an own path: both stand in the signed path."""
    account = replace(ACCOUNT, base_url="https://dlg.example/gw/", options=DiyalogOptions(path="v2/list"))
    request = ADAPTER.request(account, sample_fetch(), NOW)
    signature = sign("TESTSECRET", sent_at=request.headers["x-dlg-date"], body=request.body, path="/gw/v2/list")
    assert request.url == "https://dlg.example/gw/v2/list"
    assert request.headers["x-dlg-authorization"] == f"DLGA TESTKEY:{signature}"


@pytest.mark.parametrize(("base", "page", "wanted"), [(1, 1, 1), (1, 3, 3), (0, 1, 0), (0, 3, 2)])
def test_pages_are_counted_from_the_page_base(base: int, page: int, wanted: int) -> None:
    """`page_base` 0 for a server whose first page is 0."""
    account = replace(ACCOUNT, options=DiyalogOptions(page_base=base))
    assert json.loads(ADAPTER.request(account, page_of(page), NOW).body)["pageNumber"] == wanted


@pytest.mark.parametrize("value", ["", ":7", "1:2:3", "1:"])
def test_a_malformed_customer_is_a_wrong_request(value: str) -> None:
    """Only `customerId` and `customerId:staffId` can be asked for."""
    with pytest.raises(RequestIsWrong):
        ADAPTER.request(ACCOUNT, sample_fetch(value), NOW)


def test_a_customer_is_asked_for_from_the_lookback_to_the_end_of_tomorrow() -> None:
    """UTC midnight three days ago up to the last millisecond of tomorrow; the id is held by its fetch."""
    spec = first_page().spec
    assert spec.params == {
        "chain": "customer:113377",
        "customer": "113377",
        "start": 1617494400000,  # 2021-04-04T00:00:00.000Z
        "end": 1617926399999,  # 2021-04-08T23:59:59.999Z
        "page": 1,
        "again": 0,
        "tally": 0,
    }
    assert (spec.kind, spec.ids, spec.label) == ("batch", (CUSTOMER,), "conversations page 1")
    assert ADAPTER.plan_window(ACCOUNT, TODAY, TODAY) == ()


def test_the_documented_sample_gives_two_conversation_days() -> None:
    """Counts as `sent`, by UTC date, without names and links; the customer is answered but never settled."""
    raw = json.loads((FIXTURES / "getcustomermessaginglist.json").read_bytes())
    fields = ("senderId", "receiverId", "messagingDate", "sendMessageCount", "isGroupMessaging", "groupId")
    wanted = [
        ("113377:45188:0:2021-04-06", "45188", 5, date(2021, 4, 6), 0),
        ("113377:45186:909267850:2021-04-05", "45186", 7, date(2021, 4, 5), 909267850),
    ]
    assert parse(first_page(), (FIXTURES / "getcustomermessaginglist.json").read_bytes()) == Parsed(
        reports=tuple(
            DeliveryReport(
                granularity=Granularity.CONVERSATION,
                provider_key=key,
                parent_key="113377",
                status=Status.SENT,
                provider_status="sendMessageCount",
                recipient=receiver,
                total=count,
                day=day,
                extra={"is_group": group != 0, "sender": "113377", "group_id": group, "day": day.isoformat()},
                statement={name: item[name] for name in fields},
            )
            for (key, receiver, count, day, group), item in zip(wanted, raw, strict=True)
        ),
        answers=(IdAnswer(key=CUSTOMER, found=True),),
        seen=tuple(key for key, *_ in wanted),
    )


def test_a_count_is_never_called_delivered() -> None:
    """The only row of the status table."""
    assert STATUS == {"sendMessageCount": (Status.SENT, None)}


def test_a_count_of_none_is_a_count() -> None:
    """Counts are corrected in both directions: a day that has come down to 0 is not one about which nothing is said."""
    (report,) = parse(first_page(), body_of(conversation(sendMessageCount=0))).reports
    assert (report.provider_key, report.total) == (key_of(1), 0)


def test_a_customer_whose_last_page_is_empty_was_found_on_those_before() -> None:
    """The last page alone is silent about the rest of the walk."""
    parsed = parse(page_of(1, again=1, seen={key_of(1): 1}), b"[]")
    assert parsed == Parsed(answers=(IdAnswer(key=CUSTOMER, found=True),))


def test_an_empty_list_leaves_the_customer_open() -> None:
    """Nobody found is an answer, not a failure."""
    assert parse(first_page(), b"[]") == Parsed(answers=(IdAnswer(key=CUSTOMER, found=False),))


@pytest.mark.parametrize(
    "changes",
    [
        {"senderId": 113377, "messagingDate": "1617667200000", "sendMessageCount": "5"},
        {"isGroupMessaging": "false", "groupId": "0"},
        {"groupId": None},
        {"isGroupMessaging": None},
        {"messagingDate": 1617667200000 + 86_399_999},
    ],
)
def test_other_spellings_mean_the_same(changes: dict[str, Any]) -> None:
    """Numbers as text, texts as numbers, absent groups, any time of the UTC day."""
    (report,) = parse(first_page(), body_of(conversation(**changes))).reports
    assert (report.provider_key, report.total) == (key_of(1), 5)
    assert report.extra == {"is_group": False, "sender": "113377", "group_id": 0, "day": "2021-04-06"}


@pytest.mark.parametrize(
    "item",
    [
        None,
        "x",
        {},
        conversation(senderId=""),
        conversation(receiverId=None),
        conversation(messagingDate=0),
        conversation(messagingDate=1617667200),  # seconds: no day of 1970
        conversation(messagingDate=-1),
        conversation(messagingDate=10**18),
        conversation(messagingDate=True),
        conversation(sendMessageCount=-1),
        conversation(sendMessageCount=None),
        conversation(isGroupMessaging=True),  # a group without its id
        conversation(groupId=7),  # an id without a group
        conversation(isGroupMessaging=[]),
        conversation(groupId="x"),
    ],
)
def test_an_unreadable_conversation_does_not_sink_its_page(item: Any) -> None:
    """The item goes to quarantine, its neighbour is stored."""
    parsed = parse(first_page(), body_of(item, conversation(2)))
    assert ([report.provider_key for report in parsed.reports], len(parsed.unreadable)) == ([key_of(2)], 1)


def test_parts_of_a_key_cannot_be_mistaken() -> None:
    """A colon inside an id is encoded."""
    (report,) = parse(first_page(), body_of(conversation(senderId="a:b"))).reports
    assert report.provider_key == "a%3Ab:1:0:2021-04-06"


class Server:
    """A customer's list, newest first, into which new conversations may come between two calls."""

    def __init__(self, size: int) -> None:
        """`size` conversations to begin with."""
        self.rows = list(range(size))

    def page(self, number: int) -> bytes:
        """Twenty rows by offset."""
        return body_of(*(conversation(row) for row in self.rows[20 * (number - 1) : 20 * number]))

    def add(self, count: int) -> None:
        """New ones come in front."""
        start = len(self.rows)
        self.rows = [*range(start, start + count), *self.rows]


def walk(server: Server, arrivals: Mapping[int, int]) -> tuple[set[str], list[tuple[int, int]], Parsed]:
    """(keys seen, (again, page) of each call, the last answer); `arrivals`: call number → rows that come before it."""
    fetch, seen, calls = first_page(), Counter[str](), list[tuple[int, int]]()
    while True:
        server.add(arrivals.get(len(calls), 0))
        params = fetch.spec.params
        calls.append((params["again"], params["page"]))
        parsed = parse(fetch, server.page(params["page"]))
        seen.update(parsed.seen)
        if not parsed.children:
            return set(seen), calls, parsed
        assert parsed.answers == ()
        assert parsed.children[0].params["chain"] == params["chain"]
        fetch = Fetch(spec=parsed.children[0], seen_before=dict(seen))


@pytest.mark.parametrize(
    ("size", "arrivals", "calls"),
    [
        (0, {}, [(0, 1)]),
        (19, {}, [(0, 1)]),
        (20, {}, [(0, 1), (0, 2), (1, 1)]),
        (45, {}, [(0, 1), (0, 2), (0, 3), (1, 1)]),
        (45, {1: 3}, [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (2, 1)]),
        (45, {2: 20}, [(0, 1), (0, 2), (0, 3), (0, 4), (1, 1), (1, 2), (2, 1)]),
        (45, {2: 30}, [(0, 1), (0, 2), (0, 3), (0, 4), (1, 1), (1, 2), (1, 3), (2, 1)]),
    ],
)
def test_the_walk_ends_with_everything_seen(size: int, arrivals: dict[int, int], calls: list[tuple[int, int]]) -> None:
    """To the short page, then page one again until nothing is new, whatever came in between."""
    server = Server(size)
    seen, made, last = walk(server, arrivals)
    assert (made, seen) == (calls, {key_of(row) for row in server.rows})
    assert (last.answers, last.unreadable) == ((IdAnswer(key=CUSTOMER, found=bool(server.rows)),), ())


def test_a_list_that_never_rests_is_left_after_some_rounds() -> None:
    """News at every call: the walk ends all the same; the next check goes on."""
    _, calls, last = walk(Server(45), dict.fromkeys(range(1, 100), 1))
    assert (calls[-1][0], last.answers) == (MAX_AGAIN, (IdAnswer(key=CUSTOMER, found=True),))


def test_a_server_that_ignores_the_page_number_is_not_walked_to_the_end() -> None:
    """Full pages without anything new end the walk, and quarantine says so."""
    server = Server(20)
    seen = {key_of(row): 1 for row in server.rows}
    parsed = parse(page_of(4, tally=2, seen=seen), server.page(1))
    assert [child.params["page"] for child in parsed.children] == [1]
    assert parsed.unreadable == (
        Unreadable(
            reason="The list continues past the last page that is read, or its pages repeat themselves.",
            raw=b"",
        ),
    )


@pytest.mark.parametrize("stale", [1, 2])
def test_two_full_pages_without_news_are_walked_past(stale: int) -> None:
    """Rows that came in front during the walk push known ones on to later pages, and the older ones stand behind."""
    server = Server(20)
    seen = {key_of(row): 1 for row in server.rows}
    parsed = parse(page_of(4, tally=stale - 1, seen=seen), server.page(1))
    assert [(child.params["page"], child.params["tally"]) for child in parsed.children] == [(5, stale)]
    assert (parsed.answers, parsed.unreadable) == ((), ())


def test_the_number_of_pages_has_an_end() -> None:
    """After the last page that is read the walk turns back to page one, and quarantine says so."""
    parsed = parse(page_of(MAX_PAGES), Server(20).page(1))
    assert ([child.params["page"] for child in parsed.children], len(parsed.unreadable)) == ([1], 1)


@pytest.mark.parametrize("text", list(REFUSALS))
@pytest.mark.parametrize("form", ["{}", '"{}"', "{}.\n"])
def test_every_documented_refusal_pauses_the_account(text: str, form: str) -> None:
    """HTTP 400 with one of the three texts, or 401: a person must look at the configuration."""
    with pytest.raises(PauseAccount) as caught:
        parse(first_page(), form.format(text.capitalize()).encode(), 401 if text == "authorization failed" else 400)
    assert caught.value.message == REFUSALS[text]


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, b"Bad customer", RequestIsWrong),
        (401, b"", PauseAccount),
        (404, b"", RequestIsWrong),
        (429, b"", SlowDown),
        (500, b"Beklenmeyen hata", TryAgainSoon),
        (502, b"<html>", TryAgainSoon),
        (302, b"", TryAgainSoon),
        (200, b"<html>", AnswerNotUnderstood),
        (200, b"", AnswerNotUnderstood),
        (200, b'{"a": 1}', AnswerNotUnderstood),
        (200, b'"text"', AnswerNotUnderstood),
    ],
)
def test_every_other_answer_says_what_to_do(status: int, body: bytes, error: type[ProviderError]) -> None:
    """Errors are plain text; only the status and the documented texts count."""
    with pytest.raises(error) as caught:
        parse(first_page(), body, status)
    assert type(caught.value) is error


REFUSED = b"Request time may not be correct."


@pytest.mark.parametrize("skew", [timedelta(hours=3), timedelta(minutes=-16), timedelta(days=40)])
def test_the_clock_offset_is_learned_from_a_refusal(skew: timedelta) -> None:
    """The first 403 teaches the server's clock, and the next request is signed by it."""
    with pytest.raises(TryAgainSoon) as caught:
        parse(first_page(), REFUSED, 403, ACCOUNT, date=f"{NOW + skew:%a, %d %b %Y %H:%M:%S} GMT")
    assert caught.value.learned == {"clock_offset_seconds": int(skew.total_seconds())}
    account = replace(ACCOUNT, learned=caught.value.learned)
    headers = ADAPTER.request(account, first_page(), NOW).headers
    assert headers["x-dlg-date"] == f"{NOW + skew:%a, %d %b %Y %H:%M:%S} GMT"


@pytest.mark.parametrize(
    ("learned", "date_header"),
    [
        ({"clock_offset_seconds": 10800}, "Tue, 09 Mar 2021 16:28:40 GMT"),  # already signed by that clock
        ({}, "Tue, 09 Mar 2021 13:28:40 GMT"),  # the clocks agree: it is not the time
        ({}, ""),
        ({}, "yesterday"),
        ({}, "Thu, 01 Jan 1970 00:00:00 GMT"),  # no clock at all
    ],
)
def test_a_refusal_that_the_clock_does_not_explain_pauses_the_account(
    learned: dict[str, int], date_header: str
) -> None:
    """Signing again and again would only hammer."""
    with pytest.raises(PauseAccount):
        parse(first_page(), REFUSED, 403, replace(ACCOUNT, learned=learned), date=date_header)


@pytest.mark.parametrize("learned", ["x", True, None, 1e300])
def test_a_broken_learned_offset_counts_as_none(learned: Any) -> None:
    """The request is signed by our own clock."""
    account = replace(ACCOUNT, learned={"clock_offset_seconds": learned})
    assert ADAPTER.request(account, first_page(), NOW).headers["x-dlg-date"] == "Tue, 09 Mar 2021 13:28:32 GMT"


def test_nobody_may_push_without_the_secret_of_a_bot() -> None:
    """An account without `app_secret` has no webhook."""
    signature = hmac.new(b"", b"{}", hashlib.sha1).hexdigest()
    callback = Callback(tail="", body=b"{}", headers={"x-signature": signature})
    assert ADAPTER.authorise_callback(ACCOUNT, callback) is False


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"Customer not found", "text/plain"),
        (b'"Customer not found"', "application/json"),
        ("Müşteri bulunamadı".encode("windows-1254"), "text/plain; charset=windows-1254"),
        ("Müşteri bulunamadı".encode("iso-8859-9"), "text/plain"),
    ],
)
def test_a_500_with_a_text_is_about_this_one_request(body: bytes, content_type: str) -> None:
    """The API reports any of its errors so: it is there, and the error is no outage."""
    answer = Answer(status=500, headers={"content-type": content_type}, body=body, received_at=NOW)
    with pytest.raises(TryAgainSoon) as caught:
        ADAPTER.parse(ACCOUNT, first_page(), answer)
    assert not caught.value.is_outage


@pytest.mark.parametrize(
    ("status", "body", "content_type"),
    [
        (500, b"", "text/plain"),
        (500, b" \r\n", "text/plain"),
        (500, b"<html>Error</html>", "text/html"),
        (500, b"Error", "text/html; charset=utf-8"),
        (500, b"Internal Server Error", "text/plain"),
        (500, b'"500 Internal Server Error."', "text/plain"),
        (500, b'{"status": 500, "error": "Internal Server Error"}', "application/json"),
        (502, b"Customer not found", "text/plain"),
        (503, b"no healthy upstream", "text/plain"),
    ],
)
def test_a_500_of_what_stands_before_the_api_is_an_outage(status: int, body: bytes, content_type: str) -> None:
    """Nothing of the API itself has answered."""
    answer = Answer(status=status, headers={"content-type": content_type}, body=body, received_at=NOW)
    with pytest.raises(TryAgainSoon) as caught:
        ADAPTER.parse(ACCOUNT, first_page(), answer)
    assert caught.value.is_outage


@pytest.mark.parametrize(
    ("zone", "start", "end"),
    [
        # The UTC day and the local day, both whole.
        ("Europe/Istanbul", datetime(2021, 3, 31, 21, tzinfo=UTC), datetime(2021, 5, 1, tzinfo=UTC)),
        ("America/New_York", datetime(2021, 4, 1, tzinfo=UTC), datetime(2021, 5, 1, 4, tzinfo=UTC)),
        ("UTC", datetime(2021, 4, 1, tzinfo=UTC), datetime(2021, 5, 1, tzinfo=UTC)),
    ],
)
def test_a_range_of_days_is_asked_for_whole_and_page_by_page(zone: str, start: datetime, end: datetime) -> None:
    """Every page of the walk names the days, so that a dead one can be asked for again."""
    account = replace(ACCOUNT, timezone=ZoneInfo(zone))
    plan = ADAPTER.record.plan_range
    assert plan is not None
    (spec,) = plan(account, [DueId(key=CUSTOMER)], date(2021, 4, 1), date(2021, 4, 30))
    asked = json.loads(ADAPTER.request(account, Fetch(spec=spec), NOW).body)
    assert (asked["startDate"], asked["endDate"]) == (start.timestamp() * 1000, end.timestamp() * 1000 - 1)
    (child,) = parse(Fetch(spec=spec), body_of(*map(conversation, range(20)))).children
    assert (child.params["page"], child.params["range"]) == (2, ["2021-04-01", "2021-04-30"])
    assert "range" not in first_page().spec.params


def test_the_record_says_what_configuration_needs() -> None:
    """No public address, three credentials, customers to track, no list."""
    record = ADAPTER.record
    assert (record.base_url, record.credentials, record.id_kinds, record.sweep_window_days) == (
        None,
        (("access_key_id", "access_key_secret", "requester_userid"),),
        ("customer",),
        None,
    )
    assert record.options().model_dump(include=set(record.options.own_names())) == {
        "newline_before_path": True,
        "path": "/v1/reporting/getcustomermessaginglist",
        "page_base": 1,
        "header_names": "x-dlg",
        "group": None,
    }


def test_a_list_with_a_gap_that_became_an_object_is_read_as_a_list() -> None:
    """Every key is an index; any other object is no list of conversations."""
    items = [conversation(1), conversation(2)]
    as_object = json.dumps({"5": items[1], "1": items[0]}).encode()
    assert parse(sample_fetch(), as_object) == parse(sample_fetch(), json.dumps(items).encode())
    with pytest.raises(AnswerNotUnderstood):
        parse(sample_fetch(), json.dumps({"0": items[0], "x": items[1]}).encode())
