"""The only writer of statuses: reports go in, the shared table and its history come out.

How a batch is written, and why nobody can be hurt by another doing the same:

1. Equal keys are folded in Python and sorted; one SELECT finds what is not known yet. A batch that tells nothing new
   ends there: no row lock, no transaction id, no byte of WAL. The same SELECT tells whether the account has references
   by key (`ulak.models.references`); only then they are looked up, and the batch again with them.
2. Deliveries believed new are inserted, in key order, with their history, in one statement that yields to whoever
   inserted them first; those are looked up again and treated as existing. Facts that the row says alone are left out
   (`ulak.models.history`).
3. Existing deliveries are locked in order of their ids, then (a new statement sees what the last holder committed)
   their whole history is loaded, folded with what came in, and written: orders first, for messages may take their time
   from them (`ulak.models.sending_time`), then the rest. With them those messages whose order came with another time.

What an erasure forbids to store is left out before all that, and what is older than its account keeps deliveries
(`ulak.models.keeping`) where step 1 has found that something may be new. Step 2 or 3 does nothing where that was judged
by an outdated list of erased people (`ulak.models.suppression`).

A transaction waits for others' uncommitted inserts only in step 2 and for row locks only in step 3, each in one order
for all, so two batches cannot wait for each other.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection

from ulak.core.metrics import SIZES, histogram
from ulak.models import sending_time, suppression
from ulak.models.ages import sent_since
from ulak.models.database import execute, json_parameter
from ulak.models.facts import Facts, content_hash
from ulak.models.history import KEEPS_FACTS, ROW_OF_ONLY, restore, row_says
from ulak.models.merge import (
    FACT_FIELDS,
    ROW_FIELDS,
    Observation,
    fold_encoded,
    merge_history,
    merge_observation,
    observe,
    rank,
)
from ulak.models.report import Report
from ulak.models.sanitize import clean_key
from ulak.models.suppression import NOBODY, Listed, Suppressions
from ulak.models.tracked import HAS_REFERENCES
from ulak.models.vocabulary import Granularity, Source

Key = tuple[Granularity, str]
"""(granularity, provider_key): names a delivery within its account."""
History = dict[bytes, Observation]
"""Observations of one delivery by content hash."""
Complete = Callable[[Sequence[Report]], Iterable[Report]]
"""Gives the same reports with the sender's references filled in (`ulak.models.references`)."""

_ORDER = Granularity.ORDER
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
    """The rest, whether or not a further observation was kept, and those of which an erasure forbids to store any."""
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
_FACTS = ", ".join(f"{name} {_COLUMN_TYPES.get(name, 'text')}" for name in FACT_FIELDS)
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

# Plans are kept while tables grow (decision 8), so none may rest on a table that was small when the plan was made. Of
# the indexes that begin with the account, only that of the key is in the order of keys: asked for a range of one key in
# that order, the planner takes it even where one page makes all indexes look the same, and not that of parents, which
# would be walked from end to end for every key.
_FOUND = """
LEFT JOIN LATERAL (
  SELECT id FROM delivery_status
  WHERE account_id = %(account)s AND granularity = p.granularity
    AND provider_key BETWEEN p.provider_key AND p.provider_key
  ORDER BY provider_key LIMIT 1
) d ON true
"""

# A report is known when its statement is stored with a time that this one does not move.
_PROBE = f"""
SELECT p.n, d.id, {KEEPS_FACTS} AS keeps_facts, {HAS_REFERENCES} AS has_references,
  (SELECT kept_from FROM accounts WHERE id = %(account)s) AS kept_from
FROM jsonb_to_recordset(%(rows)s::jsonb)
  AS p(n integer, granularity text, provider_key text, content_hash text, as_of timestamptz, as_of_last timestamptz)
{_FOUND}
LEFT JOIN LATERAL (
  SELECT true AS found, as_of, as_of_last FROM observations
  WHERE delivery_id = d.id AND content_hash = decode(p.content_hash, 'base64') LIMIT 1
) o ON true
WHERE {suppression.HOLDS_OFF} AND (o.found IS NULL OR NOT (
  (o.as_of IS NULL OR coalesce(p.as_of >= o.as_of, false))
  AND (p.as_of_last IS NULL OR coalesce(p.as_of_last <= o.as_of_last, false))
))
"""


def _given(*columns: str) -> str:
    """SQL: rows that are given in two lists, their facts as they were hashed, and what else belongs to each."""
    others = ", ".join((*columns, "is_final boolean", "conflict boolean"))
    return (
        f"ROWS FROM (jsonb_to_recordset(%(others)s::jsonb) AS ({others}),"
        f" jsonb_to_recordset(%(facts)s::jsonb) AS ({_FACTS}))"
    )


# Ids are drawn first, so that the history needs no join with what was inserted: that all were is one comparison, and
# only where another transaction was first, its deliveries are picked out by a hashed list.
_INSERT = f"""
WITH r AS MATERIALIZED (
  SELECT nextval('delivery_status_id_seq') AS id, r.*, {sending_time.ORDER_OF_NEW}
  FROM {_given("granularity text, provider_key text", f"{_SEEN_RECORD}, further jsonb")} WITH ORDINALITY AS r
), inserted AS (
  INSERT INTO delivery_status (id, account_id, provider, granularity, provider_key, {_COLUMNS}, {sending_time.COLUMNS})
  SELECT r.id, %(account)s, %(provider)s, r.granularity, r.provider_key, {_VALUES}, {sending_time.NEW_VALUES}
  FROM r WHERE {suppression.IS_CURRENT} ORDER BY r.ordinality
  ON CONFLICT (account_id, granularity, provider_key) DO NOTHING
  RETURNING id
), first_seen AS (
  INSERT INTO observations (delivery_id, {_SEEN_COLUMNS})
  SELECT s.id, {_SEEN_VALUES} FROM r s
  WHERE (SELECT count(*) FROM inserted) = (SELECT count(*) FROM r) OR s.id IN (SELECT id FROM inserted)
), further AS (
  INSERT INTO observations (delivery_id, {_SEEN_COLUMNS})
  SELECT r.id, {_SEEN_VALUES} FROM r CROSS JOIN LATERAL jsonb_to_recordset(r.further) AS s({_SEEN_RECORD})
  WHERE (SELECT count(*) FROM inserted) = (SELECT count(*) FROM r) OR r.id IN (SELECT id FROM inserted)
)
SELECT ordinality FROM r
WHERE (SELECT count(*) FROM inserted) < (SELECT count(*) FROM r) AND NOT id IN (SELECT id FROM inserted)
"""

_LOCK = "SELECT id FROM delivery_status WHERE id = ANY(%(ids)s) ORDER BY id FOR NO KEY UPDATE"
_LOCK_CURRENT = _LOCK.replace(" ORDER", f" AND {suppression.IS_CURRENT} ORDER")

_HISTORY = f"""
SELECT delivery_id, content_hash, source, as_of, as_of_last, provider_time, first_seen_at, facts::text,
       CASE WHEN %(statements)s THEN statement END AS statement, {ROW_OF_ONLY} AS only_row
FROM observations o WHERE delivery_id = ANY(%(ids)s)
"""

_DROP_OBSERVATIONS = """
DELETE FROM observations o
USING jsonb_to_recordset(%(rows)s::jsonb) AS r(delivery_id bigint, content_hash text)
WHERE o.delivery_id = r.delivery_id AND o.content_hash = decode(r.content_hash, 'base64')
"""

# Rows as they should be, with the time of their order; and whether the stored one differs. The columns are compared, so
# that an observation that changes nothing in the row leaves the row alone. The planner takes the list of rows for a
# single one (`+ 0`), so it looks them up by their ids and never joins the whole table.
_NEXT = f"""
  SELECT r.*, {sending_time.ORDER_OF_STORED} FROM {_given("id bigint")} AS r
"""
_IS_OTHER = f"r.id + 0 = r.id AND (({_STORED}) IS DISTINCT FROM ({_VALUES}) OR {sending_time.MOVES})"

_ADVANCE = f"""
WITH kept AS (
  INSERT INTO observations (delivery_id, first_seen_at, {_SEEN_COLUMNS})
  SELECT s.delivery_id, coalesce(s.first_seen_at, now()), {_SEEN_VALUES}
  FROM jsonb_to_recordset(%(seen)s::jsonb) AS s(delivery_id bigint, first_seen_at timestamptz, {_SEEN_RECORD})
  ON CONFLICT (delivery_id, content_hash) DO UPDATE
  SET as_of = excluded.as_of, as_of_last = excluded.as_of_last, source = excluded.source,
      provider_time = excluded.provider_time,
      first_seen_at = least(observations.first_seen_at, excluded.first_seen_at),
      facts = coalesce(observations.facts, excluded.facts),
      statement = CASE WHEN excluded.statement = '{{}}' THEN observations.statement ELSE excluded.statement END
), r AS MATERIALIZED ({_NEXT})
UPDATE delivery_status d SET ({_COLUMNS}) = ROW ({_VALUES}), ({sending_time.COLUMNS}) = {sending_time.NEXT_VALUES},
  changed_at = clock_timestamp(), changed_in = pg_current_xact_id()::text::bigint
FROM r WHERE d.id = r.id AND {_IS_OTHER}
RETURNING d.id
"""

_DIFFER = f"""
WITH r AS MATERIALIZED ({_NEXT}) SELECT d.id FROM r JOIN delivery_status d USING (id) WHERE {_IS_OTHER}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Probed:
    """What a look-up has found of a batch; where all of it is known, nothing."""

    fresh: Sequence[Key] = ()
    """Keys that have no row yet."""
    existing: Mapping[int, Key] = field(default_factory=dict)
    """Rows about which the reports say something new."""
    keeps_facts: bool = False
    """Whether the facts of new deliveries have to be stored (`KEEPS_FACTS`)."""
    has_references: bool = False
    """Whether the account has references by key (`HAS_REFERENCES`)."""
    kept_from: datetime | None = None
    """What was sent before is not stored (`ulak.models.keeping`)."""


def upsert(
    connection: Connection,
    account_id: str,
    provider: str,
    reports: Iterable[Report],
    *,
    asked_at: datetime | None,
    suppressions: Suppressions | None = None,
    complete: Complete | None = None,
) -> UpsertResult:
    """Write what a provider said about deliveries of one account, within the caller's transaction.

    `suppressions`: what the process knows of erased people, of whom nothing is stored that was sent before their
    erasure; without it, `OtherPersonKeyError` where somebody was erased. `asked_at` is the moment the answer was asked
    for: the `as_of` of poll reports that carry none. The result in the table does not depend on how reports are grouped
    into batches, on their order, or on repetition. Two batches never deadlock; a caller that locks more than this in
    one transaction runs under `retry_transaction`.

    `complete` is called where something is new and the look-up has found that the account has references by key.
    """
    with _SECONDS.time():
        batch = _Batch(account_id, provider, list(reports), asked_at, suppressions or Suppressions())
        batch.judge(connection, batch.suppressions.known)
        _REPORTS.observe(len(batch.incoming))
        probed = _probe(connection, account_id, sorted(batch.incoming), batch.incoming)
        if batch.leave_out_old(connection, probed.kept_from):
            probed = _probe(connection, account_id, sorted(batch.incoming), batch.incoming)
        if complete is not None and probed.has_references:
            batch.reports = list(complete(batch.reports))
            batch.judge(connection, batch.listed)
            probed = _probe(connection, account_id, sorted(batch.incoming), batch.incoming)
        return _write(connection, batch, probed)


@dataclass(slots=True)
class _Batch:
    """What was reported, and what of it may be stored."""

    account_id: str
    provider: str
    reports: Sequence[Report]
    asked_at: datetime | None
    suppressions: Suppressions
    listed: Listed = NOBODY
    """The list of erased people by which the reports were judged."""
    allowed: Sequence[Report] = ()
    """The reports that may be stored."""
    incoming: dict[Key, History] = field(default_factory=dict)
    """The same by delivery."""
    left_out: int = 0
    """Deliveries of which nothing may be stored."""
    kept_from: datetime | None = None
    """What was sent before may not be stored."""

    def judge(self, connection: Connection, listed: Listed) -> None:
        """Sort out what this list lets be stored, and what is not too old."""
        self.listed = listed
        self._take(listed.allowed(connection, self.account_id, self.reports, self.asked_at))
        if self.kept_from is not None:
            self.leave_out_old(connection, self.kept_from)

    def leave_out_old(self, connection: Connection, kept_from: datetime | None) -> bool:
        """Leave out what was sent before `kept_from`; whether there was any.

        A removal that moves `kept_from` meanwhile removes a minute later what is stored now.
        """
        if kept_from is None:
            return False
        self.kept_from = kept_from
        young = sent_since(connection, self.account_id, self.allowed, self.asked_at, kept_from)
        if young is self.allowed:
            return False
        self._take(young)
        return True

    def _take(self, allowed: Sequence[Report]) -> None:
        self.allowed = allowed
        self.incoming = _gather(allowed, self.asked_at)
        named = (
            self.incoming
            if allowed is self.reports
            else {(each.granularity, clean_key(each.provider_key)) for each in self.reports}
        )
        self.left_out = len(named) - len(self.incoming)


def _write(connection: Connection, batch: _Batch, probed: _Probed) -> UpsertResult:
    """Steps 2 and 3, and all three again for what others inserted or erased meanwhile, or put on the list."""
    new: set[Key] = set()
    existing: dict[int, Key] = {}
    advanced: set[Key] = set()
    for _ in range(LOOKUPS):
        existing.update(probed.existing)
        unknown = sorted(_insert(connection, batch, probed.fresh, keeps_facts=probed.keeps_facts))
        new.update(set(probed.fresh).difference(unknown) if unknown else probed.fresh)
        if unknown:
            probed = _look_again(connection, batch, unknown, existing)
            continue
        dated = _dated_by_orders(connection, batch.account_id, (*new, *existing.values()), batch.incoming)
        said: dict[int, tuple[Granularity, History]] = {place: (Granularity.MESSAGE, {}) for place in dated}
        said |= {place: (key[0], batch.incoming[key]) for place, key in existing.items()}
        found, moved = _advance(connection, said, batch.listed)
        advanced.update(existing[place] for place in moved if place in existing)
        unknown = sorted(key for place, key in existing.items() if place not in found)
        existing.clear()
        if not unknown:
            break
        probed = _look_again(connection, batch, unknown, existing)
    else:
        raise RuntimeError(f"{len(unknown)} deliveries kept appearing and vanishing while they were written")
    changed = frozenset(new | advanced)
    if batch.listed.erased:
        _remove_erased(connection, batch.account_id, changed, batch.listed)
    return UpsertResult(
        new=len(new),
        advanced=len(advanced),
        unchanged=len(batch.incoming) - len(changed) + batch.left_out,
        changed=changed,
    )


def _look_again(connection: Connection, batch: _Batch, unknown: Sequence[Key], existing: dict[int, Key]) -> _Probed:
    """Step 1 for these deliveries; for all of the batch where the list has another version than it was judged by."""
    listed = batch.suppressions.current(connection)
    if listed.version != batch.listed.version:
        # Nothing is written yet, and from here on the list does not change.
        batch.judge(connection, listed)
        unknown = sorted(batch.incoming)
        existing.clear()
    return _probe(connection, batch.account_id, unknown, batch.incoming)


def _remove_erased(connection: Connection, account_id: str, changed: Iterable[Key], listed: Listed) -> None:
    """Remove what was stored of erased people's messages while their order's time, which has now come, was unknown."""
    orders = [key for granularity, key in changed if granularity is Granularity.ORDER]
    rows = suppression.messages_of_orders(connection, account_id, orders, listed) if orders else ()
    if not rows:
        return
    stored = load_histories(connection, lock_deliveries(connection, [row.id for row in rows]))
    kept: dict[int, tuple[Granularity, Sequence[Observation]]] = {}
    gone: list[int] = []
    for row in rows:
        may_stay, lacks_some = listed.without_erased(row, stored.get(row.id, {}).values())
        if may_stay and lacks_some:
            kept[row.id] = Granularity.MESSAGE, may_stay
        elif lacks_some:
            gone.append(row.id)
    delete_deliveries(connection, gone)
    if kept:
        rewrite_histories(connection, kept)


def _dated_by_orders(
    connection: Connection, account_id: str, written: Iterable[Key], incoming: Mapping[Key, History]
) -> set[int]:
    """Messages whose time may move, because one of the orders that are being written came with a sending time."""
    times = {
        key: {at for seen in incoming[granularity, key].values() if (at := seen.facts.sent_at) is not None}
        for granularity, key in written
        if granularity is _ORDER
    }
    return sending_time.moved_by_orders(connection, account_id, times)


def _gather(reports: Iterable[Report], asked_at: datetime | None) -> dict[Key, History]:
    incoming: dict[Key, History] = {}
    for report in reports:
        seen = observe(report, asked_at=asked_at)
        key = report.granularity, clean_key(report.provider_key)
        history = incoming.get(key)
        if history is None:
            incoming[key] = {seen.content_hash: seen}
            continue
        twin = history.get(seen.content_hash)
        history[seen.content_hash] = seen if twin is None else merge_observation(twin, seen)
    return incoming


class _Asked(msgspec.Struct, kw_only=True, gc=False):
    """A statement to be looked up, as a row of `_PROBE`."""

    n: int
    granularity: Granularity
    provider_key: str
    content_hash: bytes
    as_of: datetime | None
    as_of_last: datetime | None


def _probe(connection: Connection, account_id: str, keys: Sequence[Key], incoming: Mapping[Key, History]) -> _Probed:
    """Which of the keys have no row yet, and which have a row that the reports change; the rest is known."""
    if not keys:
        return _Probed()
    rows = [
        _Asked(
            n=place,
            granularity=key[0],
            provider_key=key[1],
            content_hash=seen.content_hash,
            as_of=seen.as_of,
            as_of_last=seen.as_of_last,
        )
        for place, key in enumerate(keys)
        for seen in incoming[key].values()
    ]
    probed = execute(connection, _PROBE, {"rows": json_parameter(rows), "account": account_id}).fetchall()
    if not probed:
        return _Probed()
    _, _, keeps_facts, has_references, kept_from = probed[0]
    return _Probed(
        fresh=sorted({keys[row[0]] for row in probed if row[1] is None}),
        existing={row[1]: keys[row[0]] for row in probed if row[1] is not None},
        keeps_facts=keeps_facts,
        has_references=has_references,
        kept_from=kept_from,
    )


def _insert(connection: Connection, batch: _Batch, keys: Sequence[Key], *, keeps_facts: bool) -> list[Key]:
    """Insert new deliveries with their history; returns those that another transaction had inserted before.

    All of them where the batch was judged by an outdated list of erased people.
    """
    if not keys:
        return []
    parameters = _insert_parameters(batch, keys, keeps_facts=keeps_facts)
    return [keys[place - 1] for (place,) in execute(connection, _INSERT, parameters)]


def _insert_parameters(batch: _Batch, keys: Sequence[Key], *, keeps_facts: bool) -> dict[str, Any]:
    folded: list[bytes] = []
    others: list[_New] = []
    for key in keys:
        granularity, history = key[0], batch.incoming[key].values()
        facts, final, conflict = fold_encoded(granularity, history)
        folded.append(facts)
        first, *further = history
        row_suffices = not further and not keeps_facts and row_says(granularity, first.facts)
        others.append(
            _New(
                granularity=granularity,
                provider_key=key[1],
                is_final=final,
                conflict=conflict,
                content_hash=first.content_hash,
                source=first.source,
                as_of=first.as_of,
                as_of_last=first.as_of_last,
                provider_time=first.provider_time,
                facts=None if row_suffices else _facts_of(first),
                statement=first.statement,
                further=[_kept(one) for one in further] if further else None,
            )
        )
    return {
        "account": batch.account_id,
        "provider": batch.provider,
        "facts": _json_array(folded),
        "others": json_parameter(others),
        "listed": batch.listed.version,
    }


class _Kept(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """An observation to be stored: of `_ADVANCE` with `delivery_id`."""

    delivery_id: int | None = None
    content_hash: bytes
    source: Source
    as_of: datetime | None = None
    as_of_last: datetime | None = None
    provider_time: datetime | None = None
    first_seen_at: datetime | None = None
    """None: now."""
    facts: msgspec.Raw | Facts | None = None
    """None: the row says them (`ulak.models.history`)."""
    statement: Mapping[str, Any]


class _New(_Kept, kw_only=True, omit_defaults=True, gc=False):
    """A new delivery with its first observation, of `_INSERT`."""

    granularity: Granularity
    provider_key: str
    is_final: bool
    conflict: bool
    further: list[_Kept] | None = None
    """The other observations."""


class _Next(msgspec.Struct, kw_only=True, gc=False):
    """An existing delivery as it should be, of `_ADVANCE` and `_DIFFER`."""

    id: int
    is_final: bool
    conflict: bool


def _kept(seen: Observation, *, delivery_id: int | None = None) -> _Kept:
    return _Kept(
        delivery_id=delivery_id,
        content_hash=seen.content_hash,
        source=seen.source,
        as_of=seen.as_of,
        as_of_last=seen.as_of_last,
        provider_time=seen.provider_time,
        first_seen_at=seen.first_seen_at,
        facts=_facts_of(seen),
        statement=seen.statement,
    )


def _facts_of(seen: Observation) -> msgspec.Raw | Facts:
    return seen.facts if seen.encoded is None else msgspec.Raw(seen.encoded)


def _json_array(encoded: Iterable[bytes]) -> str:
    return (b"[" + b",".join(encoded) + b"]").decode()


def _rows_of(histories: "Iterable[_Whole]") -> dict[str, str]:
    """The rows that follow from histories, as parameters of `_ADVANCE` and `_DIFFER`."""
    folded: list[bytes] = []
    others: list[_Next] = []
    for place, granularity, history in histories:
        facts, final, conflict = fold_encoded(granularity, history)
        folded.append(facts)
        others.append(_Next(id=place, is_final=final, conflict=conflict))
    return {"facts": _json_array(folded), "others": json_parameter(others)}


def _advance(
    connection: Connection, said: Mapping[int, tuple[Granularity, History]], listed: Listed | None = None
) -> tuple[set[int], set[int]]:
    """Fold what was said into existing deliveries. Returns the ids that still exist, and those whose row changed.

    `listed`: what was said was judged by this list of erased people; where it is outdated nothing is locked or written,
    as if no delivery existed.
    """
    if not said:
        return set(), set()
    if listed is None:
        found = lock_deliveries(connection, list(said))
    else:
        parameters = {"ids": list(said), "listed": listed.version}
        found = [place for (place,) in execute(connection, _LOCK_CURRENT, parameters)]
    stored, from_rows = load_whole_histories(connection, found)
    rows: _Rows = ([], [])
    seen: list[_Kept] = []
    for place in found:
        granularity, heard = said[place]
        known = stored.get(place, {})
        whole = merge_history([*known.values(), *heard.values()])
        if not whole:
            continue
        rows[granularity is not Granularity.ORDER].append((place, granularity, whole.values()))
        # The row is about to say something else than the first statement alone.
        completes = place in from_rows and len(whole) > 1
        seen += (_kept(one, delivery_id=place) for one in whole.values() if completes or _moves(one, known))
    return set(found), _write_rows(connection, rows, seen)


_Whole = tuple[int, Granularity, Collection[Observation]]
"""An existing delivery with its whole history."""
_Rows = tuple[list[_Whole], list[_Whole]]
"""Of orders, and of all others."""


def _write_rows(connection: Connection, rows: _Rows, seen: Sequence[_Kept]) -> set[int]:
    """Write these observations and rows, orders first; ids whose row changed."""
    written = set[int]()
    for group in rows:
        if group:
            parameters = _rows_of(group) | {"seen": json_parameter(seen)}
            written.update(place for (place,) in execute(connection, _ADVANCE, parameters))
            seen = ()
    return written


def _moves(one: Observation, known: History) -> bool:
    stored = known.get(one.content_hash)
    return stored is None or _times(stored) != _times(one)


def _times(seen: Observation) -> tuple[datetime | None, ...]:
    return seen.as_of, seen.as_of_last, seen.first_seen_at


_STORED_KEYS = f"""
SELECT p.granularity, p.provider_key
FROM jsonb_to_recordset(%(rows)s::jsonb) AS p(granularity text, provider_key text)
{_FOUND}
WHERE d.id IS NOT NULL
"""


def stored_keys(connection: Connection, account_id: str, keys: Iterable[Key]) -> set[Key]:
    """Which of the keys have a row; locks nothing."""
    rows = [{"granularity": granularity, "provider_key": key} for granularity, key in keys]
    found = execute(connection, _STORED_KEYS, {"account": account_id, "rows": json_parameter(rows)})
    return {(Granularity(granularity), key) for granularity, key in found}


def refold(connection: Connection, deliveries: Mapping[int, Granularity]) -> set[int]:
    """Write the rows of these deliveries anew from their history, under their locks; returns ids whose row changed."""
    return _advance(connection, {place: (granularity, {}) for place, granularity in deliveries.items()})[1]


def rewrite_histories(
    connection: Connection, histories: Mapping[int, tuple[Granularity, Sequence[Observation]]]
) -> set[int]:
    """Replace the whole history of each delivery, and write the rows that follow from it; ids whose row changed.

    The caller holds the locks of these deliveries (`lock_deliveries`) and has derived the observations from what is
    stored. Each keeps its `first_seen_at`: it is no news. Observations that became equal are merged into one.
    """
    stored = load_histories(connection, list(histories))
    rows: _Rows = ([], [])
    seen: list[_Kept] = []
    dropped: list[dict[str, Any]] = []
    for place, (granularity, observations) in sorted(histories.items()):
        whole, known = merge_history(observations), stored.get(place, {})
        rows[granularity is not Granularity.ORDER].append((place, granularity, whole.values()))
        seen += (_kept(one, delivery_id=place) for one in whole.values() if _moves(one, known))
        dropped += ({"delivery_id": place, "content_hash": digest} for digest in known if digest not in whole)
    execute(connection, _DROP_OBSERVATIONS, {"rows": json_parameter(dropped)})
    return _write_rows(connection, rows, seen)


_DELETE = """
WITH gone AS (DELETE FROM delivery_status WHERE id = ANY(%(ids)s) RETURNING id),
  announced AS (INSERT INTO delivery_erasures (delivery_id) SELECT id FROM gone)
SELECT count(*) FROM gone
"""


def delete_deliveries(connection: Connection, ids: Sequence[int]) -> int:
    """Remove these deliveries with their history; returns how many. The feed of changes reports that they are gone."""
    [[many]] = execute(connection, _DELETE, {"ids": list(ids)})
    return int(many)


def lock_deliveries(connection: Connection, ids: Sequence[int]) -> list[int]:
    """Lock these deliveries in the order of all writers; the ids that still exist."""
    return [place for (place,) in execute(connection, _LOCK, {"ids": list(ids)})]


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
        facts = msgspec.structs.replace(greatest.facts, client_ref=clean_key(reference))
        again = msgspec.structs.replace(
            greatest, facts=facts, encoded=None, content_hash=content_hash(facts), first_seen_at=None
        )
        said[place] = granularity, {again.content_hash: again}
    return _advance(connection, said)[1]


_decode_facts = msgspec.json.Decoder(Facts).decode


def load_histories(connection: Connection, ids: Sequence[int], *, with_statements: bool = False) -> dict[int, History]:
    """The stored observations of deliveries, by id and content hash; their raw statements only `with_statements`."""
    return load_whole_histories(connection, ids, with_statements=with_statements)[0]


def load_whole_histories(
    connection: Connection, ids: Sequence[int], *, with_statements: bool = False
) -> tuple[dict[int, History], set[int]]:
    """As `load_histories`; and the deliveries whose only observation has its facts from the row."""
    histories: dict[int, History] = {}
    from_rows: set[int] = set()
    for place, digest, source, as_of, as_of_last, provider_time, first_seen_at, facts, statement, row in execute(
        connection, _HISTORY, {"ids": list(ids), "statements": with_statements}
    ):
        if facts is None:
            from_rows.add(place)
        histories.setdefault(place, {})[digest] = Observation(
            facts=restore(row) if facts is None else _decode_facts(facts),
            content_hash=digest,
            source=Source(source),
            as_of=as_of,
            as_of_last=as_of_last,
            provider_time=provider_time,
            first_seen_at=first_seen_at,
            statement=statement or {},
        )
    return histories, from_rows


def find_differing(
    connection: Connection, histories: Mapping[int, tuple[Granularity, Collection[Observation]]]
) -> set[int]:
    """Ids of those deliveries whose stored row is not what these histories say. Locks and writes nothing.

    Their times are compared, too: with what follows from these histories and the stored row of the order.
    """
    rows = _rows_of((place, granularity, history) for place, (granularity, history) in histories.items())
    return {place for (place,) in execute(connection, _DIFFER, rows)}
