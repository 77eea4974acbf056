"""`ulak quarantine retry`: a word that was not known is read again from what was kept; no provider is asked."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from command_line import Ulak, ulak
from demo_accounts import apply_accounts, register_sends
from driving import Driver, make_runtime, scalar
from ledger_acts import Held, add_account, add_ids, deliveries, execute, plan, row, vairo_body
from sqlalchemy import Engine, text

from ulak.core.settings import load_settings
from ulak.models.account import load
from ulak.models.quarantine import list_quarantine
from ulak.models.report import TrackedKey
from ulak.models.vocabulary import Reason, Status
from ulak.providers import bip, iletimerkezi_orders, iletimerkezi_webhook, organik, organik_rows, vairo
from ulak.providers.adapter import Callback
from ulak.providers.decoding import as_int
from ulak.sandbox.server import Sandbox
from ulak.tasks.runtime import Runtime, seal_key
from ulak.tasks.steps.ambiguous import ask_now
from ulak.tasks.steps.callbacks import ingest
from ulak.tasks.steps.quarantine_retry import reread

__all__ = ["ulak"]

pytestmark = pytest.mark.timeout(200)

TABLES: dict[str, tuple[Any, object]] = {
    "vairo": (vairo.STATUS, "QUEUED_AT_OPERATOR"),
    "organik": (organik_rows.STATUS, 7),
    "iletimerkezi": (iletimerkezi_orders.MESSAGE_STATUS, "119"),
}
"""Each provider's table of words, and the word that the sandbox says though it is not documented."""


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Five small stand-ins, every life at its end within some seconds."""
    with Sandbox(seed=11, speed=120, scale="small") as running:
        yield running


def entries(engine: Engine) -> list[tuple[int, str]]:
    """(id, account) of what is in quarantine."""
    with engine.connect() as connection:
        return [(entry["id"], entry["account_id"]) for entry in list_quarantine(connection)]


def asked(sandbox: Sandbox) -> int:
    """How many requests the stand-ins have had."""
    return len(sandbox.log())


def unknown(engine: Engine) -> int:
    """How many rows have a word that is not understood."""
    return int(str(scalar(engine, "SELECT count(*) FROM delivery_status WHERE status = 'unknown'")))


@pytest.mark.parametrize("provider", sorted(TABLES))
def test_a_word_that_is_known_now_is_read_from_quarantine_without_asking(
    ulak: Ulak,
    migrated_database: Engine,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    provider: str,
) -> None:
    """Unknown and open at first; once the word is mapped, `retry` makes the rows final and leaves nothing behind.

    The shell need not have the credentials.
    """
    engine = migrated_database
    accounts = [account for account in sandbox.control("GET", "/accounts") if account["provider"] == provider]
    for account in accounts:
        account["poll"] = {**account["poll"], "every_seconds": 0.5, "time_factor": 0.01, "max_check_seconds": 20}
    apply_accounts(engine, accounts, Path.cwd())
    runtime = replace(make_runtime(engine), seal_key=seal_key(load_settings()))
    given = sandbox.control("POST", f"/sends/{provider}", {"count": 2, "outcome": "unknown_word"})
    register_sends(runtime, given["sends"])
    with Driver(runtime).running() as driver:
        assert driver.until(lambda: unknown(engine) >= 2 and len(entries(engine)) >= 2, seconds=100)
    time.sleep(0.3)
    many, before = unknown(engine), asked(sandbox)
    refused = ulak("quarantine", "retry", "--all")
    assert (refused.code, unknown(engine), asked(sandbox)) == (1, many, before)
    table, word = TABLES[provider]
    monkeypatch.setitem(table, word, (Status.REJECTED, Reason.OTHER))
    missing = "SELECT jsonb_object_agg(key, 'env:NO_SUCH_VARIABLE') FROM jsonb_each(credentials)"
    execute(engine, f"UPDATE accounts SET credentials = ({missing})")
    done = ulak("quarantine", "retry", "--all")
    assert (done.code, entries(engine), unknown(engine)) == (0, [], 0), done
    rejected = "SELECT count(*) FROM delivery_status WHERE provider_status = :word AND status = 'rejected' AND is_final"
    assert scalar(engine, rejected, word=str(word)) == many
    assert asked(sandbox) == before
    assert scalar(engine, "SELECT count(*) FROM calls WHERE answered_at IS NULL") == 0
    [ran] = [ulak("rebuild")]
    assert "0 of them differed" in ran.out


@pytest.mark.parametrize("provider", sorted(TABLES))
def test_a_word_that_an_account_maps_is_read_from_quarantine_without_asking(
    ulak: Ulak, migrated_database: Engine, sandbox: Sandbox, provider: str
) -> None:
    """No release is waited for: `status_map` in the accounts file, then `retry`; new answers are read with it too."""
    engine = migrated_database
    accounts = [account for account in sandbox.control("GET", "/accounts") if account["provider"] == provider]
    for account in accounts:
        account["poll"] = {**account["poll"], "every_seconds": 0.5, "time_factor": 0.01, "max_check_seconds": 20}
    apply_accounts(engine, accounts, Path.cwd())
    runtime = replace(make_runtime(engine), seal_key=seal_key(load_settings()))
    register_sends(
        runtime, sandbox.control("POST", f"/sends/{provider}", {"count": 2, "outcome": "unknown_word"})["sends"]
    )
    with Driver(runtime).running() as driver:
        assert driver.until(lambda: unknown(engine) >= 2 and len(entries(engine)) >= 2, seconds=100)
    many, before = unknown(engine), asked(sandbox)
    word = str(TABLES[provider][1])
    execute(
        engine,
        "UPDATE accounts SET options = jsonb_set(options, '{status_map}', CAST(:map AS jsonb))",
        map=json.dumps({word: "rejected/opted_out"}),
    )
    done = ulak("quarantine", "retry", "--all")
    assert (done.code, entries(engine), unknown(engine)) == (0, [], 0), done
    rejected = (
        "SELECT count(*) FROM delivery_status WHERE provider_status = :word AND status = 'rejected'"
        " AND reason = 'opted_out' AND is_final"
    )
    assert scalar(engine, rejected, word=word) == many
    assert asked(sandbox) == before


# ------------------------------------------------------------------------------------------ one by one
@pytest.fixture
def runtime(migrated_database: Engine) -> Runtime:
    """A runtime whose credentials are always found."""
    return make_runtime(migrated_database, resolve=lambda _: "secret")


def order_body(*recipients: tuple[str, str]) -> bytes:
    """The detail of order 7."""
    messages = [{"number": number, "status": status} for number, status in recipients]
    order = {"id": 7, "status": "114", "message": messages}
    return msgspec.json.encode({"response": {"status": {"code": 200}, "order": order}})


@pytest.mark.parametrize(
    ("recipients", "rows", "is_asked"),
    [
        ([("+905301234567", "119")], [("7:+905301234567:1", "undeliverable")], False),
        (
            [("+905301234567", "119"), ("+905301234567", "111")],
            [("7:+905301234567:1", "delivered"), ("7:+905301234567:2", "unknown")],
            True,
        ),
    ],
    ids=["once", "twice"],
)
def test_which_of_equal_numbers_is_meant_is_never_guessed(
    runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
    recipients: list[tuple[str, str]],
    rows: list[tuple[str, str]],
    is_asked: bool,
) -> None:
    """A number that an order holds once is written at once; of equal ones only a whole answer can tell."""
    engine = runtime.engine
    account_id = add_account(engine, provider="iletimerkezi")
    add_ids(engine, account_id, ["7"], kind="order")
    for _ in range(2):
        # Equal numbers are stored once two answers in a row agree on them.
        execute(engine, "UPDATE tracked_ids SET next_check_at = now()")
        [fetch_id] = [each for each in plan(runtime, account_id) if "order" in params_of(engine, each)]
        Held(runtime, fetch_id).answer(order_body(*recipients))
    execute(engine, "UPDATE tracked_ids SET next_check_at = now() + interval '1 hour'")
    monkeypatch.setitem(iletimerkezi_orders.MESSAGE_STATUS, "119", (Status.UNDELIVERABLE, None))
    [(entry, _)] = entries(engine)
    done = reread(runtime, entry)
    assert done is not None
    assert (done.understood, deliveries(engine, account_id)) == (True, rows)
    due = "SELECT count(*) FROM tracked_ids WHERE next_check_at <= clock_timestamp()"
    assert scalar(engine, due) == int(is_asked)
    assert entries(engine) == []


def params_of(engine: Engine, fetch_id: int) -> dict[str, Any]:
    """What a fetch asks for."""
    found: dict[str, Any] = scalar(engine, "SELECT params FROM fetches WHERE id = :id", id=fetch_id)  # type: ignore[assignment]
    return found


def test_equal_words_about_one_number_in_two_orders_are_two_entries(runtime: Runtime) -> None:
    """The bytes are the same, but each belongs to a delivery of its own and is read again for that one."""
    account_id = add_account(runtime.engine, provider="iletimerkezi")
    add_ids(runtime.engine, account_id, ["7", "8"], kind="order")
    for fetch_id in plan(runtime, account_id):
        if order := params_of(runtime.engine, fetch_id).get("order"):
            body = order_body(("+905301234567", "119")).replace(b'"id":7', f'"id":{order}'.encode())
            Held(runtime, fetch_id).answer(body)
    assert len(entries(runtime.engine)) == 2


def test_an_older_statement_that_is_understood_late_does_not_win(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts from when it was asked for: what the provider said since stands, whatever is read when."""
    engine = runtime.engine
    account_id = add_account(engine)
    [tracked] = add_ids(engine, account_id, ["s1:+905321234567"])
    for word in ("YENI", "WAITING"):
        execute(engine, "UPDATE tracked_ids SET next_check_at = now() WHERE id = :id", id=tracked)
        [fetch_id] = plan(runtime, account_id)
        Held(runtime, fetch_id).answer(vairo_body("s1:+905321234567", word))
    monkeypatch.setitem(vairo.STATUS, "YENI", (Status.ENROUTE, None))
    [(entry, _)] = entries(engine)
    done = reread(runtime, entry)
    assert done is not None
    assert (done.understood, done.advanced) == (True, 0)
    assert scalar(engine, "SELECT provider_status FROM delivery_status") == "WAITING"


def test_an_item_of_a_pushed_report_is_kept_with_what_names_it(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BiP's item alone has neither its send nor its place; it is kept with both, so it has the key it would have."""
    engine = runtime.engine
    account_id = add_account(engine, provider="bip")
    items = [
        {"receiver": "905301234567", "resultcode": 312},
        {"receiver": "905301234567", "resultcode": "E-301"},
        {"receiver": "905301234568", "resultcode": 0, "reportid": "r-1"},
    ]
    body = json.dumps({"txnid": "t-1", "resultcode": 0, "list": items}).encode()
    with engine.connect() as connection:
        row = load(connection, account_id)
    ingest(runtime, row, Callback(tail="report", body=body))
    [(entry, _)] = entries(engine)
    first = reread(runtime, entry)
    assert first is not None
    assert not first.understood
    monkeypatch.setattr(bip, "as_int", lambda value: 301 if value == "E-301" else as_int(value))
    again = reread(runtime, entry)
    assert again is not None
    assert (again.understood, again.new) == (True, 1)
    keys = [("r-1", "enroute"), ("t-1:+905301234567:1", "rejected"), ("t-1:+905301234567:2", "rejected")]
    assert deliveries(engine, account_id) == keys


def test_a_webhook_with_an_unknown_word_can_be_read_again(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is kept in the form in which it came: once the word is known the order is asked, or its one row is written."""
    engine = runtime.engine
    account_id = add_account(engine, provider="iletimerkezi")
    with engine.connect() as connection:
        row = load(connection, account_id)
    pushed = {"report": {"id": 1, "packet_id": 7, "status": "bounced", "to": "+905301234567", "body": "gizli"}}
    ingest(runtime, row, Callback(tail="", body=json.dumps(pushed).encode()))
    [(entry, _)] = entries(engine)
    monkeypatch.setitem(iletimerkezi_webhook.WORDS, "bounced", "112")
    done = reread(runtime, entry)
    assert done is not None
    assert done.understood
    with engine.connect() as connection:
        found = connection.execute(text("SELECT id_kind, value FROM tracked_ids")).all()
    assert [tuple(each) for each in found] == [("order", "7")]


def test_an_unknown_state_of_a_whole_send_is_read_again_once_it_is_known(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is kept as `unknown`; once the code is known the send's row gets its status and the send is closed."""
    engine = runtime.engine
    account_id = add_account(engine)
    add_ids(engine, account_id, ["12"], kind="send", whole="12")
    [fetch_id] = plan(runtime, account_id)
    Held(runtime, fetch_id).answer(msgspec.json.encode({"durum": True, "aciklama": {"id": 12, "paket_durum": 77}}))
    assert deliveries(engine, account_id) == [("12", "unknown")]
    [(entry, _)] = entries(engine)
    first = reread(runtime, entry)
    assert first is not None
    assert not first.understood
    monkeypatch.setitem(vairo.SEND_STATUS, "77", (Status.SENT, None))
    again = reread(runtime, entry)
    assert again is not None
    assert (again.understood, again.advanced) == (True, 1)
    assert (entries(engine), deliveries(engine, account_id)) == ([], [("12", "sent")])
    assert closings(engine) == [("12", "final")]


def test_a_whole_answer_that_was_not_understood_leaves_once_its_fetch_ends_well(runtime: Runtime) -> None:
    """A short fault leaves nothing behind, also when it says the same again later; unknown items of the answer stay."""
    engine = runtime.engine
    account_id = add_account(engine, requests=50, concurrency=5)
    values = ["s1:+905321234567", "s2:+905321234568", "s3:+905321234569"]
    add_ids(engine, account_id, values)
    kept = "SELECT count(*) FROM quarantine WHERE reason = 'The answer is not JSON.' AND resolved_at IS NOT NULL"

    def answer(fetch_id: int, body: bytes) -> list[str]:
        """What is open in quarantine after this answer to the fetch, by reason."""
        execute(engine, "UPDATE fetches SET available_at = now() WHERE id = :id", id=fetch_id)
        Held(runtime, fetch_id).answer(body)
        with engine.connect() as connection:
            return [entry["reason"] for entry in list_quarantine(connection)]

    first, second, third = plan(runtime, account_id)
    sends = {fetch_id: row(engine, "fetches", fetch_id)["params"]["send"] for fetch_id in (first, second, third)}
    of = {fetch_id: next(value for value in values if value.startswith(send)) for fetch_id, send in sends.items()}
    assert answer(first, b"<html>") == ["The answer is not JSON."]
    assert answer(second, vairo_body(of[second], "DELIVERED", 2)) == ["The answer is not JSON."]
    assert (answer(first, vairo_body(of[first], "DELIVERED", 1)), scalar(engine, kept)) == ([], 1)
    assert answer(third, b"<html>") == ["The answer is not JSON."]
    assert answer(third, vairo_body(of[third], "NEVER_HEARD_OF", 3)) == ["Unknown word in `durum_gonderim`."]
    assert scalar(engine, kept) == 1


def closings(engine: Engine) -> list[tuple[str, str | None]]:
    """(value, why it was closed) of every tracked id."""
    with engine.connect() as connection:
        found = connection.execute(text("SELECT value, close_reason FROM tracked_ids ORDER BY id"))
        return [(row.value, row.close_reason) for row in found]


def test_an_id_is_asked_no_more_when_its_final_word_is_understood_late(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The id that the entry answers is closed, however it was spelled; the other numbers of its send stay open."""
    engine = runtime.engine
    account_id = add_account(engine)
    add_ids(engine, account_id, ["s1:05321234567"])
    [fetch_id] = plan(runtime, account_id)
    Held(runtime, fetch_id).answer(vairo_body("s1:+905321234567", "YENI"))
    add_ids(engine, account_id, ["s1:+905321234568"])
    [(entry, _)] = entries(engine)
    monkeypatch.setitem(vairo.STATUS, "YENI", (Status.REJECTED, Reason.OTHER))
    done = reread(runtime, entry)
    assert done is not None
    assert done.understood
    assert closings(engine) == [("s1:05321234567", "final"), ("s1:+905321234568", None)]


def test_an_id_that_was_called_for_since_the_question_stays_open(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pushed statement came after the answer that is understood late: only an answer asked after it may close."""
    engine = runtime.engine
    account_id = add_account(engine)
    add_ids(engine, account_id, ["s1:+905321234567"])
    [fetch_id] = plan(runtime, account_id)
    Held(runtime, fetch_id).answer(vairo_body("s1:+905321234567", "YENI"))
    with engine.begin() as connection:
        row = load(connection, account_id)
        ask_now(connection, row, [TrackedKey(id_kind="number", value="s1:+905321234567")])
    [(entry, _)] = entries(engine)
    monkeypatch.setitem(vairo.STATUS, "YENI", (Status.REJECTED, Reason.OTHER))
    done = reread(runtime, entry)
    assert done is not None
    assert done.understood
    assert closings(engine) == [("s1:+905321234567", None)]


def transaction_12(runtime: Runtime) -> int:
    """A ready fetch for one transaction of an Organik account."""
    account_id = add_account(runtime.engine, provider="organik")
    add_ids(runtime.engine, account_id, ["12"], kind="transaction")
    [fetch_id] = plan(runtime, account_id)
    return fetch_id


def test_one_row_of_several_does_not_close_the_id_that_they_belong_to(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction has as many rows as recipients: the one in quarantine tells nothing of the others."""
    engine, fetch_id = runtime.engine, transaction_12(runtime)
    rows = [
        {"gsm_track_id": str(place), "transaction_id": "12", "status": status} for place, status in ((1, 7), (2, 1))
    ]
    Held(runtime, fetch_id).answer(msgspec.json.encode({"response": {"result": True, "data": rows}}))
    [(entry, _)] = entries(engine)
    monkeypatch.setitem(organik_rows.STATUS, 7, (Status.REJECTED, Reason.OTHER))
    done = reread(runtime, entry)
    assert done is not None
    assert done.understood
    assert scalar(engine, "SELECT count(*) FROM tracked_ids WHERE closed_at IS NULL AND id_kind = 'transaction'") == 1


def test_a_big_transaction_that_is_understood_late_stays_open_while_a_row_is(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its few open rows would be asked for one by one instead, but nobody registers them here: so it is asked again."""
    engine, fetch_id = runtime.engine, transaction_12(runtime)
    rows = [
        {"gsm_track_id": str(place), "transaction_id": "12", "status": 2 if place else 1}
        for place in range(organik.SPLIT_ABOVE_ROWS + 1)
    ]
    with monkeypatch.context() as broken:
        broken.setattr(organik, "_settle", None)
        Held(runtime, fetch_id).answer(msgspec.json.encode({"response": {"result": True, "data": rows}}))
    execute(engine, "UPDATE tracked_ids SET fetch_id = NULL")
    [(entry, _)] = entries(engine)
    done = reread(runtime, entry)
    assert done is not None
    assert (done.understood, done.new) == (True, len(rows))
    assert scalar(engine, "SELECT count(*) FROM delivery_status WHERE NOT is_final") == 1
    assert scalar(engine, "SELECT count(*) FROM tracked_ids WHERE closed_at IS NULL") == 1


def test_an_optional_field_that_cannot_be_read_is_kept_once_for_all_its_messages(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row is stored without it; however many messages and polls have it, people see one entry that counts them."""
    engine = runtime.engine
    account_id = add_account(engine)
    values = [f"s1:+9053212345{place:02}" for place in range(4)]
    add_ids(engine, account_id, values)
    for turn in range(2):
        execute(engine, "UPDATE tracked_ids SET next_check_at = now() WHERE closed_at IS NULL")
        for fetch_id in plan(runtime, account_id):
            held = Held(runtime, fetch_id)
            value = f"s1:{held.taken.params['number']}"
            body = json.loads(vairo_body(value, "WAITING", values.index(value) + 1))
            body["aciklama"] |= {"created_at": "1 Mayıs", "updated_at": f"2026-05-01 12:00:0{turn}"}
            held.answer(json.dumps(body).encode())
    assert [status for _, status in deliveries(engine, account_id)] == ["enroute"] * 4
    with engine.connect() as connection:
        [entry] = list_quarantine(connection)
    assert (entry["reason"], entry["times"]) == ("A report has a `created_at` that cannot be read.", 8)
    still = reread(runtime, entry["id"])
    assert still is not None
    assert not still.understood
    monkeypatch.setattr("ulak.providers.decoding.local_time", lambda *_: datetime(2026, 5, 1, tzinfo=UTC))
    done = reread(runtime, entry["id"])
    assert done is not None
    assert (done.understood, entries(engine)) == (True, [])
