"""A broker at its `maxmemory` that evicts nothing: messages are refused, work is not, and later everything resumes."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from database_fixtures import add_account
from log_lines import lines
from redis import Redis
from sqlalchemy import Engine, text
from task_api import TOKEN, running, runtime_on

from ulak.api.app import make_api
from ulak.api.dependencies import publisher
from ulak.core import clock, task_names
from ulak.core.redis import connect
from ulak.core.settings import load_settings
from ulak.local.embedded.valkey import ValkeyServer
from ulak.models.database import transaction
from ulak.workers.app import KEY_PREFIX

__all__ = ["lines"]


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    """A Valkey of this test alone, which the settings name."""
    server = ValkeyServer(tmp_path / "servers", durable=False)
    monkeypatch.setenv("ULAK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ULAK_REDIS_URL", server.start())
    with connect(server.url) as client:
        yield client
    server.stop()


def waiting(broker: Redis) -> int:
    """Messages in all queues."""
    found: list[Any] = [broker.llen(KEY_PREFIX + queue) for queue in task_names.QUEUES]
    return sum(found)


def test_what_is_asked_for_is_kept_though_the_broker_takes_no_message(
    broker: Redis, migrated_database: Engine, lines: io.StringIO
) -> None:
    """The poll is committed and answered with 202; a line reports the lost message; later ones are sent again."""
    with transaction(migrated_database) as connection:
        add_account(connection, "kampanya")
    runtime = runtime_on(migrated_database)
    app = make_api(runtime, token=TOKEN, publish=publisher(load_settings()))
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    with running(app) as url, httpx.Client(base_url=url, headers=bearer, timeout=60) as client:

        def ask() -> int:
            return client.post("/v1/polls", json={"account": "kampanya"}).status_code

        assert ask() == 202
        until(lambda: waiting(broker) == 1)
        broker.config_set("maxmemory", "1")
        assert [ask() for _ in range(3)] == [202] * 3
        until(lambda: lines.getvalue().count("message.not_published") == 3)
        broker.config_set("maxmemory", "0")
        assert ask() == 202
        until(lambda: waiting(broker) == 2)
    runtime.door.close()
    with migrated_database.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM polls")).scalar_one() == 5
    assert "Traceback" not in lines.getvalue()


def until(condition: Any) -> None:
    """Wait for it: messages leave after the answer."""
    end = clock.boot() + 60
    while not condition():
        assert clock.boot() < end
        clock.sleep(0.02)
