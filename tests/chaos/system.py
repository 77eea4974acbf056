"""The real system in parts, every wire between them going through a proxy: servers, sandbox, workers, beats, API."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import psutil
import psycopg
from demo_accounts import apply_accounts
from free_ports import reserve_port
from proxy import Network, Proxy
from sqlalchemy import Engine, make_url, text
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from ulak.core import clock
from ulak.local.demo import SandboxRun
from ulak.local.embedded.postgres import PostgresServer
from ulak.local.embedded.postmaster import running_postmaster
from ulak.local.embedded.valkey import ValkeyServer
from ulak.local.lifeline import Lifeline
from ulak.models.database import make_engine
from ulak.models.quarantine import new_key
from ulak.models.schema import migrate
from ulak.providers.http import HttpDoor
from ulak.sandbox.server import Sandbox
from ulak.tasks.runtime import Runtime

ROOT = Path(__file__).parents[2]
LAUNCHER = Path(__file__).with_name("patched_process.py")
DEADLINE_SECONDS = 3
MARGIN_SECONDS = 3
LEASE_SECONDS = DEADLINE_SECONDS + MARGIN_SECONDS
WINDOW_SECONDS = 2
POLLED = ("iletimerkezi", "vairo", "organik", "diyalog")
RESTART_SECONDS = 0.2


@dataclass
class Process:
    """One of our processes, started anew whenever it dies, as systemd would."""

    name: str
    argv: list[str]
    env: dict[str, str]
    log: Path
    lifeline: int
    wanted: bool = True
    deaths: int = 0
    before_start: Callable[["Process"], None] | None = None
    popen: subprocess.Popen[bytes] | None = None
    died_at: float = 0.0
    extra: dict[str, str] = field(default_factory=dict)
    """Environment of the next start alone."""

    def start(self) -> None:
        """Start it; `before_start` may say how."""
        if self.before_start is not None:
            self.before_start(self)
        launcher = [str(LAUNCHER)] if self.extra else ["-m", "ulak.cli.main"]
        with self.log.open("ab") as output:
            self.popen = subprocess.Popen(
                [sys.executable, *launcher, *self.argv],
                cwd=ROOT,
                env={**self.env, **self.extra},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(self.lifeline,),
                start_new_session=True,
            )

    @property
    def pid(self) -> int | None:
        """The running process, if there is one."""
        return self.popen.pid if self.popen is not None and self.popen.poll() is None else None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it lives."""
        # Another thread may see its end in between, which `send_signal` allows for.
        if self.popen is not None:
            self.popen.send_signal(number)

    def look(self, now: float) -> None:
        """Notice a death, and start it again a moment later."""
        if self.popen is None or self.popen.poll() is None:
            return
        if not self.died_at:
            self.died_at = now
            self.deaths += 1
        if self.wanted and now - self.died_at >= RESTART_SECONDS:
            self.died_at = 0.0
            self.start()

    def end(self) -> None:
        """Kill it for good."""
        self.wanted = False
        self.signal(signal.SIGKILL)
        if self.popen is not None:
            self.popen.wait(20)


class System:
    """Everything, started by `with`. `breaks` names a broken promise that workers, beats and API are started with."""

    def __init__(
        self,
        seed: int,
        *,
        workers: int = 3,
        threads: int = 8,
        speed: float = 40.0,
        breaks: str = "",
        limits: Mapping[str, int] | None = None,
        database_on: Path | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.rng = random.Random(seed)
        self.folder = Path(tempfile.mkdtemp(prefix="ulak-chaos-"))
        # PostgreSQL runs as nobody when the tests run as root: it must be able to pass through.
        self.folder.chmod(0o755)
        self.home = self.folder / "ulak"
        self.breaks = breaks
        self.crashes = 0
        """Every end, freeze or cut that may leave a request without a written answer."""
        self.excused: list[range] = []
        """Numbers of requests among which too many in the air are no fault of ours (see `faults.dead_line`)."""
        self.processes: dict[str, Process] = {}
        self.hits = self.folder / "hits"
        self.postgres = PostgresServer(database_on or self.folder / "servers", order=("wheel", "system"))
        self.valkey = ValkeyServer(self.folder / "servers")
        self.sandbox = Sandbox(seed=seed, speed=speed, settings=settings)
        self._limits = limits or {}
        self._workers, self._threads = workers, threads
        self._lifeline = Lifeline()
        self._over = threading.Event()
        self._restarter = threading.Thread(target=self._restart, name="restarter", daemon=True)
        self._names = count(1)
        self._engines: list[Engine] = []
        self._proxies: list[Proxy] = []

    # -------------------------------------------------------------------------------- beginning and end

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._restarter.is_alive():
            self._restarter.join(10)
        for process in self.processes.values():
            process.end()
        self._lifeline.close()
        with suppress(RuntimeError):
            self.sandbox.stop()
        for proxy in self._proxies:
            proxy.close()
        if hasattr(self, "network"):
            self.network.stop()
        for engine in self._engines:
            engine.dispose()
        for server in (self.valkey, self.postgres):
            server.stop()
        if not os.environ.get("ULAK_CHAOS_KEEP"):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> None:
        self.postgres.start()
        self.valkey.start()
        self.sandbox.start()
        self.network = Network()
        self.to_postgres = self._proxy(self.postgres.url)
        self.to_valkey = self._proxy(self.valkey.url)
        self.to_provider = {name: self._proxy(self.sandbox.urls[name]) for name in POLLED}
        self.engine = make_engine(self.postgres.url, application_name="chaos")
        self._engines.append(self.engine)
        migrate(self.engine)
        self.runtime = Runtime(
            engine=self.engine,
            door=HttpDoor(max_connections=1, boot=clock.boot),
            seal_key=new_key(),
        )
        self.apply_accounts()
        self.api_port = reserve_port()
        for number in range(1, self._workers + 1):
            self.add(f"worker-{number}", "worker", "--name", f"worker-{number}", "--threads", str(self._threads))
        for number in (1, 2):
            self.add(f"beat-{number}", "beat")
        self.add("api", "api")
        self._restarter.start()
        self.run = SandboxRun(home=self.folder, ports=(urlsplit(self.sandbox.urls["control"]).port or 0,))
        self.tell_ulak()
        self.run.start_pushes(self.accounts, f"http://127.0.0.1:{self.api_port}")

    def apply_accounts(self) -> None:
        """The sandbox's accounts with short windows and deadlines, asked through the proxies."""
        for name in POLLED:
            limit = {"provider": name, "per_seconds": WINDOW_SECONDS}
            if name in self._limits:
                limit["requests"] = self._limits[name]
            self.sandbox.control("POST", "/limits", limit)
        self.accounts: list[dict[str, Any]] = self.sandbox.control("GET", "/accounts")
        for account in self.accounts:
            account["options"] = {**account["options"], "deadline_seconds": DEADLINE_SECONDS}
            if account["provider"] in POLLED:
                # Asked often, so that a fault always meets work.
                account["poll"] = {**account["poll"], "every_seconds": 1, "time_factor": 0.01}
            proxy = self.to_provider.get(account["provider"])
            if proxy is not None:
                path = urlsplit(account["base_url"]).path
                account["base_url"] = f"http://127.0.0.1:{proxy.port}{path}"
        apply_accounts(self.engine, self.accounts, self.folder)

    def _proxy(self, url: str) -> Proxy:
        port = urlsplit(url).port
        assert port is not None
        proxy = Proxy(self.network, port, random.Random(self.rng.random())).open()
        self._proxies.append(proxy)
        return proxy

    def add(self, name: str, *argv: str) -> Process:
        """Start a further process and keep it running."""
        process = self.processes[name] = Process(
            name=name,
            argv=list(argv),
            env=self._environment(),
            log=self.folder / f"{name}.log",
            lifeline=self._lifeline.reading_end,
            extra=self._broken(),
        )
        process.start()
        return process

    def _broken(self) -> dict[str, str]:
        return {"CHAOS_BREAK": self.breaks} if self.breaks else {}

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ULAK_", "CHAOS_"))}
        return {
            **kept,
            "PYTHONWARNINGS": "ignore",
            "ULAK_HOME": str(self.home),
            "ULAK_DATABASE_URL": _through(self.postgres.url, self.to_postgres),
            "ULAK_REDIS_URL": _through(self.valkey.url, self.to_valkey),
            "ULAK_LEASE_MARGIN_SECONDS": str(MARGIN_SECONDS),
            "ULAK_TICK_SECONDS": "1",
            "ULAK_LOG": "json",
            "ULAK_API_PORT": str(self.api_port),
            "ULAK_LIFELINE_FD": str(self._lifeline.reading_end),
            "CHAOS_HITS": str(self.hits),
        }

    def _restart(self) -> None:
        while not self._over.wait(0.1):
            for process in list(self.processes.values()):
                process.look(time.monotonic())

    # ------------------------------------------------------------------------------------- its processes

    def workers(self) -> list[Process]:
        """The workers that live."""
        return [process for name, process in self.processes.items() if name.startswith("worker") and process.pid]

    def beats(self) -> list[Process]:
        """The beats."""
        return [process for name, process in self.processes.items() if name.startswith("beat")]

    def busy_worker(self) -> Process:
        """A living worker, drawn by the seed."""
        workers: list[Process] = self.until(self.workers, what="a living worker")
        return self.rng.choice(workers)

    def kill(self, process: Process) -> None:
        """Kill -9, counted as a crash."""
        self.crashes += 1
        process.signal(signal.SIGKILL)

    def trapped_worker(self, orders: Iterator[str]) -> Process:
        """A worker that is given the next crash order at each start, and lives on untouched after the last."""
        name = f"trapped-{next(self._names)}"

        def give(process: Process) -> None:
            order = next(orders, None)
            process.extra = self._broken() | ({} if order is None else {"CHAOS_AT": order})

        process = Process(
            name=name,
            argv=["worker", "--name", name, "--threads", str(self._threads)],
            env=self._environment(),
            log=self.folder / f"{name}.log",
            lifeline=self._lifeline.reading_end,
            before_start=give,
        )
        self.processes[name] = process
        process.start()
        return process

    def read_hits(self) -> list[str]:
        """`pid point side` of every crash point that was reached."""
        return self.hits.read_text(encoding="utf-8").splitlines() if self.hits.exists() else []

    def log_lines(self, event: str) -> int:
        """How many lines of our processes say this event."""
        return sum(
            line.count(event) for file in self.folder.glob("*.log") for line in file.read_text("utf-8").splitlines()
        )

    # -------------------------------------------------------------------------------------- its servers

    def postmaster(self) -> int:
        """PostgreSQL's first process."""
        place = self.postgres._remembered()["place"]
        pid = running_postmaster(Path(place) / "data")
        assert pid is not None
        return pid

    def valkey_process(self) -> psutil.Process:
        """Valkey, the child of its warden."""
        assert self.valkey.pid is not None
        return psutil.Process(self.valkey.pid).children()[0]

    def restart_postgres(self, number: signal.Signals) -> None:
        """Stop it fast (SIGINT), immediately (SIGQUIT) or hard (SIGKILL), and start it again."""
        self.crashes += 1
        os.kill(self.postmaster(), number)
        self._reap(self.postgres)
        self.postgres.start()

    def restart_valkey(self, *, forget: bool = False) -> None:
        """Kill -9 and start it again; `forget`: with its data directory deleted."""
        self.valkey_process().kill()
        self._reap(self.valkey)
        if forget:
            shutil.rmtree(self.valkey.home / "valkey")
        self.valkey.start()

    @staticmethod
    def _reap(server: PostgresServer | ValkeyServer) -> None:
        """Wait until the warden has gone with its program; `start` would find a dying server otherwise."""
        assert server._process is not None
        server._process.wait(30)
        server.stop()

    # ------------------------------------------------------------------------------------------ the work

    def send_more(self, many: int = 6) -> None:
        """More sends at every provider, registered with us as a sender would."""
        for name in (*POLLED, "bip"):
            self.sandbox.control("POST", f"/sends/{name}", {"count": many})
        self.tell_ulak()

    def tell_ulak(self) -> None:
        """The sender registers what it sent; it tries again until that is stored."""

        def told() -> bool:
            try:
                self.run.register_sends(self.runtime)
                self.run.hand_over_replies(self.runtime, self.accounts)
            except SQLAlchemyError:
                return False
            return True

        self.until(told, what="the sender's registration", seconds=150)

    def query(self, sql: str, **values: Any) -> list[Any]:
        """Rows of the database, asked without a proxy; waits for a PostgreSQL that is away."""

        def ask() -> list[Any] | None:
            try:
                with self.engine.connect() as connection:
                    return list(connection.execute(text(sql), values).all())
            except (OperationalError, InterfaceError):
                return None

        found: list[Any] = self.until(lambda: (rows := ask()) is not None and [rows], what="PostgreSQL", seconds=120)[0]
        return found

    def command(self, *statements: str) -> None:
        """Statements of the administrator, each by itself, whom no read-only primary stops; `{name}`: the database."""
        url = make_url(self.postgres.url)
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            for statement in statements:
                connection.execute(statement.format(name=url.database).encode())

    def readiness(self) -> int:
        """What a balancer that asks about callbacks is answered."""
        return httpx.get(f"http://127.0.0.1:{self.api_port}/readyz?only=callbacks", timeout=10).status_code

    def number(self, sql: str, **values: Any) -> int:
        """The one number that a query gives."""
        return int(self.query(sql, **values)[0][0])

    def now(self) -> datetime:
        """PostgreSQL's clock."""
        moment: datetime = self.query("SELECT clock_timestamp()")[0][0]
        return moment

    def until(self, condition: Callable[[], Any], *, what: str, seconds: float = 120.0) -> Any:
        """The first true value of the condition; fails when it does not come."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := condition():
                return value
            time.sleep(0.1)
        raise AssertionError(f"{what} did not come within {seconds:.0f} s")

    def wait_calls(self, many: int = 10, seconds: float = 120.0) -> None:
        """Return when the stand-ins have answered so many further requests."""

        def answered() -> int:
            return sum(entry["status"] == 200 for entry in self.sandbox.log())

        before = answered()
        self.until(lambda: answered() >= before + many, what=f"{many} further calls", seconds=seconds)

    @contextmanager
    def slow_providers(self, seconds: float) -> Iterator[None]:
        """Providers that take so long to answer, so that requests are in the air when the fault comes."""
        before = self.sandbox.world.settings.latency_seconds
        self.sandbox.control("POST", "/settings", {"latency_seconds": seconds})
        try:
            yield
        finally:
            self.sandbox.control("POST", "/settings", {"latency_seconds": before})


def _through(url: str, proxy: Proxy) -> str:
    """The URL with the proxy's port in place of the server's."""
    return url.replace(f":{urlsplit(url).port}/", f":{proxy.port}/", 1)
