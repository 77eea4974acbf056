"""The judgement over a limit that may have changed meanwhile, by the provider's own log of what arrived when."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from ulak.providers.http import PERMIT_SECONDS


@dataclass(frozen=True, slots=True)
class Limit:
    """So many requests in any window of so many seconds, so many unanswered at once."""

    requests: int
    per_seconds: float
    concurrency: int

    def __str__(self) -> str:
        return f"{self.requests}/{self.per_seconds:g} s, {self.concurrency}"


@dataclass(frozen=True, slots=True)
class Change:
    """A limit that was written: the change began and was committed at these moments of the monotonic clock."""

    limit: Limit
    began: float
    committed: float


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request as the provider saw it; `in_flight` counts it too."""

    at: float
    answered: float | None
    in_flight: int


def broken_limits(arrivals: Sequence[Arrival], changes: Sequence[Change], way_seconds: float) -> list[str]:
    """Every arrival that makes a window hold more than `requests`, or that is one too many in the air.

    A limit holds from the commit of its change. What was permitted before that and is on its way may still arrive, for
    `way_seconds` and within the limit of before: of such requests there are no more than its concurrency.
    """
    moments = sorted(arrival.at for arrival in arrivals)
    found: list[str] = []
    excused = dict.fromkeys(range(len(changes)), 0)
    for arrival in arrivals:
        place = max((n for n, change in enumerate(changes) if change.began <= arrival.at), default=0)
        why = _excess(arrival, moments, changes[place].limit)
        if why is None:
            continue
        now, before = changes[place], changes[place - 1] if place else None
        if before and arrival.at <= now.committed + way_seconds and not _excess(arrival, moments, before.limit):
            # Before the commit is known, the limit of before still holds for everybody.
            excused[place] += arrival.at > now.committed
            if excused[place] <= before.limit.concurrency:
                continue
        found.append(f"limit {now.limit}: {why}, {arrival.at - now.committed:.3f} s after it was set")
    return found


def _excess(arrival: Arrival, moments: Sequence[float], limit: Limit) -> str | None:
    """What this arrival is too many of. Two that are exactly a window apart do not share it."""
    first = bisect_left(moments, arrival.at - limit.per_seconds + 1e-9)
    many = bisect_left(moments, arrival.at + 1e-9) - first
    if many > limit.requests:
        return f"{many} requests in {limit.per_seconds:g} s"
    return f"{arrival.in_flight} in the air" if arrival.in_flight > limit.concurrency else None


def permitted(changes: Sequence[Change], end: float) -> float:
    """How many requests these limits allow from the first of them until `end`."""
    ends = [change.committed for change in changes[1:]] + [end]
    return sum(
        (to - change.committed) * change.limit.requests / change.limit.per_seconds
        for change, to in zip(changes, ends, strict=True)
    )


def way_seconds(delay_seconds: float = 0.0) -> float:
    """How long after its permission a request may arrive: what the door allows, and the line's delay."""
    return PERMIT_SECONDS + delay_seconds + 0.1
