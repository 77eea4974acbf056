"""What is remembered of an account's latencies, and when a shift makes it forget: pure functions.

Two groups of messages by when they were sent: the *fresh* ones (a few hundred at most) and all before them, the *base*.
Each counts its closed ids by interval; those still open are counted anew each time (`Openings`), so both are whole
cohorts. When enough fresh messages came, they join the base, unless they fit a distribution of their own so much better
that chance cannot explain it (a likelihood-ratio test): then the base is shelved. Where the fresh messages fit the base
that was shelved before, as in the morning after a slow night, that one is taken back; otherwise the fixed schedule
holds until there is `latency.ENOUGH` again. After `MAX_MESSAGES` of them, the older ones count half.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from ulak.schedules.latency import END, ENOUGH, Cells, Latency, fit, log_likelihood, merged

FRESH = 250
"""So many fresh messages join the base."""
TESTED_FROM = 60
"""From so many on they are compared with the base."""
SURPRISE = 30.0
"""A log-likelihood ratio above this is no chance."""
MAX_MESSAGES = 10_000
MIN_WEIGHT = 1e-3
DEMAND_SECONDS = 12 * 3600.0
"""The demand is averaged over about so long, and the limit over it: a campaign of minutes is no stream."""
FIRST_SECONDS = 1800.0
"""Before the first messages nothing was sent for so long: a young account's first minutes are no stream either."""

Closings = Mapping[int, Cells]
"""Ids closed since the last look: group (`Learned.groups`) → interval → how many."""
Openings = Mapping[int, Mapping[int, float]]
"""Ids that are open now: group → edge of the age at their last check → how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """All that is remembered of one account's ids of one kind."""

    since: datetime
    """Only messages sent from here on count."""
    fresh_since: datetime
    base: Cells = field(default_factory=dict)
    fresh: Cells = field(default_factory=dict)
    halved: tuple[datetime, ...] = ()
    """A message sent before any of these counts half as much for each."""
    shelved: Cells = field(default_factory=dict)
    """The base before the last shift, with what was open then: the account may return to it, as after a night."""
    shifts: int = 0
    """How often the base was replaced."""
    new: float = 0.0
    """Messages counted since the distribution was fitted last."""
    per_second: float = 0.0
    """How many messages are sent, on average over the last hours."""
    sent: float = 0.0
    """Messages sent before `fresh_since`, discounted by their age (`DEMAND_SECONDS`) …"""
    over: float = FIRST_SECONDS
    """… and the seconds in which they were sent, likewise."""

    @property
    def groups(self) -> Sequence[datetime]:
        """The bounds of the groups by which messages are counted, ascending: group n begins at `groups[n - 1]`.

        Group 0, sent before `since`, does not count; the last group is the fresh one.
        """
        return (self.since, *self.halved, self.fresh_since)

    def weight(self, group: int) -> float:
        """How much a message of this group of the base counts."""
        return 0.5 ** (len(self.halved) + 1 - group)

    @property
    def messages(self) -> float:
        """How many messages count."""
        return sum(self.base.values()) + sum(self.fresh.values())


def learn(known: Learned, closed: Closings, still_open: Openings, now: datetime) -> tuple[Learned, Latency | None]:
    """What is known with these closings, and the distribution; None while too few messages count.

    `closed` and `still_open` are grouped by `known.groups`.
    """
    last = len(known.groups)
    weights = {group: known.weight(group) for group in range(1, last)}
    known = replace(counted(known, closed), new=0.0)
    base, fresh = known.base, known.fresh
    open_base = merged(
        *(_weighed(_endless(ages), weights[group]) for group, ages in still_open.items() if 0 < group < last)
    )
    open_fresh = _endless(still_open.get(last, {}))
    everything = merged(base, fresh, open_base, open_fresh)
    sent, over = _demand(known, sum(fresh.values()) + sum(open_fresh.values()), now)
    known = replace(known, per_second=sent / over)
    before, new = merged(base, open_base), merged(fresh, open_fresh)
    if _is_shift(before, new, enough=sum(base.values()) >= ENOUGH):
        returned = {} if not known.shelved or _differs(known.shelved, new) else known.shelved
        known = Learned(
            since=known.fresh_since,
            fresh_since=now,
            base=merged(returned, fresh),
            shelved=before,
            shifts=known.shifts + 1,
            per_second=known.per_second,
            sent=sent,
            over=over,
        )
        everything = merged(returned, new)
    elif sum(fresh.values()) + sum(open_fresh.values()) >= FRESH:
        known = _joined(replace(known, sent=sent, over=over), now)
    return known, fit(everything) if known.messages >= ENOUGH else None


def counted(known: Learned, closed: Closings) -> Learned:
    """What is known with these closings, before the distribution is fitted to them."""
    last = len(known.groups)
    base = (_weighed(cells, known.weight(group)) for group, cells in closed.items() if 0 < group < last)
    new = sum(sum(cells.values()) for group, cells in closed.items() if group > 0)
    return replace(
        known,
        base=merged(known.base, *base),
        fresh=merged(known.fresh, closed.get(last, {})),
        new=known.new + new,
    )


def _is_shift(base: Cells, fresh: Cells, *, enough: bool) -> bool:
    """Whether the fresh messages follow another distribution than the base."""
    return enough and sum(fresh.values()) >= TESTED_FROM and _differs(base, fresh)


def _differs(base: Cells, fresh: Cells) -> bool:
    """Whether these messages are explained so much better by a distribution of their own that it is no chance."""
    return log_likelihood(fit(fresh), fresh) - log_likelihood(fit(base), fresh) > SURPRISE


def _joined(known: Learned, now: datetime) -> Learned:
    """The fresh messages become part of the base, and the fresh ones begin anew."""
    base, halved = merged(known.base, known.fresh), known.halved
    if sum(base.values()) > MAX_MESSAGES:
        base = {key: weight / 2 for key, weight in base.items() if weight / 2 > MIN_WEIGHT}
        halved = (*halved, now)[-10:]
    return replace(known, base=base, fresh={}, fresh_since=now, halved=halved)


def _demand(known: Learned, fresh: float, now: datetime) -> tuple[float, float]:
    """(messages sent, the seconds in which they were), both discounted, with so many fresh ones."""
    seconds = max((now - known.fresh_since).total_seconds(), 0.0)
    kept = math.exp(-seconds / DEMAND_SECONDS)
    return known.sent * kept + fresh, max(known.over * kept + seconds, 1.0)


def _weighed(cells: Cells, weight: float) -> Cells:
    return {key: many * weight for key, many in cells.items()}


def _endless(ages: Mapping[int, float]) -> Cells:
    """Open ids as intervals from their last check on."""
    return {(min(left, END - 1), END): many for left, many in ages.items()}
