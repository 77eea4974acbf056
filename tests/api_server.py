"""The HTTP process within a test, asked without a client library: a real uvicorn on loopback."""

import json
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI
from task_api import running


@dataclass(frozen=True, slots=True)
class Said:
    """An answer."""

    status: int
    headers: dict[str, str]
    """Lower-case names."""
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Server:
    """A running application."""

    client: httpx.Client

    def ask(self, method: str, path: str, body: Any = None, *, auth: str | None = None) -> Said:
        """One request; `body` as it is where it is bytes, else as JSON; `auth` is `user:password`."""
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {} if auth is None else {"Authorization": f"Basic {b64encode(auth.encode()).decode()}"}
        answer = self.client.request(method, path, content=content, headers=headers)
        return Said(answer.status_code, {name.lower(): value for name, value in answer.headers.items()}, answer.content)


@contextmanager
def serving(app: FastAPI) -> Iterator[Server]:
    """The application behind a real server while the block runs."""
    with running(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield Server(client)
