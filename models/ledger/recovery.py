"""What brings back whatever was lost: safe anywhere, any time, twice at once."""

from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Connection, text

from ulak.models.account import BLOCKED_UNTIL, TIME_FACTOR
from ulak.models.ledger.deadletters import count_dead
from ulak.models.ledger.ending import PollCounts, count_poll
from ulak.models.ledger.opening import cancel_if_ended
from ulak.models.ledger.slots import busy_sql
from ulak.models.ledger.sweep_pages import ended_state_sql

MAX_CLAIMS = 5
"""A fetch that was claimed so often without any answer is dead: its body may be killing the workers."""
COOLDOWN_SECONDS = 1800.0
"""How long its ids and its window wait (times the account's factor): requested at once, it would kill again."""
CLAIMED_TOO_OFTEN = "ClaimedTooOften"
LEASE_EXPIRED = "LeaseExpired"

# The account is locked as well, before the poll and without waiting: its breaker learns of the loss.
_EXPIRED = text("""
    SELECT f.id, f.poll_id, f.account_id, f.claims, f.params ? 'window' AS is_window
    FROM fetches f JOIN accounts a ON a.id = f.account_id
    WHERE f.state = 'sending' AND f.lease_until < statement_timestamp()
    ORDER BY f.lease_until LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
""")
_ABANDON_CALLS = text("""
    WITH abandoned AS (
        UPDATE calls SET answered_at = gives_up_at, outcome = 'abandoned'
        WHERE account_id = :account_id AND fetch_id = :fetch_id AND answered_at IS NULL
          AND gives_up_at < statement_timestamp()
        RETURNING asked_at
    ) SELECT max(asked_at) FROM abandoned
""")
_RELEASE = text("""
    UPDATE fetches f SET state = 'ready', lease_token = NULL, lease_until = NULL,
        available_at = clock_timestamp(), last_error = :error
    WHERE f.id = :fetch_id AND NOT EXISTS (
        SELECT 1 FROM fetches o
        WHERE o.account_id = f.account_id AND o.params_hash = f.params_hash AND o.state = 'ready')
    RETURNING id
""")
_DEAD_LETTER = text("""
    UPDATE fetches SET state = :state, lease_token = NULL, lease_until = NULL, finished_at = clock_timestamp(),
        last_error = :error
    WHERE id = :fetch_id
""")
_FREE = text(f"""
    UPDATE tracked_ids t SET fetch_id = NULL, next_check_at = CASE WHEN :is_dead THEN
        greatest(t.next_check_at, clock_timestamp()
            + make_interval(secs => :rest * {TIME_FACTOR}))
        ELSE t.next_check_at END
    FROM accounts a WHERE t.fetch_id = :fetch_id AND a.id = t.account_id
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """What became of a fetch whose lease ran out."""

    fetch_id: int
    account_id: str
    state: str
    """`ready`, `dead` (claimed too often) or `cancelled` (superseded, or of a cancelled poll)."""
    asked_at: datetime | None
    """When the call was made whose response was never written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """A fetch whose lease ran out, locked by this transaction."""

    id: int
    poll_id: int
    account_id: str
    claims: int
    is_window: bool


def expired_lease(connection: Connection) -> Expired | None:
    """The fetch whose lease ran out first, locked by this transaction with its account.

    One that another heals, or whose account is locked at the moment, is left for the next time: a worker that is frozen
    within a transaction must not keep the others waiting.
    """
    row = connection.execute(_EXPIRED).mappings().one_or_none()
    return None if row is None else Expired(**row)


def release(connection: Connection, fetch: Expired) -> Released:
    """Make an expired fetch ready again, or end it.

    Its call counts as made: nobody knows. In a cancelled poll it ends with the poll. One fetch a transaction, since the
    poll is the last lock.
    """
    of_fetch = {"fetch_id": fetch.id, "account_id": fetch.account_id}
    asked_at = connection.execute(_ABANDON_CALLS, of_fetch).scalar_one()
    state = _release(connection, fetch)
    return Released(fetch_id=fetch.id, account_id=fetch.account_id, state=state, asked_at=asked_at)


def _release(connection: Connection, fetch: Expired) -> str:
    error = f"{LEASE_EXPIRED}: no answer was written in time"
    again = {"fetch_id": fetch.id, "error": error}
    if fetch.claims < MAX_CLAIMS and connection.execute(_RELEASE, again).scalar_one_or_none():
        count_poll(connection, fetch.poll_id, PollCounts(calls=1))
        return "cancelled" if cancel_if_ended(connection, fetch.poll_id) else "ready"
    is_dead = fetch.claims >= MAX_CLAIMS
    state = "dead" if is_dead else "cancelled"
    error = (
        f"{CLAIMED_TOO_OFTEN}: {fetch.claims} workers took it and none wrote an answer"
        if is_dead
        else "Superseded: an equal fetch stands ready"
    )
    connection.execute(_DEAD_LETTER, {"fetch_id": fetch.id, "state": state, "error": error})
    if is_dead:
        count_dead(connection, fetch.id)
    connection.execute(_FREE, {"fetch_id": fetch.id, "is_dead": is_dead, "rest": COOLDOWN_SECONDS})
    counts = PollCounts(ended=1, dead=int(is_dead), calls=1, unswept=fetch.is_window and not is_dead)
    count_poll(connection, fetch.poll_id, counts)
    return state


_COOLING_DOWN = text(f"""
    SELECT f.params -> 'window' ->> 0 AS first, f.params -> 'window' ->> 1 AS last
    FROM fetches f JOIN accounts a ON a.id = f.account_id
    WHERE f.account_id = :account_id AND f.state = 'dead' AND f.params ? 'window'
      AND starts_with(f.last_error, '{CLAIMED_TOO_OFTEN}')
      AND f.finished_at > statement_timestamp() - make_interval(secs => :rest
          * {TIME_FACTOR})
""")


def windows_cooling_down(connection: Connection, account_id: str) -> list[tuple[date, date]]:
    """Windows whose response killed five workers a short while ago: sweeping them now would kill the next."""
    rows = connection.execute(_COOLING_DOWN, {"account_id": account_id, "rest": COOLDOWN_SECONDS})
    return [(date.fromisoformat(row.first), date.fromisoformat(row.last)) for row in rows]


_ORPHANED_IDS = text("""
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
    WHERE state = 'running' AND planned_at IS NULL AND started_at < statement_timestamp() - interval '3 seconds'
    ORDER BY id LIMIT 500
""")
_WAITING = text(f"""
    SELECT a.id FROM accounts a
    WHERE a.enabled
      AND coalesce({BLOCKED_UNTIL} < clock_timestamp() + interval '5 seconds', true)
      AND (a.wake_at IS NULL OR a.wake_at < clock_timestamp() - make_interval(secs => :lasts))
      -- One with a call of just now goes on with its answer, whatever became of its messages.
      AND (a.last_asked_at IS NULL OR a.last_asked_at < clock_timestamp() - make_interval(secs => :lasts))
      AND EXISTS (SELECT 1 FROM fetches f WHERE f.account_id = a.id AND f.state = 'ready'
            AND f.available_at < clock_timestamp() + interval '5 seconds')
    ORDER BY a.id
""")


def end_polls(connection: Connection) -> int:
    """End polls with nothing open (none should be left; a promise is cheap to check) and free stray ids."""
    connection.execute(_ORPHANED_IDS)
    return len(connection.execute(_END_POLLS).all())


def unplanned_polls(connection: Connection) -> tuple[tuple[str, int], ...]:
    """Polls whose planning message was lost: (account, poll)."""
    return tuple((row.account_id, row.id) for row in connection.execute(_UNPLANNED))


def waiting_accounts(connection: Connection, *, lasts_seconds: float) -> tuple[str, ...]:
    """Accounts with ready work that go on neither by a call nor by a message, which counts as lost after so long."""
    return tuple(connection.execute(_WAITING, {"lasts": lasts_seconds}).scalars())


_PRUNE_CALLS = text(f"""
    DELETE FROM calls WHERE id IN (SELECT c.id FROM calls c JOIN accounts a ON a.id = c.account_id
        WHERE c.asked_at < statement_timestamp() - make_interval(days => :days) AND c.answered_at IS NOT NULL
          -- Whatever still counts for the limit stays, however long its window is.
          AND NOT {busy_sql("statement_timestamp()")} LIMIT :many)
""")
_PRUNE_FETCHES = text("""
    DELETE FROM fetches WHERE id IN (SELECT f.id FROM fetches f JOIN polls p ON p.id = f.poll_id
        WHERE p.finished_at < statement_timestamp() - make_interval(days => :days)
          AND f.state IN ('done', 'cancelled') LIMIT :many)
""")


# The newest poll that swept days is the watermark's witness.
_PRUNE_POLLS = text("""
    DELETE FROM polls WHERE id IN (SELECT p.id FROM polls p
        WHERE p.finished_at < statement_timestamp() - make_interval(days => :days) AND p.sweep_through IS NULL
          AND NOT EXISTS (SELECT 1 FROM fetches f WHERE f.poll_id = p.id) LIMIT :many)
""")


def prune(connection: Connection, *, days: int, many: int = 5000) -> tuple[int, int, int]:
    """Delete answered calls and ended fetches and polls older than `days`, at most `many` of each: how many of each.

    Dead fetches stay with their polls until somebody has looked at them. What the limiter counts is never touched.
    """
    parameters = {"days": days, "many": many}
    calls = connection.execute(_PRUNE_CALLS, parameters).rowcount
    fetches = connection.execute(_PRUNE_FETCHES, parameters).rowcount
    return calls, fetches, connection.execute(_PRUNE_POLLS, parameters).rowcount
