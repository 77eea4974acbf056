"""How long deliveries are kept: when `keep_days` of an account takes effect, and what it removes then. Pure.

Age counts from `message_time`. What is older than `kept_from` is removed, and a report about it is counted and not
stored. `kept_from` is a stored moment and not "now minus so many days": the remover and every writer decide by the same
value, and with it held fixed no result depends on the order, the grouping or the repetition of reports. It moves once a
day, at midnight UTC, and never back, so that what was removed does not return when `keep_days` grows.

A `keep_days` that is new, or shorter than the one in force, removes nothing yet: it is announced, and takes effect
`NOTICE` later. Until then the one in force stays. Whatever would remove more than `LEAP` at once is announced, too: the
clock may be wrong. A longer one takes effect at once; without `keep_days` everything is kept from the next minute on,
and nothing is refused any more.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from enum import Enum, auto
from typing import Final

MIN_DAYS: Final = 7
"""Below that, validity periods and repeated reads of lists are not over."""
MAX_DAYS: Final = 36_500
ADVISED_DAYS: Final = 180
NOTICE: Final = timedelta(days=1)
"""Between the announcement of a removal and its start."""
LEAP: Final = timedelta(days=7)
"""By more than this `kept_from` does not move without another announcement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """How an account's deliveries are kept."""

    keep_days: int | None = None
    """As accounts.toml says it; None: forever."""
    keep_days_in_force: int | None = None
    """By which `kept_from` moves; None: nothing is removed (yet)."""
    removal_days: int | None = None
    """The shortest `keep_days` that has been announced and is not in force yet."""
    removal_starts_at: datetime | None = None
    """When it takes effect."""
    kept_from: datetime | None = None
    """What was sent before is removed, and not stored any more; None: everything is kept."""

    def removes_before(self, now: datetime) -> datetime | None:
        """Up to which `message_time` deliveries are removed once `keep_days` is in force; None where all are kept."""
        if self.keep_days is None:
            return None
        today = datetime.combine(now.astimezone(UTC), time(), UTC)
        before = today - timedelta(days=self.keep_days)
        return before if self.kept_from is None else max(before, self.kept_from)


class Step(Enum):
    """What became of an account's retention."""

    NOTHING = auto()
    ANNOUNCED = auto()
    """A removal has been announced."""
    CANCELLED = auto()
    """A removal that was announced, or under way, does not take place."""
    STARTED = auto()
    """The notice is over: removal begins."""
    MOVED = auto()
    """It is another day, or more days are kept."""


def advance(keeping: Keeping, now: datetime) -> tuple[Keeping, Step]:
    """What holds from `now` on, and what has changed by it."""
    wanted, in_force = keeping.keep_days, keeping.keep_days_in_force
    if wanted is None:
        return Keeping(), Step.NOTHING if keeping == Keeping() else Step.CANCELLED
    if in_force is None or wanted < in_force:
        return _give_notice(keeping, wanted, now)
    moved = replace(keeping, keep_days_in_force=wanted, removal_days=None, removal_starts_at=None)
    if _leaps(moved, now):
        return _announced(replace(keeping, keep_days_in_force=None), now), Step.ANNOUNCED
    moved = replace(moved, kept_from=moved.removes_before(now))
    step = Step.MOVED if keeping.removal_days is None else Step.CANCELLED
    return moved, Step.NOTHING if moved == keeping else step


def _give_notice(keeping: Keeping, wanted: int, now: datetime) -> tuple[Keeping, Step]:
    """Announce it, wait, or begin."""
    starts_at, days = keeping.removal_starts_at, keeping.removal_days
    # One that begins later than a day from now was announced by a clock that was ahead; one that should have begun long
    # ago would remove more than was announced.
    if starts_at is None or days is None or wanted < days or not starts_at - NOTICE <= now <= starts_at + LEAP:
        return _moved_on(_announced(keeping, now), now), Step.ANNOUNCED
    if now < starts_at:
        moved = _moved_on(keeping, now)
        return moved, Step.NOTHING if moved == keeping else Step.MOVED
    started = replace(keeping, keep_days_in_force=wanted, removal_days=None, removal_starts_at=None)
    return replace(started, kept_from=started.removes_before(now)), Step.STARTED


def _announced(keeping: Keeping, now: datetime) -> Keeping:
    return replace(keeping, removal_days=keeping.keep_days, removal_starts_at=now + NOTICE)


def _leaps(keeping: Keeping, now: datetime) -> bool:
    """Whether more than `LEAP` would be removed at once: upkeep has not run for as long, or the clock is wrong."""
    before = keeping.removes_before(now)
    return keeping.kept_from is not None and before is not None and before - keeping.kept_from > LEAP


def _moved_on(keeping: Keeping, now: datetime) -> Keeping:
    """Until a shorter time is in force, the previous one continues to apply."""
    if keeping.keep_days_in_force is None:
        return keeping
    before = replace(keeping, keep_days=keeping.keep_days_in_force)
    return keeping if _leaps(before, now) else replace(keeping, kept_from=before.removes_before(now))
