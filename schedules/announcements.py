"""Which part of the final states callbacks announce, so that polls only cover what they miss: pure functions.

Crawling with change notices that are incomplete (Kolobov, Peres, Lu, Horvitz, NeurIPS 2019; Busa-Fekete et al.,
arXiv 2502.02430, 2025): what a poll may find is discounted by the probability that a notice was missed. That share is
counted from the final states themselves, older ones counting less (`MEMORY`), and is 1 until callbacks have come.

Callbacks that stop, or begin, are noticed by a pair of cumulative sums (Page, Biometrika 41, 1954): the log-likelihood
ratio of the share being `FACTOR` times as large, or as small, as it was. Then the counts begin anew, and polls cover
everything until callbacks have come again.
"""

import math
from dataclasses import dataclass

MEMORY = 1000.0
"""About so many final states count."""
PRIOR = 2.0
"""So many are taken to have been missed before the first one was seen."""
MIN_MISSED_SHARE = 0.02
"""However well callbacks do: so much of the polling stays, or nobody would notice that they stop."""
FACTOR = 4.0
SURPRISE = 10.0
"""A cumulative sum above this is no chance: at 95 % announced, some five missed in a row."""
MOVED = 0.2
"""A share that is larger or smaller by this part is worth new schedules."""
_MAX_SHARE = 0.98


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """What is remembered of the callbacks about one account's ids of one kind."""

    announced: float = 0.0
    """Final states that a callback brought before a poll did …"""
    missed: float = 0.0
    """… and those that a poll found; both discounted."""
    worse: float = 0.0
    better: float = 0.0
    """The cumulative sums."""
    shifts: int = 0
    """How often the counts began anew."""

    @property
    def missed_share(self) -> float:
        """The probability that no callback announces a final state; 1 where none has come."""
        if not self.announced:
            return 1.0
        return max(MIN_MISSED_SHARE, (self.missed + PRIOR) / (self.announced + self.missed + PRIOR))


def counted(known: Announced, *, announced: float, missed: float) -> Announced:
    """What is known with these final states."""
    if not announced + missed:
        return known
    if not known.announced + known.missed:
        # There is nothing yet from which these could differ.
        return Announced(announced=announced, missed=missed, shifts=known.shifts)
    share = min(_MAX_SHARE, max(MIN_MISSED_SHARE, known.missed_share))
    worse = max(0.0, known.worse + _ratio(share, _worse(share), announced=announced, missed=missed))
    better = max(0.0, known.better + _ratio(share, share / FACTOR, announced=announced, missed=missed))
    if max(worse, better) > SURPRISE:
        # Of callbacks that do better only the misses are forgotten.
        before = known.announced if better > worse else 0.0
        return Announced(announced=before + announced, missed=missed, shifts=known.shifts + 1)
    kept = math.exp(-(announced + missed) / MEMORY)
    return Announced(
        announced=known.announced * kept + announced,
        missed=known.missed * kept + missed,
        worse=worse,
        better=better,
        shifts=known.shifts,
    )


def has_moved(before: float, now: float) -> bool:
    """Whether the share is another one than the schedules in force were made for."""
    return abs(math.log(now / before)) > MOVED


def _worse(share: float) -> float:
    """So many are missed if callbacks have become unreliable; the same where hardly any could be worse."""
    return max(share, min(_MAX_SHARE, max(0.5, share * FACTOR)))


def _ratio(share: float, other: float, *, announced: float, missed: float) -> float:
    """By how much the other share explains these final states better."""
    return missed * math.log(other / share) + announced * math.log((1.0 - other) / (1.0 - share))


def stretch(missed: float, *, is_counted_by_lists: bool = False) -> float:
    """By what the waits of the fixed schedule grow where only this share of the final states is left to polls.

    What accumulates between two checks is worth `missed` times as much, so the best wait grows with the square root
    (`ulak.schedules.batching` says why).

    `is_counted_by_lists`: a list that is swept often counts the ends of each id, and makes the id due where callbacks
    have not brought them all. Then checks by age only guard against a list that lags, and become rarer by the whole
    share.
    """
    share = min(1.0, max(MIN_MISSED_SHARE, missed))
    return 1.0 / (share if is_counted_by_lists else math.sqrt(share))
