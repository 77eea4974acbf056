"""Senders' references for what is found without being registered: attached before or after it is found, never lost."""

from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from command_line import Ulak, ulak
from driving import make_runtime, scalar
from ledger_acts import Held, add_account, execute, fetches_of, plan, row, run_at_once
from sqlalchemy import Engine, text

from ulak.core import clock
from ulak.models.account import load
from ulak.models.deliveries import upsert
from ulak.models.rebuild import rebuild
from ulak.models.report import DeliveryReport
from ulak.models.vocabulary import Granularity, Status
from ulak.providers.adapter import Callback
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.callbacks import ingest
from ulak.tasks.steps.tracking import UnknownIdKindError, track

__all__ = ["ulak"]

pytestmark = pytest.mark.timeout(120)

NUMBER = "+905301234567"


@pytest.fixture
def runtime(migrated_database: Engine) -> Runtime:
    """A runtime whose credentials are always found."""
    return make_runtime(migrated_database, resolve=lambda _: "secret")


def body(**content: Any) -> bytes:
    """An answer of iletimerkezi."""
    return msgspec.json.encode({"response": {"status": {"code": 200}, **content}})


def stated(status: int = 114, **changes: Any) -> dict[str, Any]:
    """Order 7 with one recipient."""
    done = int(status == 114)
    counts = {"total": 1, "delivered": done, "undelivered": 0, "waiting": 1 - done}
    day = f"{clock.now():%Y-%m-%d}"
    return {"id": 7, "status": status, **counts, "submitAt": f"{day} 00:00:00", "sendAt": f"{day} 00:00:00", **changes}


def answer(runtime: Runtime, account_id: str, what: str, content: bytes) -> None:
    """The fetch that asks for this (`window`, `order`) is answered."""
    query = (
        "SELECT id FROM fetches WHERE account_id = :a AND state = 'ready' AND params ? :what ORDER BY id DESC LIMIT 1"
    )
    Held(runtime, int(str(scalar(runtime.engine, query, a=account_id, what=what)))).answer(content)


def sweep(runtime: Runtime, account_id: str, order: dict[str, Any]) -> None:
    """A list page names order 7."""
    execute(runtime.engine, "UPDATE accounts SET planned_at = NULL WHERE id = :a", a=account_id)
    plan(runtime, account_id)
    answer(runtime, account_id, "window", body(count=1, orders=[order]))


def detail(runtime: Runtime, account_id: str, order: dict[str, Any], code: int = 111) -> None:
    """Order 7 falls due and is asked for."""
    execute(runtime.engine, "UPDATE tracked_ids SET next_check_at = now() WHERE closed_at IS NULL")
    plan(runtime, account_id)
    answer(runtime, account_id, "order", body(order={**order, "message": [{"number": NUMBER, "status": code}]}))


def references(engine: Engine) -> dict[str, str | None]:
    """The references in the shared table, by key."""
    with engine.connect() as connection:
        found = connection.execute(text("SELECT provider_key, client_ref FROM delivery_status"))
        return {row.provider_key: row.client_ref for row in found}


BOTH = {"7": "inv-7", f"7:{NUMBER}:1": "inv-7"}


def test_a_reference_that_comes_before_its_order_waits_for_it(runtime: Runtime, ulak: Ulak) -> None:
    """Nothing is asked for by registering it; once the list names the order, it has the list's times."""
    engine = runtime.engine
    account_id = add_account(engine, provider="iletimerkezi")
    done = ulak("track", account_id, "order=7", "--ref", "inv-7")
    assert (done.code, done.out) == (0, "1 registered, 1 of them new\n")
    [waiting] = ulak("deliveries", "--ref", "inv-7", "--format", "csv").out.splitlines()[1:]
    assert ",open," in waiting
    [tracked_id] = [scalar(engine, "SELECT id FROM tracked_ids")]
    assert row(engine, "tracked_ids", tracked_id)["close_reason"] == "reference"
    sweep(runtime, account_id, stated(113))
    found = row(engine, "tracked_ids", tracked_id)
    assert (found["closed_at"], found["client_ref"], found["expected"]) == (None, "inv-7", 1)
    assert (found["sent_at"].hour, found["valid_until"] - found["sent_at"]) == (0, timedelta(hours=48))
    detail(runtime, account_id, stated())
    assert references(engine) == BOTH
    assert row(engine, "tracked_ids", tracked_id)["close_reason"] == "final"
    [told] = [
        line for line in ulak("deliveries", "--ref", "inv-7", "--format", "csv").out.splitlines() if NUMBER in line
    ]
    assert "inv-7" in told


@pytest.mark.parametrize("when", ["discovered", "read", "closed"])
def test_a_reference_that_comes_after_its_order_goes_to_the_stored_rows(runtime: Runtime, when: str) -> None:
    """At once and without a call; a later statement takes nothing away, and the history alone gives the row."""
    engine = runtime.engine
    account_id = add_account(engine, provider="iletimerkezi")
    sweep(runtime, account_id, stated(113))
    if when != "discovered":
        detail(runtime, account_id, stated(113 if when == "read" else 114), 110 if when == "read" else 111)
    before = scalar(engine, "SELECT count(*) FROM calls")
    changed = "SELECT count(*) FROM delivery_status WHERE changed_at > :at"
    at = clock.now()
    assert track(runtime, account_id, [{"kind": "order", "value": "7", "client_ref": "inv-7"}]) == 0
    known = dict(list(BOTH.items())[: 1 if when == "discovered" else 2])
    assert (references(engine), scalar(engine, "SELECT count(*) FROM calls")) == (known, before)
    assert scalar(engine, changed, at=at) == len(known)
    assert scalar(engine, "SELECT count(*) FROM observations WHERE statement = '{}'") == 0
    assert track(runtime, account_id, [{"kind": "order", "value": "7", "client_ref": "other"}]) == 0
    sweep(runtime, account_id, stated())
    if when != "closed":
        detail(runtime, account_id, stated())
    # What is settled stays so: a reference is no news about the order.
    assert scalar(engine, "SELECT close_reason FROM tracked_ids") == "final"
    assert references(engine) == BOTH
    assert scalar(engine, "SELECT count(*) FROM delivery_status WHERE is_final AND NOT conflict") == 2
    with engine.begin() as connection:
        assert rebuild(connection).differed == 0


def test_without_details_the_order_has_its_reference_too(runtime: Runtime) -> None:
    """Then no list makes it an id to be asked for, and it is not asked for."""
    engine = runtime.engine
    account_id = add_account(engine, provider="iletimerkezi", options={"details": False})
    track(runtime, account_id, [{"kind": "order", "value": "7", "client_ref": "inv-7"}])
    sweep(runtime, account_id, stated())
    assert references(engine) == {"7": "inv-7"}
    assert scalar(engine, "SELECT count(*) FROM tracked_ids WHERE closed_at IS NULL") == 0


def test_a_push_before_the_list_makes_a_registered_order_one_to_be_asked_for(runtime: Runtime) -> None:
    """The reference stays with it."""
    engine = runtime.engine
    account_id = add_account(engine, provider="iletimerkezi")
    track(runtime, account_id, [{"kind": "order", "value": "7", "client_ref": "inv-7"}])
    pushed = {"report": {"id": 9, "packet_id": 7, "status": "delivered", "to": NUMBER}}
    with engine.connect() as connection:
        account = load(connection, account_id)
    ingest(runtime, account, Callback(tail="", body=msgspec.json.encode(pushed)))
    detail(runtime, account_id, stated())
    assert references(engine) == BOTH


def test_a_conversation_can_have_a_reference(runtime: Runtime, ulak: Ulak, tmp_path: Path) -> None:
    """Its key is the delivery's; it is attached before or after the day is read, and never asked for."""
    engine = runtime.engine
    account_id = add_account(engine)
    execute(engine, "UPDATE accounts SET provider = 'diyalog', credentials = '{}' WHERE id = :a", a=account_id)
    key = "113377:45188:0:2026-04-06"
    file = tmp_path / "ids.csv"
    file.write_text(f"kind,value,client_ref\nconversation,{key},ticket-1\n")
    assert ulak("track", account_id, "--file", str(file)).code == 0
    report = DeliveryReport(
        granularity=Granularity.CONVERSATION,
        provider_key=key,
        status=Status.SENT,
        provider_status="sendMessageCount",
        day=clock.now().date(),
    )
    with engine.begin() as connection:
        upsert(connection, account_id, "diyalog", [report], asked_at=clock.now())
    assert references(engine) == {key: None}
    assert ulak("track", account_id, f"conversation={key}", "--ref", "ticket-2").code == 0
    assert references(engine) == {key: "ticket-1"}
    assert fetches_of(engine, account_id, "ready") == plan(runtime, account_id) == []


def test_registering_while_the_order_is_found_loses_nothing(runtime: Runtime) -> None:
    """Whoever comes first in forty races between a sweep and a registration: each order has its reference."""
    engine = runtime.engine
    account_id = add_account(engine, provider="iletimerkezi", options={"details": False})
    for number in range(40):
        execute(engine, "UPDATE accounts SET planned_at = NULL, closed_swept_at = now() WHERE id = :a", a=account_id)
        plan(runtime, account_id)
        query = "SELECT id FROM fetches WHERE account_id = :a AND state = 'ready' AND params ? 'window' LIMIT 1"
        held = Held(runtime, int(str(scalar(engine, query, a=account_id))))
        listed = body(count=1, orders=[{**stated(), "id": number}])
        item = {"kind": "order", "value": str(number), "client_ref": f"inv-{number}"}
        run_at_once([partial(held.answer, listed), partial(track, runtime, account_id, [item])])
    assert references(engine) == {str(number): f"inv-{number}" for number in range(40)}


def test_an_id_that_only_attaches_a_reference_cannot_be_polled_for(runtime: Runtime, ulak: Ulak) -> None:
    """It is no kind that a poll may name, and --ref needs an id to go with."""
    account_id = add_account(runtime.engine, provider="iletimerkezi")
    refused = ulak("track", account_id, "transaction=5")
    assert (refused.code, refused.err) == (2, "Id 1 of the command line: kind must be one of: order, message.\n")
    assert ulak("track", account_id, "--file", "-", "--ref", "x", stdin=b"").code == 2
    assert ulak("track", account_id, "order=5", "--ref", " ").code == 2
    with pytest.raises(UnknownIdKindError):
        track(runtime, account_id, [{"kind": "number", "value": "5"}])
