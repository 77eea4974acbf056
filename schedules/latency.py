"""How long messages take until they are final, learned from the checks that are made anyway: pure functions.

A check shows only that an id became final between the check before and this one, so each observation is an interval.
`fit` finds the distribution by expectation maximisation (Turnbull, JRSS B 38, 1976) on `COARSE` bins per decade, with a
small prior mass on every bin: without it a fit to few messages is worse than the fixed schedule. What is final only at
the end of validity is a point of its own, `END`.

Counting closed ids alone overrates fast messages, since slow ones are still open. So messages are counted by
when they were *sent*: `Cohort` holds the closed ones of all that were sent since a moment, and `fit` gets those that
are still open as intervals without an end. All ages are seconds of uncompressed time.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

PER_DECADE = 36
"""Edges in a decade of age: intervals and schedules are known to about three per cent."""
COARSE = 4
"""So many cells between two edges have one density."""
MAX_SECONDS = 30 * 86400.0
EDGES: tuple[float, ...] = (
    0.0,
    *(10 ** (step / PER_DECADE) for step in range(math.ceil(PER_DECADE * math.log10(MAX_SECONDS)) + 1)),
)
END = len(EDGES)
"""As the right end of an interval: at the end of validity, or after it."""

Cells = Mapping[tuple[int, int], float]
"""How many messages became final between two edges: (index of the left, index of the right) → weight."""

ENOUGH = 300
"""Fewer messages than this, and the fixed schedule is the better guess."""
PRIOR = 0.08
"""The mass of the prior on each bin, in messages: so a rare slow one is looked for, though none was seen yet."""
ITERATIONS = 200
SMOOTHING = 0.25
"""How much of its mass a bin gives to each neighbour at each step …"""
SETTLED = 2e-4
"""The fit ends when a step moves less than this part of the mass."""
_FLOOR = 1e-12


def edge(seconds: float) -> int:
    """The index of the edge nearest to an age, by ratio; 0 below half a second (in SQL: `ulak.models.latencies`)."""
    if seconds < 0.5:  # noqa: PLR2004 - half of the first cell
        return 0
    return min(END - 1, max(1, round(PER_DECADE * math.log10(seconds)) + 1))


def _widths() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of each cell: its bin; of each bin: how many cells it has. The first cell and the end are bins of their own."""
    bins = [0] + [1 + place // COARSE for place in range(END - 2)]
    bins.append(bins[-1] + 1)
    widths = [0] * (bins[-1] + 1)
    for each in bins:
        widths[each] += 1
    return tuple(bins), tuple(widths)


_BINS, _WIDTHS = _widths()
_STARTS = (0, *accumulate(_WIDTHS))
_PLACES: tuple[tuple[int, float], ...] = tuple(
    (each, (place - _STARTS[each]) / _WIDTHS[each] if each < len(_WIDTHS) else 0.0)
    for place, each in enumerate((*_BINS, len(_WIDTHS)))
)
"""Of each edge, and of `END`: the bin that begins at it or holds it, and the part of that bin before it."""


@dataclass(frozen=True)
class Latency:
    """A distribution: the mass of each bin (its last one is the end of validity); log-uniform within a bin."""

    masses: tuple[float, ...]

    @cached_property
    def cumulated(self) -> tuple[float, ...]:
        """Mass up to each edge."""
        cells = (self.masses[each] / _WIDTHS[each] for each in _BINS[:-1])
        return (0.0, *accumulate(cells))

    @cached_property
    def _moments(self) -> tuple[float, ...]:
        """Mass times age up to each edge."""
        done = self.cumulated
        parts = ((done[i + 1] - done[i]) * _middle(EDGES[i], EDGES[i + 1]) for i in range(END - 1))
        return (0.0, *accumulate(parts))

    def below(self, age: float) -> tuple[float, float]:
        """(P(final by this age), E(latency, where it is at most this age)); the end of validity is never below."""
        if age <= 0:
            return 0.0, 0.0
        place = bisect_right(EDGES, age) - 1
        done, moment = self.cumulated[place], self._moments[place]
        left = EDGES[place]
        if place >= END - 1 or age == left:
            return done, moment
        right = EDGES[place + 1]
        share = age / right if place == 0 else math.log(age / left) / math.log(right / left)
        mass = (self.cumulated[place + 1] - done) * share
        return done + mass, moment + mass * _middle(left, age)

    def quantile(self, share: float) -> float:
        """The age by which this share of the messages is final; infinite where that is the end of validity."""
        place = next((i for i, done in enumerate(self.cumulated) if done >= share), None)
        return math.inf if place is None else EDGES[place]


def _middle(left: float, right: float) -> float:
    """The mean age of what lies between."""
    return (left * right) ** 0.5 if left > 0 else right / 2


def fit(cells: Cells) -> Latency:
    """The distribution that explains these intervals best, smoothed; with no interval at all the prior alone."""
    bins = len(_WIDTHS)
    masses = [1.0 / bins] * bins
    total = sum(cells.values()) + PRIOR * bins
    given = [(*_PLACES[left], *_PLACES[right], weight) for (left, right), weight in cells.items()]
    for _ in range(ITERATIONS):
        done = [0.0, *accumulate(masses)]
        whole, part = [0.0] * (bins + 1), [0.0] * (bins + 1)
        masses.append(0.0)
        for first, before, last, within, weight in given:
            mass = done[last] + within * masses[last] - done[first] - before * masses[first]
            share = weight / max(mass, _FLOOR)
            whole[first] += share
            whole[last] -= share
            part[first] -= before * share
            part[last] += within * share
        counts = [
            PRIOR + mass * (covered + parts)
            for mass, covered, parts in zip(masses[:-1], accumulate(whole), part, strict=False)
        ]
        new = _smoothed([count / total for count in counts])
        moved = sum(abs(one - other) for one, other in zip(new, masses, strict=False))
        masses = new
        if moved < SETTLED:
            break
    norm = sum(masses)
    return Latency(tuple(mass / norm for mass in masses))


def _smoothed(masses: list[float]) -> list[float]:
    """Each bin gives a little to its neighbours, as densities per decade; the end of validity keeps its own."""
    inner = masses[:-1]
    left, right = [inner[0], *inner[:-1]], [*inner[1:], inner[-1]]
    blended = [
        (1 - 2 * SMOOTHING) * own + SMOOTHING * (one + other)
        for own, one, other in zip(inner, left, right, strict=True)
    ]
    return [*blended, masses[-1]]


def log_likelihood(latency: Latency, cells: Cells) -> float:
    """How well the distribution explains these intervals."""
    done = (*latency.cumulated, 1.0)
    return sum(weight * math.log(max(done[right] - done[left], _FLOOR)) for (left, right), weight in cells.items())


def merged(*parts: Cells) -> dict[tuple[int, int], float]:
    """All these intervals together."""
    cells: dict[tuple[int, int], float] = {}
    for part in parts:
        for key, weight in part.items():
            cells[key] = cells.get(key, 0.0) + weight
    return cells
