"""Every fault of every provider at once, then calm: the table becomes the truth, and was never wrong on the way."""

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from chaos_table import Table
from demo_accounts import apply_accounts
from sqlalchemy import Engine, text
from storm import explain, judge_storm, rage, send_plenty, watch, wrong_at_any_moment
from system import System

from ulak.sandbox.server import Sandbox

VALID_SECONDS = 7200
"""No validity ends meanwhile: after its end an id is checked once, then daily, and that one answer may be spoiled."""


def weather(table: Table, *, seconds: float, patience: float) -> list[str]:
    """A system in a storm of so many seconds, and all that was wrong with it."""
    with System(table.seed, workers=2, speed=60, settings={"validity_seconds": VALID_SECONDS}) as system:
        watch(system.engine)
        send_plenty(system)
        system.wait_calls(10)
        hits = rage(system, seconds)
        wrong = judge_storm(system, patience)
        print("struck:", dict(sorted(hits.items())), *wrong, *(explain(system, wrong) if wrong else ()), sep="\n")
    table.add(f"every fault for {seconds:.0f} s", sum(hits.values()), None, wrong)
    return wrong


@pytest.mark.long
@pytest.mark.timeout(420)
def test_half_a_minute_of_every_fault_at_once_leaves_no_trace(table: Table) -> None:
    """The short form of the test below."""
    assert weather(table, seconds=25, patience=150) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_minutes_of_every_fault_at_once_leave_no_trace(table: Table) -> None:
    """Missing, wrong and extra rows: none; wrong final statuses at any moment: none; no limit was exceeded."""
    assert weather(table, seconds=120, patience=300) == []


_INSERT = """
    INSERT INTO delivery_status (account_id, provider, granularity, provider_key, status, is_final, provider_status)
    VALUES (:account, :provider, 'message', :key, :status, :final, '')
"""


def test_the_judgement_sees_what_was_wrong_only_for_a_moment(migrated_database: Engine, tmp_path: Path) -> None:
    """A status that was never true, one that came too early, a row about nothing; also where all is right again."""
    with Sandbox(seed=5, speed=60) as sandbox:
        apply_accounts(migrated_database, sandbox.control("GET", "/accounts"), tmp_path)
        watch(migrated_database)
        rows = [row for row in sandbox.truth("vairo") if row["granularity"] == "message" and row["status"] == "enroute"]
        late = next(row for row in rows if row["settles_at"] and timestamp(row["settles_at"]) > time.time() + 4)
        ended = [row for row in sandbox.truth("vairo") if row["status"] == "delivered"]
        right, wrong = ended[0], ended[1]
        end = sandbox.world.truth("vairo", timestamp(late["settles_at"]) + 1)
        last = next(row["status"] for row in end if row["provider_key"] == late["provider_key"])
        phantom = {**right, "provider_key": "999:1"}
        with migrated_database.begin() as connection:
            for row, status in ((right, "delivered"), (wrong, "expired"), (late, last), (phantom, "delivered")):
                names = {"account": row["account"], "provider": "vairo", "key": row["provider_key"]}
                connection.execute(text(_INSERT), {**names, "status": status, "final": True})
        assert_seen(wrong_at_any_moment(migrated_database, sandbox.truth()), wrong, late, phantom)
        # All right again: the moment has not been forgotten.
        with migrated_database.begin() as connection:
            connection.execute(text("DELETE FROM delivery_status WHERE provider_key = '999:1'"))
            sql = "UPDATE delivery_status SET status = 'delivered' WHERE provider_key = :key"
            connection.execute(text(sql), {"key": wrong["provider_key"]})
        assert_seen(wrong_at_any_moment(migrated_database, end), wrong, late, phantom)


def timestamp(moment: str) -> float:
    """Epoch seconds."""
    return datetime.fromisoformat(moment).timestamp()


def assert_seen(found: list[str], *rows: Mapping[str, Any]) -> None:
    """One finding for each of these rows, and no other."""
    assert sorted(each.split("'")[5] for each in found) == sorted(row["provider_key"] for row in rows)
