"""`ulak worker`, `beat`, `flower`, `api`: one process each, for production; `ulak up` runs the same commands."""

import contextlib
import gc
import os
import signal
import warnings
from typing import Annotated, Any

import typer
from pydantic import SecretStr
from tornado.ioloop import IOLoop
from tornado.options import options as flower_options

from ulak.core import clock, metrics, task_names
from ulak.core.logging import configure_logging, get_logger
from ulak.core.settings import Settings, load_settings, trusted_proxies_before
from ulak.local import lifeline
from ulak.workers.allocator import give_memory_back
from ulak.workers.connections import database_url, redis_url
from ulak.workers.generated_secrets import api_token, flower_auth
from ulak.workers.weak_secrets import require_strong

log = get_logger(__name__)

Option = typer.Option
GRACE_SECONDS = 20.0
API_THREADS = 16
WORKER_WAIT_SECONDS = 10.0


def register(app: typer.Typer) -> None:
    """Add the process commands."""
    app.command()(worker)
    app.command()(beat)
    app.command()(flower)
    app.command()(api)


def _begin(process: str) -> Settings:
    """What every process does first: watch its supervisor, bound its memory, read its settings, log our way."""
    lifeline.watch(GRACE_SECONDS)
    give_memory_back()
    settings = load_settings()
    require_strong(settings)
    configure_logging(process, settings.log, level=settings.log_level)
    return settings


def _celery(settings: Settings) -> Any:
    """The app on the Redis that every command finds, or `NothingRunningError`: a worker would wait for it indefinitely.

    Imported only where Celery is needed: the other commands start faster without it.
    """
    url = redis_url(settings)
    from ulak.workers.app import app

    app.conf.broker_url = url
    return app


def worker(
    name: Annotated[str, Option(help="The worker's fixed name, as Flower shows it.")] = "worker",
    threads: Annotated[int | None, Option(min=1, max=64, help="Number of concurrent fetches.")] = None,
    queues: Annotated[str, Option(help="Which queues to consume.")] = ",".join(task_names.QUEUES),
) -> None:
    """Run one worker, which plans and makes requests.

    A Celery worker on the threads pool.
    """
    settings = _begin(name)
    known = {"database_url": SecretStr(database_url(settings)), "worker_threads": threads or settings.worker_threads}
    celery = _celery(settings)
    celery.settings = settings.model_copy(update=known)
    celery.log_process = name
    _show_metrics(settings)
    _warn_if_root()
    _tune_garbage_collection()
    _silence_celery_stdout()
    celery.worker_main(
        [
            "--quiet",
            "worker",
            "--pool=threads",
            f"--concurrency={celery.settings.worker_threads}",
            f"--queues={queues}",
            f"--hostname={name}@%h",
            "--without-gossip",
            "--without-mingle",
            "--loglevel=INFO",
            "--events",
        ]
    )


def _tune_garbage_collection() -> None:
    """Keep the collector from walking an answer's thousands of fresh values again and again: none is in a cycle."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _silence_celery_stdout() -> None:
    """Celery writes of a warm shutdown straight to stdout, where a reader of JSON lines stumbles over it."""
    import celery.apps.worker

    celery.apps.worker.safe_say = lambda *_: None


def _warn_if_root() -> None:
    """One line in place of Celery's many: its reason, messages that run code when they are read, is not given here.

    Only JSON is accepted. What is left is that a process should not have more rights than it needs.
    """
    from celery.exceptions import SecurityWarning

    warnings.filterwarnings("ignore", message="You're running the worker with superuser", category=SecurityWarning)
    if os.geteuid() == 0:
        log.info("worker.runs_as_root", advice="in production give it a user of its own")


def _show_metrics(settings: Settings) -> None:
    """This worker's own metrics, on a separate port. A port in use does not stop the worker."""
    if settings.metrics_port is None:
        return
    try:
        metrics.serve(settings.metrics_port, settings.bind)
    except OSError as error:
        log.warning("metrics.not_served", port=settings.metrics_port, error=error.strerror)


def beat() -> None:
    """Run the scheduler.

    Celery's own beat with a static schedule in memory. Two may run at the same time.
    """
    celery = _celery(_begin("beat"))
    celery.log_process = "beat"
    # Its ticks are too many for a log; the workers log the planning that they start.
    log.info("beat.started", ticks=sorted(celery.conf.beat_schedule))
    lifeline.announce_ready()
    _beat_class()(app=celery, loglevel="INFO", logfile=None, quiet=True).run()


def _beat_class() -> Any:
    """Celery's beat, but ended at once by a signal.

    Its own handler raises SystemExit wherever the main thread happens to be, and a library that is in the middle of a
    publish may swallow that. There is nothing to save: the schedule lives in memory, and half a message is a lost
    tick, which costs nothing.
    """
    from celery.apps.beat import Beat

    class PromptBeat(Beat):
        def install_sync_handler(self, service: Any) -> None:  # noqa: ARG002 - Celery's signature
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: os._exit(0))

    return PromptBeat


def flower() -> None:
    """Run Flower, which shows the tasks in a browser."""
    settings = _begin("flower")
    celery = _celery(settings)
    import flower.options  # noqa: F401 - defines the options that are set below

    from ulak.workers.flower_guard import slow_down_guessers
    from ulak.workers.flower_pages import protect

    celery.log_process = "flower"
    protect()
    # Around the other: what that calls a wrong password counts as one.
    slow_down_guessers()
    # Set here and not on the command line: the password must not stand in the process list.
    flower_options.basic_auth = [flower_auth(settings)]
    _await_worker(celery)
    # Run by Flower's own loop, which begins when it listens.
    IOLoop.current().add_callback(lifeline.announce_ready)
    celery.start(
        [
            "flower",
            f"--port={settings.flower_port or 5555}",
            f"--address={settings.bind}",
            "--max-tasks=10000",
            # What a task is about (account, page or poll) is shown in place of its arguments.
            "--tasks-columns=name,kwargs,state,received,runtime,worker,uuid",
            "--purge-offline-workers=60",
            # A busy worker answers, but not within a second.
            "--inspect-timeout=3000",
            "--logging=none",
            # Flower would run a flowerconfig.py of the folder it is started in.
            f"--conf={os.devnull}",
            *(["--read-only"] if settings.flower_read_only else []),
        ]
    )


def _await_worker(celery: Any) -> None:
    """Return when a worker answers, at the latest after some seconds.

    Flower queries all workers once at startup, and warns of each query without a reply: workers that were
    started in the same moment are not there yet.
    """
    end = clock.boot() + WORKER_WAIT_SECONDS
    # A broker that is away is Flower's own matter.
    with contextlib.suppress(*celery.connection_errors()):
        while clock.boot() < end and not celery.control.ping(timeout=0.5, limit=1):
            pass


def api() -> None:
    """Run the HTTP process.

    It serves the status page, the task API, the feed of changes, the providers' callbacks and the probes, and notifies
    people of problems.
    """
    from ulak.api.app import make_api
    from ulak.api.dependencies import publisher
    from ulak.api.http_server import BoundedServer, server_config
    from ulak.api.notify.notifier import notifying
    from ulak.api.notify.receivers import find_receivers
    from ulak.api.pages.routes import add_pages
    from ulak.workers.connections import runtime_for

    settings = _begin("api")
    runtime = runtime_for(settings, threads=API_THREADS, application_name="ulak-api")
    application = make_api(runtime, token=api_token(settings), publish=publisher(settings), settings=settings)
    add_pages(application, runtime, settings, find_receivers(settings)[1])
    config = server_config(
        application, host=settings.bind, port=settings.api_port or 8000, trusted_proxies=_trusted_proxies(settings)
    )
    with contextlib.suppress(KeyboardInterrupt), notifying(settings, runtime):
        BoundedServer(config, started=lifeline.announce_ready).run()


def _trusted_proxies(settings: Settings) -> str:
    """Whose `X-Forwarded-*` headers count: `ULAK_TRUSTED_PROXIES`, else its old name, else this host."""
    if settings.trusted_proxies is None and (before := trusted_proxies_before()) is not None:
        log.warning("settings.renamed", variable="FORWARDED_ALLOW_IPS", use="ULAK_TRUSTED_PROXIES")
        return before
    return settings.trusted_proxies or "127.0.0.1,::1"
