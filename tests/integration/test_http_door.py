"""The HTTP door over real loopback sockets, against servers that behave as badly as servers do."""

import contextlib
import gzip
import itertools
import logging
import random
import socket
import ssl
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ulak.core.content_coding import BrokenCodingError, unpack
from ulak.models.permit import Permit
from ulak.providers.adapter import Answer, Request
from ulak.providers.errors import AnswerNotUnderstood, OurBug, ProviderError, TryAgainSoon
from ulak.providers.http import HttpDoor, PermitExpiredError, PermitSpentError, Sent

Script = Callable[[socket.socket], None]
CALLS = itertools.count(1)
CAP = 200_000
PATIENCE = 4.0
"""A deadline is kept to some hundredths of a second; a busy machine may look at its clock later. The servers go on for
ten seconds or forever."""
SECRET = "s3cr3t-key"


class Server:
    """A server on loopback that runs `script` for each connection and remembers what it was sent."""

    def __init__(self, script: Script, context: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.requests: list[bytes] = []
        self.connections = 0
        self._context = context
        self._stopping = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        """An address with a secret in its path and query, as two of the providers have it."""
        return f"{self.root}/v2/{SECRET}/report?api_key={SECRET}"

    @property
    def root(self) -> str:
        scheme = "https" if self._context else "http"
        return f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"

    def wait(self, seconds: float) -> bool:
        """Sleep, shorter when the test is over; whether the test is over."""
        return self._stopping.wait(seconds)

    def wait_for_goodbye(self) -> None:
        """Return when the first connection has been closed from here."""
        self._threads[1].join(10)

    def read(self, client: socket.socket) -> bool:
        """Read one request; False when the client hung up."""
        data = b""
        while b"\r\n\r\n" not in data:
            if not (piece := client.recv(65536)):
                return False
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0
        )
        while len(body) < length:
            body += client.recv(65536)
        self.requests.append(head + b"\r\n\r\n" + body)
        return True

    def _accept(self) -> None:
        self._listener.settimeout(0.05)
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = self._listener.accept()
                self.connections += 1
                thread = threading.Thread(target=self._serve, args=(client,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(5)
        with client, contextlib.suppress(OSError):
            if self._context is None:
                self.script(client)
                return
            with self._context.wrap_socket(client, server_side=True) as secured:
                self.script(secured)

    def close(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts servers; all are stopped when the test is over."""
    servers: list[Server] = []

    def start(script: Script, context: ssl.SSLContext | None = None) -> Server:
        servers.append(Server(script, context))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def door() -> Iterator[HttpDoor]:
    """A door of its own."""
    opened = HttpDoor(max_connections=32, boot=time.monotonic)
    yield opened
    opened.close()


def _permit(deadline: float = 5.0, age: float = 0.0, call_id: int | None = None) -> Permit:
    return Permit(
        call_id=call_id or next(CALLS),
        account_id="marka-sms",
        asked_at=datetime.now(UTC) - timedelta(seconds=age),
        committed_boot=time.monotonic() - age,
        deadline_seconds=deadline,
    )


def _post(url: str, body: bytes = b"{}") -> Request:
    """A request with a small cap, so that the tests need not send megabytes."""
    head = {"Content-Type": "application/json"}
    return Request(method="POST", url=url, headers=head, body=body, endpoint="report", largest_bytes=CAP)


def _reply(server: Server, head: str, body: bytes = b"") -> Script:
    def script(client: socket.socket) -> None:
        while server.read(client):
            client.sendall(f"HTTP/1.1 {head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)

    return script


def _answering(serve: Callable[..., Server], head: str, body: bytes = b"") -> Server:
    server = serve(lambda _: None)
    server.script = _reply(server, head, body)
    return server


def _error(sent: Sent) -> tuple[type[ProviderError], str]:
    assert isinstance(sent.outcome, ProviderError)
    assert sent.outcome.__cause__ is None
    assert sent.outcome.__suppress_context__ or sent.outcome.__context__ is None
    return type(sent.outcome), sent.outcome.message


def test_an_answer_comes_back_whole(serve: Callable[..., Server], door: HttpDoor) -> None:
    """Status, lower-case headers and body; and the server saw exactly the request that was made."""
    server = _answering(serve, "200 OK\r\nX-Total: 3", b'{"a": 1}')
    before = datetime.now(UTC)
    permit = _permit()
    sent = door.send(_post(server.url, b'{"q": 1}'), permit)
    assert isinstance(sent.outcome, Answer)
    assert sent.outcome.asked_at == permit.asked_at
    assert (sent.outcome.status, sent.outcome.headers, sent.outcome.body) == (
        200,
        {"x-total": "3", "content-length": "8"},
        b'{"a": 1}',
    )
    assert sent.outcome.received_at is not None
    assert before <= sent.outcome.received_at <= datetime.now(UTC)
    assert 0 < sent.duration_seconds < 5
    assert 0 <= time.monotonic() - sent.answered_boot < 5
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == f"POST /v2/{SECRET}/report?api_key={SECRET} HTTP/1.1"
    names = {line.split(":")[0].lower() for line in lines[1:]}
    assert names == {"host", "content-type", "accept-encoding", "user-agent", "content-length"}
    assert "accept-encoding: gzip" in [line.lower() for line in lines]
    assert body == b'{"q": 1}'


def test_a_packed_answer_is_unpacked(serve: Callable[..., Server], door: HttpDoor) -> None:
    """gzip, the one coding that is asked for."""
    server = _answering(serve, "200 OK\r\nContent-Encoding: gzip", _pack(b"x" * 1000))
    sent = door.send(_post(server.url), _permit())
    assert isinstance(sent.outcome, Answer)
    assert sent.outcome.body == b"x" * 1000


@pytest.mark.parametrize("status", ["301 Moved", "401 No", "429 Slow", "458 Range", "500 Oops", "503 Busy"])
def test_every_status_is_an_answer_and_no_redirect_is_followed(
    serve: Callable[..., Server], door: HttpDoor, status: str
) -> None:
    """What a status means is the adapter's business; one permit makes one request, wherever a header points."""
    server = _answering(serve, f"{status}\r\nLocation: http://[broken", b"?")
    sent = door.send(_post(server.url), _permit())
    assert isinstance(sent.outcome, Answer)
    assert (sent.outcome.status, len(server.requests)) == (int(status[:3]), 1)


def _hang(server: Server, client: socket.socket) -> None:
    server.read(client)
    server.wait(10)


def _drip_headers(server: Server, client: socket.socket) -> None:
    server.read(client)
    client.sendall(b"HTTP/1.1 200 OK\r\n")
    while not server.wait(0.05):
        client.sendall(b"x-drip: 1\r\n")


def _drip_status_line(server: Server, client: socket.socket) -> None:
    server.read(client)
    client.sendall(b"HTTP/1.1 200 O")
    while not server.wait(0.05):
        client.sendall(b"K")


def _drip_informational(server: Server, client: socket.socket) -> None:
    server.read(client)
    while not server.wait(0.05):
        client.sendall(b"HTTP/1.1 102 Processing\r\n\r\n")


def _drip_body(server: Server, client: socket.socket) -> None:
    server.read(client)
    client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    while not server.wait(0.05):
        client.sendall(b"x")


def _drip_chunks(server: Server, client: socket.socket) -> None:
    server.read(client)
    client.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while not server.wait(0.05):
        client.sendall(b"1\r\nx\r\n")


def _never_read(server: Server, client: socket.socket) -> None:
    del client
    server.wait(10)


@pytest.mark.parametrize(
    ("misbehave", "sentence"),
    [
        (_hang, "The provider did not answer in time."),
        (_drip_headers, "The provider did not answer in time."),
        (_drip_status_line, "The provider did not answer in time."),
        (_drip_informational, "The provider did not answer in time."),
        (_drip_body, "The provider did not answer in time."),
        (_drip_chunks, "The provider did not answer in time."),
        (_never_read, "The provider's server did not take the request in time."),
    ],
)
def test_a_slow_server_ends_at_the_total_deadline(
    serve: Callable[..., Server],
    door: HttpDoor,
    misbehave: Callable[[Server, socket.socket], None],
    sentence: str,
) -> None:
    """Whatever trickles, in whatever part, the request has ended when its deadline comes, and not before."""
    server = serve(lambda _: None)
    server.script = lambda client: misbehave(server, client)
    request = _post(server.url, b"x" * 30_000_000 if misbehave is _never_read else b"{}")
    # Long enough for a busy machine to come as far as the server's misbehaviour.
    permit = _permit(deadline=1.5)
    sent = door.send(request, permit)
    ended = time.monotonic() - permit.committed_boot
    assert _error(sent) == (TryAgainSoon, sentence)
    assert 1.45 < sent.answered_boot - permit.committed_boot <= ended < 1.5 + PATIENCE


def test_a_server_that_never_speaks_tls_ends_at_the_deadline(serve: Callable[..., Server], door: HttpDoor) -> None:
    """The handshake is bound too, also when it trickles."""
    server = serve(lambda _: None)

    def trickle(client: socket.socket) -> None:
        client.sendall(b"\x16\x03\x03\x40\x00")
        while not server.wait(0.05):
            client.sendall(b"\x00")

    server.script = trickle
    permit = _permit(deadline=0.5)
    sent = door.send(_post(server.url.replace("http:", "https:")), permit)
    assert _error(sent)[0] is TryAgainSoon
    assert time.monotonic() - permit.committed_boot < PATIENCE


def test_a_request_that_slept_through_its_deadline_sends_nothing(serve: Callable[..., Server]) -> None:
    """A frozen process that wakes up late finds the boot clock far ahead, and no byte leaves."""
    server = _answering(serve, "200 OK")
    start = time.monotonic()
    ticks = itertools.chain([start + 0.1], itertools.repeat(start + 60))
    door = HttpDoor(max_connections=1, boot=lambda: next(ticks))
    sent = door.send(
        _post(server.url),
        Permit(call_id=1, account_id="a", asked_at=datetime.now(UTC), committed_boot=start, deadline_seconds=30),
    )
    door.close()
    assert _error(sent) == (TryAgainSoon, "The provider's server could not be reached in time.")
    assert (server.connections, len(server.requests), round(sent.duration_seconds, 3)) == (0, 0, 59.9)


def _pack(plain: bytes) -> bytes:
    """Pack without the time, so that the bytes, and with them a test's name, are the same in every process."""
    return gzip.compress(plain, mtime=0)


@pytest.mark.parametrize(
    ("head", "body", "sentence"),
    [
        ("200 OK", b"x" * (CAP + 1), f"The answer is larger than {CAP} bytes."),
        ("200 OK\r\nContent-Encoding: gzip", _pack(b"\0" * 90_000_000), f"The answer is larger than {CAP} bytes."),
        ("200 OK\r\nContent-Encoding: gzip", b"no gzip", "The answer says that it is packed, but it is not."),
        ("200 OK\r\nContent-Encoding: gzip", _pack(b"x" * 99)[:-9], "The packed answer broke off."),
        (
            "200 OK\r\nContent-Encoding: br",
            b"\x0b\x02\x80{}\x03",
            "The answer is packed as br; only gzip and deflate are supported.",
        ),
        (
            f"200 OK\r\nContent-Encoding: {SECRET}",
            b"?",
            "The answer is packed in an unknown way; only gzip and deflate are supported.",
        ),
        (
            "200 OK\r\nContent-Encoding: gzip",
            _pack(b"{}") + b"<more/>",
            "The packed answer is followed by bytes that do not belong to it.",
        ),
        (
            "200 OK\r\nContent-Encoding: gzip",
            _pack(b"{}") + _pack(b"{}")[:-3],
            "The packed answer broke off.",
        ),
    ],
    ids=["flood", "bomb", "not packed", "cut off", "unasked", "unknown", "followed", "second member cut off"],
)
def test_an_answer_that_cannot_be_held_or_unpacked_is_not_understood(
    serve: Callable[..., Server], door: HttpDoor, head: str, body: bytes, sentence: str
) -> None:
    """Neither a flood nor a zip bomb fills the memory; nor is a broken body taken for an answer."""
    server = _answering(serve, head, body)
    sent = door.send(_post(server.url), _permit())
    assert _error(sent) == (AnswerNotUnderstood, sentence)
    assert isinstance(sent.outcome, AnswerNotUnderstood)
    assert sent.outcome.raw == body[:CAP]
    assert sent.answer is not None
    assert (sent.answer.status, sent.answer.body) == (200, body[:CAP])


@pytest.mark.parametrize(
    ("declared", "body"),
    [
        ("gzip", _pack(b"<item/>") + _pack(b"<item/>")),
        ("gzip", _pack(b"<item/><item") + _pack(b"") + _pack(b"/>")),
        ("GZip", _pack(b"<item/><item/>")),
        ("x-gzip", _pack(b"<item/><item/>")),
        ("identity", b"<item/><item/>"),
        ("deflate", zlib.compress(b"<item/><item/>")),
        ("deflate", zlib.compress(b"<item/><item/>")[2:-4]),
        ("gzip, gzip", _pack(_pack(b"<item/>") + _pack(b"<item/>"))),
        ("deflate\r\nContent-Encoding: gzip", _pack(zlib.compress(b"<item/><item/>"))),
    ],
)
def test_every_coding_that_may_be_declared_is_undone_whole(
    serve: Callable[..., Server], door: HttpDoor, declared: str, body: bytes
) -> None:
    """All members, all codings, in any spelling; what the adapter gets is declared as packed no more."""
    server = _answering(serve, f"200 OK\r\nContent-Type: text/xml\r\nContent-Encoding: {declared}", body)
    sent = door.send(_post(server.url), _permit())
    assert isinstance(sent.outcome, Answer)
    assert sent.outcome.body == b"<item/><item/>"
    assert sent.outcome.headers == {"content-type": "text/xml", "content-length": str(len(body))}


@pytest.mark.parametrize("declared", ["gzip", "deflate", "br", "gzip, gzip"])
def test_an_empty_body_is_empty_under_every_coding(serve: Callable[..., Server], door: HttpDoor, declared: str) -> None:
    """Servers declare a coding with every answer, also with those that have nothing in them."""
    server = _answering(serve, f"200 OK\r\nContent-Encoding: {declared}")
    sent = door.send(_post(server.url), _permit())
    assert isinstance(sent.outcome, Answer)
    assert sent.outcome.body == b""


@pytest.mark.parametrize("status", ["401 No", "429 Slow", "500 Oops", "503 Busy"])
def test_an_error_counts_by_its_status_even_where_its_body_cannot_be_unpacked(
    serve: Callable[..., Server], door: HttpDoor, status: str
) -> None:
    """A proxy's error page that is packed as it likes must not hide that the account is to slow down."""
    server = _answering(serve, f"{status}\r\nContent-Encoding: br", b"\x0b\x02")
    sent = door.send(_post(server.url), _permit())
    assert isinstance(sent.outcome, Answer)
    assert (sent.outcome.status, sent.outcome.body) == (int(status[:3]), b"\x0b\x02")


def test_bytes_beyond_the_declared_length_never_become_the_next_answer(
    serve: Callable[..., Server], door: HttpDoor
) -> None:
    """A length that counts letters where bytes are meant; a line's end too many is forgiven, the connection is not."""
    server = serve(lambda _: None)

    def script(client: socket.socket) -> None:
        surplus = {1: b"\r\n", 2: b"<item/>"}
        while server.read(client):
            said = b'{"n":%d}' % len(server.requests)
            more = surplus.get(len(server.requests), b"")
            client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(said) + said + more)

    server.script = script
    first, second, third = (door.send(_post(server.url), _permit()) for _ in range(3))
    assert isinstance(first.outcome, Answer)
    assert first.outcome.body == b'{"n":1}'
    assert _error(second) == (AnswerNotUnderstood, "The answer is longer than its Content-Length says.")
    assert isinstance(second.outcome, AnswerNotUnderstood)
    assert second.outcome.raw == b'{"n":2}<item/>'
    assert isinstance(third.outcome, Answer)
    assert (third.outcome.body, server.connections) == (b'{"n":3}', 3)


def test_a_body_of_very_many_members_costs_no_minutes() -> None:
    """Copying what is left for each member would take gigabytes of copies."""
    member = _pack(b"")
    assert unpack(member * 100_000, "gzip", CAP) == b""
    with pytest.raises(BrokenCodingError):
        unpack(member * 100_001, "gzip", CAP)


def test_a_zip_bomb_is_never_held(serve: Callable[..., Server], door: HttpDoor) -> None:
    """Ninety megabytes in one small piece, after an innocent beginning: the memory that is used stays near the cap."""
    harmless = random.Random(7).randbytes(CAP // 2)
    server = _answering(serve, "200 OK\r\nContent-Encoding: gzip", _pack(harmless + b"\0" * 90_000_000))
    tracemalloc.start()
    try:
        sent = door.send(_post(server.url), _permit())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert _error(sent)[0] is AnswerNotUnderstood
    assert peak < 5_000_000


def test_an_answer_is_bounded_by_what_it_expands_to(serve: Callable[..., Server], door: HttpDoor) -> None:
    """Its values are counted before one is built; what is kept of it is what came, not what it becomes."""
    body = _pack(b"[" + b"[]," * 60_000 + b"[]]")
    server = _answering(serve, "200 OK\r\nContent-Encoding: gzip", body)
    sent = door.send(replace(_post(server.url), most_values=100_000), _permit())
    assert _error(sent) == (AnswerNotUnderstood, "The body holds more than 100000 values.")
    assert sent.answer is not None
    assert (sent.answer.body, sent.answer.headers["content-encoding"]) == (body, "gzip")
    assert isinstance(door.send(replace(_post(server.url), most_values=200_000), _permit()).outcome, Answer)


@pytest.mark.parametrize("is_packed", [False, True])
def test_large_answers_of_all_threads_share_one_budget(serve: Callable[..., Server], *, is_packed: bool) -> None:
    """Who finds no room until its deadline is asked again, without its account being to blame; small ones pass."""
    door = HttpDoor(max_connections=8, boot=time.monotonic, large_answers_bytes=1_000_000)
    body = b" " * 600_000
    head = "200 OK\r\nContent-Encoding: gzip" if is_packed else "200 OK"
    large = _answering(serve, head, _pack(body) if is_packed else body)
    small = _answering(serve, "200 OK", b"{}")

    def ask(server: Server, deadline: float = 30) -> Sent:
        return door.send(replace(_post(server.url), largest_bytes=700_000), _permit(deadline))

    first = ask(large)
    assert isinstance(first.outcome, Answer)
    refused = ask(large, deadline=0.5)
    assert isinstance(refused.outcome, TryAgainSoon)
    assert (refused.outcome.is_outage, isinstance(ask(small).outcome, Answer)) == (False, True)
    waiting: list[Sent] = []
    thread = threading.Thread(target=lambda: waiting.append(ask(large)))
    thread.start()
    del first
    thread.join(60)
    assert isinstance(waiting[0].outcome, Answer)
    door.close()


def test_what_an_answer_becomes_counts_for_the_budget_too(serve: Callable[..., Server]) -> None:
    """Few bytes that hold many values keep the room that was taken for them; as many as one text give it back."""
    for body, is_held in ((b"[" + b"[]," * 90_000 + b"[]]", True), (b'"' + b"x" * 270_000 + b'"', False)):
        door = HttpDoor(max_connections=8, boot=time.monotonic, large_answers_bytes=1_000_000)
        request = replace(_post(_answering(serve, "200 OK", body).url), largest_bytes=700_000, most_values=200_000)
        first = door.send(request, _permit(30))
        second = door.send(request, _permit(1.0 if is_held else 30))
        assert (isinstance(first.outcome, Answer), isinstance(second.outcome, Answer)) == (True, not is_held)
        door.close()


def test_an_answer_of_exactly_the_cap_passes(serve: Callable[..., Server], door: HttpDoor) -> None:
    """The cap is the largest size that is taken, packed or not."""
    plain = _answering(serve, "200 OK", b"x" * CAP)
    packed = _answering(serve, "200 OK\r\nContent-Encoding: gzip", _pack(b"x" * CAP))
    for server in (plain, packed):
        sent = door.send(_post(server.url), _permit())
        assert isinstance(sent.outcome, Answer)
        assert len(sent.outcome.body) == CAP


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf",
        b"SSH-2.0-dropbear\r\n",
        b"<html>HTTP/0.9</html>",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\n" + b"x-name: value\r\n" * 100_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nx-name: " + b"v" * 5_000_000 + b"\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000,
    ],
    ids=[
        "hang-up",
        "cut",
        "SSH",
        "HTTP/0.9",
        "negative length",
        "two lengths",
        "100,000 fields",
        "5 MB field",
        "interim",
    ],
)
def test_a_broken_connection_is_tried_again_later_and_never_by_the_door(
    serve: Callable[..., Server], door: HttpDoor, head: bytes
) -> None:
    """A hang-up, a truncated body, a malformed head and another protocol: one request was made, the policy retries."""
    server = serve(lambda _: None)

    def script(client: socket.socket) -> None:
        server.read(client)
        client.sendall(head)

    server.script = script
    assert _error(door.send(_post(server.url), _permit())) == (TryAgainSoon, "The answer broke off or is not HTTP.")
    assert (server.connections, len(server.requests)) == (1, 1)


def test_an_unreachable_server_is_named_without_its_url(door: HttpDoor) -> None:
    """A closed port and an unknown name say so, and no word of the address."""
    with socket.socket() as silent:
        # It never listens, but nobody else can listen there meanwhile.
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        outcomes = [
            _error(door.send(_post(url), _permit()))
            for url in (f"http://127.0.0.1:{port}/{SECRET}", f"http://no-such-host.invalid/{SECRET}")
        ]
    assert outcomes == [
        (TryAgainSoon, "The provider's server refused the connection."),
        (TryAgainSoon, "The name of the provider's server could not be resolved."),
    ]


@pytest.fixture
def black_hole() -> Iterator[tuple[str, int]]:
    """An address that swallows every attempt to connect: its queue is full, and nobody takes from it."""
    with socket.socket() as listener, contextlib.ExitStack() as callers:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            caller = callers.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
        yield listener.getsockname()


def _resolving(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    """Let every name have these addresses."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


@pytest.mark.parametrize("holes", [1, 3])
def test_an_address_that_swallows_everything_leaves_the_others_their_time(
    serve: Callable[..., Server],
    door: HttpDoor,
    black_hole: tuple[str, int],
    monkeypatch: pytest.MonkeyPatch,
    holes: int,
) -> None:
    """A network that silently drops one family, or one dead server of several: the request is made all the same."""
    server = _answering(serve, "200 OK", b"{}")
    _resolving(monkeypatch, *[black_hole] * holes, ("127.0.0.1", int(server.root.rpartition(":")[2])))
    sent = door.send(_post("http://two-addresses.test/"), _permit(deadline=8.0))
    assert isinstance(sent.outcome, Answer)
    assert (len(server.requests), server.connections) == (1, 1)


def test_addresses_that_are_all_silent_end_at_the_deadline(
    door: HttpDoor, black_hole: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them together have the time of one request."""
    _resolving(monkeypatch, *[black_hole] * 4)
    permit = _permit(deadline=1.0)
    sent = door.send(_post("http://silent.test/"), permit)
    assert _error(sent) == (TryAgainSoon, "The provider's server could not be reached in time.")
    assert 0.95 < sent.answered_boot - permit.committed_boot < 1.0 + PATIENCE


def test_a_slow_address_still_counts_when_the_next_one_is_tried(
    serve: Callable[..., Server], door: HttpDoor, black_hole: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refusals are passed over at once, in whatever order they come; the last one is told."""
    server = _answering(serve, "200 OK", b"{}")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        closed: tuple[str, int] = silent.getsockname()
        _resolving(monkeypatch, closed, black_hole, closed, ("127.0.0.1", int(server.root.rpartition(":")[2])))
        assert isinstance(door.send(_post("http://mixed.test/"), _permit()).outcome, Answer)
        _resolving(monkeypatch, closed, closed)
        sent = door.send(_post("http://closed.test/"), _permit())
    assert _error(sent) == (TryAgainSoon, "The provider's server refused the connection.")


def test_an_address_of_version_6_is_reached(door: HttpDoor) -> None:
    """Written out in an account's address."""
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    heard: list[bytes] = []

    def serve_one() -> None:
        client, _ = listener.accept()
        with client:
            heard.append(client.recv(65536))
            client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    thread = threading.Thread(target=serve_one)
    thread.start()
    port = listener.getsockname()[1]
    sent = door.send(Request(method="GET", url=f"http://[::1]:{port}/"), _permit())
    thread.join(10)
    listener.close()
    assert isinstance(sent.outcome, Answer)
    assert f"host: [::1]:{port}".encode() in heard[0].lower()


def test_a_certificate_that_nobody_vouches_for_is_refused(
    serve: Callable[..., Server], door: HttpDoor, tmp_path: Path
) -> None:
    """No key ever travels to a server that cannot prove who it is."""
    server = serve(lambda _: None, _self_signed(tmp_path))
    sentence = "The TLS certificate of the provider's server is not trusted."
    assert _error(door.send(_post(server.url), _permit())) == (TryAgainSoon, sentence)
    assert server.requests == []


def test_a_request_that_cannot_be_built_is_our_bug(door: HttpDoor) -> None:
    """A wrong address or header is found before anything is sent, and not shown."""
    sent = [
        door.send(_post(f"http://127.0.0.1:port/{SECRET}"), _permit()),
        door.send(_post(f"ftp://127.0.0.1/{SECRET}"), _permit()),
        door.send(Request(method="GET", url="http://127.0.0.1/", headers={"x-key": "ş"}), _permit()),
    ]
    assert [_error(one)[0] for one in sent] == [OurBug, OurBug, OurBug]
    assert SECRET not in str([_error(one)[1] for one in sent])


@pytest.mark.parametrize("age", [1.2, 3600, -5])
def test_an_old_permit_sends_nothing(serve: Callable[..., Server], door: HttpDoor, age: float) -> None:
    """More than a second after the commit (or before it, which no clock can explain) nobody connects."""
    server = _answering(serve, "200 OK")
    with pytest.raises(PermitExpiredError):
        door.send(_post(server.url), _permit(age=age))
    assert server.connections == 0


def test_a_permit_is_good_for_one_request(serve: Callable[..., Server], door: HttpDoor) -> None:
    """The second use is refused, also from many threads at once."""
    server = _answering(serve, "200 OK")
    permit = _permit()

    def use(_: int) -> str:
        try:
            door.send(_post(server.url), permit)
        except PermitSpentError:
            return "refused"
        return "sent"

    with ThreadPoolExecutor(8) as pool:
        uses = sorted(pool.map(use, range(8)))
    assert (uses, len(server.requests)) == (["refused"] * 7 + ["sent"], 1)


def test_no_free_connection_means_that_nothing_was_sent(serve: Callable[..., Server]) -> None:
    """Waiting for a connection is our own trouble: it ends within a second and is no attempt."""
    server = serve(lambda _: None)
    server.script = lambda client: _hang(server, client)
    door = HttpDoor(max_connections=1, boot=time.monotonic)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(door.send, _post(server.url), _permit(deadline=4))
        while not server.requests:
            time.sleep(0.01)
        with pytest.raises(PermitExpiredError):
            door.send(_post(server.url), _permit())
        assert _error(first.result())[0] is TryAgainSoon
    door.close()
    assert len(server.requests) == 1


def test_a_connection_is_kept_and_replaced_when_the_server_hung_up(
    serve: Callable[..., Server], door: HttpDoor
) -> None:
    """A second request rides the same connection; after the server's goodbye the third opens a new one."""
    server = serve(lambda _: None)

    def two_answers(client: socket.socket) -> None:
        for _ in range(2):
            if not server.read(client):
                return
            client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nset-cookie: session=1\r\n\r\n")

    server.script = two_answers
    connections = []
    for _ in range(3):
        assert isinstance(door.send(_post(server.url), _permit()).outcome, Answer)
        connections.append(server.connections)
        if len(connections) == 2:
            server.wait_for_goodbye()
    assert connections == [1, 1, 2]
    assert b"cookie" not in b"".join(server.requests).lower()


def test_the_environment_has_no_say(
    serve: Callable[..., Server], door: HttpDoor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither a proxy nor a netrc password of the machine changes where and how a provider is asked."""
    server = _answering(serve, "200 OK")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert isinstance(door.send(_post(server.url), _permit()).outcome, Answer)
    assert b"authorization" not in server.requests[0].lower()


def test_no_line_of_the_libraries_shows_a_key(
    serve: Callable[..., Server], door: HttpDoor, caplog: pytest.LogCaptureFixture
) -> None:
    """The libraries log URLs and httpcore headers; behind the door both are silent."""
    caplog.set_level(logging.DEBUG)
    server = _answering(serve, "200 OK")
    sent = door.send(_post(server.url), _permit())
    assert [record.name for record in caplog.records if record.name.startswith("http")] == []
    assert SECRET not in caplog.text
    assert SECRET not in repr(sent)
    assert SECRET not in repr(_post(server.url))


def test_many_threads_share_the_door(serve: Callable[..., Server], door: HttpDoor) -> None:
    """Each thread gets its own answer and its own deadline."""
    server = serve(lambda _: None)

    def echo(client: socket.socket) -> None:
        while server.read(client):
            body = server.requests[-1].partition(b"\r\n\r\n")[2] and b"ok"
            client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n" + body)

    server.script = echo
    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(lambda _: door.send(_post(server.url), _permit()).outcome, range(200)))
    assert {outcome.body for outcome in outcomes if isinstance(outcome, Answer)} == {b"ok"}
    assert len(server.requests) == 200


def _self_signed(folder: Path) -> ssl.SSLContext:
    """A server's TLS context with a certificate that only it believes in."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context
