"""A TCP proxy that spoils what passes through it: late, slow, held up, cut off, or answered only by silence."""

import asyncio
import random
import re
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

Mode = Literal["pass", "black_hole", "half_open"]
"""`black_hole`: nothing gets through, later it does (a network that is away). `half_open`: the answers never come."""

CHUNK_BYTES = 65536
LOOK_SECONDS = 0.02
_COMMIT = re.compile(rb"COMMIT\0")
_T = TypeVar("_T")


@dataclass(slots=True, eq=False)
class Link:
    """One connection and the one behind it."""

    client: asyncio.StreamReader
    to_client: asyncio.StreamWriter
    server: asyncio.StreamReader
    to_server: asyncio.StreamWriter
    answered_bytes: int = 0
    is_cutting: bool = False

    def reset(self) -> None:
        """End both sides, the client's with a TCP reset."""
        wire = self.to_client.get_extra_info("socket")
        if wire is not None and wire.fileno() >= 0:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.to_client.transport.abort()
        self.to_server.transport.abort()


class Network:
    """The one event loop, in a thread of its own, that all proxies live in."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="network", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run it in the loop and wait for what it returns."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def stop(self) -> None:
        """End every connection, the loop and the thread."""
        self.run(_cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


async def _cancel_all() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@dataclass(eq=False)
class Proxy:
    """`127.0.0.1:port` in front of a loopback port. The knobs may be turned at any time, from any thread."""

    network: Network
    target: int
    rng: random.Random
    port: int = 0
    mode: Mode = "pass"
    delay_seconds: tuple[float, float] = (0.0, 0.0)
    """What a client's bytes wait, drawn anew for each piece."""
    bytes_per_second: float | None = None
    reset_after: int | None = None
    """Cut every connection off after so many bytes of answers."""
    commits_to_cut: int = 0
    """So many COMMITs reach PostgreSQL, and the client gets a reset in place of the answer."""
    commit_share: float = 1.0
    cut_commits: int = 0
    links: set[Link] = field(default_factory=set)

    def open(self) -> "Proxy":
        """Begin to listen."""
        self._server = self.network.run(asyncio.start_server(self._serve, "127.0.0.1", self.port))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def close(self) -> None:
        """Listen no more."""

        async def end() -> None:
            self._server.close()

        self.network.run(end())

    def reset_all(self) -> int:
        """Reset every open connection; returns how many there were."""

        async def cut() -> int:
            links = list(self.links)
            for link in links:
                link.reset()
            return len(links)

        return self.network.run(cut())

    def heal(self) -> None:
        """Let everything pass again. Connections on which answers were swallowed are useless and get reset."""
        was_silent = self.mode == "half_open"
        self.mode, self.delay_seconds, self.bytes_per_second = "pass", (0.0, 0.0), None
        self.reset_after, self.commits_to_cut = None, 0
        if was_silent:
            self.reset_all()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            to_client.transport.abort()
            return
        link = Link(client, to_client, server, to_server)
        self.links.add(link)
        pumps = [asyncio.create_task(self._ask(link)), asyncio.create_task(self._answer(link))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self.links.discard(link)
            for writer in (to_client, to_server):
                writer.close()

    async def _ask(self, link: Link) -> None:
        """From the client to the server. What waits here is dropped when the client goes away meanwhile."""
        while data := await link.client.read(CHUNK_BYTES):
            if not await self._wait(link, self.rng.uniform(*self.delay_seconds)):
                return
            if self.commits_to_cut > 0 and _COMMIT.search(data) and self.rng.random() < self.commit_share:
                self.commits_to_cut -= 1
                self.cut_commits += 1
                link.is_cutting = True
            link.to_server.write(data)
            await link.to_server.drain()

    async def _answer(self, link: Link) -> None:
        """From the server to the client."""
        while data := await link.server.read(CHUNK_BYTES):
            if link.is_cutting:
                link.reset()
                return
            if not await self._wait(link, len(data) / self.bytes_per_second if self.bytes_per_second else 0.0):
                return
            if self.mode == "half_open":
                continue
            link.answered_bytes += len(data)
            if self.reset_after is not None and link.answered_bytes > self.reset_after:
                link.reset()
                return
            link.to_client.write(data)
            await link.to_client.drain()

    async def _wait(self, link: Link, seconds: float) -> bool:
        """Wait as ordered and while the network is away; False when the client has gone meanwhile."""
        if not seconds and self.mode != "black_hole":
            return True
        await asyncio.sleep(seconds)
        while self.mode == "black_hole" and not link.client.at_eof():  # noqa: ASYNC110 - the mode is set from other threads
            await asyncio.sleep(LOOK_SECONDS)
        return not link.client.at_eof()
