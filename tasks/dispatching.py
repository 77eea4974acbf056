"""The wake-up of an account."""

from celery import shared_task

from core import names
from models.database import retry_transaction
from models.ledger.taking import wake
from tasks.base import UlakTask
from tasks.effects import Effects
from tasks.messages import call_up


# The fetch that it wakes is what Flower lists.
@shared_task(name=names.DISPATCH_ACCOUNT, bind=True, send_events=False)
def dispatch_account(self: UlakTask, *, account_id: str) -> None:
    """Publish a message that drains the account, now if it may make a call, or for its next attempt."""
    wanted = retry_transaction(self.runtime.engine, lambda connection: wake(connection, account_id, by_message=True))
    self.emit(Effects(messages=[*call_up(wanted)]))
