"""How many bytes the threads of one process may hold together."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class Budget:
    """A number of bytes that is shared out. For any number of threads.

    An amount above the whole budget is granted when nothing else is held, so that it can proceed alone.
    """

    def __init__(self, total: int) -> None:
        """`total`: bytes."""
        self.total = total
        self._held = 0
        self._change = Condition()
        self._queue: deque[object] = deque()

    @property
    def held(self) -> int:
        """Bytes that are taken now."""
        return self._held

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue)

    def take(self, amount: int, *, leave: int = 0) -> bool:
        """Take this many more bytes if at least `leave` remain; returns whether it did."""
        with self._change:
            if not self._has_room(amount, leave):
                return False
            self._held += amount
            return True

    def give(self, amount: int) -> None:
        """Give back what was taken."""
        with self._change:
            self._held -= amount
            self._change.notify_all()

    def wait(self, amount: int, seconds: float) -> bool:
        """Take so many bytes as soon as they are there; False where they are not within so many seconds.

        First come, first served: otherwise small amounts would starve a large one.
        """
        turn = object()
        with self._change:
            self._queue.append(turn)
            try:
                is_there = self._change.wait_for(
                    lambda: self._queue[0] is turn and self._has_room(amount, 0), max(0.0, seconds)
                )
                if is_there:
                    self._held += amount
            finally:
                self._queue.remove(turn)
                self._change.notify_all()
        return is_there

    @contextmanager
    def holding(self, amount: int, seconds: float) -> Iterator[bool]:
        """Hold so many bytes during the block; its value is whether they came within so many seconds."""
        is_held = self.wait(amount, seconds)
        try:
            yield is_held
        finally:
            if is_held:
                self.give(amount)

    def _has_room(self, amount: int, leave: int) -> bool:
        return self._held + amount <= self.total - leave or not self._held
