"""Automatic pauses: an account whose credentials are refused or missing is left alone for a while, then probed once.

The probe is the circuit breaker's: with the pause the breaker opens, and the limiter lets one call at a time through an
open breaker. A successful response ends both. An operator's pause is never touched here.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping

from ulak.models.accounts import PausedBy
from ulak.models.ledger import ending as ledger
from ulak.providers.retry import pause_seconds
from ulak.tasks.effects import Effects


def refusal_changes(row: RowMapping, reason: str, *, asked_at: datetime | None = None) -> dict[str, Any]:
    """Columns of the locked account that a refusal changes; none where it changes nothing.

    A refusal of a call that was made before the account was last paused or resumed (`asked_at`) is old news: of many
    calls on their way one pauses the account, and a late one neither prolongs a pause nor undoes a resume. A pause that
    is in force, an operator's above all, stays as it is.
    """
    is_old = asked_at is not None and row["pause_changed_at"] is not None and asked_at <= row["pause_changed_at"]
    if is_old or is_paused(row):
        return {}
    now: datetime = row["now"]
    is_waiting = row["breaker_state"] == "open" and row["breaker_until"] is not None
    return {
        "paused_until": now + timedelta(seconds=pause_seconds(row["refusals"])),
        "pause_reason": reason,
        "paused_by": PausedBy.AUTOMATIC,
        "refusals": row["refusals"] + 1,
        "pause_changed_at": now,
        "breaker_state": "open",
        "breaker_until": max(row["breaker_until"], now) if is_waiting else now,
    }


def success_changes(row: RowMapping, *, asked_at: datetime) -> dict[str, Any]:
    """Columns that a successful response changes: it ends an automatic pause that began before the call was made."""
    if row["refusals"] == 0 or (row["pause_changed_at"] is not None and asked_at <= row["pause_changed_at"]):
        return {}
    if row["paused_by"] != PausedBy.AUTOMATIC:
        return {"refusals": 0}
    ended = {"paused_until": None, "pause_reason": None, "paused_by": None}
    return {**ended, "refusals": 0, "pause_changed_at": row["now"]}


def is_paused(row: RowMapping) -> bool:
    """Whether a pause is in force at the row's `now`."""
    return row["paused_until"] is not None and row["paused_until"] > row["now"]


def pause_without_credentials(connection: Connection, row: RowMapping, effects: Effects, reason: str) -> None:
    """Pause a locked account whose credentials cannot be found; nothing was asked of its provider."""
    changes = refusal_changes(row, reason)
    told = {"last_trouble": reason, "last_trouble_at": row["now"]}
    ledger.update_account(connection, row, {**changes, **told})
    if changes:
        effects.warning("account.paused", account=row["id"], reason=reason, until=changes["paused_until"])
