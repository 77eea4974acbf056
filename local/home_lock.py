"""The home folder (`ULAK_HOME`) and its lock: one supervisor per home."""

import contextlib
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self


class HomeBusyError(Exception):
    """Another Ulak already runs in this home."""

    def __init__(self, home: Path, pid: int | None) -> None:
        who = f"process {pid}" if pid else "another process"
        super().__init__(
            f"Ulak already runs in {home} ({who}): stop it first, or set ULAK_HOME to another folder.",
        )
        self.pid = pid


class HomeLock:
    """Holds the home for this process; a context manager.

    The kernel gives the lock back when the process ends, whatever ends it, so there is no stale
    lock. Entering raises `HomeBusyError` immediately when another process holds it.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._descriptor = -1

    def __enter__(self) -> Self:
        self._home.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._home / "supervisor.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = _read_pid(descriptor)
            os.close(descriptor)
            raise HomeBusyError(self._home, pid) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)


def _read_pid(descriptor: int) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(os.pread(descriptor, 32, 0))
    return None
