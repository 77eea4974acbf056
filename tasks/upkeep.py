"""Upkeep tasks."""

from celery import shared_task

from core import names
from tasks.base import UlakTask
from tasks.steps import learning, upkeep


# Its own log line says when there was something to heal.
@shared_task(name=names.UPKEEP_RECONCILE, bind=True, send_events=False)
def reconcile(self: UlakTask) -> None:
    """Heal whatever was lost: leases, messages, polls."""
    self.emit(upkeep.reconcile(self.runtime))


@shared_task(name=names.UPKEEP_EXPIRE, bind=True, send_events=False)
def expire(self: UlakTask) -> None:
    """Say `unreported` where a pushing provider stayed silent past validity."""
    upkeep.expire(self.runtime)


@shared_task(name=names.UPKEEP_PRUNE, bind=True)
def prune(self: UlakTask) -> None:
    """Delete what is old."""
    self.emit(upkeep.prune(self.runtime))


@shared_task(name=names.UPKEEP_LEARN, bind=True, send_events=False)
def learn(self: UlakTask) -> None:
    """Learn how long messages take, and when ids are to be checked."""
    self.emit(learning.learn_all(self.runtime))
