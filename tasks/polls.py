"""Planning tasks. A task is a doorstep: it calls one step and sends what the step returned."""

from datetime import date

from celery import shared_task

from ulak.core import task_names
from ulak.models.ledger.listing import key_of_task
from ulak.providers.phone_numbers import plain
from ulak.tasks.base import UlakTask
from ulak.tasks.effects import Effects
from ulak.tasks.steps import ondemand, planning


# Most ticks find nothing due: Flower lists those that have planned polls, with their accounts.
@shared_task(name=task_names.POLL_PROVIDER, bind=True, send_events=False)
def poll_provider(self: UlakTask, *, provider: str) -> None:
    """Plan a poll for each account of the provider that has something due."""
    planned = Effects()
    for effects in planning.plan_due(self.runtime, provider):
        planned.shown += effects.shown
        effects.shown.clear()
        self.emit(effects)
    self.emit(planned)


@shared_task(name=task_names.POLL_ACCOUNT, bind=True)
def poll_account(
    self: UlakTask,
    account_id: str,
    *,
    poll_id: int | None = None,
    window_from: str | None = None,
    window_to: str | None = None,
) -> None:
    """Plan one poll on demand; without `poll_id` this message's own id is the idempotency key and finds the poll.

    `account_id` may be positional, so that `poll_account.delay("marka-sms")` works.
    """
    account_id = plain(account_id)
    if poll_id is None:
        window = (_day(window_from), _day(window_to))
        key = key_of_task(self.request.id)
        poll_id = ondemand.open_on_demand(self.runtime, account_id, trigger="task", key=key, window=window)
    self.emit(planning.plan_poll(self.runtime, account_id, poll_id))


def _day(text: str | None) -> date | None:
    return None if text is None else date.fromisoformat(text)
