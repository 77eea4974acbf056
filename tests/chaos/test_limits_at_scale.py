"""Many processes on one account, asked from all sides while its limit changes: no window is ever too full."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from limits_at_work import Scene
from limits_judged import Arrival, Change, Limit, broken_limits, permitted, way_seconds
from proxy import Network, Proxy
from sqlalchemy import Engine

TRIGGERS = {"schedule", "api", "cli", "task"}
DELAY_SECONDS = 0.3
"""The line to the provider delays each request by another time, up to this."""
WAY = way_seconds(DELAY_SECONDS)
PATIENCE_SECONDS = 30.0
"""What a busy machine may need for a handful of requests."""


@contextmanager
def uneven_line() -> Iterator[Callable[[str], str]]:
    """Addresses through a line on which requests overtake one another."""
    network = Network()
    proxies: list[Proxy] = []

    def through(url: str) -> str:
        port = urlsplit(url).port
        assert port is not None
        proxies.append(Proxy(network, port, random.Random(5), delay_seconds=(0.0, DELAY_SECONDS)).open())
        return url.replace(f":{port}", f":{proxies[-1].port}", 1)

    try:
        yield through
    finally:
        for proxy in proxies:
            proxy.close()
        network.stop()


def run_with(scene: Scene, processes: int, course: list[tuple[Limit, float]], pause_seconds: float) -> list[str]:
    """Go through the limits, each for at least so long, while everybody asks; what broke a limit then."""
    with (
        uneven_line() as through,
        scene.running(processes, with_api=True, through=through),
        scene.all_triggers(pause_seconds),
    ):
        for limit, seconds in course:
            scene.set_limit(limit)
            time.sleep(seconds)
            wait_until_used(scene, limit)
        arrivals, end = scene.arrivals(), time.monotonic()
    told = f"{len(arrivals)} of {permitted(scene.changes, end):.0f} requests, polls {scene.triggers()}"
    print(f"\n{told}, answers {dict(scene.stored())}")
    assert (scene.failures, set(scene.triggers()), len(scene.stored())) == ([], TRIGGERS, processes)
    return broken_limits(arrivals, scene.changes, WAY)


def wait_until_used(scene: Scene, limit: Limit) -> None:
    """Return when more has come since the limit was set than one window of it may hold: less would try nothing."""
    began, end = scene.changes[-1].committed, time.monotonic() + limit.per_seconds + PATIENCE_SECONDS
    while sum(arrival.at > began for arrival in scene.arrivals()) <= limit.requests:
        assert time.monotonic() < end, f"the limit of {limit} was not used up"
        time.sleep(0.2)


FIRST = Limit(8, 1.0, 4)
SHORT_COURSE = [(Limit(3, 1.0, 2), 3.0), (Limit(10, 1.0, 5), 3.0), (Limit(5, 2.0, 3), 3.5)]


@pytest.mark.long
@pytest.mark.timeout(400)
def test_no_window_is_too_full_whoever_asks_and_however_the_limit_changes(
    migrated_database: Engine, redis_url: str, tmp_path: Path
) -> None:
    """Three processes, four triggers, a limit that shrinks, grows and gets a longer window while they run."""
    scene = Scene(migrated_database, redis_url, tmp_path, FIRST)
    assert run_with(scene, 3, SHORT_COURSE, pause_seconds=1.0) == []


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_eight_processes_keep_windows_of_a_second_to_a_minute(
    migrated_database: Engine, redis_url: str, tmp_path: Path
) -> None:
    """Eight processes, four triggers, windows of 1, 2, 10 and 60 seconds whose limits shrink and grow."""
    course = [
        (Limit(20, 1.0, 8), 12.0),
        (Limit(6, 1.0, 3), 6.0),
        (Limit(30, 2.0, 8), 12.0),
        (Limit(12, 2.0, 4), 8.0),
        (Limit(100, 10.0, 8), 32.0),
        (Limit(40, 10.0, 5), 25.0),
        (Limit(150, 60.0, 8), 75.0),
        (Limit(90, 60.0, 4), 75.0),
    ]
    scene = Scene(migrated_database, redis_url, tmp_path, FIRST)
    assert run_with(scene, 8, course, pause_seconds=5.0) == []


@pytest.mark.slow
def test_a_limiter_that_frees_a_slot_at_sending_is_seen(
    migrated_database: Engine, redis_url: str, tmp_path: Path
) -> None:
    """A longer run with workers that free a slot when they send, not when they are answered, breaks limits."""
    scene = Scene(migrated_database, redis_url, tmp_path, FIRST, breaks="slot_freed_at_sending")
    # Only requests that are answered late show it: on a busy machine some passes have none.
    assert run_with(scene, 3, SHORT_COURSE * 3, pause_seconds=1.0)


# ------------------------------------------------------------------------------------------- the judgement


def arrivals_at(*moments: float, in_flight: int = 1) -> list[Arrival]:
    """Arrivals that are answered at once."""
    return [Arrival(moment, moment, in_flight) for moment in moments]


def changes_to(*limits: Limit) -> list[Change]:
    """Limits that are set every ten seconds, each within a tenth."""
    return [Change(limit, 10.0 * n, 10.0 * n + 0.1) for n, limit in enumerate(limits)]


TWO, ONE = Limit(2, 1.0, 2), Limit(1, 1.0, 1)


@pytest.mark.parametrize(
    ("moments", "wrong"),
    [
        ((1.0, 1.5, 2.0, 2.5), 0),  # exactly a window apart
        ((1.0, 1.5, 1.9), 1),
        ((9.0, 9.5, 10.2, 10.6, 11.7), 0),  # two were on their way
        ((9.0, 9.5, 10.2, 10.6, 11.2), 1),  # more than could be
        ((9.5, 10.05, 10.6, 11.7), 0),
        ((11.0, 12.0, 12.5), 1),  # too late to have been on its way
    ],
)
def test_the_judgement_of_windows(moments: tuple[float, ...], wrong: int) -> None:
    """A limit holds in every window, and a new one from its commit but for what was on its way."""
    assert len(broken_limits(arrivals_at(*moments), changes_to(TWO, ONE), way_seconds=1.4)) == wrong


def test_the_judgement_of_what_is_in_the_air() -> None:
    """One more unanswered request than the concurrency allows is told, whatever the windows hold."""
    found = [broken_limits(arrivals_at(3.0, in_flight=many), changes_to(TWO), 1.0) for many in (2, 3)]
    assert found == [[], ["limit 2/1 s, 2: 3 in the air, 2.900 s after it was set"]]


def test_what_limits_permit() -> None:
    """The sum over the limits of the time that each held."""
    assert permitted(changes_to(TWO, ONE), end=12.1) == pytest.approx(2 * 10 + 2)
    assert all(later.committed > earlier.committed for earlier, later in pairwise(changes_to(TWO, ONE)))
