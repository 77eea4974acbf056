"""How much of a provider's limit is used when there is always work: real workers, the sandbox over HTTP.

The bound is `min(T / (T + h + w), C * T / (N * h))`: a slot is used again only T after its last request was answered,
so the answer time h and the wait w between a free slot and its next call are lost each time round.
`use` counts arrivals in the sandbox's own log against N per T; T/(T+h) leaves out only what the provider takes.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from statistics import mean
from typing import Any

from demo_accounts import apply_accounts, register_sends
from sqlalchemy import Engine, text

from core import clock
from models.database import make_engine
from models.quarantine import new_key
from models.schema import migrate
from providers.http import HttpDoor
from sandbox.server import Sandbox
from tasks.runtime import Runtime
from workers.embedded.valkey import ValkeyServer

ROOT = Path(__file__).parents[2]
CASES = ((20, 1.0, 8, 1), (40, 2.0, 8, 2), (100, 10.0, 8, 1), (200, 10.0, 8, 2))
"""Requests, seconds, concurrency, worker processes."""
PROVIDER = "vairo"
WARM_SECONDS = 3.0


def main(url: str) -> None:
    """Print one row for each case."""
    print("limit        workers  calls  use    h ms   w ms   bound  use/bound  use/(T/(T+h))  violations")
    for number, case in enumerate(CASES):
        print(_row(case, _measure(url, f"bench_limits_{number}", case)), flush=True)


def _row(case: tuple[int, float, int, int], found: Mapping[str, float]) -> str:
    requests, seconds, concurrency, workers = case
    h, w = found["h"], found["w"]
    bound = min(seconds / (seconds + h + w), concurrency * seconds / (requests * h))
    alone = min(seconds / (seconds + h), concurrency * seconds / (requests * h))
    return (
        f"{requests}/{seconds:g} s, {concurrency:<3} {workers:>5} {found['calls']:>7.0f}  {found['use']:.3f} "
        f"{h * 1000:>6.1f} {w * 1000:>6.1f}  {bound:.3f}  {found['use'] / bound:.3f}      {found['use'] / alone:.3f}"
        f"          {found['violations']:.0f}"
    )


def _measure(url: str, database: str, case: tuple[int, float, int, int]) -> dict[str, float]:
    """One case: enough work for the whole time, arrivals counted over whole windows after a warm-up."""
    requests, seconds, concurrency, workers = case
    span = max(15.0, 4 * seconds)
    with tempfile.TemporaryDirectory(prefix="ulak-bench-") as name, _database(url, database) as engine:
        folder = Path(name)
        sandbox = Sandbox(seed=3, speed=1.0, scale="small")
        valkey = ValkeyServer(folder, durable=False)
        limit = {"requests": requests, "per_seconds": seconds, "concurrency": concurrency}
        with sandbox:
            sandbox.control("POST", "/limits", {"provider": PROVIDER, **limit})
            accounts = [
                {**account, "limit": limit, "poll": {"every_seconds": 3, "time_factor": 0.001, "max_check_seconds": 1}}
                for account in sandbox.control("GET", "/accounts")
                if account["provider"] == PROVIDER
            ]
            apply_accounts(engine, accounts, folder)
            sandbox.control("POST", f"/sends/{PROVIDER}", {"count": 600})
            runtime = Runtime(
                engine=engine,
                door=HttpDoor(max_connections=1, boot=clock.boot, now=clock.now),
                seal_key=new_key(),
            )
            sends = [send for send in sandbox.control("GET", "/sends") if send["account"] == accounts[0]["id"]]
            register_sends(runtime, sends)
            with _processes(_url_of(url, database), valkey.start(), folder, workers):
                _wait_for_calls(engine)
                time.sleep(WARM_SECONDS)
                begin = time.time()
                time.sleep(span)
                end = time.time()
            valkey.stop()
            log = [entry for entry in sandbox.log() if entry["provider"] == PROVIDER]
            violations = len(sandbox.control("GET", "/log/violations"))
        arrivals = sum(begin <= _wall(entry) < end for entry in log)
        h, w = _waits(engine, requests, seconds)
    return {"calls": arrivals, "use": arrivals / (requests * span / seconds), "h": h, "w": w, "violations": violations}


def _wall(entry: Mapping[str, Any]) -> float:
    """When a request arrived, in seconds since the epoch."""
    arrived = entry["arrived_at"]
    return datetime.fromisoformat(arrived).timestamp()


def _waits(engine: Engine, requests: int, seconds: float) -> tuple[float, float]:
    """h: asked to released; w: from the moment a slot is free to the call that takes it, after the first round."""
    query = text("SELECT asked_at, released_at FROM calls WHERE answered_at IS NOT NULL ORDER BY asked_at")
    with engine.connect() as connection:
        rows = [tuple(row) for row in connection.execute(query)]
    frees = sorted(released for _, released in rows)
    waits = [
        max(0.0, (asked - frees[place]).total_seconds() - seconds)
        for place, (asked, _) in enumerate(rows[requests:])
        if place < len(frees)
    ]
    return mean((released - asked).total_seconds() for asked, released in rows), mean(waits[requests:] or [0.0])


def _wait_for_calls(engine: Engine) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with engine.connect() as connection:
            if connection.execute(text("SELECT count(*) FROM calls")).scalar_one():
                return
        time.sleep(0.2)
    raise RuntimeError("no call was made")


@contextmanager
def _processes(database_url: str, redis_url: str, folder: Path, workers: int) -> Iterator[None]:
    """Workers and a beat; ended at the end."""
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ULAK_")},
        "PYTHONPATH": str(ROOT),
        "ULAK_HOME": str(folder / "home"),
        "ULAK_DATABASE_URL": database_url,
        "ULAK_REDIS_URL": redis_url,
        "ULAK_TICK_SECONDS": "1",
    }
    commands = [["worker", "--name", f"worker-{n}", "--threads", "12"] for n in range(1, workers + 1)] + [["beat"]]
    running = []
    try:
        for command in commands:
            argv = [sys.executable, "-m", "workers.cli.main", *command]
            running.append(
                subprocess.Popen(argv, env=env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(40)


def _url_of(url: str, database: str) -> str:
    return f"{url.rsplit('/', 1)[0]}/{database}"


@contextmanager
def _database(url: str, name: str) -> Iterator[Engine]:
    """A migrated database of its own."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    engine = make_engine(_url_of(url, name))
    migrate(engine)
    yield engine
    engine.dispose()
