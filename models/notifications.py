"""The outbox of messages about problems, and the stored episodes (`ulak.models.problems`).

At most one API process evaluates at a time; any of them sends. For each receiver messages are sent one after the other,
the oldest first, and the next waits until the one before it is acknowledged. So a receiver that is down has at most two
rows: the one that it did not take, which is never altered since it may have arrived, and one that collects everything
that happened since.

A message is delivered at least once. An attempt is written before it is made, its result after it, so a process that
dies in between repeats the message under the same id. Once the acknowledgement is committed it is never sent again.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, select, text
from sqlalchemy.dialects.postgresql import insert

from ulak.models.database import json_parameter
from ulak.models.job_runs import NOTIFYING_TURN
from ulak.models.problems import Change, Episode, Problem, merged, message_id
from ulak.models.tables import notifications, problems

SPACING_SECONDS: Final = 60.0
"""A receiver gets a new message at most so often; what happens meanwhile is grouped in the next one."""
LEASE_SECONDS: Final = 120.0
"""An attempt of which nothing was written for so long is repeated: longer than any attempt may take."""
FIRST_PAUSE_SECONDS: Final = 10.0
MAX_PAUSE_SECONDS: Final = 300.0
TTL_DAYS: Final = 3
"""A message that its receiver did not take for so long after the first attempt is not sent any more."""
KEPT_DAYS: Final = 30
_LOCK: Final = 0x756C616E  # one advisory lock for all who evaluate


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A message that this process is to send now, once."""

    id: int
    receiver: str
    message_id: str
    items: Sequence[Mapping[str, Any]]
    created_at: datetime
    attempts: int
    """With this one."""


def pause_seconds(attempts: int) -> float:
    """How long after a failed attempt the next one is made: doubling up to a cap. `attempts`: with the failed one."""
    return float(min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(attempts - 1, 30)))


# ------------------------------------------------------------------------------------------------------- whose turn

_TURN = text("""
    INSERT INTO heartbeats AS h (name, at) SELECT :name, clock_timestamp() WHERE pg_try_advisory_xact_lock(:lock)
    ON CONFLICT (name) DO UPDATE SET at = excluded.at
    WHERE abs(extract(epoch FROM clock_timestamp() - h.at)) >= :every_seconds
    RETURNING at
""")
_LAST = text("SELECT coalesce(max(id), 0) FROM notifications")


def take_turn(connection: Connection, *, every_seconds: float) -> bool:
    """Whether it is this process that evaluates now: nobody else does, or has done within `every_seconds`."""
    given = {"name": NOTIFYING_TURN, "lock": _LOCK, "every_seconds": every_seconds}
    return connection.execute(_TURN, given).one_or_none() is not None


def last_id(connection: Connection) -> int:
    """The last notification there is: what all processes that have read it know of in common."""
    return int(connection.execute(_LAST).scalar_one())


def lock(connection: Connection) -> None:
    """Wait until nobody else changes episodes; held until the transaction ends."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})


# --------------------------------------------------------------------------------------------------------- episodes


def load_episodes(connection: Connection) -> dict[str, Episode]:
    """What is known to be wrong, by key."""
    return {row.key: _episode(row) for row in connection.execute(select(problems))}


def store_episodes(connection: Connection, before: Mapping[str, Episode], after: Mapping[str, Episode]) -> None:
    """Write what differs. The caller holds `lock` since it loaded `before`."""
    gone = [key for key in before if key not in after]
    if gone:
        connection.execute(delete(problems).where(problems.c.key.in_(gone)))
    for key, episode in after.items():
        if before.get(key) != episode:
            values = _row(episode)
            written = insert(problems).values(values)
            connection.execute(written.on_conflict_do_update(index_elements=["key"], set_=values))


def _row(episode: Episode) -> dict[str, Any]:
    problem = episode.problem
    return {
        "key": problem.key,
        "episode": episode.name,
        "kind": problem.kind,
        "severity": problem.severity,
        "account_id": problem.account,
        "summary": problem.summary,
        "advice": problem.advice,
        "first_seen_at": episode.first_seen_at,
        "seen_at": episode.seen_at,
        "opened_at": episode.opened_at,
        "absent_since": episode.absent_since,
    }


def _episode(row: Row[Any]) -> Episode:
    problem = Problem(
        key=row.key,
        kind=row.kind,
        severity=row.severity,
        account=row.account_id,
        summary=row.summary,
        advice=row.advice,
    )
    return Episode(
        problem=problem,
        name=row.episode,
        first_seen_at=row.first_seen_at,
        seen_at=row.seen_at,
        opened_at=row.opened_at,
        absent_since=row.absent_since,
    )


# ----------------------------------------------------------------------------------------------------------- outbox

_UNSENT = text("""
    SELECT id, items FROM notifications WHERE receiver = :receiver AND delivered_at IS NULL AND attempts = 0
    ORDER BY id DESC LIMIT 1 FOR UPDATE
""")
_EXTEND = text("UPDATE notifications SET items = CAST(:items AS jsonb) WHERE id = :id")
# Under the lock of `lock`. The spacing counts from the last message that was begun, delivered or not.
_ADD = text("""
    INSERT INTO notifications (receiver, message_id, items, next_attempt_at)
    SELECT :receiver, :message_id, CAST(:items AS jsonb), greatest(clock_timestamp(),
        (SELECT max(created_at) FROM notifications WHERE receiver = :receiver)
            + make_interval(secs => :spacing_seconds))
    ON CONFLICT (receiver, message_id) DO NOTHING
""")


def announce(connection: Connection, receivers: Collection[str], changes: Sequence[Change]) -> None:
    """Put changes into the outbox of each receiver: into a message that nobody was sent yet, else into a new one."""
    if not changes:
        return
    for receiver in sorted(receivers):
        unsent = connection.execute(_UNSENT, {"receiver": receiver}).one_or_none()
        items = merged(unsent.items if unsent is not None else (), changes)
        if unsent is not None:
            connection.execute(_EXTEND, {"id": unsent.id, "items": json_parameter(items)})
            continue
        given = {"receiver": receiver, "message_id": message_id(items), "items": json_parameter(items)}
        connection.execute(_ADD, given | {"spacing_seconds": SPACING_SECONDS})


# The head of the receiver's queue, or nothing where it is not due: a process that waited for its row checks it again.
# A message begins with its first attempt. Before that it still grows, however long it has waited for the one before it.
_CLAIM = text("""
    UPDATE notifications SET attempts = attempts + 1, attempted_at = clock_timestamp(),
        created_at = CASE WHEN attempts = 0 THEN clock_timestamp() ELSE created_at END,
        next_attempt_at = clock_timestamp() + make_interval(secs => :lease_seconds)
    WHERE id = (
        SELECT id FROM notifications
        WHERE receiver = :receiver AND delivered_at IS NULL
          AND (attempts = 0 OR created_at > clock_timestamp() - make_interval(days => :lasts_days))
        ORDER BY id LIMIT 1)
      AND delivered_at IS NULL AND next_attempt_at <= clock_timestamp()
    RETURNING id, receiver, message_id, items, created_at, attempts
""")
_DELIVERED = text("""
    UPDATE notifications SET delivered_at = clock_timestamp(), last_error = :error
    WHERE id = :id AND delivered_at IS NULL
""")
_FAILED = text("""
    UPDATE notifications SET last_error = :error,
        next_attempt_at = clock_timestamp() + make_interval(secs => :pause_seconds)
    WHERE id = :id AND attempts = :attempts AND delivered_at IS NULL
""")


def claim(connection: Connection, receiver: str) -> Claimed | None:
    """The message that is to be sent to the receiver now; None where none is due. Commit before sending it."""
    given = {"receiver": receiver, "lease_seconds": LEASE_SECONDS, "lasts_days": TTL_DAYS}
    row = connection.execute(_CLAIM, given).mappings().one_or_none()
    return None if row is None else Claimed(**row)


def acknowledge(connection: Connection, claimed: Claimed, error: str | None = None) -> None:
    """The receiver took the message: once this is committed, it is never sent again.

    `error`: what somebody should know all the same.
    """
    connection.execute(_DELIVERED, {"id": claimed.id, "error": error})


def postpone(connection: Connection, claimed: Claimed, error: str) -> None:
    """The receiver did not take it (`error`: in words of ours); it is tried again after a pause."""
    given = {"id": claimed.id, "attempts": claimed.attempts, "error": error}
    connection.execute(_FAILED, given | {"pause_seconds": pause_seconds(claimed.attempts)})


_RECORD = text("""
    INSERT INTO notifications
        (receiver, message_id, items, created_at, attempts, attempted_at, next_attempt_at, delivered_at, last_error)
    VALUES (:receiver, :message_id, CAST(:items AS jsonb), clock_timestamp(), :attempts, clock_timestamp(),
        clock_timestamp(), CASE WHEN :is_delivered THEN clock_timestamp() END, :error)
    ON CONFLICT (receiver, message_id) DO UPDATE
    SET delivered_at = coalesce(notifications.delivered_at, excluded.delivered_at)
""")


def record_sent(
    connection: Connection,
    receiver: str,
    change: Change,
    *,
    attempts: int,
    is_delivered: bool,
    error: str | None,
) -> None:
    """Write down a message that was sent without the database, once it is back. Several processes may, in any order."""
    items = [change.item()]
    given = {"receiver": receiver, "message_id": message_id(items), "items": json_parameter(items)}
    connection.execute(_RECORD, given | {"attempts": attempts, "is_delivered": is_delivered, "error": error})


def record_episode(connection: Connection, episode: Episode) -> None:
    """Record an episode that receivers were notified of without the database, unless another process has."""
    connection.execute(insert(problems).values(_row(episode)).on_conflict_do_nothing())


def list_notifications(connection: Connection, *, limit: int = 50, waiting_only: bool = False) -> Sequence[Row[Any]]:
    """The newest messages, with how often they were attempted and what went wrong last."""
    wanted = select(notifications).order_by(notifications.c.id.desc()).limit(limit)
    if waiting_only:
        wanted = wanted.where(notifications.c.delivered_at.is_(None))
    return connection.execute(wanted).all()


def prune(connection: Connection) -> int:
    """Delete messages that are older than `KEPT_DAYS`; returns how many."""
    from_then = select(text("clock_timestamp()")).scalar_subquery() - timedelta(days=KEPT_DAYS)
    return connection.execute(delete(notifications).where(notifications.c.created_at < from_then)).rowcount
