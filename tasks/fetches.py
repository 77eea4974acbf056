"""The fetch tasks: two names for two kinds, so that Flower and metrics tell them apart."""

from celery import shared_task

from core import names
from tasks.base import UlakTask
from tasks.steps import fetching


@shared_task(name=names.FETCH_PAGE, bind=True)
def fetch_page(self: UlakTask, *, fetch_id: int) -> None:
    """Make one page fetch, if it is ready and its account may be asked now."""
    self.send(fetching.make_fetch(self.runtime, fetch_id))


@shared_task(name=names.FETCH_BATCH, bind=True)
def fetch_batch(self: UlakTask, *, fetch_id: int) -> None:
    """Make one fetch of detailed reports for ids, if it is ready and its account may be asked now."""
    self.send(fetching.make_fetch(self.runtime, fetch_id))
