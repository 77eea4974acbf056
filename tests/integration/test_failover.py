"""A PostgreSQL that takes no writes, as after a failover: refused while it lasts, and over when it is over.

Sessions that begin while the database is set to read-only stay so, as those do that still lead to an old primary.
"""

import io
import json
import os
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from api_server import Said, Server, serving
from ledger_acts import Held, add_ids, plan, vairo_body
from ledger_acts import add_account as add_polled
from log_lines import lines
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError
from stored_rows import stored_rows
from test_callbacks import LOGIN, SECRETS, apply_accounts, notice

from ulak.api.app import make_api
from ulak.api.readiness import AWAY, SLOW, TAKES_NO_WRITES, Readiness
from ulak.core import clock
from ulak.core.settings import Settings
from ulak.models.database import CONNECTION_TTL_SECONDS, make_engine, retry_transaction, transaction
from ulak.models.database_errors import is_unavailable, sqlstate_of
from ulak.models.quarantine import new_key
from ulak.models.tokens import create_token
from ulak.providers.http import HttpDoor
from ulak.tasks.base import DatabaseAwayError
from ulak.tasks.runtime import CredentialCache, Runtime
from ulak.workers.app import app, make_app

__all__ = ["lines"]

PATIENT = 30.0
"""Seconds that a probe may take here: this machine may be busy."""


@dataclass
class Database:
    """The test's database, seen by its administrator."""

    engine: Engine
    admin: str

    def run(self, statement: str) -> None:
        """One statement outside of the database, which must not be read-only for us."""
        with psycopg.connect(self.admin, autocommit=True) as connection:
            connection.execute(statement.format(name=self.engine.url.database).encode())

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Sessions that begin within the block take no writes, then and afterwards; those from before end."""
        self.run("ALTER DATABASE {name} SET default_transaction_read_only = on")
        self.end_sessions()
        try:
            yield
        finally:
            self.run("ALTER DATABASE {name} RESET default_transaction_read_only")

    def end_sessions(self) -> None:
        """The server ends every session of the database."""
        self.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")


@pytest.fixture
def database(migrated_database: Engine, postgres_url: str) -> Database:
    """The database, with a provider that pushes and a named token."""
    apply_accounts(migrated_database)
    return Database(migrated_database, postgres_url)


@pytest.fixture
def runtime(database: Database) -> Runtime:
    """A runtime whose references lead to the test's secrets."""
    door = HttpDoor(max_connections=1, boot=clock.boot)
    cache = CredentialCache(resolve=lambda reference: SECRETS.get(reference, "secret"))
    return Runtime(engine=database.engine, door=door, seal_key=new_key(), credentials=cache)


@pytest.fixture
def server(runtime: Runtime) -> Iterator[Server]:
    """The HTTP process."""
    with serving(make_api(runtime, probe_seconds=PATIENT)) as server:
        yield server


def push(server: Server, reportid: str) -> int:
    """BiP pushes a notice; the status of the answer."""
    return server.ask("POST", "/callbacks/bip/bip-1", notice(0, reportid), auth=LOGIN).status


def stored(engine: Engine) -> set[str]:
    """The keys in the table."""
    with engine.connect() as connection:
        return {key for _, key in stored_rows(connection, "bip-1")}


def ready(server: Server) -> tuple[int, list[str]]:
    """What a balancer is answered."""
    said = server.ask("GET", "/readyz?only=callbacks")
    return said.status, said.json.get("reasons", [])


def asked(server: Server, token: str, method: str = "GET", path: str = "/v1/accounts", body: Any = None) -> Said:
    """A caller with a named token asks."""
    answer = server.client.request(method, path, json=body, headers={"Authorization": f"Bearer {token}"})
    return Said(answer.status_code, dict(answer.headers), answer.content)


def test_pushes_during_a_failover_are_refused_and_taken_again_without_a_restart(
    server: Server, database: Database
) -> None:
    """503 until stored; a session from then does not outlive it, though reading works on it."""
    assert push(server, "before") == 200
    with database.read_only():
        assert [push(server, f"during-{number}") for number in range(3)] == [503, 503, 503]
        assert ready(server) == (503, [TAKES_NO_WRITES])
    assert ready(server) == (200, [])
    assert [push(server, f"after-{number}") for number in range(3)] == [200, 200, 200]
    assert stored(database.engine) == {"before", "after-0", "after-1", "after-2"}


def test_sessions_from_the_failover_that_only_read_do_not_cost_a_push(server: Server, database: Database) -> None:
    """The first write finds out that its session is read-only, and is made again on a new one."""
    with database.read_only(), database.engine.connect() as one, database.engine.connect() as other:
        for connection in (one, other):
            assert connection.execute(text("SHOW transaction_read_only")).scalar_one() == "on"
    assert push(server, "first") == 200
    with database.engine.connect() as connection:
        assert connection.execute(text("SHOW transaction_read_only")).scalar_one() == "off"


def test_probes_ask_on_connections_of_their_own(server: Server, database: Database) -> None:
    """All connections of the requests are in use, or lead to an old primary: the answer is the database's own."""
    with database.read_only():
        database.engine.connect().close()
    assert ready(server) == (200, [])
    held = [database.engine.connect() for _ in range(16)]
    try:
        assert ready(server) == (200, [])
    finally:
        for connection in held:
            connection.close()


def test_v1_is_503_while_nothing_can_be_written_and_reading_goes_on(
    server: Server, database: Database, lines: io.StringIO
) -> None:
    """A problem document, never "a bug in Ulak"; the hour of a token's use is no reason to refuse anything."""
    with transaction(database.engine) as connection:
        token = create_token(connection, "support")
    with database.read_only():
        assert asked(server, token).status == 200
        refused = asked(server, token, "POST", "/v1/accounts/bip-1/pause", {"reason": "why"})
        assert (refused.status, refused.headers["content-type"]) == (503, "application/problem+json")
        assert (refused.headers["retry-after"], "bug" in refused.json["detail"]) == ("2", False)
    assert asked(server, token, "POST", "/v1/accounts/bip-1/pause", {"reason": "why"}).status == 200
    assert "api.failed" not in lines.getvalue()


def test_a_token_is_known_though_the_hour_of_its_use_cannot_be_noted(server: Server, database: Database) -> None:
    """Somebody else holds its row: the caller waits for nobody."""
    with transaction(database.engine) as connection:
        token = create_token(connection, "support")
    with database.engine.connect() as other, other.begin():
        other.execute(text("SELECT * FROM api_tokens FOR UPDATE"))
        assert asked(server, token).status == 200
    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT last_used_at FROM api_tokens")).scalar_one() is None
    assert asked(server, token).status == 200
    with transaction(database.engine) as connection:
        assert connection.execute(text("SELECT last_used_at FROM api_tokens")).scalar_one() is not None
        connection.execute(text("UPDATE api_tokens SET last_used_at = NULL"))
        connection.execute(text("ALTER TABLE api_tokens ADD CONSTRAINT full_disk CHECK (last_used_at IS NULL)"))
    assert asked(server, token).status == 200


def test_a_worker_that_stops_within_a_transaction_loses_its_locks_after_ten_seconds(database: Database) -> None:
    """Its session is ended: another worker gets the account, and what was begun is rolled back."""
    url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    app_of_worker = make_app(Settings(database_url=SecretStr(url)))
    with app_of_worker.runtime().engine.connect() as connection:
        assert connection.execute(text("SHOW idle_in_transaction_session_timeout")).scalar_one() == "10s"
    app_of_worker.runtime().engine.dispose()
    app_of_worker.runtime().door.close()
    beat = "INSERT INTO heartbeats (name, at) VALUES ('plan', now()) ON CONFLICT (name) DO UPDATE SET at = now()"
    stopped = make_engine(url, pool_size=1, idle_in_transaction_seconds=0.2)
    with stopped.connect() as frozen, database.engine.connect() as other:
        frozen.execute(text(beat))
        other.execute(text("SET statement_timeout = '30s'"))
        other.execute(text(beat))
        with pytest.raises(DBAPIError) as refused:
            frozen.execute(text(beat))
    assert (sqlstate_of(refused.value), is_unavailable(refused.value)) == ("25P03", True)
    stopped.dispose()


def cut(connection: Connection) -> None:
    """Break the line to PostgreSQL, without a word from either side."""
    session: Any = connection.connection.dbapi_connection
    with socket.socket(fileno=os.dup(session.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("how", ["idled", "ended", "cut"])
def test_a_transaction_that_lost_its_session_before_the_commit_is_repeated_in_a_new_one(
    database: Database, how: str
) -> None:
    """What a frozen worker had in hand is written when it goes on: a response is not requested twice."""
    url = database.engine.url.render_as_string(hide_password=False)
    engine = make_engine(url, pool_size=1, idle_in_transaction_seconds=0.2 if how == "idled" else 60.0)
    sessions: list[int] = []

    def run(connection: Connection) -> int:
        sessions.append(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
        if len(sessions) == 1 and how == "cut":
            cut(connection)
        elif len(sessions) == 1:
            left = "SELECT pid FROM pg_stat_activity WHERE pid = :pid"
            with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
                if how == "ended":
                    other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": sessions[0]})
                while other.execute(text(left), {"pid": sessions[0]}).first() is not None:
                    pass
        return int(connection.execute(text("SELECT 7")).scalar_one())

    assert (retry_transaction(engine, run), len(set(sessions))) == (7, 2)
    engine.dispose()


def test_a_transaction_that_loses_session_after_session_is_not_repeated_for_ever(database: Database) -> None:
    """Twice, or once more where the first session was used without a ping; then the caller gets the error."""
    runs: list[int] = []

    def run(connection: Connection) -> None:
        runs.append(1)
        cut(connection)
        connection.execute(text("SELECT 7"))

    with pytest.raises(DBAPIError) as lost:
        retry_transaction(database.engine, run)
    assert (len(runs) in {2, 3}, is_unavailable(lost.value)) == (True, True)


def test_a_transaction_whose_commit_had_no_answer_is_not_repeated(database: Database) -> None:
    """Nobody knows whether it was committed."""
    runs: list[int] = []

    def run(connection: Connection) -> None:
        runs.append(1)
        connection.execute(text("SELECT 7"))
        cut(connection)

    with pytest.raises(DBAPIError):
        retry_transaction(database.engine, run)
    assert len(runs) == 1


def test_a_statement_that_takes_too_long_is_no_outage(database: Database, runtime: Runtime, lines: io.StringIO) -> None:
    """503 "took too long": the connection stays, nobody is alarmed, and pushes are measured apart."""
    url = database.engine.url.render_as_string(hide_password=False)
    impatient = make_engine(url, pool_size=1, statement_timeout_seconds=0.3)
    own = Runtime(engine=impatient, door=runtime.door, seal_key=runtime.seal_key, credentials=runtime.credentials)
    with transaction(database.engine) as connection:
        token = create_token(connection, "support")
    with serving(make_api(own, probe_seconds=PATIENT)) as server:
        before, counted = _backend(impatient), _pushes(server)
        with database.engine.connect() as other, other.begin():
            other.execute(text("LOCK TABLE delivery_status IN ACCESS EXCLUSIVE MODE"))
            said = asked(server, token, path="/v1/deliveries")
            assert (said.status, "took too long" in said.json["detail"]) == (503, True)
            assert push(server, "slow") == 503
            assert ready(server) == (200, [])
        assert _backend(impatient) == before
        assert push(server, "slow") == 200
        assert _pushes(server) - counted == {"stored": 1, "too_slow": 1}
    assert "database_away" not in lines.getvalue()


def _pushes(server: Server) -> Counter[str]:
    """How many pushes of BiP this process has answered, by what became of them."""
    pattern = r'^ulak_callback_seconds_count\{outcome="(\w+)",provider="bip"\} (\d+)'
    found = re.findall(pattern, server.client.get("/metrics").text, re.MULTILINE)
    return Counter({outcome: int(many) for outcome, many in found})


def _backend(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


def test_a_probe_does_not_wait_for_a_slow_database(database: Database) -> None:
    """It answers although what it asks for is locked, and is right again afterwards."""
    door = HttpDoor(max_connections=1, boot=clock.boot)
    runtime = Runtime(engine=database.engine, door=door, seal_key=new_key())
    with serving(make_api(runtime)) as server:
        with database.engine.connect() as other, other.begin():
            other.execute(text("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE"))
            assert ready(server) == (503, [SLOW])
        _until(lambda: ready(server) == (200, []))


def _until(condition: Any) -> None:
    deadline = clock.boot() + 60
    while not condition():
        assert clock.boot() < deadline
        clock.sleep(0.05)


def test_a_probe_really_writes_but_seldom(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that reads well and cannot write is not ready; it is tried once in ten seconds."""
    now = [1000.0]
    monkeypatch.setattr(clock, "boot", lambda: now[0])
    probe = Readiness.beside(database.engine, PATIENT)

    def look() -> list[str]:
        return probe._look(progress=False)

    def written() -> Any:
        with database.engine.connect() as connection:
            return connection.execute(text("SELECT at FROM heartbeats WHERE name = 'readiness'")).scalar_one()

    assert look() == []
    first = written()
    now[0] += 9.9
    assert (look(), written()) == ([], first)
    now[0] += 0.1
    assert (look(), written() > first) == ([], True)
    with transaction(database.engine) as connection:
        connection.execute(text("ALTER TABLE heartbeats ADD CONSTRAINT disk_full CHECK (at < 'epoch') NOT VALID"))
    assert look() == []
    now[0] += 10
    assert [look(), look()] == [[TAKES_NO_WRITES]] * 2
    with transaction(database.engine) as connection:
        connection.execute(text("ALTER TABLE heartbeats DROP CONSTRAINT disk_full"))
    assert look() == [TAKES_NO_WRITES]
    now[0] += 10
    assert look() == []
    probe.close()


def test_a_probe_of_a_database_that_is_away_says_so(database: Database) -> None:
    """Nobody listens there."""
    nowhere = make_engine("postgresql://nobody@127.0.0.1:1/nothing", pool_size=1)
    probe = Readiness.beside(nowhere, PATIENT)
    assert probe._look(progress=True) == [AWAY]
    probe.close()


def test_readiness_is_no_periodic_work(server: Server, database: Database) -> None:
    """The row that a probe writes grows old where nobody probes: an alert on it would be a false one."""
    assert ready(server) == (200, [])
    assert 'ulak_heartbeat_age_seconds{name="readiness"}' not in server.client.get("/metrics").text


@pytest.mark.parametrize("prepares", [True, False])
def test_every_pool_replaces_its_connections(prepares: bool, database: Database, fresh_database: str) -> None:
    """Those of API, commands and probes, too: one that still leads to an old primary reads what is out of date."""
    engines = [make_engine(fresh_database, prepares=prepares), Readiness.beside(database.engine).engine]
    assert [vars(engine.pool)["_recycle"] for engine in engines] == [CONNECTION_TTL_SECONDS] * 2


def test_a_transaction_is_repeated_once_where_its_session_is_read_only(database: Database) -> None:
    """Twice would not help: then there is no primary."""
    seen: list[int] = []

    def write(connection: Any) -> None:
        seen.append(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
        connection.execute(text("UPDATE accounts SET enabled = enabled"))

    with database.read_only():
        with pytest.raises(DBAPIError) as caught:
            retry_transaction(database.engine, write)
        assert sqlstate_of(caught.value) == "25006"
        assert (len(seen), len(set(seen))) == (2, 2)
        database.engine.connect().close()
    retry_transaction(database.engine, write)
    assert (len(seen), len(set(seen))) == (4, 4)


def test_an_answer_that_cannot_be_stored_during_a_failover_is_no_bug(
    database: Database, runtime: Runtime, lines: io.StringIO
) -> None:
    """The fetch stays leased, so that it is made again; nothing is put into quarantine, and nothing is counted."""
    account_id = add_polled(database.engine)
    add_ids(database.engine, account_id, ["s1:+905321234567"])
    [fetch_id] = plan(runtime, account_id)
    held = Held(runtime, fetch_id)
    with database.read_only(), pytest.raises(DBAPIError) as caught:
        held.answer(vairo_body("s1:+905321234567", "DELIVERED"))
    assert sqlstate_of(caught.value) == "25006"
    with database.engine.connect() as connection:
        state, attempts = connection.execute(text("SELECT state, attempts FROM fetches")).one()
        quarantined = connection.execute(text("SELECT count(*) FROM quarantine")).scalar_one()
    assert (state, attempts, quarantined) == ("sending", 0, 0)
    assert "fetch.store_failed" not in lines.getvalue()
    held.answer(vairo_body("s1:+905321234567", "DELIVERED"))
    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT status FROM delivery_status")).scalar_one() == "delivered"


def test_an_outage_is_two_lines_in_a_worker_s_log(database: Database, lines: io.StringIO) -> None:
    """One when it begins and one when it is over, however many tasks fail; our own time-out and a bug are neither."""
    ours = make_app(Settings())
    try:

        def run(statement: str) -> None:
            with transaction(database.engine) as connection:
                connection.execute(text(statement))

        act = ours.task(run)
        write = "UPDATE accounts SET enabled = enabled"
        with database.read_only():
            for _ in range(3):
                with pytest.raises(DatabaseAwayError):
                    act(write)
        database.end_sessions()
        act(write)
        with pytest.raises(DatabaseAwayError):
            act("SET LOCAL statement_timeout = 20; SELECT pg_sleep(20)")
        with pytest.raises(DBAPIError):
            act("SELECT nothing_of_this_name")
    finally:
        app.set_current()
    told = [json.loads(line)["event"] for line in lines.getvalue().splitlines()]
    assert told == ["database.away", "database.back", "task.database_slow"]


def test_threads_that_meet_a_failover_all_go_on(database: Database) -> None:
    """Each of them discards its own session and the others' are no obstacle."""
    with database.read_only():
        held = [database.engine.connect() for _ in range(8)]
        for connection in held:
            connection.close()
    errors: list[BaseException] = []

    def write() -> None:
        try:
            retry_transaction(database.engine, lambda c: c.execute(text("UPDATE accounts SET enabled = enabled")))
        except DBAPIError as error:
            errors.append(error)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
