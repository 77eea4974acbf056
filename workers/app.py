"""The Celery app, `ulak.workers.app:app`: the profile, the task base class, beat's static schedule.

PostgreSQL owns every unit of work and a message is only a wake-up, so the profile has one goal: a worker continues
through whatever happens to the broker.
"""

import ssl
from datetime import timedelta
from functools import cached_property, partial
from logging import INFO, WARNING
from threading import Lock, Thread
from typing import Any

import kombu.exceptions
import redis.exceptions
from celery import Celery
from celery.app.utils import Settings as CelerySettings
from celery.loaders.app import AppLoader
from celery.signals import setup_logging, worker_ready, worker_shutting_down
from click import ClickException, get_current_context
from kombu import Exchange, Queue

from ulak.core import task_names
from ulak.core.environment import set_foreign_variables_aside
from ulak.core.logging import configure_logging, get_logger
from ulak.core.settings import Settings, load_settings
from ulak.local import lifeline
from ulak.models.database import WORKER_IDLE_IN_TRANSACTION_SECONDS
from ulak.providers.registry import ADAPTERS
from ulak.schedules.beat import entries
from ulak.tasks.base import UlakTask, publish_or_log
from ulak.tasks.delays import Delays
from ulak.tasks.runtime import Runtime
from ulak.workers.connections import NothingRunningError, redis_url
from ulak.workers.runtime_factory import build_runtime
from ulak.workers.worker_heartbeat import WorkerHeartbeat

log = get_logger(__name__)

VISIBILITY_TIMEOUT_SECONDS = 300
"""Well above any task's length (under 90 s); the row's lease is shorter anyway."""
KEY_PREFIX = "ulak:"


class UnknownBrokerError(NothingRunningError, ClickException):
    """No Redis is configured and none runs in the home. Celery's own command line prints the message of this error."""


class OwnSettings(CelerySettings):
    """Celery's settings from `_profile`: Celery itself would let `CELERY_*` of the environment come first."""

    @property
    def broker_url(self) -> str | None:
        """The configured Redis."""
        url: str | None = self.first("broker_url", "broker_host")
        return url

    @property
    def broker_read_url(self) -> str | None:
        """The same."""
        return self.broker_url

    @property
    def broker_write_url(self) -> str | None:
        """The same."""
        return self.broker_url

    @property
    def result_backend(self) -> str | None:
        """None."""
        backend: str | None = self.first("result_backend", "CELERY_RESULT_BACKEND")
        return backend


class OwnLoader(AppLoader):
    """Reads no configuration: Celery's loader would import the module in `CELERY_CONFIG_MODULE`."""

    def read_configuration(self, env: str = "") -> dict[str, Any]:  # noqa: ARG002 - Celery's signature
        """Nothing."""
        return {}


class UlakApp(Celery):
    """Celery with a runtime: the resources that the steps of this process share."""

    def __init__(self, settings: Settings, *args: Any, **kwargs: Any) -> None:
        """`settings`: parsed once; no secret is copied to `app.conf`, which `inspect conf` shows."""
        super().__init__(*args, **kwargs)
        # Celery has no parameter for this class, and takes the assignment of an attribute for a setting.
        object.__setattr__(self.conf, "__class__", OwnSettings)
        self.settings = settings
        self._runtime: Runtime | None = None
        self._runtime_lock = Lock()
        self.log_process = "worker"
        self.heartbeat: WorkerHeartbeat | None = None
        self._database_is_away = False

    def runtime(self) -> Runtime:
        """The process's runtime, created by the first thread that needs it."""
        with self._runtime_lock:
            if self._runtime is None:
                known = self.settings
                self._runtime = build_runtime(
                    known,
                    threads=known.worker_threads,
                    idle_in_transaction_seconds=WORKER_IDLE_IN_TRANSACTION_SECONDS,
                    prepares=known.database_prepare,
                )
            return self._runtime

    def note_database(self, *, is_away: bool, **fields: Any) -> None:
        """Log that the database became unavailable or available: once each, however many tasks notice it."""
        with self._runtime_lock:
            is_news, self._database_is_away = self._database_is_away != is_away, is_away
        if is_news:
            log.log(WARNING if is_away else INFO, "database.away" if is_away else "database.back", **fields)

    def connection_errors(self) -> tuple[type[BaseException], ...]:
        """What publishing raises when the broker cannot be reached."""
        # kombu fails on a connection that broke while a message was published: its channel then has none.
        torn = AttributeError
        return (kombu.exceptions.OperationalError, redis.exceptions.RedisError, OSError, UnknownBrokerError, torn)

    def _connection(self, url: str | None, *args: Any, **kwargs: Any) -> Any:
        """Connect to the configured Redis, else to the embedded one; never to Celery's default address."""
        try:
            known = url or redis_url(self.settings)
        except NothingRunningError as error:
            raise UnknownBrokerError(str(error)) from None
        return super()._connection(known, *args, **kwargs)

    @cached_property
    def delays(self) -> Delays:
        """Delayed messages of this process."""
        return Delays(partial(publish_or_log, self))


def make_app(settings: Settings) -> UlakApp:
    """The app for these settings."""
    app = UlakApp(
        settings,
        "ulak",
        task_cls=UlakTask,
        # CELERY_LOADER and DJANGO_SETTINGS_MODULE, where another program has set them, choose others.
        loader=OwnLoader,
        fixups=(),
        include=["ulak.tasks.polls", "ulak.tasks.dispatching", "ulak.tasks.fetches", "ulak.tasks.upkeep"],
    )
    url = settings.redis_url.get_secret_value() if settings.redis_url else None
    app.conf.update(_profile(url), beat_schedule=beat_schedule(settings))
    return app


def _profile(broker_url: str | None) -> dict[str, Any]:
    """Celery's settings; each that differs from the default has its reason."""
    profile: dict[str, Any] = {
        # None: resolved on first use, so that this module can be imported without servers.
        "broker_url": broker_url,
        "result_backend": None,
        "task_ignore_result": True,
        "task_serializer": "json",
        "accept_content": ["json"],
        "timezone": "UTC",
        # A message is acknowledged after the work; killed workers' messages come back. Twice is harmless here.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "worker_eta_task_limit": 100,
        # Consumers wait indefinitely for an unavailable broker; publishing gives up within about a second.
        "broker_connection_max_retries": None,
        "broker_connection_retry_on_startup": True,
        "broker_pool_acquire_timeout": 30,
        "task_publish_retry_policy": {
            "max_retries": 2,
            "interval_start": 0.1,
            "interval_step": 0.2,
            "interval_max": 0.5,
        },
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_soft_shutdown_timeout": 20,
        "worker_enable_soft_shutdown_on_idle": False,
        "worker_send_task_events": True,
        # One Prometheus label per producer's pid otherwise.
        "task_send_sent_event": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        # Named in full: a queue without an exchange of its own is bound to the default one's key as well, and every
        # message would then reach both queues.
        "task_queues": [Queue(name, Exchange(name), routing_key=name) for name in task_names.QUEUES],
        "task_default_queue": task_names.QUEUE_CONTROL,
        "task_routes": {task: {"queue": queue} for task, queue in task_names.QUEUE_OF_TASK.items()},
        "beat_max_loop_interval": 1,
        # Ticks by the boot clock: the wall clock may be set.
        "beat_scheduler": "ulak.workers.beat_clock:TickScheduler",
        "broker_transport_options": {
            "visibility_timeout": VISIBILITY_TIMEOUT_SECONDS,
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            # redis-py would wait indefinitely.
            "socket_timeout": 15,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "global_keyprefix": KEY_PREFIX,
        },
    }
    if broker_url is not None and broker_url.startswith("rediss:"):
        profile["broker_use_ssl"] = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    return profile


def beat_schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """Beat's entries in Celery's form.

    Without `expires`: that is a moment of beat's wall clock, which the worker would compare with its own.
    """
    return {
        entry.name: {
            "task": entry.task,
            "schedule": timedelta(seconds=entry.every_seconds),
            "kwargs": entry.kwargs,
            "options": {
                "queue": task_names.QUEUE_OF_TASK[entry.task],
                "argsrepr": "",
                "kwargsrepr": entry.display,
            },
        }
        for entry in entries(ADAPTERS, tick_seconds=settings.tick_seconds)
    }


@setup_logging.connect
def _log_our_way(**_: Any) -> None:
    """Keep Celery from installing its own log handlers: every line goes through ours."""
    configure_logging(app.log_process, app.settings.log, level=app.settings.log_level)


@worker_ready.connect
def _announce(sender: Any, **_: Any) -> None:
    """Notify the supervisor; a worker that executes fetches also announces its threads in the ledger."""
    lifeline.announce_ready()
    if task_names.QUEUE_FETCH in app.amqp.queues.consume_from:
        app.heartbeat = WorkerHeartbeat(app.runtime(), sender.hostname, app.settings.worker_threads)
        app.heartbeat.start()


@worker_shutting_down.connect
def _withdraw(**_: Any) -> None:
    """Withdraw its threads from the shared pool."""
    if app.heartbeat is not None:
        app.heartbeat.stop()


@worker_shutting_down.connect
def _stop_draining(**_: Any) -> None:
    """A stopping worker ends each drain after its current call, and leaves its messages to the others."""
    # In a thread: the signal comes inside a signal handler, where a lock that this thread holds would never be free.
    Thread(target=_hand_over, name="hand over", daemon=True).start()


def _hand_over() -> None:
    app.runtime().stopping.set()
    app.delays.flush()


if get_current_context(silent=True) is not None:
    # `celery -A ulak.workers.app worker`: this process is ours, and the subcommand's options are not parsed yet.
    set_foreign_variables_aside()
app = make_app(load_settings())
