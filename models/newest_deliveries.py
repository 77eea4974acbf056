"""Deliveries for people: the newest first, by filters or by a few identifiers, a page at a time.

What identifies (numbers, references) is found in its index and counted. Everything else is read in the order of
time, account by account, and no page reads more than `SCANNED_ROWS` rows of all accounts together.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    SelectBase,
    and_,
    func,
    intersect,
    literal_column,
    select,
    tuple_,
    union,
)

from ulak.models.lookups import COLUMNS, about
from ulak.models.tables import delivery_status
from ulak.models.vocabulary import Status

SCANNED_ROWS: Final = 20_000
MIN_SCANNED: Final = 500
"""Of one account, however many there are."""
MAX_IDENTIFIERS: Final = 20_000
"""How many rows of the identifiers of one search are read."""

Place = tuple[datetime, int]
"""Where a page ends: `message_time` and id of its last row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What rows must have; everything given must hold."""

    statuses: Collection[Status] = ()
    reasons: Collection[str] = ()
    granularity: str | None = None
    since: datetime | None = None
    """`message_time` from then …"""
    until: datetime | None = None
    """… and before then."""
    extra: Sequence[ColumnElement[bool]] = ()
    """Further conditions on `delivery_status`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What identifies deliveries; each kind that is given must hold, by any of its words."""

    recipients: Sequence[str] = ()
    """In all their spellings."""
    references: Sequence[str] = ()

    def __bool__(self) -> bool:
        """Whether anything is named."""
        return bool(self.recipients or self.references)


@dataclass(frozen=True, slots=True, kw_only=True)
class Newest:
    """A page, the newest first."""

    rows: Sequence[RowMapping] = field(default_factory=tuple)
    before: Place | None = None
    """Where the next page goes on; None on the last one. A page may have few rows, or none, and still have a next."""
    total: int | None = None
    """How many rows there are in all, where that is known without counting the table; at most `MAX_IDENTIFIERS`."""
    is_capped: bool = False
    """Whether more than `MAX_IDENTIFIERS` rows are named: then the oldest may be missing."""


_TABLE = delivery_status.c
# Rows of before the column get their time within the hour (`ulak.models.sending_time`); identifiers find them before
# that.
_TIME: Final = func.coalesce(_TABLE.message_time, _TABLE.first_seen_at)


def newest_of_accounts(
    connection: Connection, accounts: Sequence[str], filters: Filters, *, limit: int, before: Place | None = None
) -> Newest:
    """The newest rows of these accounts that meet the filters, by `message_time`, then id."""
    scanned = max(MIN_SCANNED, SCANNED_ROWS // max(1, len(accounts)))
    found: list[tuple[datetime, int]] = []
    ends: list[Place] = []
    for account in accounts:
        read = _scan(connection, account, filters, limit=limit, scanned=scanned, before=before)
        found += [(row.message_time, row.id) for row in read if row.is_hit]
        ends += [(row.message_time, row.id) for row in read if row.is_end]
    # Behind the place where the reading of an account has ended, its next rows may come before those of others.
    horizon = max(ends, default=None)
    places = sorted((place for place in found if horizon is None or place >= horizon), reverse=True)
    rows = _rows(connection, [row_id for _, row_id in places[:limit]])
    following = places[limit - 1] if len(places) > limit else horizon
    return Newest(rows=rows, before=following)


def _scan(
    connection: Connection, account: str, filters: Filters, *, limit: int, scanned: int, before: Place | None
) -> Sequence[Any]:
    """(time, id, is_hit, is_end) of the rows that match, and of the last one read where reading has ended early."""
    wanted = [_TABLE.account_id == account, _TABLE.message_time.is_not(None)]
    wanted += [_TABLE.message_time >= filters.since] if filters.since is not None else []
    wanted += [_TABLE.message_time < filters.until] if filters.until is not None else []
    if before is not None:
        wanted.append(tuple_(_TABLE.message_time, _TABLE.id) < tuple_(*before))
    order = (_TABLE.message_time.desc(), _TABLE.id.desc())
    hit = and_(*_conditions(filters)).label("is_hit")
    part = select(_TABLE.message_time, _TABLE.id, hit).where(*wanted).order_by(*order).limit(scanned).subquery()
    newest_first = (part.c.message_time.desc(), part.c.id.desc())
    numbered = select(
        *part.c,
        func.row_number().over(order_by=newest_first).label("nth"),
        func.count().filter(part.c.is_hit).over(order_by=newest_first).label("hits"),
    ).subquery()
    is_end = (numbered.c.nth == scanned).label("is_end")
    query = select(numbered.c.message_time, numbered.c.id, numbered.c.is_hit, is_end)
    return connection.execute(query.where((numbered.c.is_hit & (numbered.c.hits <= limit + 1)) | is_end)).all()


def _conditions(filters: Filters) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = [literal_column("true")]
    if filters.statuses:
        found.append(_TABLE.status.in_([status.value for status in filters.statuses]))
    if filters.reasons:
        found.append(_TABLE.reason.in_(list(filters.reasons)))
    if filters.granularity is not None:
        found.append(_TABLE.granularity == filters.granularity)
    return [*found, *filters.extra]


def _rows(connection: Connection, ids: Sequence[int]) -> list[RowMapping]:
    """The rows of these ids, in this order."""
    rows = connection.execute(select(*COLUMNS).where(_TABLE.id.in_(ids))).mappings()
    by_id = {row["id"]: row for row in rows}
    return [by_id[each] for each in ids if each in by_id]


def newest_named(
    connection: Connection,
    named: Named,
    filters: Filters,
    *,
    accounts: Collection[str] | None,
    limit: int,
    before: Place | None = None,
) -> Newest:
    """The newest rows that the identifiers name and that meet the filters. `accounts`: only of these."""
    # The bound counts rows of these accounts alone: it must not tell how many others there are.
    cte = _named(named, of_accounts(accounts)).limit(MAX_IDENTIFIERS).cte("named").prefix_with("MATERIALIZED")
    wanted = [_TABLE.id.in_(select(next(iter(cte.c)))), *conditions_of(filters)]
    named_rows = select(func.count()).select_from(cte).scalar_subquery()
    counted = select(func.count(), named_rows).select_from(delivery_status).where(*wanted)
    total, found = connection.execute(counted).one()
    if before is not None:
        wanted.append(tuple_(_TIME, _TABLE.id) < tuple_(*before))
    query = select(*COLUMNS).where(*wanted).order_by(_TIME.desc(), _TABLE.id.desc()).limit(limit + 1)
    rows = connection.execute(query).mappings().all()
    last = rows[limit - 1] if len(rows) > limit else None
    following = None if last is None else (last["message_time"] or last["first_seen_at"], last["id"])
    return Newest(rows=rows[:limit], before=following, total=total, is_capped=found >= MAX_IDENTIFIERS)


def _named(named: Named, scope: Sequence[ColumnElement[bool]]) -> Any:
    """The ids of the rows that every given kind of identifier names."""
    ways: list[SelectBase] = []
    if named.recipients:
        ways.append(union(*(way.where(*scope) for way in about(list(named.recipients)))))
    if named.references:
        ways.append(select(_TABLE.id).where(_TABLE.client_ref.in_(list(named.references)), *scope))
    return intersect(*ways) if len(ways) > 1 else ways[0]


def of_accounts(accounts: Collection[str] | None) -> list[ColumnElement[bool]]:
    """The condition that a delivery is of one of these accounts; none for None."""
    return [] if accounts is None else [_TABLE.account_id.in_(sorted(accounts))]


def conditions_of(filters: Filters) -> list[ColumnElement[bool]]:
    """What the filters ask of a delivery, where it is found by what names it."""
    found = _conditions(filters)
    found += [filters.since <= _TIME] if filters.since is not None else []
    return found + ([filters.until > _TIME] if filters.until is not None else [])
