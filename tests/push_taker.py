"""A tiny receiver of pushes on loopback."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Taker(ThreadingHTTPServer):
    """Keeps what it took as (path, body); answers 503 to the first `refusing` requests."""

    daemon_threads = True

    def __init__(self, path: str, refusing: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.taken: list[tuple[str, dict[str, Any]]] = []
        self.logins: set[str | None] = set()
        self.refusing = refusing
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    """Takes a POST."""

    server: Taker

    def do_POST(self) -> None:
        """Keeps the body, or is not ready yet."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.logins.add(self.headers["Authorization"])
            ready = self.server.refusing <= 0
            self.server.refusing -= 1
            if ready:
                self.server.taken.append((self.path, body))
        self.send_response(200 if ready else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Says nothing."""


@contextmanager
def taking(path: str, refusing: int = 0) -> Iterator[Taker]:
    """A running receiver."""
    server = Taker(path, refusing)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
