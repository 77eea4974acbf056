"""How often each account's lists are read, by how much they have shown lately: a step of upkeep."""

from itertools import groupby

from ulak.models import sweep_intervals
from ulak.models.database import transaction
from ulak.models.latencies import in_force
from ulak.models.objectives import read_objective
from ulak.models.tracked import account_of
from ulak.providers.registry import ADAPTERS
from ulak.schedules.plans import missed_of
from ulak.schedules.poll_times import PRICE_SECONDS
from ulak.schedules.sweeping import MAX_SECONDS, Sweep, longest_for, sweep_seconds
from ulak.tasks.isolation import isolated
from ulak.tasks.runtime import Runtime, adapter_of
from ulak.tasks.steps.tracking import time_factor

MOVED = 0.1
"""An interval that would be longer or shorter by this part is written."""


def pace_all(runtime: Runtime) -> None:
    """Set the interval of every account whose lists are swept and that names none itself."""
    sweeping = [name for name, adapter in ADAPTERS.items() if adapter.record.sweep_window_days is not None]
    with transaction(runtime.engine) as connection:
        found = sweep_intervals.last_sweeps(connection, sweeping)
    for account_id, rows in groupby(found, key=lambda row: row["account"]):
        swept = [
            Sweep(age=(row["now"] - row["started_at"]).total_seconds(), news=row["news"], calls=row["calls"])
            for row in rows
            if row["started_at"] is not None
        ]
        with isolated("poll.pacing_failed", account=account_id):
            _pace(runtime, account_id, swept)


def _pace(runtime: Runtime, account_id: str, swept: list[Sweep]) -> None:
    """One account's interval; written only where it has moved."""
    if not swept:
        return
    with transaction(runtime.engine) as connection:
        row = account_of(connection, account_id)
        if row is None:
            return
        plan, factor, record = in_force(row), time_factor(row), adapter_of(row).record
        seconds = factor * sweep_seconds(
            [Sweep(age=each.age / factor, news=each.news, calls=each.calls) for each in swept],
            over=max(swept[-1].age, record.every_seconds) / factor,
            price=float(plan.get("price", PRICE_SECONDS)),
            calls_per_second=float(row["limit_requests"]) / float(row["limit_per_seconds"]) * factor,
            missed=min((missed_of(plan, kind) for kind in record.settled_by_parts), default=1.0),
            most=_longest(row["objective"]) / factor,
        )
        before = sweep_intervals.every_seconds(row, record.every_seconds)
        if abs(seconds - before) > MOVED * before:
            sweep_intervals.keep(connection, account_id, seconds)


def _longest(objective: str | None) -> float:
    """The longest interval, in seconds, with which the account can keep its objective."""
    if objective is None:
        return MAX_SECONDS
    wanted = read_objective(objective)
    return longest_for(wanted.percent / 100.0, wanted.seconds)
