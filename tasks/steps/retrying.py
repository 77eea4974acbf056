"""Retrying and discarding dead letters."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from sqlalchemy import Connection

from ulak.models.account import StoredAccount, lock
from ulak.models.database import retry_transaction
from ulak.models.keys import split_key
from ulak.models.ledger import opening
from ulak.models.ledger.deadletters import (
    DeadLetter,
    account_of_fetch,
    lock_dead,
    open_subjects,
    put_away,
    window_of_subjects,
)
from ulak.providers.adapter import Account
from ulak.providers.effective import adapter_of
from ulak.tasks.messages import Message, dispatch_account, poll_account
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.fetch_rows import fetches_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried:
    """What became of a dead fetch."""

    fetch_id: int
    poll_id: int | None
    """The new poll; None where nothing is left to ask."""
    messages: tuple[Message, ...] = ()
    """To be published after the commit, which is done."""


def retry_dead(
    runtime: Runtime, fetch_id: int, *, trigger: str, also: Callable[[Connection, str, Retried], None] | None = None
) -> Retried | None:
    """Open a new poll for what a dead letter leaves unread, and take it off the list; None where there is none.

    A page of a list window is asked for with its whole window, since only that can be judged complete. A batch is asked
    for by its ids that are still open; where all are closed or erased, nothing is left to ask. `also`: what is done in
    the same transaction, with the account and the result.
    """

    def run(connection: Connection) -> Retried | None:
        account_id = account_of_fetch(connection, fetch_id)
        if account_id is None:
            return None
        # The account first: the order of every writer.
        stored = lock(connection, account_id)
        found = lock_dead(connection, fetch_id)
        if found is None:
            return None
        if "window" in found.params:
            retried = _ask_window(connection, found, trigger)
        elif "range" in found.params:
            retried = _ask_range(connection, found, trigger)
        else:
            retried = _ask_ids(connection, runtime, stored, found, trigger)
        outcome = "nothing is left to ask" if retried.poll_id is None else f"asked again by poll {retried.poll_id}"
        put_away(connection, found.id, outcome)
        if also is not None:
            also(connection, account_id, retried)
        return retried

    return retry_transaction(runtime.engine, run)


def discard_dead(
    runtime: Runtime, fetch_id: int, account_id: str, *, also: Callable[[Connection], None] | None = None
) -> bool:
    """Take a dead letter of the account off the list without requesting anything; whether there was one.

    Scheduled polls go on: days and ids that they read anyway are read all the same. `also`: done in the same
    transaction.
    """

    def run(connection: Connection) -> bool:
        lock(connection, account_id)
        found = lock_dead(connection, fetch_id)
        if found is None or found.account_id != account_id:
            return False
        put_away(connection, found.id, "discarded")
        if also is not None:
            also(connection)
        return True

    return retry_transaction(runtime.engine, run)


def _open(
    connection: Connection,
    account_id: str,
    trigger: str,
    window: tuple[date, date] | None = None,
    ids: Sequence[Mapping[str, str]] | None = None,
) -> int:
    new = opening.NewPoll(account_id=account_id, trigger=trigger, window=window, ids=ids)
    poll_id, _ = opening.open_poll(connection, new)
    if poll_id is None:
        raise RuntimeError("A poll was not inserted")
    return poll_id


def _ask_range(connection: Connection, found: DeadLetter, trigger: str) -> Retried:
    """A poll of the id over the same days, to be planned like any on demand; the id is the `chain` of its pages."""
    kind, value = split_key(found.params["chain"])
    window = _days(found.params["range"])
    account_id = found.account_id
    poll_id = _open(connection, account_id, trigger, window, [{"kind": kind, "value": value}])
    return Retried(fetch_id=found.id, poll_id=poll_id, messages=(poll_account(account_id, poll_id),))


def _days(given: Sequence[str]) -> tuple[date, date]:
    first, last = map(date.fromisoformat, given)
    return first, last


def _ask_window(connection: Connection, found: DeadLetter, trigger: str) -> Retried:
    """A poll over the days of the window, to be planned like any on demand."""
    account_id, fetch_id = found.account_id, found.id
    poll_id = _open(connection, account_id, trigger, window_of_subjects(found))
    return Retried(fetch_id=fetch_id, poll_id=poll_id, messages=(poll_account(account_id, poll_id),))


def _ask_ids(
    connection: Connection, runtime: Runtime, stored: StoredAccount, found: DeadLetter, trigger: str
) -> Retried:
    """A poll that asks for the ids at once: taken over where they stand ready, its own fetches otherwise."""
    account: Account = runtime.account(stored)
    wanted = open_subjects(connection, found)
    if not wanted:
        return Retried(fetch_id=found.id, poll_id=None)
    poll_id, priority = _open(connection, account.id, trigger), opening.PRIORITY_ON_DEMAND
    ids = [tracked.id for tracked in wanted]
    taken = opening.take_over(connection, poll_id, account.id, hashes=[], ids=ids, priority=priority)
    # What another fetch holds, taken over just now or in the air, is being asked for already.
    rest = [tracked for tracked in wanted if tracked.fetch_id is None]
    fetches = fetches_for(adapter_of(stored), account, rest, stored.now, priority)
    inserted = opening.insert_fetches(connection, poll_id, account.id, fetches)
    opening.close_plan(connection, poll_id, inserted + taken)
    return Retried(fetch_id=found.id, poll_id=poll_id, messages=(dispatch_account(account.id),))
