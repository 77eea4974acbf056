"""A provider, its messages and one account in virtual time, driven by the production functions.

Real: when an id is checked first and next (`ulak.schedules.policy`), what is learned (`ulak.schedules.learning`), the
schedule (`ulak.schedules.poll_times`), the price (`ulak.schedules.pricing`), and how many calls a plan holds
(`ulak.tasks.steps.due_ids`).

Made again here, since production has them as SQL: which due id goes first (`ulak.models.tracked`), and the formula of
the limiter: a slot is used again `per_seconds` after its request was answered.
"""

import heapq
import math
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from itertools import accumulate
from random import Random

from ulak.providers.adapter import PollSchedule
from ulak.schedules.announcements import Announced, counted, has_moved
from ulak.schedules.latency import EDGES, END, Latency, edge
from ulak.schedules.learning import Learned, learn
from ulak.schedules.policy import first_check, next_check
from ulak.schedules.poll_times import MAX_PRICE, PRICE_SECONDS, Bounds, PollTimes, poll_times, price_for_calls
from ulak.schedules.pricing import calls_per_message, steered
from ulak.tasks.steps.due_ids import capacity
from ulak.tasks.steps.fetch_rows import YOUNG

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = 86400.0
NUMBERS = PollSchedule(steps_seconds=(5.0, 20.0, 60.0), growth=1.6, max_seconds=1800.0)
TICK = 5.0
LEARN_EVERY = 60.0
ANSWER_SECONDS = 0.15
CALLBACK_SECONDS = 1.0

LAWS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "fast": ((0.95, 4, 0.6), (0.98, 300, 1.0)),
    "mixed": ((0.80, 6, 1.0), (0.92, 600, 1.2), (0.97, 8 * 3600, 0.8)),
    "slow": ((0.40, 60, 0.8), (0.85, 1200, 1.0), (0.95, 6 * 3600, 0.8)),
}
"""Up to this share: (median, sigma) of a lognormal; the rest is final only at the end of validity."""


def draw(rng: Random, law: str) -> float:
    """The latency of one message."""
    dice = rng.random()
    for upto, median, sigma in LAWS[law]:
        if dice < upto:
            return min(DAY, median * math.exp(sigma * rng.gauss(0, 1)))
    return DAY


def drawn(plan: Sequence[tuple[int, str]], per_minute: float, seed: int) -> list[tuple[float, float]]:
    """(moment, latency) of each message of a plan [(how many, law), …], by moment."""
    rng, at, arrivals = Random(seed), 0.0, []
    for many, law in plan:
        for _ in range(many):
            at += rng.expovariate(per_minute / 60)
            arrivals.append((at, draw(rng, law)))
    return arrivals


@dataclass(slots=True)
class Message:
    """One message, and what is known of it."""

    sent: float
    latency: float
    checked: float = 0.0
    checked_before: float = 0.0
    seen: float | None = None
    calls: int = 0
    announced: bool = False


@dataclass
class World:
    """One account that sends `plan` = [(how many, law), …] at `per_minute`, or exactly these `sends`."""

    plan: Sequence[tuple[int, str]] = ()
    per_minute: float = 1.0
    seed: int = 1
    sends: Sequence[tuple[float, float]] | None = None
    """(moment, latency) of each message, by moment."""
    tick: float = TICK
    learn_every: float = LEARN_EVERY
    adaptive: bool = True
    fixed_latency: Latency | None = None
    """Tests and references may fix the distribution."""
    limit: tuple[int, float] = (20, 60.0)
    batch: int = 1
    """How many ids a call answers for."""
    callbacks: float = 0.0
    """The part of the final states that a callback announces, a second after they are …"""
    callbacks_end: int | None = None
    """… of the messages before this one; None: of all."""
    snapshots: dict[int, PollTimes | None] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    price: float = PRICE_SECONDS
    share: float = 1.0
    priced_share: float = 0.0
    slots_used: int = 0
    busy: list[tuple[float, bool]] = field(default_factory=list)
    """(moment, whether work was waiting) of each tick."""
    calls: list[float] = field(default_factory=list)
    shifts: list[int] = field(default_factory=list)
    callback_shifts: list[int] = field(default_factory=list)
    learn_seconds: list[float] = field(default_factory=list)

    def run(self, *, until: float | None = None) -> "World":
        """Until all is final, or the clock says `until`."""
        arrivals = drawn(self.plan, self.per_minute, self.seed) if self.sends is None else self.sends
        self.times: PollTimes | None = None
        self.latency = self.fixed_latency
        if self.latency is not None:
            self.times = poll_times(self.latency, self.price / self.batch, Bounds(validity=DAY))
        self.known: Learned | None = None
        self.closed: list[int] = []
        self.coming: list[tuple[float, int]] = []
        self.announced, self.missed = Announced(), 1.0
        self.uncounted = [0, 0]
        self.luck = Random(self.seed + 1)
        self.open: set[int] = set()
        self.due: list[tuple[float, int]] = []
        self.young: list[tuple[float, int]] = []
        self.old: list[tuple[float, int]] = []
        self.ready: deque[int] = deque()
        self._planned: set[tuple[float, int]] = set()
        self.slots = [0.0] * self.limit[0]
        room = capacity({"limit_requests": self.limit[0], "limit_per_seconds": self.limit[1]})  # type: ignore[arg-type]
        tick, place, learned_at = 0.0, 0, 0.0
        while (place < len(arrivals) or self.open) and (until is None or tick < until):
            tick = self._next_tick(tick, arrivals[place][0] if place < len(arrivals) else math.inf, learned_at)
            while place < len(arrivals) and arrivals[place][0] <= tick:
                self._register(*arrivals[place])
                place += 1
                if place in self.snapshots:
                    self.snapshots[place] = self.times
            self._hear(tick)
            self._gather(tick)
            self._take(tick, room)
            if tick >= learned_at + self.learn_every:
                self._learn(tick, tick - learned_at)
                learned_at = tick
            self._call(tick)
        return self

    def _next_tick(self, tick: float, arrival: float, learned_at: float) -> float:
        """Ticks in which nothing can happen are skipped."""
        if self.ready or self.young or self.old:
            return tick + self.tick
        soonest = min(
            arrival,
            self.coming[0][0] if self.coming else math.inf,
            self.due[0][0] if self.due else math.inf,
            learned_at + self.learn_every,
        )
        return max(tick + self.tick, math.ceil(soonest / self.tick) * self.tick)

    def _register(self, at: float, latency: float) -> None:
        number = len(self.messages)
        self.messages.append(Message(sent=at, latency=latency))
        self.open.add(number)
        sent = START + timedelta(seconds=at)
        moment = first_check(NUMBERS, sent_at=sent, valid_until=sent + timedelta(days=1), now=sent, learned=self.times)
        heapq.heappush(self.due, ((moment - START).total_seconds(), number))

        is_told = self.callbacks_end is None or number < self.callbacks_end
        if is_told and latency < DAY and self.luck.random() < self.callbacks:
            heapq.heappush(self.coming, (at + latency + CALLBACK_SECONDS, number))

    def _hear(self, now: float) -> None:
        """Callbacks that have come by now."""
        while self.coming and self.coming[0][0] <= now:
            at, number = heapq.heappop(self.coming)
            message = self.messages[number]
            if message.seen is None:
                # As in production: a callback shows the moment itself.
                message.checked_before = message.checked = at - message.sent
                message.announced = True
                self._close(number, at)

    def _close(self, number: int, at: float) -> None:
        self.messages[number].seen = at
        self.open.discard(number)
        self.closed.append(number)
        if self.messages[number].checked < DAY:
            # What is final only at the end of validity is checked right then anyway.
            self.uncounted[not self.messages[number].announced] += 1

    def _gather(self, now: float) -> None:
        """What is due is in both queues of `ulak.models.tracked`: the young ones' and everybody's."""
        while self.due and self.due[0][0] <= now:
            entry = heapq.heappop(self.due)
            if self.messages[entry[1]].seen is not None:
                continue
            heapq.heappush(self.old, entry)
            if now - self.messages[entry[1]].sent < YOUNG.total_seconds():
                heapq.heappush(self.young, entry)

    def _take(self, now: float, room: int) -> None:
        """Plan what fits into the horizon: young ones an hour earlier, as long as they are due for less."""
        taken = self._planned
        while len(self.ready) < room:
            for queue in (self.young, self.old):
                while queue and (
                    queue[0] in taken
                    or self.messages[queue[0][1]].seen is not None
                    or (
                        queue is self.young
                        and (now - self.messages[queue[0][1]].sent >= 3600 or now - queue[0][0] >= 3600)
                    )
                ):
                    heapq.heappop(queue)
            turns = [
                (queue[0][0] - (3600 if queue is self.young else 0), queue) for queue in (self.young, self.old) if queue
            ]
            if not turns:
                break
            entry = heapq.heappop(min(turns, key=lambda turn: turn[0])[1])
            taken.add(entry)
            self.ready.append(entry[1])
        self.busy.append((now, bool(self.ready)))

    def _call(self, now: float) -> None:
        """The calls of this tick: each as soon as a slot is free."""
        end = now + self.tick
        while self.ready and max(now, self.slots[0]) < end:
            at = max(now, self.slots[0])
            if self.messages[self.ready[0]].seen is not None:
                self.ready.popleft()
                continue
            heapq.heapreplace(self.slots, at + ANSWER_SECONDS + self.limit[1])
            self.calls.append(at)
            self._answer(self.ready.popleft(), at)

    def _answer(self, number: int, at: float) -> None:
        message = self.messages[number]
        message.calls += 1
        message.checked_before, message.checked = message.checked, at - message.sent
        if message.latency <= at - message.sent:
            self._close(number, at)
            return
        sent, now = START + timedelta(seconds=message.sent), START + timedelta(seconds=at)
        moment = next_check(NUMBERS, sent_at=sent, valid_until=sent + timedelta(days=1), now=now, learned=self.times)
        assert moment is not None
        heapq.heappush(self.due, ((moment - START).total_seconds(), number))

    def _learn(self, now: float, seconds: float) -> None:
        if not self.adaptive:
            return
        per_second = self.limit[0] / self.limit[1]
        waiting = self._waiting_calls() / per_second
        is_new = len(self.closed) >= (max(10.0, 0.01 * self.known.messages) if self.known else 1)
        shifts = self.announced.shifts
        self.announced = counted(self.announced, announced=self.uncounted[0], missed=self.uncounted[1])
        self.uncounted = [0, 0]
        if self.announced.shifts > shifts:
            self.callback_shifts.append(len(self.messages))
        is_told = has_moved(self.missed, self.announced.missed_share)
        if is_told:
            self.missed = self.announced.missed_share
        if is_new:
            self._fit(now)
        self.share = steered(self.share, waiting_seconds=waiting, seconds=seconds)
        if self.latency is None or self.known is None:
            return
        calls = calls_per_message(
            calls_per_second=per_second * self.batch, messages_per_second=self.known.per_second, share=self.share
        )
        bounds = Bounds(validity=DAY)
        if is_new or is_told or abs(self.share - self.priced_share) > 0.01:
            self.priced_share = self.share
            least, most = PRICE_SECONDS / self.batch, MAX_PRICE / self.batch
            price = price_for_calls(self.latency, calls, bounds, missed=self.missed, least=least, most=most)
            self.price = price * self.batch
            self.times = poll_times(self.latency, price, bounds, missed=self.missed)

    def _waiting_calls(self) -> int:
        """The calls for all that is due."""
        waiting = [entry for entry in self.old if entry not in self._planned and self.messages[entry[1]].seen is None]
        return len(waiting) + len(self.ready)

    def _fit(self, now: float) -> None:
        moment = START + timedelta(seconds=now)
        if self.known is None:
            self.known = Learned(since=START, fresh_since=START)
        groups = [(each - START).total_seconds() for each in self.known.groups]
        closed: dict[int, dict[tuple[int, int], float]] = {}
        for number in self.closed:
            message = self.messages[number]
            left = edge(message.checked_before)
            right = END if message.checked > DAY else max(left + 1, edge(message.checked))
            cells = closed.setdefault(bisect_right(groups, message.sent), {})
            cells[left, right] = cells.get((left, right), 0.0) + 1
        still: dict[int, dict[int, float]] = {}
        for number in self.open:
            message = self.messages[number]
            ages = still.setdefault(bisect_right(groups, message.sent), {})
            ages[edge(message.checked)] = ages.get(edge(message.checked), 0.0) + 1
        self.closed = []
        shifts = self.known.shifts
        self.known, latency = learn(self.known, closed, still, moment)
        self.latency = self.fixed_latency or latency
        if self.known.shifts > shifts:
            self.shifts.append(len(self.messages))
        if self.latency is None:
            self.times = None


@cache
def exact(law: str, many: int = 150_000) -> Latency:
    """The law itself, cell by cell, from many messages."""
    rng = Random(3)
    return exact_of([draw(rng, law) for _ in range(many)])


def exact_of(latencies: Sequence[float]) -> Latency:
    """The distribution of these latencies, cell by cell."""
    cells = [0.0] * END
    for latency in latencies:
        cells[END - 1 if latency >= DAY else bisect_right(EDGES, latency) - 1] += 1 / len(latencies)
    return Exact(masses=(), cells=tuple(cells))


@dataclass(frozen=True)
class Exact(Latency):
    """A distribution with a mass for each cell, not for each bin."""

    cells: tuple[float, ...] = ()

    @cached_property
    def cumulated(self) -> tuple[float, ...]:
        """Mass up to each edge."""
        return (0.0, *accumulate(self.cells[:-1]))
