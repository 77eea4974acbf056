"""A rolling upgrade: workers and a beat of the previous version run beside this version's on one database."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from secrets import token_urlsafe

import pytest
from demo_accounts import apply_accounts, register_sends
from driving import make_runtime, scalar
from ledger_acts import execute
from worker_fleet import (
    ROOT,
    Fleet,
    assert_nothing_was_repeated,
    has_asked,
    is_told,
    polled_accounts,
    polled_sends,
    until,
    untold,
)

from ulak.core.credentials import generated_secret
from ulak.models.database import make_engine
from ulak.models.schema import migrate
from ulak.sandbox.server import Sandbox
from ulak.tasks.runtime import PERSON_KEY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PREVIOUS = "109eeca"
"""The newest commit of the previous version."""
CLEAR = "demo-organik"
"""The one account with clear recipients, where all others hash theirs."""
PREPARE = """
import json, sys
from pathlib import Path
from secrets import token_urlsafe
from demo_accounts import apply_accounts, register_sends
from driving import make_runtime
from core.settings import generated_secret
from models.database import make_engine
from models.schema import migrate
url, folder, accounts, sends = sys.argv[1:]
engine = make_engine(url)
migrate(engine)
apply_accounts(engine, json.loads(accounts), Path(folder))
runtime = make_runtime(engine, threads=1)
register_sends(runtime, json.loads(sends))
runtime.door.close()
engine.dispose()
"""


@pytest.fixture(scope="module")
def previous_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its files."""
    folder = tmp_path_factory.mktemp("previous")
    archive = subprocess.run(["git", "archive", PREVIOUS], cwd=ROOT, check=True, capture_output=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Stand-ins that take a moment for each answer, so that requests are always under way."""
    with Sandbox(seed=33, speed=30, scale="small") as running:
        running.control("POST", "/settings", {"latency_seconds": 0.4})
        yield running


def test_a_rolling_upgrade_loses_and_repeats_nothing(
    make_database: Callable[..., str], redis_url: str, sandbox: Sandbox, previous_version: Path, tmp_path: Path
) -> None:
    """The schema changes under the previous workers; then one is replaced, the beat, and the other one last."""
    url = make_database()
    engine = make_engine(url)
    fleet = Fleet(engine, redis_url, tmp_path)
    work = (json.dumps(polled_accounts(sandbox)), json.dumps(polled_sends(sandbox)))
    path = os.pathsep.join((str(previous_version), str(previous_version / "tests")))
    subprocess.run(
        [sys.executable, "-c", PREPARE, url, str(tmp_path), *work],
        env={**fleet.env, "PYTHONPATH": path},
        cwd=previous_version,
        check=True,
    )
    try:
        for name in ("beat", "old-1", "old-2"):
            fleet.start(name, previous=previous_version)
        for name in ("old-1", "old-2"):
            fleet.wait_ready(name)
        until(lambda: len(sandbox.log()) > 10, seconds=90, what="calls of the previous version")
        migrate(engine)
        wait_for_calls(sandbox, 10)
        assert fleet.stop("old-1")[0] == 0
        fleet.start("new-1")
        fleet.wait_ready("new-1")
        before = {name: stored(fleet, name) for name in ("old-2", "new-1")}
        for beat in (None, previous_version, None):
            wait_for_calls(sandbox, 15)
            fleet.stop("beat")
            fleet.start("beat", previous=beat)
        until(
            lambda: all(stored(fleet, name) > many + 5 for name, many in before.items()),
            seconds=90,
            what="responses stored by both versions",
        )
        until(lambda: is_told(engine, sandbox), seconds=180, what="the truth in the table")
        for name in ("old-2", "new-1"):
            assert fleet.stop(name)[0] == 0
        assert_nothing_was_repeated(engine, sandbox)
        logs = "".join(fleet.log(name) for name in ("old-1", "old-2", "new-1", "beat"))
        assert [line for line in logs.splitlines() if '"level":"error"' in line] == []
    finally:
        fleet.end()
        engine.dispose()


def test_the_previous_version_leaves_accounts_with_hashed_recipients_alone(
    make_database: Callable[..., str], redis_url: str, sandbox: Sandbox, previous_version: Path, tmp_path: Path
) -> None:
    """It asks nothing for them and stores nothing, beside a clear account that it polls; this version does all."""
    engine = make_engine(make_database())
    migrate(engine)
    fleet = Fleet(engine, redis_url, tmp_path)
    key = generated_secret(tmp_path / "home", PERSON_KEY, lambda: token_urlsafe(32)).encode()
    apply_accounts(engine, polled_accounts(sandbox), tmp_path, hashed_by=key)
    execute(engine, "UPDATE accounts SET recipients = 'clear', recipients_key = NULL WHERE id = :id", id=CLEAR)
    runtime = make_runtime(engine, threads=1)
    runtime.suppressions.key = lambda: key
    register_sends(runtime, polled_sends(sandbox))
    runtime.door.close()
    try:
        for name in ("beat", "old-1"):
            fleet.start(name, previous=previous_version)
        fleet.wait_ready("old-1")
        until(lambda: stored(fleet, "old-1") > 20, seconds=120, what="responses stored by the previous version")
        for table in ("calls", "fetches", "polls", "delivery_status", "quarantine"):
            of_hashed = f"SELECT count(*) FROM {table} WHERE account_id <> :id"
            assert scalar(engine, of_hashed, id=CLEAR) == 0
        fleet.start("new-1")
        fleet.wait_ready("new-1")
        # Both go on: what the previous version is refused, this one does.
        until(lambda: not untold(engine, sandbox, hashed_by=key, clear=CLEAR), seconds=240, what="the truth")
        for name in ("old-1", "new-1"):
            assert fleet.stop(name)[0] == 0
        assert scalar(engine, "SELECT count(*) FROM fetches WHERE claims > 1 OR state = 'dead'") == 0
        assert scalar(engine, "SELECT count(*) FROM accounts WHERE paused_until IS NOT NULL") == 0
    finally:
        fleet.end()
        engine.dispose()


def wait_for_calls(sandbox: Sandbox, many: int) -> None:
    """Return when the stand-ins have had so many more requests."""
    until(partial(has_asked, sandbox, len(sandbox.log()) + many), seconds=90, what=f"{many} calls")


def stored(fleet: Fleet, name: str) -> int:
    """How many responses the worker has stored."""
    return fleet.log(name).count("fetch.stored")
