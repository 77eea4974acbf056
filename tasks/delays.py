"""Where the messages of a worker wait for their moment, and one thread publishes them: nobody waits for the broker.

Celery's own countdown is a moment of the wall clock, which the consumer compares with *its* clock; where two hosts'
clocks are apart by minutes, messages would come minutes late or spin. Here the delay is a boot-clock duration. What is
lost with the process is a message, and the reconciler repeats those.
"""

import heapq
from collections.abc import Callable
from itertools import count
from threading import Condition, Thread

from ulak.core import clock
from ulak.tasks.messages import Message


class Delays:
    """A heap of waiting messages and one daemon thread that publishes each at its moment.

    So a request whose permit holds for a second never waits for a broker that is away.
    """

    def __init__(self, publish: Callable[[Message], object]) -> None:
        """`publish` is called in the thread; it must not raise."""
        self._publish = publish
        self._waiting: list[tuple[float, int, Message]] = []
        self._numbers = count()
        self._changed = Condition()
        self._thread: Thread | None = None
        self._is_closed = False

    def put(self, message: Message) -> None:
        """Publish `message` after its countdown; at once when the process is stopping."""
        if self._is_closed:
            self._publish(message.early())
            return
        with self._changed:
            moment = clock.boot() + message.countdown_seconds
            heapq.heappush(self._waiting, (moment, next(self._numbers), message))
            if self._thread is None:
                self._thread = Thread(target=self._run, name="delays", daemon=True)
                self._thread.start()
            self._changed.notify()

    def flush(self) -> None:
        """Publish everything, and all that comes yet, at once: the process is stopping. Too early costs a look."""
        self._is_closed = True
        with self._changed:
            rest, self._waiting = [message for _, _, message in sorted(self._waiting)], []
        for message in rest:
            self._publish(message.early())

    def _run(self) -> None:
        while True:
            self._publish(self._next())

    def _next(self) -> Message:
        """The next message, when its moment has come."""
        with self._changed:
            while True:
                left = self._waiting[0][0] - clock.boot() if self._waiting else None
                if left is not None and left <= 0:
                    return heapq.heappop(self._waiting)[2]
                self._changed.wait(left)
