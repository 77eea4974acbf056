"""Laws of learned schedules: whatever the distribution, the price and the bounds."""

import math
from functools import cached_property
from itertools import pairwise

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from typing_extensions import override

from ulak.schedules.batching import WaitingId, expected_waiting, half_age, is_worth_a_call
from ulak.schedules.latency import _WIDTHS, EDGES, END, Latency, edge, fit
from ulak.schedules.poll_times import MAX_PRICE, Bounds, PollTimes, forecast, poll_times, price_for_calls

BINS = len(_WIDTHS)

sparse = st.dictionaries(st.integers(0, BINS - 1), st.floats(0.01, 1.0), min_size=1, max_size=6)
latencies = sparse.map(
    lambda given: Latency(tuple(given.get(place, 1e-4) / (sum(given.values()) + 1e-4 * BINS) for place in range(BINS)))
)
prices = st.floats(0.5, 5000)
validities = st.floats(30, 5 * 86400)
bounds = st.builds(
    Bounds,
    validity=validities,
    first=st.one_of(st.none(), st.floats(0.2, 4000)),
    longest=st.one_of(st.none(), st.floats(5, 4000)),
)
shares = st.floats(0.02, 1.0)


def _total(latency: Latency, times: PollTimes, price: float, validity: float, missed: float = 1.0) -> float:
    return forecast(latency, times, validity, missed=missed).cost(price)


@settings(deadline=None)
@given(latencies, prices, bounds, shares)
def test_bounds_are_kept_whatever_the_distribution(
    latency: Latency, price: float, bound: Bounds, missed: float
) -> None:
    """The first check is at `first`, none is later than `longest` after the one before, none after validity."""
    ages = poll_times(latency, price, bound, missed=missed).all_before(bound.validity)
    assert ages == sorted(set(ages))
    assert all(0 < age < bound.validity for age in ages)
    if bound.first is not None and bound.first >= bound.validity:
        assert ages == []
        return
    if bound.first is not None:
        assert ages[0] == bound.first
    if bound.longest is not None:
        steps = [0.0, *ages, bound.validity]
        firsts = 1 if bound.first is not None else 0
        gaps = [right - left for left, right in list(pairwise(steps))[firsts:]]
        assert all(gap <= bound.longest * (1 + 1e-6) for gap in gaps)


@settings(deadline=None)
@given(latencies, prices, prices, validities, shares)
def test_a_higher_price_never_makes_for_more_calls_or_less_lag(
    latency: Latency, one: float, other: float, validity: float, missed: float
) -> None:
    """The price is the multiplier of the limit: calls fall with it, lag grows."""
    low, high = (
        forecast(latency, poll_times(latency, price, Bounds(validity=validity), missed=missed), validity, missed=missed)
        for price in sorted([one, other])
    )
    assert high.calls <= low.calls + 1e-6
    assert high.lag_seconds >= low.lag_seconds - 1e-6 * validity


@settings(deadline=None)
@given(latencies, prices, validities, st.lists(st.floats(0.001, 1), min_size=1, max_size=30))
def test_no_other_schedule_on_the_edges_is_cheaper(
    latency: Latency, price: float, validity: float, picks: list[float]
) -> None:
    """The oracle: any set of ages among the edges costs at least as much."""
    best = poll_times(latency, price, Bounds(validity=validity))
    choice = [age for age in EDGES if 0 < age < validity]
    assume(choice)
    other = PollTimes(ages=tuple(sorted({choice[int(pick * (len(choice) - 1))] for pick in picks})))
    assert _total(latency, best, price, validity) <= _total(latency, other, price, validity) * (1 + 1e-9)


@settings(deadline=None, max_examples=30)
@given(latencies, prices, st.floats(30, 20_000))
def test_looking_only_as_far_as_the_next_best_step_loses_nothing(
    latency: Latency, price: float, validity: float
) -> None:
    """The best step never decreases with the age: a search over all steps finds no cheaper schedule."""
    grid = [*(age for age in EDGES if age < validity), validity]
    done = [latency.below(age) for age in grid]
    last = len(grid) - 1
    cost = [0.0] * (last + 1)
    for i in range(last - 1, -1, -1):
        cost[i] = min(
            price * (1 - done[i][0]) + grid[j] * (done[j][0] - done[i][0]) - (done[j][1] - done[i][1]) + cost[j]
            for j in range(i + 1, last + 1)
        )
    found = _total(latency, poll_times(latency, price, Bounds(validity=validity)), price, validity)
    assert math.isclose(found, cost[0], rel_tol=1e-6, abs_tol=1e-6)


@settings(deadline=None, max_examples=15)
@given(latencies, st.floats(1.01, 20.0), validities)
def test_the_price_for_so_many_calls_gives_no_more(latency: Latency, calls: float, validity: float) -> None:
    """Unless that takes a price above the highest: no message waits for hours to save a part of a call."""
    bound = Bounds(validity=validity)
    price = price_for_calls(latency, calls, bound, least=1.0)
    assert price <= MAX_PRICE
    if price < MAX_PRICE:
        assert forecast(latency, poll_times(latency, price, bound), validity).calls <= calls + 1e-6


@settings(deadline=None)
@given(latencies, prices, validities, st.floats(0.05, 0.5))
def test_callbacks_make_for_fewer_calls(latency: Latency, price: float, validity: float, missed: float) -> None:
    """What a callback announces needs no check."""
    bound = Bounds(validity=validity)
    without = forecast(latency, poll_times(latency, price, bound), validity)
    beside = forecast(latency, poll_times(latency, price, bound, missed=missed), validity, missed=missed)
    assert beside.calls <= without.calls + 1e-6


@given(st.floats(0, 40 * 86400), st.floats(0, 40 * 86400))
@example(0.49, 0.5)
def test_edges_are_monotone_in_age(one: float, other: float) -> None:
    """An older age has no earlier edge, and every edge is its own."""
    assert edge(min(one, other)) <= edge(max(one, other)) < END
    assert [edge(age) for age in EDGES] == list(range(END))


@settings(deadline=None, max_examples=40)
@given(
    st.dictionaries(
        st.tuples(st.integers(0, END - 1), st.integers(1, 60)).map(lambda p: (p[0], min(END, p[0] + p[1]))),
        st.floats(0.5, 500),
        max_size=20,
    )
)
def test_a_fit_is_a_distribution_that_looks_everywhere(cells: dict[tuple[int, int], float]) -> None:
    """Masses add up to one and none is zero: a rare slow message is looked for though none was seen."""
    masses = fit(cells).masses
    assert math.isclose(sum(masses), 1.0, rel_tol=1e-9)
    assert min(masses) > 0


@settings(deadline=None)
@given(latencies, st.lists(st.floats(0, 2 * 86400), min_size=3, max_size=3), st.integers(1, 5), shares)
def test_a_batch_is_worth_more_the_longer_it_waits(
    latency: Latency, given_ages: list[float], many: int, missed: float
) -> None:
    """Expected waiting grows with the age, falls with a later last check, and never exceeds the time since that."""
    checked, early, late = sorted(given_ages)

    def waited(age: float, share: float = missed) -> float:
        return expected_waiting(WaitingId(latency=latency, checked=checked, age=age, missed=share))

    assert 0 <= waited(early) <= early - checked + 1e-6 * early
    assert waited(late) >= waited(early) - 1e-6 * late
    assert waited(late) <= waited(late, 1.0) + 1e-6 * late
    ids = [WaitingId(latency=latency, checked=checked, age=late, missed=missed)] * many
    total = many * waited(late)
    assert is_worth_a_call(ids, total * 0.999 - 1e-9)
    assert not is_worth_a_call(ids, total * 1.001 + 1e-9)


@settings(deadline=None)
@given(latencies, st.floats(0, 2 * 86400), shares)
def test_an_announced_id_waits_since_its_callback(latency: Latency, seconds: float, missed: float) -> None:
    """Whatever the distribution says: that it is final is known, its state is not."""
    told = WaitingId(latency=latency, checked=0.0, age=seconds + 5.0, missed=missed, announced=5.0)
    assert math.isclose(expected_waiting(told), seconds, rel_tol=1e-9, abs_tol=1e-6)


@settings(deadline=None)
@given(latencies)
def test_half_of_what_can_be_final_is_final_at_the_half_age(latency: Latency) -> None:
    """Half of the messages that become final before the end of validity, to the width of a cell."""
    age, half = half_age(latency), latency.cumulated[-1] / 2
    assert latency.below(age)[0] >= half - 1e-9
    assert latency.below(EDGES[EDGES.index(age) - 1])[0] < half


@settings(deadline=None, max_examples=30)
@given(latencies, st.floats(1.0, 60.0), st.floats(1, 20), shares)
def test_a_forecast_of_very_many_checks_is_that_of_each(
    latency: Latency, every: float, hours: float, missed: float
) -> None:
    """Equal waits that are much shorter than a cell are not followed one by one."""
    validity = hours * 3600.0
    even = PollTimes(ages=(every,), every=every, until=validity)
    each = PollTimes(ages=tuple(even.all_before(validity)), until=validity)
    quick, exact = (forecast(latency, times, validity, missed=missed) for times in (even, each))
    assert math.isclose(quick.calls, exact.calls, rel_tol=0.01, abs_tol=0.6)
    # Within a cell the mean age is known to the width of the cell only, which is more than these waits: the lag of each
    # check is not. But no message waits for longer than one of them, and half of one on average.
    assert -1e-6 <= quick.lag_seconds <= every * missed * (1 + 1e-6)


@settings(deadline=None, max_examples=60)
@given(
    latencies, st.sampled_from([0.1, 1.0, 7.0, 60.0, 500.0, 4000.0]), st.sampled_from([1.0, 24.0, 72.0, 720.0]), prices
)
def test_a_forecast_looks_at_a_bounded_number_of_ages(
    latency: Latency, longest: float, hours: float, price: float
) -> None:
    """However short the longest wait and however long the validity: the price is searched for with many forecasts."""
    validity = hours * 3600.0
    counting = Counting(latency.masses)
    times = poll_times(latency, price, Bounds(validity=validity, longest=longest))
    forecast(counting, times, validity)
    assert len(counting.asked) <= 2 * len(EDGES) + 500


class Counting(Latency):
    """Notes each age that is queried."""

    @cached_property
    def asked(self) -> list[float]:
        """The ages so far."""
        return []

    @override
    def below(self, age: float) -> tuple[float, float]:
        self.asked.append(age)
        return super().below(age)
