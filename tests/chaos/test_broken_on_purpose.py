"""Each promise broken once, on purpose: the harness must see it, or its green says nothing."""

import signal
import time
from collections.abc import Callable

import pytest
from chaos_table import Table
from faults import kill_all_workers, wait_hits
from judging import lateness, never, unsettled
from system import LEASE_SECONDS, System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
TIGHT = {"vairo": 5, "iletimerkezi": 4, "diyalog": 4}
"""Limits that a handful of sends uses up."""
LATE_SECONDS = 20
"""What a busy machine may need for what should be done within a few."""


def seen_when_broken(table: Table, promise: str, look: Callable[[System], list[str]], **options: object) -> list[str]:
    """What the judgement says of a system with that promise broken."""
    with System(table.seed, workers=2, breaks=promise, **options) as system:  # type: ignore[arg-type]
        system.wait_calls(5)
        wrong = look(system)
    table.add(f"on purpose: {promise}", len(wrong), None, [] if wrong else ["the harness did not see it"])
    return wrong


def test_the_unbroken_system_passes_the_looks_at_its_limits(table: Table) -> None:
    """The same looks at the system as it is find nothing: what they find elsewhere is the broken promise."""
    with System(table.seed, workers=2, limits=TIGHT) as system:
        system.wait_calls(5)
        wrong = saturate(system) + jitter(system)
    table.add("on purpose: nothing (limits)", 0, None, wrong)
    assert wrong == []


def test_the_unbroken_system_passes_the_other_looks(table: Table) -> None:
    """Nor do the others find anything."""
    with System(table.seed, workers=2) as system:
        system.wait_calls(5)
        wrong = look_at_lateness(system) + _freeze_and_thaw(system) + kill_and_wait(system)
        wrong += look_at_rest(system)
    table.add("on purpose: nothing (others)", 0, None, wrong)
    assert wrong == []


def test_a_removed_fence_is_seen(table: Table) -> None:
    """A late finisher writes although another has finished its fetch: polls count wrongly, or a constraint refuses."""
    wrong = seen_when_broken(table, "fence_removed", freeze_and_thaw)
    assert any(each.startswith("ledger") for each in wrong)


def test_skipped_call_rows_are_seen(table: Table) -> None:
    """Without call rows the stand-ins count more requests than were permitted, and windows over their limit."""
    wrong = seen_when_broken(table, "call_row_skipped", saturate, limits=TIGHT)
    assert {each.split(":")[0] for each in wrong} >= {"limit", "requests"}


def test_a_slot_that_is_freed_at_sending_is_seen(table: Table) -> None:
    """On a line that delays unevenly, windows at the provider hold more than the limit."""
    wrong = seen_when_broken(table, "slot_freed_at_sending", jitter, limits=TIGHT)
    assert any(each.startswith("limit") for each in wrong)


def test_a_merge_by_arrival_is_seen(table: Table) -> None:
    """Notices that arrive out of order leave rows that are not the truth."""
    wrong = seen_when_broken(table, "merge_by_arrival", look_at_rest)
    assert any("status" in each for each in wrong)


def test_a_publish_before_the_commit_is_seen(table: Table) -> None:
    """Messages that speak of rows that are not there yet fall flat: the work waits until a message counts as lost."""
    # Threads enough that no message waits for one until after the commit.
    wrong = seen_when_broken(table, "publish_before_commit", look_at_lateness, threads=32)
    assert any(each.startswith("late") for each in wrong)


def test_a_missing_reconcile_is_seen(table: Table) -> None:
    """Nobody gives back the leases of killed workers: fetches stay leased and polls open."""
    wrong = seen_when_broken(table, "reconcile_off", kill_and_wait)
    assert any("left leased" in each for each in wrong)


# ------------------------------------------------------------------------------------------------ looks


def more(system: System) -> System:
    """The system with more to do."""
    system.send_more(12)
    return system


def saturate(system: System) -> list[str]:
    """More work than the limit allows."""
    more(system)
    time.sleep(12)
    return never(system)


def jitter(system: System) -> list[str]:
    """The same over a line that delays each request by another time."""
    for proxy in system.to_provider.values():
        proxy.delay_seconds = (0.0, 1.6)
    more(system)
    time.sleep(20)
    found = never(system)
    for proxy in system.to_provider.values():
        proxy.heal()
    return found


def freeze_and_thaw(system: System) -> list[str]:
    """Three workers finish late, three times at most: what they do wrong shows where others had done their work."""
    return next((wrong for _ in range(3) if (wrong := _freeze_and_thaw(system))), [])


def _freeze_and_thaw(system: System) -> list[str]:
    """Frozen before their fence, past their leases, while others do their work."""
    more(system)
    late = [system.trapped_worker(iter(["close_call:before:1:stop"])) for _ in range(3)]
    wait_hits(system, len(late))
    system.crashes += len(late)
    held = [row.id for row in system.query("SELECT id FROM fetches WHERE state = 'sending'")]
    open_ones = "SELECT count(*) FROM fetches WHERE id = ANY(:held) AND state IN ('ready', 'sending')"
    # Frozen workers take messages, too, so that what they hold may be named several times before another makes it.
    system.until(lambda: not system.number(open_ones, held=held), what="the work of the others", seconds=120)
    for worker in late:
        worker.signal(signal.SIGCONT)
    end = time.monotonic() + LATE_SECONDS
    while not (found := never(system) + _refused(system)) and time.monotonic() < end:
        time.sleep(1)
    for worker in late:
        worker.end()
    return found


def _refused(system: System) -> list[str]:
    """Late finishers that only a constraint of the schema stopped."""
    many = system.log_lines('"fetch.store_failed"')
    return [f"ledger: only the schema refused {many} late finishers"] if many else []


def look_at_lateness(system: System) -> list[str]:
    """How soon planned fetches are asked while nothing is wrong."""
    since = system.now()
    more(system)
    time.sleep(18)
    return lateness(system, since)


def look_at_rest(system: System) -> list[str]:
    """The table, some time after the stand-ins have come to rest."""
    more(system)
    system.until(lambda: system.sandbox.control("GET", "/truth/settled")["settled"], what="rest", seconds=120)
    rest, end = system.now(), time.monotonic() + LATE_SECONDS
    while (found := unsettled(system, rest)) and time.monotonic() < end:
        time.sleep(1)
    return found


def kill_and_wait(system: System) -> list[str]:
    """Workers killed with requests in the air, and time enough to heal."""
    more(system)
    kill_all_workers(system, 3)
    time.sleep(2 * LEASE_SECONDS + 14)
    return never(system)
