"""Tracked ids: registering them in bulk, finding those that are due. Closing them is the finishing transaction's."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, TextClause, text

from ulak.models.database import json_parameter
from ulak.models.latencies import DUE_SINCE
from ulak.models.report import NewId, TrackedKey
from ulak.models.vocabulary import Granularity


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedId:
    """What a fetch has to know of an id that it asks for."""

    id: int
    id_kind: str
    value: str
    whole: str | None
    client_ref: str | None
    recipient: str | None
    expected: int | None
    sent_at: datetime
    valid_until: datetime
    last_checked_at: datetime | None
    incomplete_answers: int
    answer_fingerprint: str | None
    clear: Mapping[str, str] | None = field(repr=False)

    @property
    def is_whole(self) -> bool:
        """Whether it is a whole (a send) whose parts are tracked ids too."""
        return self.whole is not None and self.whole == self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedId(AskedId):
    """What planning has to know besides."""

    account_id: str
    fetch_id: int | None
    """The fetch that holds it."""
    next_check_at: datetime | None
    announced_at: datetime | None
    due_since: datetime | None = None
    """Since when it should have been asked for (`ulak.models.latencies.DUE_SINCE`), where that was looked up."""


_COLUMNS = ", ".join(f"t.{each.name}" for each in fields(TrackedId) if each.name != "due_since")


# A young message goes before whatever has been due for less than an hour longer, and no farther: so the most valuable
# come first, and an old one's turn comes however many young ones follow. `statement_timestamp()` is stable, so the
# index is read up to now and not through all that is due some day.
_CHOSEN = """
    WITH waiting AS (
        (SELECT t.id, t.next_check_at AS turn FROM tracked_ids t{accounts}
          WHERE t.account_id = :account_id AND t.closed_at IS NULL AND t.fetch_id IS NULL
            AND t.next_check_at <= statement_timestamp() {ripe}
          ORDER BY t.next_check_at, t.id LIMIT :many)
        UNION ALL
        (SELECT t.id, t.next_check_at - interval '1 hour' FROM tracked_ids t{accounts}
          WHERE t.account_id = :account_id AND t.closed_at IS NULL AND t.fetch_id IS NULL
            AND t.next_check_at <= statement_timestamp() AND t.next_check_at > statement_timestamp() - interval '1 hour'
            AND t.sent_at > statement_timestamp() - interval '1 hour' {ripe}
          ORDER BY t.next_check_at, t.id LIMIT :many)
    ), chosen AS (
        SELECT id, min(turn) AS turn FROM waiting GROUP BY id ORDER BY turn, id LIMIT :many
    )
    SELECT {columns}, {DUE_SINCE} AS due_since FROM tracked_ids t JOIN chosen ON chosen.id = t.id
    JOIN accounts a ON a.id = t.account_id ORDER BY chosen.turn, t.id
"""
_RIPE = f"""
    AND (t.last_checked_at IS NOT NULL OR t.sent_at <= statement_timestamp() - make_interval(
                secs => coalesce(CAST(CAST(:half_ages AS jsonb) ->> t.id_kind AS double precision), 0))
         OR {DUE_SINCE} <= statement_timestamp())
"""
_SHOWN = {"columns": _COLUMNS, "DUE_SINCE": DUE_SINCE}
_DUE = text(_CHOSEN.format(**_SHOWN, accounts="", ripe=""))
_RIPE_DUE = text(_CHOSEN.format(**_SHOWN, accounts=" JOIN accounts a ON a.id = t.account_id", ripe=_RIPE))
_SELECT = f"SELECT {_COLUMNS} FROM tracked_ids t"
_SOONEST = text(f"""
    {_SELECT}
    WHERE account_id = :account_id AND id_kind = :kind AND closed_at IS NULL AND fetch_id IS NULL
      AND next_check_at <= :until AND NOT id = ANY(:taken)
    ORDER BY next_check_at, id
    LIMIT :many
""")
_OPEN = text(f"""
    {_SELECT} WHERE account_id = :account_id AND closed_at IS NULL
      -- A whole waits for its parts, or for the end of validity: before that there is nothing to ask.
      AND (whole IS DISTINCT FROM value OR next_check_at <= statement_timestamp())
    ORDER BY next_check_at, id LIMIT :many
""")
_KNOWN = text(f"""
    {_SELECT} WHERE account_id = :account_id ORDER BY sent_at DESC, id LIMIT :many
""")
_HELD = text("""
    SELECT t.id FROM tracked_ids t JOIN fetches f ON f.id = t.fetch_id WHERE f.poll_id = :poll_id
""")


def _read(connection: Connection, statement: TextClause, given: Mapping[str, Any]) -> Sequence[TrackedId]:
    """The ids of rows with `_COLUMNS`."""
    return [TrackedId(**row) for row in connection.execute(statement, given).mappings()]


def due_ids(
    connection: Connection, account_id: str, many: int, half_ages: Mapping[str, float] | None = None
) -> Sequence[TrackedId]:
    """Open ids whose check is due and that no fetch holds: young ones first, but for what is long due.

    `due_since` ahead of the clock: the check may wait until a batch is worth a call
    (`ulak.models.latencies.DUE_SINCE`). `half_ages`, in seconds by kind: of those that may wait, the never checked ones
    from this age on.
    """
    given: dict[str, Any] = {"account_id": account_id, "many": many}
    if half_ages is None:
        return _read(connection, _DUE, given)
    return _read(connection, _RIPE_DUE, given | {"half_ages": json_parameter(half_ages)})


def soonest_ids(
    connection: Connection, account_id: str, kind: str, many: int, *, until: datetime, taken: Sequence[int]
) -> Sequence[TrackedId]:
    """The ids of a kind that are due next, before `until`, beside those taken already."""
    if many <= 0:
        return []
    parameters = {"account_id": account_id, "kind": kind, "many": many, "until": until, "taken": list(taken)}
    return _read(connection, _SOONEST, parameters)


def open_ids(connection: Connection, account_id: str, many: int) -> Sequence[TrackedId]:
    """Open ids, due or not, those due soonest first; of wholes only those that are due."""
    return _read(connection, _OPEN, {"account_id": account_id, "many": many})


def known_ids(connection: Connection, account_id: str, many: int) -> Sequence[TrackedId]:
    """Ids that were ever registered, closed ones too, the youngest first."""
    return _read(connection, _KNOWN, {"account_id": account_id, "many": many})


# A union of index look-ups; one OR over all of them would read the whole table.
_OPEN_BY = text(f"""
    {_SELECT}
    WHERE t.closed_at IS NULL AND t.id IN (
        SELECT id FROM tracked_ids WHERE client_ref = :ident
        UNION SELECT id FROM tracked_ids WHERE recipient = ANY(:recipients)
        UNION SELECT named.id FROM accounts a CROSS JOIN unnest(CAST(:kinds AS text[])) AS k(kind)
          CROSS JOIN unnest(CAST(:values AS text[])) AS v(given) CROSS JOIN LATERAL (
            SELECT id FROM tracked_ids WHERE account_id = a.id AND id_kind = k.kind AND value = v.given OFFSET 0) named)
    ORDER BY t.account_id, t.id LIMIT :many
""")


def open_by(
    connection: Connection,
    ident: str,
    *,
    kinds: Sequence[str],
    values: Sequence[str],
    recipients: Sequence[str],
    many: int = 20,
) -> Sequence[TrackedId]:
    """Open ids with this client reference, one of these values or one of these recipients."""
    given = {"ident": ident, "kinds": list(kinds), "values": list(values), "recipients": list(recipients), "many": many}
    return _read(connection, _OPEN_BY, given)


def held_ids(connection: Connection, poll_id: int) -> set[int]:
    """Ids that fetches of this poll hold."""
    return set(connection.execute(_HELD, {"poll_id": poll_id}).scalars())


_ASKED_COLUMNS = ", ".join(each.name for each in fields(AskedId))
IDS_OF_FETCH = f"""(
    SELECT json_agg(i ORDER BY i.id)::text
    FROM (SELECT {_ASKED_COLUMNS} FROM tracked_ids t WHERE t.fetch_id = taken.id) AS i)"""
"""SQL for the ids that the fetch `taken` asks for, read by `ids_of_fetch`: in the statement that takes it."""
_read_ids = msgspec.json.Decoder(list[AskedId]).decode


def ids_of_fetch(found: str | None) -> list[AskedId]:
    """What `IDS_OF_FETCH` has given."""
    return _read_ids(found) if found is not None else []


REFERENCE = "reference"
"""Why an id is closed that was registered only to attach the sender's reference, until a list names it."""

ERASED = "erased"
"""Why an id is closed whose recipient was erased; it keeps nothing of the person, and nothing is filled in again."""

HAS_REFERENCES = f"""EXISTS (
    SELECT FROM tracked_ids WHERE account_id = %(account)s AND client_ref IS NOT NULL
      AND id_kind IN ({", ".join(f"'{word.value}'" for word in Granularity)}))"""
"""SQL: whether the account has any reference by key (`ulak.models.references`). An index of these alone answers it."""

UNTRACKED = "untracked"
"""Why an id is closed that its sender gave up. Registering it again opens it."""

# A registration that comes again fills what was missing and otherwise changes nothing; where it would change nothing,
# nothing is written. A closed id stays closed, unless it was untracked.
_REGISTER = text("""
    WITH given AS (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS g(
            id_kind text, value text, client_ref text, recipient text, expected integer,
            sent_at timestamptz, valid_until timestamptz, next_check_at timestamptz, whole text, close_reason text,
            clear jsonb)
    )
    INSERT INTO tracked_ids AS t
        (account_id, id_kind, value, client_ref, recipient, expected, origin, sent_at, valid_until, next_check_at,
         whole, closed_at, close_reason, clear)
    SELECT :account_id, id_kind, value, client_ref, recipient, expected, 'sender', sent_at, valid_until,
           CASE WHEN close_reason IS NULL THEN next_check_at END, whole,
           CASE WHEN close_reason IS NOT NULL THEN clock_timestamp() END, close_reason, clear
    FROM given ORDER BY id_kind, value
    ON CONFLICT (account_id, id_kind, value) DO UPDATE SET
        client_ref = coalesce(t.client_ref, excluded.client_ref),
        recipient = coalesce(t.recipient, excluded.recipient),
        expected = coalesce(t.expected, excluded.expected),
        origin = 'sender',
        whole = coalesce(t.whole, excluded.whole),
        clear = CASE WHEN excluded.clear IS NULL THEN t.clear ELSE excluded.clear || coalesce(t.clear, '{}') END,
        closed_at = CASE WHEN t.close_reason = 'untracked' THEN excluded.closed_at ELSE t.closed_at END,
        next_check_at = CASE WHEN t.close_reason = 'untracked' THEN excluded.next_check_at ELSE t.next_check_at END,
        close_reason = CASE WHEN t.close_reason = 'untracked' THEN excluded.close_reason ELSE t.close_reason END
    WHERE t.close_reason IS DISTINCT FROM :erased AND (t.origin <> 'sender' OR t.close_reason = 'untracked'
       OR (t.client_ref IS NULL AND excluded.client_ref IS NOT NULL)
       OR (t.recipient IS NULL AND excluded.recipient IS NOT NULL)
       OR (t.expected IS NULL AND excluded.expected IS NOT NULL)
       OR (t.whole IS NULL AND excluded.whole IS NOT NULL))
    RETURNING t.id, (xmax = 0) AS is_new
""")
_FIND = text(f"""
    {_SELECT}
    JOIN jsonb_to_recordset(CAST(:rows AS jsonb)) AS g(id_kind text, value text) USING (id_kind, value)
    WHERE t.account_id = :account_id ORDER BY t.id
""")


def register(connection: Connection, account_id: str, rows: Sequence[NewId]) -> int:
    """Insert ids that a sender registers (distinct by kind and value); returns how many were not known before."""
    parameters = {"account_id": account_id, "rows": json_parameter(rows), "erased": ERASED}
    return sum(row.is_new for row in connection.execute(_REGISTER, parameters))


def find(connection: Connection, account_id: str, keys: Iterable[tuple[str, str]]) -> Sequence[TrackedId]:
    """The tracked ids of these (kind, value) pairs."""
    rows = [{"id_kind": kind, "value": value} for kind, value in keys]
    return _read(connection, _FIND, {"account_id": account_id, "rows": json_parameter(rows)})


_READ_WHOLE = text("""
    SELECT t.id_kind, t.value FROM tracked_ids t
    JOIN jsonb_to_recordset(CAST(:rows AS jsonb)) AS g(id_kind text, value text) USING (id_kind, value)
    WHERE t.account_id = :account_id AND t.last_found_at IS NOT NULL
""")


def read_whole(connection: Connection, account_id: str, keys: Collection[TrackedKey]) -> set[TrackedKey]:
    """Those ids that some answer was about; one of several pages answers with its last, so all was read then."""
    rows = [{"id_kind": key.id_kind, "value": key.value} for key in keys]
    found = connection.execute(_READ_WHOLE, {"account_id": account_id, "rows": json_parameter(rows)})
    return {TrackedKey(id_kind=id_kind, value=value) for id_kind, value in found}


# Locked first and read by a second statement: of two transactions that close the last two parts at the same time, the
# later one sees what the earlier one committed.
_LOCK_WHOLES = text("""
    SELECT id FROM tracked_ids
    WHERE account_id = :account_id AND whole = ANY(:wholes) AND whole = value AND closed_at IS NULL
    ORDER BY id FOR NO KEY UPDATE
""")
_CHECK_WHOLES = text("""
    UPDATE tracked_ids t SET next_check_at = least(t.next_check_at, clock_timestamp())
    WHERE t.id = ANY(:ids) AND NOT EXISTS (
        SELECT FROM tracked_ids part
        WHERE part.account_id = t.account_id AND part.whole = t.whole AND part.id <> t.id AND part.closed_at IS NULL)
""")


def check_wholes(connection: Connection, account_id: str, wholes: Collection[str]) -> None:
    """Make those of these wholes due now that have no open part any more; to be called after parts were closed."""
    parameters = {"account_id": account_id, "wholes": sorted(wholes)}
    if locked := list(connection.execute(_LOCK_WHOLES, parameters).scalars()):
        connection.execute(_CHECK_WHOLES, {"ids": locked})


_CLOSE = text("""
    UPDATE tracked_ids SET closed_at = clock_timestamp(), close_reason = 'final', next_check_at = NULL,
        checked_before_at = NULL
    WHERE id = ANY(:ids) AND closed_at IS NULL AND fetch_id IS NULL
      AND (changed_as_of IS NULL OR changed_as_of <= :as_of)
    RETURNING account_id, whole
""")


def close_answered(connection: Connection, ids: Sequence[int], as_of: datetime) -> int:
    """Close ids that an answer to a question of `as_of`, understood late, has settled; returns how many.

    What a fetch holds is being asked for again, and is closed by its answer; what has changed since stays open. Their
    noted checks do not show when they became final, so nothing is learned from them.
    """
    if not ids:
        return 0
    closed = connection.execute(_CLOSE, {"ids": sorted(ids), "as_of": as_of}).all()
    for account_id, whole in sorted({(row.account_id, row.whole) for row in closed if row.whole is not None}):
        check_wholes(connection, account_id, [whole])
    return len(closed)


# What a fetch holds is let go: an answer changes only ids that are open.
_UNTRACK = text("""
    WITH locked AS (
        SELECT t.id FROM tracked_ids t
        JOIN jsonb_to_recordset(CAST(:rows AS jsonb)) AS g(id_kind text, value text) USING (id_kind, value)
        WHERE t.account_id = :account_id AND t.closed_at IS NULL
        ORDER BY t.id FOR NO KEY UPDATE OF t
    )
    UPDATE tracked_ids t SET closed_at = clock_timestamp(), close_reason = :untracked, next_check_at = NULL,
        fetch_id = NULL
    FROM locked WHERE t.id = locked.id RETURNING t.id_kind, t.value, t.whole
""")


def untrack(connection: Connection, account_id: str, keys: Collection[TrackedKey]) -> set[TrackedKey]:
    """Close ids so that they are polled no more; gives those that were open.

    Their references stay. An answer that is on its way is still stored. A whole whose last open part is closed here
    becomes due once, as it does when its parts are answered.
    """
    rows = [{"id_kind": key.id_kind, "value": key.value} for key in keys]
    parameters = {"account_id": account_id, "rows": json_parameter(rows), "untracked": UNTRACKED}
    closed = connection.execute(_UNTRACK, parameters).all()
    check_wholes(connection, account_id, {row.whole for row in closed if row.whole not in {None, row.value}})
    return {TrackedKey(id_kind=row.id_kind, value=row.value) for row in closed}


_OPEN_AMONG = text(f"{_SELECT} WHERE id = ANY(:ids) AND account_id = :account_id AND closed_at IS NULL ORDER BY id")
_OPEN_NAMED = text(f"""
    {_SELECT}
    WHERE account_id = :account_id AND closed_at IS NULL
      AND (value = ANY(:words) OR split_part(value, ':', 1) = ANY(:words))
    ORDER BY id
""")


def open_among(connection: Connection, account_id: str, ids: Collection[int]) -> Sequence[TrackedId]:
    """Those of these ids that are still open."""
    return _read(connection, _OPEN_AMONG, {"account_id": account_id, "ids": list(ids)})


def open_named(connection: Connection, account_id: str, words: Collection[str]) -> Sequence[TrackedId]:
    """Open ids whose value, or the first part of it, is one of these words."""
    return _read(connection, _OPEN_NAMED, {"account_id": account_id, "words": sorted(words)})
