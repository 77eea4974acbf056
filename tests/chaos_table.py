"""The seed and the table of the fault tests: one of each for a run, however many processes share its tests.

A plugin of pytest, and the `table` that a test fills; it is shown at the end, whatever came of it.
"""

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import pytest

SEED_VARIABLE: Final = "ULAK_CHAOS_SEED"
PROPERTY: Final = "chaos"
_SEED = pytest.StashKey[int]()
Row = Sequence[str]


def seed_of(config: pytest.Config) -> int:
    """The run's seed: that of `ULAK_CHAOS_SEED`, or one that the controlling process drew."""
    return int(config.workerinput["chaos_seed"]) if hasattr(config, "workerinput") else config.stash[_SEED]


def lines(seed: int, rows: Sequence[Row]) -> list[str]:
    """The table as text."""
    head = ("fault", "done", "recovery s", "result")
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(3)]
    told = [
        "  ".join([row[0].ljust(widths[0]), row[1].rjust(widths[1]), row[2].rjust(widths[2]), row[3]])
        for row in (head, *rows)
    ]
    return [f"seed: {SEED_VARIABLE}={seed}", *told]


@dataclass
class Table:
    """What was done, how often, and how it went."""

    seed: int
    rows: list[Row] = field(default_factory=list)

    def add(self, fault: str, times: int, recovery: float | None, wrong: list[str], *, of: float = 0) -> None:
        """One line of it; `of`: within how many seconds the system should have recovered."""
        seconds = "" if recovery is None else f"{recovery:.1f} of {of:.0f}"
        self.rows.append((fault, str(times), seconds, "ok" if not wrong else f"WRONG: {wrong[0]}"))

    def lines(self) -> list[str]:
        """The table as text."""
        return lines(self.seed, self.rows)


@dataclass
class Summary:
    """What all tests of the run did, printed below their results."""

    seed: int
    rows: list[Row] = field(default_factory=list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the rows that came with a test's end."""
        if report.when == "teardown":
            self.rows += [
                row for name, rows in report.user_properties if name == PROPERTY for row in cast("list[Row]", rows)
            ]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print them, if there are any."""
        if not self.rows:
            return
        terminalreporter.section("faults")
        for line in lines(self.seed, self.rows):
            terminalreporter.write_line(line)


def pytest_configure(config: pytest.Config) -> None:
    """The controlling process draws the seed and gathers what the others did."""
    if hasattr(config, "workerinput"):
        return
    given = os.environ.get(SEED_VARIABLE)
    config.stash[_SEED] = int(given) if given else random.SystemRandom().randrange(1_000_000)
    config.pluginmanager.register(Summary(config.stash[_SEED]), "chaos-summary")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand the seed to a process that shares the tests."""
    node.workerinput["chaos_seed"] = node.config.stash[_SEED]


@pytest.fixture
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    """The seed, and what this test did: its rows travel with its result."""
    table = Table(seed_of(request.config))
    yield table
    request.node.user_properties.append((PROPERTY, table.rows))
