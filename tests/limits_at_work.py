"""Several worker processes on one account whose limit is known and may change, asked for from all sides.

Workers, beat and API are the real programs, the provider is the sandbox, and each of its messages stays open forever,
so that there is always more to ask than the limit allows. What came in is judged by `limits_judged`.
"""

import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo_accounts import apply_accounts, register_sends
from free_ports import reserve_port
from limits_judged import Arrival, Change, Limit
from pydantic import SecretStr
from sqlalchemy import Engine, text

from ulak.core import clock, task_names
from ulak.models.quarantine import new_key
from ulak.providers.http import HttpDoor
from ulak.sandbox.server import Sandbox
from ulak.tasks.runtime import Runtime

ROOT = Path(__file__).parents[1]
BREAKABLE = Path(__file__).parent / "chaos" / "patched_process.py"
PROVIDER = "vairo"
ACCOUNT = f"demo-{PROVIDER}"
SENDS = 240
THREADS = 12
TOKEN = "canary-token-of-the-limits"
ENDS_SECONDS = 40
STARTS_SECONDS = 180
_STORED = re.compile(r'"event": "fetch.stored".*"process": "([^"]+)"')
_API_LISTENS = "Application startup complete."


@dataclass
class Scene:
    """`with Scene(…).running(processes) as scene:`; the account has the first limit before a worker starts."""

    engine: Engine
    redis_url: str
    folder: Path
    limit: Limit
    breaks: str = ""
    """A promise of `patched_process.BREAKS` that the workers do not keep."""
    changes: list[Change] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """Triggers that were not accepted."""

    @contextmanager
    def running(
        self,
        processes: int,
        *,
        with_api: bool = False,
        through: Callable[[str], str] = lambda url: url,
    ) -> Iterator["Scene"]:
        """Everything runs while the block does. `through`: the way to the provider's address."""
        self.sandbox = Sandbox(seed=3, speed=1.0, scale="small")
        with ExitStack() as stack:
            stack.enter_context(self.sandbox)
            # It lets everything in and only writes it down: what it refused would not come again.
            self.sandbox.control("POST", "/limits", {"provider": PROVIDER, "requests": 10_000, "concurrency": None})
            self._account = self._prepare(through)
            self.set_limit(self.limit)
            self.api_port = reserve_port() if with_api else None
            commands = [["worker", "--name", f"worker-{n}", "--threads", str(THREADS)] for n in range(processes)]
            commands += [["beat"], *([["api"]] if with_api else [])]
            stack.callback(self._end, running := [self._start(command) for command in commands])
            self._wait_for_all(running, processes)
            yield self

    def _prepare(self, through: Callable[[str], str]) -> dict[str, Any]:
        self.sandbox.control("POST", f"/sends/{PROVIDER}", {"count": SENDS, "outcome": "never"})
        account: dict[str, Any] = next(
            each for each in self.sandbox.control("GET", "/accounts") if each["id"] == ACCOUNT
        )
        account["base_url"] = through(account["base_url"])
        # Every message is due again a second after each answer.
        account["poll"] = {"every_seconds": 3, "time_factor": 0.001, "max_check_seconds": 1}
        apply_accounts(self.engine, [{**account, "limit": _written(self.limit)}], self.folder)
        runtime = Runtime(
            engine=self.engine,
            door=HttpDoor(max_connections=1, boot=clock.boot),
            seal_key=new_key(),
        )
        register_sends(runtime, [send for send in self.sandbox.control("GET", "/sends") if send["account"] == ACCOUNT])
        runtime.door.close()
        return account

    # ------------------------------------------------------------------------------------------- the limit

    def set_limit(self, limit: Limit) -> None:
        """Change the account's limit as a person does: by applying its record."""
        began = time.monotonic()
        apply_accounts(self.engine, [{**self._account, "limit": _written(limit)}], self.folder)
        self.changes.append(Change(limit, began, time.monotonic()))

    def arrivals(self) -> list[Arrival]:
        """What the provider has seen so far, in order."""
        return [
            Arrival(entry["arrived_mono"], entry["answered_mono"], entry["in_flight"])
            for entry in self.sandbox.log()
            if entry["provider"] == PROVIDER
        ]

    def triggers(self) -> dict[str, int]:
        """How many polls each trigger has opened."""
        with self.engine.connect() as connection:
            rows = connection.execute(text('SELECT "trigger", count(*) AS many FROM polls GROUP BY 1')).all()
        return {row.trigger: row.many for row in rows}

    # ---------------------------------------------------------------------------------------- the triggers

    @contextmanager
    def all_triggers(self, pause_seconds: float) -> Iterator[None]:
        """Ask for the account by HTTP, by `ulak poll` and by a Celery message, again and again; beat does it anyway."""
        over = threading.Event()

        def repeat(trigger: Callable[[], None]) -> None:
            while not over.wait(pause_seconds):
                trigger()

        threads = [
            threading.Thread(target=repeat, args=(act,))
            for act in (self._by_http, self._by_command, self._by_message())
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def _by_http(self) -> None:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.api_port}/v1/polls",
            data=b'{"account": "%s"}' % ACCOUNT.encode(),
            headers={"content-type": "application/json", "authorization": f"Bearer {TOKEN}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                answer.read()
        except (urllib.error.URLError, TimeoutError) as error:
            self.failures.append(f"api: {error}")

    def _by_command(self) -> None:
        ran = subprocess.run(
            [sys.executable, "-m", "ulak.cli.main", "poll", ACCOUNT],
            env=self._environment(),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        if ran.returncode:
            self.failures.append(f"cli: {ran.stderr.decode()[-300:]}")

    def _by_message(self) -> Callable[[], None]:
        from ulak.core.settings import Settings
        from ulak.workers.app import make_app

        app = make_app(Settings(redis_url=SecretStr(self.redis_url), home=self.folder / "home"))

        def send() -> None:
            app.send_task(task_names.POLL_ACCOUNT, kwargs={"account_id": ACCOUNT}, queue=task_names.QUEUE_CONTROL)

        return send

    # --------------------------------------------------------------------------------------- the processes

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ULAK_", "CHAOS_"))}
        url = self.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        return {
            **kept,
            "PYTHONWARNINGS": "ignore",
            "ULAK_HOME": str(self.folder / "home"),
            "ULAK_DATABASE_URL": url,
            "ULAK_REDIS_URL": self.redis_url,
            "ULAK_TICK_SECONDS": "1",
            "ULAK_LOG": "json",
            **({"ULAK_API_PORT": str(self.api_port), "ULAK_API_TOKEN": TOKEN} if self.api_port else {}),
            "CHAOS_BREAK": self.breaks,
        }

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        program = [str(BREAKABLE)] if self.breaks else ["-m", "ulak.cli.main"]
        with (self.folder / "processes.log").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, *program, *command],
                env=self._environment(),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def _end(self, running: Sequence[subprocess.Popen[bytes]]) -> None:
        """Nothing is in the air that anybody waits for: they need no time to say goodbye."""
        for process in running:
            process.kill()
        for process in running:
            process.wait(ENDS_SECONDS)

    def stored(self) -> Counter[str]:
        """How many answers each worker has stored."""
        log = (self.folder / "processes.log").read_text(encoding="utf-8")
        return Counter(_STORED.findall(log))

    def _wait_for_all(self, running: Sequence[subprocess.Popen[bytes]], processes: int) -> None:
        """Return when every worker has stored an answer and the API, where there is one, listens."""
        end = time.monotonic() + STARTS_SECONDS
        while time.monotonic() < end:
            log = (self.folder / "processes.log").read_text(encoding="utf-8")
            if len(self.stored()) == processes and len(running) <= processes + 1 + log.count(_API_LISTENS):
                return
            if any(process.poll() is not None for process in running):
                raise RuntimeError(f"A process ended: {log[-2000:]}")
            time.sleep(0.1)
        raise RuntimeError(f"Not every worker has asked the provider: {self.stored()}")


def _written(limit: Limit) -> Mapping[str, Any]:
    return {"requests": limit.requests, "per_seconds": limit.per_seconds, "concurrency": limit.concurrency}
