"""The processes of production, alone on a database of the test, with their memory watched; and hostile clients."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil
from free_ports import reserve_port

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class OwnProcess:
    """A running `ulak …`."""

    process: psutil.Popen
    log: Path
    """What it has written to stderr."""

    def mib(self) -> float:
        """Its resident memory now."""
        return float(self.process.memory_info().rss) / MIB

    def peak_mib(self) -> float:
        """The most that it ever had resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def descriptors(self) -> int:
        """How many it has open."""
        return int(self.process.num_fds())


@dataclass(frozen=True, slots=True)
class ApiProcess(OwnProcess):
    """A running `ulak api`."""

    port: int

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def api_process(
    folder: Path, database: str, *, env: Mapping[str, str] | None = None, preexec: Callable[[], object] | None = None
) -> Iterator[ApiProcess]:
    """`ulak api` on this database while the block runs; its home is `folder`. `env`: further variables."""
    port = reserve_port()
    own = {"ULAK_API_PORT": str(port), **(env or {})}
    with own_process(folder, database, ["api"], env=own, preexec=preexec) as running:
        _await_answer(running.process, f"http://127.0.0.1:{port}/healthz", running.log)
        yield ApiProcess(running.process, running.log, port)


@contextmanager
def own_process(
    folder: Path,
    database: str,
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    preexec: Callable[[], object] | None = None,
) -> Iterator[OwnProcess]:
    """`ulak` with this command on this database while the block runs; its home is in `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ULAK_")}
    own = {
        "ULAK_HOME": str(folder / "home"),
        "ULAK_DATABASE_URL": database,
        "ULAK_LOG": "json",
    }
    log = folder / f"{command[0]}.log"
    with log.open("wb") as output:
        process = psutil.Popen(
            [sys.executable, "-P", "-m", "ulak.cli.main", *command],
            cwd=folder,
            env={**kept, **own, **(env or {})},
            stdout=subprocess.DEVNULL,
            stderr=output,
            preexec_fn=preexec,
        )
    try:
        yield OwnProcess(process, log)
    finally:
        process.terminate()
        try:
            process.wait(40)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(10)


def _await_answer(process: psutil.Popen, url: str, log: Path) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text(encoding="utf-8", errors="replace")[-3000:]
        with suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.1)
    raise AssertionError(log.read_text(encoding="utf-8", errors="replace")[-3000:])


@dataclass(slots=True)
class HostileClients:
    """Connections that are opened and held."""

    port: int
    open: list[socket.socket] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.open:
            client.close()

    def connect(self, many: int, sends: bytes = b"") -> None:
        """So many more, each of which sends this and nothing else."""
        for _ in range(many):
            client = socket.create_connection(("127.0.0.1", self.port), timeout=20)
            with suppress(OSError):
                client.sendall(sends)
            client.setblocking(False)
            self.open.append(client)

    def drip(self, byte: bytes = b"a") -> None:
        """One byte more from each that is still open."""
        for client in self.open:
            with suppress(OSError):
                client.send(byte)

    def alive(self) -> int:
        """How many the server has not closed."""
        return sum(map(_is_open, self.open))


def _is_open(client: socket.socket) -> bool:
    try:
        while data := client.recv(65536):
            del data
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def push_head(path: str, length: int, auth: str | None = None) -> bytes:
    """The head of a push that announces a body of this length."""
    login = f"Authorization: Basic {b64encode(auth.encode()).decode()}\r\n" if auth else ""
    return f"POST {path} HTTP/1.1\r\nHost: ulak\r\n{login}Content-Length: {length}\r\n\r\n".encode()
