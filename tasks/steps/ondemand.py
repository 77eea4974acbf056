"""Opening a poll on demand: the row first; its plan follows from a message, or from the reconciler if that is lost."""

from collections.abc import Mapping, Sequence
from datetime import date

from models.ledger import planning
from tasks.runtime import Runtime
from tasks.steps.tracking import account_row


class WrongWindowError(ValueError):
    """The days asked for make no window; the text says what would be right."""


def open_on_demand(
    runtime: Runtime,
    account_id: str,
    *,
    trigger: str,
    key: str | None = None,
    window: tuple[date | None, date | None] = (None, None),
    ids: Sequence[Mapping[str, str]] | None = None,
) -> int:
    """Insert a poll and give its id; with a `key` that was used before, the id of that poll."""
    start, end = window
    if start is None and end is not None:
        raise WrongWindowError("A window needs its first day: give --from as well as --to.")
    if start is not None and end is not None and end < start:
        raise WrongWindowError(f"The window ends ({end}) before it begins ({start}).")
    with runtime.engine.begin() as connection:
        account = account_row(connection, account_id)
        if not account["enabled"]:
            raise LookupError(f"The account {account_id!r} is disabled: enable it in the accounts file first.")
        poll_id, _ = planning.open_poll(
            connection,
            planning.NewPoll(
                account_id=account_id,
                kind="on_demand",
                trigger=trigger,
                idempotency_key=key,
                window=None if start is None else (start, end or start),
                ids=ids,
            ),
        )
    if poll_id is None:
        raise RuntimeError("A poll was neither inserted nor found")
    return poll_id
