"""Whether this process can store what it is sent, asked of PostgreSQL on a connection that only probes use."""

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from ulak.core import clock
from ulak.models.database import make_engine
from ulak.models.database_errors import took_too_long
from ulak.models.job_runs import prove_write, stalls
from ulak.models.ledger.clocksteps import last_step
from ulak.models.schema import known_revisions, schema_is_behind

PATIENCE_SECONDS: Final = 0.5
WRITES_EVERY_SECONDS: Final = 10.0
AWAY: Final = "The database does not answer."
SLOW: Final = "The database does not answer within half a second."
TAKES_NO_WRITES: Final = "The database takes no writes: it is a standby, read-only, or out of disk."

_ROLE = text("SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on'")


@dataclass(slots=True)
class Readiness:
    """Answers every probe within `patience_seconds`, however long the database takes and whatever the requests do.

    Each kind of question has a thread and a connection: one about progress never delays one about callbacks. Probes
    that come while a question waits for its answer wait for the same one.
    """

    engine: Engine
    patience_seconds: float = PATIENCE_SECONDS
    notes: list[str] = field(default_factory=list)
    """What happened lately that operators should know although everything moves, as of the last look at progress."""
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, thread_name_prefix="probe"))
    _asked: dict[bool, Future[list[str]]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)
    _wrote_at: float | None = None
    _write_failed: bool = False

    @classmethod
    def beside(cls, engine: Engine, patience_seconds: float = PATIENCE_SECONDS) -> "Readiness":
        """For the database of this engine, whose own connections it leaves alone."""
        # Reading the scripts of all migrations takes longer than a probe may.
        known_revisions()
        own = make_engine(
            engine.url.render_as_string(hide_password=False),
            pool_size=2,
            statement_timeout_seconds=patience_seconds,
            connect_timeout_seconds=2,
            application_name="ulak-probe",
        )
        return cls(own, patience_seconds)

    async def reasons(self, *, progress: bool) -> list[str]:
        """Why this process is not ready, one sentence each; `progress`: include stalled work."""
        asked = asyncio.wrap_future(self._ask(progress=progress))
        try:
            return await asyncio.wait_for(asyncio.shield(asked), self.patience_seconds)
        except TimeoutError:
            return [SLOW]

    def close(self) -> None:
        """Close the connection; a question that still waits for its answer ends by its time-outs."""
        self._thread.shutdown(wait=False)
        self.engine.dispose()

    def _ask(self, *, progress: bool) -> Future[list[str]]:
        with self._lock:
            asked = self._asked.get(progress)
            if asked is None or asked.done():
                asked = self._asked[progress] = self._thread.submit(self._look, progress=progress)
            return asked

    def _look(self, *, progress: bool) -> list[str]:
        try:
            with self.engine.connect() as connection:
                if connection.execute(_ROLE).scalar_one():
                    # The next session may lead to the new primary, where this one never will.
                    connection.invalidate()
                    return [TAKES_NO_WRITES]
                if schema_is_behind(connection):
                    return ["The schema is older than this program: run `ulak migrate`."]
                if not self._can_write(connection):
                    return [TAKES_NO_WRITES]
                if not progress:
                    return []
                step = last_step(connection)
                self.notes = [step] if step else []
                return stalls(connection)
        except SQLAlchemyError as error:
            return [SLOW if took_too_long(error) else AWAY]

    def _can_write(self, connection: Connection) -> bool:
        """Whether a row could be written, tried at most every ten seconds; what was found then holds in between."""
        now = clock.boot()
        if self._wrote_at is None or now - self._wrote_at >= WRITES_EVERY_SECONDS:
            self._wrote_at = now
            try:
                prove_write(connection)
                connection.commit()
            except SQLAlchemyError:
                self._write_failed = True
            else:
                self._write_failed = False
        return not self._write_failed
