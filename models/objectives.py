"""How fresh deliveries are to be: the objective of an account, its error budget and its burn rates. Pure.

**Freshness** of a delivery: the seconds from the earliest moment at which the provider could have reported its final
status until that status was stored here.
- Where the provider gives its own time of the final status, that is the moment; clocks that differ count as 0 seconds.
- Elsewhere the moment lies between the last check or statement at which the status was not final (else the sending)
  and the request whose response reported it. A delivery then counts by the part of that interval that meets a bound:
  half a delivery where half of it does.
- Nobody could have known before the account existed, so no moment lies before that.
Our own `unreported` and conversation-days are not counted, nor what became final longer before it was stored than the
longest window: a backfill says nothing about how fresh things are now.

**Burn rate**: how many times as fast as the objective allows the error budget is spent; 1 spends it exactly. Windows
and factors are those of Google's SRE Workbook, chapter 5, "Alerting on SLOs", table 5-8
(https://sre.google/workbook/alerting-on-slos/): an alert needs a long window, so that it matters, and a short one, so
that it ends soon after the trouble.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

BOUNDS: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0, 86400.0)
"""Upper bounds of the histogram, in seconds. Stored by position: none is ever changed or removed."""
HOUR: Final = 3600.0
DAY: Final = 86400.0
FORM: Final = '"95 % within 60 s": 50 to 99.99 %, and a time in s, min or h, up to 24 h'
_OBJECTIVE: Final = re.compile(r"\s*(\d{1,2}(?:\.\d{1,2})?)\s*%\s+within\s+(\d{1,6}(?:\.\d{1,3})?)\s*(s|min|h)\s*")
_UNITS: Final = {"s": 1.0, "min": 60.0, "h": HOUR}
_MIN_PERCENT: Final = 50.0
MIN_FINALS: Final = 10.0
"""Fewer in the long window are no evidence: one late message of three is no incident."""
DEVIATIONS: Final = 3.0
"""The late ones of the long window must exceed the limit by so many standard deviations of a binomial count: an account
with few messages that keeps its objective would otherwise miss it by chance every other day."""
MAX_RATIO: Final = 0.9
"""More late ones than this part always count as an incident: 14.4 times a budget of 10 % is more than all there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """So many per cent of the deliveries are known to be final within so many seconds."""

    percent: float
    seconds: float

    @property
    def budget(self) -> float:
        """The part of the deliveries that may be late."""
        return 1.0 - self.percent / 100.0

    def __str__(self) -> str:
        """As `read_objective` takes it."""
        fitting = (word for word in ("h", "min") if self.seconds % _UNITS[word] == 0)
        unit = next((word for word in fitting if self.seconds >= 2 * _UNITS[word]), "s")
        return f"{self.percent:g} % within {self.seconds / _UNITS[unit]:g} {unit}"


def read_objective(text: str) -> Objective:
    """The objective in `FORM`; ValueError for anything else."""
    found = _OBJECTIVE.fullmatch(text)
    if found is None:
        raise ValueError(FORM)
    percent, seconds = float(found[1]), float(found[2]) * _UNITS[found[3]]
    if not (_MIN_PERCENT <= percent < 100.0 and 0.0 < seconds <= DAY):  # noqa: PLR2004 - of hundred
        raise ValueError(FORM)
    return Objective(percent=percent, seconds=seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When a budget is spent too fast: at `factor` times the allowed rate over both windows."""

    factor: float
    long: float
    short: float
    is_urgent: bool
    """Needs attention now; otherwise in working hours."""

    def limit(self, objective: Objective) -> float:
        """The part of late deliveries above which the rule holds."""
        return min(self.factor * objective.budget, MAX_RATIO)


RULES: Final = (
    Rule(factor=14.4, long=HOUR, short=300.0, is_urgent=True),
    Rule(factor=6.0, long=6 * HOUR, short=1800.0, is_urgent=True),
    Rule(factor=1.0, long=3 * DAY, short=6 * HOUR, is_urgent=False),
)
"""The most urgent first: 2 %, 5 % and 10 % of the budget of 30 days."""
WINDOWS: Final = tuple(sorted({window for rule in RULES for window in (rule.long, rule.short)}))
MAX_WINDOW: Final = WINDOWS[-1]


@dataclass(frozen=True, slots=True)
class Count:
    """Deliveries that became final within a window."""

    total: float
    good: float

    @property
    def late(self) -> float:
        """The part that was not fresh enough; 0 where there was none."""
        return max(0.0, 1.0 - self.good / self.total) if self.total > 0 else 0.0


def burn_rate(objective: Objective, count: Count) -> float:
    """How many times as fast as allowed the budget is spent."""
    return count.late / objective.budget


def budget_left(objective: Objective, count: Count) -> float:
    """What is left of the budget of a window: 1 all of it, 0 none, negative where more was spent."""
    return 1.0 - burn_rate(objective, count)


def burning(objective: Objective, counts: Mapping[float, Count]) -> list[Rule]:
    """The rules that hold by the counts of `WINDOWS`: the strongest urgent one, and the one that is not."""
    found = [rule for rule in RULES if _holds(rule, objective, counts)]
    return [*[rule for rule in found if rule.is_urgent][:1], *[rule for rule in found if not rule.is_urgent]]


def _holds(rule: Rule, objective: Objective, counts: Mapping[float, Count]) -> bool:
    long, short, limit = counts[rule.long], counts[rule.short], rule.limit(objective)
    by_chance = DEVIATIONS * math.sqrt(limit * (1.0 - limit) * long.total)
    is_missed = long.total >= MIN_FINALS and long.total - long.good > limit * long.total + by_chance
    return is_missed and short.total > 0 and short.late > limit
