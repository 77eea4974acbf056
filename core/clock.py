"""The only reader of time.

Everything else takes time as a value, so a decision can be tested at any moment, and nothing
depends on which of several clocks a module happened to pick.
"""

import time
from datetime import UTC, datetime

# CLOCK_BOOTTIME goes on while the machine is suspended; the monotonic clock stands still then, and
# a virtual machine that slept an hour would believe that its call was made a second ago.
_BOOT_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> datetime:
    """Wall clock, aware, UTC. For people and for comparison with providers' times only."""
    return datetime.now(UTC)


def boot() -> float:
    """Seconds since the machine started, suspended time included; never runs backwards.

    Only differences within one machine mean anything. Where the system has no such clock
    (macOS) it is the monotonic clock.
    """
    return time.clock_gettime(_BOOT_CLOCK)


def sleep(seconds: float) -> None:
    """Blocks this thread for that many seconds; nothing or a negative number returns at once."""
    if seconds > 0:
        time.sleep(seconds)
