"""Runs a set of child processes: starts them, restarts what dies, stops all, outlived by none.

    with Supervisor(home) as supervisor:
        supervisor.add(postgres.prepare())
        postgres.wait_until_ready(supervisor.poll)
        supervisor.add(ChildSpec(name="worker", argv=…))
        code = supervisor.run(tick=show_progress, interval_seconds=1)

The first Ctrl-C or SIGTERM asks for an orderly stop, the second one for a hard one. Should the
supervisor itself be killed, its children end by their lifelines (`ulak.local.lifeline`).
"""

import os
import signal
import subprocess
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from pathlib import Path
from select import select
from types import FrameType, TracebackType
from typing import Any, Final, Self

from ulak.core import clock
from ulak.core.logging import get_logger
from ulak.core.redaction import redact_text
from ulak.local.child_process import ChildSpec, last_lines, launch, prepare_log, trim_log
from ulak.local.home_lock import HomeLock
from ulak.local.lifeline import Lifeline

MIN_BACKOFF_SECONDS: Final = 0.5
MAX_BACKOFF_SECONDS: Final = 10.0
# A child that lived this long has recovered: its next death starts with the shortest pause again.
RECOVERED_SECONDS: Final = 30.0
# A child that ended so often before it was ever ready will not become so. With the pauses this takes 10 to 30 seconds.
FAILED_STARTS: Final = 5
# How often the sizes of the logs are looked at.
TRIM_SECONDS: Final = 30.0
# A warden waits for its program, harshly at last, before the supervisor loses patience with it.
GUARD_MARGIN_SECONDS: Final = 12.0

log = get_logger(__name__)


class ChildFailedError(Exception):
    """A child keeps exiting before it was ever ready; the text contains its exit status and last lines."""


class Child:
    """One child and its story: running, waiting for its restart, or ended for good."""

    def __init__(self, spec: ChildSpec, home: Path, lifeline: Lifeline) -> None:
        self.spec = spec
        self.restart_at: float | None = None
        self.exit_code: int | None = None
        self.was_ready = not spec.announces
        self._failed_starts = 0
        self._ready_pipe: int | None = None
        self._home = home
        self._lifeline = lifeline
        self._process: subprocess.Popen[bytes] | None = None
        self._backoff = MIN_BACKOFF_SECONDS
        self._started_at = 0.0
        self._log_offset = 0
        self._log = home / "logs" / f"{spec.name}.log"

    @property
    def pid(self) -> int | None:
        """The running child's process id (the warden's, for a foreign program), else None."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Starts it; a program that cannot even be started counts as one that died."""
        self.restart_at = None
        self._started_at = clock.boot()
        self._log = prepare_log(self._home, self.spec.name)
        self._log_offset = self._log.stat().st_size if self._log.exists() else 0
        try:
            if self.spec.before_start:
                self.spec.before_start()
            self._process = self._launch()
        except OSError as error:
            self._hear()
            self._plan_restart(127, reason=f"cannot be started: {error.strerror}")

    def _launch(self) -> "subprocess.Popen[bytes]":
        if self.was_ready:
            return launch(self.spec, self._lifeline.reading_end, self._log)
        self._ready_pipe, announcing_end = os.pipe()
        os.set_blocking(self._ready_pipe, False)
        try:
            return launch(self.spec, self._lifeline.reading_end, self._log, announcing_end)
        finally:
            os.close(announcing_end)

    def _hear(self) -> None:
        """Notices that it has announced itself."""
        if self._ready_pipe is None:
            return
        with suppress(BlockingIOError):
            self.was_ready = self.was_ready or os.read(self._ready_pipe, 1) != b""
        if self.was_ready or self._process is None:
            os.close(self._ready_pipe)
            self._ready_pipe = None

    def reap(self) -> None:
        """Notices that it is ready or dead, and plans the restart. `ChildFailedError` where that would not help."""
        self._hear()
        if self._process is None or (code := self._process.poll()) is None:
            return
        self._forget_process()
        self._plan_restart(code, reason=_describe(code))

    def trim(self) -> None:
        """Keeps its log from filling the disk."""
        with suppress(OSError):
            if trim_log(self._log):
                self._log_offset = 0

    def signal_stop(self) -> None:
        """Asks it to stop: its own stop signal, or through its warden."""
        self.restart_at = None
        if self._process is not None and self._process.poll() is None:
            number = signal.SIGTERM if self.spec.foreign else self.spec.stop_signal
            self._process.send_signal(number)

    def has_stopped(self) -> bool:
        """Whether it is gone, its remains swept up."""
        if self._process is None:
            return True
        if (code := self._process.poll()) is None:
            return False
        self.exit_code = code
        self._forget_process()
        return True

    def kill(self) -> None:
        """Ends it and everything in its session, hard, and waits for that."""
        if self._process is not None:
            _kill_group(self._process.pid)
            self._process.wait()
            self._forget_process()

    @property
    def patience_seconds(self) -> float:
        """How long its stopping may take."""
        margin = GUARD_MARGIN_SECONDS if self.spec.foreign else 0.0
        return self.spec.grace_seconds + margin

    def _forget_process(self) -> None:
        if self._process is not None:
            # What the child may have started and left behind shares its session.
            _kill_group(self._process.pid)
            self._process = None
        self._hear()

    def _plan_restart(self, code: int, *, reason: str) -> None:
        self.exit_code = code
        wanted = self.spec.restart == "always" or (self.spec.restart == "on_failure" and code != 0)
        if not wanted or code in self.spec.final_codes:
            log.info("child.ended", child=self.spec.name, how=reason, **self._last_words(code))
            return
        self._failed_starts += not self.was_ready
        if self._failed_starts >= FAILED_STARTS:
            lines = "".join(f"\n  {redact_text(line)}" for line in last_lines(self._log, 10, since=self._log_offset))
            raise ChildFailedError(
                f"{self.spec.name} ended {self._failed_starts} times before it was ever ready ({reason}); "
                f"{self._log} ends with:{lines or ' nothing'}"
            )
        if clock.boot() - self._started_at >= RECOVERED_SECONDS:
            self._backoff = MIN_BACKOFF_SECONDS
        self.restart_at = clock.boot() + self._backoff
        log.warning(
            "child.died",
            child=self.spec.name,
            how=reason,
            restart_in_seconds=self._backoff,
            **self._last_words(code),
        )
        self._backoff = min(self._backoff * 2, MAX_BACKOFF_SECONDS)

    def _last_words(self, code: int) -> dict[str, Any]:
        lines = last_lines(self._log, 5, since=self._log_offset) if code else []
        return {"last_lines": lines, "log": str(self._log)} if lines else {}


class Supervisor:
    """The children of one home. Entering locks the home (`HomeBusyError`) and takes the signals.

    Belongs to the main thread. Leaving the `with` block stops every child, also after an error.
    """

    def __init__(self, home: Path) -> None:
        self.home = home.expanduser().absolute()
        self.children: dict[str, Child] = {}
        self._signals_seen = 0
        self._stack = ExitStack()
        self._lifeline = Lifeline()
        self._wake_read = -1
        self._next_trim = 0.0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._lifeline.close)
            stack.enter_context(HomeLock(self.home))
            self._take_signals(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        finally:
            self._stack.close()

    @property
    def stop_requested(self) -> bool:
        """Whether a signal asked for the end."""
        return self._signals_seen > 0

    def add(self, *specs: ChildSpec) -> None:
        """Starts these children now and keeps them running from now on."""
        for spec in specs:
            child = self.children[spec.name] = Child(spec, self.home, self._lifeline)
            child.start()

    def poll(self) -> bool:
        """Restarts what has died and is due; False once a stop was asked for. Never blocks.

        `ChildFailedError` where a child keeps ending before it was ever ready.
        """
        if self.stop_requested:
            return False
        for child in self.children.values():
            child.reap()
            if child.restart_at is not None and child.restart_at <= clock.boot():
                child.start()
                log.info("child.restarted", child=child.spec.name, pid=child.pid)
        self._trim_logs()
        return True

    def _trim_logs(self) -> None:
        if clock.boot() < self._next_trim:
            return
        self._next_trim = clock.boot() + TRIM_SECONDS
        for child in self.children.values():
            child.trim()

    def wait_until_ready(self, names: Collection[str], keep_waiting: Callable[[], bool]) -> None:
        """Returns when these children have announced themselves, a stop is requested, or waiting is pointless."""
        while self.poll() and keep_waiting() and not all(self.children[name].was_ready for name in names):
            self._wait(0.1)

    def run(
        self,
        tick: Callable[[], int | None] | None = None,
        interval_seconds: float = 1.0,
    ) -> int:
        """Keeps the children running until a signal comes (then 0) or `tick` gives an exit code.

        `tick` is called every `interval_seconds`, the first time at once. The children still run
        when this returns: leaving the `with` block stops them.
        """
        next_tick = clock.boot()
        while self.poll():
            if tick is not None and clock.boot() >= next_tick:
                if (code := tick()) is not None:
                    return code
                next_tick = max(next_tick + interval_seconds, clock.boot())
            self._wait(self._pause(next_tick if tick else None))
        return 0

    def stop(self) -> None:
        """Stops every child: the highest tier first, within a tier the last started first.

        Returns when all are gone. A second signal kills what still lives of the tier that is
        stopping; the servers below it still get their orderly end, which takes them a moment.
        """
        tiers = sorted({child.spec.tier for child in self.children.values()}, reverse=True)
        for tier in tiers:
            self._stop_tier([c for c in self.children.values() if c.spec.tier == tier])
        self.children.clear()

    def _stop_tier(self, children: list[Child]) -> None:
        seen_before = self._signals_seen
        started = clock.boot()
        for child in reversed(children):
            child.signal_stop()
        while waiting := [child for child in children if not child.has_stopped()]:
            harsh = self._signals_seen > max(1, seen_before)
            for child in waiting:
                if harsh or clock.boot() - started > child.patience_seconds:
                    log.warning("child.killed", child=child.spec.name)
                    child.kill()
            self._wait(0.1)

    def _pause(self, next_tick: float | None) -> float:
        moments = [child.restart_at for child in self.children.values()]
        due = [moment for moment in (*moments, next_tick) if moment is not None]
        return min(max(min(due, default=clock.boot() + 1.0) - clock.boot(), 0.0), 1.0)

    def _wait(self, seconds: float) -> None:
        """Sleeps, but wakes for a signal: a stop or the death of a child is noticed at once."""
        if select([self._wake_read], [], [], seconds)[0]:
            with suppress(BlockingIOError):
                os.read(self._wake_read, 4096)

    def _take_signals(self, stack: ExitStack) -> None:
        self._wake_read, wake_write = os.pipe()
        for end in (self._wake_read, wake_write):
            os.set_blocking(end, False)
            stack.callback(os.close, end)
        before = signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        stack.callback(signal.set_wakeup_fd, before)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            stack.callback(signal.signal, number, signal.signal(number, self._ask_to_stop))
        stack.callback(
            signal.signal,
            signal.SIGCHLD,
            signal.signal(signal.SIGCHLD, lambda *_: None),
        )

    def _ask_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._signals_seen += 1


def _kill_group(pid: int) -> None:
    # The child leads a session of its own, so its group carries its number. PermissionError: macOS
    # answers so for a group of which only a zombie is left.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _describe(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return f"signal {signal.Signals(-code).name}"
    return f"signal {-code}"
