"""The supervisor and its children, as real processes that are really killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from ulak.local.child_process import trim_log

ROOT = Path(__file__).parents[2]

# What the tests supervise: two real servers, a Python child that watches its lifeline, a foreign
# program that ignores SIGTERM. The supervisor prints one line when all of it runs.
PROGRAM = """
import json, signal, sys
from pathlib import Path
from ulak.core.logging import configure_logging
from ulak.local.child_process import ChildSpec
from ulak.local.embedded.postgres import PostgresServer
from ulak.local.embedded.valkey import ValkeyServer
from ulak.local.home_lock import HomeBusyError
from ulak.local.supervisor import ChildFailedError, Supervisor

home, servers, children = Path(sys.argv[1]), sys.argv[2] == "servers", json.loads(sys.argv[3])
configure_logging("up", "json", stream=open(sys.argv[4], "a"))
try:
    with Supervisor(home) as supervisor:
        for server in (PostgresServer(home), ValkeyServer(home)) if servers else ():
            supervisor.add(server.prepare())
            server.wait_until_ready(supervisor.poll)
        for child in children:
            supervisor.add(ChildSpec(**child))
        print("ready", flush=True)
        sys.exit(supervisor.run(interval_seconds=0.1))
except HomeBusyError as error:
    print(error, error.pid, flush=True)
    sys.exit(1)
except ChildFailedError as error:
    print(error, flush=True)
    sys.exit(1)
"""
READY_ONCE = """
import sys
from pathlib import Path
from ulak.local.lifeline import announce_ready
starts = Path("starts")
starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
if len(starts.read_text()) == int(sys.argv[1]):
    announce_ready()
print("last words of +905551234567")
sys.exit(3)
"""
WATCHING_CHILD = "import sys, time; from ulak.local.lifeline import watch; watch(); time.sleep(600)"
STUBBORN_SHELL = 'trap "" TERM INT; while true; do sleep 1; done'


@dataclass
class Run:
    """A supervisor in a process of its own."""

    home: Path
    process: subprocess.Popen[str]
    log: Path
    family: list[psutil.Process] = field(default_factory=list)

    def wait_until_ready(self, *programs: str) -> None:
        """Until it says so and these programs, started by their wardens, run."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "ready\n", line + self.log.read_text()
        supervisor = psutil.Process(self.process.pid)
        _wait_for(lambda: {*programs} <= _names(supervisor.children(recursive=True)))
        self.family = supervisor.children(recursive=True)

    def survivors(self, within_seconds: float) -> list[psutil.Process]:
        """Who still runs. What has ended but was not yet collected by init runs no more."""
        alive: list[psutil.Process] = []
        deadline = time.monotonic() + within_seconds
        while True:
            alive = [process for process in self.family if _runs(process)]
            if not alive or time.monotonic() > deadline:
                return alive
            time.sleep(0.05)

    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@dataclass(frozen=True)
class Python:
    """An interpreter that runs our code as some user."""

    program: Path
    paths: tuple[Path, ...]
    uid: int | None
    library: Path | None = None


@pytest.fixture(scope="session", params=["me", "ordinary"])
def python(request: pytest.FixtureRequest) -> Iterator[Python]:
    """This user, and an ordinary one when this one is root (else both are the same)."""
    packages = Path(sysconfig.get_path("purelib"))
    if request.param == "me" or os.geteuid() != 0:
        yield Python(Path(sys.executable), (), None)
        return
    with tempfile.TemporaryDirectory(prefix="ulak-python-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        base = _reachable(Path(sys.base_prefix), folder / "python")
        code = folder / "code"
        for part in ("core", "local"):
            shutil.copytree(ROOT / part, code / "ulak" / part)
        program = base / "bin" / Path(sys.executable).resolve().name
        library = base / "lib"
        yield Python(program, (code, _reachable(packages, folder / "packages")), 65_534, library)


@pytest.fixture
def supervise(python: Python) -> Iterator[Callable[..., Run]]:
    """`supervise(*children, servers=False, again=run)` starts a supervisor."""
    runs: list[Run] = []

    def start(*children: dict[str, object], servers: bool = False, again: Run | None = None) -> Run:
        home = again.home if again else _home_for(python)
        log = home / "supervisor.jsonl"
        command = [str(python.program), "-c", PROGRAM, str(home)]
        command += ["servers" if servers else "none", json.dumps(children), str(log)]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=home,
            env=_environment(python),
            user=python.uid,
            group=python.uid,
            extra_groups=None if python.uid is None else [],
        )
        runs.append(Run(home, process, log))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
        run.process.wait()
        if run.process.stdout is not None:
            run.process.stdout.close()
        for left in run.survivors(10):
            left.kill()
        shutil.rmtree(run.home, ignore_errors=True)


def everything(python: Python) -> list[dict[str, object]]:
    """A Python child and two foreign ones, one of them stubborn."""
    return [
        {"name": "watching", "argv": [str(python.program), "-c", WATCHING_CHILD]},
        {"name": "foreign", "argv": ["/bin/sleep", "600"], "foreign": True},
        {
            "name": "stubborn",
            "argv": ["/bin/sh", "-c", STUBBORN_SHELL],
            "foreign": True,
            "grace_seconds": 0.5,
        },
    ]


def test_a_killed_supervisor_leaves_no_process(
    supervise: Callable[..., Run],
    python: Python,
) -> None:
    """After kill -9 of the supervisor every child and grandchild ends within seconds."""
    run = supervise(*everything(python), servers=True)
    run.wait_until_ready("postgres", "valkey-server", "sleep", "sh")
    run.process.kill()
    assert run.survivors(within_seconds=30) == []


def test_ctrl_c_stops_everything_in_seconds(supervise: Callable[..., Run], python: Python) -> None:
    """One SIGINT ends all children in order, with exit code 0."""
    run = supervise(*everything(python), servers=True)
    run.wait_until_ready("postgres", "valkey-server", "sleep", "sh")
    started = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(30) == 0
    # It takes two; the servers may need more on a busy machine.
    assert time.monotonic() - started < 20
    assert run.survivors(within_seconds=10) == []
    assert run.events() == []


def test_the_servers_data_survive_a_killed_supervisor(
    supervise: Callable[..., Run],
    python: Python,
) -> None:
    """A supervisor started right after another was killed finds its way and its data."""
    first = supervise(servers=True)
    first.wait_until_ready()
    remembered = (first.home / "postgres.json").read_text()
    first.process.kill()
    first.process.wait()
    second = supervise(servers=True, again=first)
    second.wait_until_ready()
    assert (second.home / "postgres.json").read_text() == remembered
    second.process.terminate()
    assert second.process.wait(30) == 0


def test_a_second_supervisor_of_the_same_home_says_so(supervise: Callable[..., Run]) -> None:
    """The second one ends at once and names the process of the first."""
    first = supervise()
    first.wait_until_ready()
    second = supervise(again=first)
    assert second.process.wait(30) == 1
    assert second.process.stdout is not None
    assert second.process.stdout.read() == (
        f"Ulak already runs in {first.home} (process {first.process.pid}): stop it first, "
        f"or set ULAK_HOME to another folder. {first.process.pid}\n"
    )
    first.process.terminate()
    assert first.process.wait(30) == 0


def test_a_child_that_dies_is_restarted(supervise: Callable[..., Run], python: Python) -> None:
    """Each death is one line with the child's last words; the pause before the restart grows."""
    script = "echo started >> starts; echo last words; kill -9 $$"
    run = supervise({"name": "dying", "argv": ["/bin/sh", "-c", script], "foreign": True})
    run.wait_until_ready()
    starts = run.home / "starts"
    _wait_for(lambda: starts.exists() and starts.read_text().count("started") >= 3)
    run.process.terminate()
    assert run.process.wait(30) == 0
    deaths = [event for event in run.events() if event["event"] == "child.died"]
    assert [
        (event["child"], event["how"], event["restart_in_seconds"], event["last_lines"]) for event in deaths[:2]
    ] == [
        ("dying", "exit code 137", 0.5, ["last words"]),
        ("dying", "exit code 137", 1.0, ["last words"]),
    ]


def test_a_child_that_never_gets_ready_ends_the_run(supervise: Callable[..., Run], python: Python) -> None:
    """A restart would not help, so the person gets its last words, masked, and exit code 1; no process is left."""
    argv = [str(python.program), "-c", READY_ONCE, "0"]
    run = supervise({"name": "failing", "argv": argv, "announces": True}, *everything(python))
    run.wait_until_ready("sleep", "sh")
    assert run.process.wait(120) == 1
    assert run.process.stdout is not None
    assert run.process.stdout.read() == (
        "failing ended 5 times before it was ever ready (exit code 3); "
        f"{run.home}/logs/failing.log ends with:\n  last words of +90*******67\n"
    )
    assert (run.home / "starts").read_text() == "xxxxx"
    assert run.survivors(within_seconds=10) == []


def test_a_child_that_was_ready_once_is_restarted_for_ever(supervise: Callable[..., Run], python: Python) -> None:
    """A worker that loses its broker dies as often as that takes. Here it was ready at its last chance."""
    argv = [str(python.program), "-c", READY_ONCE, "5"]
    run = supervise({"name": "lost", "argv": argv, "announces": True})
    run.wait_until_ready()
    starts = run.home / "starts"
    _wait_for(lambda: starts.exists() and len(starts.read_text()) > 6, seconds=120)
    run.process.terminate()
    assert run.process.wait(30) == 0


def test_a_log_that_grows_too_long_is_emptied_under_the_child_that_writes_it(tmp_path: Path) -> None:
    """What stood in it is kept once, and what is appended afterwards stands at its front."""
    log = tmp_path / "worker.log"
    with log.open("ab", buffering=0) as child:
        child.write(b"old\n" * 10)
        assert not trim_log(log, longest=40)
        child.write(b"new\n")
        assert trim_log(log, longest=40)
        child.write(b"newest\n")
    assert (log.read_text(), (tmp_path / "worker.log.1").read_text()) == ("newest\n", "old\n" * 10 + "new\n")


def test_a_child_whose_end_is_final_is_left_alone(supervise: Callable[..., Run]) -> None:
    """An exit code that a restart would not cure is said once and not tried again."""
    shell = {"argv": ["/bin/sh", "-c", "exit 2"], "foreign": True}
    run = supervise({"name": "never", "restart": "never", **shell})
    run.wait_until_ready()
    _wait_for(lambda: bool(run.events()))
    time.sleep(0.8)
    assert [(event["event"], event["how"]) for event in run.events()] == [
        ("child.ended", "exit code 2"),
    ]
    run.process.terminate()
    assert run.process.wait(30) == 0


def test_a_second_signal_is_harsh(supervise: Callable[..., Run], python: Python) -> None:
    """A child that takes its time is killed when the user insists."""
    shell = {"argv": ["/bin/sh", "-c", STUBBORN_SHELL], "foreign": True, "grace_seconds": 60}
    run = supervise({"name": "stubborn", **shell})
    # Its sleep is there: by then it has said that it ignores signals.
    run.wait_until_ready("sh", "sleep")
    run.process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert run.process.poll() is None
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(30) == 0
    assert run.survivors(within_seconds=10) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's own")
def test_a_killed_warden_takes_its_program_along(supervise: Callable[..., Run]) -> None:
    """Even the death of the warden itself leaves nothing, and the child is restarted."""
    run = supervise({"name": "foreign", "argv": ["/bin/sleep", "600"], "foreign": True})
    run.wait_until_ready("sleep")
    (sleeper,) = [process for process in run.family if process.name() == "sleep"]
    guard = sleeper.parent()
    assert guard is not None
    guard.kill()
    _wait_for(lambda: not _runs(sleeper))
    _wait_for(lambda: any(event["event"] == "child.restarted" for event in run.events()))
    run.process.terminate()
    assert run.process.wait(30) == 0


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _names(processes: Sequence[psutil.Process]) -> set[str]:
    """The names of those that still exist."""
    names: set[str] = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            names.add(process.name())
    return names


def _wait_for(condition: Callable[[], bool], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _home_for(python: Python) -> Path:
    home = Path(tempfile.mkdtemp(prefix="ulak-home-"))
    if python.uid is None:
        home.chmod(0o755)
    else:
        os.chown(home, python.uid, python.uid)
    return home


def _environment(python: Python) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ULAK_")}
    environment["PYTHONPATH"] = ":".join(map(str, python.paths))
    if python.library is not None:
        environment["LD_LIBRARY_PATH"] = str(python.library)
    return environment


def _reachable(tree: Path, copy: Path) -> Path:
    """The tree itself when an ordinary user can read it, else a copy at a place where he can."""
    probe = subprocess.run(
        ["/bin/sh", "-c", 'test -r "$1" && test -x "$1"', "sh", str(tree)],
        check=False,
        user=65_534,
        group=65_534,
        extra_groups=[],
    )
    if probe.returncode == 0:
        return tree
    unneeded = shutil.ignore_patterns("test", "idlelib", "config-*", "*.a", "share", "include")
    spared = shutil.ignore_patterns("site-packages") if tree == Path(sys.base_prefix) else None

    def ignore(folder: str, names: list[str]) -> set[str]:
        return unneeded(folder, names) | (spared(folder, names) if spared else set())

    shutil.copytree(tree, copy, symlinks=True, ignore=ignore, copy_function=_link_or_copy)
    return copy


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
