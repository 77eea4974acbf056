"""The only writer of statuses: reports go in, the shared table and its history come out.

How a batch is written, and why nobody can be hurt by another doing the same:

1. Equal keys are folded in Python and sorted; one SELECT finds what is not known yet. A batch that tells nothing new
   ends there: no row lock, no transaction id, no byte of WAL.
2. Deliveries believed new are inserted, in key order, with their history, in one statement that yields to whoever
   inserted them first; those are looked up again and treated as existing.
3. Existing deliveries are locked in order of their ids, then (a new statement sees what the last holder committed)
   their whole history is loaded, folded with what came in, and written: orders first, for messages may take their time
   from them (`models.sending_time`), then the rest. With them those messages whose order came with another time.

A transaction waits for others' uncommitted inserts only in step 2 and for row locks only in step 3, each in one order
for all, so two batches cannot wait for each other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection

from core.metrics import SIZES, histogram
from models import sending_time
from models.database import json_parameter
from models.merge import (
    ROW_FIELDS,
    Observation,
    content_hash,
    fold_values,
    merge_history,
    merge_observation,
    observe,
    rank,
)
from models.report import DeliveryReport
from models.storable import clean_key
from models.vocabulary import Granularity, Source

Key = tuple[Granularity, str]
"""(granularity, provider_key): names a delivery within its account."""
History = dict[bytes, Observation]
"""Observations of one delivery by content hash."""

LOOKUPS = 5
"""How often a batch looks again for deliveries that others inserted or erased under its hands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpsertResult:
    """What a batch of reports changed, counted in distinct deliveries."""

    new: int = 0
    """Rows inserted."""
    advanced: int = 0
    """Rows of which a column changed."""
    unchanged: int = 0
    """The rest, whether or not a further observation was kept."""
    changed: frozenset[Key] = frozenset()
    """New and advanced deliveries."""


_SECONDS = histogram("ulak_upsert_seconds", "Writing one batch of reports, without its commit.")
_REPORTS = histogram("ulak_upsert_deliveries", "Distinct deliveries of one batch of reports.", bounds=SIZES)

_COLUMN_TYPES = {
    "is_final": "boolean",
    "conflict": "boolean",
    **dict.fromkeys(("total", "delivered", "undelivered", "waiting", "segments"), "integer"),
    "credits": "numeric",
    **dict.fromkeys(("sent_at", "done_at", "valid_until"), "timestamptz"),
    "extra": "jsonb",
}
_NOT_NULL = {"conflict": "coalesce(r.conflict, false)", "extra": "coalesce(r.extra, '{}')"}
_COLUMNS = ", ".join(ROW_FIELDS)
_RECORD = ", ".join(f"{name} {_COLUMN_TYPES.get(name, 'text')}" for name in ROW_FIELDS)
_VALUES = ", ".join(_NOT_NULL.get(name, f"r.{name}") for name in ROW_FIELDS)
_STORED = ", ".join(f"d.{name}" for name in ROW_FIELDS)
_SEEN_COLUMNS = "content_hash, source, as_of, as_of_last, provider_time, facts, statement"
_SEEN_RECORD = (
    "content_hash text, source text, as_of timestamptz, as_of_last timestamptz, provider_time timestamptz,"
    " facts jsonb, statement jsonb"
)
_SEEN_VALUES = (
    "decode(s.content_hash, 'base64'), s.source, s.as_of, s.as_of_last, s.provider_time, s.facts, s.statement"
)

# A report is known when its statement is stored with a time that this one does not move. LATERAL with LIMIT: whatever
# the planner believes about the size of the tables, it can only walk the two unique indexes.
_PROBE = """
SELECT p.n, d.id
FROM jsonb_to_recordset(%(rows)s::jsonb)
  AS p(n integer, granularity text, provider_key text, content_hash text, as_of timestamptz, as_of_last timestamptz)
LEFT JOIN LATERAL (
  SELECT id FROM delivery_status
  WHERE account_id = %(account)s AND granularity = p.granularity AND provider_key = p.provider_key LIMIT 1
) d ON true
LEFT JOIN LATERAL (
  SELECT true AS found, as_of, as_of_last FROM observations
  WHERE delivery_id = d.id AND content_hash = decode(p.content_hash, 'base64') LIMIT 1
) o ON true
WHERE o.found IS NULL OR NOT (
  (o.as_of IS NULL OR coalesce(p.as_of >= o.as_of, false))
  AND (p.as_of_last IS NULL OR coalesce(p.as_of_last <= o.as_of_last, false))
)
"""

_INSERT = f"""
WITH r AS MATERIALIZED (
  SELECT * FROM jsonb_to_recordset(%(rows)s::jsonb) AS r(n integer, granularity text, provider_key text, {_RECORD})
), inserted AS (
  INSERT INTO delivery_status (account_id, provider, granularity, provider_key, {_COLUMNS}, {sending_time.COLUMNS})
  SELECT %(account)s, %(provider)s, r.granularity, r.provider_key, {_VALUES}, {sending_time.NEW_VALUES}
  FROM r {sending_time.OF_NEW} ORDER BY r.n
  ON CONFLICT (account_id, granularity, provider_key) DO NOTHING
  RETURNING id, granularity, provider_key
), placed AS MATERIALIZED (
  SELECT r.n, inserted.id FROM r JOIN inserted USING (granularity, provider_key)
), kept AS (
  INSERT INTO observations (delivery_id, {_SEEN_COLUMNS})
  SELECT placed.id, {_SEEN_VALUES}
  FROM jsonb_to_recordset(%(seen)s::jsonb) AS s(n integer, {_SEEN_RECORD}) JOIN placed USING (n)
)
SELECT n FROM placed
"""

_LOCK = "SELECT id FROM delivery_status WHERE id = ANY(%(ids)s) ORDER BY id FOR NO KEY UPDATE"

_HISTORY = """
SELECT delivery_id, content_hash, source, as_of, as_of_last, provider_time, facts,
       CASE WHEN %(statements)s THEN statement END AS statement
FROM observations WHERE delivery_id = ANY(%(ids)s)
"""

_DROP_OBSERVATIONS = """
DELETE FROM observations o
USING jsonb_to_recordset(%(rows)s::jsonb) AS r(delivery_id bigint, content_hash text)
WHERE o.delivery_id = r.delivery_id AND o.content_hash = decode(r.content_hash, 'base64')
"""

# The columns are compared, so that an observation that changes nothing in the row leaves the row alone.
_ADVANCE = f"""
WITH kept AS (
  INSERT INTO observations (delivery_id, {_SEEN_COLUMNS})
  SELECT s.delivery_id, {_SEEN_VALUES}
  FROM jsonb_to_recordset(%(seen)s::jsonb) AS s(delivery_id bigint, {_SEEN_RECORD})
  ON CONFLICT (delivery_id, content_hash) DO UPDATE
  SET as_of = excluded.as_of, as_of_last = excluded.as_of_last, source = excluded.source,
      provider_time = excluded.provider_time,
      statement = CASE WHEN excluded.statement = '{{}}' THEN observations.statement ELSE excluded.statement END
)
UPDATE delivery_status d SET ({_COLUMNS}) = ROW ({_VALUES}), ({sending_time.COLUMNS}) = {sending_time.NEXT_VALUES},
  changed_at = clock_timestamp(), changed_in = pg_current_xact_id()::text::bigint
FROM jsonb_to_recordset(%(rows)s::jsonb) AS r(id bigint, {_RECORD})
WHERE d.id = r.id AND (({_STORED}) IS DISTINCT FROM ({_VALUES}) OR {sending_time.MOVES})
RETURNING d.id
"""

_DIFFER = f"""
SELECT d.id FROM jsonb_to_recordset(%(rows)s::jsonb) AS r(id bigint, {_RECORD}) JOIN delivery_status d USING (id)
WHERE ({_STORED}) IS DISTINCT FROM ({_VALUES}) OR {sending_time.MOVES}
"""


def upsert(
    connection: Connection,
    account_id: str,
    provider: str,
    reports: Iterable[DeliveryReport],
    *,
    asked_at: datetime | None,
) -> UpsertResult:
    """Write what a provider said about deliveries of one account, within the caller's transaction.

    `asked_at` is the moment the answer was asked for: the `as_of` of poll reports that carry none. The result in the
    table does not depend on how reports are grouped into batches, on their order, or on repetition. Two batches never
    deadlock; a caller that locks more than this in one transaction runs under `retry_transaction`.
    """
    with _SECONDS.time():
        incoming = _gather(reports, asked_at)
        _REPORTS.observe(len(incoming))
        return _write(connection, account_id, provider, incoming)


def _write(connection: Connection, account_id: str, provider: str, incoming: Mapping[Key, History]) -> UpsertResult:
    """Steps 1 to 3, again for what others inserted or erased meanwhile."""
    keys = sorted(incoming)
    new: set[Key] = set()
    existing: dict[int, Key] = {}
    advanced: set[Key] = set()
    unknown: Sequence[Key] = keys
    for _ in range(LOOKUPS):
        fresh, known = _probe(connection, account_id, unknown, incoming)
        existing.update(known)
        inserted = _insert(connection, account_id, provider, fresh, incoming)
        new.update(inserted)
        unknown = [key for key in fresh if key not in inserted]
        if unknown:
            continue
        dated = _dated_by_orders(connection, account_id, {*inserted, *existing.values()}, incoming)
        said: dict[int, tuple[Granularity, History]] = {place: (Granularity.MESSAGE, {}) for place in dated}
        said |= {place: (key[0], incoming[key]) for place, key in existing.items()}
        found, moved = _advance(connection, said)
        advanced.update(existing[place] for place in moved if place in existing)
        unknown = sorted(key for place, key in existing.items() if place not in found)
        existing.clear()
        if not unknown:
            break
    else:
        raise RuntimeError(f"{len(unknown)} deliveries kept appearing and vanishing while they were written")
    return UpsertResult(
        new=len(new),
        advanced=len(advanced),
        unchanged=len(keys) - len(new) - len(advanced),
        changed=frozenset(new | advanced),
    )


def _dated_by_orders(
    connection: Connection, account_id: str, written: Iterable[Key], incoming: Mapping[Key, History]
) -> set[int]:
    """Messages whose time may move, because one of the orders that are being written came with a sending time."""
    times = {
        key: {at for seen in incoming[granularity, key].values() if (at := seen.facts.get("sent_at")) is not None}
        for granularity, key in written
        if granularity is Granularity.ORDER
    }
    return sending_time.moved_by_orders(connection, account_id, times)


def _gather(reports: Iterable[DeliveryReport], asked_at: datetime | None) -> dict[Key, History]:
    incoming: dict[Key, History] = {}
    for report in reports:
        seen = observe(report, asked_at=asked_at)
        history = incoming.setdefault((report.granularity, clean_key(report.provider_key)), {})
        twin = history.get(seen.content_hash)
        history[seen.content_hash] = seen if twin is None else merge_observation(twin, seen)
    return incoming


def _probe(
    connection: Connection, account_id: str, keys: Sequence[Key], incoming: Mapping[Key, History]
) -> tuple[list[Key], dict[int, Key]]:
    """Which of the keys have no row yet, and which have one to which something new was said; the rest is known."""
    if not keys:
        return [], {}
    rows = [
        {
            "n": place,
            "granularity": key[0],
            "provider_key": key[1],
            "content_hash": seen.content_hash,
            "as_of": seen.as_of,
            "as_of_last": seen.as_of_last,
        }
        for place, key in enumerate(keys)
        for seen in incoming[key].values()
    ]
    told = connection.exec_driver_sql(_PROBE, {"rows": json_parameter(rows), "account": account_id}).all()
    fresh = sorted({keys[place] for place, delivery_id in told if delivery_id is None})
    return fresh, {delivery_id: keys[place] for place, delivery_id in told if delivery_id is not None}


def _insert(
    connection: Connection, account_id: str, provider: str, keys: Sequence[Key], incoming: Mapping[Key, History]
) -> set[Key]:
    """Insert new deliveries with their history; returns those that no other transaction had inserted before."""
    if not keys:
        return set()
    rows = [
        {"n": place, "granularity": key[0], "provider_key": key[1], **fold_values(key[0], incoming[key].values())}
        for place, key in enumerate(keys)
    ]
    seen = [{"n": place, **_columns(one)} for place, key in enumerate(keys) for one in incoming[key].values()]
    parameters = {
        "account": account_id,
        "provider": provider,
        "rows": json_parameter(rows),
        "seen": json_parameter(seen),
    }
    return {keys[place] for (place,) in connection.exec_driver_sql(_INSERT, parameters)}


def _columns(seen: Observation) -> dict[str, Any]:
    return {
        "content_hash": seen.content_hash,
        "source": seen.source,
        "as_of": seen.as_of,
        "as_of_last": seen.as_of_last,
        "provider_time": seen.provider_time,
        "facts": seen.facts,
        "statement": seen.statement,
    }


def _advance(connection: Connection, said: Mapping[int, tuple[Granularity, History]]) -> tuple[set[int], set[int]]:
    """Fold what was said into existing deliveries. Returns the ids that still exist, and those whose row changed."""
    if not said:
        return set(), set()
    found = lock_deliveries(connection, list(said))
    stored = load_histories(connection, found)
    rows: Rows = ([], [])
    seen: list[dict[str, Any]] = []
    for place in found:
        granularity, heard = said[place]
        known = stored.get(place, {})
        whole = merge_history([*known.values(), *heard.values()])
        if not whole:
            continue
        rows[granularity is not Granularity.ORDER].append({"id": place, **fold_values(granularity, whole.values())})
        seen += ({"delivery_id": place, **_columns(one)} for one in whole.values() if _moves(one, known))
    return set(found), _write_rows(connection, rows, seen)


Rows = tuple[list[dict[str, Any]], list[dict[str, Any]]]
"""Rows of orders, and all others."""


def _write_rows(connection: Connection, rows: Rows, seen: Sequence[dict[str, Any]]) -> set[int]:
    """Write what is given of each, orders first; ids whose row changed."""
    written = set[int]()
    for mine in rows:
        if mine:
            parameters = {"rows": json_parameter(mine), "seen": json_parameter(seen)}
            written.update(connection.exec_driver_sql(_ADVANCE, parameters).scalars())
            seen = ()
    return written


def _moves(one: Observation, known: History) -> bool:
    stored = known.get(one.content_hash)
    return stored is None or (stored.as_of, stored.as_of_last) != (one.as_of, one.as_of_last)


_STORED_KEYS = """
SELECT d.granularity, d.provider_key
FROM jsonb_to_recordset(%(rows)s::jsonb) AS p(granularity text, provider_key text)
JOIN delivery_status d ON d.account_id = %(account)s AND d.granularity = p.granularity
  AND d.provider_key = p.provider_key
"""


def stored_keys(connection: Connection, account_id: str, keys: Iterable[Key]) -> set[Key]:
    """Which of the keys have a row; locks nothing."""
    rows = [{"granularity": granularity, "provider_key": key} for granularity, key in keys]
    found = connection.exec_driver_sql(_STORED_KEYS, {"account": account_id, "rows": json_parameter(rows)})
    return {(Granularity(granularity), key) for granularity, key in found}


def refold(connection: Connection, deliveries: Mapping[int, Granularity]) -> set[int]:
    """Write the rows of these deliveries anew from their history, under their locks; returns ids whose row changed."""
    return _advance(connection, {place: (granularity, {}) for place, granularity in deliveries.items()})[1]


def rewrite_histories(
    connection: Connection, histories: Mapping[int, tuple[Granularity, Sequence[Observation]]]
) -> set[int]:
    """Replace the whole history of each delivery, and write the rows that follow from it; ids whose row changed.

    The caller holds the locks of these deliveries (`lock_deliveries`) and has derived the observations from what is
    stored. Observations that became equal are merged into one.
    """
    stored = load_histories(connection, list(histories))
    rows: Rows = ([], [])
    seen: list[dict[str, Any]] = []
    dropped: list[dict[str, Any]] = []
    for place, (granularity, observations) in sorted(histories.items()):
        whole, known = merge_history(observations), stored.get(place, {})
        rows[granularity is not Granularity.ORDER].append({"id": place, **fold_values(granularity, whole.values())})
        seen += ({"delivery_id": place, **_columns(one)} for one in whole.values() if _moves(one, known))
        dropped += ({"delivery_id": place, "content_hash": digest} for digest in known if digest not in whole)
    connection.exec_driver_sql(_DROP_OBSERVATIONS, {"rows": json_parameter(dropped)})
    return _write_rows(connection, rows, seen)


_DELETE = """
WITH gone AS (DELETE FROM delivery_status WHERE id = ANY(%(ids)s) RETURNING id),
  announced AS (INSERT INTO delivery_erasures (delivery_id) SELECT id FROM gone)
SELECT count(*) FROM gone
"""


def delete_deliveries(connection: Connection, ids: Sequence[int]) -> int:
    """Remove these deliveries with their history; returns how many. The feed of changes reports that they are gone."""
    return int(connection.exec_driver_sql(_DELETE, {"ids": list(ids)}).scalar_one())


def lock_deliveries(connection: Connection, ids: Sequence[int]) -> list[int]:
    """Lock these deliveries in the order of all writers; the ids that still exist."""
    return list(connection.exec_driver_sql(_LOCK, {"ids": list(ids)}).scalars())


def restate_with_reference(connection: Connection, given: Mapping[int, tuple[Granularity, str]]) -> set[int]:
    """Keep the greatest statement of each delivery once more, with the sender's reference; ids whose row changed.

    The provider would have said the same had the reference been known, so nothing else of the row changes, and the
    history alone still gives the row.
    """
    if not given:
        return set()
    histories = load_histories(connection, lock_deliveries(connection, list(given)), with_statements=True)
    said: dict[int, tuple[Granularity, History]] = {}
    for place, history in histories.items():
        granularity, reference = given[place]
        greatest = rank(granularity, history.values())[0]
        facts = {**greatest.facts, "client_ref": clean_key(reference)}
        again = msgspec.structs.replace(greatest, facts=facts, content_hash=content_hash(facts))
        said[place] = granularity, {again.content_hash: again}
    return _advance(connection, said)[1]


def load_histories(connection: Connection, ids: Sequence[int], *, with_statements: bool = False) -> dict[int, History]:
    """The stored observations of deliveries, by id and content hash; their raw statements only `with_statements`."""
    histories: dict[int, History] = {}
    for place, digest, source, as_of, as_of_last, provider_time, facts, statement in connection.exec_driver_sql(
        _HISTORY, {"ids": list(ids), "statements": with_statements}
    ):
        histories.setdefault(place, {})[digest] = Observation(
            facts=facts,
            content_hash=digest,
            source=Source(source),
            as_of=as_of,
            as_of_last=as_of_last,
            provider_time=provider_time,
            statement=statement or {},
        )
    return histories


def find_differing(connection: Connection, rows: Mapping[int, Mapping[str, Any]]) -> set[int]:
    """Ids of those deliveries whose stored row is not the given one (as of `fold_values`). Locks and writes nothing.

    Their times are compared, too: with what follows from the given row and the stored one of its order.
    """
    parameters = {"rows": json_parameter([{"id": place, **row} for place, row in rows.items()])}
    return set(connection.exec_driver_sql(_DIFFER, parameters).scalars())
