"""Every fault of every provider at once, then calm: the table becomes the truth, and was never wrong on the way."""

import pytest
from chaos_table import Table
from storm import judge_storm, rage, send_plenty, watch
from system import System


def weather(table: Table, *, seconds: float, patience: float) -> list[str]:
    """A system in a storm of so many seconds, and all that was wrong with it."""
    with System(table.seed, workers=2, speed=60) as system:
        watch(system)
        send_plenty(system)
        system.wait_calls(10)
        hits = rage(system, seconds)
        wrong = judge_storm(system, patience)
    print("struck:", dict(sorted(hits.items())), *wrong, sep="\n")
    table.add(f"every fault for {seconds:.0f} s", sum(hits.values()), None, wrong)
    return wrong


@pytest.mark.timeout(420)
def test_half_a_minute_of_every_fault_at_once_leaves_no_trace(table: Table) -> None:
    """The short form of the test below."""
    assert weather(table, seconds=25, patience=150) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_minutes_of_every_fault_at_once_leave_no_trace(table: Table) -> None:
    """Missing, wrong and extra rows: none; wrong final statuses at any moment: none; no limit was exceeded."""
    assert weather(table, seconds=120, patience=300) == []
