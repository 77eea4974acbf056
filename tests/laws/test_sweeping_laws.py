"""Laws of the sweep interval: it follows the rate of news, and its bounds hold whatever happens."""

import math

from hypothesis import given
from hypothesis import strategies as st

from ulak.schedules.sweeping import MAX_OF_LIMIT, MAX_SECONDS, MIN_SECONDS, Sweep, sweep_seconds

sweeps = st.lists(st.builds(Sweep, age=st.floats(0, 1800), news=st.integers(0, 10**5), calls=st.integers(1, 30)))
rates = st.floats(0.01, 50)
prices = st.floats(30, 3600)
shares = st.floats(0.02, 1.0)


@given(sweeps, prices, rates, shares, st.floats(1, 3600))
def test_the_longest_interval_holds_and_sweeps_never_take_the_limit(
    read: list[Sweep], price: float, rate: float, missed: float, most: float
) -> None:
    """An objective binds in any case; where it allows, sweeps leave most of the calls to others."""
    every = sweep_seconds(read, over=900, price=price, calls_per_second=rate, missed=missed, most=most)
    assert 0 < every <= most
    calls = sum(each.calls for each in read) / len(read) if read else 1.0
    assert every >= min(most, MIN_SECONDS)
    assert every >= min(most, calls / (rate * MAX_OF_LIMIT)) * (1 - 1e-9)


@given(sweeps, st.integers(2, 10), shares, shares)
def test_more_news_never_lengthens_the_interval_and_callbacks_never_shorten_it(
    read: list[Sweep], more: int, one: float, other: float
) -> None:
    """Busy accounts are swept often; what callbacks announce needs no sweep."""
    low, high = sorted([one, other])

    def every(news: int, missed: float) -> float:
        busier = [Sweep(age=each.age, news=each.news * news, calls=each.calls) for each in read]
        return sweep_seconds(busier, over=1800, price=30, calls_per_second=1.0, missed=missed)

    assert every(more, high) <= every(1, high) <= every(1, low)


def test_quiet_accounts_are_swept_rarely_busy_ones_often() -> None:
    """One change a second in lists of one page, one change an hour, none."""
    busy = [Sweep(age=60.0 * n, news=60, calls=1) for n in range(30)]
    every = sweep_seconds(busy, over=1800, price=30, calls_per_second=1.0)
    assert math.isclose(every, MIN_SECONDS)
    calm = [Sweep(age=60.0 * n, news=1, calls=1) for n in range(30)]
    assert 45 < sweep_seconds(calm, over=1800, price=30, calls_per_second=1.0) < 75
    rare = [Sweep(age=60.0 * n, news=int(n == 20), calls=1) for n in range(30)]
    assert math.isclose(sweep_seconds(rare, over=1800, price=30, calls_per_second=1.0), MAX_SECONDS)
    assert math.isclose(sweep_seconds([], over=1800, price=30, calls_per_second=1.0), MAX_SECONDS)


def test_callbacks_that_bring_95_per_cent_leave_a_quarter_of_the_sweeps() -> None:
    """At the square root of what is missed."""
    read = [Sweep(age=30.0 * n, news=2, calls=1) for n in range(60)]
    alone, beside = (
        sweep_seconds(read, over=1800, price=30, calls_per_second=1.0, missed=missed) for missed in (1.0, 0.05)
    )
    assert alone / beside <= 0.3
