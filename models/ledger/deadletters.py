"""Fetches that were given up: shown to people, and put away once they are asked again.

A dead fetch is never revived itself: its poll has ended, and a page or a batch cut out of its walk would be judged
alone. What it asked for is asked again by a new poll; the row is then `cancelled`, with the reason.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, select, text

from models.keys import split_key
from models.tables import fetches


def list_dead(
    connection: Connection, *, account: str | None = None, limit: int = 100, before_id: int | None = None
) -> Sequence[RowMapping]:
    """Dead fetches, the newest first: where, when and why; never their parameters, which may hold numbers."""
    table = fetches.c
    columns = (table.id, table.account_id, table.poll_id, table.kind, table.label, table.attempts, table.claims)
    query = select(*columns, table.last_error, table.created_at, table.finished_at).where(table.state == "dead")
    if account is not None:
        query = query.where(table.account_id == account)
    if before_id is not None:
        query = query.where(table.id < before_id)
    return connection.execute(query.order_by(table.id.desc()).limit(limit)).mappings().all()


def account_of_fetch(connection: Connection, fetch_id: int) -> str | None:
    """The account of a fetch; None where there is no such fetch."""
    return connection.execute(select(fetches.c.account_id).where(fetches.c.id == fetch_id)).scalar_one_or_none()


def lock_dead(connection: Connection, fetch_id: int) -> RowMapping | None:
    """A dead fetch, locked until the transaction ends; None where there is none (any more)."""
    query = select(fetches).where(fetches.c.id == fetch_id, fetches.c.state == "dead").with_for_update(key_share=True)
    return connection.execute(query).mappings().one_or_none()


_OPEN_IDS = text("""
    SELECT * FROM tracked_ids
    WHERE account_id = :account_id AND closed_at IS NULL
      AND (value = ANY(:words) OR split_part(value, ':', 1) = ANY(:words))
    ORDER BY id
""")


def open_ids_of(connection: Connection, account_id: str, params: Mapping[str, Any]) -> list[RowMapping]:
    """The ids that an ended fetch with these parameters asked for and that are still open.

    A fetch lets go of its ids when it ends, so they are known by its parameters: an id whose value, or each part of
    it, stands there. Where none does, all ids with that first part are given, and the whole (a send) with them.
    """
    words = _words(params)
    parameters = {"account_id": account_id, "words": sorted(words)}
    found = connection.execute(_OPEN_IDS, parameters).mappings().all()
    parts = [row for row in found if row["whole"] is None or row["whole"] != row["value"]]
    exact = [row for row in parts if row["value"] in words or words.issuperset(split_key(row["value"]))]
    return exact or list(found)


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
