"""Debian's own programs: PostgreSQL 15 and Redis in place of the wheels', wrong clocks (faketime), promtool."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from core.redis import connect
from workers.embedded.postgres import PostgresServer
from workers.embedded.valkey import ValkeyServer

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
POSTGRES_15 = Path("/usr/lib/postgresql/15/bin")
REDIS = Path("/usr/bin/redis-server")
PROMTOOL = Path("/usr/bin/promtool")
AHEAD_SECONDS = 120
TIMEOUT_SECONDS = 300


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


def up(home: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`ulak up` with the stand-in providers until all is settled."""
    arguments = ["up", "--sandbox", "--until-settled", "--timeout", str(TIMEOUT_SECONDS), "--no-flower"]
    return subprocess.run(
        [sys.executable, "-m", "workers.cli.main", *arguments],
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
