"""What the embedded servers have in common: prepared, started under a warden, waited for."""

import contextlib
import json
import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ulak.core import clock
from ulak.local.child_process import ChildSpec, last_lines, launch, prepare_log
from ulak.local.lifeline import Lifeline
from ulak.local.ports import free_loopback_port, is_free

LOOPBACK: Final = "127.0.0.1"
PATIENCE_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0


class EmbeddedServerError(Exception):
    """An embedded server cannot run; the text says what to do."""


class EmbeddedServer(ABC):
    """A real server on loopback, run by ourselves, its data in the home.

    Two ways to use it. Under a supervisor: `prepare()` gives the child to be supervised, then
    `wait_until_ready(supervisor.poll)`. On its own: `start()` and `stop()`; a server that another
    process runs in the same home is used as it is, and `stop()` leaves it alone.
    """

    name: str

    def __init__(self, home: Path) -> None:
        self.home = home.expanduser().absolute()
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline: Lifeline | None = None

    @abstractmethod
    def prepare(self) -> ChildSpec:
        """Makes data, password and port ready. The home's lock must be held.

        A server left over by a supervisor that was killed is stopped first. Raises
        `EmbeddedServerError`.
        """

    @abstractmethod
    def running_url(self) -> str | None:
        """The URL of the server that runs in this home now, whichever process started it; else None."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it listens, password included; known after `prepare()` or `start()`."""

    def wait_until_ready(self, keep_waiting: Callable[[], bool]) -> str:
        """The URL, once it answers. Raises `EmbeddedServerError` when it does not.

        `keep_waiting` is called about ten times a second; False means that there is no point.
        """
        deadline = clock.boot() + PATIENCE_SECONDS
        pause = 0.02
        while not self._answers():
            if not keep_waiting() or clock.boot() > deadline:
                tail = " | ".join(last_lines(self.log, 4))
                raise EmbeddedServerError(
                    f"The embedded {self.name} did not start; {self.log} says: {tail}",
                )
            clock.sleep(pause)
            pause = min(pause * 1.5, 0.1)
        self._after_ready()
        return self.url

    def start(self, lifeline: int | None = None) -> str:
        """Starts it, or finds the one that runs in this home; returns the URL when it answers.

        It lives until `stop()` or the end of this process, however that comes about; with a
        `lifeline` (a descriptor to read from) until that ends.
        """
        if found := self.running_url():
            return found
        spec = self.prepare()
        if lifeline is None:
            self._lifeline = Lifeline()
            lifeline = self._lifeline.reading_end
        if spec.before_start:
            spec.before_start()
        process = self._process = launch(spec, lifeline, prepare_log(self.home, self.name))
        try:
            return self.wait_until_ready(lambda: process.poll() is None)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops the server if this object started it, and waits for its end."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.terminate()
            self._process.wait(STOP_SECONDS)
            self._process = None
        if self._lifeline is not None:
            self._lifeline.close()
            self._lifeline = None

    def release(self) -> None:
        """Lets the started server live on its lifeline alone; `stop()` does nothing any more."""
        if self._process is not None:
            # Popen would complain about an unfinished child when it is collected.
            self._process.returncode = 0
            self._process = None

    @property
    def pid(self) -> int | None:
        """The warden's process id, when this object started the server."""
        return self._process.pid if self._process else None

    @property
    def log(self) -> Path:
        """What the server writes."""
        return self.home / "logs" / f"{self.name}.log"

    @abstractmethod
    def _answers(self) -> bool: ...

    @abstractmethod
    def _after_ready(self) -> None:
        """What is to be done once, when it answers."""

    def _remembered(self) -> dict[str, Any]:
        """What the home remembers of this server: its port, and where its data lie."""
        with contextlib.suppress(OSError, ValueError):
            content = json.loads((self.home / f"{self.name}.json").read_text(encoding="utf-8"))
            if isinstance(content, dict):
                return content
        return {}

    def _remember(self, **facts: Any) -> None:
        path = self.home / f"{self.name}.json"
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_text(json.dumps({**self._remembered(), **facts}), encoding="utf-8")
        draft.replace(path)

    def _choose_port(self) -> int:
        port = self._remembered().get("port")
        if isinstance(port, int) and is_free(port, LOOPBACK):
            return port
        port = free_loopback_port()
        self._remember(port=port)
        return port
