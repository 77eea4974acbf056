"""Laws of the Diyalog adapter: no body is more than a count, every request proves itself, the walk loses nothing."""

import base64
import hashlib
import hmac
import json
from collections import Counter
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from ulak.models.keys import join_key
from ulak.models.report import TrackedKey
from ulak.models.vocabulary import Granularity, Status
from ulak.providers.adapter import Account, Answer, DueId, Fetch, Parsed
from ulak.providers.diyalog import ADAPTER, DiyalogOptions
from ulak.providers.errors import OurBug, ProviderError

ACCOUNT = Account(
    id="destek",
    provider="diyalog",
    base_url="https://dlg.example/prefix",
    timezone=ZoneInfo("Europe/Istanbul"),
    credentials={"access_key_id": "TESTKEY", "access_key_secret": "TESTSECRET", "requester_userid": "ulak"},
    options=DiyalogOptions(),
)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def first_page(customer: str, account: Account = ACCOUNT) -> Fetch:
    """Page one of a customer, as it is planned."""
    (spec,) = ADAPTER.plan_ids(account, [DueId(key=TrackedKey(id_kind="customer", value=customer))], date(2026, 3, 1))
    return Fetch(spec=spec)


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.text(st.characters(codec=None), max_size=8)
    | st.sampled_from([1617667200000, 2**70, "\x00", 0])
)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))
items = st.fixed_dictionaries(
    {"nameOfSender": st.just("SECRETNAME"), "conversationDetailLink": st.just("SECRETLINK"), "text": st.just("SECRET")},
    optional={
        "senderId": st.just("113377") | leaves,
        "receiverId": st.just("45188") | leaves,
        "messagingDate": st.just(1617667200000) | leaves,
        "sendMessageCount": st.just(5) | leaves,
        "isGroupMessaging": st.booleans() | leaves,
        "groupId": st.sampled_from([0, 7, None]) | leaves,
    },
)
bodies = st.binary(max_size=200) | st.builds(
    lambda value: json.dumps(value).encode(), st.lists(items | values, max_size=25) | values
)


def texts(value: Any) -> list[str]:
    """Every text inside a JSON value, names of fields included."""
    if isinstance(value, dict):
        return [found for pair in value.items() for part in pair for found in texts(part)]
    if isinstance(value, list):
        return [found for part in value for found in texts(part)]
    return [value] if isinstance(value, str) else []


def read(fetch: Fetch, body: bytes, status: int) -> Parsed | ProviderError:
    """What the adapter says, errors of the tree included."""
    try:
        return ADAPTER.parse(ACCOUNT, fetch, Answer(status=status, body=body, received_at=NOW))
    except ProviderError as error:
        return error


@settings(max_examples=400)
@given(body=bodies, status=st.sampled_from([200, 200, 200, 204, 302, 400, 401, 403, 404, 429, 500]))
def test_no_body_makes_more_than_a_count(body: bytes, status: int) -> None:
    """Any bytes: an error of the tree, or storable conversation rows with status `sent` and nobody's name."""
    said = read(first_page("113377"), body, status)
    if isinstance(said, ProviderError):
        assert not isinstance(said, OurBug)
        assert "TESTSECRET" not in said.message
        return
    assert all(
        (report.granularity, report.status) == (Granularity.CONVERSATION, Status.SENT) for report in said.reports
    )
    assert not any(answer.settled for answer in said.answers)
    stored = "".join(texts([[report.provider_key, report.extra, report.statement] for report in said.reports]))
    assert "SECRET" not in stored
    assert "\x00" not in stored
    stored.encode()  # raises on a lone surrogate


@settings(max_examples=150)
@given(
    customer=st.text(min_size=1, max_size=10),
    staff=st.none() | st.text(min_size=1, max_size=10),
    newline=st.booleans(),
    offset=st.integers(-86400, 86400),
    group=st.none() | st.booleans(),
)
def test_a_server_can_verify_every_request(
    customer: str, staff: str | None, newline: bool, offset: int, group: bool | None
) -> None:
    """From the bytes, the headers and the path alone a server computes the same signature and reads the same ids."""
    options = DiyalogOptions(newline_before_path=newline, group=group)
    account = Account(
        id="destek",
        provider="diyalog",
        base_url=ACCOUNT.base_url,
        timezone=ACCOUNT.timezone,
        credentials=ACCOUNT.credentials,
        options=options,
        learned={"clock_offset_seconds": offset},
    )
    fetch = first_page(join_key(customer) if staff is None else join_key(customer, staff), account)
    request = ADAPTER.request(account, fetch, NOW)
    sent_at, path = request.headers["x-dlg-date"], urlsplit(request.url).path
    text = "\n".join([request.method, request.headers["Content-Type"], sent_at, request.body.decode()])
    signed = text + ("\n" if newline else "") + path
    digest = hmac.new(b"TESTSECRET", signed.encode(), hashlib.sha256).digest()
    assert request.headers["x-dlg-authorization"] == f"DLGA TESTKEY:{base64.b64encode(digest).decode()}"
    assert (parsedate_to_datetime(sent_at) - NOW).total_seconds() == offset
    read = json.loads(request.body)
    assert (read["customerId"], read.get("staffId"), read.get("isGroupMessaging")) == (customer, staff, group)


def conversation(receiver: int) -> dict[str, Any]:
    """One private conversation-day."""
    return {"senderId": "1", "receiverId": receiver, "messagingDate": 1617667200000, "sendMessageCount": 5}


@settings(max_examples=150)
@given(size=st.integers(0, 100), arrivals=st.dictionaries(st.integers(1, 8), st.integers(1, 19), max_size=2))
def test_the_walk_sees_all_that_came_in_front_of_it(size: int, arrivals: dict[int, int]) -> None:
    """Fewer new rows than a page holds push the list on between two calls: at the end every row has been seen."""
    rows, fetch, seen, calls = list(range(size)), first_page("1"), Counter[str](), 0
    came = 0
    while True:
        new = arrivals.get(calls, 0)
        rows, came, calls = [*range(1000 + came, 1000 + came + new), *rows], came + new, calls + 1
        page = fetch.spec.params["page"]
        body = json.dumps([conversation(row) for row in rows[20 * (page - 1) : 20 * page]]).encode()
        said = ADAPTER.parse(ACCOUNT, fetch, Answer(status=200, body=body, received_at=NOW))
        seen.update(said.seen)
        assert calls < 100
        if not said.children:
            break
        fetch = Fetch(spec=said.children[0], seen_before=dict(seen))
    assert set(seen) == {f"1:{row}:0:2021-04-06" for row in rows}
