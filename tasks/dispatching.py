"""The wake-up of an account."""

from celery import shared_task

from ulak.core import task_names
from ulak.models.database import retry_transaction
from ulak.models.ledger.taking import wake
from ulak.tasks.base import UlakTask
from ulak.tasks.effects import Effects
from ulak.tasks.messages import wake_up


# The fetch that it wakes is what Flower lists.
@shared_task(name=task_names.DISPATCH_ACCOUNT, bind=True, send_events=False)
def dispatch_account(self: UlakTask, *, account_id: str) -> None:
    """Publish a message that drains the account, now if it may make a call, or for its next attempt."""
    wanted = retry_transaction(self.runtime.engine, lambda connection: wake(connection, account_id, by_message=True))
    self.emit(Effects(messages=[*wake_up(wanted)]))
