"""An Organik account as a whole: gsm ids of a send in one call, send replies, pushes, charsets, and older rows."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from api_server import Server, serving
from command_line import Ulak, ulak
from driving import Driver, make_runtime, scalar
from ledger_acts import add_account, add_ids, deliveries, row
from sqlalchemy import Engine, text
from stored_rows import stored_rows
from task_api import Api, api
from tiny_provider import Reply, Request, TinyProvider

from ulak.api.app import make_api
from ulak.core import clock
from ulak.models.accounts import apply
from ulak.models.database import transaction
from ulak.models.deliveries import upsert
from ulak.models.quarantine import list_quarantine, new_key
from ulak.models.report import DeliveryReport
from ulak.models.vocabulary import Granularity, Status
from ulak.providers.accounts import parse_accounts
from ulak.providers.http import HttpDoor
from ulak.tasks.runtime import CredentialCache, Runtime

__all__ = ["api", "ulak"]

pytestmark = pytest.mark.timeout(200)


def item(n: int, status: int = 2, **fields: Any) -> dict[str, Any]:
    """One row of transaction 880, under the number that reports use."""
    given = {"gsm": 905321230000 + n, "transaction_id": 880, "gsm_track_id": 410_000_000 + n, "status": status}
    return given | fields


def rows(*items: Any) -> Reply:
    """A report."""
    return Reply(json.dumps({"response": {"result": True, "data": items}}).encode())


@pytest.fixture
def runtime(migrated_database: Engine) -> Runtime:
    """A runtime whose credentials are always found."""
    return make_runtime(migrated_database, resolve=lambda _: "k" * 32)


def account_at(runtime: Runtime, tiny: TinyProvider, **given: Any) -> str:
    """An Organik account at the tiny provider, eager enough for a test."""
    values = {"requests": 50, "concurrency": 1, "poll": {"time_factor": 0.01}, **given}
    values["options"] = {"batch_size": 100, "deadline_seconds": 20.0, **values.get("options", {})}
    return add_account(runtime.engine, provider="organik", base_url=tiny.address("o"), **values)


# ------------------------------------------------------------------------------- ids by their transaction


def test_a_hundred_gsm_ids_of_one_send_are_one_call(runtime: Runtime) -> None:
    """All of them are settled by the answer, and completed with what was registered."""
    engine = runtime.engine
    with TinyProvider(lambda _: rows(*[item(n) for n in range(100)])) as tiny:
        account_id = account_at(runtime, tiny)
        for n in range(100):
            add_ids(
                engine,
                account_id,
                [f"880-4730-{63032793 + n}"],
                kind="gsm_track",
                recipient=f"+{905321230000 + n}",
                client_ref=f"ref-{n}",
            )
        open_ids = "SELECT count(*) FROM tracked_ids WHERE closed_at IS NULL"
        with Driver(runtime).running() as driver:
            assert driver.until(lambda: scalar(engine, open_ids) == 0, seconds=40)
    assert [request.body for request in tiny.requests("o")] == [{"data": {"transaction_ids": ["880"]}}]
    with engine.connect() as connection:
        stored = stored_rows(connection, account_id)
    assert {key: one.client_ref for (_, key), one in stored.items()} == {
        str(410_000_000 + n): f"ref-{n}" for n in range(100)
    }


def test_an_id_that_its_transaction_lacks_is_asked_for_alone(runtime: Runtime) -> None:
    """It is not lost, and costs one call more."""
    engine = runtime.engine

    def answer(request: Request) -> Reply:
        if "transaction_ids" in request.body["data"]:
            return rows(item(0), item(1))
        return rows(item(2))

    with TinyProvider(answer) as tiny:
        account_id = account_at(runtime, tiny)
        for n in range(3):
            add_ids(engine, account_id, [f"880-4730-{n}"], kind="gsm_track", recipient=f"+{905321230000 + n}")
        open_ids = "SELECT count(*) FROM tracked_ids WHERE closed_at IS NULL"
        with Driver(runtime).running() as driver:
            assert driver.until(lambda: scalar(engine, open_ids) == 0, seconds=40)
    assert [request.body["data"] for request in tiny.requests("o")] == [
        {"transaction_ids": ["880"]},
        {"gsm_track_ids": ["880-4730-2"]},
    ]
    assert len(deliveries(engine, account_id)) == 3


def test_a_provider_that_drops_and_repeats_rows_loses_none_of_a_send_of_unknown_size(runtime: Runtime) -> None:
    """Never the same wrong rows twice in a row: the id is polled again within seconds until two answers agree."""
    engine = runtime.engine
    good = [item(0), item(1), item(2)]
    said = iter([good[:1], good[1:], [good[0], good[0], good[2]], good, good])

    with TinyProvider(lambda _: rows(*next(said, good))) as tiny:
        account_id = account_at(runtime, tiny)
        sent = clock.now() - timedelta(days=9, hours=3)
        add_ids(engine, account_id, ["880"], kind="transaction", sent_at=sent, valid_until=sent + timedelta(days=2))
        open_ids = "SELECT count(*) FROM tracked_ids WHERE closed_at IS NULL"
        with Driver(runtime).running() as driver:
            assert driver.until(lambda: scalar(engine, open_ids) == 0, seconds=40)
    assert (len(tiny.requests("o")), len(deliveries(engine, account_id))) == (5, 3)


# ------------------------------------------------------------------------------------------ charsets


@pytest.mark.parametrize("form", ["json", "xml"])
def test_a_refused_key_in_a_turkish_charset_pauses_the_account(runtime: Runtime, form: str) -> None:
    """It is asked once, not hammered; the message is kept."""
    said = "Yetkilendirme hatası"
    text_ = json.dumps({"response": {"result": False, "error": {"number": "99", "message": said}}}, ensure_ascii=False)
    head = {"content-type": "application/json; charset=ISO-8859-9"}
    if form == "xml":
        error = f"<error><number>99</number><message>{said}</message></error>"
        text_ = f'<?xml version="1.0" encoding="ISO-8859-9"?><response><result>0</result>{error}</response>'
        head = {"content-type": "application/xml"}
    with TinyProvider(lambda _: Reply(text_.encode("iso-8859-9"), headers=head)) as tiny:
        account_id = account_at(runtime, tiny)
        add_ids(runtime.engine, account_id, ["880"], kind="transaction")
        paused = "SELECT paused_until FROM accounts"
        with Driver(runtime).running() as driver:
            assert driver.until(lambda: scalar(runtime.engine, paused), seconds=40)
    assert len(tiny.requests("o")) == 1
    account = row(runtime.engine, "accounts", account_id)
    assert account["pause_reason"] == "Organik refuses the key, or its user may not use this function. [99]"
    assert (
        account["last_trouble"]
        == f'PauseAccount: Organik refuses the key, or its user may not use this function. The provider says: "{said}"'
    )


def test_a_charset_that_is_not_true_is_the_reason_in_quarantine(runtime: Runtime) -> None:
    """The bytes are kept, the fetch is asked again."""
    body = '{"response": {"result": true, "data": [{"delivery_track_id": "ş"}]}}'.encode("iso-8859-9")
    head = {"content-type": "application/json; charset=utf-8"}
    with TinyProvider(lambda _: Reply(body, headers=head)) as tiny:
        account_id = account_at(runtime, tiny, retry={"base_seconds": 0.05, "cap_seconds": 0.1})
        add_ids(runtime.engine, account_id, ["880"], kind="transaction")

        def reasons() -> list[str]:
            with runtime.engine.connect() as connection:
                return [entry["reason"] for entry in list_quarantine(connection, account=account_id)]

        with Driver(runtime).running() as driver:
            assert driver.until(reasons, seconds=40)
    assert reasons() == ["Content-Type declares UTF-8, which the body is not."]


# -------------------------------------------------------------------------------------- send replies

REPLY = {
    "response": {
        "result": True,
        "data": {
            "deliveries": [
                {
                    "track_id": 1234,
                    "transaction_id": 16502030,
                    "valid": [
                        {"gsm": 905445359675, "gsm_track_id": "16502030-4730-1"},
                        {"gsm": 905445359676, "gsm_track_id": "16502030-4730-2"},
                    ],
                    "invalid": [{"gsm": 905444444446, "error": {"number": 109, "message": "x"}}],
                },
                {"track_id": 2525, "transaction_id": None, "error": {"number": 101}, "valid": [], "invalid": []},
            ]
        },
    }
}


def test_a_handed_over_send_reply_gives_the_refused_numbers_and_registers_the_rest(
    api: Api, ulak: Ulak, migrated_database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At both doors; a second time it changes nothing."""
    monkeypatch.setenv("TEST_KEY", "k" * 32)
    account_id = add_account(migrated_database, provider="organik")
    first = api.client.post(f"/v1/reports/{account_id}", json=REPLY).json()
    assert first == {"reports": 2, "new": 2, "advanced": 0, "unchanged": 0, "registered": 1, "quarantined": 0}
    again = ulak("ingest", account_id, "-", stdin=json.dumps(REPLY).encode())
    assert (again.code, again.out.splitlines()[-1]) == (0, "2 reports: 0 new, 0 advanced, 2 unchanged")
    with migrated_database.connect() as connection:
        stored = stored_rows(connection, account_id)
        tracked = connection.execute(
            text("SELECT id_kind, value, client_ref, expected, origin, closed_at FROM tracked_ids")
        ).all()
    assert {key: (one.status, one.reason, one.recipient) for (_, key), one in stored.items()} == {
        "16502030:+905444444446:1": ("rejected", "blacklisted", "+905444444446"),
        "2525": ("rejected", "other", None),
    }
    assert [tuple(one) for one in tracked] == [("transaction", "16502030", "1234", 2, "sender", None)]


def test_a_reply_in_a_declared_charset_is_read(
    api: Api, migrated_database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the Content-Type of whoever hands it over."""
    monkeypatch.setenv("TEST_KEY", "k" * 32)
    account_id = add_account(migrated_database, provider="organik")
    reply = {"response": {"result": True, "data": {"deliveries": [{"track_id": "şiş", "error": {"number": 101}}]}}}
    body = json.dumps(reply, ensure_ascii=False).encode("windows-1254")
    head = {"content-type": "application/json; charset=windows-1254"}
    assert api.client.post(f"/v1/reports/{account_id}", content=body, headers=head).json()["new"] == 1
    with migrated_database.connect() as connection:
        assert [key for _, key in stored_rows(connection, account_id)] == ["şiş"]


# -------------------------------------------------------------------------------------------- pushes

SECRET = "5a0c7cc2f1e94d0b8f7f3a52"
ACCOUNTS = """
[[account]]
id = "marka-sms"
provider = "organik"
[account.credentials]
api_key = "env:KEY"
webhook_secret = "env:HOOK"
[[account]]
id = "bare"
provider = "organik"
[account.credentials]
api_key = "env:OTHER"
"""


@pytest.fixture
def server(migrated_database: Engine) -> Iterator[Server]:
    """The real application behind a real server."""
    with transaction(migrated_database) as connection:
        apply(connection, parse_accounts(ACCOUNTS), prune=True)
    secrets = {"env:KEY": "k" * 32, "env:OTHER": "o" * 32, "env:HOOK": SECRET}
    door = HttpDoor(max_connections=1, boot=clock.boot)
    cache = CredentialCache(resolve=secrets.__getitem__)
    with serving(make_api(Runtime(engine=migrated_database, door=door, seal_key=new_key(), credentials=cache))) as it:
        yield it


def test_a_push_makes_the_named_send_due_and_nothing_else(server: Server, migrated_database: Engine) -> None:
    """Known or not, closed or not; the body is kept sealed and unread, and is on nobody's list."""
    later = clock.now() + timedelta(hours=5)
    [known] = add_ids(migrated_database, "marka-sms", ["880"], kind="transaction", next_check_at=later)
    body = {"transaction_id": 1, "status": 2, "gsm": 905321234567}
    assert server.ask("POST", f"/callbacks/organik/marka-sms/{SECRET}/880", body).status == 200
    assert server.ask("POST", f"/callbacks/organik/marka-sms/{SECRET}/delivery_track=abc", body).status == 200
    assert row(migrated_database, "tracked_ids", known)["next_check_at"] <= clock.now()
    with migrated_database.connect() as connection:
        due = connection.execute(
            text("SELECT id_kind, value FROM tracked_ids WHERE next_check_at <= clock_timestamp() ORDER BY id")
        ).all()
        kept = connection.execute(text("SELECT origin, sealed IS NOT NULL, times FROM quarantine")).all()
        assert list_quarantine(connection) == []
    assert [tuple(one) for one in due] == [("transaction", "880"), ("delivery_track", "abc")]
    assert {(one[1], one[2]) for one in kept} == {(True, 2)}
    assert not any(SECRET in one[0] for one in kept)
    assert scalar(migrated_database, "SELECT count(*) FROM delivery_status") == 0


def test_without_the_secret_there_is_no_such_address(server: Server, migrated_database: Engine) -> None:
    """Nor without an account that has one."""
    paths = ("marka-sms/880", "marka-sms/wrong/880", f"marka-sms/{SECRET}880", f"bare/{SECRET}/880", "bare//880")
    for path in paths:
        assert server.ask("POST", f"/callbacks/organik/{path}", {}).status == 404
    assert scalar(migrated_database, "SELECT count(*) FROM tracked_ids") == 0


def test_an_address_that_names_no_send_is_seen_by_operators(server: Server, migrated_database: Engine) -> None:
    """Pushing it again would not help."""
    assert server.ask("POST", f"/callbacks/organik/marka-sms/{SECRET}", {"a": 1}).status == 200
    with migrated_database.connect() as connection:
        [entry] = list_quarantine(connection)
    assert "names no id" in entry["reason"]


# ---------------------------------------------------------------------------------------- older rows


def test_a_row_of_an_earlier_version_heals_with_the_next_answer(migrated_database: Engine) -> None:
    """Its `provider_error` "0" and its early `sent_at` go; the two statements are no conflict."""
    account_id = add_account(migrated_database, provider="organik")
    at = datetime(2026, 1, 1, tzinfo=UTC)
    new = DeliveryReport(
        granularity=Granularity.MESSAGE,
        provider_key="410471976",
        status=Status.DELIVERED,
        provider_status="2",
        sent_at=at,
    )
    old = msgspec.structs.replace(new, provider_error="0")
    planned = msgspec.structs.replace(old, status=Status.SCHEDULED, provider_status="0", sent_at=at + timedelta(days=9))
    for report, minute in ((planned, 0), (old, 1), (new, 2)):
        with transaction(migrated_database) as connection:
            upsert(connection, account_id, "organik", [report], asked_at=at + timedelta(minutes=minute))
    with migrated_database.connect() as connection:
        [stored] = stored_rows(connection, account_id).values()
    assert (stored.provider_error, stored.conflict, stored.status) == (None, False, "delivered")
    assert stored.sent_at is not None
    assert datetime.fromisoformat(str(stored.sent_at)) == at
