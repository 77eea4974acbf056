"""The pushing side of a provider: events POSTed to its callback URL until they are taken.

The documents say nothing about repeats; trying again for two minutes after a connection error or
a 5xx answer is this sandbox's choice, so that a restarted receiver misses nothing.
"""

import asyncio
import heapq
import itertools
import math
import random
import time
from dataclasses import dataclass
from typing import Any

import httpx
from httpx._client import UseClientDefault

from ulak.sandbox.faults import Faults
from ulak.sandbox.http_types import Event

AT_ONCE = 8
LATE_SECONDS = 4.0
"""How much later the faults `push_late` and `push_shuffled` let a push leave, at most."""
GIVE_UP_SECONDS = 120.0
MAX_WAIT = 8.0
AGAIN = frozenset({408, 425, 429})


@dataclass(frozen=True)
class Callback:
    """Where to push, with which login; without one where the address itself is the secret."""

    url: str
    user: str | None = None
    password: str | None = None

    @property
    def login(self) -> httpx.BasicAuth | UseClientDefault:
        """Basic authentication, or none."""
        if self.user is None or self.password is None:
            return httpx.USE_CLIENT_DEFAULT
        return httpx.BasicAuth(self.user, self.password)


@dataclass
class Counts:
    """What became of the pushes."""

    planned: int = 0
    acknowledged: int = 0
    refused: int = 0
    abandoned: int = 0
    attempts: int = 0

    @property
    def waiting(self) -> int:
        """Not yet taken, refused or given up."""
        return self.planned - self.acknowledged - self.refused - self.abandoned


class Pushes:
    """One pump over a heap of due events of one provider."""

    def __init__(self, provider: str, faults: Faults) -> None:
        self.provider, self.faults = provider, faults
        self.callback: Callback | None = None
        self.counts = Counts()
        self.last_error: str | None = None
        self._heap: list[tuple[float, int, Event]] = []
        self._order = itertools.count()
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def plan(self, events: list[Event]) -> None:
        """Adds events to the heap; those that are due already go out at once."""
        for event in events:
            self._put(event, event.due)
        self.counts.planned += len(events)
        self._changed.set()

    def _put(self, event: Event, at: float) -> None:
        heapq.heappush(self._heap, (at, next(self._order), event))

    def clear(self) -> None:
        """Forgets what has not left yet; the counts begin again."""
        self._heap.clear()
        for task in self._tasks:
            task.cancel()
        self.counts = Counts()

    def waiting_by(self, at: float) -> int:
        """How many pushes that are due by then have not been taken; 0 without a callback."""
        return self.counts.waiting - sum(event.due > at for *_, event in self._heap) if self.callback else 0

    def start(self, callback: Callback) -> None:
        """Pushes to this URL from now on."""
        self.callback = callback
        self._changed.set()

    async def run(self) -> None:
        """Pumps until cancelled."""
        gate = asyncio.Semaphore(AT_ONCE)
        async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
            while True:
                await self._wait()
                while self.callback and self._heap and self._heap[0][0] <= time.time():
                    await gate.acquire()
                    if not self._heap:
                        gate.release()
                        break
                    due, _, event = heapq.heappop(self._heap)
                    if self._spoil(event, due):
                        gate.release()
                        continue
                    task = asyncio.create_task(self._push(client, event, self.callback, gate))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)

    def _spoil(self, event: Event, due: float) -> bool:
        """What a fault does to this push; True when it does not leave now. A push suffers once at most."""
        kind = self.faults.strike_push(self.provider) if due == event.due else None
        if kind == "push_dropped":
            event.lost = True
            self.counts.planned -= 1
        elif kind == "push_duplicated":
            self.counts.planned += 1
            self._put(event, math.nextafter(event.due, math.inf))
        elif kind in ("push_late", "push_shuffled"):
            # Shuffled ones overtake each other; late ones leave behind everything that is due meanwhile.
            late = LATE_SECONDS if kind == "push_late" else random.uniform(0, LATE_SECONDS)
            self._put(event, time.time() + late)
        return kind in ("push_dropped", "push_late", "push_shuffled")

    async def _wait(self) -> None:
        self._changed.clear()
        pause = None
        if self.callback and self._heap:
            pause = max(0.0, self._heap[0][0] - time.time())
        try:
            await asyncio.wait_for(self._changed.wait(), pause)
        except TimeoutError:
            return

    async def _push(self, client: httpx.AsyncClient, event: Event, callback: Callback, gate: asyncio.Semaphore) -> None:
        began, wait, counts = time.monotonic(), 0.25, self.counts
        while True:
            try:
                status = await self._post(client, event, callback)
            finally:
                gate.release()
            if status is not None and status < 500 and status not in AGAIN:
                if status == 200:
                    counts.acknowledged += 1
                else:
                    counts.refused += 1
                return
            if time.monotonic() - began > GIVE_UP_SECONDS:
                counts.abandoned += 1
                return
            await asyncio.sleep(wait)
            wait = min(wait * 2, MAX_WAIT)
            callback = self.callback or callback
            await gate.acquire()

    async def _post(self, client: httpx.AsyncClient, event: Event, callback: Callback) -> int | None:
        self.counts.attempts += 1
        url = callback.url.rstrip("/") + event.tail
        try:
            answer = await client.post(url, json=event.body, auth=callback.login)
        except httpx.HTTPError as error:
            self.last_error = type(error).__name__
            return None
        if answer.status_code != 200:
            self.last_error = f"HTTP {answer.status_code}"
        return answer.status_code

    def tell(self) -> dict[str, Any]:
        """Counts for the control API."""
        counts = self.counts
        return {
            "planned": counts.planned,
            "acknowledged": counts.acknowledged,
            "refused": counts.refused,
            "abandoned": counts.abandoned,
            "waiting": counts.waiting,
            "attempts": counts.attempts,
            "last_error": self.last_error,
        }
