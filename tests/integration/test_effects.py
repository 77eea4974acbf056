"""Log events of a transaction are written after its commit: once, and never for what was rolled back."""

from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from driving import make_runtime
from ledger_acts import Held, add_account, add_ids, plan, row, vairo_body
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from ulak.models.ledger.ending import FencedError
from ulak.tasks.effects import Effects, commit


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    """What is logged."""
    with structlog.testing.capture_logs() as captured:
        yield captured


def _fail(connection: Connection, sqlstate: str) -> None:
    connection.exec_driver_sql(f"DO $$ BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = '{sqlstate}'; END $$")


def test_a_transaction_that_is_repeated_tells_its_events_once(shared_database: Engine, lines: list[Any]) -> None:
    """Those of the attempt that was committed."""
    attempts: list[int] = []

    def run(connection: Connection, mine: Effects) -> None:
        attempts.append(len(attempts) + 1)
        mine.info("thing.done", attempt=attempts[-1])
        assert lines == []
        if attempts[-1] < 3:
            _fail(connection, "40P01")

    effects = Effects()
    commit(shared_database, effects, run)
    effects.write_log()
    effects.write_log()
    assert lines == [{"event": "thing.done", "attempt": 3, "log_level": "info"}]


def test_a_transaction_that_is_rolled_back_tells_nothing(shared_database: Engine, lines: list[Any]) -> None:
    """An error that is not repeated goes through."""

    def run(connection: Connection, mine: Effects) -> None:
        mine.warning("thing.done")
        _fail(connection, "22012")

    effects = Effects()
    with pytest.raises(DBAPIError):
        commit(shared_database, effects, run)
    assert (lines, effects) == ([], Effects())


def test_an_answer_that_could_not_be_stored_is_not_said_to_be(shared_database: Engine, lines: list[Any]) -> None:
    """A lease that was lost rolls back, and so does its line in the log."""
    runtime = make_runtime(shared_database, resolve=lambda _: "secret")
    account_id = add_account(shared_database)
    add_ids(shared_database, account_id, ["s1:+905321234501"])
    [fetch_id] = plan(runtime, account_id)
    held = Held(runtime, fetch_id)
    held.answer(vairo_body("s1:+905321234501", "WAITING"))
    assert [line["event"] for line in lines].count("fetch.stored") == 1
    with pytest.raises(FencedError):
        held.answer(vairo_body("s1:+905321234501", "DELIVERED"))
    assert [line["event"] for line in lines].count("fetch.stored") == 1
    assert row(shared_database, "fetches", fetch_id)["state"] == "done"
