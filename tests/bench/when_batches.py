"""The same world where a call answers for a batch of ids (`when_world`), and the reference that it is judged by.

Real beside what `when_world` drives: when a batch is worth its call, and which ids a burst holds back
(`ulak.schedules.batching`). Made again: what `ulak.tasks.steps.due_ids` does with the database's rows.
"""

import heapq
import math
from collections import deque
from dataclasses import dataclass, field

from when_world import ANSWER_SECONDS, DAY, TICK, World

from ulak.schedules.batching import WaitingId, expected_waiting, half_age, is_worth_a_call
from ulak.tasks.steps.due_ids import FILL_SECONDS, MAX_CANDIDATES
from ulak.tasks.steps.fetch_rows import YOUNG


@dataclass
class BatchWorld(World):
    """Calls of up to `batch` ids; `greedy`: the reference, which knows the distribution and follows no schedule.

    It asks for whichever ids are expected to have waited longest, whenever those of one batch have waited for `price`.
    """

    greedy: float | None = None
    first_checks: list[float] = field(default_factory=list)
    """The probability that a message was final when it was checked first, of each."""

    def __post_init__(self) -> None:
        """What is due is kept by message."""
        self.waiting: dict[int, float] = {}
        self.batches: deque[list[int]] = deque()

    def _gather(self, now: float) -> None:
        while self.due and self.due[0][0] <= now:
            moment, number = heapq.heappop(self.due)
            if self.messages[number].seen is None:
                self.waiting[number] = moment

    def _next_tick(self, tick: float, arrival: float, learned_at: float) -> float:
        del arrival, learned_at
        return tick + TICK

    def _take(self, now: float, room: int) -> None:
        free = max(0, room - len(self.batches))
        if free:
            for batch in self._greedy_batches(now, free) if self.greedy is not None else self._batches(now, free):
                self.batches.append(batch)
                for number in batch:
                    self.waiting.pop(number, None)
        self.busy.append((now, bool(self.batches)))

    def _as_waiting(self, number: int, now: float) -> WaitingId:
        assert self.latency is not None
        message = self.messages[number]
        return WaitingId(
            latency=self.latency, checked=message.checked, age=now - message.sent, missed=self.missed, announced=None
        )

    def _greedy_batches(self, now: float, free: int) -> list[list[int]]:
        on_way = {number for batch in self.batches for number in batch}
        waits = sorted(((expected_waiting(self._as_waiting(n, now)), n) for n in self.open - on_way), reverse=True)
        found = []
        for start in range(0, min(len(waits), free * self.batch), self.batch):
            part = waits[start : start + self.batch]
            if sum(wait for wait, _ in part) < (self.greedy or 0.0):
                break
            found.append([number for _, number in part])
        return found

    def _batches(self, now: float, free: int) -> list[list[int]]:
        """What `ulak.tasks.steps.due_ids.due_id_fetches` plans."""
        many = free * self.batch
        due = sorted(self.waiting, key=lambda number: (self._turn(number, now), number))
        if len(due) >= many and self.latency is not None:
            half = half_age(self.latency)
            due = [n for n in due if self.messages[n].checked or now - self.messages[n].sent >= half]
        is_all, due = len(due) < many, due[:many]
        if not due:
            return []
        missing = -len(due) % self.batch
        soon = [
            n
            for at, n in heapq.nsmallest(MAX_CANDIDATES, self.due)
            if at <= now + FILL_SECONDS and self.messages[n].seen is None
        ]
        if self.latency is not None:
            soon.sort(key=lambda n: -expected_waiting(self._as_waiting(n, now)))
        fillers = soon[:missing]
        may_wait = self.latency is not None and all(now - self.messages[n].sent < DAY for n in due)
        due += fillers
        if is_all and may_wait and not is_worth_a_call((self._as_waiting(n, now) for n in due), self.price):
            return []
        left = set(fillers)
        self.due = [entry for entry in self.due if entry[1] not in left]
        heapq.heapify(self.due)
        return [due[start : start + self.batch] for start in range(0, len(due), self.batch)]

    def _turn(self, number: int, now: float) -> float:
        moment, age = self.waiting[number], now - self.messages[number].sent
        return moment - (3600 if age < YOUNG.total_seconds() and now - moment < 3600 else 0)

    def _call(self, now: float) -> None:
        while self.batches and max(now, self.slots[0]) < now + TICK:
            at = max(now, self.slots[0])
            heapq.heapreplace(self.slots, at + ANSWER_SECONDS + self.limit[1])
            self.calls.append(at)
            for number in self.batches.popleft():
                if not self.messages[number].checked and self.latency is not None:
                    self.first_checks.append(self.latency.below(at - self.messages[number].sent)[0])
                self._answer(number, at)

    def _waiting_calls(self) -> int:
        return math.ceil(len(self.waiting) / self.batch) + len(self.batches)
