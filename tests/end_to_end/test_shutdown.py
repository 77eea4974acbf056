"""Stopping a worker costs nothing: what it has in hand is finished or returned, and nothing is said or asked twice."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from demo_accounts import apply_accounts, register_sends
from driving import make_runtime, miscounted_polls, scalar
from sqlalchemy import Engine
from truth import differences, stored_rows

from sandbox.server import Sandbox

pytestmark = pytest.mark.timeout(290)

ROOT = Path(__file__).parents[2]
GRACE_SECONDS = 25.0
POLLED = ("iletimerkezi", "vairo", "organik", "diyalog")


class Fleet:
    """Worker processes and a beat on the test's own servers."""

    def __init__(self, engine: Engine, redis_url: str, folder: Path) -> None:
        """Nothing is started yet."""
        self.folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ULAK_")}
        self._env = {
            **kept,
            "PYTHONPATH": str(ROOT),
            "ULAK_HOME": str(folder / "home"),
            "ULAK_DATABASE_URL": engine.url.set(drivername="postgresql").render_as_string(hide_password=False),
            "ULAK_REDIS_URL": redis_url,
            "ULAK_TICK_SECONDS": "1",
            "ULAK_LOG": "json",
        }

    def start(self, name: str) -> None:
        """A worker of that name, or `beat`."""
        command = ["beat"] if name == "beat" else ["worker", "--name", name, "--threads", "8"]
        with (self.folder / f"{name}.log").open("ab") as output:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "workers.cli.main", *command],
                env=self._env,
                cwd=self.folder,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def stop(self, name: str) -> tuple[int, float]:
        """SIGTERM; (exit code, seconds it took)."""
        began = time.monotonic()
        process = self.running.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(GRACE_SECONDS + 5), time.monotonic() - began

    def wait_ready(self, name: str) -> None:
        """Return when the worker takes messages."""
        until(lambda: "ready" in self.log(name), seconds=80, what=f"{name} to be ready")

    def log(self, name: str) -> str:
        """What it has written."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def end(self) -> None:
        """Kill what is left."""
        for process in self.running.values():
            process.kill()
            process.wait(10)


def until(condition: Callable[[], object], *, seconds: float, what: str) -> None:
    """Wait for it; fails where it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not come within {seconds} s"
        time.sleep(0.1)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Small stand-ins that take a moment for each answer, so that there is always something in the air."""
    with Sandbox(seed=21, speed=60, scale="small") as running:
        running.control("POST", "/settings", {"latency_seconds": 0.4})
        yield running


@pytest.fixture
def fleet(migrated_database: Engine, sandbox: Sandbox, redis_url: str, tmp_path: Path) -> Iterator[Fleet]:
    """Accounts applied and sends registered; processes are started by the test."""
    accounts = [each for each in sandbox.control("GET", "/accounts") if each["provider"] in POLLED]
    for account in accounts:
        account["poll"] = {**account["poll"], "every_seconds": 1, "time_factor": 0.02, "max_check_seconds": 40}
    apply_accounts(migrated_database, accounts, tmp_path)
    sends = [send for send in sandbox.control("GET", "/sends") if send["account"] != "demo-bip"]
    with _runtime(migrated_database) as runtime:
        register_sends(runtime, sends)
    fleet = Fleet(migrated_database, redis_url, tmp_path)
    yield fleet
    fleet.end()


@contextmanager
def _runtime(engine: Engine) -> Iterator[Any]:
    runtime = make_runtime(engine, threads=1)
    yield runtime
    runtime.door.close()


def untold(engine: Engine, sandbox: Sandbox) -> list[str]:
    """What of the table is not what the pollable providers say."""
    with engine.connect() as connection:
        rows = stored_rows(connection)
    return differences(rows, [told for told in sandbox.truth() if told["provider"] != "bip"])


def is_told(engine: Engine, sandbox: Sandbox) -> bool:
    """Whether every life has ended and the table says so."""
    return bool(sandbox.control("GET", "/truth/settled")["settled"]) and untold(engine, sandbox) == []


def assert_nothing_was_repeated(engine: Engine, sandbox: Sandbox) -> None:
    """Each call row is one request that arrived and was answered, and no fetch was taken twice."""
    assert scalar(engine, "SELECT count(*) FROM calls WHERE answered_at IS NULL") == 0
    # `later`: an order that is scheduled for tomorrow.
    outcomes = "SELECT array_agg(DISTINCT outcome) FROM calls WHERE outcome NOT IN ('ok', 'later')"
    assert scalar(engine, outcomes) is None
    assert scalar(engine, "SELECT count(*) FROM calls") == len(sandbox.log())
    assert scalar(engine, "SELECT count(*) FROM fetches WHERE claims > 1 OR state = 'dead'") == 0
    assert scalar(engine, "SELECT count(*) FROM (SELECT fetch_id FROM calls GROUP BY 1 HAVING count(*) > 1) t") == 0
    assert sandbox.control("GET", "/log/violations") == []
    assert miscounted_polls(engine) == []


def has_asked(sandbox: Sandbox, many: int) -> bool:
    """Whether the stand-ins have had so many requests."""
    return len(sandbox.log()) >= many


def in_the_air(engine: Engine) -> int:
    """How many requests are unanswered now."""
    return int(str(scalar(engine, "SELECT count(*) FROM calls WHERE answered_at IS NULL")))


def test_a_worker_that_is_told_to_stop_finishes_what_it_has_in_hand(
    migrated_database: Engine, sandbox: Sandbox, fleet: Fleet
) -> None:
    """SIGTERM under load: exit 0 within the grace, every request answered and written, every lease given back."""
    engine = migrated_database
    fleet.start("beat")
    fleet.start("worker-1")
    until(lambda: len(sandbox.log()) > 12, seconds=60, what="load")
    until(lambda: in_the_air(engine) >= 2, seconds=60, what="requests in the air")
    code, took = fleet.stop("worker-1")
    assert (code, took < GRACE_SECONDS) == (0, True), fleet.log("worker-1")[-2000:]
    assert scalar(engine, "SELECT count(*) FROM fetches WHERE state = 'sending'") == 0
    assert_nothing_was_repeated(engine, sandbox)
    assert [line for line in fleet.log("worker-1").splitlines() if not line.startswith('{"')] == []


def test_a_rolling_restart_under_load_loses_and_repeats_nothing(
    migrated_database: Engine, sandbox: Sandbox, fleet: Fleet
) -> None:
    """Two workers are replaced one after the other: in the end the table equals what the providers say."""
    engine = migrated_database
    names = ("worker-1", "worker-2")
    for name in ("beat", *names):
        fleet.start(name)
    until(lambda: len(sandbox.log()) > 10, seconds=60, what="load")
    for name in names:
        before = len(sandbox.log())
        code, took = fleet.stop(name)
        assert (code, took < GRACE_SECONDS) == (0, True), fleet.log(name)[-2000:]
        fleet.start(name)
        fleet.wait_ready(name)
        until(partial(has_asked, sandbox, before + 5), seconds=60, what="calls after it")
    until(lambda: is_told(engine, sandbox), seconds=120, what="the truth in the table")
    for name in names:
        assert fleet.stop(name)[0] == 0
    assert_nothing_was_repeated(engine, sandbox)
