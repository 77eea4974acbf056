"""One host's clock is wrong by two minutes: nothing of the result depends on it (Debian's faketime)."""

from pathlib import Path

import pytest
from chaos_table import Table
from judging import judge, wait_recovered
from system import System

pytestmark = [pytest.mark.host, pytest.mark.timeout(400)]

APART_SECONDS = 120


@pytest.fixture
def library() -> str:
    """What shifts the clock of a process that loads it."""
    [found] = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    return str(found)


@pytest.mark.parametrize("sign", ["+", "-"])
def test_a_worker_and_a_beat_with_a_wrong_clock_change_nothing(sign: str, library: str, table: Table) -> None:
    """A worker and a beat two minutes ahead or behind: no limit is broken, and the table is the truth."""
    with System(table.seed, workers=2) as system:
        shifted = {
            "LD_PRELOAD": library,
            "FAKETIME": f"{sign}{APART_SECONDS}s",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        for name in ("worker-1", "beat-1"):
            process = system.processes[name]
            process.end()
            process.env = {**process.env, **shifted}
            process.wanted = True
        system.wait_calls(20)
        system.send_more(4)
        system.kill(system.processes["worker-2"])
        wait_recovered(system)
        wrong = judge(system)
        table.add(f"clock {sign}{APART_SECONDS} s", 1, None, wrong)
        assert wrong == []
        assert "fetch.stored" in system.processes["worker-1"].log.read_text(encoding="utf-8")
