"""Runs one foreign program and makes sure that it does not outlive its supervisor.

    python process_guard.py --lifeline FD [--stop SIGINT] [--harsh SIGQUIT] [--grace 8]
                     [--uid N --gid N] -- program argument...

It is run as a script in Python's isolated mode, so it starts in a few hundredths of a second and
imports no module of Ulak. `FD` is the reading end of a pipe without a writer's data: when it ends, the
supervisor is gone, whatever killed it, and the program is stopped. A signal to the warden stops
the program too: the stop signal first, after the grace (or at a second signal) the harsh one, then
SIGKILL. The exit code is the program's own, 128 + n where signal n killed it.
"""

import argparse
import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
AFTER_HARSH_SECONDS = 5.0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="warden")
    parser.add_argument("--lifeline", type=int, required=True)
    parser.add_argument("--stop", type=signal.Signals.__getitem__, default=signal.SIGTERM)
    parser.add_argument("--harsh", type=signal.Signals.__getitem__, default=signal.SIGKILL)
    parser.add_argument("--grace", type=float, default=8.0)
    parser.add_argument("--uid", type=int)
    parser.add_argument("--gid", type=int)
    parser.add_argument("argv", nargs="+")
    return parser.parse_args(arguments)


class ProcessGuard:
    """One program, the pipe it hangs on, and the steps of stopping it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._steps = [options.stop, options.harsh, signal.SIGKILL]
        self._next_step_at = float("inf")
        self._asked = False
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def run(self) -> int:
        """Starts the program, returns its exit code when it has ended."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._ask)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            program = self._start()
        except OSError as error:
            sys.stderr.write(f"{self._options.argv[0]} cannot be started: {error.strerror}\n")
            return 127
        code = self._watch(program)
        return code if code >= 0 else 128 - code

    def _ask(self, *_: object) -> None:
        self._asked = True

    def _start(self) -> "subprocess.Popen[bytes]":
        uid: int | None = self._options.uid
        gid: int | None = self._options.gid
        argv: list[str] = self._options.argv
        return subprocess.Popen(  # noqa: S603  the supervisor chooses the command
            argv,
            stdin=subprocess.DEVNULL,
            user=uid,
            group=gid,
            extra_groups=None if gid is None else [],
            # Safe here: this process has a single thread. It runs after the user has changed, and
            # that order matters, for a change of user clears the parent-death signal.
            preexec_fn=_die_with_parent(os.getpid(), self._options.harsh),  # noqa: PLW1509
        )

    def _watch(self, program: "subprocess.Popen[bytes]") -> int:
        selector = selectors.DefaultSelector()
        selector.register(self._options.lifeline, selectors.EVENT_READ)
        selector.register(self._wake_read, selectors.EVENT_READ)
        while (code := program.poll()) is None:
            if self._asked:
                self._asked = False
                self._take_step(program)
            remaining = self._next_step_at - time.monotonic()
            if remaining <= 0:
                self._take_step(program)
                continue
            events = selector.select(None if remaining == float("inf") else remaining)
            for key, _ in events:
                if key.fd == self._options.lifeline:
                    selector.unregister(key.fd)
                    self._asked = True
                else:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
        return code

    def _take_step(self, program: "subprocess.Popen[bytes]") -> None:
        gentle = len(self._steps) == 3  # noqa: PLR2004  none of the three steps taken yet
        step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
        program.send_signal(step)
        patience = self._options.grace if gentle else AFTER_HARSH_SECONDS
        self._next_step_at = time.monotonic() + patience


def _die_with_parent(parent: int, with_signal: signal.Signals) -> Callable[[], None] | None:
    """The second belt: should the warden itself be killed, the kernel ends the program (Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def arrange() -> None:
        prctl(PR_SET_PDEATHSIG, int(with_signal), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(127)

    return arrange


if __name__ == "__main__":
    sys.exit(ProcessGuard(_parse(sys.argv[1:])).run())
