"""Laws of the sweep windows: every closed day once, today never, none too long."""

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from providers.adapter import SweepPage
from schedules.windows import closed_windows, round_complete, sweep_start

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


def _pages(*counts: int | None) -> list[SweepPage]:
    last = len(counts)
    return [SweepPage(number=n, count=count, last=n == last) for n, count in enumerate(counts, 1)]


def test_a_closed_window_is_complete_when_the_keys_equal_a_steady_count() -> None:
    """Fewer keys, more keys or a count that moved between pages call for another round."""
    verdicts = [
        round_complete(_pages(45, 45), 45, today=False),
        round_complete(_pages(45, 45), 44, today=False),
        round_complete(_pages(45, 45), 46, today=False),
        round_complete(_pages(44, 45), 45, today=False),
        round_complete(_pages(0), 0, today=False),
        round_complete([], 0, today=False),
    ]
    assert verdicts == [True, False, False, False, True, False]


def test_todays_window_is_complete_when_the_keys_reach_the_first_count() -> None:
    """Orders that came while the pages were read do not keep today's window open."""
    verdicts = [
        round_complete(list(reversed(_pages(45, 46))), 45, today=True),
        round_complete(_pages(45, 46), 44, today=True),
        round_complete(_pages(45), 50, today=True),
    ]
    assert verdicts == [True, False, True]


def test_without_a_count_the_last_page_ends_the_round() -> None:
    """A provider that tells no count is believed when it says that no page follows."""
    open_end = [SweepPage(number=1, count=None, last=False)]
    assert [round_complete(_pages(None, None), 7, today=False), round_complete(open_end, 7, today=True)] == [
        True,
        False,
    ]
