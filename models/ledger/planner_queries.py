"""The planner's memory of an account: when it planned, how far it has swept, what is still on its way."""

from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Connection, text

from ulak.models.account import IS_PAUSED, TIME_FACTOR
from ulak.models.ledger.opening import PRIORITY_ON_DEMAND
from ulak.models.sweep_intervals import EVERY_SECONDS

_PLANNABLE = text(f"""
    SELECT a.id FROM accounts a
    WHERE a.provider = :provider AND a.enabled AND NOT {IS_PAUSED}
      AND (CAST(:sweeps AS boolean) AND (a.planned_at IS NULL OR a.planned_at <= statement_timestamp()
               - make_interval(secs => :early * coalesce({EVERY_SECONDS}, :every)))
           OR EXISTS (SELECT FROM tracked_ids t
                WHERE t.account_id = a.id AND t.closed_at IS NULL AND t.fetch_id IS NULL
                  AND t.next_check_at <= statement_timestamp())
           OR EXISTS (SELECT FROM fetches f
                WHERE f.account_id = a.id AND f.state = 'ready' AND f.priority > :priority
                  AND f.available_at < statement_timestamp() - make_interval(
                      secs => :waited * {TIME_FACTOR})))
    ORDER BY a.id
""")
_READY = text("""
    SELECT count(*) AS scheduled,
           EXISTS (SELECT FROM fetches WHERE account_id = :account_id AND state = 'ready' AND priority <= :on_demand
                   AND available_at <= statement_timestamp() + make_interval(secs => :within)) AS is_shared
    FROM fetches
    WHERE account_id = :account_id AND state = 'ready' AND priority > :on_demand
      AND available_at <= statement_timestamp() + make_interval(secs => :within)
""")
_PROMOTE = text("""
    UPDATE fetches SET priority = :priority
    WHERE account_id = :account_id AND state = 'ready' AND priority > :priority
      AND available_at < statement_timestamp() - make_interval(secs => :waited)
""")
_MARK = text("""
    UPDATE accounts SET planned_at = CASE WHEN :today THEN clock_timestamp() ELSE planned_at END,
        closed_swept_at = CASE WHEN :closed THEN clock_timestamp() ELSE closed_swept_at END
    WHERE id = :account_id
""")
_ROLL = text("""
    UPDATE accounts a SET swept_through = p.through
    -- The newest of them reaches farthest; it is found a few rows back, however long the history is.
    FROM (SELECT sweep_through AS through FROM polls
          WHERE account_id = :account_id AND state = 'complete' AND sweep_through IS NOT NULL
          ORDER BY id DESC LIMIT 1) p
    WHERE a.id = :account_id AND (a.swept_through IS NULL OR a.swept_through < p.through)
""")
_WATERMARK = text("SELECT swept_through FROM accounts WHERE id = :account_id")
_WINDOWS = text("""
    -- Two questions, since each state has its own partial index.
    SELECT params -> 'window' ->> 0 AS first, params -> 'window' ->> 1 AS last
    FROM fetches WHERE account_id = :account_id AND state = 'ready' AND params ? 'window'
    UNION
    SELECT params -> 'window' ->> 0, params -> 'window' ->> 1
    FROM fetches WHERE account_id = :account_id AND state = 'sending' AND params ? 'window'
""")
_OLDEST_ORDER = text("""
    SELECT min(least(sent_at, first_seen_at)) FROM delivery_status
    WHERE account_id = :account_id AND granularity = 'order' AND NOT is_final
      AND first_seen_at > statement_timestamp() - make_interval(secs => :seconds)
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerState:
    """What decides whether an account of a provider has anything to be planned."""

    sweeps: bool
    """Whether the provider has a list, so that windows are opened at every interval …"""
    every_seconds: float
    """… of this length where the account has none of its own (`ulak.models.sweep_intervals`) …"""
    early: float
    """… and this part of it has passed."""
    priority: int
    """Ready fetches below this rank …"""
    waited_seconds: float
    """… that could have gone for so long (times the account's factor) are to be raised."""


def plannable_accounts(connection: Connection, provider: str, pace: PlannerState) -> list[str]:
    """Enabled accounts of the provider that are not paused and have something due: an interval, an id, a long wait.

    One question for all of them, so that a tick costs nothing for the accounts that are idle.
    """
    parameters = {
        "provider": provider,
        "sweeps": pace.sweeps,
        "every": pace.every_seconds,
        "early": pace.early,
        "priority": pace.priority,
        "waited": pace.waited_seconds,
    }
    return list(connection.execute(_PLANNABLE, parameters).scalars())


def ready_work(connection: Connection, account_id: str, *, within_seconds: float) -> tuple[int, bool]:
    """(scheduled fetches that could be made within so long, whether on-demand work shares the calls with them).

    One that waits for a later retry takes no room.
    """
    parameters = {"account_id": account_id, "within": within_seconds, "on_demand": PRIORITY_ON_DEMAND}
    row = connection.execute(_READY, parameters).one()
    return row.scheduled, row.is_shared


def promote_waiting(connection: Connection, account_id: str, *, priority: int, waited_seconds: float) -> None:
    """Raise fetches that could have gone for so long to `priority`, where the oldest goes first: nothing starves."""
    parameters = {"account_id": account_id, "priority": priority, "waited": waited_seconds}
    connection.execute(_PROMOTE, parameters)


def mark_planned(connection: Connection, account_id: str, *, today: bool, closed: bool) -> None:
    """Remember that windows were opened now: today's, those of closed days, or both."""
    connection.execute(_MARK, {"account_id": account_id, "today": today, "closed": closed})


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
