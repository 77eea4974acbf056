"""`ulak worker`, `beat`, `flower`, `api`: one process each, for production; `ulak up` runs the same commands."""

import os
import signal
from typing import Annotated, Any

import typer
import uvicorn
from tornado.options import options as flower_options

from core import metrics, names
from core.logging import configure_logging, get_logger
from core.settings import Settings, load_settings
from workers import lifeline
from workers.secrets import api_token, flower_auth

log = get_logger(__name__)

Option = typer.Option
GRACE_SECONDS = 20.0
API_THREADS = 16


def register(app: typer.Typer) -> None:
    """Add the process commands."""
    app.command()(worker)
    app.command()(beat)
    app.command()(flower)
    app.command()(api)


def _begin(process: str) -> Settings:
    """What every process does first: watch its supervisor, read its settings, log our way."""
    lifeline.watch(GRACE_SECONDS)
    settings = load_settings()
    configure_logging(process, settings.log, level=settings.log_level)
    return settings


def _celery() -> Any:
    """The app, imported only where Celery is needed: the other commands start faster without it."""
    from workers.app import app  # noqa: PLC0415 - costs half a second

    return app


def worker(
    name: Annotated[str, Option(help="The worker's fixed name, as Flower shows it.")] = "worker",
    threads: Annotated[int | None, Option(min=1, max=64, help="How many fetches at once.")] = None,
    queues: Annotated[str, Option(help="Which queues to consume.")] = ",".join(names.QUEUES),
) -> None:
    """Make fetches and plans: a Celery worker on the threads pool."""
    settings = _begin(name)
    celery = _celery()
    celery.settings = settings.model_copy(update={"worker_threads": threads or settings.worker_threads})
    celery.log_process = name
    _show_metrics(settings)
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


def _show_metrics(settings: Settings) -> None:
    """What this worker measures itself, at a port of its own. A port that is taken stops nobody from working."""
    if settings.metrics_port is None:
        return
    try:
        metrics.serve(settings.metrics_port, settings.bind)
    except OSError as error:
        log.warning("metrics.not_shown", port=settings.metrics_port, error=error.strerror)


def beat() -> None:
    """Send the ticks: Celery's own beat with a static schedule in memory. Two may run."""
    _begin("beat")
    celery = _celery()
    celery.log_process = "beat"
    _beat_class()(app=celery, loglevel="INFO", logfile=None, quiet=True).run()


def _beat_class() -> Any:
    """Celery's beat, but ended at once by a signal.

    Its own handler raises SystemExit wherever the main thread happens to be, and a library that is in the middle of a
    publish may swallow that. There is nothing to save: the schedule lives in memory, and half a message is a lost
    tick, which costs nothing.
    """
    from celery.apps.beat import Beat  # noqa: PLC0415 - costs half a second

    class PromptBeat(Beat):
        def install_sync_handler(self, service: Any) -> None:  # noqa: ARG002 - Celery's signature
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: os._exit(0))

    return PromptBeat


def flower() -> None:
    """Watch the tasks in a browser: Flower, with a password."""
    settings = _begin("flower")
    import flower.options  # noqa: F401, PLC0415 - defines the options that are set below

    celery = _celery()
    celery.log_process = "flower"
    # Set here and not on the command line: the password must not stand in the process list.
    flower_options.basic_auth = [flower_auth(settings)]
    celery.start(
        [
            "flower",
            f"--port={settings.flower_port or 5555}",
            f"--address={settings.bind}",
            "--max-tasks=10000",
            "--purge-offline-workers=60",
            "--logging=none",
            *(["--read-only"] if settings.flower_read_only else []),
        ]
    )


def api() -> None:
    """The status page, the task API, the feed of changes, the providers' callbacks and the probes."""
    from workers.api.app import make_api  # noqa: PLC0415 - FastAPI costs half a second
    from workers.api.means import publisher  # noqa: PLC0415
    from workers.api.pages.routes import add_pages  # noqa: PLC0415
    from workers.connections import runtime_for  # noqa: PLC0415

    settings = _begin("api")
    runtime = runtime_for(settings, threads=API_THREADS, application_name="ulak-api")
    application = make_api(runtime, token=api_token(settings), publish=publisher(settings))
    add_pages(application, runtime, settings)
    uvicorn.run(
        application,
        host=settings.bind,
        port=settings.api_port or 8000,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
    )
