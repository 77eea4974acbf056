"""Sockets that obey a total deadline.

httpx's time-outs are per operation: a server that sends one byte every few seconds never triggers the read time-out,
in the headers as well as in the body. Here every single socket operation of a request (each address that is tried, the
TLS handshake, each send, each receive) gets at most what is left until the request's deadline, by the boot clock, so
that a request which slept through its deadline in a frozen process sends nothing more, either.

One thread makes one request at a time, so the deadline belongs to the thread. Resolving a host's name is the one step
that cannot be cut short; it sends nothing to the provider, and the deadline is looked at right after it.
"""

import errno
import math
import os
import select
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpcore

Clock = Callable[[], float]

STAGGER_SECONDS = 0.25
"""How long an address is tried alone before the next one is tried beside it (RFC 8305, section 8)."""


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

    def now(self) -> float:
        """This moment, by the boot clock."""
        return self._boot()

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
        # An address of version 6 comes in brackets through a proxy, and certificates name it without.
        name = server_hostname and server_hostname.strip("[]")
        try:
            self._arm(timeout, httpcore.ConnectTimeout)
            return DeadlineStream(ssl_context.wrap_socket(self._sock, server_hostname=name), self._deadline)
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
        """`deadline`: shared with the sender."""
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connected to the first address of `host` that answers. `local_address` and `socket_options` are not used.

        An address that does not answer within `STAGGER_SECONDS` is not given up, but the next one is tried beside it
        (RFC 8305): one that swallows everything costs so long, and not the time of all the others.
        """
        del local_address, socket_options
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from error
        race = _Race(addresses, self._deadline, timeout)
        try:
            sock = race.winner()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        finally:
            race.close()
        return DeadlineStream(sock, self._deadline)


class _Race:
    """Attempts to connect to the addresses of one host, started one after the other."""

    def __init__(self, addresses: Sequence[Any], deadline: Deadline, timeout: float | None) -> None:
        """`addresses`: as `socket.getaddrinfo` gives them, the preferred first."""
        self._left = deque(addresses)
        self._now = deadline.now
        bound = deadline.bound(timeout)
        self._ends = math.inf if bound is None else deadline.now() + bound
        self._next = -math.inf
        self._poll = select.poll()
        self._running: dict[int, socket.socket] = {}

    def winner(self) -> socket.socket:
        """The first that is connected; `TimeoutError` at the end of the time, else the last address's `OSError`."""
        problem = OSError("the host has no address")
        while self._left or self._running:
            now = self._now()
            if now >= self._ends:
                raise TimeoutError("no address answered in time")
            try:
                if self._left and (now >= self._next or not self._running):
                    self._next = now + STAGGER_SECONDS
                    self._start(self._left.popleft())
                elif (sock := self._wait(now)) is not None:
                    return sock
            except OSError as error:
                # Whatever stood in the way of this address, the next one need not wait.
                problem, self._next = error, -math.inf
        raise problem

    def close(self) -> None:
        """Give up the others."""
        for sock in self._running.values():
            sock.close()

    def _start(self, found: Any) -> None:
        """Begin to connect to one address."""
        family, kind, protocol, _, address = found
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        error = sock.connect_ex(address)
        if error not in {0, errno.EINPROGRESS}:
            sock.close()
            raise OSError(error, os.strerror(error))
        self._running[sock.fileno()] = sock
        self._poll.register(sock, select.POLLOUT)

    def _wait(self, now: float) -> socket.socket | None:
        """One that is connected; None where the next one is to be started, or the time is over."""
        until = min(self._ends, self._next if self._left else math.inf)
        wait = None if until == math.inf else math.ceil(max(0.0, until - now) * 1000)
        for descriptor, _ in self._poll.poll(wait):
            sock = self._running.pop(descriptor)
            self._poll.unregister(descriptor)
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not error:
                return sock
            sock.close()
            raise OSError(error, os.strerror(error))
        return None


def _is_readable(sock: socket.socket) -> bool:
    """Whether something waits to be read: on an idle connection that is the other side's goodbye."""
    if sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))
