"""Stopping a worker costs nothing: what it has in hand is finished or returned, and nothing is said or asked twice."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from demo_accounts import apply_accounts, register_sends
from driving import make_runtime, scalar
from sqlalchemy import Engine
from worker_fleet import (
    GRACE_SECONDS,
    Fleet,
    assert_nothing_was_repeated,
    has_asked,
    in_the_air,
    is_told,
    polled_accounts,
    polled_sends,
    until,
)

from ulak.sandbox.server import Sandbox

pytestmark = [pytest.mark.long, pytest.mark.timeout(290)]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Small stand-ins that take a moment for each answer, so that there is always something in the air."""
    with Sandbox(seed=21, speed=60, scale="small") as running:
        running.control("POST", "/settings", {"latency_seconds": 0.4})
        yield running


@pytest.fixture
def fleet(migrated_database: Engine, sandbox: Sandbox, redis_url: str, tmp_path: Path) -> Iterator[Fleet]:
    """Accounts applied and sends registered; processes are started by the test."""
    apply_accounts(migrated_database, polled_accounts(sandbox), tmp_path)
    runtime = make_runtime(migrated_database, threads=1)
    register_sends(runtime, polled_sends(sandbox))
    runtime.door.close()
    fleet = Fleet(migrated_database, redis_url, tmp_path)
    yield fleet
    fleet.end()


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
    for name in names:
        # A process that is still starting ends by the signal itself.
        fleet.wait_ready(name)
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
