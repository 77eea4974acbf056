"""The finishing transaction of a fetch that got no usable answer: what is asked again, and what the account learns."""

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from ulak.models.account import PausedBy, StoredAccount, lock
from ulak.models.database import retry_transaction
from ulak.models.ledger import ending as ledger
from ulak.models.ledger import opening
from ulak.models.ledger.deadletters import count_dead
from ulak.models.ledger.hashing import params_hash
from ulak.models.ledger.recovery import LEASE_EXPIRED, Released
from ulak.models.ledger.taking import NotYet, Taken, wake
from ulak.models.report import Unreadable
from ulak.providers.breaker import after
from ulak.providers.effective import max_check_seconds
from ulak.providers.errors import (
    AnswerNotUnderstood,
    OurBug,
    PauseAccount,
    ProviderError,
    RequestIsWrong,
    SlowDown,
    TryAgainAt,
    TryAgainSoon,
)
from ulak.providers.retry import GiveUp, Pause, RetryAt, RetryPolicy, decide
from ulak.tasks.effects import Effects, commit
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.attempt_records import Asked
from ulak.tasks.steps.pausing import pause_without_credentials, refusal_changes

OUTCOMES: Mapping[type[ProviderError], str] = {
    TryAgainSoon: "failed",
    TryAgainAt: "later",
    SlowDown: "throttled",
    PauseAccount: "refused",
    RequestIsWrong: "wrong",
    AnswerNotUnderstood: "unreadable",
    OurBug: "bug",
}
"""What `calls.outcome` says of a request that got no usable answer."""
REQUEST_FAILED = "request_failed"
"""The same where the provider is there and only this request failed."""
LOST_ANSWER = "a worker made a call and wrote no answer in time: it ended, or the answer ended it."


def breaker_changes(stored: StoredAccount, *, recent: list[bool], failed: bool) -> dict[str, Any]:
    """Columns of the account that the breaker changes."""
    change = after(
        outcome_is_soon_error=failed,
        state=stored.breaker_state,
        consecutive_failures=stored.breaker_failures,
        trips=stored.breaker_trips,
        recent=recent,
        now=stored.now,
        until=stored.breaker_until,
    )
    if change is None:
        return {}
    return {
        "breaker_state": change.state,
        "breaker_failures": change.failures,
        "breaker_trips": change.trips,
        "breaker_until": change.until,
    }


def is_outage(error: ProviderError) -> bool:
    """Whether the error counts for the account's breaker. What was learned from it corrects the next request."""
    return isinstance(error, TryAgainSoon) and error.is_outage and not error.learned


def _outcome(error: ProviderError) -> str:
    failed_alone = isinstance(error, TryAgainSoon) and not is_outage(error)
    return REQUEST_FAILED if failed_alone else OUTCOMES[type(error)]


def finish_failed(asked: Asked, error: ProviderError, effects: Effects) -> NotYet:
    """Write a failure in one transaction, say so in one line, and give the account's next attempt."""
    roll = asked.runtime.roll()

    def run(connection: Connection, mine: Effects) -> NotYet:
        done = _finish_failed(connection, mine, asked, error, roll)
        mine.line(
            logging.INFO if isinstance(error, TryAgainAt) else logging.WARNING,
            "fetch.failed",
            fetch=asked.taken.fetch_id,
            label=asked.taken.label,
            endpoint=asked.prepared.request.endpoint,
            error=type(error).__name__,
            why=error.message,
            code=error.code,
            said=error.detail,
            then=done,
        )
        account_id = asked.taken.account_id
        return NotYet(account_id=account_id, why=type(error).__name__, wake_up=wake(connection, account_id))

    return commit(asked.runtime.engine, effects, run)


def _finish_failed(
    connection: Connection,
    effects: Effects,
    asked: Asked,
    error: ProviderError,
    roll: float,
) -> str:
    """The finishing transaction of a failure; returns what happens to the fetch, for the log."""
    stored = lock(connection, asked.taken.account_id)
    asked_at = asked.close_call(connection, _outcome(error)) or stored.now
    if isinstance(error, AnswerNotUnderstood | OurBug) and asked.sent.answer is not None:
        raw = error.raw if isinstance(error, AnswerNotUnderstood) and error.raw else asked.sent.answer.body
        asked.put_away(connection, effects, (Unreadable(reason=error.message, raw=raw),))
    if isinstance(error, AnswerNotUnderstood):
        ledger.forget_fingerprints(connection, asked.taken.fetch_id)
    policy = RetryPolicy(**stored.retry)
    decision = decide(
        policy,
        error,
        attempts=_attempts(asked, error),
        now=stored.now,
        roll=roll,
        throttles=stored.throttles,
        refusals=stored.refusals,
    )
    changes = _account_changes(connection, stored, error, decision, asked.taken.asked_at)
    ledger.update_account(connection, stored, changes)
    if "paused_until" in changes:
        until, reason = changes["paused_until"], changes["pause_reason"]
        effects.warning("account.paused", account=stored.id, reason=reason, until=until)
    elif changes.get("breaker_state") == "open":
        effects.warning("account.breaker_opened", account=stored.id, until=changes["breaker_until"])
    if failed_with_account(stored, error, changes) and not isinstance(decision, Pause):
        decision = RetryAt(at=stored.now, counted=False, not_before=changes.get("breaker_until", stored.breaker_until))
    return _put_back(connection, asked, error, decision, now=stored.now, asked_at=asked_at)


def _attempts(asked: Asked, error: ProviderError) -> int:
    """How many counted tries were made before this one; of pages that are wrong only together: how many rounds."""
    return asked.taken.round - 1 if _restart(error) is not None else asked.taken.attempts


def _restart(error: ProviderError) -> ledger.Restart | None:
    """What to ask for where the pages have to be read again from the first one."""
    spec = error.restart if isinstance(error, AnswerNotUnderstood) else None
    if spec is None:
        return None
    return ledger.Restart(params=spec.params, params_hash=params_hash(spec.kind, spec.params), label=spec.label)


def _account_changes(
    connection: Connection,
    stored: StoredAccount,
    error: ProviderError,
    decision: RetryAt | GiveUp | Pause,
    asked_at: datetime,
) -> dict[str, Any]:
    """What a failure changes about the account: breaker, throttle, pause, last trouble."""
    changes: dict[str, Any] = {"learned": error.learned}
    if not isinstance(error, TryAgainAt):
        changes |= {"last_trouble": f"{type(error).__name__}: {error.explained}", "last_trouble_at": stored.now}
    failed = is_outage(error)
    since = stored.breaker_until
    recent = [outcome == "failed" for outcome in ledger.recent_outcomes(connection, stored.id, 20, since=since)]
    if failed or stored.paused_by != PausedBy.AUTOMATIC:
        # A breaker that an automatic pause has opened lets one call at a time through until one succeeds.
        changes |= breaker_changes(stored, recent=recent, failed=failed)
    if isinstance(decision, RetryAt) and decision.not_before is not None:
        changes["not_before"] = max(decision.not_before, stored.not_before or decision.not_before)
        changes["throttles"] = stored.throttles + 1
    if isinstance(decision, Pause):
        changes |= refusal_changes(stored, decision.reason, asked_at=asked_at)
    return changes


def note_lost_answer(connection: Connection, effects: Effects, released: Released) -> None:
    """A worker made a call and wrote nothing: it died, perhaps of the answer. The account learns of it.

    What was lost at one moment, as with a worker of many threads, counts once: only a call that was made after the last
    loss was noticed says something new.
    """
    stored = lock(connection, released.account_id)
    was_lost = (stored.last_trouble or "").startswith(LEASE_EXPIRED)
    lost_at = stored.last_trouble_at if was_lost else None
    if released.asked_at is None or (lost_at is not None and released.asked_at <= lost_at):
        return
    changes: dict[str, Any] = {"last_trouble": f"{LEASE_EXPIRED}: {LOST_ANSWER}", "last_trouble_at": stored.now}
    if stored.paused_by != PausedBy.AUTOMATIC:
        changes |= breaker_changes(stored, recent=[], failed=True)
    ledger.update_account(connection, stored, changes)
    effects.warning("fetch.lost", account=stored.id, fetch=released.fetch_id, then=released.state)
    if changes.get("breaker_state") == "open":
        effects.warning("account.breaker_opened", account=stored.id, until=changes["breaker_until"])


def failed_with_account(stored: StoredAccount, error: ProviderError, changes: Mapping[str, Any]) -> bool:
    """Whether this failure is the whole account's: it opened the breaker, or came home while that was open.

    Then the fetch returns uncounted, to be asked when the breaker lets a probe through.
    """
    return is_outage(error) and changes.get("breaker_state", stored.breaker_state) == "open"


def _put_back(
    connection: Connection,
    asked: Asked,
    error: ProviderError,
    decision: RetryAt | GiveUp | Pause,
    *,
    now: datetime,
    asked_at: datetime,
) -> str:
    """Return the fetch or end it, and count it in its poll."""
    text = f"{type(error).__name__}: {error.explained}"
    if isinstance(decision, GiveUp):
        # The ids rest as long as the longest wait of the poll policy.
        rest = asked_at + timedelta(seconds=ease_seconds(asked.prepared.stored))
        return _end(
            connection, asked.taken, state="dead", error=f"{type(error).__name__}: {decision.reason}", not_before=rest
        )
    if isinstance(error, TryAgainAt) and isinstance(decision, RetryAt) and asked.prepared.tracked:
        # The ids wait for the moment that the provider named; the poll need not stay open for days.
        return _end(connection, asked.taken, state="done", error=text, not_before=decision.at)
    # Trouble of the account is gated by the account's own row, so that a resume needs to touch no fetch.
    is_of_account = isinstance(decision, Pause) or decision.not_before is not None
    at = now if is_of_account or isinstance(decision, Pause) else decision.at
    counted = isinstance(decision, RetryAt) and decision.counted
    restart = _restart(error)
    if not ledger.return_fetch(
        connection, asked.taken.fetch_id, available_at=at, error=text, counted=counted, restart=restart
    ):
        # An equal fetch stands ready meanwhile: it asks instead, of another poll.
        return _end(connection, asked.taken, state="cancelled", error=text)
    ledger.count_poll(connection, asked.taken.poll_id, ledger.PollCounts(calls=1))
    if opening.cancel_if_ended(connection, asked.taken.poll_id):
        return "cancelled"
    return f"again at {at:%H:%M:%S}"


def _end(
    connection: Connection,
    taken: Taken,
    *,
    state: str,
    error: str,
    not_before: datetime | None = None,
    is_asked: bool = True,
) -> str:
    """End the fetch without an answer, and free its ids for a later poll, not before `not_before`."""
    ledger.end_fetch(connection, ledger.FetchEnd(fetch_id=taken.fetch_id, state=state, error=error, counted=is_asked))
    if state == "dead":
        count_dead(connection, taken.fetch_id)
    ledger.free_tracked(connection, taken.fetch_id, not_before=not_before)
    unswept = state != "dead" and "window" in taken.params
    counts = ledger.PollCounts(ended=1, dead=int(state == "dead"), calls=int(is_asked), unswept=unswept)
    ledger.count_poll(connection, taken.poll_id, counts)
    return state


def ease_seconds(stored: StoredAccount) -> float:
    """How long ids of a dead fetch rest: the longest wait of the account's poll policy."""
    return max_check_seconds(stored) * stored.time_factor


def dead_letter_unsendable(runtime: Runtime, effects: Effects, taken: Taken, error: str) -> None:
    """End a held fetch whose request cannot be built: no later attempt could build it. Its call was never made."""

    def run(connection: Connection) -> None:
        now = ledger.drop_call(connection, taken.fetch_id, taken.lease_token, taken.permit.call_id)
        rest = now + timedelta(seconds=ease_seconds(taken.account))
        _end(connection, taken, state="dead", error=error, not_before=rest, is_asked=False)

    retry_transaction(runtime.engine, run)
    effects.warning("fetch.unsendable", fetch=taken.fetch_id, account=taken.account_id, why=error)


def return_without_credentials(runtime: Runtime, effects: Effects, taken: Taken, reason: str) -> None:
    """Pause an account whose credentials cannot be found, and return its fetch, uncounted: nothing was asked."""

    def run(connection: Connection, mine: Effects) -> None:
        pause_without_credentials(connection, lock(connection, taken.account_id), mine, reason)
        _return_unsent(connection, taken, "Unsent: the credentials could not be found")

    commit(runtime.engine, effects, run)


def return_unsent(runtime: Runtime, taken: Taken) -> None:
    """Not a byte has left: the slot is free again at once, and the fetch ready, uncounted."""
    reason = "Unsent: more than a second passed between the ledger's commit and the request"
    retry_transaction(runtime.engine, lambda connection: _return_unsent(connection, taken, reason))


def _return_unsent(connection: Connection, taken: Taken, reason: str) -> None:
    now = ledger.drop_call(connection, taken.fetch_id, taken.lease_token, taken.permit.call_id)
    # As if it had not been taken, that is all: claims of workers that died with it stay counted.
    if ledger.return_fetch(
        connection, taken.fetch_id, available_at=now, error=reason, counted=False, claims=taken.claims - 1
    ):
        opening.cancel_if_ended(connection, taken.poll_id)
    else:
        _end(connection, taken, state="cancelled", error=reason, is_asked=False)
