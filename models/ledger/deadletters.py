"""Dead letters: fetches that were given up, one for each cause, shown to people until it is gone.

A cause is an error of an account, for its lists or for its ids. The latest fetch that it struck is the dead letter: it
counts the others (`times`) and remembers what is unread because of it (`subjects`: the days of list windows, or tracked
ids), and the others become `cancelled`. Days that a later sweep reads whole and ids that a later fetch reads are taken
off; a dead letter without any left is `cancelled` as well.

A dead fetch is never revived itself: its poll has ended, and a page or a batch cut out of its walk would be judged
alone. What it asked for is asked again by a new poll; the row is then `cancelled`, with the reason.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, func, select, text

from ulak.models.keys import split_key
from ulak.models.tables import fetches
from ulak.models.tracked import TrackedId, open_among, open_named


def list_dead(
    connection: Connection, *, account: str | None = None, limit: int = 100, before_id: int | None = None
) -> Sequence[RowMapping]:
    """Dead letters, the newest first: where, when, why and how often; never parameters, which may hold numbers.

    `subjects`: how many days or ids are unread; None for those of the previous version.
    """
    table = fetches.c
    columns = (table.id, table.account_id, table.poll_id, table.kind, table.label, table.attempts, table.claims)
    counted = (table.times, func.cardinality(table.subjects).label("subjects"), table.first_failed_at)
    query = select(*columns, *counted, table.last_error, table.created_at, table.finished_at)
    query = query.where(table.state == "dead")
    if account is not None:
        query = query.where(table.account_id == account)
    if before_id is not None:
        query = query.where(table.id < before_id)
    return connection.execute(query.order_by(table.id.desc()).limit(limit)).mappings().all()


def account_of_fetch(connection: Connection, fetch_id: int) -> str | None:
    """The account of a fetch; None where there is no such fetch."""
    return connection.execute(select(fetches.c.account_id).where(fetches.c.id == fetch_id)).scalar_one_or_none()


_COUNTED = "Counted in fetch"
# An id that somebody noted down may have been counted in a later fetch since.
_LOCK_DEAD = text(f"""
    SELECT f.id, f.account_id, f.params, f.subjects
    FROM fetches f JOIN fetches asked ON asked.id = :fetch_id AND f.account_id = asked.account_id
    WHERE f.state = 'dead' AND (f.id = asked.id OR (
        asked.state = 'cancelled' AND starts_with(asked.last_error, '{_COUNTED}') AND asked.subjects && f.subjects
        AND right(asked.last_error, length(f.last_error)) = f.last_error))
    ORDER BY f.id DESC LIMIT 1 FOR NO KEY UPDATE OF f
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A dead letter, and what it leaves unread."""

    id: int
    account_id: str
    params: Mapping[str, Any] = field(repr=False)
    subjects: Sequence[str] | None
    """None of those of the previous version."""


def lock_dead(connection: Connection, fetch_id: int) -> DeadLetter | None:
    """A dead letter by its id or that of a fetch that it counts, locked; None where there is none (any more)."""
    row = connection.execute(_LOCK_DEAD, {"fetch_id": fetch_id}).mappings().one_or_none()
    return None if row is None else DeadLetter(**row)


MAX_SUBJECTS = 1000
"""A dead letter that holds so many ids takes no more; the next one begins."""


def _days(around: int = 0) -> str:
    """SQL for the days of the window of a fetch `f` as text, with so many before and after."""
    first, last = (f"CAST(f.params -> 'window' ->> {end} AS date)" for end in (0, 1))
    return f"""ARRAY(SELECT to_char(day, 'YYYY-MM-DD')
        FROM generate_series({first} - {around}, {last} + {around}, interval '1 day') AS day)"""


# Rows of the previous version have no subjects; those of a window are known by its days.
_SUBJECTS = f"coalesce(f.subjects, CASE WHEN f.params ? 'window' THEN {_days()} END)"
_COUNT = text(f"""
    WITH mine AS MATERIALIZED (
        SELECT f.id, f.account_id, f.last_error, f.finished_at, f.params ? 'window' AS is_window,
               CASE WHEN f.params ? 'window' THEN {_days()}
                    ELSE ARRAY(SELECT 'id:' || t.id FROM tracked_ids t WHERE t.fetch_id = f.id) END AS subjects,
               -- Windows that overlap or follow one another are one stretch of days, to be read again in one.
               CASE WHEN f.params ? 'window' THEN {_days(around=1)} END AS near
        FROM fetches f WHERE f.id = :fetch_id
    ), earlier AS MATERIALIZED (
        SELECT f.id, f.times, {_SUBJECTS} AS subjects, coalesce(f.first_failed_at, f.finished_at) AS first_failed_at
        FROM fetches f JOIN mine USING (account_id, last_error)
        WHERE f.state = 'dead' AND f.id <> mine.id AND CASE
            WHEN mine.is_window THEN f.params ? 'window' AND {_SUBJECTS} && mine.near
            ELSE NOT f.params ? 'window' AND cardinality(f.subjects) < :most END
        ORDER BY f.id FOR NO KEY UPDATE OF f SKIP LOCKED
    ), counted AS (
        UPDATE fetches f SET state = 'cancelled', subjects = earlier.subjects,
            last_error = concat('{_COUNTED} ', mine.id, '; before: ', f.last_error)
        FROM earlier, mine WHERE f.id = earlier.id
    )
    UPDATE fetches f SET
        subjects = ARRAY(SELECT unnest(mine.subjects) UNION SELECT unnest(earlier.subjects) FROM earlier ORDER BY 1),
        times = 1 + coalesce((SELECT sum(times) FROM earlier), 0),
        first_failed_at = least(f.finished_at, (SELECT min(first_failed_at) FROM earlier))
    FROM mine WHERE f.id = mine.id
""")


def count_dead(connection: Connection, fetch_id: int) -> None:
    """Make a fetch that has just died, and still holds its ids, the dead letter of its cause."""
    connection.execute(_COUNT, {"fetch_id": fetch_id, "most": MAX_SUBJECTS})


_CLEAR = text(f"""
    WITH read AS MATERIALIZED (
        SELECT f.id, ARRAY(SELECT each FROM unnest({_SUBJECTS}) AS each WHERE each <> ALL(:subjects)) AS rest
        FROM fetches f
        WHERE f.account_id = :account_id AND f.state = 'dead' AND f.finished_at <= :asked_at
          AND {_SUBJECTS} && CAST(:subjects AS text[])
        ORDER BY f.id FOR NO KEY UPDATE OF f SKIP LOCKED
    )
    UPDATE fetches f SET subjects = read.rest,
        state = CASE WHEN read.rest = '{{}}' THEN 'cancelled' ELSE f.state END,
        last_error = CASE WHEN read.rest = '{{}}' THEN concat('Cleared by a later success; before: ', f.last_error)
                          ELSE f.last_error END
    FROM read WHERE f.id = read.id
""")


def clear_dead(connection: Connection, account_id: str, subjects: Sequence[str], asked_at: datetime) -> None:
    """Take off what a call of `asked_at` has read from dead letters that are older; those left with nothing go."""
    if subjects:
        parameters = {"account_id": account_id, "subjects": list(subjects), "asked_at": asked_at}
        connection.execute(_CLEAR, parameters)


def subjects_of_ids(ids: Iterable[int]) -> list[str]:
    """Tracked ids as subjects of a dead letter."""
    return [f"id:{tracked_id}" for tracked_id in ids]


def subjects_of_window(first: date, last: date) -> list[str]:
    """The days of a window as subjects of a dead letter."""
    return [(first + timedelta(days=day)).isoformat() for day in range((last - first).days + 1)]


def window_of_subjects(dead: DeadLetter) -> tuple[date, date]:
    """The stretch of days that a dead letter of a list window leaves unread."""
    days = dead.subjects or dead.params["window"]
    return date.fromisoformat(min(days)), date.fromisoformat(max(days))


def open_subjects(connection: Connection, dead: DeadLetter) -> Sequence[TrackedId]:
    """The ids that a dead letter leaves unread and that are still open."""
    if not dead.subjects:
        return open_ids_of(connection, dead.account_id, dead.params)
    return open_among(connection, dead.account_id, [int(each.removeprefix("id:")) for each in dead.subjects])


def open_ids_of(connection: Connection, account_id: str, params: Mapping[str, Any]) -> Sequence[TrackedId]:
    """The ids that an ended fetch with these parameters asked for and that are still open.

    A fetch lets go of its ids when it ends, so they are known by its parameters: an id whose value, or each part of
    it, stands there. Where none does, all ids with that first part are given, and the whole (a send) with them.
    """
    words = _words(params)
    found = open_named(connection, account_id, words)
    parts = [each for each in found if not each.is_whole]
    return [each for each in parts if each.value in words or words.issuperset(split_key(each.value))] or found


def _words(value: Any) -> set[str]:
    """Every text and number within JSON data."""
    if isinstance(value, dict):
        return {word for item in value.values() for word in _words(item)}
    if isinstance(value, list):
        return {word for item in value for word in _words(item)}
    return {str(value)} if isinstance(value, str | int) and not isinstance(value, bool) else set()


_PUT_AWAY = text("""
    UPDATE fetches SET state = 'cancelled', last_error = concat(CAST(:why AS text), '; before: ', last_error)
    WHERE id = :fetch_id AND state = 'dead'
""")


def put_away(connection: Connection, fetch_id: int, why: str) -> None:
    """Take a dead fetch off the list; its poll keeps counting it as dead."""
    connection.execute(_PUT_AWAY, {"fetch_id": fetch_id, "why": why})
