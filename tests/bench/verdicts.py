"""Figures beside the goals that they have to keep, line by line; and what the whole of it took."""

import os
import time
from collections.abc import Sequence
from statistics import median


class Verdicts:
    """Prints a line for each goal, and at the end how many are kept and how many seconds that took."""

    def __init__(self) -> None:
        """The seconds count from here."""
        self._begun = time.perf_counter()
        self._kept: list[bool] = []

    def at_most(self, what: str, found: Sequence[float], goal: float) -> None:
        """The median of what these seeds have shown must not exceed the goal; the worst is shown too."""
        self._line(what, found, median(found) <= goal, f"goal <= {goal:g}", max(found))

    def at_least(self, what: str, found: Sequence[float], goal: float) -> None:
        """The median of what these seeds have shown must not fall below the goal; the worst is shown too."""
        self._line(what, found, median(found) >= goal, f"goal >= {goal:g}", min(found))

    def _line(self, what: str, found: Sequence[float], is_kept: bool, goal: str, worst: float) -> None:
        self._kept.append(is_kept)
        spread = f", worst of {len(found)}: {worst:.3f}" if len(found) > 1 else ""
        print(f"{'pass' if is_kept else 'FAIL'}  {what}: {median(found):.3f}{spread} ({goal})", flush=True)

    def end(self) -> None:
        """How many goals are kept; processor seconds say more than those of the clock on a busy machine."""
        took, used = time.perf_counter() - self._begun, os.times()
        print(
            f"{sum(self._kept)} of {len(self._kept)} goals kept; {used.user + used.system:.0f} s of processor time,"
            f" {took:.0f} s by the clock",
            flush=True,
        )
