"""Which days a list sweep reads, how they are grouped, and when a sweep has seen all: pure functions.

Today is a window of its own, because it still grows. Closed days are grouped as long as the provider allows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise

from ulak.models.report import WalkedPage

MAX_ATTEMPTS = 3
ALLOWANCE = 0.5
"""Movement may cost so many calls more, as a part of an undisturbed reading …"""
ALLOWANCE_AT_LEAST = 2
"""… but for windows of fewer than four pages, where half would not suffice to read anything again."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the pages read so far mean: `is_complete`, or `pages` to read next in this order, or neither: drifting."""

    is_complete: bool = False
    pages: tuple[int, ...] = ()
    is_new_attempt: bool = False
    """Whether `pages` are read again because something moved; otherwise they belong to the attempt that goes on."""


COMPLETE = Verdict(is_complete=True)
DRIFTING = Verdict()


def judge_reading(reads: Sequence[WalkedPage]) -> Verdict:
    """Whether a poll has seen all that a window held when it began to read it; otherwise what is to be read again.

    `reads`: every page of the window that this poll has read, in the order of reading.

    Complete: the distinct keys reach the largest count that any page reported (less what has left since), every page
    that this count needs was read, and no change of the count lies between two pages in the direction in which an
    order can slip past unseen. What moved is read again where it moved, not from the start. At most three attempts,
    and never more than `ALLOWANCE` pages beyond those of an undisturbed reading.

    The reading direction makes arrivals harmless. Newest first: upwards from page one, so arrivals push orders into
    pages still to come, and a departure shows as a falling count. Oldest first: page one for the count, then downwards
    from the last page to page one once more, so departures pull orders into pages still to come.

    No order that existed all the time is missed by a complete poll if, during its reading, orders only arrive at the
    growing end and leave anywhere, or only arrive (anywhere), or only change places; each by less than a page.
    A departure together with an arrival elsewhere than at the growing end, both between the same two requests, leaves
    no trace in any page; the next sweep reads those days again.
    """
    counts = [read.count for read in reads if read.count is not None]
    if not counts:
        # Without a count the window is whole where one short page holds it all.
        return COMPLETE if any(read.last for read in reads) else _again(reads, [1], left=MAX_ATTEMPTS - len(reads))
    size = max(read.size or len(read.seen) for read in reads)
    read_pages = {read.number for read in reads}
    planned = min(_pages(counts[0], size), max(read_pages))
    left = planned + max(ALLOWANCE_AT_LEAST, int(planned * ALLOWANCE)) - len(reads)
    needed = _pages(max(counts), size)
    if needed - len(read_pages) > left:
        return DRIFTING
    unread = [page for page in range(1, needed + 1) if page not in read_pages]
    if unread:
        return Verdict(pages=tuple(unread))
    directions = [read.newest_first for read in reads if read.newest_first is not None]
    is_downwards = is_read_downwards(newest_first=directions[0] if directions else None)
    if is_downwards and needed > 1 and not _is_read_after(reads, 1, _first_index(reads, 2)):
        return Verdict(pages=(1,)) if left >= 1 else DRIFTING
    end = needed if is_downwards else 1
    suspects = _slipped(reads, upwards=True) if not is_downwards else _pushed_past(reads, _pages(counts[0], size), end)
    if not _is_accounted_for(reads, counts):
        suspects |= _unaccounted(reads, counts, size=size, end=end)
    return _again(reads, sorted(suspects, reverse=is_downwards), left=left) if suspects else COMPLETE


def is_read_downwards(*, newest_first: bool | None) -> bool:
    """Whether the pages after page one are read from the last one down (see `judge_reading`)."""
    return newest_first is False


def _pages(count: int, size: int) -> int:
    """How many pages hold `count` keys, at least one."""
    return max(1, -(-count // size)) if size else 1


def _again(reads: Sequence[WalkedPage], pages: Sequence[int], *, left: int) -> Verdict:
    """Read these pages again, if attempts and allowance suffice."""
    if len(pages) > left or max(read.round for read in reads) >= MAX_ATTEMPTS:
        return DRIFTING
    return Verdict(pages=tuple(pages), is_new_attempt=True)


def _first_index(reads: Sequence[WalkedPage], number: int) -> int:
    return next(index for index, read in enumerate(reads) if read.number == number)


def _is_read_after(reads: Sequence[WalkedPage], number: int, index: int) -> bool:
    return any(read.number == number for read in reads[index + 1 :])


def _changes(reads: Sequence[WalkedPage]) -> Iterator[tuple[int, WalkedPage, WalkedPage, int]]:
    """(index of the later read, earlier read, later read, change of the count) of each two successive reads."""
    counted = [(index, read) for index, read in enumerate(reads) if read.count is not None]
    for (_, before), (index, after) in pairwise(counted):
        yield index, before, after, (after.count or 0) - (before.count or 0)


def _slipped(reads: Sequence[WalkedPage], *, upwards: bool) -> set[int]:
    """Both pages of every two between which an order may have slipped past, and that were not read again since.

    Upwards (page i, then a later one) a falling count pulls orders back to page i; downwards a growing one pushes them.
    """
    suspects: set[int] = set()
    for index, before, after, change in _changes(reads):
        step = after.number - before.number
        is_harmful = (step > 0 and change < 0) if upwards else (step < 0 and change > 0)
        if is_harmful and not _is_read_in_order(reads[index + 1 :], before.number, after.number):
            suspects |= {before.number, after.number}
    return suspects


def _pushed_past(reads: Sequence[WalkedPage], first_end: int, end: int) -> set[int]:
    """Of a reading downwards in which orders arrived and left: where an arrival may have pushed an order past it.

    Without a departure the number of keys tells that; with one it may hide it. Arrivals at the end push nothing: they
    are the keys that the last pages (from `first_end`) showed later only.
    """
    changes = [(index, change) for index, _, _, change in _changes(reads)]
    rises = [index for index, change in changes if change > 0]
    if not rises or all(change >= 0 for _, change in changes):
        return set()
    if not _is_read_after(reads, end, rises[-1] - 1):
        return {end}
    start = _first_index(reads, first_end) + 1
    earlier = {key for read in reads[:start] for key in read.seen}
    at_the_end = {key for read in reads[start:] if read.number >= first_end for key in read.seen} - earlier
    arrived = sum(change for _, change in changes if change > 0)
    return _slipped(reads, upwards=False) if arrived > len(at_the_end) else set()


def _is_read_in_order(reads: Sequence[WalkedPage], one: int, other: int) -> bool:
    """Whether a read of `one` is followed by one of `other`."""
    numbers = [read.number for read in reads]
    return one in numbers and other in numbers[numbers.index(one) + 1 :]


def _is_accounted_for(reads: Sequence[WalkedPage], counts: Sequence[int]) -> bool:
    """Whether the distinct keys reach the largest count; an order that left before its page was read is no key."""
    departed = sum(max(0, -change) for _, _, _, change in _changes(reads))
    return len({key for read in reads for key in read.seen}) + departed >= max(counts)


def _unaccounted(reads: Sequence[WalkedPage], counts: Sequence[int], *, size: int, end: int) -> set[int]:
    """The pages to look at where keys are missing: the growing end first, then wherever something moved or is short."""
    rises = [index for index, _, _, change in _changes(reads) if change > 0]
    if rises and not _is_read_after(reads, end, rises[-1] - 1):
        return {end}
    first_page: dict[str, int] = {}
    suspects = _slipped(reads, upwards=False)
    for read in reads:
        suspects |= {first_page[key] for key in read.seen if first_page.setdefault(key, read.number) != read.number}
    latest = {read.number: read for read in reads}
    suspects |= {
        number for number, read in latest.items() if len(set(read.seen)) < min(size, max(counts) - size * (number - 1))
    }
    return suspects or {end}
