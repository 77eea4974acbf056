"""Asking a provider whether it accepts an account's credentials: one call like any other, for `ulak check`.

The probe is a fetch of its own poll, made by this process (no worker needs to run) through the limiter and the ledger.
What it learns is learned: a refused key pauses the account as it does at any call.
"""

from dataclasses import dataclass, replace
from threading import Event

from sqlalchemy import Connection, text

from ulak.core import clock
from ulak.models.account import load
from ulak.models.database import retry_transaction
from ulak.models.ledger import opening
from ulak.models.ledger.deadletters import put_away
from ulak.providers.effective import record_of
from ulak.tasks.messages import Message
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.draining import drain
from ulak.tasks.steps.fetch_rows import new_fetch

_LOOK_SECONDS = 0.1
_STATE = text("SELECT state, last_error FROM fetches WHERE id = :fetch_id")
_OF_POLL = text("SELECT id FROM fetches WHERE poll_id = :poll_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What a provider answered, or why it was not asked."""

    problem: str | None
    """A sentence: the provider's refusal, or why no answer came; None where the credentials are accepted."""
    messages: tuple[Message, ...] = ()
    """To be published: what the account may do next, now that a call has ended."""


def probe(runtime: Runtime, account_id: str, *, patience_seconds: float) -> Probed | None:
    """Ask once whether the account's credentials are accepted; None where the provider has no call for that.

    Waits for a free slot of the account's limit, but no longer than `patience_seconds`.
    """
    with runtime.engine.connect() as connection:
        stored = load(connection, account_id)
    if record_of(stored).probe is None:
        return None
    poll_id, fetch_id = retry_transaction(runtime.engine, lambda connection: _open(connection, account_id))
    # This process makes one call at a time, and leaves what is ready beside it to the workers.
    runtime = replace(runtime, stopping=Event())
    runtime.stopping.set()
    ends = clock.boot() + patience_seconds
    messages: list[Message] = []
    state, error = "ready", None
    while state in {"ready", "sending"} and error is None and clock.boot() < ends:
        for effects in drain(runtime, fetch_id):
            effects.write_log()
            messages += effects.messages
        with runtime.engine.connect() as connection:
            state, error = connection.execute(_STATE, {"fetch_id": fetch_id}).one()
        if state == "sending" or (state == "ready" and error is None):
            clock.sleep(_LOOK_SECONDS)
    retry_transaction(runtime.engine, lambda connection: _close(connection, poll_id, fetch_id))
    told = Probed(problem=None, messages=tuple(messages))
    if state == "done":
        return told
    reason = (error or "").partition(": ")[2]
    return replace(told, problem=reason or "no call was free in time; try again later, or look at `ulak status`")


def _open(connection: Connection, account_id: str) -> tuple[int, int]:
    """A poll of one fetch."""
    spec = record_of(load(connection, account_id)).probe
    poll_id, _ = opening.open_poll(connection, opening.NewPoll(account_id=account_id, trigger="cli", ids=[]))
    if spec is None or poll_id is None:
        raise RuntimeError("A probe was not inserted")
    # Of a walk of its own: it must not be taken for the probe of another check.
    fetch = new_fetch(spec, priority=opening.PRIORITY_ON_DEMAND, walk=poll_id)
    opening.close_plan(connection, poll_id, opening.insert_fetches(connection, poll_id, account_id, [fetch]))
    fetch_id: int = connection.execute(_OF_POLL, {"poll_id": poll_id}).scalar_one()
    return poll_id, fetch_id


def _close(connection: Connection, poll_id: int, fetch_id: int) -> None:
    """Leave nothing behind: what was refused or not answered is shown now, and is not asked again by itself."""
    opening.cancel(connection, poll_id)
    put_away(connection, fetch_id, "shown by `ulak check`")
