"""What a poll on demand asks for: windows of its days, and the ids that it names or all that are open."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from sqlalchemy import Connection

from ulak.models.account import StoredAccount
from ulak.models.ledger.opening import PRIORITY_ON_DEMAND, NewFetch, Scope
from ulak.models.pseudonyms import holds_pseudonym
from ulak.models.tracked import AskedId, known_ids, open_ids
from ulak.providers.adapter import Account, Adapter, DueId, FetchSpec
from ulak.providers.effective import adapter_of
from ulak.schedules.windows import closed_windows
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.due_windows import window_days
from ulak.tasks.steps.fetch_rows import new_fetch, window_fetches
from ulak.tasks.steps.tracking import due_id, register

PlanRange = Callable[[Account, Sequence[DueId], date, date], tuple[FetchSpec, ...]]

ON_DEMAND_IDS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a poll on demand asks for."""

    fetches: tuple[NewFetch, ...]
    """Of windows, or of ids over the poll's days."""
    ids: Sequence[AskedId] = ()
    """To be polled in addition."""


def wanted(connection: Connection, runtime: Runtime, stored: StoredAccount, account: Account, poll: Scope) -> Wanted:
    """What this poll asks for; registers the ids that it names."""
    adapter = adapter_of(stored)
    named = None if poll.ids is None else register(connection, runtime, stored, poll.ids)
    first, last, plan_range = poll.window_from, poll.window_to, adapter.record.plan_range
    if first is not None and last is not None and plan_range is not None:
        return Wanted(fetches=_range_fetches(connection, account, (first, last), named, plan_range))
    windows = _wanted_windows(stored, account, adapter, poll)
    today = stored.now.astimezone(account.timezone).date()
    return Wanted(
        fetches=window_fetches(adapter, account, windows, today, PRIORITY_ON_DEMAND),
        ids=_open_ids(connection, account, poll) if named is None else named,
    )


def _range_fetches(
    connection: Connection,
    account: Account,
    days: tuple[date, date],
    named: Sequence[AskedId] | None,
    plan_range: PlanRange,
) -> tuple[NewFetch, ...]:
    """The fetches that ask for ids over the poll's days: those it names, or all that were ever registered.

    Nothing is taken over by id, since a ready fetch of an id asks for other days.
    """
    ids = known_ids(connection, account.id, ON_DEMAND_IDS) if named is None else named
    # Of an account with hashed recipients nobody knows any more what a closed id was.
    due = [due for tracked in ids if not holds_pseudonym((due := due_id(tracked)).key.value)]
    specs = plan_range(account, due, *days)
    return tuple(new_fetch(spec, priority=PRIORITY_ON_DEMAND) for spec in specs)


def _wanted_windows(stored: StoredAccount, account: Account, adapter: Adapter, poll: Scope) -> list[tuple[date, date]]:
    """The windows that an on-demand poll asks for: its own days, or the lookback when it names neither days nor ids."""
    if adapter.record.sweep_window_days is None or (poll.ids is not None and poll.window_from is None):
        return []
    today = stored.now.astimezone(account.timezone).date()
    start = poll.window_from or today - timedelta(days=account.lookback_days)
    end = min(poll.window_to or today, today)
    windows = closed_windows(start, min(end + timedelta(days=1), today), window_days(account, adapter))
    return windows + ([(today, today)] if start <= today <= end else [])


def _open_ids(connection: Connection, account: Account, poll: Scope) -> Sequence[AskedId]:
    """The tracked rows that an on-demand poll without ids asks for: all open ones, none where it names days."""
    return open_ids(connection, account.id, ON_DEMAND_IDS) if poll.window_from is None else []
