"""What an account's checks have shown of its messages' latencies: read in bulk, kept as a few numbers.

Nothing more is written per call: a closed id holds the two checks between which it became final. Reading costs one scan
of what was closed since the last time, and one of what is open; the database counts both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from ulak.models.account import IS_ADAPTIVE, TIME_FACTOR, StoredAccount
from ulak.models.callback_shares import CLOSED_AGAIN
from ulak.models.database import json_parameter

SETTLES_SECONDS = 10.0
"""`closed_at` is set before the commit: an id that was closed within this time may not be visible yet."""

# Ids of one message each: an id of several shows nothing about a single one.
# Where a list or a callback made the id due, its checks bracket nothing; but a callback shows the moment itself.
_OF_ONE = """(t.id_kind = ANY(:kinds) OR t.expected = 1) AND t.whole IS DISTINCT FROM t.value
      AND (t.changed_as_of IS NULL OR t.announced_at > t.sent_at)"""
_ANNOUNCED = "t.announced_at >= t.checked_before_at"

# What the index of closed ids holds: not those that an earlier version has closed.
_NOTED = "t.close_reason = 'final' AND t.checked_before_at IS NOT NULL"
_CANDIDATES = text(f"""
    SELECT a.id FROM accounts a
    LEFT JOIN LATERAL (SELECT min(l.read_through) AS at FROM latencies l WHERE l.account_id = a.id) seen ON true
    WHERE a.enabled AND {IS_ADAPTIVE}
      AND EXISTS (SELECT FROM tracked_ids t WHERE t.account_id = a.id AND {_NOTED}
            AND t.closed_at > coalesce(seen.at, statement_timestamp() - interval '1 day'))
    ORDER BY a.id
""")
_LOCK = text("SELECT pg_try_advisory_xact_lock(:lock, hashtext(:account_id))")
_ADVISORY = 0x756C6165
_KNOWN = text("SELECT id_kind, learned, read_through FROM latencies WHERE account_id = :account_id ORDER BY id_kind")
# Every kind, whether it shows anything or not: from its row on, only what is closed after it is read.
_BEGIN = text(f"""
    INSERT INTO latencies (account_id, id_kind, learned, read_through)
    SELECT DISTINCT t.account_id, t.id_kind, CAST('{{}}' AS jsonb), CAST(:now AS timestamptz) FROM tracked_ids t
    WHERE t.account_id = :account_id AND {_NOTED} AND t.closed_at > coalesce(
        (SELECT min(l.read_through) FROM latencies l WHERE l.account_id = :account_id),
        CAST(:now AS timestamptz) - interval '1 day')
    ON CONFLICT DO NOTHING
""")
PLAN_FORM = 1
"""To be raised with the form of `accounts.poll_plan`: a plan of another version is not read."""
# SQL: whether the plan of the account `a` was made for the settings that it has now (`settings`).
_IN_FORCE = f"a.poll_plan -> 'settings' = jsonb_build_object('form', {PLAN_FORM}, 'poll', a.poll, 'options', a.options)"
DUE_SINCE = f"""
    CASE WHEN {IS_ADAPTIVE}
          AND {_IN_FORCE} AND a.poll_plan #> ARRAY['kinds', t.id_kind, 'masses'] IS NOT NULL
          AND (t.expected = 1 OR a.poll_plan -> 'of_one' @> to_jsonb(t.id_kind))
          AND (t.last_checked_at IS NOT NULL OR a.poll ->> 'first_check_seconds' IS NULL)
        THEN greatest(t.next_check_at, least(t.valid_until, coalesce(t.last_checked_at, t.sent_at) + make_interval(
            secs => CAST(a.poll ->> 'max_check_seconds' AS double precision)
                * {TIME_FACTOR})))
        ELSE t.next_check_at END
"""
"""SQL: since when an id `t` of the account `a` that is due should have been asked for.

One that may wait until its batch is worth a call has only its bounds to keep, a configured wait and the end of its
validity: for it this may lie ahead.
"""


def _edge(seconds: str) -> str:
    """SQL: `ulak.schedules.latency.edge`."""
    power = f"log(greatest({seconds}, 0.5)::double precision)"
    return f"""CASE WHEN {seconds} < 0.5 THEN 0
        ELSE least(:longest, greatest(1, 1 + round(:per_decade * {power})::integer))
        END"""


_AGE = "extract(epoch FROM {} - t.sent_at)::double precision / :factor"
_LEFT = "greatest(t.checked_before_at, t.announced_at)"
_RIGHT = f"(CASE WHEN {_ANNOUNCED} THEN t.announced_at ELSE t.last_checked_at END)"
_CLOSED = text(f"""
    SELECT width_bucket(t.sent_at, CAST(:groups AS timestamptz[])) AS "group",
        CASE WHEN {_LEFT} >= t.valid_until THEN :longest ELSE {_edge(_AGE.format(_LEFT))} END AS first,
        CASE WHEN {_RIGHT} >= t.valid_until THEN -1 ELSE {_edge(_AGE.format(_RIGHT))} END AS last, count(*) AS many
    FROM tracked_ids t
    WHERE t.account_id = :account_id AND t.id_kind = :kind AND {_NOTED}
      AND t.closed_at > :after AND t.closed_at <= :until AND {_OF_ONE}
      AND (t.changed_as_of IS NULL OR {_ANNOUNCED}) AND NOT {CLOSED_AGAIN}
    GROUP BY 1, 2, 3
""")
_OPEN_AGE = _AGE.format("coalesce(t.last_checked_at, t.sent_at)")
_OPEN = text(f"""
    SELECT width_bucket(t.sent_at, CAST(:groups AS timestamptz[])) AS "group",
        CASE WHEN t.last_checked_at >= t.valid_until THEN :longest ELSE {_edge(_OPEN_AGE)} END AS first,
        count(*) AS many
    FROM tracked_ids t
    WHERE t.account_id = :account_id AND t.id_kind = :kind AND t.closed_at IS NULL
      AND t.sent_at >= :since AND t.sent_at <= :until AND {_OF_ONE}
    GROUP BY 1, 2
""")
_WAITING = text("""
    SELECT (SELECT count(*) FROM tracked_ids WHERE account_id = :account_id AND closed_at IS NULL AND fetch_id IS NULL
              AND next_check_at <= statement_timestamp()) AS due,
           (SELECT count(*) FROM fetches WHERE account_id = :account_id AND state = 'ready'
              AND available_at <= statement_timestamp()) AS ready
""")
_STORE = text("""
    UPDATE latencies SET learned = coalesce(CAST(:learned AS jsonb), learned), read_through = :until
    WHERE account_id = :account_id AND id_kind = :kind
""")
_PLAN = text("UPDATE accounts SET poll_plan = CAST(:plan AS jsonb) WHERE id = :account_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How ages become edges: of `ulak.schedules.latency`, and the account's `time_factor`."""

    per_decade: int
    longest: int
    factor: float
    kinds: Sequence[str]
    """Kinds of ids that name one message each."""


class Known(NamedTuple):
    """What is stored of a kind of ids."""

    id_kind: str
    learned: Mapping[str, Any]
    read_through: datetime


class ClosedIds(NamedTuple):
    """How many ids of a group became final between two edges; `last` -1: at the end of validity."""

    group: int
    first: int
    last: int
    many: int


class OpenIds(NamedTuple):
    """How many ids of a group were open at an edge."""

    group: int
    first: int
    many: int


def candidates(connection: Connection) -> list[str]:
    """Adaptive accounts of which an id was closed since the last time they learned; one probe each."""
    return list(connection.execute(_CANDIDATES).scalars())


def lock(connection: Connection, account_id: str) -> bool:
    """Whether this transaction is the only one that learns about the account; does not wait."""
    return bool(connection.execute(_LOCK, {"lock": _ADVISORY, "account_id": account_id}).scalar_one())


def known(connection: Connection, account_id: str, now: datetime) -> Sequence[Known]:
    """What is stored of each kind; a kind of which ids were closed first gets an empty row, and is learned from now."""
    connection.execute(_BEGIN, {"account_id": account_id, "now": now})
    return [Known(*row) for row in connection.execute(_KNOWN, {"account_id": account_id})]


def closed(
    connection: Connection,
    account_id: str,
    kind: str,
    scale: Scale,
    *,
    groups: Sequence[datetime],
    window: tuple[datetime, datetime],
) -> Sequence[ClosedIds]:
    """Ids closed in the window (after, until], counted by group, `first` and `last` edge."""
    after, until = window
    given = _given(account_id, kind, scale, groups) | {"after": after, "until": until}
    return [ClosedIds(*row) for row in connection.execute(_CLOSED, given)]


def still_open(
    connection: Connection, account_id: str, kind: str, scale: Scale, *, groups: Sequence[datetime], until: datetime
) -> Sequence[OpenIds]:
    """Open ids sent since the first group began, counted by group and `first`, the edge at their last check."""
    given = _given(account_id, kind, scale, groups) | {"since": groups[0], "until": until}
    return [OpenIds(*row) for row in connection.execute(_OPEN, given)]


def _given(account_id: str, kind: str, scale: Scale, groups: Sequence[datetime]) -> dict[str, Any]:
    return {
        "account_id": account_id,
        "kind": kind,
        "groups": list(groups),
        "kinds": list(scale.kinds),
        "per_decade": scale.per_decade,
        "longest": scale.longest,
        "factor": scale.factor,
    }


def waiting(connection: Connection, account_id: str) -> tuple[int, int]:
    """(ids that are due and in no fetch, fetches that could be made now)."""
    row = connection.execute(_WAITING, {"account_id": account_id}).one()
    return row.due, row.ready


def store(
    connection: Connection, account_id: str, kind: str, learned: Mapping[str, Any] | None, *, until: datetime
) -> None:
    """Keep what is known of a kind (None: what it was), with everything counted that was closed until then."""
    given = {"account_id": account_id, "kind": kind, "until": until}
    connection.execute(_STORE, given | {"learned": None if learned is None else json_parameter(learned)})


def settings(account: StoredAccount) -> dict[str, Any]:
    """The settings of an account for which a plan is made. Under others it is not in force, since it may break them."""
    return {"form": PLAN_FORM, "poll": account.poll, "options": account.options}


def in_force(account: StoredAccount) -> Mapping[str, Any]:
    """The account's plan; empty where it was made for other settings, or by a version that has another form of it."""
    stored: Mapping[str, Any] = account.poll_plan
    return stored if stored.get("settings") == settings(account) else {}


def plan(connection: Connection, account_id: str, poll_plan: Mapping[str, Any]) -> None:
    """Let the account's ids be checked by this plan: the last lock of a transaction that learns."""
    connection.execute(_PLAN, {"account_id": account_id, "plan": json_parameter(poll_plan)})
