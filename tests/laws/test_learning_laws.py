"""What is learned converges to the truth, is unlearned after a shift, and not by chance."""

import math
from bisect import bisect_left
from datetime import UTC, datetime, timedelta
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ulak.schedules.latency import END, ENOUGH, Latency, edge, fit
from ulak.schedules.learning import FRESH, Closings, Learned, Openings, learn
from ulak.schedules.plans import read, written
from ulak.schedules.poll_times import Bounds, PollTimes, forecast, poll_times

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = 86400.0
FIXED = PollTimes(ages=(5.0, 25.0, 85.0, 181.0, 335.0, 580.0, 972.0, 1600.0, 2600.0), every=1800.0)


def _draw(rng: Random, median: float, sigma: float, never: float) -> float:
    return DAY if rng.random() < never else min(DAY, median * math.exp(sigma * rng.gauss(0, 1)))


def _seen(rng: Random, many: int, law: tuple[float, float, float]) -> dict[tuple[int, int], float]:
    """Intervals of so many messages under the fixed schedule."""
    ages = [*FIXED.all_before(DAY), DAY + 1]
    cells: dict[tuple[int, int], float] = {}
    for _ in range(many):
        place = bisect_left(ages, _draw(rng, *law))
        left = edge(ages[place - 1]) if place else 0
        right = END if ages[place] > DAY else max(left + 1, edge(ages[place]))
        cells[left, right] = cells.get((left, right), 0.0) + 1
    return cells


def _truth(law: tuple[float, float, float]) -> Latency:
    """The distribution itself, from many messages seen exactly."""
    rng, cells = Random(3), dict[tuple[int, int], float]()
    for _ in range(40_000):
        age = _draw(rng, *law)
        left = edge(age)
        key = (END - 1, END) if age >= DAY else (left, left + 1)
        cells[key] = cells.get(key, 0.0) + 1
    return fit(cells)


@settings(deadline=None, max_examples=12)
@given(st.floats(2, 3000), st.floats(0.4, 1.5), st.floats(0.005, 0.1), st.integers(0, 10**6))
def test_the_schedule_comes_near_the_oracle(median: float, sigma: float, never: float, seed: int) -> None:
    """After 5,000 messages that the fixed schedule saw, the learned one costs little more than the informed one."""
    law = (median, sigma, never)
    truth, bounds = _truth(law), Bounds(validity=DAY)
    best = forecast(truth, poll_times(truth, 30, bounds), DAY).cost(30)
    learned = poll_times(fit(_seen(Random(seed), 5000, law)), 30, bounds)
    assert forecast(truth, learned, DAY).cost(30) <= 1.2 * best


def _fresh_ones(known: Learned, cells: dict[tuple[int, int], float]) -> Closings:
    return {len(known.groups): cells}


def _learned(blocks: int, law: tuple[float, float, float], seed: int) -> Learned:
    """What blocks of fresh messages have taught."""
    rng, known, now = Random(seed), Learned(since=START, fresh_since=START), START
    for _ in range(blocks):
        now += timedelta(hours=1)
        known, _ = learn(known, _fresh_ones(known, _seen(rng, FRESH, law)), {}, now)
    return known


def test_nothing_is_learned_from_too_few_messages() -> None:
    """Below the least number the fixed schedule holds; from it on there is a distribution."""
    known = Learned(since=START, fresh_since=START)
    cells = _seen(Random(1), ENOUGH - 1, (6, 1, 0.02))
    known, latency = learn(known, _fresh_ones(known, cells), {}, START + timedelta(hours=1))
    assert latency is None
    known, latency = learn(known, _fresh_ones(known, {(0, 20): 1.0}), {}, START + timedelta(hours=2))
    assert latency is not None


@pytest.mark.parametrize(("one", "other"), [((4, 0.6, 0.02), (60, 1.5, 0.05)), ((600, 1.2, 0.03), (4, 0.6, 0.02))])
def test_a_shift_is_noticed_within_a_block(one: tuple[float, float, float], other: tuple[float, float, float]) -> None:
    """The base is forgotten, and the fixed schedule holds until enough is known again."""
    known = _learned(8, one, 5)
    fresh = _fresh_ones(known, _seen(Random(8), FRESH, other))
    known, latency = learn(known, fresh, {}, START + timedelta(days=2))
    assert (known.shifts, latency) == (1, None)
    assert known.messages == FRESH
    known, latency = learn(known, _fresh_ones(known, _seen(Random(9), 200, other)), {}, START + timedelta(days=3))
    assert latency is not None


def test_what_returns_is_known_at_once() -> None:
    """After a night the distribution of the day before holds again, and the one of the night the next night."""
    day, night, neither = (4, 0.6, 0.02), (60, 1.5, 0.05), (3000, 1.0, 0.05)
    known, at, found = _learned(8, day, 5), START + timedelta(days=2), list[Latency | None]()
    for turn, law in enumerate((night, night, day, night, neither)):
        at += timedelta(hours=12)
        known = read(msgspec.json.decode(msgspec.json.encode(written(known))), at)
        known, latency = learn(known, _fresh_ones(known, _seen(Random(turn), FRESH, law)), {}, at)
        found.append(latency)
    shifted, _, by_day, by_night, unknown = found
    assert (shifted, unknown, known.shifts) == (None, None, 4)
    assert by_day is not None
    assert by_night is not None
    assert by_day.below(10)[0] > 0.8
    assert by_night.below(10)[0] < 0.3


@pytest.mark.parametrize("law", [(4, 0.6, 0.02), (60, 1.5, 0.05), (600, 1.2, 0.03)])
def test_a_steady_distribution_is_never_taken_for_a_shift(law: tuple[float, float, float]) -> None:
    """A long run, and the beginnings of twenty others."""
    assert _learned(30, law, 21).shifts == 0
    assert sum(_learned(6, law, seed).shifts for seed in range(20)) == 0


def test_messages_that_are_still_open_count_as_slow() -> None:
    """Fast ones are closed first: without the open ones a young account would take all messages for fast."""
    known = Learned(since=START, fresh_since=START)
    closed: Closings = {2: {(0, edge(5)): 400.0}}
    still_open: Openings = {2: {edge(600): 400.0}}
    _, latency = learn(known, closed, still_open, START + timedelta(hours=1))
    assert latency is not None
    assert latency.below(600)[0] == pytest.approx(0.5, abs=0.06)
    _, hasty = learn(known, closed, {}, START + timedelta(hours=1))
    assert hasty is not None
    assert hasty.below(600)[0] > 0.9


def test_old_messages_count_half_after_many() -> None:
    """The memory is bounded, and open ids of an old group weigh as much as its closed ones."""
    known = _learned(44, (6, 1, 0.02), 2)
    assert len(known.halved) >= 1
    assert known.messages < 11_000
    assert known.weight(1) == pytest.approx(0.5 ** len(known.halved))
    assert known.weight(len(known.groups) - 1) == 1.0


def test_the_demand_is_the_average_of_hours() -> None:
    """A steady stream is known within hours; a campaign of a minute is spread over the hours, and forgotten in days."""
    known, now, cells = Learned(since=START, fresh_since=START), START, _seen(Random(4), 250, (6, 1, 0.02))
    for _ in range(24):
        now += timedelta(seconds=2500)
        known, _ = learn(known, _fresh_ones(known, cells), {}, now)
    assert known.per_second == pytest.approx(0.1, rel=0.1)
    now += timedelta(seconds=60)
    known, _ = learn(known, _fresh_ones(known, cells), {len(known.groups): {edge(30): 4750.0}}, now)
    assert known.per_second < 0.3
    known, _ = learn(known, {1: {(0, 30): 10.0}}, {}, now + timedelta(days=3))
    assert known.per_second < 0.03
