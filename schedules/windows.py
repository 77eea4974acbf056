"""Which days a list sweep reads, how they are grouped, and when a sweep has seen all: pure functions over days.

Today is a window of its own, because it still grows. Closed days are grouped as long as the provider allows.
"""

from collections.abc import Sequence
from datetime import date, timedelta

from providers.adapter import SweepPage

_DAY = timedelta(days=1)


def sweep_start(today: date, lookback_days: int, swept_through: date | None, oldest_open: date | None) -> date:
    """The first day to read: so far back that neither an outage nor a slow order is left behind.

    `swept_through`: the last day of the last complete sweep; `oldest_open`: the submit day of the oldest open order.
    Never later than today.
    """
    days = [today, today - _DAY * lookback_days]
    if swept_through is not None:
        days.append(swept_through - _DAY)
    if oldest_open is not None:
        days.append(oldest_open)
    return min(days)


def closed_windows(start: date, today: date, max_days: int) -> list[tuple[date, date]]:
    """The closed days `start` … yesterday as windows of at most `max_days` calendar days, both ends inclusive.

    Oldest first. Empty when `start` is today or later.
    """
    if max_days < 1:
        raise ValueError("a window holds at least one day")
    windows = []
    first = start
    while first < today:
        last = min(first + _DAY * (max_days - 1), today - _DAY)
        windows.append((first, last))
        first = last + _DAY
    return windows


def round_complete(pages: Sequence[SweepPage], distinct_keys: int, *, today: bool) -> bool:
    """Whether a round over one window has seen all that the provider says the window holds.

    `pages`: the pages answered in this round, in any order. `distinct_keys`: for a closed window those of this round,
    which must *equal* a count that was the same on every page (a count that moved means that pages shifted under us);
    for today's window those of all rounds together, which must *reach* the count of this round's first page, since
    orders keep coming. Where the provider tells no count, the last page is the end.
    """
    if not pages:
        return False
    first = min(pages, key=lambda page: page.number)
    if first.count is None:
        return any(page.last for page in pages)
    if today:
        return distinct_keys >= first.count
    return {page.count for page in pages} == {distinct_keys}
