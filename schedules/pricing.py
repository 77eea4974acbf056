"""What a call costs while the rate limit binds: pure functions that set the one price per call.

The price is the multiplier of the limit (`ulak.schedules.poll_times`): the lowest at which the messages sent cost no
more calls than the limit has. How much a schedule really asks for is never quite what the distribution says, so the
part of the limit that is planned for (`share`) follows the slots really used: it grows while slots stay unused, and
shrinks while due work waits longer than `WAITING_SECONDS`. A little is always kept waiting, so that no slot is lost.
"""

import math

WAITING_SECONDS = 90.0
"""So long may the work that is due keep the account busy."""
FOLLOWS_SECONDS = 12 * 3600.0
"""The share grows e-fold in so long while nothing waits, and shrinks up to `_FASTEST` times as fast."""
MIN_SHARE, MAX_SHARE = 0.7, 1.1
_FASTEST = 1.5


def steered(share: float, *, waiting_seconds: float, seconds: float) -> float:
    """The part of the limit to plan for, after `seconds` in which so much due work waited.

    `waiting_seconds`: how long the account's limit needs for all that is due.
    """
    error = min(_FASTEST, max(-1.0, waiting_seconds / WAITING_SECONDS - 1.0))
    followed = share * math.exp(-error * min(seconds, FOLLOWS_SECONDS) / FOLLOWS_SECONDS)
    return min(MAX_SHARE, max(MIN_SHARE, followed))


def calls_per_message(*, calls_per_second: float, messages_per_second: float, share: float) -> float:
    """How many calls a message may cost so that the limit is just exhausted; infinite where none are sent."""
    return math.inf if messages_per_second <= 0 else max(1.0, calls_per_second * share / messages_per_second)
