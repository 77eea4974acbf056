"""What could not be understood: sealed, counted, kept for a while, never shown by a list.

The bytes of others may hold anything, so they are stored encrypted with a key that the database does not know, and are
found again by a keyed fingerprint. A key here is what its file holds: one key, or several separated by blanks or line
breaks while they are rotated; the first one seals, all of them open.
"""

import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from typing import Any

import msgspec
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import Connection, Row, RowMapping, delete, func, select, text, update

from ulak.models.database import json_parameter
from ulak.models.report import Unreadable
from ulak.models.sanitize import clean_json, clean_key, clean_text
from ulak.models.tables import quarantine

KEPT_DAYS = 14
MAX_ENTRIES = 10_000
MAX_BYTES = 64 * 1024 * 1024
"""Of what one account keeps, sealed. Entries that need no attention may take half of both."""
_SEALED = "sealed"
"""The one field of a context that is sealed."""
FULL = "The account's quarantine is full: this was counted and not kept. Discard what is no longer needed."
"""The reason of the one entry that counts what a full quarantine did not keep."""


class WrongQuarantineKeyError(Exception):
    """The entry was sealed with another key than the one at hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An entry with its content, ready to be parsed again."""

    id: int
    account_id: str
    origin: str
    """Where the bytes came from: `poll:<kind>` or `callback:<tail>`."""
    context: Mapping[str, Any] = field(repr=False)
    """What the parser needs besides the bytes (the fetch's kind and params, a callback's tail)."""
    raw: bytes = field(repr=False)
    reason: str
    provider_key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resealed:
    """What became of the entries that `reseal` looked at."""

    done: int = 0
    already: int = 0
    """Sealed with the first key before."""
    not_opened: int = 0
    """Sealed with none of the keys."""
    last_id: int | None = None
    """Where to go on; None at the end."""


def check_key(key: bytes) -> None:
    """ValueError where it is no key of this module's form."""
    _box(key)


def new_key() -> bytes:
    """A fresh key, in the form in which it is kept in its file."""
    return Fernet.generate_key()


_SEAL = """
WITH sealed AS (
  INSERT INTO quarantine
    (account_id, fetch_id, provider_key, reason, origin, context, fingerprint, times, sealed, resolved_at)
  SELECT %(account)s, %(fetch)s::bigint, r.provider_key, r.reason, %(origin)s, %(context)s::jsonb,
         decode(r.fingerprint, 'base64'), r.times, s.sealed, CASE WHEN NOT r.is_open THEN clock_timestamp() END
  FROM jsonb_to_recordset(%(rows)s::jsonb)
    AS r(n integer, provider_key text, reason text, fingerprint text, times integer, is_open boolean)
  -- The bytes go their own way: as part of the JSON they would be held three times more.
  JOIN unnest(%(sealed)b::bytea[]) WITH ORDINALITY AS s(sealed, n) ON s.n = r.n + 1
  ORDER BY r.n
  ON CONFLICT (account_id, fingerprint) DO UPDATE
  SET times = quarantine.times + excluded.times, last_seen_at = clock_timestamp(), resolved_at = excluded.resolved_at,
      context = CASE WHEN quarantine.sealed IS NULL THEN excluded.context ELSE quarantine.context END,
      fetch_id = CASE WHEN quarantine.sealed IS NULL THEN excluded.fetch_id ELSE quarantine.fetch_id END,
      sealed = coalesce(quarantine.sealed, excluded.sealed)
  RETURNING xmax = 0 AS is_new
) SELECT count(*) FILTER (WHERE is_new) FROM sealed
"""
_HELD = """
SELECT count(*), coalesce(sum(octet_length(sealed)), 0) FROM (
  SELECT sealed FROM quarantine WHERE account_id = %(account)s AND sealed IS NOT NULL LIMIT %(most)s) AS kept
"""
_KNOWN = """
SELECT fingerprint FROM quarantine
WHERE account_id = %(account)s AND sealed IS NOT NULL AND fingerprint = ANY(%(fingerprints)s)
"""


def seal(
    connection: Connection,
    key: bytes,
    *,
    account_id: str,
    origin: str,
    unreadable: Iterable[Unreadable],
    context: Mapping[str, Any],
    fetch_id: int | None = None,
    seals_context: bool = False,
) -> int:
    """Keep what could not be understood of one answer or callback; returns how much of it was not there already.

    The same bytes about the same delivery are kept once and counted again; an entry that was resolved is open again.
    `seals_context`: the context holds what may not be stored in clear, and is sealed like the bytes.
    What an account has no room for (`MAX_ENTRIES`, `MAX_BYTES`) is counted in one entry, whose reason is `FULL`.
    """
    first = key.split()[0]
    items = {_fingerprint(first, item): item for item in unreadable}
    kept, left_out = _within_quota(connection, account_id, items)
    times = dict.fromkeys(kept, 1)
    if left_out:
        full = Unreadable(reason=FULL, raw=b"", once=True)
        fingerprint = _fingerprint(first, full)
        kept[fingerprint], times[fingerprint] = full, left_out
    if not kept:
        return 0
    box = _box(key)
    # One order for all, so that two who seal the same cannot wait for each other.
    ordered = sorted(kept.items(), key=lambda pair: pair[0])
    rows = [
        {
            "n": place,
            "provider_key": None if item.provider_key is None else clean_key(item.provider_key),
            "reason": clean_text(item.reason),
            "fingerprint": fingerprint,
            "times": times[fingerprint],
            "is_open": item.is_open,
        }
        for place, (fingerprint, item) in enumerate(ordered)
    ]
    parameters = {
        "account": account_id,
        "fetch": fetch_id,
        "origin": origin,
        "context": json_parameter(_sealed_context(box, context) if seals_context else clean_json(context)),
        "rows": json_parameter(rows),
        "sealed": [box.encrypt(item.raw) for _, item in ordered],
    }
    return int(connection.exec_driver_sql(_SEAL, parameters).scalar_one())


def _sealed_context(box: MultiFernet, context: Mapping[str, Any]) -> dict[str, str]:
    return {_SEALED: box.encrypt(json_parameter(clean_json(context)).encode()).decode()}


def _opened_context(box: MultiFernet, context: Mapping[str, Any]) -> Mapping[str, Any]:
    sealed = context.get(_SEALED)
    opened: Mapping[str, Any] = context if sealed is None else msgspec.json.decode(box.decrypt(sealed))
    return opened


def _box(key: bytes) -> MultiFernet:
    return MultiFernet([Fernet(each) for each in key.split()])


def _within_quota(
    connection: Connection, account_id: str, items: Mapping[bytes, Unreadable]
) -> tuple[dict[bytes, Unreadable], int]:
    """The items that there is room for or that are kept already, and how many open ones are left out."""
    if not items:
        return {}, 0
    held = connection.exec_driver_sql(_HELD, {"account": account_id, "most": MAX_ENTRIES + 1}).one()
    entries, size = int(held[0]), int(held[1])
    if entries + len(items) <= MAX_ENTRIES // 2 and size + _sealed_bytes(*items.values()) <= MAX_BYTES // 2:
        return dict(items), 0
    parameters = {"account": account_id, "fingerprints": list(items)}
    known = set(connection.exec_driver_sql(_KNOWN, parameters).scalars())
    kept: dict[bytes, Unreadable] = {}
    left_out = 0
    for fingerprint, item in items.items():
        share = 1 if item.is_open else 2
        if fingerprint in known:
            kept[fingerprint] = item
        elif entries < MAX_ENTRIES // share and size + _sealed_bytes(item) <= MAX_BYTES // share:
            kept[fingerprint] = item
            entries, size = entries + 1, size + _sealed_bytes(item)
        else:
            left_out += item.is_open
    return kept, left_out


def _sealed_bytes(*items: Unreadable) -> int:
    """About what they take once they are sealed, which is written in base64."""
    return sum(len(item.raw) * 4 // 3 + 100 for item in items)


def _fingerprint(key: bytes, item: Unreadable) -> bytes:
    """Of the bytes and the delivery they belong to: the same words may be said of two (a number in two orders).

    Of the reason alone for what is kept once.
    """
    if item.once:
        return hmac.digest(key, b"quarantine-once:" + item.reason.encode(), sha256)
    about = b"" if item.provider_key is None else clean_key(item.provider_key).encode() + b"\0"
    return hmac.digest(key, b"quarantine:" + about + item.raw, sha256)


def list_quarantine(
    connection: Connection, *, account: str | None = None, limit: int = 100, after_id: int = 0
) -> Sequence[RowMapping]:
    """Open entries in the order of their ids: when, where and why, never what."""
    table = quarantine.c
    columns = (table.id, table.account_id, table.origin, table.reason, table.times)
    query = select(*columns, table.first_seen_at, table.last_seen_at, table.fetch_id)
    query = query.where(table.resolved_at.is_(None), table.id > after_id)
    if account is not None:
        query = query.where(table.account_id == account)
    return connection.execute(query.order_by(table.id).limit(limit)).mappings().all()


def open_sealed(connection: Connection, key: bytes, entry_id: int) -> Opened | None:
    """An open entry with its content, locked until the transaction ends; None where it is resolved or gone.

    Raises WrongQuarantineKeyError where it was sealed with another key.
    """
    query = select(quarantine).where(quarantine.c.id == entry_id, quarantine.c.resolved_at.is_(None))
    row = connection.execute(query.with_for_update()).one_or_none()
    if row is None or row.sealed is None:
        return None
    try:
        raw = _box(key).decrypt(row.sealed)
        context = _opened_context(_box(key), row.context)
    except InvalidToken as error:
        raise WrongQuarantineKeyError(f"entry {entry_id} was sealed with another key") from error
    return Opened(
        id=row.id,
        account_id=row.account_id,
        origin=row.origin,
        context=context,
        raw=raw,
        reason=row.reason,
        provider_key=row.provider_key,
    )


_TWIN = text("SELECT id FROM quarantine WHERE account_id = :account_id AND fingerprint = :fingerprint FOR UPDATE")
_JOIN = text("""
    UPDATE quarantine q SET times = q.times + o.times, first_seen_at = least(q.first_seen_at, o.first_seen_at),
      last_seen_at = greatest(q.last_seen_at, o.last_seen_at), sealed = coalesce(q.sealed, :sealed),
      context = CASE WHEN q.sealed IS NULL THEN o.context ELSE q.context END,
      fetch_id = CASE WHEN q.sealed IS NULL THEN o.fetch_id ELSE q.fetch_id END,
      resolved_at = CASE WHEN o.resolved_at IS NOT NULL THEN q.resolved_at END
    FROM quarantine o WHERE q.id = :twin AND o.id = :id
""")


def reseal(connection: Connection, key: bytes, *, after_id: int = 0, many: int = 100) -> Resealed:
    """Seal the next entries with the first key; to be repeated from `last_id` on. Safe twice, and beside who seals.

    An entry whose bytes were sealed with the first key meanwhile becomes one with that. Raises IntegrityError where
    that happens at this very moment: repeat the transaction.
    """
    table = quarantine.c
    query = select(quarantine).where(table.sealed.is_not(None), table.id > after_id).order_by(table.id).limit(many)
    rows = connection.execute(query.with_for_update()).all()
    outcomes = [_reseal_one(connection, key, row) for row in rows]
    return Resealed(
        done=outcomes.count("done"),
        already=outcomes.count("already"),
        not_opened=outcomes.count("not_opened"),
        last_id=rows[-1].id if len(rows) == many else None,
    )


def _reseal_one(connection: Connection, key: bytes, row: Row[Any]) -> str:
    first, box = key.split()[0], _box(key)
    try:
        raw = box.decrypt(row.sealed)
    except InvalidToken:
        return "not_opened"
    once = Unreadable(reason=row.reason, raw=raw, provider_key=row.provider_key, once=True)
    is_once = any(_fingerprint(each, once) == bytes(row.fingerprint) for each in key.split())
    item = once if is_once else Unreadable(reason=row.reason, raw=raw, provider_key=row.provider_key)
    fingerprint = _fingerprint(first, item)
    if fingerprint == bytes(row.fingerprint):
        return "already"
    sealed = box.rotate(bytes(row.sealed))
    names = {"account_id": row.account_id, "fingerprint": fingerprint}
    twin = connection.execute(_TWIN, names).scalar_one_or_none()
    this = quarantine.c.id == row.id
    if _SEALED in row.context:
        context = {_SEALED: box.rotate(row.context[_SEALED]).decode()}
        connection.execute(update(quarantine).where(this).values(context=context))
    if twin is None:
        connection.execute(update(quarantine).where(this).values(sealed=sealed, fingerprint=fingerprint))
    else:
        connection.execute(_JOIN, {"twin": twin, "id": row.id, "sealed": sealed})
        connection.execute(delete(quarantine).where(this))
    return "done"


def resolve(connection: Connection, entry_id: int) -> bool:
    """The entry was understood after all, or nobody will: its bytes are gone at once. Whether it was open."""
    done = update(quarantine).where(quarantine.c.id == entry_id, quarantine.c.resolved_at.is_(None))
    return connection.execute(done.values(resolved_at=func.now(), sealed=None, context={})).rowcount > 0


# Locked in the order in which they are sealed, so that whoever seals the same at this moment cannot wait in a circle.
_RESOLVE_ANSWERS = text("""
    UPDATE quarantine SET resolved_at = clock_timestamp(), sealed = NULL, context = '{}'
    WHERE id IN (
        SELECT id FROM quarantine
        WHERE fetch_id = :fetch_id AND resolved_at IS NULL AND provider_key IS NULL AND origin LIKE 'poll:%'
        ORDER BY fingerprint FOR NO KEY UPDATE)
""")


def resolve_answers(connection: Connection, fetch_id: int) -> int:
    """A fetch that was asked again is now answered well: resolve its whole answers that were not understood.

    Returns how many. To be called before the items of the good answer are sealed, for those must stay.
    """
    return connection.execute(_RESOLVE_ANSWERS, {"fetch_id": fetch_id}).rowcount


def prune(connection: Connection, *, kept_days: float = KEPT_DAYS) -> int:
    """Delete entries that were last seen longer ago than `kept_days`; returns how many."""
    old = quarantine.c.last_seen_at < func.now() - timedelta(days=kept_days)
    return connection.execute(delete(quarantine).where(old)).rowcount
