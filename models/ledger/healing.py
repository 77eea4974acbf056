"""What brings back whatever was lost: safe anywhere, any time, twice at once."""

from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, text

from models.ledger.walks import ended_state_sql

MAX_CLAIMS = 5
"""A fetch that was claimed so often without any answer is dead: its body may be killing the workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Healed:
    """What one reconciliation found."""

    released: int = 0
    dead: int = 0
    ended_polls: int = 0
    unplanned_polls: tuple[tuple[str, int], ...] = ()
    waiting_accounts: tuple[str, ...] = ()


_EXPIRED = text("""
    SELECT id, poll_id, account_id, claims, params_hash FROM fetches
    WHERE state = 'sending' AND lease_until < clock_timestamp()
    ORDER BY id LIMIT :many FOR NO KEY UPDATE SKIP LOCKED
""")
_ABANDON_CALLS = text("""
    UPDATE calls SET answered_at = gives_up_at, outcome = 'abandoned'
    WHERE fetch_id = :fetch_id AND answered_at IS NULL AND gives_up_at < clock_timestamp()
""")
_RELEASE = text("""
    UPDATE fetches f SET state = 'ready', lease_token = NULL, lease_until = NULL, hinted_at = NULL,
        available_at = clock_timestamp(), last_error = 'LeaseExpired: no answer was written in time'
    WHERE f.id = :fetch_id AND NOT EXISTS (
        SELECT 1 FROM fetches o
        WHERE o.account_id = f.account_id AND o.params_hash = f.params_hash AND o.state = 'ready')
    RETURNING id
""")
_BURY = text("""
    UPDATE fetches SET state = :state, lease_token = NULL, lease_until = NULL, finished_at = clock_timestamp(),
        last_error = :error
    WHERE id = :fetch_id
""")
_FREE = text("UPDATE tracked_ids SET fetch_id = NULL WHERE fetch_id = :fetch_id")
_LEAVE_POLL = text(f"""
    UPDATE polls SET open_fetches = open_fetches - 1, dead = dead + :dead, calls = calls + 1,
        state = CASE WHEN state = 'running' AND open_fetches = 1 AND planned_at IS NOT NULL THEN
            (CASE WHEN :dead > 0 THEN 'complete_with_errors' ELSE {ended_state_sql()} END) ELSE state END,
        finished_at = CASE WHEN state = 'running' AND open_fetches = 1 AND planned_at IS NOT NULL
                           THEN clock_timestamp() ELSE finished_at END
    WHERE id = :poll_id
""")


def expired_leases(connection: Connection, *, many: int = 200) -> list[RowMapping]:
    """Fetches whose lease has run out, locked by this transaction; those that another one is healing are left out."""
    return list(connection.execute(_EXPIRED, {"many": many}).mappings())


def release(connection: Connection, fetch: RowMapping) -> str:
    """Make an expired fetch ready again, or end it: `ready`, `dead` (claimed too often) or `cancelled` (superseded)."""
    connection.execute(_ABANDON_CALLS, {"fetch_id": fetch["id"]})
    if fetch["claims"] < MAX_CLAIMS and connection.execute(_RELEASE, {"fetch_id": fetch["id"]}).scalar_one_or_none():
        return "ready"
    state = "dead" if fetch["claims"] >= MAX_CLAIMS else "cancelled"
    error = (
        f"ClaimedTooOften: {fetch['claims']} workers took it and none wrote an answer"
        if state == "dead"
        else "Superseded: an equal fetch stands ready"
    )
    connection.execute(_BURY, {"fetch_id": fetch["id"], "state": state, "error": error})
    connection.execute(_FREE, {"fetch_id": fetch["id"]})
    connection.execute(_LEAVE_POLL, {"poll_id": fetch["poll_id"], "dead": int(state == "dead")})
    return state


_STRAY_IDS = text("""
    UPDATE tracked_ids t SET fetch_id = NULL
    WHERE t.fetch_id IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM fetches f WHERE f.id = t.fetch_id AND f.state IN ('ready', 'sending'))
""")
_END_POLLS = text(f"""
    UPDATE polls SET state = {ended_state_sql()}, finished_at = clock_timestamp()
    WHERE id IN (SELECT id FROM polls WHERE state = 'running' AND planned_at IS NOT NULL AND open_fetches = 0
                 FOR NO KEY UPDATE SKIP LOCKED)
    RETURNING id
""")
_UNPLANNED = text("""
    SELECT account_id, id FROM polls
    WHERE state = 'running' AND planned_at IS NULL AND started_at < clock_timestamp() - interval '3 seconds'
    ORDER BY id LIMIT 500
""")
_WAITING = text("""
    SELECT a.id FROM accounts a
    WHERE a.enabled
      AND (a.paused_until IS NULL OR a.paused_until < clock_timestamp() + interval '5 seconds')
      AND (a.not_before IS NULL OR a.not_before < clock_timestamp() + interval '5 seconds')
      AND (a.breaker_state = 'closed' OR a.breaker_until IS NULL
           OR a.breaker_until < clock_timestamp() + interval '5 seconds')
      AND (a.wake_at IS NULL OR a.wake_at < clock_timestamp() - interval '1 second')
      AND EXISTS (SELECT 1 FROM fetches f WHERE f.account_id = a.id AND f.state = 'ready'
            AND f.available_at < clock_timestamp() + interval '5 seconds'
            AND (f.hinted_at IS NULL OR f.hinted_at < clock_timestamp() - make_interval(secs => :hint_lasts)))
    ORDER BY a.id
""")


def end_polls(connection: Connection) -> int:
    """End polls with nothing open (none should be left; a promise is cheap to check) and free stray ids."""
    connection.execute(_STRAY_IDS)
    return len(connection.execute(_END_POLLS).all())


def unplanned_polls(connection: Connection) -> tuple[tuple[str, int], ...]:
    """Polls whose planning message was lost: (account, poll)."""
    return tuple((row.account_id, row.id) for row in connection.execute(_UNPLANNED))


def waiting_accounts(connection: Connection, *, hint_lasts_seconds: float) -> tuple[str, ...]:
    """Accounts with ready work that nobody was told of, or whose hints were lost."""
    return tuple(connection.execute(_WAITING, {"hint_lasts": hint_lasts_seconds}).scalars())


_PRUNE_CALLS = text("""
    DELETE FROM calls WHERE id IN (SELECT id FROM calls
        WHERE asked_at < clock_timestamp() - make_interval(days => :days)
          AND answered_at IS NOT NULL LIMIT :many)
""")
_PRUNE_FETCHES = text("""
    DELETE FROM fetches WHERE id IN (SELECT f.id FROM fetches f JOIN polls p ON p.id = f.poll_id
        WHERE p.finished_at < clock_timestamp() - make_interval(days => :days)
          AND f.state IN ('done', 'cancelled') LIMIT :many)
""")


def prune(connection: Connection, *, days: int, many: int = 5000) -> tuple[int, int]:
    """Delete answered calls and ended fetches older than `days`, at most `many` of each: (calls, fetches).

    Dead fetches stay until somebody has looked at them. No limit's window is as long as a day, so the limiter's rows
    are never touched.
    """
    parameters = {"days": days, "many": many}
    calls = connection.execute(_PRUNE_CALLS, parameters).rowcount
    return calls, connection.execute(_PRUNE_FETCHES, parameters).rowcount
