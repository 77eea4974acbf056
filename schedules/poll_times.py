"""When to check an id whose latency distribution is known: the cheapest ages, by dynamic programming.

A call costs `price`, the seconds of lag that it is worth; a message that is final and not known costs its lag. With a
known distribution the best ages are exact (inspection of Barlow, Hunter and Proschan, 1963): V(i), the cost after a
check at age t_i found the id open, is the least over j > i of the call at t_j, the lag of what becomes final between,
and V(j). The cost of a step is a Monge array, so the best j never decreases with i, and each i looks only as far as
the best j of the next one. One price per call is the multiplier of a rate limit (Azar et al., PNAS 115, 2018;
Kolobov et al., SIGIR 2019): a higher price gives fewer calls.
"""

import math
from dataclasses import dataclass

from ulak.schedules.latency import EDGES, Latency

PRICE_SECONDS = 30.0
"""What a call is worth where nothing says otherwise."""
MAX_PRICE = 3600.0
"""More than an hour of delay a call never saves: from there on a message costs hardly more than one call anyway, and
what the limit has no call for waits in its queue, where every slot is used."""
_HALVINGS = 12
_EVEN = 16
"""With a longest wait: after so many of them the rest are of that length."""
_GROUPED_FROM = 500
_MANY = 1.5
"""So many equal waits in a row count as many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a schedule has to keep, in seconds of uncompressed time."""

    validity: float
    """The check right after this age is made anyway."""
    first: float | None = None
    """The first check is at this age …"""
    longest: float | None = None
    """… and no check comes later than this after the one before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PollTimes:
    """The ages at which an id is checked before its validity ends: `ages`, then one every `every` (None: no more)."""

    ages: tuple[float, ...]
    every: float | None = None
    until: float = math.inf
    """The validity for which they were chosen: an id of a longer one has to be checked after it as well."""

    def all_before(self, validity: float) -> list[float]:
        """Every age of a check before the validity ends."""
        ages = [age for age in self.ages if age < validity]
        if self.every is not None:
            last = ages[-1] if ages else 0.0
            ages += [last + self.every * n for n in range(1, math.ceil((validity - last) / self.every))]
        return ages


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a schedule costs on average, per message."""

    calls: float
    lag_seconds: float

    def cost(self, price: float) -> float:
        """In seconds of lag."""
        return self.calls * price + self.lag_seconds


def poll_times(latency: Latency, price: float, bounds: Bounds, *, missed: float = 1.0) -> PollTimes:
    """The cheapest checks of one id. `missed`: the part of the final states that no callback announces.

    A lower price, a larger `missed` or a tighter bound never makes for fewer calls. Bounds are kept exactly.
    """
    if bounds.first is not None and bounds.first >= bounds.validity:
        return PollTimes(ages=(), until=bounds.validity)
    grid = _grid(bounds)
    last = len(grid) - 1
    below = [latency.below(age) for age in grid]
    done = [each[0] for each in below]
    moment = [each[1] for each in below]
    # The end of the grid is the end of validity, where all is final, or where the checks follow at equal waits.
    is_end = grid[-1] >= bounds.validity
    done_last = 1.0 if is_end else done[last]
    cost = [0.0] * (last + 1)
    follow = [last] * (last + 1)
    farthest = last
    longest = math.inf if bounds.longest is None else bounds.longest * (1 + 1e-9)
    for i in range(last - 1, -1, -1):
        best, best_j = math.inf, i + 1
        at_i, open_i, moment_i = grid[i], done[i], moment[i]
        for j in range(i + 1, farthest + 1):
            if grid[j] - at_i > longest and j > i + 1:
                break
            mass = done[j] - open_i
            at_end = done_last if j == last else done[j]
            calls = 1.0 - at_end + missed * (at_end - open_i)
            total = price * calls + missed * (grid[j] * mass - (moment[j] - moment_i)) + cost[j]
            if total < best:
                best, best_j = total, j
        cost[i], follow[i] = best, best_j
        farthest = best_j
    return _walk(grid, follow, bounds, is_end=is_end)


def _walk(grid: list[float], follow: list[int], bounds: Bounds, *, is_end: bool) -> PollTimes:
    """The ages that the best steps lead to."""
    last = len(grid) - 1
    place = follow[0] if bounds.first is None else grid.index(bounds.first)
    ages: list[float] = []
    while place < last:
        ages.append(grid[place])
        place = follow[place]
    if is_end:
        return PollTimes(ages=tuple(ages), until=bounds.validity)
    return PollTimes(ages=(*ages, grid[last]), every=bounds.longest, until=bounds.validity)


def _grid(bounds: Bounds) -> list[float]:
    """0, the ages that may be chosen, and the end.

    Where the edges lie farther apart than the longest wait allows, the checks follow at that wait: the grid ends there.
    """
    end = bounds.validity
    ages = {edge for edge in EDGES if edge < end}
    if bounds.first is not None:
        ages.add(bounds.first)
    if bounds.longest is not None:
        ages |= {bounds.longest * n for n in range(1, _EVEN) if bounds.longest * n < end}
        reach = max(bounds.longest * (_EVEN - 1), bounds.first or 0.0)
        dense = [age for age in sorted(ages) if age <= reach]
        if reach < end:
            return dense
    return [*sorted(ages), end]


def forecast(latency: Latency, times: PollTimes, validity: float, *, missed: float = 1.0) -> Forecast:
    """Calls and lag per message under these checks; the one right after validity is among the calls.

    Equal waits that are much shorter than the cells of the distribution are not followed one by one, however many.
    """
    calls = lag = 0.0
    done, moment, before = 0.0, 0.0, 0.0
    for age in [*_grouped(times, validity), validity]:
        is_last = age == validity
        below, upto = latency.below(age)
        at_end = 1.0 if is_last else below
        mass = below - done
        many = 1.0 if times.every is None else max(1.0, (age - before) / times.every)
        if many < _MANY:
            calls += 1.0 - at_end + missed * (at_end - done)
            lag += missed * (age * mass - (upto - moment))
        else:
            # The integral of what is open between, over the wait; what becomes final waits for half of that.
            still_open = age - before - (age * below - before * done - (upto - moment))
            calls += still_open / times.every - (0.5 - missed) * mass if times.every else 0.0
            calls += missed * (at_end - below)
            lag += missed * mass * (age - before) / many / 2
        done, moment, before = below, upto, age
    return Forecast(calls=calls, lag_seconds=lag)


def _grouped(times: PollTimes, validity: float) -> list[float]:
    """The ages of the checks before the validity ends, of many at equal waits those next to an edge."""
    if times.every is None or validity / times.every < _GROUPED_FROM:
        return times.all_before(validity)
    ages = [age for age in times.ages if age < validity]
    last = ages[-1] if ages else 0.0
    final = last + times.every * (math.ceil((validity - last) / times.every) - 1)
    steps = (max(1, round((edge - last) / times.every)) for edge in EDGES if last + times.every < edge < final)
    return [*ages, *sorted({last + times.every * step for step in steps} | {last + times.every, final})]


def price_for_calls(
    latency: Latency, calls: float, bounds: Bounds, *, missed: float = 1.0, least: float, most: float = MAX_PRICE
) -> float:
    """The lowest price from `least` to `most` at which a message costs at most so many calls; `most` if none is."""

    def wanted(price: float) -> float:
        times = poll_times(latency, price, bounds, missed=missed)
        return forecast(latency, times, bounds.validity, missed=missed).calls

    if wanted(least) <= calls:
        return least
    low, high = least, most
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        if wanted(middle) <= calls:
            high = middle
        else:
            low = middle
    return high
