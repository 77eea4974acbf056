"""Messages that wait in the process: in the order of their moments, none lost, none early."""

import threading
import time
from functools import partial
from typing import Any

from ulak.core import task_names
from ulak.models.ledger.taking import WakeUp
from ulak.tasks.base import publish_or_log
from ulak.tasks.delays import Delays
from ulak.tasks.messages import Message, dispatch_account, wake_up


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


def test_a_message_that_cannot_be_published_does_not_end_the_thread_that_publishes() -> None:
    """Kombu raises what it likes on a connection that was torn meanwhile; the next message finds another one."""
    sent: list[str] = []
    arrived = threading.Event()

    class App:
        """Of which the first connection is torn."""

        def send_task(self, name: str, **_: Any) -> None:
            """Fail once."""
            sent.append(name)
            if len(sent) == 1:
                raise AttributeError("'NoneType' object has no attribute 'client'")
            arrived.set()

    delays = Delays(partial(publish_or_log, App()))
    delays.put(dispatch_account("one", countdown_seconds=0.01))
    delays.put(dispatch_account("two", countdown_seconds=0.05))
    assert arrived.wait(60)
    assert sent == [task_names.DISPATCH_ACCOUNT] * 2


def test_what_waits_is_published_at_once_when_the_process_ends() -> None:
    """Each exactly once, though its moment has not come."""
    taken = Taken()
    delays = Delays(taken.take)
    for name in ("one", "two"):
        delays.put(dispatch_account(name, countdown_seconds=60))
    delays.flush()
    delays.flush()
    assert [name for name, _ in taken.messages] == ["one", "two"]


def test_a_message_that_is_published_early_has_the_account_look_again() -> None:
    """The ledger counts on a message at the moment that it has noted, and nobody else would publish one then."""
    published: list[Message] = []
    delays = Delays(published.append)
    late, due = (
        wake_up(WakeUp(account_id="one", fetch_id=7, kind="page", label="page 1", delay_seconds=seconds))
        for seconds in (60.0, 0.0)
    )
    delays.put(late[0])
    delays.flush()
    delays.put(late[0])
    delays.put(due[0])
    assert [(each.task, dict(each.kwargs)) for each in published] == [
        (task_names.DISPATCH_ACCOUNT, {"account_id": "one"}),
        (task_names.DISPATCH_ACCOUNT, {"account_id": "one"}),
        (task_names.FETCH_PAGE, {"fetch_id": 7}),
    ]
