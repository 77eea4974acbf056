"""Beat's clock: ticks by the boot clock, which is never set, and stops adding ticks to a queue that is not consumed."""

from typing import Any, Final

from celery.beat import Scheduler

from ulak.core import clock
from ulak.core.logging import get_logger

log = get_logger(__name__)

MAX_WAITING: Final = 500
"""A tick is left out while so many messages wait in its queue. The next one sees all that is due."""


class TickScheduler(Scheduler):
    """Celery's scheduler without its clock, heap and stored state: each entry comes every so many seconds.

    Celery compares wall-clock moments: set back by an hour, it would send nothing for an hour.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As Celery's."""
        self._due: dict[str, float] = {}
        self._is_backlogged = False
        super().__init__(*args, **kwargs)

    def tick(self, *_: Any, **__: Any) -> float:
        """Send every entry that is due; how many seconds to sleep. A tick that comes late is not made up for."""
        for entry in self.schedule.values():
            every = float(entry.schedule.seconds)
            now = clock.boot()
            due = self._due.setdefault(entry.name, now + every)
            if due <= now:
                if not self._stands_in_line(entry):
                    self.apply_entry(entry, producer=self.producer)
                self._due[entry.name] = due + every if due + every > now else now + every
        soonest = min(self._due.values(), default=clock.boot() + self.max_interval)
        return min(max(soonest - clock.boot(), 0.0), float(self.max_interval))

    def _stands_in_line(self, entry: Any) -> bool:
        """Whether the queue of this entry is not being consumed, so that a further tick would only lengthen it."""
        try:
            # A passive declaration would show it on any broker, but kombu does not find a queue under a key prefix.
            waiting = self.connection.default_channel.client.llen(entry.options["queue"])
        except self.app.connection_errors():
            return False  # Sending reports the error.
        is_backlogged = bool(waiting >= MAX_WAITING)
        if is_backlogged != self._is_backlogged:
            self._is_backlogged = is_backlogged
            log.warning("beat.backlogged" if is_backlogged else "beat.resumed", queue=entry.options["queue"])
        return is_backlogged
