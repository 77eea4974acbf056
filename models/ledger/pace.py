"""The planner's memory of an account: when it planned, how far it has swept, what is still on its way."""

from datetime import date, datetime

from sqlalchemy import Connection, text

_PLANNABLE = text("""
    SELECT id FROM accounts
    WHERE provider = :provider AND enabled AND (paused_until IS NULL OR paused_until <= clock_timestamp())
    ORDER BY id
""")
_PAUSE = text("""
    UPDATE accounts SET
        -- A person's longer pause is never shortened.
        pause_reason = CASE WHEN paused_until > :until THEN pause_reason ELSE CAST(:reason AS text) END,
        paused_until = greatest(paused_until, :until),
        last_trouble = CAST(:reason AS text), last_trouble_at = clock_timestamp()
    WHERE id = :account_id
""")
_READY = text("SELECT count(*) FROM fetches WHERE account_id = :account_id AND state = 'ready'")
_MARK = text("UPDATE accounts SET planned_at = clock_timestamp() WHERE id = :account_id")
_MARK_CLOSED = text("UPDATE accounts SET closed_swept_at = clock_timestamp() WHERE id = :account_id")
_ROLL = text("""
    UPDATE accounts a SET swept_through = p.through
    FROM (SELECT max(sweep_through) AS through FROM polls WHERE account_id = :account_id AND state = 'complete') p
    WHERE a.id = :account_id AND p.through IS NOT NULL AND (a.swept_through IS NULL OR a.swept_through < p.through)
""")
_WATERMARK = text("SELECT swept_through FROM accounts WHERE id = :account_id")
_WINDOWS = text("""
    SELECT DISTINCT params -> 'window' ->> 0 AS first, params -> 'window' ->> 1 AS last
    FROM fetches WHERE account_id = :account_id AND state IN ('ready', 'sending') AND params ? 'window'
""")
_OLDEST_ORDER = text("""
    SELECT min(least(sent_at, first_seen_at)) FROM delivery_status
    WHERE account_id = :account_id AND granularity = 'order' AND NOT is_final
      AND first_seen_at > clock_timestamp() - make_interval(secs => :seconds)
""")


def plannable_accounts(connection: Connection, provider: str) -> list[str]:
    """Enabled accounts of the provider that are not paused."""
    return list(connection.execute(_PLANNABLE, {"provider": provider}).scalars())


def pause(connection: Connection, account_id: str, until: datetime, reason: str) -> None:
    """Ask the account nothing until then; `reason` is shown to people."""
    connection.execute(_PAUSE, {"account_id": account_id, "until": until, "reason": reason})


def ready_count(connection: Connection, account_id: str) -> int:
    """How many fetches of the account wait to be made."""
    count: int = connection.execute(_READY, {"account_id": account_id}).scalar_one()
    return count


def mark_planned(connection: Connection, account_id: str, *, closed: bool) -> None:
    """Remember that windows were opened now: today's, or those of closed days."""
    connection.execute(_MARK_CLOSED if closed else _MARK, {"account_id": account_id})


def roll_watermark(connection: Connection, account_id: str) -> date | None:
    """Move `swept_through` forward to what complete polls have swept; returns it.

    Derived at planning time, so that the transaction that ends a poll needs no lock on the account.
    """
    connection.execute(_ROLL, {"account_id": account_id})
    watermark: date | None = connection.execute(_WATERMARK, {"account_id": account_id}).scalar_one()
    return watermark


def open_windows(connection: Connection, account_id: str) -> set[tuple[date, date]]:
    """Windows of which a page is still to be fetched or in the air."""
    rows = connection.execute(_WINDOWS, {"account_id": account_id})
    return {(date.fromisoformat(row.first), date.fromisoformat(row.last)) for row in rows}


def oldest_open_order(connection: Connection, account_id: str, forget_days: float) -> datetime | None:
    """The submit time of the oldest order that is still open and not yet taken to be forgotten."""
    parameters = {"account_id": account_id, "seconds": forget_days * 86400}
    oldest: datetime | None = connection.execute(_OLDEST_ORDER, parameters).scalar_one()
    return oldest
