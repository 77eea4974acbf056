"""Truth that comes late, changes or contradicts itself: the row is what the provider means, `explain` says why."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from command_line import Ulak, ulak
from driving import make_runtime, scalar
from ledger_acts import Held, add_account, add_ids, execute, fetches_of, plan, vairo_body
from sqlalchemy import Engine

from ulak.core import clock
from ulak.models.account import load
from ulak.providers.adapter import Callback
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.callbacks import ingest
from ulak.tasks.steps.ondemand import open_on_demand
from ulak.tasks.steps.planning import plan_poll

__all__ = ["ulak"]

NUMBER = "s1:+905321234567"


@pytest.fixture
def runtime(ulak: Ulak, migrated_database: Engine) -> Runtime:
    """A runtime whose credentials are always found, on the database of the commands."""
    assert ulak("status").code == 0
    return make_runtime(migrated_database, resolve=lambda _: "secret")


def say_when_due(runtime: Runtime, account_id: str, word: str) -> None:
    """The id falls due, and the provider answers that word."""
    execute(runtime.engine, "UPDATE tracked_ids SET next_check_at = now() WHERE account_id = :a", a=account_id)
    [fetch_id] = plan(runtime, account_id)
    Held(runtime, fetch_id).answer(vairo_body(NUMBER, word))


def say_when_asked(runtime: Runtime, account_id: str, word: str) -> None:
    """Somebody asks again for an id that is closed long since, and the provider answers that word."""
    ids = [{"kind": "number", "value": NUMBER}]
    plan_poll(runtime, account_id, open_on_demand(runtime, account_id, trigger="cli", ids=ids))
    [fetch_id] = fetches_of(runtime.engine, account_id, "ready")
    Held(runtime, fetch_id).answer(vairo_body(NUMBER, word))


def stored(engine: Engine, *columns: str) -> dict[str, Any]:
    """These columns of the one row."""
    fields = ", ".join(f"'{name}', {name}" for name in columns)
    found: dict[str, Any] = scalar(engine, f"SELECT jsonb_build_object({fields}) FROM delivery_status")  # type: ignore[assignment]
    return found


def why(ulak: Ulak, ident: str) -> list[tuple[str, str, str | None]]:
    """(status, source, lost by) of each statement, as `explain` tells it, the winner first."""
    [told] = json.loads(ulak("explain", ident, "--json").out)["deliveries"]
    return [(each["status"], each["source"], each["lost_by"]) for each in told["statements"]]


def test_a_final_report_wins_over_our_own_end_of_waiting(runtime: Runtime, ulak: Ulak) -> None:
    """`unreported` is ours and reopenable: what the provider says later is the truth, ours stays as history."""
    engine = runtime.engine
    account_id = add_account(engine)
    add_ids(engine, account_id, [NUMBER], valid_until=clock.now() - timedelta(seconds=1))
    say_when_due(runtime, account_id, "WAITING")
    assert stored(engine, "status", "is_final") == {"status": "unreported", "is_final": True}
    assert why(ulak, "1") == [("unreported", "ours", None), ("enroute", "poll", "class")]
    say_when_due(runtime, account_id, "DELIVERED")
    assert stored(engine, "status", "conflict") == {"status": "delivered", "conflict": False}
    assert why(ulak, "1") == [
        ("delivered", "poll", None),
        ("unreported", "ours", "class"),
        ("enroute", "poll", "class"),
    ]
    shown = ulak("explain", "1").out
    assert "delivered, final" in shown
    assert [line.split()[:3] for line in shown.splitlines() if " ours " in line] != []
    assert "CONFLICT" not in shown


def test_a_receipt_that_comes_after_all_wins_over_none_possible(runtime: Runtime, ulak: Ulak) -> None:
    """`sent` is final since no receipt was to come; one that comes all the same is no contradiction."""
    account_id = add_account(runtime.engine)
    add_ids(runtime.engine, account_id, [NUMBER])
    say_when_due(runtime, account_id, "SENT")
    closed = "SELECT close_reason FROM tracked_ids"
    assert scalar(runtime.engine, closed) == "final"
    say_when_asked(runtime, account_id, "DELIVERED")
    assert stored(runtime.engine, "status", "conflict") == {"status": "delivered", "conflict": False}
    assert why(ulak, "1") == [("delivered", "poll", None), ("sent", "poll", "class")]


def test_an_open_word_after_a_final_one_changes_nothing(runtime: Runtime, ulak: Ulak) -> None:
    """A message does not come back from its end; the statement is kept, and loses by its class."""
    account_id = add_account(runtime.engine)
    add_ids(runtime.engine, account_id, [NUMBER])
    say_when_due(runtime, account_id, "EXPIRED")
    say_when_asked(runtime, account_id, "WAITING")
    assert stored(runtime.engine, "status", "conflict") == {"status": "expired", "conflict": False}
    assert why(ulak, "1") == [("expired", "poll", None), ("enroute", "poll", "class")]


def test_two_finals_that_disagree_are_a_conflict_and_the_later_one_stands(runtime: Runtime, ulak: Ulak) -> None:
    """Both are kept and named; a third statement does not hide that they disagreed."""
    account_id = add_account(runtime.engine)
    add_ids(runtime.engine, account_id, [NUMBER])
    say_when_due(runtime, account_id, "DELIVERED")
    say_when_asked(runtime, account_id, "NOT_DELIVERED")
    assert stored(runtime.engine, "status", "reason", "conflict") == {
        "status": "undeliverable", "reason": "absent", "conflict": True
    }  # fmt: skip
    assert why(ulak, "1") == [("undeliverable", "poll", None), ("delivered", "poll", "as_of")]
    shown = ulak("explain", "1").out
    assert "CONFLICT: the provider reported delivered and undeliverable for the same message" in shown
    assert "superseded: as of" in shown
    say_when_asked(runtime, account_id, "DELIVERED")
    # The same words again are the same statement: it was made first when it was made first.
    assert stored(runtime.engine, "status", "conflict") == {"status": "undeliverable", "conflict": True}
    assert "0 of them differed" in ulak("rebuild").out


def test_notices_that_come_before_the_send_is_known_are_kept_and_joined(runtime: Runtime, ulak: Ulak) -> None:
    """BiP's delivered notice comes first, then the reply of the send: one row, with the sender's reference."""
    engine = runtime.engine
    account_id = add_account(engine, provider="bip")
    with engine.connect() as connection:
        row = load(connection, account_id)
    at = datetime(2026, 5, 18, 13, 11, 58, 633000, tzinfo=UTC)

    def notice(reporttype: int, sendtime: str) -> None:
        body = {"sender": "905301234570", "type": "R", "msgid": 9, "sendtime": sendtime, "txnid": "n-1",
                "report": {"reportid": "r-1", "reporttype": reporttype}}  # fmt: skip
        ingest(runtime, row, Callback(tail="", body=json.dumps(body).encode()))

    notice(0, "18.05.2026 16:11:58.633 +0300")
    assert stored(engine, "status", "client_ref") == {"status": "delivered", "client_ref": None}
    items = [{"resultcode": 0, "receiver": "905301234570", "reportid": "r-1"}]
    reply = {"txnid": "siparis-9", "resultcode": 0, "list": items}
    ingest(runtime, row, Callback(tail="send_reply", body=json.dumps(reply).encode()))
    assert stored(engine, "status", "client_ref", "recipient", "conflict") == {
        "status": "delivered", "client_ref": "siparis-9", "recipient": "+905301234570", "conflict": False
    }  # fmt: skip
    assert why(ulak, "siparis-9") == [("delivered", "callback", None), ("enroute", "send_reply", "class")]
    notice(1, "18.05.2026 16:30:00.000 +0300")
    assert stored(engine, "status", "conflict") == {"status": "read", "conflict": False}
    assert why(ulak, "siparis-9") == [
        ("read", "callback", None),
        ("delivered", "callback", "class"),
        ("enroute", "send_reply", "class"),
    ]
    [told] = json.loads(ulak("explain", "siparis-9", "--json").out)["deliveries"]
    gave = {each["status"]: each["gave"] for each in told["statements"]}
    assert "client_ref" in gave["enroute"]
    assert datetime.fromisoformat(told["statements"][1]["as_of"]) == at
