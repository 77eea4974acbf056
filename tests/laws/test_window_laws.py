"""Laws of the sweep windows: every closed day once, today never, none too long; and nothing slips past a reading."""

from collections.abc import Callable
from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provider_list import ProviderList, walk

from ulak.models.report import WalkedPage
from ulak.schedules.windows import COMPLETE, DRIFTING, Verdict, closed_windows, judge_reading, sweep_start

days = st.dates(date(2026, 1, 1), date(2026, 12, 31))


@given(days, days, st.integers(1, 40))
def test_every_closed_day_lies_in_exactly_one_window(start: date, today: date, max_days: int) -> None:
    """The windows hold each day from the start to yesterday once and in order, today never, and none is too long."""
    windows = closed_windows(start, today, max_days)
    covered = [first + timedelta(days=offset) for first, last in windows for offset in range((last - first).days + 1)]
    expected = [start + timedelta(days=offset) for offset in range(max((today - start).days, 0))]
    assert covered == expected
    assert all((last - first).days <= max_days - 1 for first, last in windows)


@given(days, st.integers(0, 30), st.one_of(st.none(), days), st.one_of(st.none(), days))
def test_a_sweep_leaves_nothing_behind(today: date, lookback: int, through: date | None, oldest: date | None) -> None:
    """The start is no later than today, the lookback, the watermark's eve and the oldest open order."""
    start = sweep_start(today, lookback, through, oldest)
    bounds = [today - timedelta(days=lookback)]
    bounds += [through - timedelta(days=1)] if through else []
    bounds += [oldest] if oldest else []
    assert start == min([today, *bounds])


def _read(number: int, count: int | None, *seen: str, size: int | None = 2, attempt: int = 1) -> WalkedPage:
    last = len(seen) < 2 if count is None else number * 2 >= count
    return WalkedPage(round=attempt, number=number, count=count, last=last, seen=seen, size=size, newest_first=True)


def _keys(first: int, last: int) -> tuple[str, ...]:
    return tuple(str(key) for key in range(first, last + 1))


@pytest.mark.parametrize(
    ("reads", "verdict"),
    [
        ([_read(1, 0)], COMPLETE),
        ([_read(1, 2, "a", "b")], COMPLETE),
        ([_read(1, 4, "a", "b"), _read(2, 4, "c", "d")], COMPLETE),
        # An order came into a page still to be read: the page that the larger count needs is read as well.
        ([_read(1, 4, "a", "b"), _read(2, 5, "c", "new")], Verdict(pages=(3,))),
        ([_read(1, 4, "a", "b"), _read(2, 5, "c", "new"), _read(3, 5, "d")], COMPLETE),
        # One left page one, and the first order of page two moved there unseen.
        ([_read(1, 5, "a", "b"), _read(2, 4, "d", "e"), _read(3, 4)], Verdict(pages=(1, 2), is_new_attempt=True)),
        # A row that could not be read, or a count that is wrong.
        ([_read(1, 2, "a")], Verdict(pages=(1,), is_new_attempt=True)),
        ([_read(1, 2, "a"), _read(1, 2, "a", attempt=2)], Verdict(pages=(1,), is_new_attempt=True)),
        ([_read(1, 2, "a"), _read(1, 2, "a", attempt=2), _read(1, 2, "a", attempt=3)], DRIFTING),
        # No page can hold so many.
        ([_read(1, 10**9, "a", "b")], DRIFTING),
        # Without a count, a short page ends the list.
        ([_read(1, None, "a")], COMPLETE),
        ([_read(1, None, "a", "b")], Verdict(pages=(1,), is_new_attempt=True)),
        # Pages that an older version stored tell no size: the longest page does.
        ([_read(1, 3, "a", "b", size=None), _read(2, 3, "c", size=None)], COMPLETE),
        ([_read(1, 4, "a", "b", size=None), _read(2, 5, "c", "d", size=None)], Verdict(pages=(3,))),
    ],
)
def test_a_reading_is_complete_or_says_which_pages_are_to_be_read(reads: list[WalkedPage], verdict: Verdict) -> None:
    """Named cases: what moved, and what is read again because of it."""
    assert judge_reading(reads) == verdict


movements = st.lists(st.tuples(st.integers(0, 8), st.sampled_from("+-i~"), st.integers(0, 24)), max_size=8)


@st.composite
def lists(draw: st.DrawFn) -> ProviderList:
    """A list of up to six pages, in either order."""
    size = draw(st.integers(3, 5))
    many = draw(st.integers(0, 6 * size))
    return ProviderList([f"old-{key}" for key in range(many)], size, draw(st.booleans()))


def _mover(provider: ProviderList, plan: list[tuple[int, str, int]], kinds: str) -> Callable[[int], None]:
    """Movements of these kinds only, fewer than a page: `+` arrives at the growing end, `i` anywhere, `-` leaves."""
    acts = {"+": lambda _: provider.arrive_at_the_end(), "i": provider.arrive, "-": provider.leave, "~": provider.swap}
    chosen = [step for step in plan if step[1] in kinds][: provider.size - 1]

    def move(request: int) -> None:
        for when, kind, place in chosen:
            if when == request:
                acts[kind](place)

    return move


@pytest.mark.parametrize("kinds", ["+-", "i", "~"])
@settings(max_examples=600)
@given(provider=lists(), plan=movements)
def test_no_order_slips_past_a_complete_reading(kinds: str, provider: ProviderList, plan: list) -> None:  # type: ignore[type-arg]
    """Arrivals at the growing end with departures anywhere; arrivals anywhere; changes of place: both orders."""
    there = set(provider.orders)
    done = walk(provider, _mover(provider, plan, kinds))
    if done.verdict.is_complete:
        assert there - provider.removed - done.seen == set()


@given(provider=lists(), plan=movements)
def test_movement_of_any_kind_costs_half_more_at_most(provider: ProviderList, plan: list) -> None:  # type: ignore[type-arg]
    """Every reading ends; of four pages and more none costs more than half again, a shorter one two requests."""
    done = walk(provider, _mover(provider, plan, "+-i~"))
    pages = max(
        1, -(-len([key for key in [*provider.orders, *provider.removed] if key.startswith("old")]) // provider.size)
    )
    assert len(done.reads) <= max(pages + 2, pages * 3 // 2)


@given(provider=lists())
def test_a_list_that_rests_is_read_once(provider: ProviderList) -> None:
    """Each page once; where the oldest come first, page one once more at the end."""
    done = walk(provider, lambda _: None)
    assert (done.verdict, len(done.reads)) == (COMPLETE, done.undisturbed)
    assert done.seen == set(provider.orders)
