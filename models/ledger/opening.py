"""Polls and their fetches come into being: only rows, in the transaction of the caller."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, text

from ulak.core.redaction import redact_text
from ulak.models.database import json_parameter
from ulak.models.ledger.hashing import params_hash
from ulak.models.ledger.sweep_pages import EMPTIED, ended_state_sql

PRIORITY_ON_DEMAND = 10
"""The rank of on-demand work: of its fetches, their children and what it took over. Every other rank is scheduled work,
with which it shares the account's calls by turns (`ulak.models.ledger.deciding`)."""
PRIORITY_TODAY = 20
PRIORITY_YOUNG = 30
PRIORITY_CLOSED_DAYS = 40
PRIORITY_OLD = 60
_STEP = 10


def rank_of_next_page(priority: int) -> int:
    """The rank of a fetch that continues another one: before all first fetches of its rank, behind every better rank.

    A list that was begun is read on at once, instead of behind thousands of ids that were planned with its first page.
    """
    return (priority - 1) // _STEP * _STEP + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFetch:
    """A fetch to insert. `ids` are rows of `tracked_ids` that it asks for."""

    kind: str
    params: Mapping[str, Any] = field(repr=False)
    label: str
    priority: int
    round: int = 1
    ids: tuple[int, ...] = ()
    walk: int | None = None
    """The poll whose walk this fetch continues; None for a first fetch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPoll:
    """A poll to open."""

    account_id: str
    trigger: str
    """`schedule`, or what opened an on-demand poll: `api`, `cli`, `task` or `page`."""
    idempotency_key: str | None = None
    scheduled_for: datetime | None = None
    window: tuple[date, date] | None = None
    ids: Sequence[Mapping[str, str]] | None = None


_OPEN_POLL = text("""
    INSERT INTO polls (account_id, trigger, idempotency_key, scheduled_for, window_from, window_to, ids)
    VALUES (:account_id, :trigger, :key, :scheduled_for, :window_from, :window_to, CAST(:ids AS jsonb))
    ON CONFLICT DO NOTHING
    RETURNING id
""")
_BY_KEY = text("SELECT id FROM polls WHERE account_id = :account_id AND idempotency_key = :key")


def open_poll(connection: Connection, poll: NewPoll) -> tuple[int | None, bool]:
    """Insert a poll: (its id, True). One with the same idempotency key is found instead: (its id, False).

    A tick that was planned already gives (None, False). The poll stays unplanned until `close_plan`.
    """
    window = poll.window or (None, None)
    created = connection.execute(
        _OPEN_POLL,
        {
            "account_id": poll.account_id,
            "trigger": poll.trigger,
            "key": poll.idempotency_key,
            "scheduled_for": poll.scheduled_for,
            "window_from": window[0],
            "window_to": window[1],
            "ids": None if poll.ids is None else json_parameter(list(poll.ids)),
        },
    ).scalar_one_or_none()
    if created is not None:
        return created, True
    if poll.idempotency_key is None:
        return None, False
    found = connection.execute(_BY_KEY, {"account_id": poll.account_id, "key": poll.idempotency_key})
    return found.scalar_one_or_none(), False


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a poll on demand is to ask for; all None: every open id and the days of the lookback."""

    window_from: date | None
    window_to: date | None
    ids: Sequence[Mapping[str, str]] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedPoll(Scope):
    """A poll that this transaction has locked."""

    id: int
    account_id: str
    state: str
    planned_at: datetime | None


_LOCK_POLL = text(f"""
    SELECT {", ".join(each.name for each in fields(LockedPoll))} FROM polls WHERE id = :poll_id FOR NO KEY UPDATE
""")


def lock_poll(connection: Connection, poll_id: int) -> LockedPoll | None:
    """The poll, locked: the last lock of every transaction that takes it."""
    row = connection.execute(_LOCK_POLL, {"poll_id": poll_id}).mappings().one_or_none()
    return None if row is None else LockedPoll(**row)


_POLL_STATE = text("SELECT state FROM polls WHERE id = :poll_id")


def poll_state(connection: Connection, poll_id: int) -> str:
    """The poll's state as committed, unlocked."""
    state: str = connection.execute(_POLL_STATE, {"poll_id": poll_id}).scalar_one()
    return state


_INSERT = text("""
    WITH given AS (
        SELECT * FROM jsonb_to_recordset(CAST(:fetches AS jsonb)) AS g(
            kind text, params jsonb, params_hash text, label text, priority smallint, round smallint, ids bigint[])
    ), inserted AS (
        INSERT INTO fetches (poll_id, account_id, kind, params, params_hash, label, priority, round)
        SELECT :poll_id, :account_id, kind, params, params_hash, label, priority, round FROM given
        ON CONFLICT (account_id, params_hash) WHERE state = 'ready' DO NOTHING
        RETURNING id, params_hash
    ), held AS (
        UPDATE tracked_ids t SET fetch_id = inserted.id
        FROM inserted JOIN given USING (params_hash), unnest(given.ids) AS wanted(id)
        WHERE t.id = wanted.id AND t.closed_at IS NULL
    )
    SELECT count(*) FROM inserted
""")


def insert_fetches(connection: Connection, poll_id: int, account_id: str, fetches: Sequence[NewFetch]) -> int:
    """Insert fetches and let them hold their tracked ids; returns how many were really inserted.

    A fetch that stands ready with equal params is not inserted twice. The caller adds the number to `open_fetches`.
    """
    if not fetches:
        return 0
    rows = {}
    for fetch in fetches:
        key = params_hash(fetch.kind, fetch.params, fetch.walk)
        rows[key] = {
            "kind": fetch.kind,
            "params": fetch.params,
            "params_hash": key,
            "label": fetch.label,
            "priority": fetch.priority,
            "round": fetch.round,
            "ids": list(fetch.ids),
        }
    parameters = {"fetches": json_parameter(list(rows.values())), "poll_id": poll_id, "account_id": account_id}
    inserted: int = connection.execute(_INSERT, parameters).scalar_one()
    return inserted


_TAKE_OVER = text("""
    WITH wanted AS (
        SELECT f.id, f.poll_id, f.params ? 'window' AS is_window FROM fetches f
        WHERE f.account_id = :account_id AND f.state = 'ready' AND f.poll_id <> :poll_id
          -- A page that continues a chain is read in the light of the pages before it, which stay with their poll.
          AND NOT EXISTS (SELECT 1 FROM fetches before
                WHERE before.poll_id = f.poll_id AND before.state = 'done' AND before.round = f.round
                  AND before.params ->> 'chain' = f.params ->> 'chain')
          AND (f.params_hash = ANY(:hashes)
               OR f.id IN (SELECT t.fetch_id FROM tracked_ids t WHERE t.id = ANY(:ids) AND t.fetch_id IS NOT NULL))
        ORDER BY f.id
        FOR NO KEY UPDATE
    ), moved AS (
        UPDATE fetches f SET poll_id = :poll_id, priority = :priority
        FROM wanted WHERE f.id = wanted.id RETURNING f.id
    )
    SELECT wanted.poll_id, count(*) AS many, bool_or(wanted.is_window) AS unswept
    FROM wanted JOIN moved USING (id) GROUP BY wanted.poll_id
""")
_LEAVE = text(f"""
    UPDATE polls SET open_fetches = open_fetches - :many, fetches = fetches - :many, taken_over_by = :taker,
        sweep_through = CASE WHEN :unswept THEN NULL ELSE sweep_through END,
        state = CASE WHEN open_fetches = :many AND planned_at IS NOT NULL AND state = 'running'
                     THEN {ended_state_sql()} ELSE state END,
        finished_at = CASE WHEN open_fetches = :many AND planned_at IS NOT NULL AND state = 'running'
                           THEN clock_timestamp() ELSE finished_at END
    WHERE id = :poll_id
""")


def take_over(
    connection: Connection, poll_id: int, account_id: str, *, hashes: Sequence[str], ids: Sequence[int], priority: int
) -> int:
    """Let an on-demand poll take over the fetches of its subject that were not sent yet; returns how many.

    Their former polls go on without them (and end, where nothing else was open) and name this one as `taken_over_by`;
    one that gave a window away vouches for no swept day any more. A page that continues a chain stays where it is.
    """
    rows = connection.execute(
        _TAKE_OVER,
        {
            "account_id": account_id,
            "poll_id": poll_id,
            "hashes": list(hashes),
            "ids": list(ids),
            "priority": priority,
        },
    ).all()
    for row in sorted(rows, key=lambda row: row.poll_id):
        left = {"poll_id": row.poll_id, "many": row.many, "unswept": row.unswept, "taker": poll_id}
        connection.execute(_LEAVE, left)
    return sum(row.many for row in rows)


_CLOSE_PLAN = text(f"""
    UPDATE polls SET planned_at = clock_timestamp(), sweep_through = :sweep_through,
        open_fetches = open_fetches + :many, fetches = fetches + :many,
        state = CASE WHEN state = 'running' AND open_fetches + :many = 0 THEN {ended_state_sql()} ELSE state END,
        finished_at = CASE WHEN state = 'running' AND open_fetches + :many = 0
                           THEN clock_timestamp() ELSE finished_at END
    WHERE id = :poll_id
""")


_MASK_IDS = text("UPDATE polls SET ids = CAST(:ids AS jsonb) WHERE id = :poll_id")


def mask_ids(connection: Connection, poll_id: int, ids: Sequence[Mapping[str, str]]) -> None:
    """Mask the numbers in the ids that a poll names: it is planned, and what it asks for is tracked."""
    connection.execute(_MASK_IDS, {"poll_id": poll_id, "ids": json_parameter(masked_ids(ids))})


def masked_ids(ids: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """These ids as a planned poll keeps them: numbers masked, so that some become equal."""
    return [{**each, "value": redact_text(each["value"])} for each in ids]


def close_plan(connection: Connection, poll_id: int, inserted: int, *, sweep_through: date | None = None) -> None:
    """Say that the poll's plan is complete. An empty plan is `complete` at once."""
    connection.execute(_CLOSE_PLAN, {"poll_id": poll_id, "many": inserted, "sweep_through": sweep_through})


_CANCEL_POLL = text("""
    UPDATE polls SET state = 'cancelled', finished_at = clock_timestamp() WHERE id = :poll_id AND state = 'running'
    RETURNING id
""")
_CANCEL_FETCHES = text(f"""
    WITH ended AS (
        UPDATE fetches SET state = 'cancelled', finished_at = clock_timestamp(), {EMPTIED}
        WHERE poll_id = :poll_id AND state = 'ready' RETURNING id
    ), freed AS (
        UPDATE tracked_ids t SET fetch_id = NULL FROM ended WHERE t.fetch_id = ended.id
    ), counted AS (
        UPDATE polls SET open_fetches = open_fetches + :uncounted - (SELECT count(*) FROM ended) WHERE id = :poll_id
    )
    SELECT count(*) FROM ended
""")


def cancel(connection: Connection, poll_id: int) -> int | None:
    """End a running poll: its ready fetches are cancelled and their ids freed; None when it was not running.

    A fetch in the air still writes its reports. The poll's lock comes first here, so whoever makes fetches of it ready
    at the same time waits at the count, sees `cancelled`, and takes them back.
    """
    if connection.execute(_CANCEL_POLL, {"poll_id": poll_id}).scalar_one_or_none() is None:
        return None
    return cancel_ready(connection, poll_id)


def cancel_ready(connection: Connection, poll_id: int, *, uncounted: int = 0) -> int:
    """Cancel the ready fetches of a poll, free their ids, and subtract them from `open_fetches`; returns how many.

    `uncounted`: how many of them this transaction has inserted without adding them to `open_fetches`.
    """
    parameters = {"poll_id": poll_id, "uncounted": uncounted}
    cancelled: int = connection.execute(_CANCEL_FETCHES, parameters).scalar_one()
    return cancelled


def cancel_if_ended(connection: Connection, poll_id: int) -> bool:
    """After a fetch was made ready again: end it with its poll where that was cancelled meanwhile; whether it was.

    Under the poll's lock, so that of a cancelling and a returning transaction the later one sees the earlier.
    """
    poll = lock_poll(connection, poll_id)
    if poll is None or poll.state == "running":
        return False
    cancel_ready(connection, poll_id)
    return True
