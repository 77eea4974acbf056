"""The middleware of every simulated provider: request log, rate limit, injected faults, and the response."""

import asyncio
import random
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate

from starlette.types import Receive, Scope, Send

from ulak.sandbox.corruption import Corrupter
from ulak.sandbox.http_types import Answer, Call
from ulak.sandbox.ledger import Entry
from ulak.sandbox.standin import StandIn
from ulak.sandbox.world import World

HANG_SECONDS = 300.0
SLOW_SECONDS = 3.0
DRIP_SECONDS = 0.5
MAX_BODY = 4 * 1024 * 1024

Client = tuple[str, int]


class Connections:
    """Open connections by the caller's address, so that one can be cut in the middle."""

    def __init__(self) -> None:
        self.transports: dict[Client, asyncio.Transport] = {}

    def cut(self, client: Client) -> None:
        """Ends a connection with a TCP reset."""
        transport = self.transports.get(client)
        if transport is None:
            return
        wire = transport.get_extra_info("socket")
        if wire is not None:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


async def read_body(receive: Receive) -> bytes | None:
    """The whole body, or None when the caller went away or sends too much."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY:
            return None
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


async def stay(receive: Receive, seconds: float) -> bool:
    """Waits; False when the caller went away meanwhile."""
    try:
        async with asyncio.timeout(seconds):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return True
    return False


class Middleware:
    """The ASGI application of one stand-in."""

    def __init__(self, world: World, name: str, wires: Connections) -> None:
        self.world, self.name, self.wires = world, name, wires

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Writes the request down first, whatever becomes of it."""
        ledger = self.world.ledger
        entry = ledger.arrive(self.name, scope["method"])
        body = await read_body(receive)
        if body is None:
            return
        call = Call(
            scope["method"],
            scope["path"],
            scope["query_string"].decode("latin-1"),
            {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]},
            body,
            time.time(),
        )
        standin = self.world.standins[self.name]
        entry.endpoint = standin.endpoint(call)
        entry.account = f"demo-{self.name}" if standin.identify(call) else "?"
        why = ledger.judge(entry, self.world.limit(self.name))
        async with self._closing(entry):
            await self._serve(standin, call, entry, why, (scope, receive, send))

    @asynccontextmanager
    async def _closing(self, entry: Entry) -> AsyncIterator[None]:
        ledger = self.world.ledger
        try:
            yield
        finally:
            ledger.answer(entry, None)

    async def _serve(
        self,
        standin: StandIn,
        call: Call,
        entry: Entry,
        why: str | None,
        wire: tuple[Scope, Receive, Send],
    ) -> None:
        scope, receive, send = wire
        if why is not None:
            await self._reply(standin.throttled(call, entry.n, why), entry, send)
            return
        faults = self.world.faults
        spoiler = Corrupter(standin, faults)
        entry.fault = faults.strike(self.name, lambda kind: spoiler.applies(call, kind))
        latency = self.world.settings.latency_seconds
        pause = latency * random.uniform(0.5, 1.5)
        if entry.fault == "slow":
            pause += SLOW_SECONDS
        if entry.fault == "hang":
            pause = HANG_SECONDS
        if pause and not await stay(receive, pause):
            return
        if entry.fault in ("reset", "hang"):
            self.wires.cut(tuple(scope["client"]))
            return
        answer = standin.answer(call)
        if entry.fault is not None:
            answer, entry.fault = spoiler.spoil(entry.fault, call)
        if entry.fault == "drip":
            await self._drip(answer, entry, receive, send)
        elif entry.fault == "truncate":
            await self._truncate(answer, tuple(scope["client"]), send)
        else:
            await self._reply(answer, entry, send)

    async def _reply(self, answer: Answer, entry: Entry, send: Send) -> None:
        # Closed before the last byte leaves: the caller may ask again the moment it has it.
        self.world.ledger.answer(entry, answer.status)
        await send(start_message(answer))
        await send({"type": "http.response.body", "body": answer.body})

    async def _drip(self, answer: Answer, entry: Entry, receive: Receive, send: Send) -> None:
        await send(start_message(answer))
        for index in range(len(answer.body) - 1):
            part = answer.body[index : index + 1]
            await send({"type": "http.response.body", "body": part, "more_body": True})
            if not await stay(receive, DRIP_SECONDS):
                return
        self.world.ledger.answer(entry, answer.status)
        await send({"type": "http.response.body", "body": answer.body[-1:]})

    async def _truncate(self, answer: Answer, client: Client, send: Send) -> None:
        await send(start_message(answer))
        half = answer.body[: len(answer.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        await asyncio.sleep(0.02)
        transport = self.wires.transports.get(client)
        if transport is not None:
            transport.close()


def start_message(answer: Answer) -> dict[str, object]:
    """The response's start message, always with its length."""
    headers = {
        "date": formatdate(usegmt=True),
        "content-type": answer.content_type,
        "content-length": str(len(answer.body)),
        **answer.headers,
    }
    return {
        "type": "http.response.start",
        "status": answer.status,
        "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
    }
