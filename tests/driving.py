"""Driving the steps in one process, without Celery: threads take messages from a heap that may lose or repeat them.

The threads do what a worker does, the caller's thread what beat does. So a whole pipeline runs against real servers
within seconds, and each message that a broker could lose, delay or deliver twice can be lost, delayed and doubled.
"""

import heapq
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count

from sqlalchemy import Engine, text

from ulak.core import clock, task_names
from ulak.models.database import retry_transaction
from ulak.models.ledger.taking import wake
from ulak.models.quarantine import new_key
from ulak.providers.http import HttpDoor
from ulak.providers.registry import ADAPTERS
from ulak.tasks.effects import Effects
from ulak.tasks.messages import Message, wake_up
from ulak.tasks.runtime import CredentialCache, Runtime
from ulak.tasks.steps import planning, upkeep
from ulak.tasks.steps.draining import drain


def make_runtime(
    engine: Engine,
    *,
    threads: int = 8,
    tick_seconds: float = 0.25,
    lease_margin_seconds: float = 1.0,
    resolve: Callable[[str], str] | None = None,
) -> Runtime:
    """The means of one process, its ticks and leases short; `resolve` finds credentials behind references."""
    return Runtime(
        engine=engine,
        door=HttpDoor(max_connections=threads + 2, boot=clock.boot),
        seal_key=new_key(),
        credentials=CredentialCache() if resolve is None else CredentialCache(resolve=resolve),
        tick_seconds=tick_seconds,
        lease_margin_seconds=lease_margin_seconds,
    )


class Driver:
    """One worker process in miniature, with beat: `with driver: driver.until(...)`."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        threads: int = 6,
        plans: bool = True,
        reconcile_seconds: float = 0.5,
        fate: Callable[[Message], int] = lambda _: 1,
    ) -> None:
        """`fate`: how often a message is delivered: 0 loses it, 2 doubles it. `plans`: whether beat plans."""
        self.runtime = runtime
        self.taken: Counter[str] = Counter()
        self.failures: list[BaseException] = []
        self._threads = threads
        self._plans = plans
        self._reconcile_seconds = reconcile_seconds
        self._fate = fate
        self._heap: list[tuple[float, int, Message]] = []
        self._numbers = count()
        self._change = threading.Condition()
        self._ended = False

    @contextmanager
    def running(self) -> Iterator["Driver"]:
        """Threads that work off the messages, while the block runs; a failure of theirs is raised at its end."""
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(self._threads)]
        for worker in workers:
            worker.start()
        try:
            yield self
        finally:
            with self._change:
                self._ended = True
                self._change.notify_all()
            for worker in workers:
                worker.join(40)
            self.runtime.door.close()
        if self.failures:
            raise self.failures[0]

    def send(self, messages: Iterable[Message]) -> None:
        """Publish, as often as fate wants."""
        with self._change:
            for message in messages:
                for _ in range(self._fate(message)):
                    due = time.monotonic() + message.countdown_seconds
                    heapq.heappush(self._heap, (due, next(self._numbers), message))
            self._change.notify_all()

    def emit(self, steps: Iterable[Effects]) -> None:
        """Publish and log what a step returns, as it goes on."""
        for effects in steps:
            self.send(effects.messages)
            effects.write_log()

    def until(self, condition: Callable[[], object], *, seconds: float) -> bool:
        """Beat until `condition` holds or the time is over; says which."""
        end = time.monotonic() + seconds
        next_tick = next_reconcile = 0.0
        while (now := time.monotonic()) < end and not self.failures:
            if self._plans and now >= next_tick:
                next_tick = now + self.runtime.tick_seconds
                for provider in ADAPTERS:
                    self.emit(planning.plan_due(self.runtime, provider))
            if now >= next_reconcile:
                next_reconcile = now + self._reconcile_seconds
                self.emit([upkeep.reconcile(self.runtime)])
            if condition():
                return True
            time.sleep(0.05)
        return False

    def _work(self) -> None:
        while True:
            message = self._next()
            if message is None:
                return
            try:
                self.emit(performed(self.runtime, message))
                self.taken[message.task] += 1
            except Exception as error:  # noqa: BLE001 - it is raised where the driver ends
                self.failures.append(error)

    def _next(self) -> Message | None:
        with self._change:
            while not self._ended:
                wait = self._heap[0][0] - time.monotonic() if self._heap else 1.0
                if self._heap and wait <= 0:
                    return heapq.heappop(self._heap)[2]
                self._change.wait(min(wait, 1.0))
        return None


def performed(runtime: Runtime, message: Message) -> Iterator[Effects]:
    """What the task of a message does: one step; gives what the step wants to be done, as it goes on."""
    values = message.kwargs
    if message.task in {task_names.FETCH_PAGE, task_names.FETCH_BATCH}:
        yield from drain(runtime, values["fetch_id"])
    elif message.task == task_names.POLL_ACCOUNT:
        yield planning.plan_poll(runtime, values["account_id"], values["poll_id"])
    elif message.task == task_names.DISPATCH_ACCOUNT:
        wanted = retry_transaction(runtime.engine, lambda c: wake(c, values["account_id"], by_message=True))
        yield Effects(messages=[*wake_up(wanted)])
    else:
        raise AssertionError(message.task)


def perform(runtime: Runtime, message: Message) -> list[Message]:
    """What the step of a message wants to be sent, once it has come to its end."""
    return sent_by(performed(runtime, message))


def sent_by(steps: Iterable[Effects]) -> list[Message]:
    """The messages of a step that is run to its end."""
    return [message for effects in steps for message in effects.messages]


def scalar(engine: Engine, query: str, **values: object) -> object:
    """One value of the database."""
    with engine.connect() as connection:
        return connection.execute(text(query), values).scalar_one()


def miscounted_polls(engine: Engine, account_id: str | None = None) -> list[tuple[object, ...]]:
    """Polls whose `open_fetches` is not the number of their open fetches, or that run with none, or ended with some.

    Of one account, or of all: other tests leave what they like in a database that is shared.
    """
    with engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT id, state, open_fetches, found FROM (SELECT p.*, (SELECT count(*) FROM fetches f"
                " WHERE f.poll_id = p.id AND f.state IN ('ready', 'sending')) AS found FROM polls p) p"
                " WHERE (open_fetches <> found OR (state IN ('complete', 'complete_with_errors') AND found > 0)"
                " OR (state = 'running' AND planned_at IS NOT NULL AND found = 0))"
                " AND account_id = coalesce(:a, account_id)"
            ),
            {"a": account_id},
        )
        return [tuple(row) for row in rows]
