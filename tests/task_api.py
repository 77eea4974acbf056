"""The HTTP process within a test: a real uvicorn on loopback over the test's own database."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from ulak.api.app import make_api
from ulak.api.http_server import BoundedServer, server_config
from ulak.core import clock
from ulak.models.quarantine import new_key
from ulak.providers.http import HttpDoor
from ulak.tasks.messages import Message
from ulak.tasks.runtime import Runtime

TOKEN = "canary-token-of-the-api"


@dataclass
class Api:
    """A running API and what it sent to the broker."""

    app: FastAPI
    engine: Engine
    client: httpx.Client
    """Bears the configured token."""
    sent: list[Message] = field(default_factory=list)

    def get(self, path: str, **query: Any) -> Any:
        """The JSON of a GET that must succeed."""
        answer = self.client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def heard(self) -> list[Message]:
        """What was sent; waits for the first message, which goes out after the answer."""
        deadline = clock.boot() + 40
        while not self.sent and clock.boot() < deadline:
            clock.sleep(0.01)
        return self.sent


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """The address of the application while the block runs."""
    server = BoundedServer(server_config(app, host="127.0.0.1", port=0))
    thread = threading.Thread(target=server.run, name="api")
    thread.start()
    try:
        deadline = clock.boot() + 40
        while not server.started:
            assert clock.boot() < deadline, "the API did not start"
            clock.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def runtime_on(engine: Engine) -> Runtime:
    """A runtime on the test's database."""
    door = HttpDoor(max_connections=1, boot=clock.boot)
    return Runtime(engine=engine, door=door, seal_key=new_key())


@pytest.fixture
def api(migrated_database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """A running API over an empty database, and a client that bears its token."""
    monkeypatch.setenv("ULAK_HOME", str(tmp_path / "home"))
    sent: list[Message] = []
    runtime = runtime_on(migrated_database)
    app = make_api(runtime, token=TOKEN, publish=sent.append)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with running(app) as url, httpx.Client(base_url=url, headers=headers, timeout=120) as client:
        yield Api(app=app, engine=migrated_database, client=client, sent=sent)
    runtime.door.close()
