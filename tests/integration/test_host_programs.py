"""Debian's own programs: PostgreSQL 15 and Redis in place of the wheels', PgBouncer, wrong clocks, promtool."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent
from typing import Any

import psycopg
import pytest
from free_ports import reserve_port
from psycopg.rows import dict_row
from sqlalchemy import make_url

from ulak.core.redis import connect
from ulak.local.embedded.postgres import PostgresServer
from ulak.local.embedded.valkey import ValkeyServer
from ulak.local.ports import is_free

pytestmark = [pytest.mark.host, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
OPERATIONS = ROOT / "docs" / "how-to" / "connect-to-postgresql.md"
POSTGRES_15 = Path("/usr/lib/postgresql/15/bin")
REDIS = Path("/usr/bin/redis-server")
PGBOUNCER = Path("/usr/sbin/pgbouncer")
PROMTOOL = Path("/usr/bin/promtool")
AHEAD_SECONDS = 120
TIMEOUT_SECONDS = 900
"""Under faketime PostgreSQL resolves a deadlock after `AHEAD_SECONDS` in place of a second: its handler of the timer's
signal sees the true time, at which the second is not over yet."""


@pytest.fixture
def home() -> Iterator[Path]:
    """A home that every user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="ulak-host-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres(home: Path) -> Iterator[PostgresServer]:
    """Debian's PostgreSQL, running."""
    yield from running(PostgresServer(home, binaries=POSTGRES_15))


@pytest.fixture
def early_postgres(home: Path) -> Iterator[PostgresServer]:
    """Debian's PostgreSQL, running with a clock that is two minutes ahead of everybody else's."""
    # Not behind: inside some signal handlers faketime tells the true time, and time-outs would then seem to be over.
    folder = home / "early"
    folder.mkdir()
    [library] = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    for name in ("postgres", "initdb"):
        clock = f"LD_PRELOAD={library} FAKETIME=+{AHEAD_SECONDS}s FAKETIME_DONT_FAKE_MONOTONIC=1"
        (folder / name).write_text(f'#!/bin/sh\n{clock} exec {POSTGRES_15 / name} "$@"\n', encoding="utf-8")
        (folder / name).chmod(0o755)
    yield from running(PostgresServer(home, binaries=folder))


def running(server: PostgresServer) -> Iterator[PostgresServer]:
    """The server, started and stopped."""
    server.start()
    yield server
    server.stop()


@contextmanager
def pooler(home: Path, server: PostgresServer) -> Iterator[str]:
    """PgBouncer in transaction mode before the server; gives its address."""
    url, port = make_url(server.url), reserve_port()
    settings = home / "pgbouncer.ini"
    settings.write_text(
        dedent(f"""\
        [databases]
        ulak = host={url.host} port={url.port} dbname={url.database} user={url.username} password={url.password}
        [pgbouncer]
        listen_addr = 127.0.0.1
        listen_port = {port}
        unix_socket_dir =
        auth_type = any
        pool_mode = transaction
        ignore_startup_parameters = options
        max_client_conn = 300
        default_pool_size = 8
        """),
        encoding="utf-8",
    )
    process = subprocess.Popen([PGBOUNCER, *(["-u", "nobody"] if os.geteuid() == 0 else []), settings])
    through = url.set(host="127.0.0.1", port=port, database="ulak").render_as_string(hide_password=False)
    try:
        while is_free(port, "127.0.0.1"):
            assert process.poll() is None
            time.sleep(0.05)
        yield through
    finally:
        process.terminate()
        process.wait(20)


def up(home: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`ulak up` with the stand-in providers until all is settled."""
    return ulak(
        home, environment, "up", "--sandbox", "--until-settled", "--timeout", str(TIMEOUT_SECONDS), "--no-flower"
    )


def ulak(home: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of ours, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "ulak.cli.main", *arguments],
        cwd=ROOT,
        env=os.environ | {"ULAK_HOME": str(home)} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SECONDS + 120,
    )


def rows(url: str, query: str) -> list[dict[str, Any]]:
    """What a query finds."""
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute(query.encode()).fetchall()


def test_all_settles_on_debians_postgresql_and_redis(home: Path, postgres: PostgresServer) -> None:
    """The oldest PostgreSQL that is promised, and Redis instead of Valkey, do the whole work."""
    server = ValkeyServer(home, program=REDIS)
    url = server.start()
    try:
        with connect(url) as client:
            assert "valkey_version" not in client.info("server")
        done = up(home / "up", {"ULAK_DATABASE_URL": postgres.url, "ULAK_REDIS_URL": url})
    finally:
        server.stop()
    assert done.returncode == 0, done.stderr[-6000:]
    [version] = rows(postgres.url, "SELECT current_setting('server_version_num')::int / 10000 AS major")
    [table] = rows(
        postgres.url, "SELECT count(*) > 1000 AS is_full, count(DISTINCT account_id) AS accounts FROM delivery_status"
    )
    assert (version, table) == ({"major": 15}, {"is_full": True, "accounts": 5})


def test_all_settles_through_a_pooler_that_lends_its_sessions(home: Path, postgres: PostgresServer) -> None:
    """Many clients share eight sessions, none of which is as we asked for until the role says so; `check` tells."""
    with pooler(home, postgres) as url:
        told = ulak(home / "up", {"ULAK_DATABASE_URL": url}, "check").stdout
    assert "database session: sessions begin with TimeZone" in told
    role = make_url(postgres.url).username
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        for setting in re.findall(r"ALTER ROLE ulak (SET .*;)", OPERATIONS.read_text(encoding="utf-8")):
            connection.execute(f'ALTER ROLE "{role}" {setting}'.encode())
    with pooler(home, postgres) as url:
        told = ulak(home / "up", {"ULAK_DATABASE_URL": url}, "check").stdout
        done = up(home / "up", {"ULAK_DATABASE_URL": url})
    assert "database session: ok (UTC, statements end after 1min)" in told
    assert done.returncode == 0, done.stderr[-6000:]
    logs = "".join(path.read_text(encoding="utf-8") for path in (home / "up" / "logs").iterdir())
    assert logs.count("fetch.stored") > 100
    # One client's statement would be another's, or not there.
    assert "prepared statement" not in logs
    [table] = rows(
        postgres.url, "SELECT count(*) > 1000 AS is_full, count(DISTINCT account_id) AS accounts FROM delivery_status"
    )
    assert table == {"is_full": True, "accounts": 5}


def test_clocks_that_are_apart_change_nothing(home: Path, early_postgres: PostgresServer) -> None:
    """Calls carry the database's time, and by it no window holds more of them than the account allows."""
    url = early_postgres.url
    [seen] = rows(url, "SELECT clock_timestamp() AS now")
    ahead = (seen["now"] - datetime.now(UTC)).total_seconds()
    assert ahead == pytest.approx(AHEAD_SECONDS, abs=5)
    done = up(home / "up", {"ULAK_DATABASE_URL": url})
    assert done.returncode == 0, done.stderr[-6000:]
    late = rows(url, "SELECT id FROM calls WHERE greatest(asked_at, answered_at, released_at) > clock_timestamp()")
    crowded = rows(
        url,
        """
        SELECT c.id FROM calls c JOIN accounts a ON a.id = c.account_id
        WHERE (SELECT count(*) FROM calls o WHERE o.account_id = c.account_id AND o.asked_at <= c.asked_at
               AND o.asked_at > c.asked_at - make_interval(secs => a.limit_per_seconds)) > a.limit_requests
        """,
    )
    [made] = rows(url, "SELECT count(*) > 100 AS many FROM calls")
    assert (late, crowded, made) == ([], [], {"many": True})


def test_every_alert_warns_of_its_trouble_and_of_nothing_else(tmp_path: Path) -> None:
    """Prometheus itself reads the rules, and every one of them is tried with figures like those of `/metrics`."""
    rules = (ROOT / "deploy" / "alerts.yml").read_text(encoding="utf-8")
    tried = (ROOT / "deploy" / "alerts_test.yml").read_text(encoding="utf-8")
    alerts = re.findall(r"- alert: (\w+)", rules)
    for alert in alerts:
        assert f"alertname: {alert}\n" in tried, f"{alert} is never seen to warn"
        assert f"alertname: {alert}," in tried, f"{alert} is never seen to be quiet"
    (tmp_path / "alerts.yml").write_text(rules, encoding="utf-8")
    (tmp_path / "alerts_test.yml").write_text(tried, encoding="utf-8")
    told = subprocess.run(
        [PROMTOOL, "test", "rules", "alerts_test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr
