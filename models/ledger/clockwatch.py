"""Noticing that the database's clock was stepped: it is compared with the machine's boot clock, which never is.

The database's clock minus the boot clock of one machine stays the same, whatever happens, unless one of the two is
stepped: NTP corrects the database's clock, somebody sets it, or a failover leads to a server with another clock. The
difference of one machine means nothing on another, so every process watches for itself; the last difference of a
machine is stored, so that a process that has just started knows what was true before it.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Lock
from typing import Final

from sqlalchemy import Connection, text

from ulak.core import clock

TOLERATED_SECONDS: Final = 1.0
"""The limiter does not notice a step of up to so many seconds: a window may be shorter by as much."""
NARROW_SECONDS: Final = 0.5
"""A reading less certain than this never replaces a better one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The database's clock minus this machine's boot clock, in seconds: something from `least` to `most`."""

    least: float
    most: float
    taken: float
    """Boot clock when the reading was complete."""

    @classmethod
    def between(cls, before: float, database: datetime, after: float) -> "Reading":
        """The database's clock was read at some moment between two looks at the boot clock."""
        seconds = database.timestamp()
        return cls(least=seconds - after, most=seconds - before, taken=after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """By how many seconds the database's clock was stepped: something from `least` to `most`; back where negative."""

    least: float
    most: float

    @property
    def seconds(self) -> float:
        """The best estimate."""
        return (self.least + self.most) / 2

    @property
    def is_step(self) -> bool:
        """Whether this is certainly more than what is tolerated."""
        return self.least > TOLERATED_SECONDS or self.most < -TOLERATED_SECONDS

    def without(self, seconds: float) -> "Movement":
        """What is left of it when that much is known already."""
        return Movement(least=self.least - seconds, most=self.most - seconds)


_BEGIN = text("""
    SELECT coalesce((SELECT max(id) FROM clock_steps), 0) AS newest, r.ahead_least, r.ahead_most, r.step_id
    FROM (SELECT 1) AS one LEFT JOIN clock_readings r ON r.boot_id = :boot_id
""")
_KEEP = text("""
    INSERT INTO clock_readings AS r (boot_id, ahead_least, ahead_most, step_id, at)
    VALUES (:boot_id, :least, :most, :step_id, clock_timestamp())
    ON CONFLICT (boot_id) DO UPDATE SET ahead_least = excluded.ahead_least, ahead_most = excluded.ahead_most,
        step_id = excluded.step_id, at = excluded.at
""")


@dataclass(slots=True)
class ClockWatch:
    """What one process knows of the database's clock. For all its threads."""

    boot_id: str | None = field(default_factory=clock.boot_id)
    behind: timedelta = timedelta(0)
    """By how much the steps of the last day have set the database's clock back in all, as of the last look.

    A time of the database's clock is compared with one that a provider states only after this is added to it: what lies
    ahead by no more than the clock was set back has come already.
    """
    _reference: Reading | None = None
    _step_id: int = 0
    _has_begun: bool = False
    _lock: Lock = field(default_factory=Lock, repr=False)

    @property
    def step_id(self) -> int:
        """The newest noted step that the reference already contains."""
        return self._step_id

    def begin(self, connection: Connection) -> None:
        """Before the first comparison: take over what another process of this machine knew. Costs nothing later."""
        if self._has_begun:
            return
        row = connection.execute(_BEGIN, {"boot_id": self.boot_id}).one()
        is_known = row.step_id is not None
        with self._lock:
            # Of threads that begin at once, the first one's reference may have been renewed already.
            if self._reference is None:
                self._step_id = row.step_id if is_known else row.newest
                self._reference = Reading(least=row.ahead_least, most=row.ahead_most, taken=0.0) if is_known else None
            self._has_begun = True

    def movement(self, reading: Reading) -> Movement:
        """By how much the clock has moved since the reference; nothing where there is none yet."""
        with self._lock:
            known = self._reference
        if known is None:
            return Movement(least=0.0, most=0.0)
        return Movement(least=reading.least - known.most, most=reading.most - known.least)

    def has_stepped(self, reading: Reading) -> bool:
        """Whether the database's clock was stepped since the last look; if not, the reading is the new reference.

        Drift and slewing thus never add up to a step.
        """
        if self.movement(reading).is_step:
            return True
        with self._lock:
            known = self._reference
            is_later = known is None or reading.taken > known.taken
            is_good = known is None or reading.most - reading.least <= max(NARROW_SECONDS, known.most - known.least)
            if is_later and is_good:
                self._reference = reading
        return False

    def know(self, step_id: int) -> None:
        """The reference contains the steps up to `step_id`: a look has just shown none beside them."""
        with self._lock:
            self._step_id = step_id

    def adopt(self, reading: Reading, step_id: int, behind: timedelta) -> None:
        """The steps up to `step_id` have been dealt with: compare with this reading from now on."""
        with self._lock:
            self._reference, self._step_id, self.behind = reading, step_id, behind

    def keep(self, connection: Connection) -> None:
        """Store the reference for whoever starts on this machine later."""
        with self._lock:
            known, step_id = self._reference, self._step_id
        if known is None or self.boot_id is None:
            return
        parameters = {"boot_id": self.boot_id, "least": known.least, "most": known.most, "step_id": step_id}
        connection.execute(_KEEP, parameters)
