"""Beat's ticks come by the boot clock, expire nowhere, and never pile up."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from celery.apps.beat import Beat
from celery.beat import Service
from pydantic import SecretStr

from ulak.core import clock, task_names
from ulak.core.redis import connect
from ulak.core.settings import Settings
from ulak.workers import beat_clock
from ulak.workers.app import KEY_PREFIX, UlakApp, make_app
from ulak.workers.beat_clock import TickScheduler


@pytest.fixture
def app(redis_url: str) -> Iterator[UlakApp]:
    """An app on a broker of its own."""
    made = make_app(Settings(redis_url=SecretStr(redis_url), tick_seconds=0.2))
    yield made
    made.close()


def sent(redis_url: str) -> Counter[str]:
    """How many messages wait in each queue."""
    with connect(redis_url, retries=0) as client:
        lengths = {queue: int(str(client.llen(f"{KEY_PREFIX}{queue}"))) for queue in task_names.QUEUES}
        return Counter(lengths)


def tick_until(scheduler: TickScheduler, holds: Callable[[], bool]) -> None:
    """Do what beat does until that holds; beat itself waits up to a second between two ticks."""
    end = clock.boot() + 30.0
    while not holds():
        assert clock.boot() < end
        time.sleep(min(scheduler.tick(), 0.02))


def test_the_scheduler_of_the_app_is_ours(app: UlakApp) -> None:
    """As `ulak beat` starts it."""
    assert type(Service(app, scheduler_cls=Beat(app=app).scheduler_cls).scheduler) is TickScheduler


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_wall_clock_that_is_set_changes_no_tick(
    app: UlakApp, redis_url: str, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """The host's clock, as Celery and Python tell it, is set while beat runs: ticks come at their interval."""
    scheduler = TickScheduler(app)
    tick_until(scheduler, lambda: sent(redis_url)[task_names.QUEUE_CONTROL] >= 5)
    monkeypatch.setattr(app, "now", lambda: clock.now() + timedelta(hours=hours))
    # Five plans every 0.2 s; the others come every five seconds and more.
    began = clock.boot()
    tick_until(scheduler, lambda: sent(redis_url)[task_names.QUEUE_CONTROL] >= 20)
    assert sent(redis_url)[task_names.QUEUE_CONTROL] <= 20 + 5 * (clock.boot() - began) / 0.2


def test_a_tick_that_comes_late_is_not_made_up_for(
    app: UlakApp, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A beat that was frozen for an hour sends each entry once."""
    scheduler = TickScheduler(app)
    scheduler.tick()
    began = clock.boot()
    monkeypatch.setattr(clock, "boot", lambda: began + 3700.0)
    for _ in range(5):
        scheduler.tick()
    assert sent(redis_url)[task_names.QUEUE_CONTROL] == len(app.conf.beat_schedule)


def test_a_tick_carries_no_moment_at_which_it_expires(app: UlakApp) -> None:
    """That would be a moment of beat's clock, which a worker compares with its own."""
    assert all("expires" not in entry["options"] for entry in app.conf.beat_schedule.values())


def test_ticks_do_not_pile_up_while_nobody_works_them_off(
    app: UlakApp, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue grows to the bound and no further; once it is worked off, ticks go on."""
    monkeypatch.setattr(beat_clock, "MAX_WAITING", 20)
    scheduler = TickScheduler(app)
    tick_until(scheduler, lambda: sent(redis_url)[task_names.QUEUE_CONTROL] >= 20)
    due = dict(scheduler._due)
    tick_until(scheduler, lambda: scheduler._due["plan vairo"] > due["plan vairo"] + 0.5)
    assert sent(redis_url)[task_names.QUEUE_CONTROL] == 20
    with connect(redis_url, retries=0) as client:
        client.delete(f"{KEY_PREFIX}{task_names.QUEUE_CONTROL}")
    tick_until(scheduler, lambda: sent(redis_url)[task_names.QUEUE_CONTROL] >= 5)
