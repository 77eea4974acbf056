"""Five providers whose accounts keep no clear number: the same truth in the table, and no number in any other."""

from pathlib import Path

import msgspec
import pytest
from driving import Driver, scalar
from ledger_acts import execute
from sqlalchemy import Engine, text
from swept_people import KEY, places, sandbox, set_up
from truth import differences, hashed, stored_rows

from ulak.models.account import load
from ulak.models.keys import split_key
from ulak.models.ledger.opening import cancel
from ulak.models.pseudonyms import is_pseudonym, operator_prefix
from ulak.models.rebuild import rebuild
from ulak.providers.adapter import Callback
from ulak.providers.registry import ADAPTERS
from ulak.sandbox.server import Sandbox
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps import upkeep
from ulak.tasks.steps.callbacks import ingest
from ulak.tasks.steps.ondemand import open_on_demand
from ulak.tasks.steps.planning import plan_poll
from ulak.tasks.steps.rereading import reread_statements, restate_of

__all__ = ["sandbox"]

pytestmark = pytest.mark.timeout(400)

ASKING = {
    "tracked_ids": {"clear"},
    "fetches": {"params", "seen", "params_hash"},
    "polls": {"ids"},
}
"""The columns that may hold a number while something is asked for."""


def set_up_hashed(engine: Engine, sandbox: Sandbox, folder: Path) -> Runtime:
    """As `set_up`, with a notice of each message to BiP's users."""
    runtime = set_up(engine, sandbox, folder, hashed=True)
    with engine.begin() as connection:
        bip = load(connection, "demo-bip")
    for reply in sandbox.control("GET", "/sends?provider=bip")["replies"]:
        for item in reply["body"].get("list") or []:
            ingest(runtime, bip, Callback(tail="", body=notice(item["receiver"], item["reportid"])))
    return runtime


def notice(sender: str, reportid: str) -> bytes:
    """What BiP pushes about a message that was read, with the number in its own form."""
    report = {"reportid": reportid, "reporttype": "2"}
    sendtime = "18.05.2018 16:11:58.633 +0300"
    return msgspec.json.encode({"type": "R", "sender": sender, "msgid": "m", "sendtime": sendtime, "report": report})


def untold(engine: Engine, sandbox: Sandbox) -> list[str]:
    """What of the table is not what the pollable providers say."""
    with engine.connect() as connection:
        rows = [row for row in stored_rows(connection) if row["provider"] != "bip"]
    return differences(rows, [hashed(told, KEY) for told in sandbox.truth() if told["provider"] != "bip"])


def numbers_of(sandbox: Sandbox) -> frozenset[str]:
    """The last ten digits of every number that any stand-in knows."""
    told = sandbox.truth()
    numbers = {row["recipient"] for row in told} | {send["recipient"] for send in sandbox.control("GET", "/sends")}
    digits = ("".join(filter(str.isdigit, each)) for each in numbers if each is not None and each.startswith("+"))
    return frozenset(each[-10:] for each in digits)


def test_no_table_keeps_a_number_that_nothing_asks_for(
    migrated_database: Engine, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Row for row the providers' truth under pseudonyms; numbers only where requests need them, in the end nowhere."""
    engine = migrated_database
    runtime = set_up_hashed(engine, sandbox, tmp_path)
    people = numbers_of(sandbox)
    assert len(people) > 50
    with engine.connect() as connection:
        values = connection.execute(text("SELECT clear ->> 'value' FROM tracked_ids WHERE id_kind = 'number'"))
        named = [{"kind": "number", "value": value} for value in list(values.scalars())[:5]]
    assert places(engine, people).get("tracked_ids") == {"clear"}
    with Driver(runtime).running() as driver:
        poll = open_on_demand(runtime, "demo-vairo", trigger="cli", ids=named)
        driver.emit([plan_poll(runtime, "demo-vairo", poll)])
        seen: dict[str, set[str]] = {}

        def is_told() -> bool:
            for table, columns in places(engine, people).items():
                seen.setdefault(table, set()).update(columns)
            return sandbox.control("GET", "/truth/settled")["settled"] and not untold(engine, sandbox)

        assert driver.until(is_told, seconds=240), untold(engine, sandbox)[:5]
        driver._plans = False
        idle = "SELECT count(*) FROM fetches WHERE state IN ('ready', 'sending')"
        assert driver.until(lambda: scalar(engine, idle) == 0, seconds=120)
    assert all(columns <= ASKING.get(table, set()) for table, columns in seen.items()), seen
    assert set(places(engine, people)) <= {"tracked_ids"}
    check_forms(engine)
    with engine.begin() as connection:
        for one in connection.execute(text("SELECT id FROM polls WHERE state = 'running'")).scalars().all():
            cancel(connection, one)
    execute(
        engine,
        "UPDATE tracked_ids SET closed_at = now(), close_reason = 'forgotten', next_check_at = NULL, fetch_id = NULL"
        " WHERE closed_at IS NULL",
    )
    upkeep.prune(runtime)
    assert places(engine, people) == {}
    customers = {row["parent_key"] for row in sandbox.truth() if row["provider"] == "diyalog"}
    asked = "SELECT count(*) FROM fetches WHERE params ->> 'customer' = ANY(:ids)"
    assert customers
    assert scalar(engine, asked, ids=sorted(customers)) == 0
    check_rereading(engine, runtime)


def check_forms(engine: Engine) -> None:
    """Whoever a row is about is a pseudonym, with the operator's prefix where there is one."""
    with engine.connect() as connection:
        rows = stored_rows(connection)
        stated = text("SELECT statement ->> 'senderId', statement ->> 'receiverId' FROM observations")
        sides = {side for row in connection.execute(stated) for side in row if side is not None}
    recipients = {row["recipient"] for row in rows if row["recipient"] is not None}
    assert {each for each in recipients if not is_pseudonym(each)} == set()
    assert "90555" in {operator_prefix(each) for each in recipients}
    conversations = [split_key(row["provider_key"]) for row in rows if row["granularity"] == "conversation"]
    assert conversations
    assert sides == {each for parts in conversations for each in parts[:2]}
    assert all(is_pseudonym(each) for parts in conversations for each in parts[:2])
    assert {row["provider"] for row in rows} == set(ADAPTERS)


def check_rereading(engine: Engine, runtime: Runtime) -> None:
    """What is stored gives the same facts again, without any number and without the key."""
    with engine.connect() as connection:
        before = stored_rows(connection)
    again = reread_statements(engine, runtime.suppressions)
    assert (again.deliveries, again.differed, again.written) == (len(before), 0, 0)
    with engine.begin() as connection:
        done = rebuild(connection, None, restate_of=restate_of(connection))
    assert (done.differed, done.doubtful) == (0, 0)
    with engine.connect() as connection:
        assert stored_rows(connection) == before
