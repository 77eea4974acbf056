"""A provider of a few lines over real HTTP, for trouble that the sandbox does not make: each answer is a function's."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import msgspec


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came: `who` is the first part of the path, by which accounts are told apart."""

    at: float
    """When it arrived, by the monotonic clock."""
    who: str
    path: str
    body: Any
    """The JSON value; None without a body."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered, after so many seconds (less where the server ends meanwhile)."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    after_seconds: float = 0.0


class TinyProvider:
    """`with TinyProvider(answer) as tiny:`; an account's address is `tiny.address("name")`."""

    def __init__(self, answer: Callable[[Request], Reply]) -> None:
        """`answer` is called by many threads at once."""
        self.log: list[Request] = []
        self.ended = threading.Event()
        self._answer = answer
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()

    def address(self, who: str) -> str:
        """The base address of an account."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/{who}"

    def requests(self, who: str) -> list[Request]:
        """What this account has asked, in order."""
        return [request for request in list(self.log) if request.who == who]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        tiny = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                at = time.monotonic()
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                path = self.path.partition("?")[0]
                asked = Request(at, path.split("/")[1], path, msgspec.json.decode(body) if body else None)
                tiny.log.append(asked)
                reply = tiny._answer(asked)
                tiny.ended.wait(reply.after_seconds)
                head = {"content-type": "application/json", "content-length": str(len(reply.body)), **reply.headers}
                self.send_response(reply.status)
                for name, value in head.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.body)

            do_GET = do_POST  # noqa: N815 - the library's name

            def log_message(self, *_: Any) -> None:
                """Nothing: `TinyProvider.log` is the log."""

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        """A caller that went away is what some tests are about."""


def vairo_reply(request: Request, word: str, **given: Any) -> Reply:
    """Vairo's report about the number that was asked for; its id is made of the send's."""
    send, number = request.path.rsplit("/", 1)[1], request.body["numara"]
    said = {"id": f"m-{send}", "sms_gonderim_id": send, "numara": number, "durum_gonderim": word}
    return Reply(msgspec.json.encode({"durum": True, "aciklama": said}), **given)
