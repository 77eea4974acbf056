"""A Diyalog account as a whole: errors of one customer, days on demand, people found, and the webhook of its bot."""

import hashlib
import hmac
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from api_server import Said, Server, serving
from command_line import Ulak, ulak
from driving import Driver, make_runtime, scalar, sent_by
from ledger_acts import add_account, add_ids, deliveries, execute, row
from sqlalchemy import Engine, text
from stored_rows import stored_rows
from task_api import Api, api
from tiny_provider import Reply, Request, TinyProvider

from ulak.api.app import make_api
from ulak.core import clock
from ulak.models.accounts import apply
from ulak.models.database import transaction
from ulak.models.deliveries import upsert
from ulak.models.ledger.deadletters import list_dead
from ulak.models.quarantine import new_key
from ulak.models.report import DeliveryReport
from ulak.models.vocabulary import Granularity, Status
from ulak.providers.accounts import parse_accounts
from ulak.providers.http import HttpDoor
from ulak.tasks.messages import poll_account
from ulak.tasks.runtime import CredentialCache, Runtime
from ulak.tasks.steps.ondemand import open_on_demand
from ulak.tasks.steps.planning import plan_poll
from ulak.tasks.steps.retrying import retry_dead

__all__ = ["api", "ulak"]

pytestmark = pytest.mark.timeout(200)

QUICK = {"base_seconds": 0.05, "cap_seconds": 0.1, "max_attempts": 6}
DAY = 86_400_000
SAID = "Customer not found, call 0532 123 45 67 or see https://dlg.example/x?token=1"


def conversation(customer: str, day: date, **fields: Any) -> dict[str, Any]:
    """One conversation-day of a customer."""
    stamp = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)
    given = {"senderId": customer, "receiverId": "45188", "messagingDate": stamp, "sendMessageCount": 5}
    return given | {"isGroupMessaging": False, "groupId": 0, **fields}


def listing(*items: Any) -> Reply:
    """A page of conversations."""
    return Reply(json.dumps(items).encode())


@pytest.fixture
def runtime(migrated_database: Engine) -> Runtime:
    """A runtime whose credentials are always found."""
    return make_runtime(migrated_database, resolve=lambda _: "secret")


def account_at(runtime: Runtime, tiny: TinyProvider, **given: Any) -> str:
    """A Diyalog account at the tiny provider, eager enough for a test."""
    values = {"requests": 50, "concurrency": 1, "retry": QUICK, "poll": {"time_factor": 0.01}, **given}
    return add_account(runtime.engine, provider="diyalog", base_url=tiny.address("dlg"), **values)


# ------------------------------------------------------------------------------- errors of one customer


def test_an_error_of_one_customer_is_no_outage_and_its_text_is_kept(runtime: Runtime) -> None:
    """The others are asked as usual meanwhile; the request itself is given up by the account's own policy."""
    engine = runtime.engine

    def answer(request: Request) -> Reply:
        customer = request.body["customerId"]
        if customer == "666":
            return Reply(SAID.encode(), status=500, headers={"content-type": "text/plain"})
        return listing(conversation(customer, date(2021, 4, 6)))

    with TinyProvider(answer) as tiny:
        account_id = account_at(runtime, tiny)
        add_ids(engine, account_id, ["666"], kind="customer")
        gave_up = lambda: scalar(engine, "SELECT count(*) FROM fetches WHERE state = 'dead'")  # noqa: E731
        with Driver(runtime).running() as driver:
            assert driver.until(gave_up, seconds=40)
            account = row(engine, "accounts", account_id)
            assert (account["breaker_state"], account["breaker_failures"]) == ("closed", 0)
            add_ids(engine, account_id, [str(700 + n) for n in range(8)], kind="customer")
            assert driver.until(lambda: len(deliveries(engine, account_id)) == 8, seconds=40)
    assert len(tiny.requests("dlg")) >= 6 + 8
    shown = 'The provider says: "Customer not found, call *******67 or see https://dlg.example/***"'
    with engine.connect() as connection:
        dead = list_dead(connection, account=account_id)
    assert shown in dead[0]["last_error"]
    assert shown in row(engine, "accounts", account_id)["last_trouble"]
    outcomes = "SELECT array_agg(DISTINCT outcome ORDER BY outcome) FROM calls"
    assert scalar(engine, outcomes) == ["ok", "request_failed"]


@pytest.mark.parametrize("body", [b"", b"<html>Bad gateway</html>", b"Internal Server Error"])
def test_a_500_without_a_text_of_the_api_still_opens_the_breaker(runtime: Runtime, body: bytes) -> None:
    """The server, or a proxy before it, is in trouble: nobody is asked until it is probed."""
    with TinyProvider(lambda _: Reply(body, status=500, headers={"content-type": "text/plain"})) as tiny:
        account_id = account_at(runtime, tiny)
        add_ids(runtime.engine, account_id, ["1", "2", "3"], kind="customer")
        is_open = lambda: row(runtime.engine, "accounts", account_id)["breaker_state"] == "open"  # noqa: E731
        with Driver(runtime).running() as driver:
            assert driver.until(is_open, seconds=40)


# ------------------------------------------------------------------------------------- days on demand


def range_of(request: Request) -> tuple[date, date]:
    """The UTC days that a request asks for."""
    first, last = (datetime.fromtimestamp(request.body[name] / 1000, UTC) for name in ("startDate", "endDate"))
    return first.date(), last.date()


def test_days_on_demand_are_read_for_every_customer_and_change_no_schedule(runtime: Runtime) -> None:
    """Closed customers too, page by page; each is asked for as it was before."""
    engine, march = runtime.engine, date(2026, 3, 1)

    def answer(request: Request) -> Reply:
        first, last = range_of(request)
        if (first, last) != (march, date(2026, 3, 31)):
            return listing()
        days = [march + timedelta(days=n) for n in range(24)] if request.body["customerId"] == "1" else [march]
        page = request.body["pageNumber"] - 1
        return listing(*[conversation(request.body["customerId"], day) for day in days[20 * page : 20 * page + 20]])

    with TinyProvider(answer) as tiny:
        account_id = account_at(runtime, tiny)
        later = clock.now() + timedelta(hours=1)
        ids = add_ids(engine, account_id, ["1", "2"], kind="customer", next_check_at=later)
        execute(
            engine,
            "UPDATE tracked_ids SET closed_at = now(), close_reason = 'forgotten', next_check_at = NULL WHERE id = :id",
            id=ids[1],
        )
        before = [row(engine, "tracked_ids", one) for one in ids]
        poll_id = open_on_demand(runtime, account_id, trigger="cli", window=(march, date(2026, 3, 31)))
        with Driver(runtime, plans=False).running() as driver:
            driver.send([poll_account(account_id, poll_id)])
            assert driver.until(lambda: row(engine, "polls", poll_id)["state"] != "running", seconds=40)
        assert row(engine, "polls", poll_id)["state"] == "complete"
        assert len(deliveries(engine, account_id)) == 25
        assert [row(engine, "tracked_ids", one) for one in ids] == before


def test_a_fetch_that_stands_ready_for_a_customer_does_not_take_the_place_of_its_days(runtime: Runtime) -> None:
    """It asks for other days."""
    engine, asked = runtime.engine, []

    def answer(request: Request) -> Reply:
        asked.append(range_of(request))
        return listing()

    with TinyProvider(answer) as tiny:
        account_id = account_at(runtime, tiny)
        add_ids(engine, account_id, ["1"], kind="customer")
        plain = open_on_demand(runtime, account_id, trigger="cli")
        days = open_on_demand(runtime, account_id, trigger="cli", window=(date(2026, 3, 1), date(2026, 3, 1)))
        messages = sent_by(plan_poll(runtime, account_id, each) for each in (plain, days))
        with Driver(runtime, plans=False).running() as driver:
            driver.send(messages)
            ended = "SELECT count(*) FROM polls WHERE state = 'complete'"
            assert driver.until(lambda: scalar(engine, ended) == 2, seconds=40)
    assert scalar(engine, "SELECT array_agg(calls ORDER BY id) FROM polls") == [1, 1]
    assert (date(2026, 3, 1), date(2026, 3, 1)) in asked


def test_days_that_were_given_up_are_asked_for_again_over_the_same_days(runtime: Runtime) -> None:
    """`ulak dead retry`: of the same customer, though it is closed."""
    engine, is_well = runtime.engine, False

    def answer(request: Request) -> Reply:
        if not is_well:
            return Reply(b"Beklenmeyen hata", status=500, headers={"content-type": "text/plain"})
        first, last = range_of(request)
        return listing(conversation("1", first), conversation("1", last))

    with TinyProvider(answer) as tiny:
        account_id = account_at(runtime, tiny, retry={**QUICK, "max_attempts": 1})
        wanted = [{"kind": "customer", "value": "1"}]
        window = (date(2026, 3, 1), date(2026, 3, 9))
        poll_id = open_on_demand(runtime, account_id, trigger="api", window=window, ids=wanted)
        with Driver(runtime, plans=False).running() as driver:
            driver.send([poll_account(account_id, poll_id)])
            assert driver.until(lambda: row(engine, "polls", poll_id)["dead"] == 1, seconds=40)
            execute(engine, "UPDATE tracked_ids SET closed_at = now(), close_reason = 'x', next_check_at = NULL")
            is_well = True
            fetch_id = scalar(engine, "SELECT id FROM fetches WHERE state = 'dead'")
            assert isinstance(fetch_id, int)
            retried = retry_dead(runtime, fetch_id, trigger="cli")
            assert retried is not None
            driver.send(retried.messages)
            assert driver.until(lambda: len(deliveries(engine, account_id)) == 2, seconds=40)


def test_both_doors_take_days_for_an_account_without_a_list(ulak: Ulak, api: Api, migrated_database: Engine) -> None:
    """And refuse what can never be."""
    account_id = add_account(migrated_database, provider="diyalog")
    result = ulak("poll", account_id, "--from", "2026-03-01", "--to", "2026-03-31")
    assert result.code == 0, result
    body = {"account": account_id, "from": "2026-03-01", "to": "2026-03-31"}
    ids = [{"kind": "customer", "value": "113377"}]
    assert api.client.post("/v1/polls", json={**body, "ids": ids}).status_code == 202
    assert ulak("poll", account_id, "--from", "2026-03-31", "--to", "2026-03-01").code == 2
    assert api.client.post("/v1/polls", json={**body, "from": "2026-04-01"}).status_code == 422


# ------------------------------------------------------------------------------------------- look-ups


def test_a_conversation_is_found_by_the_number_of_its_customer(ulak: Ulak, api: Api, migrated_database: Engine) -> None:
    """By either side of it, at every door; a customer number may have as many digits as a phone number."""
    account_id = add_account(migrated_database, provider="diyalog")
    for sender, receiver in (("113377", "45188"), ("2337368", "45189"), ("1", "2")):
        report = DeliveryReport(
            granularity=Granularity.CONVERSATION,
            provider_key=f"{sender}:{receiver}:0:2021-04-06",
            parent_key=sender,
            status=Status.SENT,
            provider_status="sendMessageCount",
            recipient=receiver,
            total=5,
            day=date(2021, 4, 6),
        )
        order = DeliveryReport(
            granularity=Granularity.MESSAGE,
            provider_key=f"m-{sender}",
            parent_key=sender,
            status=Status.SENT,
            provider_status="x",
        )
        with transaction(migrated_database) as connection:
            upsert(connection, account_id, "diyalog", [report, order], asked_at=datetime(2021, 4, 7, tzinfo=UTC))
    for person, key in (("113377", "113377:45188"), ("45188", "113377:45188"), ("2337368", "2337368:45189")):
        wanted = [f"{key}:0:2021-04-06"]
        listed = ulak("deliveries", "--recipient", person, "--format", "json")
        assert [one["provider_key"] for one in json.loads(listed.out)] == wanted
        explained = json.loads(ulak("explain", person, "--json").out)
        assert [one["delivery"]["provider_key"] for one in explained["deliveries"]] == wanted
        answer = api.client.get("/v1/deliveries", params={"recipient": person}).json()
        assert [one["provider_key"] for one in answer["deliveries"]] == wanted


# -------------------------------------------------------------------------------------------- webhook

APP_SECRET = "ffeceefiaae0aec8naich2queid1thoohi3"
ACCOUNTS = """
[[account]]
id = "destek"
provider = "diyalog"
base_url = "https://dlg.example"
[account.credentials]
access_key_id = "env:A"
access_key_secret = "env:B"
requester_userid = "env:C"
app_secret = "env:APP"
"""


@pytest.fixture
def server(migrated_database: Engine) -> Iterator[Server]:
    """The real application behind a real server."""
    with transaction(migrated_database) as connection:
        apply(connection, parse_accounts(ACCOUNTS), prune=True)
    secrets = {"env:A": "a-secret", "env:B": "b-secret", "env:C": "c-secret", "env:APP": APP_SECRET}
    door = HttpDoor(max_connections=1, boot=clock.boot)
    cache = CredentialCache(resolve=secrets.__getitem__)
    with serving(make_api(Runtime(engine=migrated_database, door=door, seal_key=new_key(), credentials=cache))) as it:
        yield it


def push(server: Server, secret: str = APP_SECRET, **content: Any) -> Said:
    """One event, signed."""
    head = {"sender": {"id": "9"}, "recipient": {"appCustomerId": "70021", "id": "8"}, "timestamp": 1560195968593}
    body = json.dumps({"object": "dialog", "entry": [{"id": "OTP", "messaging": [head | content]}]}).encode()
    signature = hmac.new(secret.encode(), body, hashlib.sha1).hexdigest()
    answer = server.client.post("/callbacks/diyalog/destek", content=body, headers={"X-Signature": f"sha1={signature}"})
    return Said(answer.status_code, dict(answer.headers), answer.content)


def test_the_webhook_of_a_bot_tells_what_was_delivered_and_read(server: Server, migrated_database: Engine) -> None:
    """In any order; a text that a person wrote is kept nowhere; whoever cannot sign is refused."""
    assert push(server, reads={"mids": ["m-1"], "watermark": 1560197145045}).status == 200
    assert push(server, delivery={"mids": ["m-1", "m-2"], "watermark": 1560195968593}).status == 200
    assert push(server, message={"mid": "m-2", "text": "Merhaba, ben Ayşe"}).status == 200
    assert push(server, news={"text": "Merhaba, ben Ayşe"}).status == 200
    assert push(server, "another secret", delivery={"mids": ["m-3"]}).status == 401
    with migrated_database.connect() as connection:
        rows = stored_rows(connection, "destek")
        kept = connection.execute(text("SELECT count(*) FROM quarantine")).scalar_one()
    assert {key: (one.status, one.recipient) for (_, key), one in rows.items()} == {
        "m-1": ("read", "70021"),
        "m-2": ("delivered", "70021"),
    }
    assert kept == 1
