"""What every task of ours can do: reach the runtime of its process, and carry out the effects of its step."""

from typing import Any

from celery import Task
from sqlalchemy.exc import SQLAlchemyError

from ulak.core import clock
from ulak.core.logging import bind_context, clear_context, get_logger, origin
from ulak.models.database_errors import is_unavailable, took_too_long
from ulak.tasks.effects import Effects
from ulak.tasks.messages import Message
from ulak.tasks.runtime import Runtime

log = get_logger(__name__)


class DatabaseAwayError(Exception):
    """PostgreSQL is unavailable, or gave up on a statement. The task fails; the reconciler finds its work again."""


class UlakTask(Task):
    """Base class of all tasks, made the app's by `ulak.workers.app` (`task_cls`)."""

    abstract = True
    ignore_result = True
    # Celery logs these as one line of level info: the log has said already that the database is away.
    throws = (DatabaseAwayError,)
    # A fan-out would otherwise keep the ids of all its children in the parent's result.
    trail = False

    @property
    def runtime(self) -> Runtime:
        """The means of this process; built on first use, shared by its threads."""
        runtime: Runtime = self.app.runtime()
        return runtime

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task; log once when the database goes away, and once when it is back."""
        try:
            result = super().__call__(*args, **kwargs)
        except SQLAlchemyError as error:
            if took_too_long(error):
                log.warning("task.database_slow", error=origin(error))
            elif is_unavailable(error):
                self.app.note_database(is_away=True, error=origin(error))
            else:
                raise
            raise DatabaseAwayError(type(error).__name__) from None
        self.app.note_database(is_away=False)
        return result

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Bind the log's context once, and note the moment for `_show`."""
        self.request.began_boot = clock.boot()
        clear_context()
        bind_context(task=self.name, task_id=task_id)

    def emit(self, effects: Effects) -> None:
        """Publish and log, after the commit. A message that is lost only costs time: the reconciler repeats it."""
        for message in effects.messages:
            self.app.delays.put(message)
        effects.write_log()
        if effects.shown and not self.send_events:
            self._show(", ".join(effects.shown))

    def _show(self, what: str) -> None:
        """Have Flower list this run as one that has succeeded; the idle runs of such a task send no events."""
        received = {"name": self.name, "args": "", "kwargs": what}
        runtime = clock.boot() - self.request.began_boot
        try:
            for event, fields in {
                "task-received": received,
                "task-started": {},
                "task-succeeded": {"runtime": runtime},
            }.items():
                self.send_event(event, retry=False, **fields)
        except self.app.connection_errors() as error:
            log.debug("task.event_not_sent", error=type(error).__name__)


def publish_or_log(app: Any, message: Message) -> bool:
    """Send one message; False, with a line in the log, when that fails. Raises nothing: the work is committed."""
    try:
        publish(app, message)
    except Exception as error:  # noqa: BLE001 - the thread that publishes must outlive whatever a broken connection does
        log.warning("message.not_published", message=message.task, error=origin(error))
        return False
    return True


def publish(app: Any, message: Message) -> None:
    """Send one message now; what Flower shows of its arguments is `display`."""
    app.send_task(
        message.task,
        kwargs=dict(message.kwargs),
        queue=message.queue,
        argsrepr="",
        kwargsrepr=message.display or repr(dict(message.kwargs)),
    )
