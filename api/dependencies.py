"""What the handlers need to reach the world."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy import Engine

from ulak.core.logging import get_logger
from ulak.core.settings import Settings
from ulak.tasks.base import publish_or_log
from ulak.tasks.messages import Message
from ulak.tasks.runtime import Runtime
from ulak.workers.audit_recording import Recorder
from ulak.workers.auth_attempts import FailedAttempts
from ulak.workers.connections import NothingRunningError
from ulak.workers.publishing import app_for

log = get_logger(__name__)

Publish = Callable[[Message], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """The means of the HTTP process."""

    runtime: Runtime
    token: str | None = field(default=None, repr=False)
    """The configured bearer token, beside those of the table."""
    publish: Publish | None = None
    """Sends a message after the commit; never raises. None: the reconciler finds everything."""
    recorder: Recorder
    """Of who did and saw what."""
    failed: FailedAttempts = field(default_factory=FailedAttempts, repr=False)
    """Wrong secrets of this process's callers, whatever they were sent to."""

    @property
    def engine(self) -> Engine:
        """The database."""
        return self.runtime.engine

    def send(self, message: Message) -> None:
        """Notify the workers of committed work; if the message is lost, the reconciler finds it within seconds."""
        if self.publish is not None:
            self.publish(message)


def publisher(settings: Settings) -> Publish:
    """Publishes to the Redis of these settings; one that is away or not there yet costs a line in the log."""
    found: list[Any] = []

    def send(message: Message) -> None:
        if not found:
            try:
                found.append(app_for(settings))
            except NothingRunningError as error:
                log.warning("message.not_published", message=message.task, error=type(error).__name__)
                return
        publish_or_log(found[0], message)

    return send


def _dependencies(request: Request) -> Dependencies:
    deps: Dependencies = request.app.state.deps
    return deps


Deps = Annotated[Dependencies, Depends(_dependencies)]
"""What a handler asks for to get the means."""
