"""How the HTTP process listens: deadlines for heads, a bounded number of connections, a log that no stranger fills.

uvicorn alone waits indefinitely for request headers, for the rest of an unread body, and for a client that does not
read its response; and its connection limit counts idle connections like busy ones.
"""

import asyncio
import errno
import logging
import resource
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from ulak.core import clock
from ulak.core.logging import get_logger

log = get_logger(__name__)

HEAD_SECONDS: Final = 10.0
"""Within which the head of a request is complete."""
REST_SECONDS: Final = 5.0
"""How long the rest of a body is read and thrown away after its answer: a client that still sends reads it then."""
FLUSH_SECONDS: Final = 30.0
"""Within which a client takes the next piece of an answer."""
MAX_DESCRIPTORS: Final = 65_536
MAX_CONNECTIONS: Final = 2_000
SPARE_DESCRIPTORS: Final = 64
"""For the database, the broker and files."""
MAX_UNANSWERED: Final = 512
"""Connections that the kernel keeps until we accept them; so many may be accepted at once."""
READ_BYTES: Final = 65_536
"""How much of a request is read at once; asyncio's own 256 KiB would be held for each stranger."""
LOG_INTERVAL_SECONDS: Final = 60.0
_OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def server_config(
    application: FastAPI, *, host: str, port: int, trusted_proxies: str = "127.0.0.1,::1"
) -> uvicorn.Config:
    """The settings of a server for this application."""
    descriptors = raise_descriptor_limit()
    waiting = min(MAX_UNANSWERED, descriptors // 4)
    limit = max(8, min(descriptors - waiting - SPARE_DESCRIPTORS, MAX_CONNECTIONS))
    return uvicorn.Config(
        application,
        host=host,
        port=port,
        # uvicorn takes any factory here; its annotation names classes alone.
        http=partial(BoundedProtocol, idle={}),  # type: ignore[arg-type]
        ws="none",
        backlog=waiting,
        limit_concurrency=limit,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
        forwarded_allow_ips=trusted_proxies,
    )


def raise_descriptor_limit() -> int:
    """How many descriptors this process may have, after the soft limit was raised as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(soft, wanted)


class BoundedProtocol(H11Protocol):
    """A connection that ends when its client keeps it waiting.

    Where there are too many, the one that has waited longest for a head goes first, so that connections which say
    nothing never keep out one that does.
    """

    def __init__(self, *args: Any, idle: dict["BoundedProtocol", None], **kwargs: Any) -> None:
        """`idle`: the server's connections that wait for a head, the longest first."""
        super().__init__(*args, **kwargs)
        self._idle = idle
        self._waits: tuple[str, float] | None = None
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]
        super().connection_made(transport)
        limit = self.limit_concurrency or MAX_CONNECTIONS
        while len(self.connections) >= limit and self._idle:
            next(iter(self._idle)).drop()
        if len(self.connections) > limit + SPARE_DESCRIPTORS // 2:
            # All are at work, and those that are refused with a 503 are too many as well.
            self.drop()
        self._judge()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._wait(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, and see what is waited for now."""
        super().data_received(data)
        self._judge()

    def on_response_complete(self) -> None:
        """Hold nothing of a request that is answered."""
        self.cycle.body = bytearray()
        super().on_response_complete()
        self._judge()

    def timeout_keep_alive_handler(self) -> None:
        """Close, and see to it that a client which takes nothing cannot prevent that."""
        super().timeout_keep_alive_handler()
        self._judge()

    def pause_writing(self) -> None:
        """The client takes nothing at the moment."""
        super().pause_writing()
        self._judge()

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        self._judge()

    def drop(self) -> None:
        """End it now."""
        self._wait(None)
        self.connections.discard(self)
        self.transport.abort()

    def _judge(self) -> None:
        """Begin, go on or cease to wait, by what the client owes us now."""
        theirs, ours = self.conn.their_state, self.conn.our_state
        if self.transport.is_closing() or self.flow.write_paused:
            self._wait(("flush", FLUSH_SECONDS))
        elif theirs is h11.IDLE:
            self._wait(("head", HEAD_SECONDS))
        elif theirs is h11.SEND_BODY and ours in {h11.DONE, h11.MUST_CLOSE}:
            self._wait(("rest", REST_SECONDS))
        else:
            # The application is at work; while it reads the body, `BodyCap` has the deadline.
            self._wait(None)

    def _wait(self, wanted: tuple[str, float] | None) -> None:
        if wanted == self._waits:
            return
        if self._end is not None:
            self._end.cancel()
        self._idle.pop(self, None)
        self._waits = wanted
        self._end = None if wanted is None else self.loop.call_later(wanted[1], self.drop)
        if wanted is not None and wanted[0] == "head":
            self._idle[self] = None


class BoundedServer(uvicorn.Server):
    """A server whose log cannot be flooded by anyone who reaches its port."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None] = lambda: None) -> None:
        """`started`: called when it listens."""
        super().__init__(config)
        self._tell_started = started

    async def startup(self, sockets: Any = None) -> None:
        """Listen, or end the process."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_Quiet())
        logger = logging.getLogger("uvicorn.error")
        if not any(isinstance(each, RateLimitedFilter) for each in logger.filters):
            logger.addFilter(RateLimitedFilter())
        await super().startup(sockets)
        self._tell_started()


class RateLimitedFilter(logging.Filter):
    """Lets each warning of the server through once a minute, with how many were left out: strangers cause them."""

    def __init__(self) -> None:
        """Nothing has been logged so far."""
        super().__init__()
        self._said: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged."""
        if record.levelno != logging.WARNING:
            return True
        said = self._due(str(record.msg))
        if said:
            record.msg = f"{record.msg} ({said} more since it was last logged)"
        return said is not None

    def _due(self, what: str) -> int | None:
        """How many were suppressed since it was last logged; None while it is still suppressed."""
        now = clock.boot()
        at, left_out = self._said.get(what, (None, 0))
        if at is not None and now - at < LOG_INTERVAL_SECONDS:
            self._said[what] = (at, left_out + 1)
            return None
        self._said[what] = (now, 0)
        return left_out


class _Quiet:
    """Says once a minute that descriptors are used up, where asyncio writes a traceback for each place in the queue."""

    def __init__(self) -> None:
        self._said_at: float | None = None

    def __call__(self, loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in _OUT_OF_DESCRIPTORS:
            loop.default_exception_handler(dict(context))
            return
        now = clock.boot()
        if self._said_at is None or now - self._said_at >= LOG_INTERVAL_SECONDS:
            self._said_at = now
            log.error(
                "api.out_of_descriptors",
                error=errno.errorcode.get(error.errno or 0, "OSError"),
                advice="raise the limit of open files (LimitNOFILE)",
            )
