"""The beat entries as pure data: when Celery's own beat sends which task.

Ticks are idempotent ("look what is due"), so two beats may run without a lock and a lost tick costs nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ulak.core import task_names

RECONCILE_SECONDS = 5.0
EXPIRE_SECONDS = 60.0
PRUNE_SECONDS = 3600.0
EARLY = 0.95
"""An interval counts as over a little early, or a tick that comes a moment too soon would lose a whole tick."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One periodic task. A tick that nobody took in its interval is worthless: the next sees all that is due."""

    name: str
    task: str
    every_seconds: float
    kwargs: dict[str, Any] = field(default_factory=dict)
    display: str = ""


def entries(providers: Iterable[str], *, tick_seconds: float) -> tuple[Entry, ...]:
    """One planning entry per provider, plus upkeep."""
    planning = tuple(
        Entry(
            name=f"plan {provider}",
            task=task_names.POLL_PROVIDER,
            every_seconds=tick_seconds,
            kwargs={"provider": provider},
            display=provider,
        )
        for provider in providers
    )
    return (
        *planning,
        Entry(name="reconcile", task=task_names.UPKEEP_RECONCILE, every_seconds=RECONCILE_SECONDS),
        Entry(name="expire", task=task_names.UPKEEP_EXPIRE, every_seconds=EXPIRE_SECONDS),
        Entry(name="prune", task=task_names.UPKEEP_PRUNE, every_seconds=PRUNE_SECONDS),
    )
