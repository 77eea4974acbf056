"""What to do after a fetch did not get its answer: a decision that is returned, never acted on here.

Only faults of this one fetch count as attempts. Trouble of the account (throttling, credentials) and a moment that the
provider named return the fetch uncounted, so that a throttled or locked-out account loses nothing by waiting.
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from ulak.models.permit import MAX_PAUSE_SECONDS
from ulak.providers.errors import (
    AnswerNotUnderstood,
    OurBug,
    PauseAccount,
    ProviderError,
    RequestIsWrong,
    SlowDown,
    TryAgainAt,
    TryAgainSoon,
)

FIRST_PAUSE_SECONDS = 60.0
"""After its first refusal an account is paused so long before one probe; doubled with each further refusal,
up to `MAX_PAUSE_SECONDS`."""
MAX_RETRY_AFTER_SECONDS = 86400.0
"""No `Retry-After` holds an account longer than a day."""
_MAX_NAMED_SECONDS = 366 * 86400.0
_MAX_EXPONENT = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """An account's `[account.retry]`."""

    max_attempts: int = 8
    """Counted tries in all, the first one included."""
    base_seconds: float = 1.0
    cap_seconds: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryAt:
    """Ask again at `at`. `counted`: this try was an attempt. `not_before`: until then the whole account is silent."""

    at: datetime
    counted: bool
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """The fetch is dead; `reason` is safe to store and to show."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """The account is paused until `until`; the fetch returns uncounted and is the account's next call."""

    until: datetime
    reason: str


Decision = RetryAt | GiveUp | Pause


def decide(
    policy: RetryPolicy,
    error: ProviderError,
    *,
    attempts: int,
    now: datetime,
    roll: float,
    throttles: int,
    refusals: int = 0,
) -> Decision:
    """What to do about `error`.

    `attempts`: counted tries of this fetch *before* the one that failed now. `throttles` and `refusals`: how often in a
    row the account was throttled, and its credentials refused, before this. `roll`: a fresh random number in [0, 1),
    the only chance in here. `now`: aware.
    """
    match error:
        case SlowDown():
            until = now + timedelta(seconds=_throttle_seconds(policy, error, roll=roll, throttles=throttles))
            return RetryAt(at=until, counted=False, not_before=until)
        case TryAgainAt():
            return RetryAt(at=_named_moment(policy, error, now), counted=False)
        case PauseAccount():
            return Pause(until=now + timedelta(seconds=pause_seconds(refusals)), reason=_reason(error))
        case RequestIsWrong():
            return GiveUp(reason=_reason(error) + _said(error))
        case TryAgainSoon() | AnswerNotUnderstood() | OurBug() | _ if attempts + 1 < policy.max_attempts:
            wait = roll * _exponential(policy, attempts)
            return RetryAt(at=now + timedelta(seconds=wait), counted=True)
        case _:
            return GiveUp(reason=f"{_reason(error)}{_said(error)} (tried {attempts + 1} times)")


def pause_seconds(refusals: int) -> float:
    """How long an account is paused whose credentials were refused, or missing, `refusals` times in a row before."""
    return min(FIRST_PAUSE_SECONDS * 2.0 ** min(max(refusals, 0), _MAX_EXPONENT), MAX_PAUSE_SECONDS)


def _exponential(policy: RetryPolicy, exponent: int) -> float:
    """`base · 2^exponent` seconds, capped."""
    return min(policy.base_seconds * 2.0 ** min(max(exponent, 0), _MAX_EXPONENT), policy.cap_seconds)


def _throttle_seconds(policy: RetryPolicy, error: SlowDown, *, roll: float, throttles: int) -> float:
    """What the provider asked for; otherwise the back-off, at least half of it: it must slow down for sure."""
    asked = error.retry_after_seconds
    if asked is not None and math.isfinite(asked) and asked > 0:
        return min(asked, MAX_RETRY_AFTER_SECONDS)
    return (0.5 + roll / 2) * _exponential(policy, throttles)


def _named_moment(policy: RetryPolicy, error: TryAgainAt, now: datetime) -> datetime:
    """The moment that the provider named; one that is past is not a reason to spin."""
    soonest = now + timedelta(seconds=min(policy.base_seconds, policy.cap_seconds))
    if error.at is not None:
        return max(error.at, soonest)
    if error.after_seconds is not None and math.isfinite(error.after_seconds):
        return max(now + timedelta(seconds=min(max(error.after_seconds, 0.0), _MAX_NAMED_SECONDS)), soonest)
    return now + timedelta(seconds=policy.cap_seconds)


def _reason(error: ProviderError) -> str:
    """The error's own sentence with the provider's code where there is one."""
    return f"{error.message} [{error.code}]" if error.code else error.message


def _said(error: ProviderError) -> str:
    """The provider's own words."""
    return error.explained.removeprefix(error.message)
