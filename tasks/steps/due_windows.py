"""Which list windows of an account are due: today's at its interval, closed days by the watermark and open orders."""

from collections.abc import Iterable
from datetime import date, timedelta

from sqlalchemy import Connection

from ulak.models.account import StoredAccount
from ulak.models.ledger.planner_queries import oldest_open_order, open_windows, roll_watermark
from ulak.models.ledger.recovery import windows_cooling_down
from ulak.providers.adapter import Account, Adapter
from ulak.providers.effective import configured_every_seconds, every_seconds
from ulak.schedules.beat import EARLY
from ulak.schedules.windows import closed_windows, sweep_start
from ulak.tasks.steps.fetch_rows import Plan, window_fetches

CLOSED_DAYS_EVERY = 10
"""Closed days with open orders are swept at every tenth interval; without, once an hour."""


def due_sweep(connection: Connection, stored: StoredAccount, account: Account, adapter: Adapter) -> Plan:
    """Today's window when its interval has passed; closed days where the watermark or an open order asks for them."""
    if adapter.record.sweep_window_days is None or not _is_tick_due(stored):
        return Plan()
    today = stored.now.astimezone(account.timezone).date()
    running, resting = open_windows(connection, account.id), windows_cooling_down(connection, account.id)
    closed, through = _due_closed(connection, stored, account, adapter, today)
    left_out = {window for window in [(today, today), *closed] if window in running or _overlaps(window, resting)}
    windows = [window for window in [(today, today), *closed] if window not in left_out]
    complete = through if closed and not left_out.intersection(closed) else None
    return Plan(
        fetches=window_fetches(adapter, account, windows, today),
        sweep_through=complete,
        opens_today=True,
        opens_closed=through is not None,
    )


def _overlaps(window: tuple[date, date], others: Iterable[tuple[date, date]]) -> bool:
    return any(first <= window[1] and window[0] <= last for first, last in others)


def _is_tick_due(stored: StoredAccount) -> bool:
    """Whether the interval in force has passed since windows were last opened."""
    interval = timedelta(seconds=every_seconds(stored) * EARLY)
    return stored.planned_at is None or stored.now - stored.planned_at >= interval


def _due_closed(
    connection: Connection, stored: StoredAccount, account: Account, adapter: Adapter, today: date
) -> tuple[list[tuple[date, date]], date | None]:
    """The closed windows to sweep now, and the last day they cover."""
    yesterday = today - timedelta(days=1)
    swept = roll_watermark(connection, account.id)
    oldest = oldest_open_order(connection, account.id, adapter.record.poll.forget_days)
    oldest_day = oldest.astimezone(account.timezone).date() if oldest else None
    if not _is_closed_due(stored, swept_is_behind=swept is None or swept < yesterday, oldest=oldest_day):
        return [], None
    start = sweep_start(today, account.lookback_days, swept, oldest_day)
    return closed_windows(start, today, window_days(account, adapter)), yesterday


def _is_closed_due(stored: StoredAccount, *, swept_is_behind: bool, oldest: date | None) -> bool:
    """Whether closed days are worth a look: an unswept day, an open order, or the hourly look at late changes."""
    if stored.closed_swept_at is None:
        return True
    # Not the interval in force: how much happens today says nothing about late changes of other days.
    every = configured_every_seconds(stored)
    wait = every if swept_is_behind else every * CLOSED_DAYS_EVERY if oldest else 3600.0 * stored.time_factor
    return stored.now - stored.closed_swept_at >= timedelta(seconds=wait)


def window_days(account: Account, adapter: Adapter) -> int:
    """The longest window: the account's option where it is shorter than the provider's."""
    longest = adapter.record.sweep_window_days or 1
    return min(longest, account.options.longest_window_days or longest)
