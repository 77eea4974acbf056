"""What benchmarks measure is the real thing: a migrated database of its own, workers and a beat as processes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, make_url, text

from ulak.models.database import make_engine
from ulak.models.schema import migrate

ROOT = Path(__file__).parents[2]
FIRST_CALL_SECONDS = 90.0


def url_of(url: str, database: str) -> str:
    """The address of another database of the same server."""
    return make_url(url).set(database=database).render_as_string(hide_password=False)


@contextmanager
def migrated_database(url: str, name: str) -> Iterator[Engine]:
    """A new database with Ulak's schema, dropped at the end."""
    server = make_engine(url, pool_size=1).execution_options(isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine = make_engine(url_of(url, name))
    try:
        migrate(engine)
        yield engine
    finally:
        engine.dispose()
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        server.dispose()


@contextmanager
def worker_processes(
    database_url: str,
    redis_url: str,
    folder: Path,
    workers: int,
    *,
    threads: int,
    program: Sequence[str] = ("-m", "ulak.cli.main"),
) -> Iterator[None]:
    """Workers and a beat that ticks every second; ended at the end. `program`: what is run in the place of `ulak`."""
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ULAK_")},
        "ULAK_HOME": str(folder / "home"),
        "ULAK_DATABASE_URL": database_url,
        "ULAK_REDIS_URL": redis_url,
        "ULAK_TICK_SECONDS": "1",
    }
    commands = [["worker", "--name", f"worker-{n}", "--threads", str(threads)] for n in range(1, workers + 1)]
    running = []
    try:
        for command in [*commands, ["beat"]]:
            argv = [sys.executable, *program, *command]
            running.append(
                subprocess.Popen(argv, env=env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(40)


def wait_for_calls(engine: Engine) -> None:
    """Return when a worker has made its first call."""
    _wait_for(engine, "SELECT count(*) FROM calls", "no call was made")


def wait_for_plans(engine: Engine) -> None:
    """Return when a worker has planned for the first time."""
    _wait_for(engine, "SELECT count(*) FROM heartbeats WHERE name LIKE 'plan%'", "nothing was planned")


def _wait_for(engine: Engine, query: str, otherwise: str) -> None:
    end = time.monotonic() + FIRST_CALL_SECONDS
    while time.monotonic() < end:
        with engine.connect() as connection:
            if connection.execute(text(query)).scalar_one():
                return
        time.sleep(0.2)
    raise RuntimeError(otherwise)
