"""How the previous version (109eeca) writes and reads the history: its statements word for word, around today's merge.

A rolling deploy runs both versions beside each other, and what the previous one stored has to be read rightly forever.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from alembic import command
from sqlalchemy import Connection, Engine

from ulak.models.database import json_parameter, transaction
from ulak.models.facts import Facts
from ulak.models.merge import Observation, fold, merge_history, merge_observation, observe
from ulak.models.report import DeliveryReport
from ulak.models.schema import alembic_config
from ulak.models.vocabulary import Granularity, Source

REVISION = "0010"
"""The schema that it was written for."""

Key = tuple[Granularity, str]
History = dict[bytes, Observation]

COLUMNS = (
    "status, is_final, provider_status, reason, provider_error, conflict, total, delivered, undelivered, waiting,"
    " parent_key, client_ref, recipient, segments, credits, sent_at, done_at, valid_until, extra"
)
RECORD = (
    "status text, is_final boolean, provider_status text, reason text, provider_error text, conflict boolean,"
    " total integer, delivered integer, undelivered integer, waiting integer, parent_key text, client_ref text,"
    " recipient text, segments integer, credits numeric, sent_at timestamptz, done_at timestamptz,"
    " valid_until timestamptz, extra jsonb"
)
VALUES = (
    "r.status, r.is_final, r.provider_status, r.reason, r.provider_error, coalesce(r.conflict, false), r.total,"
    " r.delivered, r.undelivered, r.waiting, r.parent_key, r.client_ref, r.recipient, r.segments, r.credits, r.sent_at,"
    " r.done_at, r.valid_until, coalesce(r.extra, '{}')"
)
STORED = ", ".join(f"d.{name}" for name in COLUMNS.split(", "))
SEEN_COLUMNS = "content_hash, source, as_of, as_of_last, provider_time, facts, statement"
SEEN_RECORD = (
    "content_hash text, source text, as_of timestamptz, as_of_last timestamptz, provider_time timestamptz,"
    " facts jsonb, statement jsonb"
)
SEEN_VALUES = "decode(s.content_hash, 'base64'), s.source, s.as_of, s.as_of_last, s.provider_time, s.facts, s.statement"

PROBE = """
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
INSERT = f"""
WITH r AS MATERIALIZED (
  SELECT * FROM jsonb_to_recordset(%(rows)s::jsonb) AS r(n integer, granularity text, provider_key text, {RECORD})
), inserted AS (
  INSERT INTO delivery_status (account_id, provider, granularity, provider_key, {COLUMNS})
  SELECT %(account)s, %(provider)s, r.granularity, r.provider_key, {VALUES} FROM r ORDER BY r.n
  ON CONFLICT (account_id, granularity, provider_key) DO NOTHING
  RETURNING id, granularity, provider_key
), placed AS MATERIALIZED (
  SELECT r.n, inserted.id FROM r JOIN inserted USING (granularity, provider_key)
), kept AS (
  INSERT INTO observations (delivery_id, {SEEN_COLUMNS})
  SELECT placed.id, {SEEN_VALUES}
  FROM jsonb_to_recordset(%(seen)s::jsonb) AS s(n integer, {SEEN_RECORD}) JOIN placed USING (n)
)
SELECT n FROM placed
"""
LOCK = "SELECT id FROM delivery_status WHERE id = ANY(%(ids)s) ORDER BY id FOR NO KEY UPDATE"
HISTORY = """
SELECT delivery_id, content_hash, source, as_of, as_of_last, provider_time, facts,
       CASE WHEN %(statements)s THEN statement END AS statement
FROM observations WHERE delivery_id = ANY(%(ids)s)
"""
ADVANCE = f"""
WITH kept AS (
  INSERT INTO observations (delivery_id, {SEEN_COLUMNS})
  SELECT s.delivery_id, {SEEN_VALUES}
  FROM jsonb_to_recordset(%(seen)s::jsonb) AS s(delivery_id bigint, {SEEN_RECORD})
  ON CONFLICT (delivery_id, content_hash) DO UPDATE
  SET as_of = excluded.as_of, as_of_last = excluded.as_of_last, source = excluded.source,
      provider_time = excluded.provider_time,
      statement = CASE WHEN excluded.statement = '{{}}' THEN observations.statement ELSE excluded.statement END
)
UPDATE delivery_status d SET ({COLUMNS}) = ROW ({VALUES}), changed_at = clock_timestamp(),
  changed_in = pg_current_xact_id()::text::bigint
FROM jsonb_to_recordset(%(rows)s::jsonb) AS r(id bigint, {RECORD})
WHERE d.id = r.id AND ({STORED}) IS DISTINCT FROM ({VALUES})
RETURNING d.id
"""
DELETE = """
WITH gone AS (DELETE FROM delivery_status WHERE id = ANY(%(ids)s) RETURNING id),
  announced AS (INSERT INTO delivery_erasures (delivery_id) SELECT id FROM gone)
SELECT count(*) FROM gone
"""
EXPLAIN = """
SELECT observations.id, observations.delivery_id, observations.content_hash, observations.source, observations.as_of,
  observations.as_of_last, observations.provider_time, observations.first_seen_at, observations.facts,
  observations.statement
FROM observations WHERE observations.delivery_id = %(id)s ORDER BY observations.first_seen_at, observations.id
"""


def migrate_previous(engine: Engine) -> None:
    """Bring an empty database to the previous version's schema."""
    with transaction(engine) as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, REVISION)


def previous_upsert(
    connection: Connection, account_id: str, reports: Iterable[DeliveryReport], *, asked_at: datetime
) -> tuple[set[Key], set[Key]]:
    """Write reports as the previous version does; the deliveries that are new, and those that advanced."""
    incoming: dict[Key, History] = {}
    for report in reports:
        seen = observe(report, asked_at=asked_at)
        history = incoming.setdefault((report.granularity, report.provider_key), {})
        twin = history.get(seen.content_hash)
        history[seen.content_hash] = seen if twin is None else merge_observation(twin, seen)
    new: set[Key] = set()
    advanced: set[Key] = set()
    unknown: Sequence[Key] = sorted(incoming)
    while unknown:
        fresh, existing = _probe(connection, account_id, unknown, incoming)
        inserted = _insert(connection, account_id, fresh, incoming)
        new |= inserted
        found, moved = _advance(connection, {place: (key[0], incoming[key]) for place, key in existing.items()})
        advanced |= {existing[place] for place in moved}
        unknown = sorted({*fresh} - inserted | {key for place, key in existing.items() if place not in found})
    return new, advanced


def previous_histories(connection: Connection, ids: Sequence[int], *, statements: bool = False) -> dict[int, History]:
    """The history as the previous version reads it; facts that are not stored are an error there, too."""
    histories: dict[int, History] = {}
    for place, digest, source, as_of, as_of_last, provider_time, facts, statement in connection.exec_driver_sql(
        HISTORY, {"ids": list(ids), "statements": statements}
    ):
        histories.setdefault(place, {})[digest] = Observation(
            facts=msgspec.convert(facts, Facts),
            content_hash=digest,
            source=Source(source),
            as_of=as_of,
            as_of_last=as_of_last,
            provider_time=provider_time,
            statement=statement or {},
        )
    return histories


def _probe(
    connection: Connection, account_id: str, keys: Sequence[Key], incoming: Mapping[Key, History]
) -> tuple[list[Key], dict[int, Key]]:
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
    told = connection.exec_driver_sql(PROBE, {"rows": json_parameter(rows), "account": account_id}).all()
    fresh = sorted({keys[place] for place, delivery_id in told if delivery_id is None})
    return fresh, {delivery_id: keys[place] for place, delivery_id in told if delivery_id is not None}


def _insert(connection: Connection, account_id: str, keys: Sequence[Key], incoming: Mapping[Key, History]) -> set[Key]:
    if not keys:
        return set()
    parameters = {"account": account_id, "provider": "vairo", **insert_parameters(keys, incoming)}
    return {keys[place] for (place,) in connection.exec_driver_sql(INSERT, parameters)}


def insert_parameters(keys: Sequence[Key], incoming: Mapping[Key, History]) -> dict[str, str]:
    """`rows` and `seen` of INSERT."""
    rows = [
        {"n": place, "granularity": key[0], "provider_key": key[1], **_row(key[0], incoming[key])}
        for place, key in enumerate(keys)
    ]
    seen = [{"n": place, **_columns(one)} for place, key in enumerate(keys) for one in incoming[key].values()]
    return {"rows": json_parameter(rows), "seen": json_parameter(seen)}


def _row(granularity: Granularity, history: History) -> dict[str, Any]:
    row: dict[str, Any] = msgspec.to_builtins(fold(granularity, history.values()))
    return row


def _columns(seen: Observation) -> dict[str, Any]:
    return {name: getattr(seen, name) for name in SEEN_COLUMNS.split(", ")}


def _advance(connection: Connection, said: Mapping[int, tuple[Granularity, History]]) -> tuple[set[int], set[int]]:
    if not said:
        return set(), set()
    found = list(connection.exec_driver_sql(LOCK, {"ids": list(said)}).scalars())
    stored = previous_histories(connection, found)
    rows: list[dict[str, Any]] = []
    seen: list[dict[str, Any]] = []
    for place in found:
        granularity, heard = said[place]
        known = stored.get(place, {})
        whole = merge_history([*known.values(), *heard.values()])
        rows.append({"id": place, **_row(granularity, whole)})
        for one in whole.values():
            old = known.get(one.content_hash)
            if old is None or (old.as_of, old.as_of_last) != (one.as_of, one.as_of_last):
                seen.append({"delivery_id": place, **_columns(one)})
    parameters = {"rows": json_parameter(rows), "seen": json_parameter(seen)}
    return set(found), set(connection.exec_driver_sql(ADVANCE, parameters).scalars())
