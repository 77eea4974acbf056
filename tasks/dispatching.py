"""The dispatch task: hints for the fetches that may go now."""

from celery import shared_task

from core import names
from models.database import retry_transaction
from models.ledger.dispatch import dispatch
from tasks.base import UlakTask
from tasks.messages import messages_of


@shared_task(name=names.DISPATCH_ACCOUNT, bind=True)
def dispatch_account(self: UlakTask, *, account_id: str) -> None:
    """Hint as many ready fetches as the account may make within about a second, and re-arm its timer."""
    decided = retry_transaction(self.runtime.engine, lambda connection: dispatch(connection, account_id))
    self.send(messages_of(decided))
