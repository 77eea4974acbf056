"""Automatic pauses: an account whose credentials are refused or missing is left alone for a while, then probed once.

The probe is the circuit breaker's: with the pause the breaker opens, and the limiter lets one call at a time through an
open breaker. A successful response ends both. An operator's pause is never touched here.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from ulak.models.account import PausedBy, StoredAccount
from ulak.models.ledger import ending as ledger
from ulak.providers.retry import pause_seconds
from ulak.tasks.effects import Effects


def refusal_changes(stored: StoredAccount, reason: str, *, asked_at: datetime | None = None) -> dict[str, Any]:
    """Columns of the locked account that a refusal changes; none where it changes nothing.

    A refusal of a call that was made before the account was last paused or resumed (`asked_at`) is old news: of many
    calls on their way one pauses the account, and a late one neither prolongs a pause nor undoes a resume. A pause that
    is in force, an operator's above all, stays as it is.
    """
    is_old = asked_at is not None and stored.pause_changed_at is not None and asked_at <= stored.pause_changed_at
    if is_old:
        return {}
    now, is_open = stored.now, stored.breaker_state == "open"
    until = now + timedelta(seconds=pause_seconds(stored.refusals))
    if not (paused := stored.pause_changes(until, reason, PausedBy.AUTOMATIC)):
        return {}
    breaker_until = max(stored.breaker_until, now) if is_open and stored.breaker_until is not None else now
    return {**paused, "refusals": stored.refusals + 1, "breaker_state": "open", "breaker_until": breaker_until}


def success_changes(stored: StoredAccount, *, asked_at: datetime) -> dict[str, Any]:
    """Columns that a successful response changes: it ends an automatic pause that began before the call was made."""
    if stored.refusals == 0 or (stored.pause_changed_at is not None and asked_at <= stored.pause_changed_at):
        return {}
    if stored.paused_by != PausedBy.AUTOMATIC:
        return {"refusals": 0}
    ended = {"paused_until": None, "pause_reason": None, "paused_by": None}
    return {**ended, "refusals": 0, "pause_changed_at": stored.now}


def pause_without_credentials(connection: Connection, stored: StoredAccount, effects: Effects, reason: str) -> None:
    """Pause a locked account whose credentials cannot be found; nothing was asked of its provider."""
    changes = refusal_changes(stored, reason)
    trouble = {"last_trouble": reason, "last_trouble_at": stored.now}
    ledger.update_account(connection, stored, {**changes, **trouble})
    if changes:
        effects.warning("account.paused", account=stored.id, reason=reason, until=changes["paused_until"])
