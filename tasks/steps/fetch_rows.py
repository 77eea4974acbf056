"""Fetches as rows to insert, made of the adapter's specs: each with its rank and its ids."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from ulak.models.ledger import opening
from ulak.models.tracked import AskedId
from ulak.providers.adapter import Account, Adapter, FetchSpec
from ulak.tasks.steps.tracking import due_id

YOUNG = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Fetches to insert, and the closed day through which the plan sweeps (None where it sweeps none)."""

    fetches: tuple[opening.NewFetch, ...] = ()
    sweep_through: date | None = None
    opens_today: bool = False
    """Today's window is part of the plan: its interval begins anew once the plan is stored."""
    opens_closed: bool = False
    """The same of the closed days."""


def new_fetch(
    spec: FetchSpec, *, priority: int, ids: tuple[int, ...] = (), walk: int | None = None
) -> opening.NewFetch:
    """A row to insert for an adapter's spec."""
    return opening.NewFetch(
        kind=spec.kind,
        params=spec.params,
        label=spec.label,
        priority=priority,
        round=spec.round,
        ids=ids,
        walk=walk,
    )


def window_fetches(
    adapter: Adapter, account: Account, windows: Iterable[tuple[date, date]], today: date, priority: int | None = None
) -> tuple[opening.NewFetch, ...]:
    """Page one of each window."""
    fetches: list[opening.NewFetch] = []
    for start, end in windows:
        rank = opening.PRIORITY_TODAY if end >= today else opening.PRIORITY_CLOSED_DAYS
        specs = adapter.plan_window(account, start, end)
        fetches += [new_fetch(spec, priority=priority or rank) for spec in specs]
    return tuple(fetches)


def fetches_for(
    adapter: Adapter, account: Account, ids: Sequence[AskedId], now: datetime, priority: int | None = None
) -> tuple[opening.NewFetch, ...]:
    """The adapter's fetches for these tracked ids, as rows to insert, in the order of their first ids."""
    due = [due_id(each) for each in ids]
    by_key = {each.key: tracked_id for each, tracked_id in zip(due, ids, strict=True)}
    turns = {key: turn for turn, key in enumerate(by_key)}
    specs = adapter.plan_ids(account, due, now.astimezone(UTC).date())
    fetches = []
    for spec in sorted(specs, key=lambda spec: min((turns[key] for key in spec.ids if key in turns), default=0)):
        asked = [by_key[key] for key in spec.ids if key in by_key]
        youngest = max((each.sent_at for each in asked), default=now)
        rank = opening.PRIORITY_YOUNG if now - youngest < YOUNG else opening.PRIORITY_OLD
        fetches.append(new_fetch(spec, priority=priority or rank, ids=tuple(each.id for each in asked)))
    return tuple(fetches)
