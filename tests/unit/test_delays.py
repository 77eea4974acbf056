"""Messages that wait in the process: in the order of their moments, none lost, none early."""

import threading
import time

from tasks.delays import Delays
from tasks.messages import Message, dispatch_account


class Taken:
    """What was published, and when."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.messages: list[tuple[str, float]] = []
        self.arrived = threading.Semaphore(0)
        self.begin = time.monotonic()

    def take(self, message: Message) -> None:
        """Note one."""
        self.messages.append((message.display, time.monotonic() - self.begin))
        self.arrived.release()


def test_messages_leave_in_the_order_of_their_moments_and_none_too_early() -> None:
    """A shorter wait that is put later still goes first."""
    taken = Taken()
    delays = Delays(taken.take)
    for name, seconds in (("late", 1.5), ("soon", 0.1), ("middle", 0.4)):
        delays.put(dispatch_account(name, countdown_seconds=seconds))
    for _ in range(3):
        assert taken.arrived.acquire(timeout=60)
    assert [name for name, _ in taken.messages] == ["soon", "middle", "late"]
    for (_, after), seconds in zip(taken.messages, (0.1, 0.4, 1.5), strict=True):
        assert after >= seconds


def test_what_waits_is_published_at_once_when_the_process_ends() -> None:
    """Each exactly once, though its moment has not come."""
    taken = Taken()
    delays = Delays(taken.take)
    for name in ("one", "two"):
        delays.put(dispatch_account(name, countdown_seconds=60))
    delays.flush()
    delays.flush()
    assert [name for name, _ in taken.messages] == ["one", "two"]
