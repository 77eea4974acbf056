"""The breaker of one account: when a provider is down, it is probed now and then instead of being asked by everybody.

    closed ──5 soon-errors in a row, or half of the last 20──► open ──its wait is over──► probing
      ▲                                                         ▲                            │
      │                                                         └────failure: wait doubled───┤
      └──────────────────────────────────────success─────────────────────────────────────────┘

A pure function over the columns of the account's row, which all workers share; it is called under the row's lock.
Whether a call may be made (any while closed, one probe once the wait is over) is for `ulak.models.ledger.deciding`.
Only soon-errors (the network, a 5xx, a time-out) count as failures: a provider that refuses a key is not down.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

State = Literal["closed", "open", "probing"]

CONSECUTIVE_FAILURES = 5
RECENT_CALLS = 20
FIRST_WAIT_SECONDS = 30.0
MAX_WAIT_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerChange:
    """The new values of `breaker_state`, `breaker_failures`, `breaker_trips`, `breaker_until`.

    `until`: open: when it may be probed; probing: when the probe is taken to be lost; closed: when it closed (calls
    from before that moment say nothing about now), or None if it never was open.
    """

    state: State
    failures: int
    trips: int
    until: datetime | None


def after(
    *,
    outcome_is_soon_error: bool,
    state: State,
    consecutive_failures: int,
    trips: int,
    recent: Sequence[bool],
    now: datetime,
    until: datetime | None = None,
) -> BreakerChange | None:
    """What the outcome of a call changes; None where nothing does.

    `recent`: for each of the last 20 calls *since the breaker closed*, this one included, whether it was a soon-error.
    `until`: the stored `breaker_until`, kept while closed. Calls that come home while the breaker is open were on their
    way before it opened and change nothing.
    """
    if state == "open":
        return None
    if state == "probing":
        if outcome_is_soon_error:
            return _opened(consecutive_failures + 1, trips + 1, now)
        return BreakerChange(state="closed", failures=0, trips=0, until=now)
    failures = consecutive_failures + 1 if outcome_is_soon_error else 0
    if failures == consecutive_failures:
        return None
    if failures >= CONSECUTIVE_FAILURES or (outcome_is_soon_error and _half_failed(recent)):
        return _opened(failures, trips + 1, now)
    return BreakerChange(state="closed", failures=failures, trips=trips, until=until)


def _opened(failures: int, trips: int, now: datetime) -> BreakerChange:
    """Open: 30 s after the first trip, doubled with each, at most ten minutes."""
    wait = min(FIRST_WAIT_SECONDS * 2.0 ** min(trips - 1, 10), MAX_WAIT_SECONDS)
    return BreakerChange(state="open", failures=failures, trips=trips, until=now + timedelta(seconds=wait))


def _half_failed(recent: Sequence[bool]) -> bool:
    """Half of the last 20 failed; fewer than 20 say nothing."""
    last = recent[-RECENT_CALLS:]
    return len(last) == RECENT_CALLS and sum(last) * 2 >= RECENT_CALLS
