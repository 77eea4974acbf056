"""Searches of the shared table and of tracked ids: page by page by filters, and for many identifiers at once.

Each reads an index or a bounded part of the table, however large it is and whatever the filters are.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    SelectBase,
    Table,
    TextClause,
    and_,
    exists,
    intersect,
    or_,
    select,
    text,
    union,
)

from ulak.models.database import json_parameter
from ulak.models.lookups import COLUMNS, LIMIT, about, by_account, by_key
from ulak.models.tables import UNUSUAL_STATUS, USUAL_STATUSES, delivery_status, tracked_ids
from ulak.models.vocabulary import Granularity

SCANNED_ROWS: Final = 50_000
"""How many rows, one after the other, a page of a search reads at most where nothing given has an index of its own."""
SCANNED_OF_STATUS: Final = 5_000
"""The same of the rows with one unusual status, which lie far apart."""
MAX_WAITING: Final = 20_000
Conditions = Callable[[Any], list[ColumnElement[bool]]]
"""What must hold, of the columns of a table or of a part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of a search, in the order of the row ids."""

    rows: Sequence[RowMapping]
    next_after: int | None
    """Where the next page goes on; None on the last one. A page may have few rows, or none, and still have a next."""


def find_deliveries(
    connection: Connection,
    *,
    account: str | None = None,
    accounts: Collection[str] | None = None,
    status: str | None = None,
    granularity: str | None = None,
    recipient: str | Sequence[str] | None = None,
    client_ref: str | None = None,
    provider_key: str | Sequence[str] | None = None,
    parent_key: str | Sequence[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = LIMIT,
    after_id: int = 0,
) -> Page:
    """Rows that match everything given, in the order of their ids.

    `recipient` is E.164 (or a provider's own id of a person), or several spellings of one; `provider_key` and
    `parent_key` may have several forms, too. A conversation is found by either of its people. `since` (inclusive) and
    `until` (exclusive) compare with `changed_at`. `accounts`: only of these.

    A recipient, reference, key or parent is found in its index; without any of them a page reads at most
    `SCANNED_ROWS` rows, or `SCANNED_OF_STATUS` of those that have the status, where it is an unusual one.
    """
    table = delivery_status.c
    ways: list[SelectBase] = []
    if recipient is not None:
        ways.append(union(*about(_several(recipient))))
    if client_ref is not None:
        ways.append(select(table.id).where(table.client_ref == client_ref))
    if provider_key is not None:
        ways.append(union(*map(by_key, _several(provider_key))))
    if parent_key is not None:
        ways.append(by_account().where(table.parent_key.in_(_several(parent_key))))

    def conditions(columns: Any) -> list[ColumnElement[bool]]:
        given = ((columns.account_id, account), (columns.status, status), (columns.granularity, granularity))
        found = [column == value for column, value in given if value is not None] + _of(columns, accounts)
        found += [columns.changed_at >= since] if since is not None else []
        return found + ([columns.changed_at < until] if until is not None else [])

    if ways or status is None or status in USUAL_STATUSES:
        return _page(connection, delivery_status, ways, conditions, limit=limit, after_id=after_id)
    # The second condition lets every plan use the index, also one that is made without the parameters.
    of_status = (table.status == status, text(UNUSUAL_STATUS))
    scan = Scan(rows=SCANNED_OF_STATUS, only=of_status)
    return _page(connection, delivery_status, ways, conditions, scan=scan, limit=limit, after_id=after_id)


def find_tracked(
    connection: Connection,
    *,
    account: str | None = None,
    accounts: Collection[str] | None = None,
    kind: str | None = None,
    value: str | Sequence[str] | None = None,
    recipient: str | Sequence[str] | None = None,
    client_ref: str | None = None,
    is_open: bool | None = None,
    limit: int = LIMIT,
    after_id: int = 0,
) -> Page:
    """Tracked ids that match everything given, in the order of their ids.

    `is_open`: still to be polled, or not. `accounts`: only of these.

    A recipient, a reference, and a value with its account and kind are found in their indexes; without any of them a
    page reads at most `SCANNED_ROWS` rows.
    """
    table = tracked_ids.c
    ways: list[SelectBase] = []
    if recipient is not None:
        ways.append(select(table.id).where(table.recipient.in_(_several(recipient))))
    if client_ref is not None:
        ways.append(select(table.id).where(table.client_ref == client_ref))
    if value is not None and account is not None and kind is not None:
        key = (table.account_id == account, table.id_kind == kind, table.value.in_(_several(value)))
        ways.append(select(table.id).where(*key))

    def conditions(columns: Any) -> list[ColumnElement[bool]]:
        given = ((columns.account_id, account), (columns.id_kind, kind))
        found = [column == each for column, each in given if each is not None]
        found += [] if value is None else [columns.value.in_(_several(value))]
        states = {None: [], True: [columns.closed_at.is_(None)], False: [columns.closed_at.is_not(None)]}
        return found + states[is_open] + _of(columns, accounts)

    return _page(connection, tracked_ids, ways, conditions, limit=limit, after_id=after_id)


def _several(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


def _of(columns: Any, accounts: Collection[str] | None) -> list[ColumnElement[bool]]:
    return [] if accounts is None else [columns.account_id.in_(sorted(accounts))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """How a page is found that no index leads to."""

    rows: int
    """How many it reads at most,"""
    only: Sequence[ColumnElement[bool] | TextClause] = ()
    """of those that meet these conditions, which have an index in the order of the ids."""


def _page(
    connection: Connection,
    table: Table,
    ways: Sequence[SelectBase],
    conditions: Conditions,
    *,
    scan: Scan | None = None,
    limit: int,
    after_id: int,
) -> Page:
    """The next rows after `after_id` that are found in every one of `ways` and meet the conditions.

    Without a way they are looked for in a part of the table: by default the next `SCANNED_ROWS` rows.
    """
    scan = scan or Scan(rows=SCANNED_ROWS)
    columns = [column for column in table.c if column.name != "changed_in"]
    following = select(*columns).where(table.c.id > after_id).order_by(table.c.id)
    if ways:
        # Made first, or a plan might walk through the table by its ids instead.
        named = (intersect(*ways) if len(ways) > 1 else ways[0]).cte("named").prefix_with("MATERIALIZED")
        query = following.where(table.c.id.in_(select(next(iter(named.c)))), *conditions(table.c)).limit(limit)
    else:
        part = following.where(*scan.only).limit(scan.rows).subquery()
        query = select(part).where(*conditions(part.c)).order_by(part.c.id).limit(limit)
    rows = connection.execute(query).mappings().all()
    if len(rows) == limit or ways:
        return Page(rows=rows, next_after=rows[-1]["id"] if len(rows) == limit else None)
    last = select(table.c.id).where(table.c.id > after_id, *scan.only).order_by(table.c.id)
    last = last.offset(scan.rows - 1).limit(1)
    return Page(rows=rows, next_after=connection.execute(last).scalar_one_or_none())


def open_tracked(
    connection: Connection,
    *,
    account: str | None = None,
    accounts: Collection[str] | None = None,
    recipient: str | Sequence[str] | None = None,
    client_ref: str | Sequence[str] | None = None,
    limit: int = LIMIT,
    after_id: int = 0,
) -> Sequence[RowMapping]:
    """Ids that senders registered and no provider has answered for yet: people see them as open deliveries.

    With `closed_at` set, they are not polled any more; they stay unanswered. In the order of their ids. `accounts`:
    only of these.
    """
    table = tracked_ids.c
    same_ref = and_(
        delivery_status.c.account_id == table.account_id,
        delivery_status.c.client_ref == table.client_ref,
        or_(table.recipient.is_(None), delivery_status.c.recipient == table.recipient),
    )
    wanted = [table.id > after_id, table.origin == "sender", table.last_found_at.is_(None), ~exists().where(same_ref)]
    wanted += _of(table, accounts)
    if account is not None:
        wanted.append(table.account_id == account)
    for column, given in ((table.recipient, recipient), (table.client_ref, client_ref)):
        if given is not None:
            wanted.append(column.in_(_several(given)))
    query = select(tracked_ids).where(and_(*wanted)).order_by(table.id).limit(limit)
    return connection.execute(query).mappings().all()


class Identifier(StrEnum):
    """By what a delivery may be looked up."""

    CLIENT_REF = "client_ref"
    PROVIDER_KEY = "provider_key"
    RECIPIENT = "recipient"


def _each(by: str, condition: str) -> str:
    """Rows for each asked word, from their index: whatever the planner believes, it can only look up row by row."""
    return f"""
        SELECT a.place, d.id, d.account_id FROM asked a {by} CROSS JOIN LATERAL (
            SELECT id, account_id FROM delivery_status WHERE {condition} OFFSET 0
        ) d"""


_OF_ACCOUNTS = "CROSS JOIN accounts c"
_GRANULARITIES = ", ".join(f"'{word.value}'" for word in Granularity)
_OF_KEYS = f"{_OF_ACCOUNTS} CROSS JOIN unnest(ARRAY[{_GRANULARITIES}]) AS g(word)"
_WAYS: Final[Mapping[Identifier, str]] = {
    Identifier.CLIENT_REF: _each("", "client_ref = a.value"),
    Identifier.PROVIDER_KEY: _each(_OF_KEYS, "account_id = c.id AND granularity = g.word AND provider_key = a.value"),
    Identifier.RECIPIENT: _each("", "recipient = a.value")
    + " UNION "
    + _each(
        _OF_ACCOUNTS,
        f"account_id = c.id AND parent_key = a.value AND granularity = '{Granularity.CONVERSATION.value}'",
    ),
}
_LOOK_UP: Final = {
    by: text(f"""
        WITH asked AS MATERIALIZED (
            SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(place integer, value text)
        ), found AS MATERIALIZED ({way}
        ), ranked AS (
            SELECT place, id, row_number() OVER (PARTITION BY place ORDER BY id DESC) AS nth FROM found
            WHERE CAST(:accounts AS text[]) IS NULL OR account_id = ANY(CAST(:accounts AS text[]))
        )
        SELECT r.place, {", ".join(f"d.{column.name}" for column in COLUMNS)}
        FROM ranked r CROSS JOIN LATERAL (SELECT * FROM delivery_status WHERE id = r.id OFFSET 0) d
        WHERE r.nth <= :most ORDER BY r.place, d.id DESC
    """)
    for by, way in _WAYS.items()
}


def look_up(
    connection: Connection,
    by: Identifier,
    asked: Sequence[Sequence[str]],
    *,
    accounts: Collection[str] | None = None,
    most: int,
) -> list[list[Mapping[str, Any]]]:
    """For each of `asked`, the newest deliveries that it identifies, at most `most`: one statement for all.

    Each is given in all its spellings: a number may have several. Every identifier is found in its index. `accounts`:
    only of these.
    """
    rows = [{"place": place, "value": value} for place, spellings in enumerate(asked) for value in spellings]
    of_these = None if accounts is None else sorted(accounts)
    parameters = {"rows": json_parameter(rows), "accounts": of_these, "most": most}
    found: list[list[Mapping[str, Any]]] = [[] for _ in asked]
    for row in connection.execute(_LOOK_UP[by], parameters).mappings():
        found[row["place"]].append({column.name: row[column.name] for column in COLUMNS})
    return found


def waiting_for(
    connection: Connection, by: Identifier, asked: Sequence[Sequence[str]], *, accounts: Collection[str] | None = None
) -> dict[str, list[RowMapping]]:
    """Registered ids without a report (`open_tracked`), by the reference or number that was asked for.

    No provider's key is known of them.
    """
    if by is Identifier.PROVIDER_KEY:
        return {}
    words = sorted({word for spellings in asked for word in spellings})
    references = words if by is Identifier.CLIENT_REF else None
    people = words if by is Identifier.RECIPIENT else None
    found: dict[str, list[RowMapping]] = {}
    for row in open_tracked(connection, accounts=accounts, client_ref=references, recipient=people, limit=MAX_WAITING):
        found.setdefault(row[by.value], []).append(row)
    return found
