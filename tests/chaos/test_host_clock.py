"""One host's clock is wrong, or is set while everything runs: the result does not depend on it (Debian's faketime)."""

import json
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from chaos_table import Table
from judging import judge, never, wait_recovered
from system import POLLED, Process, System

from ulak.local.child_process import ChildSpec
from ulak.local.embedded.postgres import PostgresServer

pytestmark = [pytest.mark.host, pytest.mark.timeout(400)]

APART_SECONDS = 120
STEP_SECONDS = 3600
RESUME_SECONDS = 60.0
"""Within so long every provider is asked again after a step."""


@pytest.fixture
def library() -> str:
    """What shifts the clock of a process that loads it."""
    [found] = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    return str(found)


class HostClock:
    """The wall clock of one host, which a test may set. Its boot clock is the real one."""

    def __init__(self, library: str, folder: Path) -> None:
        """`folder`: which every user of the host can read."""
        self._file = folder / "clock"
        self.set_to(0)
        self.variables = {
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set_to(self, seconds: int) -> None:
        """Let it be so much ahead of the truth, or behind."""
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{seconds:+d}s\n")
        draft.chmod(0o644)
        draft.replace(self._file)

    def of_process(self) -> dict[str, str]:
        """Variables of a Python process of this host."""
        return {**self.variables, "PYTHONPATH": str(Path(__file__).with_name("faked_sleep"))}


class MovingPostgres(PostgresServer):
    """A PostgreSQL that moves to another host, with another clock, at each start.

    Its clock cannot be set while it runs, and it must not end sessions by its timers: these ask for the time in signal
    handlers, where libfaketime may give the real one.
    """

    variables: Mapping[str, str] = {}

    @property
    def url(self) -> str:
        """With sessions that no timer ends."""
        return f"{super().url}?options=-c%20idle_in_transaction_session_timeout%3D0%20-c%20statement_timeout%3D0"

    def prepare(self) -> ChildSpec:
        """As ever, under that clock."""
        spec = super().prepare()
        return replace(spec, env={**(spec.env or {}), **self.variables})


def forget_the_dead() -> None:
    """Remove what libfaketime left of processes that were killed.

    A process that gets the number of one finds its semaphore, and as another user may not open it.
    """
    for kept in Path("/dev/shm").glob("*faketime_s[eh]m_*"):
        if not psutil.pid_exists(int(kept.name.rpartition("_")[2])):
            kept.unlink(missing_ok=True)


def move_database(system: System, library: str, ahead: int) -> None:
    """A failover to a host whose clock is so much ahead of the truth."""
    assert isinstance(system.postgres, MovingPostgres)
    system.postgres.variables = {
        "LD_PRELOAD": library,
        "FAKETIME": f"{ahead:+d}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    forget_the_dead()
    system.restart_postgres(signal.SIGINT)


def restart_on(host: HostClock, process: Process) -> None:
    """Start one of our processes anew, on that host."""
    process.end()
    process.env = {**process.env, **host.of_process()}
    process.wanted = True


def readiness(system: System) -> tuple[int, str]:
    """Status and body of `/readyz`; status 0 while the API starts."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{system.api_port}/readyz", timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ConnectionError):
            raise
        return 0, ""


def asked_since(system: System, seen: int) -> set[str]:
    """The polled providers that have answered a request well since the sandbox's log had `seen` lines."""
    return {entry["provider"] for entry in system.sandbox.log()[seen:] if entry["status"] == 200} & set(POLLED)


def await_every_provider(system: System, seen: int) -> None:
    """Return when every polled provider has been asked again."""
    end = time.monotonic() + RESUME_SECONDS
    while missing := set(POLLED) - asked_since(system, seen):
        assert time.monotonic() < end, f"{sorted(missing)} not asked within {RESUME_SECONDS:.0f} s"
        time.sleep(0.1)


@contextmanager
def everything(host: HostClock, system: System, where: str) -> Iterator[System]:
    """The whole system, one of its hosts with that clock."""
    if where == "database":
        system.postgres = MovingPostgres(system.folder / "servers", order=("wheel", "system"))
    with system:
        if where == "beat":
            # Both beats stand on one host: nobody else sends its ticks.
            for process in system.beats():
                restart_on(host, process)
        elif where != "database":
            restart_on(host, system.processes[{"worker": "worker-1", "api": "api"}[where]])
        system.wait_calls(20)
        system.until(lambda: readiness(system)[0] == 200, what="readiness")
        yield system


@pytest.mark.parametrize("sign", ["+", "-"])
def test_a_worker_and_a_beat_with_a_wrong_clock_change_nothing(sign: str, library: str, table: Table) -> None:
    """A worker and a beat two minutes ahead or behind: no limit is broken, and the table is the truth."""
    with System(table.seed, workers=2) as system:
        host = HostClock(library, system.folder)
        host.set_to(int(f"{sign}{APART_SECONDS}"))
        for name in ("worker-1", "beat-1"):
            restart_on(host, system.processes[name])
        system.wait_calls(20)
        system.send_more(4)
        system.kill(system.processes["worker-2"])
        wait_recovered(system)
        wrong = judge(system)
        table.add(f"clock {sign}{APART_SECONDS} s", 1, None, wrong)
        assert wrong == []
        assert "fetch.stored" in system.processes["worker-1"].log.read_text(encoding="utf-8")
        assert system.processes["beat-1"].deaths == 1


@pytest.mark.parametrize("where", ["database", "worker", "beat", "api"])
def test_polling_goes_on_when_the_clock_of_a_host_is_set(where: str, library: str, table: Table) -> None:
    """An hour forward, then an hour back, then another one back: every provider is asked again within a minute.

    No limit is broken, readiness tells of a step of the database's clock, and the table is the truth.
    """
    system = System(table.seed, workers=2)
    host = HostClock(library, system.folder)
    with everything(host, system, where):
        for number, ahead in enumerate([STEP_SECONDS, 0, -STEP_SECONDS], 1):
            if where == "database":
                move_database(system, library, ahead)
            else:
                host.set_to(ahead)
            seen = len(system.sandbox.log())
            system.send_more(1)
            await_every_provider(system, seen)
            system.until(lambda: readiness(system)[0] == 200, what="readiness", seconds=RESUME_SECONDS)
            assert never(system) == []
            if where == "database":
                said: list[str] = json.loads(readiness(system)[1])["notes"]
                assert f"set {'forward' if number == 1 else 'back'} by 3600" in said[0].replace("3599.", "3600.")
                assert system.number("SELECT count(*) FROM clock_steps") == number
        wrong = judge(system)
        table.add(f"{where}'s clock set three times", 1, None, wrong)
        assert wrong == []
        assert system.log_lines("clock.stepped") == (3 if where == "database" else 0)
