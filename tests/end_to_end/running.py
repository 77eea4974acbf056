"""`ulak up` as a newcomer starts it, watched from outside: its output, its processes, its files."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from free_ports import reserve_port
from sqlalchemy import Engine, NullPool, create_engine

from ulak.local.embedded.postgres import PostgresServer

ROOT = Path(__file__).parents[2]


STRANGERS = {
    "CELERY_BROKER_URL": "redis://stranger.invalid:1/0",
    "CELERY_BROKER_READ_URL": "redis://stranger.invalid:2/0",
    "CELERY_CONFIG_MODULE": "stranger",
    "APP": "stranger",
    "DJANGO_SETTINGS_MODULE": "stranger",
    "FLOWER_PORT": "1",
    "FLOWER_BASIC_AUTH": "stranger:stranger",
    "FLOWER_UNAUTHENTICATED_API": "true",
    "WEB_CONCURRENCY": "4",
    "ULAK_METRICS_PORT": "tcp://10.0.0.1:9600",
    "ULAK_API_SERVICE_HOST": "10.0.0.1",
    "PGTZ": "Asia/Tokyo",
    "PGHOSTADDR": "10.255.255.1",
    "PGSSLMODE": "verify-full",
    "PGSERVICE": "stranger",
    "PGOPTIONS": "-c default_transaction_read_only=on",
    "http_proxy": "http://127.0.0.1:9",
    "ALL_PROXY": "socks5://127.0.0.1:9",
}
"""Variables of other programs, and of Services in Kubernetes: none may have an effect."""
MODULES = ("core/__init__.py", "tasks/__init__.py", "cli/__init__.py", "models.py", "api.py", "flowerconfig.py")
"""Files that any project may have, in the folder that `ulak up` is started in."""


class RunningUlak:
    """One `ulak up` in a folder of its own, among strangers."""

    def __init__(self, folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        """Start it; `arguments` as a person would give them."""
        self.folder = folder
        self.home = folder / ".ulak"
        self.stderr = folder / "stderr.txt"
        # Tests run side by side: "the next free port" would be the same one for two of them.
        own = {f"ULAK_{what}_PORT": str(reserve_port()) for what in ("API", "FLOWER", "SANDBOX")}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ULAK_")}
        for name in MODULES:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("raise RuntimeError('a stranger')", encoding="utf-8")
        with self.stderr.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ulak.cli.main", "up", *arguments],
                cwd=folder,
                env={**kept, **STRANGERS, **own, **(env or {})},
                stderr=output,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.seen: dict[int, psutil.Process] = {}

    def output(self) -> str:
        """What it has printed so far."""
        return self.stderr.read_text(encoding="utf-8")

    def until(self, condition: Callable[[], Any], *, seconds: float, what: str) -> Any:
        """The first true value of `condition`, asked again and again; fails with the output otherwise."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.children()
            if value := condition():
                return value
            if self.process.poll() is not None:
                break
            time.sleep(0.25)
        raise AssertionError(f"{what} did not come within {seconds} s:\n{self.output()[-3000:]}{self.logs()[-3000:]}")

    def follow(self, seconds: float) -> None:
        """Wait for its end, remembering every process that it had."""
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            self.children()
            time.sleep(0.5)
        if self.process.poll() is None:
            self.stop()

    def wait_ready(self) -> None:
        """Return when everything is started."""
        self.until(lambda: "Ready " in self.output(), seconds=120, what="`Ready`")

    def address(self, what: str) -> str:
        """An address from the output, by the word at the beginning of its line."""
        found = re.search(rf"^{what} .*?(http://[\d.]+:\d+)", self.output(), re.MULTILINE)
        assert found is not None, self.output()
        return found.group(1)

    def engine(self) -> Engine:
        """An engine on the embedded PostgreSQL."""
        url = PostgresServer(self.home).running_url()
        assert url is not None
        return create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1), poolclass=NullPool)

    def children(self) -> list[psutil.Process]:
        """All processes below it; they are remembered for `survivors`."""
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self.seen.update((child.pid, child) for child in found)
        return found

    def workers(self) -> list[psutil.Process]:
        """The worker processes."""
        return [child for child in self.children() if is_command(child, "worker")]

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """End it as Ctrl-C does; the exit code."""
        self.children()
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)

    def survivors(self, *, seconds: float = 60) -> list[str]:
        """Processes of this run that still live after so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and any(map(_lives, self.seen.values())):
            time.sleep(0.2)
        return [str(process) for process in self.seen.values() if _lives(process)]

    def logs(self) -> str:
        """Every line of every process."""
        files = sorted((self.home / "logs").glob("*")) if self.home.exists() else []
        return "\n".join(f"== {file.name}\n{file.read_text(encoding='utf-8', errors='replace')}" for file in files)


@contextmanager
def running(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator[RunningUlak]:
    """A started Ulak that is stopped at the end, whatever happens."""
    ulak = RunningUlak(folder, *arguments, env=env)
    try:
        yield ulak
    finally:
        ulak.stop()


def is_command(process: psutil.Process, command: str) -> bool:
    """Whether a process is `ulak <command>`."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return "ulak.cli.main" in words and command in words


def ask(url: str, *, auth: str | None = None, body: Mapping[str, Any] | None = None) -> Any:
    """A JSON answer over HTTP."""
    import base64

    headers = {"content-type": "application/json"}
    if auth is not None:
        headers["authorization"] = "Basic " + base64.b64encode(auth.encode()).decode()
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers=headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def _lives(process: psutil.Process) -> bool:
    """Whether it runs: it, and not another process that was given its number."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
