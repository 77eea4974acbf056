"""What callbacks have brought of an account's tracked ids: which are settled by them, and how many final states.

Nothing is written per callback: the history of a delivery says who stated its end first, and an id of which a callback
spoke without stating anything is noted where it is made due (`tracked_ids.announced_at`).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from ulak.models.database import json_parameter
from ulak.models.vocabulary import FAILURES, Granularity, Source, Status, is_final

MAX_COUNTED = 2000
"""So many final states of one look are counted: the share needs no more of them."""
LATE_SECONDS = 60.0
"""A callback that comes so long after a poll's statement has announced the end all the same: the poll was needless.

Otherwise frequent polls would find most ends first, callbacks would count for nothing, and the polls stay frequent.
"""

# SQL: whether the provider itself has stated that the message `d` has ended; `unreported` is our own word.
_HAS_ENDED = f"(d.is_final AND d.status <> '{Status.UNREPORTED}')"

# The answer before has shown all messages of the id, and callbacks have brought the last of them to its end since.
# Locked like all writers of ids: sorted.
_SETTLE = text(f"""
    WITH locked AS (
        SELECT t.id, t.account_id, t.value, t.last_checked_at, t.expected FROM tracked_ids t
        WHERE t.id = ANY(:ids) AND t.id_kind = ANY(:kinds) AND t.closed_at IS NULL AND t.fetch_id IS NULL
          AND t.last_found_at IS NOT NULL AND t.incomplete_answers = 0 AND t.answer_fingerprint IS NULL
          AND NOT EXISTS (SELECT FROM delivery_status d WHERE d.account_id = t.account_id AND d.parent_key = t.value
                AND d.granularity = '{Granularity.MESSAGE}' AND NOT {_HAS_ENDED})
        ORDER BY t.id FOR NO KEY UPDATE OF t
    ), settled AS (
        SELECT t.id, max(pushed.at) AS at FROM locked t
        LEFT JOIN delivery_status whole ON whole.account_id = t.account_id
             AND whole.granularity = '{Granularity.ORDER}' AND whole.provider_key = t.value
        JOIN delivery_status d ON d.account_id = t.account_id AND d.parent_key = t.value
             AND d.granularity = '{Granularity.MESSAGE}'
        LEFT JOIN LATERAL (SELECT max(o.first_seen_at) AS at FROM observations o
              WHERE o.delivery_id = d.id AND o.source = '{Source.CALLBACK}') pushed ON true
        GROUP BY t.id, t.expected, t.last_checked_at, whole.total
        HAVING count(*) >= greatest(t.expected, whole.total) AND bool_and({_HAS_ENDED})
            AND max(pushed.at) > t.last_checked_at
    )
    UPDATE tracked_ids t SET closed_at = clock_timestamp(), close_reason = 'final', next_check_at = NULL,
        checked_before_at = s.at, last_checked_at = s.at, announced_at = s.at
    FROM settled s WHERE t.id = s.id RETURNING t.id
""")
CLOSED_AGAIN = f"""coalesce(t.announced_at > t.sent_at AND t.last_checked_at > t.announced_at
    AND (t.checked_before_at = t.announced_at OR (t.checked_before_at > t.announced_at AND EXISTS (
        SELECT FROM delivery_status d JOIN observations o ON o.delivery_id = d.id
        WHERE d.account_id = t.account_id AND d.parent_key = t.value AND d.granularity = '{Granularity.MESSAGE}'
          AND o.source = '{Source.CALLBACK}' AND o.first_seen_at = t.announced_at))), false)"""
"""SQL: whether `settle` had closed the id `t`, an answer opened it again, and a later check found it final.

It was counted when it was settled, which left the moment of a callback's own statement as `announced_at`; a callback
that states nothing leaves the moment at which it came. An id that a callback named first has its first check at
`sent_at`.
"""
_CLOSED = f"""
    t.account_id = :account_id AND t.id_kind = :kind AND t.close_reason = 'final' AND t.checked_before_at IS NOT NULL
    AND t.closed_at > :after AND t.closed_at <= :until AND t.last_checked_at < t.valid_until
    AND NOT {CLOSED_AGAIN}
"""
_OF_IDS = text(f"""
    SELECT count(*) FILTER (WHERE t.announced_at >= t.checked_before_at) AS announced, count(*) AS all
    FROM tracked_ids t WHERE {_CLOSED}
""")
# A message whose end is the first that a poll has shown of it is no evidence where a callback about another one of its
# order had asked for that poll; alone in its order, it is the one that was announced.
_OF_PARTS = text(f"""
    SELECT count(*) FILTER (WHERE is_announced) AS announced, count(is_announced) AS all FROM (
        SELECT CASE
            WHEN EXISTS (SELECT FROM observations o WHERE o.delivery_id = d.id AND o.source = '{Source.CALLBACK}'
                AND NOT EXISTS (SELECT FROM observations p WHERE p.delivery_id = d.id AND p.source = '{Source.POLL}'
                    AND p.first_seen_at < o.first_seen_at - make_interval(secs => :late)
                    AND p.facts ->> 'status' = ANY(:final))) THEN true
            WHEN d.first_seen_at >= t.announced_at AND EXISTS (SELECT FROM observations p
                WHERE p.delivery_id = d.id AND p.source = '{Source.POLL}' AND p.first_seen_at <= d.first_seen_at
                  AND coalesce(p.facts ->> 'status', d.status) = ANY(:final))
                THEN CASE WHEN t.expected = 1 THEN true END
            ELSE false END AS is_announced
        FROM tracked_ids t
        JOIN delivery_status d ON d.account_id = t.account_id AND d.parent_key = t.value
             AND d.granularity = '{Granularity.MESSAGE}' AND d.is_final
        WHERE {_CLOSED} LIMIT {MAX_COUNTED}) AS ended
""")
_FINAL = [status.value for status in Status if is_final(status)]
# A list states of a whole how many of its messages have ended, and how.
_COUNTED = text(f"""
    SELECT t.id_kind, t.value FROM tracked_ids t
    JOIN jsonb_to_recordset(CAST(:rows AS jsonb)) AS g(id_kind text, value text) USING (id_kind, value)
    JOIN delivery_status o ON o.account_id = t.account_id AND o.granularity = '{Granularity.ORDER}'
         AND o.provider_key = t.value
    CROSS JOIN LATERAL (
        SELECT count(*) AS of_all, count(*) FILTER (WHERE {_HAS_ENDED} AND d.status <> ALL(:failures)) AS delivered,
            count(*) FILTER (WHERE d.status = ANY(:failures)) AS undelivered
        FROM delivery_status d WHERE d.account_id = t.account_id AND d.parent_key = t.value
          AND d.granularity = '{Granularity.MESSAGE}') known
    WHERE t.account_id = :account_id AND t.last_found_at IS NOT NULL AND t.incomplete_answers = 0
      AND t.answer_fingerprint IS NULL AND known.of_all >= o.total AND known.delivered >= o.delivered
      AND known.undelivered >= o.undelivered
      AND (NOT o.is_final OR known.delivered + known.undelivered = known.of_all)
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Of final states: how many a callback brought before a poll did, and how many a poll had to find."""

    announced: int
    missed: int


def settle(connection: Connection, ids: Sequence[int], kinds: Collection[str]) -> set[int]:
    """Close those of these open ids of which callbacks have brought every message to its end; returns which.

    An id is closed where an answer has shown all its messages, as many as expected, and a callback came after it. The
    moment of the last callback counts as the check that found the id final.
    """
    if not ids or not kinds:
        return set()
    return set(connection.execute(_SETTLE, {"ids": list(ids), "kinds": sorted(kinds)}).scalars())


def known_ends(
    connection: Connection, account_id: str, ids: Collection[tuple[str, str]], kinds: Collection[str]
) -> set[tuple[str, str]]:
    """Those of these (kind, value) of which the whole's own row counts no end that its messages do not show.

    An answer has shown all their messages before. A poll could find nothing that is not stored.
    """
    rows = [{"id_kind": kind, "value": value} for kind, value in sorted(ids) if kind in kinds]
    if not rows:
        return set()
    given = {"account_id": account_id, "rows": json_parameter(rows), "failures": sorted(FAILURES)}
    return {(kind, value) for kind, value in connection.execute(_COUNTED, given)}


def shares(
    connection: Connection,
    account_id: str,
    kind: str,
    *,
    by_parts: bool,
    window: tuple[datetime, datetime],
    factor: float = 1.0,
) -> Shares:
    """Who brought the final states of the ids closed in the window (after, until]; before their validity ended.

    `by_parts`: an id covers several messages, which are counted one by one (`ProviderRecord.settled_by_parts`).
    `factor`: the account's `time_factor`, by which `LATE_SECONDS` is multiplied.
    """
    after, until = window
    given = {"account_id": account_id, "kind": kind, "after": after, "until": until}
    parts = given | {"final": _FINAL, "late": LATE_SECONDS * factor}
    row = connection.execute(*(_OF_PARTS, parts) if by_parts else (_OF_IDS, given)).mappings().one()
    return Shares(announced=row["announced"], missed=row["all"] - row["announced"])
