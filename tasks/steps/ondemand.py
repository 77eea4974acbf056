"""Opening a poll on demand: the row first; its plan follows from a message, or from the reconciler if that is lost."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Final

from sqlalchemy import Connection

from ulak.models.account import StoredAccount, load
from ulak.models.database import transaction
from ulak.models.ledger import opening
from ulak.providers.effective import record_of
from ulak.tasks.runtime import Runtime

MAX_DAYS: Final = 366

Window = tuple[date | None, date | None]
"""First and last day (inclusive), in the account's time zone; without a last day the first one alone."""


class WrongPollError(ValueError):
    """What is asked for could never be asked; the text says what would be right."""

    def __init__(self, field: str, why: str) -> None:
        """As `poll_mistake` gives them."""
        super().__init__(f"{why}." if field == "account" else f"--{field} {why}.")


def poll_mistake(stored: StoredAccount, window: Window) -> tuple[str, str] | None:
    """What makes a poll of this account, or of these days, impossible: (`account`, `from` or `to`, what is wrong).

    `stored`: the account's, with PostgreSQL's `now`.
    """
    record = record_of(stored)
    if not record.is_pulled:
        return "account", f"{record.title} pushes its reports: there is nothing that could be asked for"
    start, end = window
    if start is None:
        return None if end is None else ("from", "is missing: give the first day as well as the last")
    if record.sweep_window_days is None and record.plan_range is None:
        return "from", f"cannot be asked for: {record.title} has no list of days; ask without days for every open id"
    if end is not None and end < start:
        return "to", "lies before from"
    if ((end or start) - start).days >= MAX_DAYS:
        return "to", f"lies too far from the first day: at most {MAX_DAYS} days at once"
    # East of Greenwich tomorrow has begun already.
    return ("from", "lies in the future") if (start - stored.now.date()).days > 1 else None


def pollable_account(connection: Connection, account_id: str, window: Window) -> StoredAccount:
    """The account, where it may be polled on demand over these days.

    Raises LookupError where there is no such account or it is disabled, and WrongPollError.
    """
    account = load(connection, account_id)
    if not account.enabled:
        raise LookupError(f"The account {account_id!r} is disabled: enable it in the accounts file first.")
    if (mistake := poll_mistake(account, window)) is not None:
        raise WrongPollError(*mistake)
    return account


def open_on_demand(
    runtime: Runtime,
    account_id: str,
    *,
    trigger: str,
    key: str | None = None,
    window: Window = (None, None),
    ids: Sequence[Mapping[str, str]] | None = None,
    also: Callable[[Connection, int], None] | None = None,
) -> int:
    """Insert a poll and give its id; with a `key` that was used before, the id of that poll.

    `also`: what is done in the same transaction with the id of a poll that was inserted. Raises LookupError where there
    is no such account or it is disabled, and WrongPollError.
    """
    start, end = window
    with transaction(runtime.engine) as connection:
        pollable_account(connection, account_id, window)
        poll_id, is_new = opening.open_poll(
            connection,
            opening.NewPoll(
                account_id=account_id,
                trigger=trigger,
                idempotency_key=key,
                window=None if start is None else (start, end or start),
                ids=ids,
            ),
        )
        if also is not None and poll_id is not None and is_new:
            also(connection, poll_id)
    if poll_id is None:
        raise RuntimeError("A poll was neither inserted nor found")
    return poll_id
