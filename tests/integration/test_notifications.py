"""Notifications over real HTTP and a real database: at least once, in order, each under its id.

Time passes by moving what is stored into the past: nothing else remembers it while the database is there.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from database_fixtures import add_account
from notified import SECRET, Hook, written
from sqlalchemy import Engine, text
from task_api import runtime_on

from ulak.api.notify.notifier import EVERY_SECONDS, Notifier, notifier_for
from ulak.api.notify.receivers import receivers_for
from ulak.api.pages.overview_cache import Snapshot
from ulak.core import clock
from ulak.core.settings import Settings, load_settings
from ulak.models.accounts import pause, resume
from ulak.models.database import make_engine, transaction
from ulak.models.notifications import KEPT_DAYS, LEASE_SECONDS, TTL_DAYS, list_notifications, prune
from ulak.models.problems import GAP_SECONDS

DIES = Path(__file__).parents[1] / "notify_and_die.py"
_AGE = """
    UPDATE problems SET first_seen_at = first_seen_at - :by, seen_at = seen_at - :by, opened_at = opened_at - :by,
        absent_since = absent_since - :by;
    UPDATE notifications SET created_at = created_at - :by, attempted_at = attempted_at - :by,
        next_attempt_at = next_attempt_at - :by, delivered_at = delivered_at - :by;
    UPDATE heartbeats SET at = at - :by
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """The settings with a webhook at this address."""

    def make(hook: Hook, **more: str) -> Settings:
        monkeypatch.setenv("ULAK_NOTIFY_WEBHOOK_URL_FILE", written(tmp_path, "hook", hook.url))
        monkeypatch.setenv("ULAK_NOTIFY_WEBHOOK_SECRET_FILE", written(tmp_path, "secret", SECRET))
        for name, value in more.items():
            monkeypatch.setenv(name, value)
        return load_settings()

    return make


class World:
    """An account, a receiver, and a notifier whose time passes when it is told to."""

    def __init__(self, engine: Engine, hook: Hook, settings: Settings) -> None:
        self.engine, self.hook, self.settings = engine, hook, settings
        self.notifiers: list[Notifier] = []
        self.notifier = self.another()
        with transaction(engine) as connection:
            self.account = add_account(connection)

    def another(self) -> Notifier:
        """A further API process."""
        made = notifier_for(self.settings, runtime_on(self.engine), receivers_for(self.settings))
        self.notifiers.append(made)
        return made

    def close(self) -> None:
        """End all processes."""
        for each in self.notifiers:
            each.close()

    def pass_time(self, seconds: float) -> None:
        """So much later, with nobody looking."""
        with transaction(self.engine) as connection:
            for statement in _AGE.split(";"):
                connection.execute(text(statement.replace(":by", f"interval '{seconds} seconds'")))

    def run(self, seconds: float, *notifiers: Notifier) -> None:
        """So much time, with a step of each notifier at its interval."""
        for _ in range(int(seconds / EVERY_SECONDS)):
            self.pass_time(EVERY_SECONDS)
            for notifier in notifiers or (self.notifier,):
                notifier.overviews.forget()
                notifier._look_again = 0.0
                notifier.step()
                notifier.wait(60)

    def pause(self) -> None:
        """A problem that the page shows."""
        with transaction(self.engine) as connection:
            pause(connection, self.account, None, "for the test, by 905301234567")

    def resume(self) -> None:
        """Its end."""
        with transaction(self.engine) as connection:
            resume(connection, self.account)


@pytest.fixture
def hook() -> Iterator[Hook]:
    """A webhook that takes everything."""
    with Hook() as hook:
        yield hook


@pytest.fixture
def world(migrated_database: Engine, hook: Hook, settings: Callable[..., Settings]) -> Iterator[World]:
    """Nothing is wrong in it."""
    world = World(migrated_database, hook, settings(hook))
    yield world
    world.close()


def ids(hook: Hook) -> list[str]:
    """The ids of what was taken, in order."""
    return [taken.headers["webhook-id"] for taken in hook.taken]


def test_a_problem_and_its_end_are_told_once_each(world: World) -> None:
    """By however many processes; nothing is told while all is well, and no number of a person ever is."""
    processes = [world.notifier, world.another(), world.another()]
    world.run(120, *processes)
    assert world.hook.taken == []
    world.pause()
    world.run(300, *processes)
    world.resume()
    world.run(300, *processes)
    assert world.hook.items == [("open", f"paused:{world.account}"), ("resolved", f"paused:{world.account}")]
    assert len(set(ids(world.hook))) == 2
    assert not any(b"5301234567" in taken.body for taken in world.hook.taken)
    [first, _] = [taken.json["data"]["problems"][0] for taken in world.hook.taken]
    assert (first["severity"], first["account"], first["kind"]) == ("held", world.account, "paused")


def test_short_flaps_are_silent(world: World) -> None:
    """An operator who pauses an account for half a minute wakes nobody."""
    for _ in range(5):
        world.pause()
        world.run(45)
        world.resume()
        world.run(30)
    assert world.hook.taken == []


def test_a_receiver_that_is_down_for_an_hour_gets_each_notification_once_it_is_back(world: World) -> None:
    """In the order in which it happened, each beginning and end once; what came and went is told as such."""
    with transaction(world.engine) as connection:
        other = add_account(connection)
        third = add_account(connection)
    world.hook.status = 503
    world.pause()
    world.run(600)
    with transaction(world.engine) as connection:
        pause(connection, other, None, "w")
        pause(connection, third, None, "w")
    world.run(600)
    world.resume()
    with transaction(world.engine) as connection:
        resume(connection, other)
    world.run(2400)
    with world.engine.connect() as connection:
        waiting = list_notifications(connection, waiting_only=True)
    assert [row.attempts > 0 for row in waiting] == [False, True]
    assert waiting[-1].last_error == "answered with status 503"
    assert {taken.headers["webhook-id"] for taken in world.hook.refused} == {waiting[-1].message_id}
    assert 10 < len(world.hook.refused) < 30
    world.hook.status = 200
    world.run(600)
    assert world.hook.items == [
        ("open", f"paused:{world.account}"),
        *sorted([("passed", f"paused:{other}"), ("open", f"paused:{third}")], key=lambda item: item[1]),
        ("resolved", f"paused:{world.account}"),
    ]
    world.pass_time(3600)
    world.run(60)
    assert len(world.hook.taken) == 2


def test_problems_of_one_moment_come_in_one_message_and_later_ones_a_minute_after(world: World) -> None:
    """Grouped: at most one message a minute."""
    with transaction(world.engine) as connection:
        others = [add_account(connection) for _ in range(5)]
        for account in others:
            pause(connection, account, None, "w")
    world.run(105)
    assert [len(taken.json["data"]["problems"]) for taken in world.hook.taken] == [5]


def test_a_crash_between_the_response_and_its_commit_repeats_the_message_under_its_id(world: World) -> None:
    """Another process takes over after the lease; once the acknowledgement is committed nobody repeats it."""
    world.pause()
    world.run(45)
    world.pass_time(45)
    url = world.engine.url.render_as_string(hide_password=False)
    died = subprocess.run([sys.executable, DIES, url], capture_output=True, text=True, timeout=120, check=False)
    assert (died.returncode, len(world.hook.taken)) == (9, 1), died.stderr[-2000:]
    world.run(LEASE_SECONDS / 2)
    assert len(world.hook.taken) == 1
    world.run(LEASE_SECONDS)
    assert len(world.hook.taken) == 2
    assert len(set(ids(world.hook))) == 1
    assert world.hook.taken[0].json["data"] == world.hook.taken[1].json["data"]
    world.pass_time(3600)
    world.run(60)
    assert len(world.hook.taken) == 2


def test_a_message_that_was_attempted_is_never_altered(world: World) -> None:
    """It may have arrived: what comes later is told under another id."""
    world.hook.status = 500
    world.pause()
    world.run(120)
    data = world.hook.refused[0].json["data"]
    world.resume()
    world.run(180)
    assert len(world.hook.refused) > 1
    assert all(taken.json["data"] == data for taken in world.hook.refused)
    world.hook.status = 200
    world.run(600)
    assert [state for state, _ in world.hook.items] == ["open", "resolved"]


def test_many_processes_that_send_at_once_send_each_message_once(world: World) -> None:
    """A claim is exclusive."""
    processes = [world.another() for _ in range(4)]
    world.pause()
    world.run(60)
    threads = [
        threading.Thread(target=lambda each=each: (each.step(), each.wait(60)), daemon=True) for each in processes
    ]
    world.pass_time(EVERY_SECONDS)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    world.run(60, *processes)
    assert len(world.hook.taken) == len(set(ids(world.hook))) == 1


def test_a_database_that_is_away_is_told_directly_and_its_return_once(world: World) -> None:
    """Two processes notice; both use one id, and the end comes through the outbox."""
    away = make_engine("postgresql://u:p@127.0.0.1:1/d", connect_timeout_seconds=2)
    processes = [world.notifier, world.another()]
    world.run(30, *processes)
    engines = [process.engine for process in processes]
    for process in processes:
        process.engine = away
        process.step()
        assert process._outage is not None
        process._outage.began -= 59
        process.step()
        assert world.hook.taken == []
    world.hook.status = 500
    for process in processes:
        assert process._outage is not None
        process._outage.began -= 2
        process.step()
        process.step()
    assert len(world.hook.refused) == 2, "the pause after a failure is kept"
    world.hook.status = 200
    for process in processes:
        assert process._outage is not None
        process._outage.sent["webhook"].next_at = 0.0
        process.step()
        process.step()
    assert world.hook.items == [("open", "database_away")] * 2
    assert len(set(ids(world.hook))) == 1
    for process, engine in zip(processes, engines, strict=True):
        process.engine = engine
    world.run(300, *processes)
    assert world.hook.items == [("open", "database_away")] * 2 + [("resolved", "database_away")]
    assert len(set(ids(world.hook))) == 2
    away.dispose()


def test_a_second_outage_has_an_id_of_its_own(world: World) -> None:
    """Within the same hour too: a receiver that knows the first id would drop it."""
    away = make_engine("postgresql://u:p@127.0.0.1:1/d", connect_timeout_seconds=2)
    engine = world.notifier.engine
    for _ in range(2):
        world.run(30)
        world.notifier.engine = away
        world.notifier.step()
        assert world.notifier._outage is not None
        world.notifier._outage.began -= 120
        world.notifier.step()
        world.notifier.engine = engine
        world.run(120)
    assert [state for state, _ in world.hook.items] == ["open", "resolved"] * 2
    assert len(set(ids(world.hook))) == 4
    away.dispose()


def test_what_an_outage_told_nobody_yet_is_delivered_when_the_database_is_back(world: World) -> None:
    """Under the id of the attempts that were made meanwhile."""
    away = make_engine("postgresql://u:p@127.0.0.1:1/d", connect_timeout_seconds=2)
    engine, world.notifier.engine = world.notifier.engine, away
    world.hook.status = 500
    world.notifier.step()
    assert world.notifier._outage is not None
    world.notifier._outage.began -= 120
    world.notifier.step()
    world.notifier.engine, world.hook.status = engine, 200
    world.run(300)
    assert [state for state, _ in world.hook.items] == ["open", "resolved"]
    assert ids(world.hook)[0] == world.hook.refused[0].headers["webhook-id"]
    away.dispose()


def test_a_message_that_nobody_takes_is_given_up_and_old_ones_are_pruned(world: World) -> None:
    """After some days; the queue goes on."""
    world.hook.status = 500
    world.pause()
    world.run(120)
    world.pass_time(TTL_DAYS * 86_400 + 60)
    world.hook.status = 200
    world.resume()
    world.run(240)
    assert [state for state, _ in world.hook.items] == ["resolved"]
    world.pass_time(KEPT_DAYS * 86_400)
    with transaction(world.engine) as connection:
        assert (prune(connection), list_notifications(connection)) == (2, [])


def test_a_mistake_of_ours_in_an_attempt_is_an_error_of_the_message(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stored, with a pause; the thread goes on, and so does the report of an outage."""

    def fail(*_: object) -> None:
        raise UnicodeError("canary")

    world.pause()
    world.run(45)
    monkeypatch.setattr(type(world.notifier.receivers[0]), "send", fail)
    world.run(60)
    with world.engine.connect() as connection:
        [row] = list_notifications(connection, waiting_only=True)
    assert (row.last_error, row.attempts > 0) == ("could not be used (UnicodeError)", True)
    assert row.next_attempt_at - row.attempted_at < timedelta(seconds=LEASE_SECONDS)
    monkeypatch.undo()
    world.run(300)
    assert world.hook.items == [("open", f"paused:{world.account}")]


def test_a_receiver_is_told_again_after_a_long_stop(world: World) -> None:
    """What waited behind a message that was given up is sent, however old it is: its days begin with an attempt."""
    with transaction(world.engine) as connection:
        other = add_account(connection)
    world.hook.status = 503
    world.pause()
    world.run(120)
    with transaction(world.engine) as connection:
        pause(connection, other, None, "w")
    world.run(120)
    world.pass_time((TTL_DAYS + 1) * 86_400)
    world.run(60)
    assert len({taken.headers["webhook-id"] for taken in world.hook.refused}) == 2
    world.hook.status = 200
    world.run(600)
    world.resume()
    world.run(300)
    assert world.hook.items == [("open", f"paused:{other}"), ("resolved", f"paused:{world.account}")]


def test_each_receiver_has_a_queue_of_its_own(
    migrated_database: Engine, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """One that is down delays no other."""
    with Hook(status=500) as sick, Hook() as slack:
        more = {"ULAK_NOTIFY_SLACK_URL_FILE": written(tmp_path, "slack", slack.url)}
        world = World(migrated_database, sick, settings(sick, **more))
        world.pause()
        world.run(150)
        world.resume()
        world.run(300)
        texts = [taken.json["text"] for taken in slack.taken]
        assert [text.splitlines()[0].startswith("*Ulak: Resolved:") for text in texts] == [False, True]
        assert sick.taken == []
        world.close()


def test_a_look_at_the_wrong_time_does_not_end_the_thread(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement that took too long is no outage, and nothing is told of it."""
    engine, url = world.notifier.engine, world.engine.url.render_as_string(hide_password=False)
    world.notifier.engine = make_engine(url, statement_timeout_seconds=0.5)
    with world.engine.begin() as connection:
        connection.execute(text("LOCK TABLE heartbeats IN ACCESS EXCLUSIVE MODE"))
        for _ in range(3):
            world.notifier.step()
    assert (world.notifier._outage, world.hook.taken) == (None, [])
    world.notifier.engine.dispose()
    world.notifier.engine = engine


def test_looks_that_keep_failing_are_told_and_what_waits_is_sent(world: World) -> None:
    """The database answers, so this goes through the outbox; the sign of progress stays away meanwhile."""
    world.run(30)
    url = world.engine.url.render_as_string(hide_password=False)
    engine, slow = world.notifier.overviews.engine, make_engine(url, statement_timeout_seconds=0.5)
    world.notifier.overviews.engine = slow
    with world.engine.begin() as connection:
        connection.execute(text("LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE"))
        world.run(150)
        assert world.hook.items == []
        world.run(90)
        age = "SELECT extract(epoch FROM clock_timestamp() - at) FROM heartbeats WHERE name = 'notifying'"
        assert connection.execute(text(age)).scalar_one() > 200
    assert world.hook.items == [("open", "not_evaluated")]
    world.notifier.overviews.engine = engine
    world.run(180)
    assert world.hook.items == [("open", "not_evaluated"), ("resolved", "not_evaluated")]
    slow.dispose()


def test_slow_looks_are_often_enough_for_a_problem_to_open(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long one takes: a problem that is seen too seldom would begin anew each time."""
    look, late = world.notifier.overviews.look, [0.0]
    monkeypatch.setattr(clock, "boot", lambda: time.monotonic() + late[0])

    def slow_look() -> Snapshot:
        late[0] += 60.0
        return look()

    monkeypatch.setattr(type(world.notifier.overviews), "look", lambda _: slow_look())
    world.notifier.step()
    world.notifier.wait(60)
    assert world.notifier._look_again - clock.boot() <= GAP_SECONDS / 3


def test_a_budget_that_burns_is_told_at_once(world: World) -> None:
    """Without a hold of its own: the windows of the rule are one."""
    with transaction(world.engine) as connection:
        connection.execute(text("UPDATE accounts SET objective = '95 % within 60 s'"))
        connection.execute(
            text(
                "INSERT INTO freshness (account_id, at, total, good, seconds, buckets) SELECT :account,"
                " now() - (70 - n) * interval '1 minute', 40 * n, 40 * least(n, 10), 0, '{}'"
                " FROM generate_series(0, 70) n"
            ),
            {"account": world.account},
        )
    world.run(15)
    assert world.hook.items == [("open", f"burning:{world.account}"), ("open", f"burning_slowly:{world.account}")]
    summary = world.hook.taken[0].json["data"]["problems"][0]["summary"]
    assert summary.startswith(f"{world.account} is missing its objective (95 % within 60 s) fast: 100.0 % of its final")


def test_the_moment_of_an_attempt_is_signed(world: World) -> None:
    """A receiver refuses what is too old: each attempt has its own time."""
    world.pause()
    world.run(120)
    [taken] = world.hook.taken
    assert abs(int(taken.headers["webhook-timestamp"]) - datetime.now(UTC).timestamp()) < 300
    assert taken.headers["webhook-signature"].startswith("v1,")
