"""How the HTTP process listens: connections that keep it waiting end, and never keep out one that asks."""

import asyncio
import errno
import io
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from api_process import push_head
from fastapi import FastAPI, Request
from log_lines import lines
from starlette.responses import Response

from ulak.api import http_server
from ulak.api.http_server import BoundedServer, RateLimitedFilter, server_config
from ulak.core import clock

__all__ = ["lines"]

ASK = b"GET /ask HTTP/1.1\r\nHost: u\r\n\r\n"


@pytest.fixture
def app() -> FastAPI:
    """Answers at once, whatever of a body is still to come; or with very much."""
    app = FastAPI()

    @app.get("/ask")
    @app.post("/ask")
    async def ask(request: Request) -> Response:
        return Response(b"x" * int(request.query_params.get("bytes", 1)))

    return app


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """All deadlines are short."""
    for name in ("HEAD_SECONDS", "REST_SECONDS", "FLUSH_SECONDS"):
        monkeypatch.setattr(http_server, name, 0.5)


@contextmanager
def serving(app: FastAPI, limit: int | None = None) -> Iterator[Callable[..., socket.socket]]:
    """Makes connections to the application; all are closed at the end."""
    config = server_config(app, host="127.0.0.1", port=0)
    config.limit_concurrency = limit or config.limit_concurrency
    server = BoundedServer(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    with ExitStack() as stack:
        stack.callback(thread.join)
        stack.callback(setattr, server, "should_exit", True)
        until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]

        def connect(sends: bytes = b"") -> socket.socket:
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            client.sendall(sends)
            return client

        yield connect


def until(holds: Callable[[], object]) -> None:
    """Wait for it."""
    end = clock.boot() + 60
    while not holds():
        assert clock.boot() < end
        clock.sleep(0.02)


def is_ended(client: socket.socket) -> bool:
    """Whether the server has ended the connection; what it sent before is taken."""
    client.settimeout(0.02)
    try:
        while client.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def drip(client: socket.socket) -> bool:
    """One byte more; whether the server has ended the connection."""
    try:
        client.send(b"a")
    except OSError:
        return True
    return is_ended(client)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "sends",
    [b"", b"GET / HTTP/1.1\r\nX: ", ASK, ASK + b"GET / HT", push_head("/ask", 9_999_999)],
    ids=["silent", "in a head", "after an answer", "in a second head", "in a body that nobody reads"],
)
@pytest.mark.parametrize("drips", [False, True])
def test_a_client_that_keeps_it_waiting_is_left(app: FastAPI, sends: bytes, *, drips: bool) -> None:
    """Whether it says nothing or a byte now and then."""
    with serving(app) as connect:
        client = connect(sends)
        until(lambda: (drip if drips else is_ended)(client))
        other = connect(ASK)
        assert other.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.usefixtures("quick")
def test_a_client_that_takes_no_answer_is_left(app: FastAPI) -> None:
    """What is to be sent to it is held by nobody forever."""
    with serving(app) as connect:
        client = connect(b"GET /ask?bytes=50000000 HTTP/1.1\r\nHost: u\r\n\r\n")
        clock.sleep(3)
        taken = 0
        try:
            while data := client.recv(1_000_000):
                taken += len(data)
        except OSError:
            pass
        assert taken < 50_000_000


def test_silent_clients_keep_nobody_out(app: FastAPI) -> None:
    """Where there are too many, the one that has waited longest goes: no deadline is over yet."""
    with serving(app, limit=20) as connect:
        silent = [connect(b"GET / HT" if n % 2 else b"") for n in range(60)]
        for _ in range(30):
            assert connect(ASK).recv(100).startswith(b"HTTP/1.1 200")
        until(lambda: sum(map(is_ended, silent)) >= 40)
        assert not is_ended(connect())


def test_the_limit_of_connections_lies_below_that_of_descriptors(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for those that are accepted at once, the database and files."""
    for descriptors in (200, 1024, 65_536):
        monkeypatch.setattr(http_server, "raise_descriptor_limit", lambda descriptors=descriptors: descriptors)
        config = server_config(app, host="127.0.0.1", port=0)
        assert config.limit_concurrency is not None
        assert config.limit_concurrency + config.backlog + http_server.SPARE_DESCRIPTORS <= descriptors


def test_no_stranger_fills_the_log(lines: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """Used-up descriptors and broken requests are told once a minute, the latter with how many they were."""
    now = [1000.0]
    monkeypatch.setattr(clock, "boot", lambda: now[0])
    quiet, logger = http_server._Quiet(), logging.getLogger("test.listening")
    logger.addFilter(RateLimitedFilter())
    loop = asyncio.new_event_loop()
    for _ in range(2):
        for _ in range(500):
            quiet(loop, {"message": "socket.accept()", "exception": OSError(errno.EMFILE, "x")})
            logger.warning("Invalid HTTP request received.")
            now[0] += 0.1
        now[0] += 60
    logger.error("something else")
    logger.error("something else")
    loop.close()
    said = lines.getvalue()
    assert (said.count("api.out_of_descriptors"), said.count("Invalid HTTP request"), said.count("else")) == (2, 2, 2)
    assert "499 more since it was last logged" in said
