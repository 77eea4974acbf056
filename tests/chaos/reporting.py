"""The seed and the table of what was done: shown at the end of the run, whatever came of it."""

import os
import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from judging import RECOVERY_SECONDS

SEED_VARIABLE = "ULAK_CHAOS_SEED"
_KEY = pytest.StashKey["Table"]()


def chosen_seed() -> int:
    """The seed of `ULAK_CHAOS_SEED`, or a new one."""
    given = os.environ.get(SEED_VARIABLE)
    return int(given) if given else random.SystemRandom().randrange(1_000_000)


@dataclass
class Table:
    """What was done, how often, and how it went."""

    seed: int = field(default_factory=chosen_seed)
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    def add(self, fault: str, times: int, recovery: float | None, wrong: list[str]) -> None:
        """One line of it."""
        seconds = "" if recovery is None else f"{recovery:.1f}"
        self.rows.append((fault, str(times), seconds, "ok" if not wrong else f"WRONG: {wrong[0]}"))

    def lines(self) -> list[str]:
        """The table as text."""
        head = ("fault", "done", f"recovery s (lease + 10 = {RECOVERY_SECONDS})", "result")
        widths = [max(len(row[column]) for row in (head, *self.rows)) for column in range(3)]
        told = [
            "  ".join([row[0].ljust(widths[0]), row[1].rjust(widths[1]), row[2].rjust(widths[2]), row[3]])
            for row in (head, *self.rows)
        ]
        return [f"seed: {SEED_VARIABLE}={self.seed}", *told]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print it below the results."""
        terminalreporter.section("faults")
        for line in self.lines():
            terminalreporter.write_line(line)


def table_of(config: pytest.Config) -> Table:
    """The run's one table, made by whoever asks first."""
    if _KEY not in config.stash:
        config.stash[_KEY] = Table()
        config.pluginmanager.register(config.stash[_KEY], "chaos-table")
    return config.stash[_KEY]
