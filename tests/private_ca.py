"""A company's network in miniature: a certificate authority of its own, servers that it vouches for, and a proxy."""

import contextlib
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import TypeVar
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_PEM = serialization.Encoding.PEM


class Authority:
    """Issues certificates; `file` holds its own."""

    def __init__(self, folder: Path, name: str = "company") -> None:
        """`folder`: where the files go."""
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{name} CA")])
        built = self._builder(self._subject, self._key).add_extension(x509.BasicConstraints(True, None), critical=True)
        self.pem = built.sign(self._key, hashes.SHA256()).public_bytes(_PEM)
        self.file = folder / f"{name}-ca.pem"
        self.file.write_bytes(self.pem)

    def server_context(self, *names: str) -> ssl.SSLContext:
        """The TLS context of a server at 127.0.0.1, ::1, localhost or `names` that this authority vouches for."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
        hosts = [x509.IPAddress(ip_address(each)) for each in ("127.0.0.1", "::1")]
        called = map(x509.DNSName, ("localhost", *names))
        alternatives = x509.SubjectAlternativeName([*called, *hosts])
        built = self._builder(name, key).add_extension(alternatives, critical=False)
        private = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        chain = self._folder / f"{self._name}-server.pem"
        chain.write_bytes(private + built.sign(self._key, hashes.SHA256()).public_bytes(_PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        return context

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
        )


@contextmanager
def serving(
    context: ssl.SSLContext | None,
    said: Callable[[str], bytes] = lambda _: b"{}",
    *,
    host: str = "127.0.0.1",
    **headers: str,
) -> Iterator[str]:
    """The address of a server that answers every request with what `said` gives for its path, and these headers."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            body = said(self.path)
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST  # noqa: N815 - the library's name

        def log_message(self, *_: object) -> None:
            """Nothing."""

    kind, name = (_Http6, f"[{host}]") if ":" in host else (_Http, host)
    with _running(kind((host, 0), Handler)) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        yield f"{'https' if context else 'http'}://{name}:{server.server_address[1]}"


@dataclass
class Proxy:
    """A running HTTP proxy: what it was asked, and how it behaves."""

    login: str | None = None
    """`user:password` that it demands."""
    status: str = "200 Connection established"
    drips: bool = False
    """It answers CONNECT with one byte after the other, forever."""
    asked: list[str] = field(default_factory=list)
    """First lines of the requests."""
    heads: list[str] = field(default_factory=list)
    address: str = "127.0.0.1"
    port: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def host(self) -> str:
        """Its address without a scheme."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@contextmanager
def proxying(proxy: Proxy) -> Iterator[Proxy]:
    """The proxy, running while the block does."""

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            client: socket.socket = self.request
            client.settimeout(20)
            with contextlib.suppress(OSError):
                _serve(proxy, client)

    with _running((_Tcp6 if ":" in proxy.address else _Tcp)((proxy.address, 0), Handler)) as server:
        proxy.port = int(server.server_address[1])
        try:
            yield proxy
        finally:
            proxy.ended.set()


def _serve(proxy: Proxy, client: socket.socket) -> None:
    """One connection."""
    head = b""
    while b"\r\n\r\n" not in head:
        piece = client.recv(65536)
        if not piece:
            return
        head += piece
    text, _, rest = head.partition(b"\r\n\r\n")
    lines = text.decode().split("\r\n")
    proxy.asked.append(lines[0])
    proxy.heads.append(text.decode())
    if proxy.drips:
        client.sendall(b"HTTP/1.1 200 OK\r\n")
        while not proxy.ended.wait(0.05):
            client.sendall(b"x: y\r\n")
        return
    wanted = None if proxy.login is None else f"proxy-authorization: basic {b64encode(proxy.login.encode()).decode()}"
    if wanted is not None and wanted.lower() not in {line.lower() for line in lines}:
        client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
        return
    if not proxy.status.startswith("200"):
        client.sendall(f"HTTP/1.1 {proxy.status}\r\ncontent-length: 0\r\n\r\n".encode())
        return
    method, target, _ = lines[0].split(" ")
    where = urlsplit(f"//{target}" if method == "CONNECT" else target)
    with socket.create_connection((str(where.hostname), where.port or 80)) as onward:
        if method == "CONNECT":
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            lines[0] = f"{method} {where.path} HTTP/1.1"
            onward.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + rest)
        back = threading.Thread(target=pump, args=(onward, client), daemon=True)
        back.start()
        pump(client, onward)
        back.join(20)


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Carry bytes until the source ends."""
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            sink.sendall(piece)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class _Tcp(ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def handle_error(self, *_: object) -> None:
        """A client that goes away is what some tests are about."""


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """A client that goes away is what some tests are about."""


class _Http6(_Http):
    address_family = socket.AF_INET6


class _Tcp6(_Tcp):
    address_family = socket.AF_INET6


_Served = TypeVar("_Served", _Tcp, _Http)


@contextmanager
def _running(server: _Served) -> Iterator[_Served]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(20)
