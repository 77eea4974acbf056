"""A PostgreSQL that another process left behind: is it alive, is it ours, how is it ended."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Final

from ulak.core import clock

GOING_BY_ITSELF_SECONDS: Final = 10.0
STOPPING_SECONDS: Final = 15.0


def running_postmaster(data: Path) -> int | None:
    """The process id of the server that runs on this data folder, else None.

    The pid file alone proves nothing: after a crash, and in a container always, its number may
    belong to another program by now.
    """
    try:
        first = (data / "postmaster.pid").read_text(encoding="utf-8").split("\n", 1)[0]
        pid = abs(int(first))
    except (OSError, ValueError):
        return None
    return pid if str(data) in _command_line(pid) else None


def stop_postmaster(data: Path) -> None:
    """Makes sure that no server runs on this data folder and no stale pid file hinders the next.

    One whose supervisor has just died is stopping already and gets time for it.
    """
    for number, patience in (
        (None, GOING_BY_ITSELF_SECONDS),
        (signal.SIGINT, STOPPING_SECONDS),
        (signal.SIGQUIT, STOPPING_SECONDS),
        (signal.SIGKILL, STOPPING_SECONDS),
    ):
        pid = running_postmaster(data)
        if pid is None:
            break
        if number is not None:
            os.kill(pid, number)
        _wait_for_end(data, patience)
    (data / "postmaster.pid").unlink(missing_ok=True)


def _wait_for_end(data: Path, patience: float) -> None:
    deadline = clock.boot() + patience
    while running_postmaster(data) is not None and clock.boot() < deadline:
        clock.sleep(0.05)


def _command_line(pid: int) -> str:
    if Path("/proc/self").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            return ""
    found = subprocess.run(  # noqa: S603  macOS has no /proc
        ["/bin/ps", "-p", str(pid), "-o", "args="],
        check=False,
        capture_output=True,
        text=True,
    )
    return found.stdout
