"""Whatever dies, freezes or lies: no delivery is lost or invented, no limit broken, nothing left open."""

import time
from collections.abc import Iterator

import pytest
from chaos_table import Table, seed_of
from faults import LONG, SHORT, Fault, count_hits, fill_disk, kill_workers, resume_accounts, small_disk, wish
from judging import RECOVERY_SECONDS, growth, judge, never, usage, wait_recovered, wait_truth
from system import System


@pytest.fixture(scope="module")
def long_system(request: pytest.FixtureRequest) -> Iterator[System]:
    """One system for all long faults, one after the other."""
    with System(seed_of(request.config), speed=100) as system:
        system.wait_calls(20)
        yield system


def endure(system: System, fault: Fault, table: Table) -> list[str]:
    """Do it, see the system recover, and say at once what must never be."""
    times = 0
    recovery: float | None = None
    try:
        times = fault.do(system, fault.strength)
        recovery = wait_recovered(system)
        wrong = never(system)
    except AssertionError as error:
        wrong = [str(error)]
    table.add(fault.name, times, recovery, wrong, of=RECOVERY_SECONDS)
    return [f"{fault.name}: {each}" for each in wrong]


@pytest.mark.long
@pytest.mark.timeout(700)
def test_a_short_series_of_faults_loses_and_invents_nothing(table: Table) -> None:
    """A dozen faults of every kind in a drawn order; at the end the table is the truth and every poll has ended."""
    with System(table.seed, workers=2) as system:
        system.wait_calls(10)
        wrong: list[str] = []
        for fault in system.rng.sample(SHORT, len(SHORT)):
            began = time.monotonic()
            wrong += endure(system, fault, table)
            print(f"{fault.name}: {time.monotonic() - began:.1f} s")
        system.send_more(3)
        wrong += judge(system)
        table.add("all of the short series", len(SHORT), None, wrong)
        assert wrong == [], "\n".join(table.lines())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", LONG, ids=lambda fault: fault.name)
def test_a_fault_loses_and_invents_nothing(fault: Fault, long_system: System, table: Table) -> None:
    """New sends, the fault among them; afterwards the table is the truth, and no poll or lease is left open."""
    long_system.send_more(4)
    wrong = endure(long_system, fault, table) + wait_truth(long_system)
    if wrong and table.rows[-1][-1] == "ok":
        table.add(f"{fault.name}: afterwards", 0, None, wrong)
    assert wrong == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_killed_workers_cost_nothing_but_time(table: Table) -> None:
    """Kill -9 a hundred times; who survives neither grows nor collects descriptors."""
    with System(table.seed + 1, workers=4) as system:
        system.wait_calls(20)
        spared = system.processes["worker-1"]
        system.processes["spared"] = system.processes.pop("worker-1")
        time.sleep(5)
        assert spared.pid is not None
        before = usage(spared.pid)
        wrong: list[str] = []
        for _ in range(4):
            system.send_more(4)
            wrong += endure(system, Fault("kill -9 of workers", _kill_a_quarter, 1), table)
        wrong += growth(before, usage(spared.pid)) + judge(system)
        table.add("a hundred kills together", system.crashes, None, wrong)
        assert spared.deaths == 0
        assert wrong == []


def _kill_a_quarter(system: System, strength: int) -> int:
    return sum(kill_workers(system, strength) for _ in range(9))


_STANDS = "SELECT breaker_state, last_trouble FROM accounts WHERE provider = 'vairo'"
_OTHERS = """
    SELECT count(*) FROM calls c JOIN accounts a ON a.id = c.account_id
    WHERE a.provider <> 'vairo' AND c.outcome = 'ok'
"""


def kill_readers(system: System, strength: int) -> int:
    """Each response of one provider kills the worker that reads it, until the account's breaker opens."""
    system.send_more(4 * strength)
    with wish(system) as order:
        order("vairo", "html_200", rate=1.0)
        system.until(lambda: system.query(_STANDS)[0].breaker_state == "open", what="an open breaker", seconds=240)
        assert system.query(_STANDS)[0].last_trouble.startswith("LeaseExpired")
        known = system.number(_OTHERS)
        system.until(lambda: system.number(_OTHERS) > known + 5, what="calls of the others")
        kills = count_hits(system)
    # Whatever a killed worker had in hand is requested again.
    system.crashes += kills
    resume_accounts(system)
    return kills


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_response_that_kills_its_readers_opens_the_breaker_of_its_account_alone(table: Table) -> None:
    """It is the account's trouble, the others go on, and afterwards nothing is missing."""
    with System(table.seed + 3, workers=2, breaks="dies_of_html") as system:
        system.wait_calls(10)
        wrong = endure(system, Fault("responses that kill their readers", kill_readers), table)
        assert wrong + judge(system) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_full_disk_costs_nothing_but_time(table: Table) -> None:
    """PostgreSQL's disk is full: it refuses, maybe falls over; with room again all goes on."""
    with small_disk(256) as disk:
        if isinstance(disk, str):
            table.add("disk full", 0, None, [f"skipped: {disk}"])
            pytest.skip(disk)
        with System(table.seed + 2, workers=2, database_on=disk) as system:
            system.wait_calls(10)
            fault = Fault("disk full", lambda one, strength: fill_disk(one, strength, disk))
            wrong = endure(system, fault, table)
            system.send_more(3)
            assert wrong + judge(system) == []
