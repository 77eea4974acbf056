"""The steps against the stand-in providers over real HTTP, without Celery: in the end the table equals their truth."""

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from demo_accounts import apply_accounts, register_sends
from driving import Driver, make_runtime, miscounted_polls, scalar
from ledger_acts import execute
from sqlalchemy import Engine
from truth import differences, stored_rows

from ulak.models.account import load
from ulak.providers.adapter import Callback
from ulak.sandbox.server import Sandbox
from ulak.tasks.messages import Message
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.callbacks import ingest

pytestmark = pytest.mark.timeout(280)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Five small stand-ins, every life at its end within some seconds."""
    with Sandbox(seed=5, speed=90, scale="small") as running:
        yield running


def set_up(engine: Engine, sandbox: Sandbox, folder: Path, **options: Any) -> Runtime:
    """The sandbox's accounts and sends, registered; BiP's replies and reports are handed over, as the sender would."""
    accounts = sandbox.control("GET", "/accounts")
    for account in accounts:
        account["options"] = {**account.get("options", {}), "deadline_seconds": 1.0}
        account["retry"] = {"max_attempts": 40, "base_seconds": 0.05, "cap_seconds": 0.2}
        account["poll"] = {**account["poll"], "every_seconds": 0.5, "time_factor": 0.02, "max_check_seconds": 40}
    apply_accounts(engine, accounts, folder)
    runtime = make_runtime(engine, threads=8, **options)
    register_sends(runtime, sandbox.control("GET", "/sends"))
    return runtime


def untold(engine: Engine, sandbox: Sandbox) -> list[str]:
    """What of the table is not what the pollable providers say."""
    with engine.connect() as connection:
        rows = [row for row in stored_rows(connection) if row["provider"] != "bip"]
    return differences(rows, [told for told in sandbox.truth() if told["provider"] != "bip"])


def is_told(engine: Engine, sandbox: Sandbox) -> Callable[[], bool]:
    """Whether every life has ended and the table says so; looked at now and then, since it is much to compare."""
    looks = iter(range(10**9))

    def look() -> bool:
        if next(looks) % 10 or not sandbox.control("GET", "/truth/settled")["settled"]:
            return False
        return untold(engine, sandbox) == []

    return look


def is_at_rest(engine: Engine) -> Callable[[], bool]:
    """Whether no lease is held."""
    return lambda: scalar(engine, "SELECT count(*) FROM fetches WHERE state = 'sending'") == 0


def test_five_providers_end_in_one_table_that_equals_their_truth(
    migrated_database: Engine, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Lists swept, ids polled, replies handed over: row for row what the providers say, and no limit broken."""
    runtime = set_up(migrated_database, sandbox, tmp_path)
    with migrated_database.begin() as connection:
        bip = load(connection, "demo-bip")
    for reply in sandbox.control("GET", "/sends?provider=bip")["replies"]:
        ingest(runtime, bip, Callback(tail="send_reply", body=msgspec.json.encode(reply["body"])))
    with Driver(runtime).running() as driver:
        assert driver.until(is_told(migrated_database, sandbox), seconds=120), untold(migrated_database, sandbox)[:5]
    assert sandbox.control("GET", "/log/violations") == []
    assert miscounted_polls(migrated_database) == []
    assert scalar(migrated_database, "SELECT count(*) FROM quarantine WHERE account_id <> 'demo-bip'") == 0


TROUBLES = ("http_500", "reset", "truncate", "html_200", "garbage", "http_429", "empty", "hang")


def test_faults_of_every_kind_change_nothing_in_the_end(
    migrated_database: Engine, sandbox: Sandbox, tmp_path: Path
) -> None:
    """500s, resets, broken and foreign bodies, 429s, hangs, lost and doubled messages: in the end the same table."""
    runtime = set_up(migrated_database, sandbox, tmp_path)
    for provider in ("iletimerkezi", "vairo", "organik", "diyalog"):
        for kind in ("http_500", "garbage", "http_429"):
            # However slow the machine is, each of these is met.
            sandbox.control("POST", "/faults", {"provider": provider, "kind": kind, "times": 1})
        for kind in TROUBLES:
            rate = 0.01 if kind == "hang" else 0.04
            sandbox.control("POST", "/faults", {"provider": provider, "kind": kind, "rate": rate, "for_seconds": 5})
    dice, lock = random.Random(7), threading.Lock()

    def fate(message: Message) -> int:
        """One message in twenty is lost, one in ten comes twice."""
        with lock:
            roll = dice.random()
        return 0 if roll < 0.05 else 2 if roll < 0.15 else 1

    # What rests an account for half a minute is waited out faster here; the rest itself is the ledger's test.
    wake = "UPDATE accounts SET breaker_until = now() WHERE breaker_state <> 'closed' AND breaker_until > now()"
    lost = "UPDATE accounts SET wake_at = NULL WHERE wake_at < now() - interval '2 seconds'"
    told = is_told(migrated_database, sandbox)

    def is_done() -> bool:
        execute(migrated_database, wake)
        execute(migrated_database, lost)
        return told()

    with Driver(runtime, fate=fate).running() as driver:
        assert driver.until(is_done, seconds=150), untold(migrated_database, sandbox)[:5]
        assert driver.until(is_at_rest(migrated_database), seconds=40)
    outcomes = "SELECT count(DISTINCT outcome) FROM calls WHERE outcome IN ('ok', 'failed', 'throttled', 'unreadable')"
    assert scalar(migrated_database, outcomes) == 4
    assert sandbox.control("GET", "/log/violations") == []
    assert miscounted_polls(migrated_database) == []


def test_a_refused_key_pauses_its_account_alone_and_all_goes_on_after_a_resume(
    migrated_database: Engine, sandbox: Sandbox, tmp_path: Path
) -> None:
    """The others reach their truth meanwhile; nothing of the refusal becomes a status; the resume brings the rest."""
    runtime = set_up(migrated_database, sandbox, tmp_path)
    sandbox.control("POST", "/faults", {"provider": "vairo", "kind": "unauthorized"})
    paused = "SELECT count(*) FROM accounts WHERE paused_until > now()"

    def others_are_told() -> bool:
        return all("demo-vairo" in each and each.endswith("missing") for each in untold(migrated_database, sandbox))

    with Driver(runtime).running() as driver:
        settled = lambda: sandbox.control("GET", "/truth/settled")["settled"] and others_are_told()  # noqa: E731
        assert driver.until(settled, seconds=100), untold(migrated_database, sandbox)[:5]
        assert scalar(migrated_database, paused) == 1
        refused = "SELECT count(*) FROM calls WHERE account_id = 'demo-vairo'"
        assert int(str(scalar(migrated_database, refused))) <= 8
        sandbox.control("DELETE", "/faults")
        execute(migrated_database, "UPDATE accounts SET paused_until = NULL, pause_reason = NULL")
        assert driver.until(is_told(migrated_database, sandbox), seconds=100), untold(migrated_database, sandbox)[:5]
    assert sandbox.control("GET", "/log/violations") == []
