"""Every request that arrived, and the check of the rate limits."""

import time
from bisect import bisect_left, insort
from collections import defaultdict
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from ulak.sandbox.provider_times import iso
from ulak.sandbox.settings import Limit

KEPT = 200_000


@dataclass(slots=True)
class Entry:
    """One request; `status` is None while it is unanswered or when the caller went away."""

    n: int
    provider: str
    arrived_mono: float
    arrived_at: str
    method: str
    endpoint: str = "?"
    account: str | None = None
    status: int | None = None
    answered_mono: float | None = None
    answered_at: str | None = None
    in_flight: int = 0
    violation: bool = False
    why: str | None = None
    fault: str | None = None


class Ledger:
    """The log of requests, the arrivals of each account and its requests in flight."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.count = 0
        self._arrivals: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._in_flight: dict[tuple[str, str], int] = defaultdict(int)

    def clear(self) -> None:
        """Clears the log; numbering continues, and requests in flight are kept."""
        self.entries.clear()
        self._arrivals.clear()

    def arrive(self, provider: str, method: str) -> Entry:
        """Writes down a request the moment its head is there, before its body is read."""
        self.count += 1
        entry = Entry(self.count, provider, time.monotonic(), iso(time.time()), method)
        self.entries.append(entry)
        if len(self.entries) > KEPT:
            del self.entries[: KEPT // 10]
        return entry

    def judge(self, entry: Entry, limit: Limit) -> str | None:
        """`rate`, `concurrency` or None. Every arrival counts, the refused ones too.

        Two arrivals exactly `per_seconds` apart do not share a window.
        """
        key = (entry.provider, entry.account or "?")
        arrivals = self._arrivals[key]
        insort(arrivals, entry.arrived_mono)
        oldest = bisect_left(arrivals, entry.arrived_mono - limit.per_seconds + 1e-9)
        upto = bisect_left(arrivals, entry.arrived_mono + 1e-9)
        if oldest > 10_000:
            del arrivals[: oldest - 100]
        self._in_flight[key] += 1
        entry.in_flight = self._in_flight[key]
        if upto - oldest > limit.requests:
            entry.why = "rate"
        elif limit.concurrency is not None and entry.in_flight > limit.concurrency:
            entry.why = "concurrency"
        entry.violation = entry.why is not None
        return entry.why

    def answer(self, entry: Entry, status: int | None) -> None:
        """Closes an entry just before its last byte leaves; a second call changes nothing."""
        if entry.answered_mono is not None:
            return
        entry.answered_mono = time.monotonic()
        entry.answered_at = iso(time.time())
        entry.status = status
        self._in_flight[(entry.provider, entry.account or "?")] -= 1

    def tell(self, since: int = 0, *, violations: bool = False) -> list[dict[str, Any]]:
        """Entries with n greater than `since`, oldest first."""
        first = self.entries[0].n if self.entries else self.count + 1
        rest = islice(self.entries, max(0, since + 1 - first), None)
        return [asdict(entry) for entry in rest if entry.violation or not violations]
