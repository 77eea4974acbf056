"""The only reader of time.

Everything else takes time as a value, so a decision can be tested at any moment, and nothing
depends on which of several clocks a module happened to pick.
"""

import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

# CLOCK_BOOTTIME advances while the machine is suspended; the monotonic clock does not, and
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


@cache
def boot_id() -> str | None:
    """What names this run of the machine's kernel: readings of `boot` compare within one and the same only.

    None where the system gives no such name.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None


def sleep(seconds: float) -> None:
    """Blocks this thread for that many seconds; nothing or a negative number returns at once."""
    if seconds > 0:
        time.sleep(seconds)
