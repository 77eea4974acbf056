"""An erased person stays erased through sweeps that name the number, and which columns hold numbers at all."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from driving import Driver, scalar
from sqlalchemy import Engine, text
from swept_people import KEY, places, sandbox, set_up
from truth import stored_rows

from ulak.models.erasure import Erased, erase_person
from ulak.models.suppression import Listed
from ulak.sandbox.server import Sandbox
from ulak.tasks.steps.ondemand import open_on_demand
from ulak.tasks.steps.planning import plan_poll

__all__ = ["sandbox"]

pytestmark = pytest.mark.timeout(280)

SWEEPS = 10
ACCOUNTS = ("demo-iletimerkezi", "demo-organik")
"""Where a send names every recipient again whenever it is polled."""


def several(engine: Engine, account: str) -> tuple[str, str]:
    """A recipient of one of this account's sends to several, and that send's key."""
    query = text(
        "SELECT min(recipient) AS recipient, parent_key FROM delivery_status WHERE account_id = :account"
        " AND granularity = 'message' AND parent_key IS NOT NULL AND recipient LIKE '+90%%'"
        " GROUP BY parent_key HAVING count(DISTINCT recipient) > 1 ORDER BY parent_key LIMIT 1"
    )
    with engine.connect() as connection:
        row = connection.execute(query, {"account": account}).one()
    return row.recipient, row.parent_key


def erase_now(engine: Engine, person: str) -> Erased:
    """As the command does it."""
    return erase_person(engine, KEY, person, lambda _connection, _gone: None)


def all_rows(engine: Engine) -> str:
    """Everything that is stored, as text."""
    with engine.connect() as connection:
        tables = connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).scalars().all()
        return "\n".join(
            row for table in tables for row in connection.execute(text(f'SELECT t::text FROM "{table}" t')).scalars()
        )


ALLOWED = {
    "delivery_status": {"recipient", "provider_key"},
    "observations": {"facts", "statement"},
    "tracked_ids": {"value", "recipient"},
    # The question of what was not understood: it is needed to read that again.
    "quarantine": {"context", "provider_key"},
}
"""The columns that may hold people's numbers once nothing is being asked for."""


def test_numbers_stand_in_named_columns_only_once_nothing_is_asked_for(
    migrated_database: Engine, sandbox: Sandbox, tmp_path: Path
) -> None:
    """All columns of all tables, after sweeps, checks of ids and polls that name numbers: requests keep none."""
    engine = migrated_database
    runtime = set_up(engine, sandbox, tmp_path)
    with Driver(runtime).running() as driver:
        with engine.connect() as connection:
            named = [
                {"kind": "number", "value": value}
                for value in connection.execute(
                    text("SELECT value FROM tracked_ids WHERE id_kind = 'number' ORDER BY id LIMIT 5")
                ).scalars()
            ]
        poll = open_on_demand(runtime, "demo-vairo", trigger="cli", ids=named)
        driver.emit([plan_poll(runtime, "demo-vairo", poll)])
        assert driver.until(lambda: sandbox.control("GET", "/truth/settled")["settled"], seconds=120)
        runtime_is_idle = "SELECT count(*) FROM fetches WHERE state IN ('ready', 'sending')"
        # Beat plans all the time; what it leaves is what nobody asks for at this moment.
        driver._plans = False
        assert driver.until(lambda: scalar(engine, runtime_is_idle) == 0, seconds=120)
    with engine.connect() as connection:
        people = frozenset(
            each[-10:]
            for each in connection.execute(
                text("SELECT DISTINCT recipient FROM delivery_status WHERE recipient ~ '^[+]90[0-9]{10}$'")
            ).scalars()
        )
        shown = connection.execute(text("SELECT ids::text FROM polls WHERE id = :id"), {"id": poll}).scalar_one()
    assert people
    assert len(named) == 5
    assert shown.count("*") >= 5
    found = places(engine, people)
    beyond = {table: columns - ALLOWED.get(table, set()) for table, columns in found.items()}
    assert [table for table, columns in beyond.items() if columns] == []
    assert found.keys() >= {"delivery_status", "observations", "tracked_ids"}


@pytest.mark.parametrize("account", ACCOUNTS)
def test_an_erased_person_stays_erased_through_ten_sweeps_that_name_the_number(
    migrated_database: Engine, sandbox: Sandbox, tmp_path: Path, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists are swept all the time, and the send is polled ten times over; the other recipients stay as they are."""
    engine = migrated_database
    runtime = set_up(engine, sandbox, tmp_path)
    discarded: Counter[str] = Counter()
    refused = Listed.refused

    def counted(listed: Listed, connection: Any, account_id: str, reports: Any, asked_at: Any) -> set[int]:
        found = refused(listed, connection, account_id, reports, asked_at)
        discarded[account_id] += bool(found)
        return found

    monkeypatch.setattr(Listed, "refused", counted)
    with Driver(runtime).running() as driver:
        assert driver.until(lambda: sandbox.control("GET", "/truth/settled")["settled"], seconds=120)
        assert driver.until(
            lambda: scalar(engine, "SELECT count(*) FROM fetches WHERE state = 'sending'") == 0, seconds=60
        )
        person, send = several(engine, account)
        neighbours = text(
            "SELECT provider_key, status FROM delivery_status WHERE account_id = :account AND parent_key = :send"
            " AND recipient <> :person ORDER BY 1"
        )
        # What a list shows as changed is asked for again in full.
        reopen = text(
            "UPDATE tracked_ids SET closed_at = NULL, close_reason = NULL, next_check_at = now()"
            " WHERE account_id = :account AND value = :send"
        )
        open_ids = "SELECT count(*) FROM tracked_ids WHERE closed_at IS NULL"
        names = {"account": account, "send": send, "person": person}
        with engine.connect() as connection:
            before = connection.execute(neighbours, names).all()
        assert erase_now(engine, person).deliveries > 0
        for _ in range(SWEEPS):
            heard = discarded[account]
            with engine.begin() as connection:
                connection.execute(reopen, names)
            assert driver.until(lambda: scalar(engine, f"{open_ids} AND value = '{send}'") == 0, seconds=60)
            assert discarded[account] > heard
            with engine.connect() as connection:
                assert not [row for row in stored_rows(connection) if person in str(row)]
    with engine.connect() as connection:
        assert connection.execute(neighbours, names).all() == before
    assert person.removeprefix("+90") not in all_rows(engine)
