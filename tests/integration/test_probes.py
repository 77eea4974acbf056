"""`/readyz` speaks of progress, not of processes."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from api_server import Said, Server, serving
from database_fixtures import add_account
from sqlalchemy import Engine, text

from ulak.api.app import make_api
from ulak.core import clock
from ulak.models.database import transaction
from ulak.models.job_runs import RECONCILE, beat, planning_of, stalls
from ulak.models.quarantine import new_key
from ulak.models.snapshot import age, read_work
from ulak.providers.http import HttpDoor
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps import planning, upkeep


@pytest.fixture
def runtime(migrated_database: Engine) -> Runtime:
    """The runtime of a process on the test's database, which has one enabled account."""
    with transaction(migrated_database) as connection:
        add_account(connection, "kampanya")
    door = HttpDoor(max_connections=1, boot=clock.boot)
    return Runtime(engine=migrated_database, door=door, seal_key=new_key())


@pytest.fixture
def server(runtime: Runtime) -> Iterator[Server]:
    """The HTTP process."""
    with serving(make_api(runtime)) as server:
        yield server


def change(engine: Engine, statement: str, **values: Any) -> None:
    """Change the world behind the program's back."""
    with transaction(engine) as connection:
        connection.execute(text(statement), values)


def told(said: Said) -> tuple[int, list[str]]:
    """The status and the reasons."""
    return said.status, said.json.get("reasons", [])


def stuck(engine: Engine, *, seconds: float = 120) -> list[str]:
    """The accounts whose work is stalled, of which figures and the status page know the same."""
    with engine.connect() as connection:
        found = [reason.split()[0] for reason in stalls(connection, stuck_seconds=seconds) if "tick" not in reason]
        ages = {each.account_id: age(each.now, each.stalled_since(each.ready_since)) for each in read_work(connection)}
    assert found == [account for account, stalled in ages.items() if stalled is not None and stalled > seconds]
    return found


def add_ready_fetch(engine: Engine, *, seconds_ago: float) -> None:
    """A fetch that may be made since so long."""
    change(
        engine,
        "WITH poll AS (INSERT INTO polls (account_id, kind, trigger)"
        " VALUES ('kampanya', 'plan', 'schedule') RETURNING id)"
        " INSERT INTO fetches (poll_id, account_id, kind, params, params_hash, available_at)"
        " SELECT id, 'kampanya', 'page', '{}', md5(random()::text), now() - make_interval(secs => :ago) FROM poll",
        ago=seconds_ago,
    )


def test_it_is_ready_once_the_ticks_are_worked_off(server: Server, runtime: Runtime) -> None:
    """Ticks that nobody has ever worked off are the reasons; the steps themselves are the proof."""
    assert told(server.ask("GET", "/readyz")) == (
        503,
        ["The tick 'plan vairo' has never been worked off.", "The tick 'reconcile' has never been worked off."],
    )
    list(planning.plan_due(runtime, "vairo"))
    upkeep.reconcile(runtime)
    assert told(server.ask("GET", "/readyz")) == (200, [])


def test_a_beat_that_stops_is_noticed_and_pushes_are_still_taken(server: Server, migrated_database: Engine) -> None:
    """Nothing was worked off for more than a minute; a balancer's question is answered all the same."""
    with transaction(migrated_database) as connection:
        for name in (RECONCILE, planning_of("vairo")):
            beat(connection, name)
    change(migrated_database, "UPDATE heartbeats SET at = now() - interval '61 seconds' WHERE name = 'reconcile'")
    status, [reason] = told(server.ask("GET", "/readyz"))
    assert (status, bool(re.match(r"The tick 'reconcile' was last worked off 6\d s ago", reason))) == (503, True)
    assert told(server.ask("GET", "/readyz?only=callbacks")) == (200, [])


def test_without_enabled_accounts_nothing_is_due(server: Server, migrated_database: Engine) -> None:
    """An Ulak that is only set up is ready."""
    change(migrated_database, "UPDATE accounts SET enabled = false")
    assert told(server.ask("GET", "/readyz")) == (200, [])


def test_an_older_schema_is_a_reason_and_a_newer_one_is_not(server: Server, migrated_database: Engine) -> None:
    """After `ulak migrate` of the next version, this version's processes stay in service until they are replaced."""
    change(migrated_database, "UPDATE accounts SET enabled = false")
    for revision, status in (("0001", 503), ("9999_of_tomorrow", 200)):
        change(migrated_database, "UPDATE alembic_version SET version_num = :revision", revision=revision)
        for path in ("/readyz", "/readyz?only=callbacks"):
            assert server.ask("GET", path).status == status


def test_work_that_could_go_and_does_not_is_noticed(server: Server, migrated_database: Engine) -> None:
    """A fetch of two minutes ago, an account that may be asked, a free slot."""
    add_ready_fetch(migrated_database, seconds_ago=100)
    assert stuck(migrated_database) == []
    add_ready_fetch(migrated_database, seconds_ago=121)
    assert stuck(migrated_database) == ["kampanya"]
    assert "kampanya has fetches" in server.ask("GET", "/readyz").json["detail"]


@pytest.mark.parametrize(
    "rest",
    [
        "UPDATE accounts SET paused_until = now() + interval '1 hour'",
        "UPDATE accounts SET paused_until = now() - interval '10 seconds'",
        "UPDATE accounts SET not_before = now() + interval '1 hour'",
        "UPDATE accounts SET breaker_state = 'open', breaker_until = now() + interval '1 hour'",
        "UPDATE accounts SET last_asked_at = now() - interval '20 seconds'",
        "UPDATE accounts SET enabled = false",
        """INSERT INTO calls (account_id, asked_at, gives_up_at, released_at)
           VALUES ('kampanya', now() - interval '1 day', now(), now() - interval '100 seconds')""",
        "UPDATE fetches SET available_at = now() + interval '1 hour'",
    ],
)
def test_work_that_waits_for_a_reason_does_not_stand_still(
    migrated_database: Engine, runtime: Runtime, rest: str
) -> None:
    """A pause, an open breaker, a throttle, a used limit and a retry's wait are no standstill."""
    add_ready_fetch(migrated_database, seconds_ago=500)
    assert stuck(migrated_database) == ["kampanya"]
    change(migrated_database, rest)
    assert stuck(migrated_database) == []
