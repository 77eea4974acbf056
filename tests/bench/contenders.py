"""Who brings reports from HTTP to PostgreSQL in `bench_pipeline`: Ulak, the leanest Celery form of it, and dlt.

Each has a worker process and a database of its own, all of them one PostgreSQL, one Valkey and one provider.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import redis
from canned_pages import transaction_of
from celery import Celery
from ledger_acts import add_account, add_ids, add_poll
from pydantic import SecretStr
from real_processes import migrated_database, url_of
from sqlalchemy import Engine, text

from ulak.core.settings import Settings
from ulak.models.ledger.opening import NewFetch
from ulak.tasks.base import publish
from ulak.tasks.messages import dispatch_account
from ulak.workers.publishing import app_for

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DLT_VENV = ROOT / ".venv-bench"
ACCOUNTS = (1, 4)
CALLS_AT_ONCE = 8
THREADS = 10
"""Of Ulak's worker: it leaves a quarter of them to other accounts, so one account makes eight calls at once."""
KEY = "0123456789abcdef0123456789abcdef"
MOST_SECONDS = 120.0
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


class Contender(Protocol):
    """Something that brings pages into PostgreSQL."""

    name: str
    table: str
    engine: Engine

    @property
    def pid(self) -> int:
        """The process that works."""

    def run(self, size: int, pages: range) -> float:
        """Bring these pages, and tell how many seconds it took."""


@dataclass
class Ulak:
    """`ulak worker`, real accounts, tracked ids, polls, fetches, calls; the pages dealt out to so many accounts."""

    engine: Engine
    base_url: str
    broker: Celery
    pid: int
    many: int
    table: str = "delivery_status"
    ids: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the accounts: a transaction a call, limits that never bind."""
        self.name = "Ulak, 1 account" if self.many == 1 else f"Ulak, {self.many} accounts"
        self.accounts = [
            add_account(
                self.engine,
                provider="organik",
                base_url=self.base_url,
                requests=200,
                concurrency=CALLS_AT_ONCE // self.many,
                options={"batch_size": 1, "deadline_seconds": 30.0},
            )
            for _ in range(self.many)
        ]

    def run(self, size: int, pages: range) -> float:
        """Plan polls of the transactions and wait for their end; both moments are PostgreSQL's."""
        parts = [
            (account, [transaction_of(size, page) for page in pages[place :: self.many]])
            for place, account in enumerate(self.accounts)
        ]
        for account, values in parts:
            unknown = [value for value in values if value not in self.ids]
            if unknown:
                found = add_ids(self.engine, account, unknown, kind="transaction", expected=size)
                self.ids |= zip(unknown, found, strict=True)
        begun = self._one("SELECT clock_timestamp()")[0]
        polls = [add_poll(self.engine, account, list(map(self._fetch, values)))[0] for account, values in parts]
        for account in self.accounts:
            publish(self.broker, dispatch_account(account))
        return float((self._ended(polls, size * len(pages)) - begun).total_seconds())

    def _fetch(self, value: str) -> NewFetch:
        params = {"by": "transaction", "ids": [value]}
        return NewFetch(kind="batch", params=params, label="1 transaction ids", priority=10, ids=(self.ids[value],))

    def _ended(self, polls: list[int], rows: int) -> datetime:
        """When the last of the polls was finished; all of them whole."""
        query = f"SELECT min(state), max(finished_at), sum(reports) FROM polls WHERE id IN ({str(polls)[1:-1]})"
        end = time.monotonic() + MOST_SECONDS
        while time.monotonic() < end:
            state, finished, reports = self._one(f"{query} HAVING bool_and(state <> 'running')") or ("running", None, 0)
            if state != "running":
                assert (state, int(reports)) == ("complete", rows), (state, reports)
                assert isinstance(finished, datetime)
                return finished
            time.sleep(0.1)
        raise TimeoutError(self.name)

    def _one(self, statement: str) -> Any:
        with self.engine.connect() as connection:
            return connection.execute(text(statement)).one_or_none()


@dataclass
class Lean:
    """`lean_celery.py`."""

    engine: Engine
    broker: Celery
    valkey: redis.Redis
    pid: int
    name: str = "lean Celery"
    table: str = "lean_status"

    def run(self, size: int, pages: range) -> float:
        """Let it send its tasks, and wait until the last one is through."""
        begun = time.perf_counter()
        self.broker.send_task("lean.begin", args=[[transaction_of(size, page) for page in pages]])
        assert self.valkey.blpop(["lean:done"], timeout=int(MOST_SECONDS)) is not None
        return time.perf_counter() - begun


@dataclass
class Dlt:
    """`dlt_pages.py` in the interpreter that has dlt."""

    engine: Engine
    process: "subprocess.Popen[str]"
    name: str = "dlt rest_api"
    table: str = "bench.rows"

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid

    def run(self, size: int, pages: range) -> float:
        """One run of its pipeline."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{size} {pages.start} {pages.stop}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


@contextmanager
def run_process(argv: Sequence[str], env: Mapping[str, str], **options: Any) -> "Iterator[subprocess.Popen[str]]":
    """A process with none of our settings but these; ended at the end."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ULAK_")}
    process = subprocess.Popen(argv, env={**clean, **env}, text=True, cwd=HERE, **options)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(40)


@contextmanager
def start_ulak(url: str, base_url: str, redis_url: str, folder: Path) -> Iterator[list[Ulak]]:
    """One worker, and a contender for each number of accounts; all in one table."""
    settings = {
        "ULAK_HOME": str(folder / "home"),
        "ULAK_DATABASE_URL": url_of(url, "bench_pipeline_ulak"),
        "ULAK_REDIS_URL": redis_url,
        "TEST_KEY": KEY,
    }
    argv = [sys.executable, "-m", "ulak.cli.main", "worker", "--name", "worker-1", "--threads", str(THREADS)]
    with migrated_database(url, "bench_pipeline_ulak") as engine, run_process(argv, settings, **QUIET) as process:
        broker = app_for(Settings(redis_url=SecretStr(redis_url)))
        yield [Ulak(engine, base_url, broker, process.pid, many) for many in ACCOUNTS]


@contextmanager
def start_lean(url: str, base_url: str, redis_url: str) -> Iterator[Lean]:
    """Its worker, and a table like ours."""
    own = f"{redis_url.rsplit('/', 1)[0]}/1"
    settings = {
        "BENCH_BASE_URL": base_url,
        "BENCH_DATABASE_URL": url_of(url, "bench_pipeline_lean"),
        "BENCH_REDIS_URL": own,
    }
    argv = [
        sys.executable,
        "-m",
        "celery",
        "--app=lean_celery",
        "--quiet",
        "worker",
        "--pool=threads",
        "--loglevel=ERROR",
    ]
    argv += [f"--concurrency={CALLS_AT_ONCE}", "--without-gossip", "--without-mingle"]
    with migrated_database(url, "bench_pipeline_lean") as engine:
        with engine.begin() as connection:
            connection.execute(
                text("CREATE TABLE lean_status (LIKE delivery_status INCLUDING ALL) WITH (fillfactor=80)")
            )
        with run_process(argv, settings, **QUIET) as process, redis.Redis.from_url(own) as valkey:
            yield Lean(engine, Celery("lean", broker=own), valkey, process.pid)


def is_dlt_there() -> bool:
    """Whether `make bench` could install it."""
    return any(DLT_VENV.glob("lib/python*/site-packages/dlt/__init__.py"))


@contextmanager
def start_dlt(url: str, base_url: str, folder: Path) -> Iterator[Dlt]:
    """Its process, once it has loaded dlt."""
    argv = [
        str(DLT_VENV / "bin" / "python"),
        str(HERE / "dlt_pages.py"),
        f"{base_url}/v2/pages/",
        url_of(url, "bench_pipeline_dlt"),
    ]
    with migrated_database(url, "bench_pipeline_dlt") as engine:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with run_process([*argv, str(folder / "dlt")], {"HOME": str(folder)}, **pipes) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield Dlt(engine, process)
