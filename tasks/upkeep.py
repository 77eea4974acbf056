"""Upkeep tasks."""

from celery import shared_task

from ulak.core import task_names
from ulak.tasks.base import UlakTask
from ulak.tasks.steps import upkeep


# Its own log line says when there was something to heal.
@shared_task(name=task_names.UPKEEP_RECONCILE, bind=True, send_events=False)
def reconcile(self: UlakTask) -> None:
    """Heal whatever was lost: leases, messages, polls."""
    self.emit(upkeep.reconcile(self.runtime))


@shared_task(name=task_names.UPKEEP_EXPIRE, bind=True, send_events=False)
def expire(self: UlakTask) -> None:
    """Once a minute: `unreported` where a pushing provider was silent, folding of counts, learning from checks."""
    self.emit(upkeep.every_minute(self.runtime))


@shared_task(name=task_names.UPKEEP_PRUNE, bind=True)
def prune(self: UlakTask) -> None:
    """Delete what is old."""
    self.emit(upkeep.prune(self.runtime))
