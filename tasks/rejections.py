"""Counting rejected requests without letting whoever sends them write to the database at will."""

import threading
from collections import Counter
from dataclasses import dataclass, field

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from ulak.core import clock
from ulak.core.logging import get_logger, origin
from ulak.models.database import transaction
from ulak.models.rejections import Rejection, count_rejections

log = get_logger(__name__)

WRITTEN_EVERY_SECONDS = 10.0


@dataclass(slots=True)
class RejectionLog:
    """One process's counts: the first of a kind is written at once, further ones together after some seconds."""

    every_seconds: float = WRITTEN_EVERY_SECONDS
    _waiting: Counter[tuple[str, Rejection]] = field(default_factory=Counter, repr=False)
    _written: dict[tuple[str, Rejection], float] = field(default_factory=dict, repr=False)
    _timer: threading.Timer | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def note(self, engine: Engine, account_id: str, kind: Rejection) -> None:
        """Count one request that was rejected for this account. Never raises for a database that is away.

        At most one write per account and kind in `every_seconds`, whatever comes.
        """
        key, now = (account_id, kind), clock.boot()
        with self._lock:
            self._waiting[key] += 1
            last = self._written.get(key)
            if last is not None and now - last < self.every_seconds:
                if self._timer is None:
                    self._timer = threading.Timer(self.every_seconds, self.flush, (engine,))
                    self._timer.daemon = True
                    self._timer.start()
                return
            self._written[key] = now
            counts = {key: self._waiting.pop(key)}
        self._write(engine, counts)

    def flush(self, engine: Engine) -> None:
        """Write what waits."""
        with self._lock:
            counts, self._waiting, timer, self._timer = dict(self._waiting), Counter(), self._timer, None
            self._written.update(dict.fromkeys(counts, clock.boot()))
        if timer is not None:
            timer.cancel()
        if counts:
            self._write(engine, counts)

    def _write(self, engine: Engine, counts: dict[tuple[str, Rejection], int]) -> None:
        """Write these; where that fails they are counted with the next ones."""
        try:
            with transaction(engine) as connection:
                count_rejections(connection, counts)
            for (account, kind), times in sorted(counts.items()):
                log.warning("callback.rejected", account=account, kind=str(kind), times=times)
        except SQLAlchemyError as error:
            log.warning("rejections.not_written", error=origin(error))
            with self._lock:
                self._waiting.update(counts)
