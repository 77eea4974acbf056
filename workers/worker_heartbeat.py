"""Every few seconds a worker announces itself and the number of its threads (see `ulak.models.ledger.sharing`).

It looks at the database's clock as often, so that a step is noticed where no call is made
(`ulak.tasks.steps.clock_watching`).
"""

from threading import Event, Thread

from sqlalchemy.exc import SQLAlchemyError

from ulak.core.logging import get_logger
from ulak.models.database import transaction
from ulak.models.ledger import sharing
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps import clock_watching

log = get_logger(__name__)


class WorkerHeartbeat:
    """Announces one worker until it is stopped. An unavailable database is harmless: the next one follows soon."""

    def __init__(self, runtime: Runtime, name: str, threads: int) -> None:
        """`name`: unique among all workers, as `worker-1@host`."""
        self._runtime = runtime
        self._name = name
        self._threads = threads
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> None:
        """Announce now and from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Take the word back, at once: what this worker's threads still hold in hand, the others count as calls."""
        self._stopped.set()

    def _run(self) -> None:
        while True:
            stopped = self._stopped.is_set()
            try:
                if not stopped:
                    clock_watching.look(self._runtime)
                with transaction(self._runtime.engine) as connection:
                    if stopped:
                        sharing.withdraw(connection, self._name)
                    else:
                        sharing.announce(connection, self._name, self._threads)
            except SQLAlchemyError as error:
                log.debug("worker.heartbeat_failed", error=type(error).__name__)
            if stopped:
                return
            self._stopped.wait(sharing.ANNOUNCE_SECONDS)
