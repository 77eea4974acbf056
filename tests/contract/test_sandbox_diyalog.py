"""The Diyalog stand-in checks signatures and lists as the documents say."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import httpx
import pytest

from ulak.sandbox.server import Sandbox

PATH = "/v1/reporting/getcustomermessaginglist"
VECTOR_DATE = "Tue, 09 Mar 2021 13:28:32 GMT"
VECTOR_BODY = b'{"startDate":1610014524000,"endDate":1617969609000,"customerId":"2337368","pageNumber":1,"pageSize":20}'
WITH_NEWLINE = "T5FbNCUNnk+dqgSaMNC3RspsSk/a+khqqtmt+P5v5Kk="
WITHOUT = "6HtUs+L7O+UiAL+kY9QicOT67t90vq7q8Ltovqz9Lwo="


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A small world whose lives are over at once."""
    with Sandbox(seed=3, speed=20_000) as running:
        running.control("POST", "/limits", {"provider": "diyalog", "requests": 10_000})
        yield running


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    """One HTTP client."""
    with httpx.Client(trust_env=False, timeout=20) as made:
        yield made


def send(
    sandbox: Sandbox,
    client: httpx.Client,
    body: bytes,
    **changed: str,
) -> httpx.Response:
    """One signed request; `date`, `signature`, `key` and `authorization` can be put in."""
    login = sandbox.control("GET", "/accounts")[3]["credentials"]
    date = changed.get("date", formatdate(time.time(), usegmt=True))
    text = b"POST\napplication/json\n" + date.encode() + b"\n" + body + b"\n" + PATH.encode()
    made = hmac.new(login["access_key_secret"].encode(), text, hashlib.sha256).digest()
    signature = changed.get("signature", base64.b64encode(made).decode())
    key = changed.get("key", login["access_key_id"])
    headers = {
        "Content-Type": "application/json",
        "x-dlg-date": date,
        "x-dlg-authorization": changed.get("authorization", f"DLGA {key}:{signature}"),
        "x-dlg-requester-userid": "ulak-demo",
    }
    return client.post(sandbox.urls["diyalog"] + PATH, content=body, headers=headers)


def write(sandbox: Sandbox, **changed: Any) -> bytes:
    """A body that asks for all days of the busiest customer."""
    customer = sandbox.control("GET", "/sends?provider=diyalog")[1]["value"]
    now = int(time.time() * 1000)
    body = {
        "startDate": now - 30 * 86_400_000,
        "endDate": now,
        "customerId": customer,
        "pageNumber": 1,
        "pageSize": 20,
    }
    return json.dumps(body | changed).encode()


def test_the_vectors_are_taken_each_by_its_setting(sandbox: Sandbox, client: httpx.Client) -> None:
    """The vector with a newline by default, the other one where the setting says so."""
    settings: dict[str, Any] = {
        "diyalog_access_key_secret": "TESTSECRET",
        "diyalog_max_skew_seconds": 1e12,
        # The documents' own customer is none of ours.
        "diyalog_unknown_is_empty": True,
    }
    sandbox.control("POST", "/settings", settings)
    statuses = []
    for newline in (True, False):
        sandbox.control("POST", "/settings", {"diyalog_newline": newline})
        statuses += [
            send(sandbox, client, VECTOR_BODY, date=VECTOR_DATE, signature=one).status_code
            for one in (WITH_NEWLINE, WITHOUT)
        ]
    assert statuses == [200, 401, 401, 200]


def test_refusals_are_plain_text_with_the_documented_words(sandbox: Sandbox, client: httpx.Client) -> None:
    """400 three times, 401, 403; and the answer carries the server's time."""
    body = write(sandbox)
    bare = client.post(sandbox.urls["diyalog"] + PATH, content=body)
    old = formatdate(time.time() - 1000, usegmt=True)
    answers = [
        bare,
        send(sandbox, client, body, authorization="Bearer x"),
        send(sandbox, client, body, date="2021-03-09"),
        send(sandbox, client, body, signature="AAAA"),
        send(sandbox, client, body, key="AKOTHER"),
        send(sandbox, client, body, date=old),
    ]
    assert [(one.status_code, one.text) for one in answers] == [
        (400, "Required headers not found"),
        (400, "Authorization failed due to data format not valid"),
        (400, "Authorization failed due to date not valid"),
        (401, "Authorization failed"),
        (401, "Authorization failed"),
        (403, "Request time may not be correct."),
    ]
    assert all(one.headers["content-type"].startswith("text/plain") for one in answers)
    assert all("date" in one.headers for one in answers)


@pytest.mark.parametrize("zone", [" GMT", " +0000", " +0300", ""])
def test_four_spellings_of_the_zone_are_understood(sandbox: Sandbox, client: httpx.Client, zone: str) -> None:
    """GMT, +0000, +0300, and no zone, which means GMT."""
    hours = 3 if zone == " +0300" else 0
    moment = time.gmtime(time.time() + hours * 3600)
    date = time.strftime("%a, %d %b %Y %H:%M:%S", moment) + zone
    assert send(sandbox, client, write(sandbox), date=date).status_code == 200


def test_the_older_header_names_are_taken_too(sandbox: Sandbox, client: httpx.Client) -> None:
    """Date, X-Authorization and X-Requester-UserId."""
    body = write(sandbox)
    request = send(sandbox, client, body).request
    names = {
        "x-dlg-date": "Date",
        "x-dlg-authorization": "X-Authorization",
        "x-dlg-requester-userid": "X-Requester-UserId",
    }
    headers = {new: request.headers[name] for name, new in names.items()}
    headers["Content-Type"] = "application/json"
    answer = client.post(sandbox.urls["diyalog"] + PATH, content=body, headers=headers)
    assert answer.status_code == 200


def test_an_object_has_the_fields_of_the_page_and_a_utc_midnight(sandbox: Sandbox, client: httpx.Client) -> None:
    """Kinds are those of the page; the day is a UTC midnight; newest first."""
    items = send(sandbox, client, write(sandbox)).json()
    assert {name: type(value) for name, value in items[0].items()} == {
        "conversationDetailLink": str,
        "groupId": int,
        "isGroupMessaging": bool,
        "messagingDate": int,
        "nameOfReceiver": str,
        "nameOfSender": str,
        "receiverId": str,
        "sendMessageCount": int,
        "senderId": str,
    }
    days = [item["messagingDate"] for item in items]
    assert {day % 86_400_000 for day in days} == {0}
    assert days == sorted(days, reverse=True)


def test_pages_hold_at_most_twenty_and_filters_hold(client: httpx.Client) -> None:
    """A page size over 20 is cut; group and private are parts of the whole; past the end is []."""
    with Sandbox(seed=1, speed=20_000, scale="demo") as demo:
        demo.control("POST", "/limits", {"provider": "diyalog", "requests": 10_000})
        time.sleep(0.1)
        pages = [send(demo, client, write(demo, pageNumber=page, pageSize=500)).json() for page in (1, 2, 3)]
        group = send(demo, client, write(demo, isGroupMessaging=True)).json()
        private = [
            item
            for page in (1, 2)
            for item in send(demo, client, write(demo, isGroupMessaging=False, pageNumber=page)).json()
        ]
    assert [len(page) for page in pages] == [20, 10, 0]
    assert all(item["groupId"] for item in group)
    assert not any(item["groupId"] for item in private)
    assert len(group) + len(private) == 30


def test_a_wrong_question_is_500_with_text(sandbox: Sandbox, client: httpx.Client) -> None:
    """Missing fields, a range that ends before it starts, page 0."""
    bodies = [
        b"[]",
        b'{"customerId":"1"}',
        write(sandbox, startDate=2, endDate=1),
        write(sandbox, pageNumber=0),
    ]
    answers = [send(sandbox, client, body) for body in bodies]
    assert [one.status_code for one in answers] == [500] * 4
    assert all(one.headers["content-type"].startswith("text/plain") for one in answers)


def test_todays_count_changes_and_yesterdays_past_does_not(client: httpx.Client) -> None:
    """Between two reads of a running world only young days differ."""
    with Sandbox(seed=2, speed=100, scale="demo") as demo:
        start, end = demo.world.start, demo.world.settles_at()
        early = {row["provider_key"]: row["total"] for row in demo.world.truth("diyalog", start)}
        late = {row["provider_key"]: row["total"] for row in demo.world.truth("diyalog", end)}
    changed = {key[-10:] for key in early if early[key] != late[key]}
    days = sorted({key[-10:] for key in late})
    assert changed
    assert changed <= set(days[-2:])
    assert set(early) < set(late)


def test_a_customer_that_is_not_known_is_500_with_text(client: httpx.Client) -> None:
    """Any error is 500 with text; one customer of each world becomes known a while after its sender registered it."""
    with Sandbox(seed=2, speed=30) as young:
        young.control("POST", "/limits", {"provider": "diyalog", "requests": 10_000})
        late = young.control("GET", "/sends?provider=diyalog")[3]["value"]
        stranger = send(young, client, write(young, customerId="999"))
        assert (stranger.status_code, stranger.text) == (500, "Customer not found in the system")
        first = send(young, client, write(young, customerId=late))
        assert (first.status_code, first.text) == (500, "Customer not found in the system")
        end = time.monotonic() + 90
        while (answer := send(young, client, write(young, customerId=late))).status_code == 500:
            assert time.monotonic() < end
            time.sleep(0.1)
        assert answer.json()
        young.control("POST", "/settings", {"diyalog_unknown_is_empty": True})
        assert send(young, client, write(young, customerId="999")).json() == []
