"""When to ask again for a tracked id: a pure function of its age, its validity and the provider's numbers.

The waits of `PollSchedule` (the steps, then each later wait `growth` times the one before, up to the longest) fix
moments t_1 < t_2 < … after sending. Validity cuts them off: one moment lies right after its end, then one every
`after_validity_seconds` until the provider is taken to have forgotten. The next check is the first moment that lies
strictly ahead. So an id that was looked at late, twice or never goes on where its age says; no counter can be lost.
Only after an incomplete answer does a check come sooner (`check_again`).

Where an account has learned how long its messages take, the ages of `ulak.schedules.poll_times` take the place of the
waits; all else stays as it is.
"""

import math
from collections.abc import Iterator
from datetime import datetime, timedelta

from ulak.providers.adapter import PollSchedule
from ulak.schedules.poll_times import PollTimes

AFTER_VALIDITY_SECONDS = 1.0
"""How long after the end of validity the check right after it comes (times the account's factor)."""
INCOMPLETE_SECONDS = 5.0
"""How long after a first incomplete answer the next check comes (times the account's factor); then twice as long …"""
_MAX_DOUBLINGS = 30
_DAY_SECONDS = 86400.0
_MAX_SECONDS = 100 * 366 * _DAY_SECONDS
_TICK = timedelta(microseconds=1)


def next_check(
    numbers: PollSchedule,
    *,
    sent_at: datetime,
    valid_until: datetime,
    now: datetime,
    time_factor: float = 1.0,
    first_check_seconds: float | None = None,
    max_check_seconds: float | None = None,
    early: bool = True,
    learned: PollTimes | None = None,
    stretch: float = 1.0,
) -> datetime | None:
    """The moment of the next check, strictly after `now`; None once the provider is taken to have forgotten the id.

    `first_check_seconds` replaces the first step, `max_check_seconds` the longest wait before validity ends;
    `time_factor` compresses every duration (not `valid_until`, which is a moment). `forget_days` 0 gives None from
    the check right after validity on. `early` false: no check before validity has ended. Times are aware. `learned`
    replaces the waits, and has kept `first_check_seconds` and `max_check_seconds` already; where validity is longer
    than it was made for, the waits of `numbers` follow. `stretch` multiplies those of these waits that are not
    configured, where callbacks leave little to be found (`ulak.schedules.announcements`).
    """
    validity_check = _right_after(valid_until, time_factor)
    if now < valid_until and not early:
        return validity_check
    if now < valid_until:
        waits = _waits(numbers, first_check_seconds, max_check_seconds, stretch)
        steps = len(numbers.steps_seconds)
        start: datetime | None = now
        if learned is not None:
            moment = _learned_after(learned, sent_at=sent_at, now=now, time_factor=time_factor)
            if moment is not None:
                return validity_check if moment > valid_until else moment
            start = _unplanned_after(learned, sent_at, valid_until, time_factor)
            if start is not None:
                start = now if max_check_seconds is not None else max(now, start)
        if start is None:
            return validity_check
        moment = _first_after(waits, sent_at=sent_at, now=start, time_factor=time_factor, steps=steps)
        return moment if moment <= valid_until else validity_check
    if now < validity_check:
        return validity_check
    return _after_validity(numbers, validity_check, valid_until=valid_until, now=now, time_factor=time_factor)


def first_check(
    numbers: PollSchedule,
    *,
    sent_at: datetime,
    valid_until: datetime,
    now: datetime,
    time_factor: float = 1.0,
    first_check_seconds: float | None = None,
    max_check_seconds: float | None = None,
    early: bool = True,
    learned: PollTimes | None = None,
    stretch: float = 1.0,
) -> datetime:
    """When an id registered at `now` is asked for first: at t_1 or right after a shorter validity, not before `now`.

    The arguments are those of `next_check`.
    """
    if learned is None:
        t_1 = next(_waits(numbers, first_check_seconds, max_check_seconds, stretch))
        moment: datetime | None = sent_at + timedelta(seconds=t_1 * time_factor)
    else:
        moment = _learned_after(learned, sent_at=sent_at, now=sent_at - _TICK, time_factor=time_factor)
        moment = moment or _unplanned_after(learned, sent_at, valid_until, time_factor)
    if moment is None or moment > valid_until or not early:
        moment = _right_after(valid_until, time_factor)
    return max(moment, now)


def check_again(
    numbers: PollSchedule,
    by_age: datetime | None,
    *,
    now: datetime,
    incomplete_before: int,
    time_factor: float = 1.0,
) -> datetime | None:
    """The moment of the next check after an incomplete answer: never later than `by_age`, what `next_check` gives.

    `incomplete_before`: how many answers in a row before this one were incomplete; each doubles the pause. A provider
    that answers has not forgotten: where `by_age` is None the checks go on until the pause is longer than the rare
    checks after validity lie apart; then None.
    """
    seconds = INCOMPLETE_SECONDS * 2.0 ** min(incomplete_before, _MAX_DOUBLINGS)
    moment = now + timedelta(seconds=seconds * time_factor)
    if by_age is None:
        return moment if seconds <= numbers.after_validity_seconds else None
    return min(moment, by_age)


def _right_after(valid_until: datetime, time_factor: float) -> datetime:
    """The one moment right after the end of validity."""
    return valid_until + max(timedelta(seconds=AFTER_VALIDITY_SECONDS * time_factor), _TICK)


def _waits(numbers: PollSchedule, first: float | None, longest: float | None, stretch: float = 1.0) -> Iterator[float]:
    """The waits before the first, second, … check, without end; none longer than the longest."""
    cap = numbers.max_seconds * stretch if longest is None else longest
    steps = [step * stretch for step in numbers.steps_seconds]
    if first is not None:
        steps[:1] = [first]
    for step in steps:
        yield min(step, cap)
    wait = steps[-1]
    while True:
        wait = min(wait * max(numbers.growth, 1.0), cap)
        yield wait


def _first_after(
    waits: Iterator[float], *, sent_at: datetime, now: datetime, time_factor: float, steps: int
) -> datetime:
    """The first moment after `now`. Past the steps, a wait that repeats itself does so forever: a division."""
    elapsed, before, moment = 0.0, -1.0, sent_at
    for count, wait in enumerate(waits, 1):
        elapsed += wait
        moment = sent_at + timedelta(seconds=elapsed * time_factor)
        if moment > now:
            break
        if count > steps and math.isclose(wait, before):
            return _next_of_series(moment, timedelta(seconds=wait * time_factor), now)
        before = wait
    return moment


def _learned_after(learned: PollTimes, *, sent_at: datetime, now: datetime, time_factor: float) -> datetime | None:
    """The first moment of a learned schedule after `now`; None where there is none before the end of validity."""
    moments = (sent_at + timedelta(seconds=age * time_factor) for age in learned.ages)
    if (moment := next((moment for moment in moments if moment > now), None)) is not None or learned.every is None:
        return moment
    start = sent_at + timedelta(seconds=((learned.ages or (0.0,))[-1] + learned.every) * time_factor)
    return _next_of_series(start, timedelta(seconds=learned.every * time_factor), now)


def _unplanned_after(
    learned: PollTimes, sent_at: datetime, valid_until: datetime, time_factor: float
) -> datetime | None:
    """From when on the fixed schedule holds, since the id stays valid for longer than the learned one was made for."""
    spanned = timedelta(seconds=min(learned.until * time_factor, _MAX_SECONDS))
    end = sent_at + spanned
    return end if valid_until - end > timedelta(seconds=AFTER_VALIDITY_SECONDS * time_factor) else None


def _next_of_series(start: datetime, every: timedelta, now: datetime) -> datetime:
    """The first of `start`, `start + every`, … that lies after `now`."""
    every = max(every, _TICK)
    steps = max(0, (now - start) // every)
    moment = start + every * steps
    return moment if moment > now else moment + every


def _after_validity(
    numbers: PollSchedule, validity_check: datetime, *, valid_until: datetime, now: datetime, time_factor: float
) -> datetime | None:
    """The next of the rare checks after validity, the last one when the provider is taken to forget, then None."""
    forgotten = valid_until + timedelta(seconds=numbers.forget_days * _DAY_SECONDS * time_factor)
    if now >= forgotten or math.isclose(numbers.forget_days, 0.0):
        return None
    every = timedelta(seconds=numbers.after_validity_seconds * time_factor)
    return min(_next_of_series(validity_check, every, now), forgotten)
