"""Removing deliveries that were kept long enough, a few at a time, after it was announced (`ulak.models.keeping`)."""

from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection

from ulak.core import clock
from ulak.models.changes import forget_erasures
from ulak.models.database import transaction
from ulak.models.events import Action, Actor, Event, Kind, Via, record
from ulak.models.keeping import Step
from ulak.models.retention import BEGINNING, Moved, concerned, move_on, remove_some
from ulak.tasks.effects import Effects, commit
from ulak.tasks.isolation import isolated
from ulak.tasks.runtime import Runtime

RUN_SECONDS: Final = 20.0
"""How long one run removes, beside the end of the moment that it has reached; the next minute's run continues."""
BATCH_SECONDS: Final = 0.04
"""How long a batch should take: no writer waits longer for a row that it removes."""
MIN, MAX = 50, 2000
"""Rows of a batch."""
_UPKEEP: Final = Actor(kind=Kind.SYSTEM, name="ulak")
_ACTIONS: Final = {
    Step.ANNOUNCED: Action.RETENTION_ANNOUNCED,
    Step.STARTED: Action.RETENTION_STARTED,
    Step.CANCELLED: Action.RETENTION_CANCELLED,
}


def retain(runtime: Runtime, effects: Effects) -> None:
    """Let what is due of every account's retention take effect, then remove what is older, in turns, for a while."""
    with runtime.engine.connect() as connection:
        accounts = concerned(connection)
    waiting: dict[str, _Turn] = {}
    for account in accounts:
        with isolated("retention.failed", account=account):
            moved = commit(runtime.engine, effects, lambda c, e, account=account: _move_on(c, e, account))  # type: ignore[misc]
            if moved.keeping.kept_from is not None:
                waiting[account] = _Turn(account, moved.keeping.kept_from)
    ends = clock.boot() + RUN_SECONDS
    turns = list(waiting.values())
    while turns:
        turns = [turn for turn in turns if turn.take(runtime)]
        if clock.boot() >= ends:
            break
    for turn in turns:
        turn.finish_moment(runtime)
    for turn in waiting.values():
        if turn.removed:
            commit(runtime.engine, effects, turn.note)


class _Turn:
    """One account's share of a run."""

    def __init__(self, account: str, before: datetime) -> None:
        self.account, self.before = account, before
        self.since, self.many, self.removed = BEGINNING, MIN * 4, 0

    def take(self, runtime: Runtime) -> bool:
        """Remove one batch; whether there may be more."""
        goes_on = False
        with isolated("retention.failed", account=self.account):
            began = clock.boot()
            with transaction(runtime.engine) as connection:
                batch = remove_some(connection, self.account, self.before, self.many, since=self.since)
            took = clock.boot() - began
            self.removed += batch.removed
            self.since, goes_on = batch.before, not batch.is_last
            self.many = next_size(self.many, took)
        return goes_on

    def finish_moment(self, runtime: Runtime) -> None:
        """Remove what is left of the moment at which the last batch ended.

        Until then the feed of changes does not tell what is gone of it, and the removal may be cancelled after the run.
        """
        self.before = self.since + timedelta(microseconds=1)
        while self.take(runtime):
            pass

    def note(self, connection: Connection, effects: Effects) -> None:
        """Record what was removed."""
        forget_erasures(connection)
        details = {"before": self.before.isoformat(), "deliveries": self.removed}
        _record(connection, Action.DELIVERIES_REMOVED, self.account, details)
        effects.info("retention.removed", account=self.account, **details)


def next_size(many: int, took_seconds: float) -> int:
    """How many rows the next batch removes, after one of this size; it grows to four times as many at most. Pure."""
    fitting = int(many * BATCH_SECONDS / max(took_seconds, BATCH_SECONDS / 4))
    return max(MIN, min(MAX, fitting))


def _move_on(connection: Connection, effects: Effects, account: str) -> Moved:
    moved = move_on(connection, account)
    action = _ACTIONS.get(moved.step)
    if action is not None:
        details = _details(moved)
        _record(connection, action, account, details)
        effects.warning(action.value, account=account, **details)
    return moved


def _details(moved: Moved) -> dict[str, Any]:
    """What people should know of it: figures and times."""
    details: dict[str, Any] = {"keep_days": moved.keeping.keep_days}
    if moved.removal is not None:
        removal = moved.removal
        details |= {
            "deliveries": removal.deliveries,
            "before": removal.before.isoformat(),
            "starts_at": removal.starts_at.isoformat(),
        }
    elif moved.keeping.kept_from is not None:
        details["before"] = moved.keeping.kept_from.isoformat()
    return details


def _record(connection: Connection, action: Action, account: str, details: dict[str, Any]) -> None:
    record(connection, Event(action=action, actor=_UPKEEP, via=Via.UPKEEP, account=account, details=details))
