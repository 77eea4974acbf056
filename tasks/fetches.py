"""The fetch tasks: two names for two kinds, so that Flower and metrics tell them apart. Either drains an account."""

from celery import shared_task

from ulak.core import task_names
from ulak.tasks.base import UlakTask
from ulak.tasks.steps.draining import drain


@shared_task(name=task_names.FETCH_PAGE, bind=True)
def fetch_page(self: UlakTask, *, fetch_id: int) -> None:
    """Make this page fetch, or the account's best one if it is gone, and further ones while they may be made."""
    for effects in drain(self.runtime, fetch_id):
        self.emit(effects)


@shared_task(name=task_names.FETCH_BATCH, bind=True)
def fetch_batch(self: UlakTask, *, fetch_id: int) -> None:
    """The same, beginning with a fetch of detailed reports for ids."""
    for effects in drain(self.runtime, fetch_id):
        self.emit(effects)
