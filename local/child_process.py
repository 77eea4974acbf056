"""What a supervised child is, and how one is started."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from ulak.core.environment import LIFELINE_VARIABLE, READY_VARIABLE, inherited_environment

MAX_LOG_BYTES: Final = 5_000_000
MAX_LIVE_LOG_BYTES: Final = 50_000_000
TAIL_BYTES: Final = 8_192
PROCESS_GUARD: Final = Path(__file__).with_name("process_guard.py")

RestartPolicy = Literal["always", "on_failure", "never"]


@dataclass(frozen=True, kw_only=True)
class ChildSpec:
    """One child process.

    `foreign` programs (anything that does not call `ulak.local.lifeline.watch()`) run under a warden.
    `env` is added to this process's environment, or is the whole of it when `inherit_env` is
    false. `tier`: children of a higher tier are stopped first, those of one tier together.
    `before_start` runs before each start, restarts too. `announces`: the program calls
    `ulak.local.lifeline.announce_ready()`; one that keeps ending before it ever did ends the supervisor's run.
    `uid` and `gid` go together and need `foreign` and root. An exit code among `final_codes` means that
    a restart would not help.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    inherit_env: bool = True
    restart: RestartPolicy = "always"
    stop_signal: signal.Signals = signal.SIGTERM
    harsh_signal: signal.Signals = signal.SIGKILL
    grace_seconds: float = 10.0
    foreign: bool = False
    announces: bool = False
    uid: int | None = None
    gid: int | None = None
    tier: int = 1
    before_start: Callable[[], None] | None = None
    final_codes: frozenset[int] = frozenset()


def launch(spec: ChildSpec, lifeline: int, log: Path, ready: int | None = None) -> subprocess.Popen[bytes]:
    """Starts the child in a session of its own, its output appended to `log`; `ready`: where it announces itself.

    A session of its own, because Ctrl-C at a terminal goes to every process of the foreground
    group, and the order of stopping is the supervisor's to choose.
    """
    environment = {**(inherited_environment() if spec.inherit_env else {}), **spec.env}
    # A warden gets the descriptor as an argument, and its program must not look for one.
    for variable in (LIFELINE_VARIABLE, READY_VARIABLE):
        environment.pop(variable, None)
    if not spec.foreign:
        environment[LIFELINE_VARIABLE] = str(lifeline)
    if ready is not None:
        environment[READY_VARIABLE] = str(ready)
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603  our own command lines
            _command(spec, lifeline),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(lifeline,) if ready is None else (lifeline, ready),
            start_new_session=True,
        )


def prepare_log(home: Path, name: str) -> Path:
    """The child's log file; one that has grown past 5 MB becomes `<name>.log.1`."""
    folder = home / "logs"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{name}.log"
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(folder / f"{name}.log.1")
    return path


def trim_log(path: Path, *, longest: int = MAX_LIVE_LOG_BYTES) -> bool:
    """Empty a log that a running child has filled past `longest`, after a copy to `<name>.log.1`; whether it did.

    The child appends, so it continues at the beginning. What it writes between copy and emptying is lost.
    """
    if not path.exists() or path.stat().st_size <= longest:
        return False
    shutil.copyfile(path, path.with_name(f"{path.name}.1"))
    with path.open("r+b") as file:
        file.truncate()
    return True


def last_lines(log: Path, count: int = 10, *, since: int = 0) -> list[str]:
    """The last lines a child wrote, from the byte offset `since` on."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(since, size - TAIL_BYTES))
            return file.read().decode("utf-8", "replace").splitlines()[-count:]
    except FileNotFoundError:
        return []


def _command(spec: ChildSpec, lifeline: int) -> list[str]:
    if not spec.foreign:
        return list(spec.argv)
    command = [sys.executable, "-I", "-S", str(PROCESS_GUARD), f"--lifeline={lifeline}"]
    command += [f"--stop={spec.stop_signal.name}", f"--harsh={spec.harsh_signal.name}"]
    command += [f"--grace={spec.grace_seconds}"]
    if spec.uid is not None and spec.gid is not None:
        command += [f"--uid={spec.uid}", f"--gid={spec.gid}"]
    return [*command, "--", *spec.argv]
