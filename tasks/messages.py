"""A message to publish after the commit: which task, for what, when. A plain value, so that steps need no Celery."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ulak.core import task_names
from ulak.models.ledger.taking import WakeUp


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One Celery message. Losing it costs time, never data; repeating it costs a look."""

    task: str
    kwargs: Mapping[str, Any]
    countdown_seconds: float = 0.0
    """How long it waits in the process that decided on it (`ulak.tasks.delays`), a few seconds at the most."""
    display: str = ""
    """What Flower shows in place of the arguments: the account's slug, kind and page; no secret, no number."""
    wakes: str = ""
    """The account that has no other message on its way."""
    queue: str = field(default="")

    def __post_init__(self) -> None:
        """Fill in the queue that the task's name stands for."""
        if not self.queue:
            object.__setattr__(self, "queue", task_names.QUEUE_OF_TASK[self.task])

    def early(self) -> "Message":
        """What to publish before the countdown is over.

        The account counts on a message at the moment that it has noted, and this one is not that any more.
        """
        return dispatch_account(self.wakes) if self.wakes and self.countdown_seconds else self


_FETCH_TASKS = {"page": task_names.FETCH_PAGE, "batch": task_names.FETCH_BATCH}


def dispatch_account(account_id: str, *, countdown_seconds: float = 0.0) -> Message:
    """Look whether a fetch of the account may be made, and have it made."""
    return Message(
        task=task_names.DISPATCH_ACCOUNT,
        kwargs={"account_id": account_id},
        countdown_seconds=countdown_seconds,
        display=account_id,
    )


def poll_account(account_id: str, poll_id: int) -> Message:
    """Plan the poll that stands unplanned."""
    return Message(
        task=task_names.POLL_ACCOUNT,
        kwargs={"account_id": account_id, "poll_id": poll_id},
        display=f"{account_id} poll {poll_id}",
    )


def wake_up(wanted: WakeUp | None) -> tuple[Message, ...]:
    """The message that starts or continues the draining of an account, if one is wanted."""
    if wanted is None:
        return ()
    return (
        Message(
            task=_FETCH_TASKS[wanted.kind],
            kwargs={"fetch_id": wanted.fetch_id},
            countdown_seconds=wanted.delay_seconds,
            display=f"{wanted.account_id} {wanted.label}",
            wakes=wanted.account_id,
        ),
    )
