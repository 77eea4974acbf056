"""`ulak up`: everything under one supervisor, from nothing."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr

from ulak.cli.accounts import apply_recorded
from ulak.cli.checking import missing_credentials
from ulak.cli.progress import Progress
from ulak.core import clock
from ulak.core.logging import configure_logging, get_logger
from ulak.core.redis import connect
from ulak.core.secret_strength import create_home
from ulak.core.settings import SECRETS_OF, Settings, environment_of, load_settings
from ulak.local.child_process import ChildSpec
from ulak.local.demo import SandboxRun
from ulak.local.embedded.postgres import PostgresServer
from ulak.local.embedded.valkey import ValkeyServer
from ulak.local.ports import choose_port, is_free
from ulak.local.supervisor import ChildFailedError, Supervisor
from ulak.models.account import list_accounts
from ulak.models.overview import AccountOverview, overview, unsettled
from ulak.models.schema import migrate
from ulak.providers.accounts import read_accounts
from ulak.tasks.runtime import Runtime
from ulak.workers import generated_secrets
from ulak.workers.connections import paces
from ulak.workers.runtime_factory import build_runtime
from ulak.workers.weak_secrets import REPORTED, require_strong, require_strong_paths

log = get_logger(__name__)

API_PORT, FLOWER_PORT = 8000, 5555
CHILDREN = ("worker", "beat", "api", "flower")
DEMO_TICK_SECONDS = 1.0
LOOK_SECONDS = 1.0
SETTLED_LOOKS = 3
"""So many looks must find all settled while nothing changes: a push may be on its way between two."""
TIMED_OUT = 3


def register(app: typer.Typer) -> None:
    """Add `up`."""
    app.command()(up)


def up(
    *,
    sandbox: Annotated[
        bool | None,
        typer.Option(
            "--sandbox/--no-sandbox", help="Run the simulated providers; default if no accounts are configured."
        ),
    ] = None,
    until_settled: Annotated[
        bool, typer.Option("--until-settled", help="Exit with 0 once everything is settled.")
    ] = False,
    timeout: Annotated[float | None, typer.Option(help="Exit with 3 after this many seconds.", min=0)] = None,
    no_flower: Annotated[bool, typer.Option("--no-flower", help="Do not run Flower.")] = False,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, max=64, help="Threads of each worker.")] = None,
) -> None:
    """Start everything under one supervisor.

    Servers that are not configured are embedded. Without an accounts file the sandbox's five providers are started too.
    """
    settings = load_settings()
    create_home(settings.home)
    require_strong(settings)
    configure_logging("up", settings.log, level="warning")
    plan = Plan(
        settings=settings,
        is_demo=settings.accounts_path() is None if sandbox is None else sandbox,
        flower=not no_flower,
        workers=workers,
        threads=threads or settings.worker_threads,
    )
    with Supervisor(settings.home) as supervisor:
        code = Up(plan, supervisor).run(until_settled=until_settled, timeout_seconds=timeout)
    raise typer.Exit(code)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be started."""

    settings: Settings
    is_demo: bool
    flower: bool
    workers: int
    threads: int


@dataclass(slots=True)
class Up:
    """One run of `ulak up`."""

    plan: Plan
    supervisor: Supervisor
    progress: Progress = field(default_factory=Progress)
    started: float = field(default_factory=clock.boot)

    def run(self, *, until_settled: bool, timeout_seconds: float | None) -> int:
        """Start all, then show progress until a signal, or until all is settled. Returns the exit code."""
        if not self.plan.is_demo and (path := self.plan.settings.accounts_path()) is not None:
            # An invalid file is reported before anything is started.
            read_accounts(path)
        settings = self._with_servers()
        if self.supervisor.stop_requested:
            return 0
        demo = self._start_demo() if self.plan.is_demo else None
        runtime = build_runtime(settings, threads=4, application_name="ulak-up")
        migrate(runtime.engine)
        self.progress.say("Schema", "at the newest revision")
        path = demo.write_accounts() if demo else self.plan.settings.accounts_path()
        self._apply_accounts(runtime, path)
        self._say_what_is_missing(runtime)
        settings = self._start_processes(settings)
        if demo is not None:
            self._play_sender(demo, runtime, settings)
        waits = [name for name in self.supervisor.children if name.startswith(("worker-", "beat", "api"))]
        end = float("inf") if timeout_seconds is None else self.started + timeout_seconds
        self.supervisor.wait_until_ready(waits, lambda: clock.boot() < end)
        self._say_where(settings)
        look = SettleCheck(runtime, demo, self.progress, until_settled, timeout_seconds, self.started)
        try:
            code = self.supervisor.run(look.tick, LOOK_SECONDS)
        except ChildFailedError:
            self.progress.close()
            raise
        look.end(code)
        self.progress.say("Stopping", "workers finish what they have in hand")
        return code

    # ------------------------------------------------------------------------------------- servers

    def _with_servers(self) -> Settings:
        """The settings with both servers' addresses: given ones, or embedded servers started now."""
        given = self.plan.settings
        servers: dict[str, PostgresServer | ValkeyServer] = {}
        if given.database_url is None:
            servers["database_url"] = PostgresServer(given.home, binaries=given.postgres_bin)
        if given.redis_url is None:
            servers["redis_url"] = ValkeyServer(given.home, program=given.valkey_bin)
        for server in servers.values():
            self.progress.say(server.name.capitalize(), "starting")
            self.supervisor.add(server.prepare())
        urls = {name: server.wait_until_ready(self.supervisor.poll) for name, server in servers.items()}
        for name, server in servers.items():
            self.progress.say(server.name.capitalize(), f"answers ({_where(urls[name])})")
        if given.redis_url is not None:
            # PostgreSQL is needed for the schema and says so itself; the broker would only be missed by the children.
            with connect(given.redis_url.get_secret_value(), retries=1) as redis:
                redis.ping()
        return given.model_copy(update={name: SecretStr(url) for name, url in urls.items()})

    def _start_demo(self) -> SandboxRun:
        """The sandbox, answering."""
        demo = SandboxRun.choose(self.plan.settings.home, self.plan.settings.sandbox_port)
        self.supervisor.add(demo.child())
        demo.wait(self.supervisor.poll)
        self.progress.say("Sandbox", f"five simulated providers are running (control {demo.control})")
        return demo

    # ------------------------------------------------------------------------------------ accounts

    def _apply_accounts(self, runtime: Runtime, path: Path | None) -> None:
        """Apply the accounts file whole, or not at all."""
        if path is None:
            self.progress.say("Accounts", "no accounts.toml: what the database holds is used")
            return
        specs = read_accounts(path)
        short = require_strong_paths(self.plan.settings, specs)
        applied = apply_recorded(runtime.engine, specs, prune=False, person_key=runtime.suppressions.key)
        text = f"{len(specs)} from {path}"
        if applied.missing:
            text += f"; not in the file, still running: {', '.join(applied.missing)}"
        if short:
            text += f"; the secret of the callback address is {REPORTED}: {', '.join(short)}"
        self.progress.say("Accounts", text)

    def _say_what_is_missing(self, runtime: Runtime) -> None:
        """Accounts that cannot be asked for want of a credential. The others go on, so this stops nothing."""
        with runtime.engine.connect() as connection:
            records = [record for record in list_accounts(connection) if record.enabled]
        for record in records:
            if (missing := missing_credentials(record)) is not None:
                self.progress.say("Missing", f"{record.id} cannot be asked: {missing}")

    # ----------------------------------------------------------------------------------- processes

    def _start_processes(self, settings: Settings) -> Settings:
        """Workers, beat, API and Flower as children; returns the settings with their ports."""
        api_port = choose_port(settings.api_port, API_PORT, settings.bind)
        flower_port = choose_port(settings.flower_port, FLOWER_PORT, settings.bind)
        settings = settings.model_copy(update={"api_port": api_port, "flower_port": flower_port})
        env = {name: _environment(settings, name, demo=self.plan.is_demo) for name in CHILDREN}
        for number in range(1, self.plan.workers + 1):
            argv = ("worker", "--name", f"worker-{number}", "--threads", str(self.plan.threads))
            own = env["worker"] | _metrics_port(settings, number)
            self.supervisor.add(_child(f"worker-{number}", argv, own, grace_seconds=25.0, tier=3))
        self.supervisor.add(_child("beat", ("beat",), env["beat"], tier=2))
        self.supervisor.add(_child("api", ("api",), env["api"], tier=2))
        if self.plan.flower:
            self.supervisor.add(_child("flower", ("flower",), env["flower"], tier=2, grace_seconds=3.0))
        return settings

    def _play_sender(self, demo: SandboxRun, runtime: Runtime, settings: Settings) -> None:
        """Register what the sandbox has sent, and let it push."""
        accounts = demo.ask("/accounts")
        ids = demo.register_sends(runtime)
        replies = demo.hand_over_replies(runtime, accounts)
        demo.start_pushes(accounts, f"http://127.0.0.1:{settings.api_port}")
        self.progress.say("Sender", f"registered {ids} ids, handed over {replies} send replies")

    def _say_where(self, settings: Settings) -> None:
        """Where a person may look."""
        generated_secrets.api_token(settings)
        kept = "ULAK_API_TOKEN" if settings.api_token else settings.home / "secrets" / generated_secrets.API_TOKEN
        place = _address(settings.bind, settings.api_port, API_PORT)
        self.progress.say("Page", f"{place} (token: {kept}); task API at /docs")
        if self.plan.flower:
            kept = (
                "ULAK_FLOWER_AUTH"
                if settings.flower_auth
                else settings.home / "secrets" / generated_secrets.FLOWER_AUTH
            )
            place = _address(settings.bind, settings.flower_port, FLOWER_PORT)
            self.progress.say("Flower", f"{place} (user and password: {kept})")
        self.progress.say("Logs", str(settings.home / "logs"))
        self.progress.say("Ready", "Ctrl-C stops everything")


@dataclass
class Settling:
    """Counts the looks that found all settled since the numbers of any account last changed.

    They need not be consecutive: with sweeps every few seconds, every second check may find an open one.
    """

    looks: int = 0
    numbers: list[tuple[str, int, int, int]] = field(default_factory=list)

    def see(self, accounts: Sequence[AccountOverview], *, is_settled: bool) -> bool:
        """Whether all has been settled for long enough, after one more look."""
        numbers = [(each.id, each.open_deliveries, each.final_deliveries, each.open_tracked) for each in accounts]
        if numbers != self.numbers:
            self.looks, self.numbers = 0, numbers
        self.looks += is_settled
        return self.looks >= SETTLED_LOOKS


@dataclass(slots=True)
class SettleCheck:
    """What is seen once a second while all runs."""

    runtime: Runtime
    demo: SandboxRun | None
    progress: Progress
    until_settled: bool
    timeout_seconds: float | None
    started: float
    settling: Settling = field(default_factory=Settling)

    def tick(self) -> int | None:
        """Show progress; an exit code when the run is over."""
        with self.runtime.engine.connect() as connection:
            accounts = overview(connection)
            reasons = unsettled(connection, paces()) if self.until_settled else []
            if self.until_settled and self.demo is not None and not reasons:
                reasons = self.demo.unsettled(connection)
        self.progress.show(accounts, reasons if self.until_settled else None)
        if self.settling.see(accounts, is_settled=not reasons) and self.until_settled:
            return 0
        if self.timeout_seconds is not None and clock.boot() - self.started > self.timeout_seconds:
            return TIMED_OUT
        return None

    def end(self, code: int) -> None:
        """The summary."""
        with self.runtime.engine.connect() as connection:
            self.progress.summary(overview(connection), clock.boot() - self.started, timed_out=code == TIMED_OUT)
        self.runtime.engine.dispose()


def _environment(settings: Settings, process: str, *, demo: bool) -> dict[str, str]:
    """All that a child is to see: the resolved addresses and ports, and of the secrets those that it needs."""
    env = environment_of(process) | {
        "ULAK_HOME": str(settings.home),
        "ULAK_API_PORT": str(settings.api_port),
        "ULAK_FLOWER_PORT": str(settings.flower_port),
    }
    for name in sorted(SECRETS_OF[process] & {"database_url", "redis_url"}):
        url: SecretStr | None = getattr(settings, name)
        if url is not None:
            env[f"ULAK_{name.upper()}"] = url.get_secret_value()
    if process == "flower":
        env["ULAK_FLOWER_AUTH"] = generated_secrets.flower_auth(settings)
    if demo:
        env["ULAK_TICK_SECONDS"] = str(DEMO_TICK_SECONDS)
    return env


def _address(bind: str, port: int | None, usual: int) -> str:
    """Where a server is to be found; with a word where a bookmark of the usual port leads to another program."""
    busy = "" if port == usual or is_free(usual, bind) else f" (port {usual} is in use by another program)"
    return f"http://{bind}:{port}{busy}"


def _metrics_port(settings: Settings, number: int) -> dict[str, str]:
    """The workers' metrics ports count upwards from the given one: each process has its own."""
    return {"ULAK_METRICS_PORT": str(settings.metrics_port + number - 1)} if settings.metrics_port else {}


def _child(
    name: str, arguments: tuple[str, ...], env: dict[str, str], *, tier: int, grace_seconds: float = 12.0
) -> ChildSpec:
    """A child that is one of our own commands."""
    # -P: the working directory may hold modules that are called as those of a library are.
    argv = (sys.executable, "-P", "-m", "ulak.cli.main", *arguments)
    return ChildSpec(
        name=name, argv=argv, env=env, inherit_env=False, tier=tier, grace_seconds=grace_seconds, announces=True
    )


def _where(url: str) -> str:
    """Host and port of a server's address."""
    return url.rsplit("@", 1)[-1].split("/", 1)[0]
