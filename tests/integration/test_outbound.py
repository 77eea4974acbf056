"""The one client for requests that go to nobody's messaging provider: what ends them, and what no error holds."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from private_ca import Authority

from ulak.api.outbound import MAX_BYTES, Outbound, OutboundError
from ulak.core import clock
from ulak.providers.egress import EgressError

CANARY = "canary-in-the-address"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def whole_request(peer: socket.socket) -> bytes:
    """Head and body, however they are cut on their way."""
    request = b""
    while b"\r\n\r\n" not in request and (part := peer.recv(65_536)):
        request += part
    head, _, body = request.partition(b"\r\n\r\n")
    length = int((re.findall(rb"(?i)content-length: (\d+)", head) or [b"0"])[0])
    while len(body) < length and (part := peer.recv(65_536)):
        body += part
    return head + b"\r\n\r\n" + body


@contextmanager
def answering(*parts: bytes, pause: float = 0.0, context: object = None) -> Iterator[tuple[int, list[bytes]]]:
    """A server that writes these parts, with pauses, to whoever sends something; its port, and what was sent."""
    heard: list[bytes] = []
    ended = threading.Event()

    def serve(listener: socket.socket) -> None:
        while not ended.is_set():
            try:
                sock, _ = listener.accept()
                with context.wrap_socket(sock, server_side=True) if context else sock as peer:  # type: ignore[attr-defined]
                    heard.append(whole_request(peer))
                    for part in parts:
                        peer.sendall(part)
                        ended.wait(pause)
            except OSError:
                continue

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1], heard
        finally:
            ended.set()
            thread.join()


def plain(body: bytes) -> bytes:
    """A whole answer."""
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


def refusal(outbound: Outbound, url: str) -> str:
    """Why there is no answer."""
    with pytest.raises(OutboundError) as caught:
        outbound.send("GET", url).good().json()
    assert (CANARY in str(caught.value), caught.value.__cause__) == (False, None)
    return str(caught.value)


def test_one_request_is_made_and_its_answer_is_read_whole() -> None:
    """With our own name, no packing, no cookie."""
    with answering(plain(b'{"a": 1}')) as (port, heard):
        reply = Outbound().send("POST", f"http://127.0.0.1:{port}/{CANARY}", headers={"X-A": "1"}, body=b"b=2")
        assert (reply.good().json(), CANARY in repr(reply)) == ({"a": 1}, False)
        [request] = heard
        for line in (
            b"accept-encoding: identity",
            b"user-agent: ulak",
            b"x-a: 1",
            b"content-length: 3",
            b"\r\n\r\nb=2",
        ):
            assert line in request.lower()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/{}\r\nContent-Length: 0\r\n\r\n", "redirect"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", "status 500"),
        (plain(b"[1]"), "no object"),
        (plain(b"canary-in-the-address"), "no JSON"),
        (plain(b"[" * 100_000), "no JSON"),
        (plain(b'"' + b"x" * (MAX_BYTES + 1) + b'"'), "more than"),
        (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", "packed"),
        (HEAD + b"Content-Length: 50\r\n\r\n{}", "broke"),
        (b"SSH-2.0-OpenSSH\r\n", "broke"),
        (b"", "broke"),
    ],
)  # fmt: skip
def test_an_answer_that_is_of_no_use_is_an_error_in_words_of_ours(answer: bytes, why: str) -> None:
    """Never what came, nor the address, which may hold a code."""
    with answering(answer) as (port, heard):
        assert why in refusal(Outbound(), f"http://127.0.0.1:{port}/?code={CANARY}")
        assert len(heard) == 1


@pytest.mark.parametrize("dripped", [HEAD, HEAD + b"\r\n" + b"x" * 200])
def test_a_server_that_drips_is_given_up_at_the_deadline(dripped: bytes) -> None:
    """A byte at a time passes every time-out between two bytes; head and body alike."""
    with answering(*(dripped[place : place + 1] for place in range(len(dripped))), pause=0.1) as (port, _):
        began = clock.boot()
        assert "in time" in refusal(Outbound(seconds=1.0), f"http://127.0.0.1:{port}/")
        assert clock.boot() - began < 15


def test_a_server_that_is_not_there_cannot_be_reached() -> None:
    """And an address that is none is said to be none."""
    assert "cannot be reached" in refusal(Outbound(seconds=5), "http://127.0.0.1:1/")
    for url in ("http://[::1", "x", "http://host:99999999/", f"http://{CANARY}\x00/"):
        assert refusal(Outbound(seconds=5), url)


def test_only_a_certificate_that_is_trusted_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The public authorities, or those of the file that is named; what the environment says does not count."""
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    with answering(plain(b"{}"), context=authority.server_context()) as (port, _):
        url = f"https://127.0.0.1:{port}/"
        assert Outbound(ca_file=authority.file).send("GET", url).status == 200
        for outbound in (Outbound(), Outbound(ca_file=other.file)):
            assert "not trusted" in refusal(outbound, url)
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(EgressError):
        Outbound(ca_file=tmp_path / "empty.pem")


def test_threads_share_one_client() -> None:
    """More than there are connections: each gets its answer."""
    with answering(plain(b'{"a": 1}')) as (port, heard):
        outbound, found = Outbound(), []

        def ask() -> None:
            found.append(outbound.send("GET", f"http://127.0.0.1:{port}/").json())

        threads = [threading.Thread(target=ask) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [{"a": 1}] * 12
        # A pool may lend a connection in the instant before it closes it: no connection outlives its response.
        assert all(b"connection: close" in request.lower() for request in heard)
        outbound.close()
