"""The Celery app, `workers.app:app`: the profile, the task base class, beat's static schedule.

PostgreSQL owns every unit of work and a message is only a hint, so the profile aims at one thing: that a worker goes on
through whatever happens to the broker.
"""

import ssl
from datetime import timedelta
from functools import cached_property, partial
from threading import Lock, Thread
from typing import Any

import kombu.exceptions
import redis.exceptions
from celery import Celery
from celery.signals import setup_logging, worker_ready, worker_shutting_down
from click import ClickException
from kombu import Exchange, Queue

from core import names
from core.logging import configure_logging
from core.settings import Settings, load_settings
from providers.registry import ADAPTERS
from schedules.beat import entries
from tasks.base import UlakTask, publish_or_log
from tasks.delays import Delays
from tasks.runtime import Runtime
from workers.connections import NothingRunningError, redis_url
from workers.presence import Presence
from workers.runtimes import build_runtime

VISIBILITY_TIMEOUT_SECONDS = 300
"""Well above any task's length (under 90 s); the row's lease is shorter anyway."""
KEY_PREFIX = "ulak:"


class UnknownBrokerError(NothingRunningError, ClickException):
    """No Redis is configured and none runs in the home. Celery's own command line tells such an error as a sentence."""


class UlakApp(Celery):
    """Celery with a runtime: the means that the steps of this process share."""

    def __init__(self, settings: Settings, *args: Any, **kwargs: Any) -> None:
        """`settings`: parsed once; nothing secret of them goes into `app.conf`, which `inspect conf` shows."""
        super().__init__(*args, **kwargs)
        self.settings = settings
        self._runtime: Runtime | None = None
        self._runtime_lock = Lock()
        self.log_process = "worker"
        self.presence: Presence | None = None

    def runtime(self) -> Runtime:
        """The process's runtime, built by whichever thread needs it first."""
        with self._runtime_lock:
            if self._runtime is None:
                known = self.settings
                self._runtime = build_runtime(known, threads=known.worker_threads, prepares=known.database_prepare)
            return self._runtime

    def connection_errors(self) -> tuple[type[BaseException], ...]:
        """What publishing raises when the broker cannot be reached."""
        return (kombu.exceptions.OperationalError, redis.exceptions.RedisError, OSError, UnknownBrokerError)

    def _connection(self, url: str | None, *args: Any, **kwargs: Any) -> Any:
        """To the configured Redis, else to the one that runs in the home; never to Celery's default, a stranger's."""
        try:
            known = url or redis_url(self.settings)
        except NothingRunningError as error:
            raise UnknownBrokerError(str(error)) from None
        return super()._connection(known, *args, **kwargs)

    @cached_property
    def delays(self) -> Delays:
        """Messages of this process that wait a moment."""
        return Delays(partial(publish_or_log, self))


def make_app(settings: Settings) -> UlakApp:
    """The app for these settings."""
    app = UlakApp(
        settings,
        "ulak",
        task_cls=UlakTask,
        include=["tasks.polls", "tasks.dispatching", "tasks.fetches", "tasks.upkeep"],
    )
    url = settings.redis_url.get_secret_value() if settings.redis_url else None
    app.conf.update(_profile(url), beat_schedule=beat_schedule(settings))
    return app


def _profile(broker_url: str | None) -> dict[str, Any]:
    """Celery's settings; each that differs from the default says why."""
    profile: dict[str, Any] = {
        # None: looked for when it is first needed, so that this module can be imported without servers.
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
        # A broker that is away is waited for, for ever; publishing gives up within about a second.
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
        "task_queues": [Queue(name, Exchange(name), routing_key=name) for name in names.QUEUES],
        "task_default_queue": names.QUEUE_CONTROL,
        "task_routes": {task: {"queue": queue} for task, queue in names.QUEUE_OF_TASK.items()},
        "beat_max_loop_interval": 1,
        "beat_scheduler": "celery.beat:Scheduler",
        "broker_transport_options": {
            "visibility_timeout": VISIBILITY_TIMEOUT_SECONDS,
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            # redis-py would wait for ever.
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
    """Beat's entries in Celery's form. A tick expires after its interval: stale ones are never worked off."""
    return {
        entry.name: {
            "task": entry.task,
            "schedule": timedelta(seconds=entry.every_seconds),
            "kwargs": entry.kwargs,
            "options": {
                "queue": names.QUEUE_OF_TASK[entry.task],
                "expires": max(entry.every_seconds, 5.0),
                "argsrepr": "",
                "kwargsrepr": entry.display,
            },
        }
        for entry in entries(ADAPTERS, tick_seconds=settings.tick_seconds)
    }


@setup_logging.connect
def _log_our_way(**_: Any) -> None:
    """Keep Celery from installing handlers of its own: every line goes through ours."""
    configure_logging(app.log_process, app.settings.log, level=app.settings.log_level)


@worker_ready.connect
def _announce(sender: Any, **_: Any) -> None:
    """A worker that makes fetches lets the ledger know its threads."""
    if names.QUEUE_FETCH in app.amqp.queues.consume_from:
        app.presence = Presence(app.runtime().engine, sender.hostname, app.settings.worker_threads)
        app.presence.start()


@worker_shutting_down.connect
def _withdraw(**_: Any) -> None:
    """Its threads are none of the others' any more."""
    if app.presence is not None:
        app.presence.stop()


@worker_shutting_down.connect
def _publish_what_waits(**_: Any) -> None:
    """A stopping worker leaves its timers to the others."""
    # In a thread: the signal comes inside a signal handler, where a lock that this thread holds would never be free.
    Thread(target=app.delays.flush, name="flush", daemon=True).start()


app = make_app(load_settings())
