"""Real pushes during floods and failures: what is acknowledged is stored, and what is refused says 503."""

import http.client
import random
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psycopg
import pytest
from api_process import ApiProcess, api_process
from sqlalchemy import Engine, text
from test_host_hostile_clients import ENV, TOKEN, _many_descriptors, database, push

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]

__all__ = ["_many_descriptors", "database"]

KILLS, PUSHES = 400, 200
FLOOD = {1: 500, 50: 2000, 200: 2000}
"""Requests of strangers by their connections, together at least the 4,466 of the review."""


def ask(api: ApiProcess, method: str, path: str, body: str = "", **headers: str) -> int:
    """One request; its status, 0 where there was no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=60)
    try:
        connection.request(method, path, body or None, headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def stored(engine: Engine) -> set[str]:
    """The keys that the table holds."""
    with engine.connect() as connection:
        return set(connection.execute(text("SELECT provider_key FROM delivery_status")).scalars())


def test_a_flood_of_strangers_costs_no_real_push(tmp_path: Path, database: str, migrated_database: Engine) -> None:
    """4,500 pushes with wrong credentials or to no account, on 1, 50, 200 connections: refused, and others stored."""
    wrong = b64encode(b"ulak:wrong").decode()
    names: list[str] = []
    refused: Counter[int] = Counter()
    with api_process(tmp_path, database, env=ENV) as api:
        assert push(api, "before") == 200

        def knock(n: int) -> int:
            account = "nobody" if n % 2 else "bip-1"
            return ask(api, "POST", f"/callbacks/bip/{account}", "{}", Authorization=f"Basic {wrong}")

        for many, requests in FLOOD.items():
            with ThreadPoolExecutor(many) as strangers:
                answers = strangers.map(knock, range(requests))
                beside = [f"beside-{many}-{n}" for n in range(10)]
                assert [push(api, name) for name in beside] == [200] * len(beside)
                names += beside
                refused.update(answers)
    assert (set(refused) <= {401, 404, 429}, sum(refused.values())) == (True, sum(FLOOD.values())), refused
    assert stored(migrated_database) == {"before", *names}


def test_sessions_that_are_killed_lose_no_acknowledged_push(
    tmp_path: Path, database: str, migrated_database: Engine
) -> None:
    """400 times a session of the API ends amid 200 pushes and more: 200 means stored, anything else is 503."""
    done, answers = threading.Event(), dict[str, int]()
    with api_process(tmp_path, database, env=ENV) as api:
        assert push(api, "before") == 200

        def keep_pushing(sender: int) -> None:
            n = 0
            while not done.is_set():
                name, n = f"killed-{sender}-{n}", n + 1
                answers[name] = push(api, name)

        with ThreadPoolExecutor(4) as senders:
            running = [senders.submit(keep_pushing, sender) for sender in range(4)]
            try:
                killed = kill_until(migrated_database, lambda: len(answers) >= PUSHES)
            finally:
                done.set()
            for each in running:
                each.result()
    taken = {name for name, status in answers.items() if status == 200}
    assert (killed >= KILLS, len(answers) >= PUSHES, bool(taken)) == (True, True, True)
    assert set(answers.values()) <= {200, 503}
    # One that was refused after all may be stored: its commit had no answer.
    assert {"before", *taken} - stored(migrated_database) == set()


def kill_until(engine: Engine, is_enough: Callable[[], bool]) -> int:
    """End sessions of the API, one after the other, until there were enough kills and the condition holds."""
    one = text(
        "SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'ulak-api%' ORDER BY random() LIMIT 1) AS ended"
    )
    killed, end = 0, time.monotonic() + 400
    while killed < KILLS or not is_enough():
        assert time.monotonic() < end, (killed, "kills")
        with engine.connect() as connection:
            killed += connection.execute(one).scalar_one()
        time.sleep(random.uniform(0, 0.1))
    return killed


def test_a_server_without_a_free_connection_is_said_to_be_away(tmp_path: Path, database: str) -> None:
    """503 at every address that needs it, the process itself is well, and all works again once there is room."""
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    with api_process(tmp_path, database, env=ENV) as api:
        assert push(api, "before") == 200
        with all_connections_taken(database):
            assert push(api, "during") == 503
            for method, path in (
                ("GET", "/v1/accounts"),
                ("GET", "/v1/deliveries"),
                ("GET", "/v1/polls"),
                ("POST", "/v1/accounts/bip-1/pause"),
                ("GET", "/readyz?only=callbacks"),
            ):
                body = "{}" if method == "POST" else ""
                assert ask(api, method, path, body, **bearer) == 503, path
            # The form to log in is there as well.
            assert (ask(api, "GET", "/healthz"), ask(api, "GET", "/")) == (200, 200)
        end = time.monotonic() + 60
        while push(api, "after") != 200:
            assert time.monotonic() < end, "pushes are still refused"
            time.sleep(0.2)


@contextmanager
def all_connections_taken(url: str) -> Iterator[None]:
    """Take every connection that the server has, those of the API, too."""
    held: list[psycopg.Connection] = []
    end_others = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'ulak%'"
    )
    take = partial(psycopg.connect, url, connect_timeout=20)
    try:
        held.append(take(autocommit=True))
        refused = 0
        while refused < 3:
            try:
                held.append(take())
            except psycopg.OperationalError:
                refused += 1
                held[0].execute(end_others)
                time.sleep(0.1)
        yield
    finally:
        for each in held:
            with suppress(psycopg.Error):
                each.close()
