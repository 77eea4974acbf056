"""Readers of the shared table, for the command line and the HTTP API. Nothing here writes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, RowMapping, Select, select, text, union

from ulak.models.facts import Facts
from ulak.models.history import ROW_OF_ONLY, restore
from ulak.models.merge import KEY_PARTS, KEYS, Observation, find_contradictions, rank, winners
from ulak.models.tables import accounts, delivery_status, observations
from ulak.models.vocabulary import Granularity, Source

LIMIT = 100
MAX_ID = 2**63 - 1
_MAX_ID_DIGITS = len(str(MAX_ID))

COLUMNS = [column for column in delivery_status.c if column.name != "changed_in"]


def find_delivery(connection: Connection, delivery_id: int) -> RowMapping | None:
    """One row by its id."""
    found = connection.execute(select(*COLUMNS).where(delivery_status.c.id == delivery_id))
    return found.mappings().one_or_none()


def find_by_any(
    connection: Connection,
    ident: str,
    *,
    people: Sequence[str] = (),
    keys: Sequence[str] = (),
    only: Sequence[ColumnElement[bool]] = (),
    limit: int = LIMIT,
) -> Sequence[RowMapping]:
    """Rows that somebody may mean by `ident`: a row id, provider key, client reference or recipient.

    `people` and `keys` are other forms of it as a recipient and as a key. One identifier may match several rows in
    several ways; all are given, in the order of their ids. `only`: of the rows that meet these conditions.
    """
    table = delivery_status.c
    ways = [
        *map(by_key, dict.fromkeys((ident, *keys))),
        *about([ident, *people]),
        select(table.id).where(table.client_ref == ident),
    ]
    if ident.isascii() and ident.isdigit() and len(ident) <= _MAX_ID_DIGITS and int(ident) <= MAX_ID:
        ways.append(select(table.id).where(table.id == int(ident)))
    # A union of index look-ups; one OR over all of them would read the whole table.
    query = select(*COLUMNS).where(table.id.in_(union(*ways).subquery().select()), *only)
    return connection.execute(query.order_by(table.id).limit(limit)).mappings().all()


def about(people: Sequence[str]) -> tuple[Select[tuple[int]], ...]:
    """Index look-ups of the rows about a person: a recipient, or the other side of a conversation (its `parent_key`).

    To be put into a union: one OR over both would read the whole table.
    """
    table = delivery_status.c
    conversations = by_account().where(
        table.granularity == Granularity.CONVERSATION.value, table.parent_key.in_(people)
    )
    return select(table.id).where(table.recipient.in_(people)), conversations


def by_key(provider_key: str) -> Select[tuple[int]]:
    """Index look-up of the rows with a provider's key."""
    table = delivery_status.c
    granularities = [word.value for word in Granularity]
    return by_account().where(table.granularity.in_(granularities), table.provider_key == provider_key)


def by_account() -> Select[tuple[int]]:
    """Rows of all accounts, one account after the other: the indexes of keys and of parents begin with the account."""
    table = delivery_status.c
    return select(table.id).select_from(accounts.join(delivery_status, table.account_id == accounts.c.id))


_HISTORY = text(f"""
    SELECT {", ".join(f"o.{column.name}" for column in observations.c)}, {ROW_OF_ONLY} AS only_row
    FROM observations o WHERE o.delivery_id = :id ORDER BY o.first_seen_at, o.as_of NULLS FIRST, o.content_hash
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """An observation as it is stored."""

    delivery_id: int
    content_hash: bytes
    source: Source
    as_of: datetime | None
    as_of_last: datetime | None
    provider_time: datetime | None
    first_seen_at: datetime
    facts: dict[str, Any]
    """Of one that the row alone holds: restored from it."""
    statement: dict[str, Any]


def history(connection: Connection, delivery_id: int) -> Sequence[Stated]:
    """Every distinct statement about a delivery, in the order in which we came to know them."""
    return [_stated(dict(row)) for row in connection.execute(_HISTORY, {"id": delivery_id}).mappings()]


def _stated(row: dict[str, Any]) -> Stated:
    only_row = row.pop("only_row")
    facts = msgspec.to_builtins(restore(only_row)) if row["facts"] is None else row["facts"]
    return Stated(**row | {"facts": facts, "source": Source(row["source"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One observation as an explanation shows it."""

    observation: Stated
    place: int
    """Its place in the order in which we came to know them, from 0."""
    key: Mapping[str, Any]
    """The parts of its place in the order, by name; the first part that differs decides."""
    lost_by: str | None
    """The part by which the greatest observation beats it; None for the greatest itself."""
    gave: tuple[str, ...]
    """The fields of the row that come from it (`extra.<name>` for provider fields)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a row is what it is: its observations, the greatest first."""

    delivery: RowMapping
    statements: Sequence[Statement] = field(default_factory=tuple)
    conflicting: tuple[str, ...] = ()
    """The statuses that contradict each other, where `conflict` is set."""


def explain(connection: Connection, delivery_id: int) -> Explanation | None:
    """Every observation of a delivery, its place in the order, and which fields it gave; None without such a row."""
    delivery = find_delivery(connection, delivery_id)
    if delivery is None:
        return None
    granularity = Granularity(delivery["granularity"])
    rows = {row.content_hash: row for row in history(connection, delivery_id)}
    ranked = rank(granularity, [_observation(row) for row in rows.values()])
    if not ranked:
        return Explanation(delivery=delivery)
    gave = _fields_by_observation(granularity, ranked)
    places = {digest: place for place, digest in enumerate(rows)}
    keys = [KEYS[granularity](seen) for seen in ranked]
    statements = [
        Statement(
            observation=rows[seen.content_hash],
            place=places[seen.content_hash],
            key=dict(zip(KEY_PARTS[granularity], key, strict=True)),
            lost_by=_deciding_part(granularity, keys[0], key),
            gave=tuple(gave.get(seen.content_hash, ())),
        )
        for seen, key in zip(ranked, keys, strict=True)
    ]
    conflicting = tuple(sorted(find_contradictions(ranked))) if delivery["conflict"] else ()
    return Explanation(delivery=delivery, statements=statements, conflicting=conflicting)


def _observation(row: Stated) -> Observation:
    return Observation(
        facts=msgspec.convert(row.facts, Facts),
        content_hash=row.content_hash,
        source=row.source,
        as_of=row.as_of,
        as_of_last=row.as_of_last,
        provider_time=row.provider_time,
        statement=row.statement,
    )


def _fields_by_observation(granularity: Granularity, ranked: Sequence[Observation]) -> dict[bytes, list[str]]:
    gave: dict[bytes, list[str]] = {}
    for name, seen in winners(granularity, ranked).items():
        gave.setdefault(seen.content_hash, []).append(name)
    given: set[str] = set()
    for seen in ranked:
        names = [name for name in seen.facts.extra or () if name not in given]
        given.update(names)
        gave.setdefault(seen.content_hash, []).extend(f"extra.{name}" for name in names)
    return gave


def _deciding_part(granularity: Granularity, greatest: Sequence[Any], key: Sequence[Any]) -> str | None:
    parts = zip(KEY_PARTS[granularity], greatest, key, strict=True)
    return next((name for name, more, less in parts if more != less), None)


def deliveries_about(connection: Connection, people: Sequence[str]) -> Sequence[int]:
    """The ids of all rows about a person, given in every spelling."""
    return [row.id for row in connection.execute(union(*about(people)))]
