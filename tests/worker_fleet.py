"""Worker processes and a beat on a test's own servers, and what must hold when their work is done."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from driving import miscounted_polls, scalar
from sqlalchemy import Engine
from truth import differences, hashed, stored_rows

from ulak.sandbox.diyalog import Diyalog
from ulak.sandbox.server import Sandbox

ROOT = Path(__file__).parents[1]
GRACE_SECONDS = 25.0
POLLED = ("iletimerkezi", "vairo", "organik", "diyalog")


class Fleet:
    """Worker processes and a beat on the test's own servers."""

    def __init__(self, engine: Engine, redis_url: str, folder: Path) -> None:
        """Nothing is started yet."""
        self.folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ULAK_")}
        self.env = {
            **kept,
            "ULAK_HOME": str(folder / "home"),
            "ULAK_DATABASE_URL": engine.url.set(drivername="postgresql").render_as_string(hide_password=False),
            "ULAK_REDIS_URL": redis_url,
            "ULAK_TICK_SECONDS": "1",
            "ULAK_LOG": "json",
        }

    def start(self, name: str, *, previous: Path | None = None) -> None:
        """A worker of that name, or `beat`; of this version, or of the previous one, whose checkout is given."""
        module, path = ("workers.cli.main", {"PYTHONPATH": str(previous)}) if previous else ("ulak.cli.main", {})
        command = ["beat"] if name == "beat" else ["worker", "--name", name, "--threads", "8"]
        with (self.folder / f"{name}.log").open("ab") as output:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", module, *command],
                env={**self.env, **path},
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


def polled_accounts(sandbox: Sandbox) -> list[dict[str, Any]]:
    """The stand-ins' accounts that can be polled, with short intervals."""
    accounts = [each for each in sandbox.control("GET", "/accounts") if each["provider"] in POLLED]
    short = {"every_seconds": 1, "time_factor": 0.02, "max_check_seconds": 40}
    return [{**account, "poll": {**account["poll"], **short}} for account in accounts]


def polled_sends(sandbox: Sandbox) -> list[dict[str, Any]]:
    """What the sender of those accounts knows, once the reporting servers know it, too.

    Until then they answer one customer with an error, and a fetch that is made again is no fault of the workers.
    """
    diyalog = sandbox.world.standins["diyalog"]
    assert isinstance(diyalog, Diyalog)
    late = max(diyalog.known_from.values())
    until(lambda: time.time() > late, seconds=60, what="the customer that Diyalog knows late")
    return [send for send in sandbox.control("GET", "/sends") if send["account"] != "demo-bip"]


def untold(engine: Engine, sandbox: Sandbox, *, hashed_by: bytes | None = None, clear: str = "") -> list[str]:
    """What of the table is not what the pollable providers say.

    `hashed_by`: all accounts but `clear` hash their recipients with this person key.
    """
    with engine.connect() as connection:
        rows = stored_rows(connection)
    said = [told for told in sandbox.truth() if told["provider"] != "bip"]
    if hashed_by is not None:
        said = [told if told["account"] == clear else hashed(told, hashed_by) for told in said]
    return differences(rows, said)


def is_told(engine: Engine, sandbox: Sandbox) -> bool:
    """Whether every life has ended and the table says so."""
    return bool(sandbox.control("GET", "/truth/settled")["settled"]) and untold(engine, sandbox) == []


def assert_nothing_was_repeated(engine: Engine, sandbox: Sandbox) -> None:
    """Each call row is one request that arrived and was answered, and no fetch was taken twice."""
    assert scalar(engine, "SELECT count(*) FROM calls WHERE answered_at IS NULL") == 0
    # `later`: an order that is scheduled for tomorrow.
    outcomes = "SELECT json_agg(c) FROM calls c WHERE outcome NOT IN ('ok', 'later')"
    assert scalar(engine, outcomes) is None, scalar(engine, outcomes)
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
