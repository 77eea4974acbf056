"""Real servers for the tests: one PostgreSQL and one Valkey per run, shared by all xdist workers.

The first test that asks for a server starts it. It hangs on a named pipe whose writing end the
controlling pytest process holds, so it ends with that process however the process ends.
"""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import psycopg
import pytest
from database_fixtures import migrated_database, migrated_template, shared_database

from ulak.core.redis import connect
from ulak.local.embedded.postgres import PostgresServer
from ulak.local.embedded.server import EmbeddedServer
from ulak.local.embedded.valkey import ValkeyServer

pytest_plugins = ["chaos_table"]

__all__ = ["migrated_database", "migrated_template", "shared_database"]  # fixtures that live in their own module

# A law is about what is true, not about how long a busy machine needs for one example of it.
hypothesis.settings.register_profile(
    "ulak", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("ulak")

RUN_VARIABLE = "ULAK_TEST_RUN"
VALKEY_DATABASES = 64


def pytest_configure(config: pytest.Config) -> None:
    """The controlling process makes the run's folder and the pipe; workers inherit its name."""
    if hasattr(config, "workerinput"):
        return
    run = Path(tempfile.mkdtemp(prefix="ulak-tests-"))
    # PostgreSQL runs as nobody when the tests run as root: it must be able to pass through.
    run.chmod(0o755)
    os.mkfifo(run / "lifeline", 0o600)
    config.stash[_PIPE] = os.open(run / "lifeline", os.O_RDWR)
    os.environ[RUN_VARIABLE] = str(run)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Lets go of the pipe, waits for the servers to end and removes the run's folder."""
    pipe = config.stash.get(_PIPE, None)
    if pipe is None:
        return
    os.close(pipe)
    run = Path(os.environ.pop(RUN_VARIABLE))
    for server in (_postgres(run), _valkey(run)):
        _wait_until_gone(server)
    shutil.rmtree(run, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> PostgresServer:
    """The run's PostgreSQL (`ULAK_TEST_POSTGRES_BIN`, else the wheel's or the system's), not durable, running."""
    server = _postgres(_run_folder())
    _start_once(server)
    return server


@pytest.fixture(scope="session")
def postgres_url(postgres_server: PostgresServer) -> str:
    """A superuser's URL of the run's PostgreSQL. Make your own database: `fresh_database`."""
    return postgres_server.url


@pytest.fixture(scope="session")
def make_database(postgres_url: str) -> Callable[..., str]:
    """`make_database(template="template0")` makes a database and returns its URL.

    The name is unique within the run. A template must have no open connections. Databases vanish
    with the run; `drop_database` gives the room back earlier.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    made = 0

    def make(template: str = "template0") -> str:
        nonlocal made
        made += 1
        name = f"test_{worker}_{made}"
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return _with_database(postgres_url, name)

    return make


@pytest.fixture(scope="session")
def drop_database(postgres_url: str) -> Callable[[str], None]:
    """`drop_database(url)` drops that database, open connections or not."""

    def drop(url: str) -> None:
        name = url.rpartition("/")[2]
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    return drop


@pytest.fixture
def fresh_database(
    make_database: Callable[..., str],
    drop_database: Callable[[str], None],
) -> Iterator[str]:
    """The URL (`postgresql://…`) of a new empty database of this test alone."""
    url = make_database()
    yield url
    drop_database(url)


@pytest.fixture(scope="session")
def valkey_server() -> ValkeyServer:
    """The run's Valkey, nothing kept on disk, running."""
    server = _valkey(_run_folder())
    _start_once(server)
    return server


@pytest.fixture
def redis_url(valkey_server: ValkeyServer) -> Iterator[str]:
    """The URL of an empty Valkey database; every xdist worker has a number of its own.

    Do not use FLUSHALL or stop the server: a test that needs that starts a `ValkeyServer`.
    """
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    url = _with_database(valkey_server.url, str(number % VALKEY_DATABASES))
    with connect(url) as client:
        client.flushdb()
        yield url
        client.flushdb()


@pytest.fixture(autouse=True)
def _leave_no_data_elsewhere(request: pytest.FixtureRequest) -> Iterator[None]:
    """Remove embedded data outside of a test's folder: where `nobody` cannot come, a home has them elsewhere."""
    home = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    if home is None:
        return
    for remembered in home.rglob("postgres.json"):
        place = Path(json.loads(remembered.read_text(encoding="utf-8")).get("place", home))
        if not place.is_relative_to(home) and place.name.startswith("ulak-"):
            shutil.rmtree(place, ignore_errors=True)


_PIPE = pytest.StashKey[int]()


def _run_folder() -> Path:
    return Path(os.environ[RUN_VARIABLE])


def _postgres(run: Path) -> PostgresServer:
    configured = os.environ.get("ULAK_TEST_POSTGRES_BIN")
    return PostgresServer(
        run / "postgres",
        binaries=Path(configured) if configured else None,
        order=("wheel", "system"),
        durable=False,
        options={"max_connections": "400"},
    )


def _valkey(run: Path) -> ValkeyServer:
    return ValkeyServer(run / "valkey", durable=False, databases=VALKEY_DATABASES)


def _start_once(server: EmbeddedServer) -> None:
    run = server.home.parent
    with (run / f"{server.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if server.running_url() is None:
            pipe = os.open(run / "lifeline", os.O_RDONLY)
            try:
                server.start(pipe)
                server.release()
            finally:
                os.close(pipe)


def _wait_until_gone(server: EmbeddedServer) -> None:
    deadline = time.monotonic() + 10
    while server.home.exists() and time.monotonic() < deadline:
        with contextlib.suppress(Exception):
            if server.running_url() is not None:
                time.sleep(0.05)
                continue
        return


def _with_database(url: str, name: str) -> str:
    return f"{url.rpartition('/')[0]}/{name}"
