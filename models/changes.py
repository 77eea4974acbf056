"""The feed of changes: every change of the shared table in one order, told exactly once by cursor.

A plain sequence would lose changes: a number drawn early may be committed late, behind a reader's back. Here a row's
place is (the transaction that changed it last, its id), and only what lies below the oldest open transaction is told.
Below that line nothing can appear any more, so a cursor that has passed a place never misses it. A row that changes
again leaves its place and takes a new one beyond every cursor; the feed tells its latest state there. Whoever puts
and erases by `id` what the feed tells holds the table.

What was removed because it had been kept long enough is one entry for each account, a range of times: it names what is
gone by account and `message_time`, and takes a new place whenever more is removed.

One transaction that stays open anywhere in the cluster holds the feed up, but loses nothing.

Places count the transactions of one database cluster. A cursor therefore names its feed; when the rows turn up in
another cluster (a restored dump, `pg_upgrade`), `renew_feed` begins a new one and old cursors are refused. A physical
restore to an earlier point keeps the cluster's name: begin a new feed by hand then (`docs/reference/http-api.md`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from ulak.models.tables import delivery_status

LIMIT = 100
TOMBSTONE_TTL = timedelta(days=30)
"""How long, at least, the feed tells that a row was erased."""
_MAX_ERASURE_TIME = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeCursor:
    """A place in a feed."""

    feed: UUID
    began: datetime
    """When this reader began at the beginning: it never heard of what had been erased before."""
    changed_in: int = 0
    id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The deliveries of an account that were sent before a moment."""

    account_id: str
    before: datetime
    """Of `message_time`; where a copy has none, of `first_seen_at`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One row that changed or is no more, or a range of rows that are no more."""

    id: int
    """0 of a range."""
    changed_in: int
    """The transaction of the change: greater for every later change of the same row that is told."""
    delivery: Mapping[str, Any] | None
    """The current row; None where it was erased, and of a range."""
    removed: Range | None = None
    """What was removed because it had been kept long enough (`ulak.models.retention`)."""


class CursorGoneError(Exception):
    """The feed cannot go on from this cursor; the reader begins again. The text says why."""


class FeedMovedError(Exception):
    """The rows have come into another cluster: `renew_feed` first."""


_COLUMNS = ", ".join(column.name for column in delivery_status.c)
# Each branch walks its own index and stops at the limit.
_READ = text(f"""
    WITH line AS MATERIALIZED (SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS oldest_open),
    places AS (
        (SELECT changed_in, id, false AS erased FROM delivery_status
         WHERE (changed_in, id) > (:changed_in, :id) AND changed_in < (SELECT oldest_open FROM line)
         ORDER BY changed_in, id LIMIT :limit)
        UNION ALL
        (SELECT changed_in, delivery_id, true FROM delivery_erasures
         WHERE (changed_in, delivery_id) > (:changed_in, :id) AND changed_in < (SELECT oldest_open FROM line)
         ORDER BY changed_in, delivery_id LIMIT :limit)
        UNION ALL
        (SELECT changed_in, 0, false FROM delivery_removals
         WHERE (changed_in, 0) > (:changed_in, :id) AND changed_in < (SELECT oldest_open FROM line)
         ORDER BY changed_in LIMIT :limit)
        ORDER BY changed_in, id LIMIT :limit
    )
    SELECT r.account_id AS removed_of, r.before AS removed_before,
        places.erased, places.id AS place_id, places.changed_in AS place, d.*
    FROM places LEFT JOIN (SELECT {_COLUMNS} FROM delivery_status) d ON d.id = places.id AND NOT places.erased
    LEFT JOIN delivery_removals r ON r.changed_in = places.changed_in AND places.id = 0
    ORDER BY places.changed_in, places.id
""")
_FEED = text("""
    SELECT id, forgotten_before, forgotten_in, clock_timestamp() AS now,
        pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next_transaction,
        cluster = (SELECT system_identifier::text FROM pg_control_system()) AS is_here
    FROM change_feed
""")


def read_changes(
    connection: Connection, after: ChangeCursor | None, *, limit: int = LIMIT
) -> tuple[Sequence[Change], ChangeCursor]:
    """What changed since `after` (None: from the beginning), in order, and the cursor to go on from.

    Raises `CursorGoneError` where the cursor is of another feed or older than the erasures that are still told, and
    `FeedMovedError` once after a restore. Writes nothing.
    """
    if after is None:
        after = _beginning(connection)
    bounds = {"changed_in": after.changed_in, "id": after.id, "limit": limit}
    rows = connection.execute(_READ, bounds).mappings().all()
    # Asked after the rows were read: what was forgotten in between refuses the cursor rather than slip through.
    _check(connection, after)
    changes = [
        Change(
            id=row["place_id"],
            changed_in=row["place"],
            delivery=None
            if row["erased"] or row["removed_of"] is not None
            else {column.name: row[column.name] for column in delivery_status.c},
            removed=None
            if row["removed_of"] is None
            else Range(account_id=row["removed_of"], before=row["removed_before"]),
        )
        for row in rows
    ]
    if not changes:
        return changes, after
    last = changes[-1]
    return changes, ChangeCursor(feed=after.feed, began=after.began, changed_in=last.changed_in, id=last.id)


def _beginning(connection: Connection) -> ChangeCursor:
    feed = connection.execute(_FEED).one()
    return ChangeCursor(feed=feed.id, began=feed.now)


def _check(connection: Connection, cursor: ChangeCursor) -> None:
    feed = connection.execute(_FEED).one()
    if not feed.is_here:
        raise FeedMovedError
    if cursor.feed != feed.id or cursor.changed_in >= feed.next_transaction:
        raise CursorGoneError("This cursor is of another feed: the database was restored. Begin without a cursor.")
    forgotten = feed.forgotten_before is not None and cursor.began < feed.forgotten_before
    if forgotten and cursor.changed_in < feed.forgotten_in:
        days = TOMBSTONE_TTL.days
        raise CursorGoneError(
            f"This cursor is too old: erasures are told for {days} days. Drop what you hold and begin without a cursor."
        )


_LOCK_FEED = text("""
    SELECT cluster = (SELECT system_identifier::text FROM pg_control_system()) AS is_here FROM change_feed FOR UPDATE
""")
_RENEW = text("""
    UPDATE change_feed SET id = gen_random_uuid(), forgotten_before = NULL, forgotten_in = 0,
        cluster = (SELECT system_identifier::text FROM pg_control_system())
""")
# A place in the future of this cluster would be told only when its transactions have caught up.
# In parts, since triggers see the rows of a whole statement.
_BRING_HOME = text("""
    UPDATE delivery_status SET changed_in = pg_current_xact_id()::text::bigint
    WHERE id = ANY(ARRAY(SELECT id FROM delivery_status
        WHERE changed_in > pg_current_xact_id()::text::bigint ORDER BY changed_in LIMIT 50000))
""")


def renew_feed(connection: Connection) -> bool:
    """Begin a new feed where the rows have come into another cluster; whether that was so. The caller commits.

    All readers begin again, so the old feed's erasures and removals are dropped. Several may do so at once: one does.
    """
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    if connection.execute(_LOCK_FEED).scalar_one():
        return False
    while connection.execute(_BRING_HOME).rowcount:
        pass
    connection.execute(text("DELETE FROM delivery_erasures"))
    connection.execute(text("DELETE FROM delivery_removals"))
    connection.execute(_RENEW)
    return True


_FORGET = text("""
    WITH gone AS (
        DELETE FROM delivery_erasures WHERE erased_at < now() - CAST(:last AS interval) RETURNING changed_in
    )
    UPDATE change_feed SET forgotten_before = now() - CAST(:last AS interval) + CAST(:margin AS interval),
        forgotten_in = greatest(forgotten_in, (SELECT max(changed_in) FROM gone))
    WHERE EXISTS (SELECT 1 FROM gone)
""")


def forget_erasures(connection: Connection, last: timedelta = TOMBSTONE_TTL) -> None:
    """Stop telling erasures older than `last`. Each erasure does this, so what is kept grows only as people are erased.

    From then on a cursor that has not passed them is refused, unless its reader began after they had happened.
    """
    # An erasure is stamped when it begins; a reader may have read its rows until it was committed.
    connection.execute(_FORGET, {"last": last, "margin": _MAX_ERASURE_TIME})
