"""Loaded by Python processes under libfaketime, whose clock_nanosleep refuses to wait for a monotonic moment."""

import select
import time
from typing import SupportsIndex


def _sleep(seconds: float | SupportsIndex, /) -> None:
    select.select([], [], [], float(seconds))


time.sleep = _sleep
