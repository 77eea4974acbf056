"""How often a list is worth reading: a pure function of how much it has shown lately.

Between two sweeps what is new in the list waits for half the interval on average, so calls and waiting together cost
least at the square root of twice the price of a sweep over the rate of news: the economic order quantity again (Harris,
1913), which is the best interval of one page that changes at a known rate (Cho and Garcia-Molina, ACM TODS 28, 2003)
where what counts is the age of each change. What callbacks announce is no news.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

MAX_SECONDS = 300.0
"""An account in which nothing happens is swept at least so often where no objective says otherwise."""
MIN_SECONDS = 10.0
MAX_OF_LIMIT = 0.25
"""No more of the account's calls go into sweeps."""
RECENT_SECONDS = 600.0
"""News of so long ago counts e-fold less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One reading of the list."""

    age: float
    """How many seconds ago."""
    news: int
    """How many deliveries it has brought or advanced."""
    calls: int


def longest_for(part: float, seconds: float) -> float:
    """The longest interval that lets this part of the changes be known within so many seconds.

    A change happens at any moment of the interval alike. Within `MIN_SECONDS` and `MAX_SECONDS`.
    """
    return min(MAX_SECONDS, max(MIN_SECONDS, seconds / part))


def sweep_seconds(
    sweeps: Iterable[Sweep],
    *,
    over: float,
    price: float,
    calls_per_second: float,
    missed: float = 1.0,
    most: float = MAX_SECONDS,
) -> float:
    """How long to wait between two sweeps, after these within the last `over` seconds.

    `price`: of a call, in seconds of waiting; `missed`: the part of the final states that no callback announces;
    `most`: the longest interval that the operator's objective allows, kept whatever the rate.
    """
    read = list(sweeps)
    calls = sum(each.calls for each in read) / len(read) if read else 1.0
    seen = RECENT_SECONDS * (1.0 - math.exp(-over / RECENT_SECONDS))
    news = sum(each.news * math.exp(-each.age / RECENT_SECONDS) for each in read)
    least = max(MIN_SECONDS, calls / (calls_per_second * MAX_OF_LIMIT))
    wanted = math.sqrt(2.0 * price * calls * seen / (news * missed)) if news else most
    return min(most, max(least, wanted))
