"""Sockets that obey a total deadline.

httpx's time-outs are per operation: a server that sends one byte every few seconds passes the read time-out for ever,
in the headers as well as in the body. Here every single socket operation of a request (each address that is tried, the
TLS handshake, each send, each receive) gets at most what is left until the request's deadline, by the boot clock, so
that a request which slept through its deadline in a frozen process sends nothing more, either.

One thread makes one request at a time, so the deadline belongs to the thread. Resolving a host's name is the one step
that cannot be cut short; it sends nothing to the provider, and the deadline is looked at right after it.
"""

import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore

Clock = Callable[[], float]


class Deadline:
    """The moment, by the boot clock, at which this thread's request ends."""

    def __init__(self, boot: Clock) -> None:
        """`boot`: seconds on a clock that also counts while the machine sleeps."""
        self._boot = boot
        self._thread = threading.local()

    @contextmanager
    def until(self, boot_moment: float) -> Iterator[None]:
        """Every socket operation of this thread inside the block ends by `boot_moment`."""
        self._thread.moment = boot_moment
        try:
            yield
        finally:
            del self._thread.moment

    def bound(self, timeout: float | None) -> float | None:
        """The time-out of the next socket operation, 0 or less when the deadline has passed."""
        moment: float | None = getattr(self._thread, "moment", None)
        if moment is None:
            return timeout
        left = moment - self._boot()
        return left if timeout is None else min(left, timeout)


class DeadlineStream(httpcore.NetworkStream):
    """A socket whose every operation is bound by the deadline of the thread that uses it."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        """`sock`: connected."""
        self._sock = sock
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """At most `max_bytes`; nothing at the end of the stream."""
        try:
            self._arm(timeout, httpcore.ReadTimeout)
            return self._sock.recv(max_bytes)
        except TimeoutError as error:
            raise httpcore.ReadTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ReadError(str(error)) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """All of `buffer`, however slowly the other side takes it, but not past the deadline."""
        left = memoryview(buffer)
        try:
            while left:
                self._arm(timeout, httpcore.WriteTimeout)
                left = left[self._sock.send(left) :]
        except TimeoutError as error:
            raise httpcore.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        """Closes the socket."""
        self._sock.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """The stream inside TLS; the handshake as a whole is bound, not each of its reads."""
        try:
            self._arm(timeout, httpcore.ConnectTimeout)
            return DeadlineStream(ssl_context.wrap_socket(self._sock, server_hostname=server_hostname), self._deadline)
        except TimeoutError as error:
            self.close()
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:
            self.close()
            raise httpcore.ConnectError(str(error)) from error

    def get_extra_info(self, info: str) -> Any:
        """What httpcore asks of a stream: whether an idle connection was closed by the other side."""
        if info == "is_readable":
            return _is_readable(self._sock)
        if info == "ssl_object":
            return self._sock if isinstance(self._sock, ssl.SSLSocket) else None
        return self._sock if info == "socket" else None

    def _arm(self, timeout: float | None, past: type[Exception]) -> None:
        """Give the next operation what is left; nothing left raises `past`, before a byte moves."""
        left = self._deadline.bound(timeout)
        if left is not None and left <= 0:
            raise past("the total deadline has passed")
        self._sock.settimeout(left)


class DeadlineBackend(httpcore.NetworkBackend):
    """Connections whose making, too, is bound by the deadline, over all addresses of a host together."""

    def __init__(self, deadline: Deadline) -> None:
        """`deadline`: shared with whoever sends."""
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connected to the first address of `host` that answers. `local_address` and `socket_options` are not used."""
        del local_address, socket_options
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from error
        for left, (family, kind, protocol, _, address) in zip(
            range(len(addresses) - 1, -1, -1), addresses, strict=True
        ):
            try:
                return self._connect(socket.socket(family, kind, protocol), address, timeout)
            except TimeoutError as error:
                if not left:
                    raise httpcore.ConnectTimeout(str(error)) from error
            except OSError as error:
                if not left:
                    raise httpcore.ConnectError(str(error)) from error
        raise httpcore.ConnectError("the host has no address")

    def _connect(self, sock: socket.socket, address: Any, timeout: float | None) -> httpcore.NetworkStream:
        """One address."""
        left = self._deadline.bound(timeout)
        try:
            if left is not None and left <= 0:
                raise TimeoutError("the total deadline has passed")
            sock.settimeout(left)
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            sock.close()
            raise
        return DeadlineStream(sock, self._deadline)


def _is_readable(sock: socket.socket) -> bool:
    """Whether something waits to be read: on an idle connection that is the other side's goodbye."""
    if sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))
