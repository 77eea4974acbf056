"""How often each account's lists are read, by how much they have shown lately: a step of upkeep."""

from itertools import groupby

from ulak.models import sweep_intervals
from ulak.models.account import find
from ulak.models.database import transaction
from ulak.models.latencies import in_force
from ulak.models.objectives import read_objective
from ulak.providers.effective import every_seconds, record_of
from ulak.providers.registry import ADAPTERS
from ulak.schedules.plans import missed_of
from ulak.schedules.poll_times import PRICE_SECONDS
from ulak.schedules.sweeping import MAX_SECONDS, Sweep, longest_for, sweep_seconds
from ulak.tasks.isolation import isolated
from ulak.tasks.runtime import Runtime

MOVED = 0.1
"""An interval that would be longer or shorter by this part is written."""


def pace_all(runtime: Runtime) -> None:
    """Set the interval of every account whose lists are swept and that names none itself."""
    sweeping = [name for name, adapter in ADAPTERS.items() if adapter.record.sweep_window_days is not None]
    with transaction(runtime.engine) as connection:
        found = sweep_intervals.last_sweeps(connection, sweeping)
    for account_id, rows in groupby(found, key=lambda each: each.account):
        swept = [
            Sweep(age=(each.now - each.started_at).total_seconds(), news=each.news, calls=each.calls) for each in rows
        ]
        with isolated("poll.pacing_failed", account=account_id):
            _pace(runtime, account_id, swept)


def _pace(runtime: Runtime, account_id: str, swept: list[Sweep]) -> None:
    """One account's interval; written only where it has moved."""
    with transaction(runtime.engine) as connection:
        stored = find(connection, account_id)
        if stored is None:
            return
        plan, factor, record = in_force(stored), stored.time_factor, record_of(stored)
        seconds = factor * sweep_seconds(
            [Sweep(age=each.age / factor, news=each.news, calls=each.calls) for each in swept],
            over=max(swept[-1].age, record.every_seconds) / factor,
            price=float(plan.get("price", PRICE_SECONDS)),
            calls_per_second=stored.calls_per_second * factor,
            missed=min((missed_of(plan, kind) for kind in record.settled_by_parts), default=1.0),
            most=_longest(stored.objective) / factor,
        )
        before = every_seconds(stored)
        if abs(seconds - before) > MOVED * before:
            sweep_intervals.keep(connection, account_id, seconds)


def _longest(objective: str | None) -> float:
    """The longest interval, in seconds, with which the account can keep its objective."""
    if objective is None:
        return MAX_SECONDS
    wanted = read_objective(objective)
    return longest_for(wanted.percent / 100.0, wanted.seconds)
