"""How a held fetch ends: the parts of the one finishing transaction.

Lock order of every writer: account (only where its state changes), fetch, call, deliveries sorted by key, observations,
quarantine sorted by fingerprint, tracked ids, children, poll; for the next take the account last, without waiting. The
step strings these parts together; each is one statement.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from ulak.models.account import StoredAccount, locked_sql, stored_account
from ulak.models.database import execute, execute_named, json_parameter
from ulak.models.ledger.sweep_pages import EMPTIED, ended_state_sql
from ulak.models.references import share_sql
from ulak.models.report import NewId
from ulak.models.tracked import REFERENCE, check_wholes


class FencedError(Exception):
    """The lease of this fetch is not ours any more: another worker holds or has finished it. Nothing may be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEnd:
    """How one HTTP request ended."""

    call_id: int
    endpoint: str = ""
    """What was asked, for the audit."""
    outcome: str
    http_status: int | None
    duration_seconds: float
    seconds_since: float
    """Boot-clock seconds since the answer came or was given up, read just before the statement is sent."""
    shares_references: bool = False
    """Whether reports are stored that may lack a reference (`ulak.models.references`)."""


# Held while the lease is still ours.
_HELD = """
        SELECT id, account_id FROM fetches WHERE id = %(fetch_id)s AND state = 'sending' AND lease_token = %(token)s
        FOR NO KEY UPDATE
"""
# The database's clock minus the time since the answer: later than the truth by the statement's way, never earlier.
# Where that clock was set back since the question, the request's own time tells better.
_ANSWERED = """greatest(c.asked_at + make_interval(secs => %(duration_seconds)s),
                               clock_timestamp() - make_interval(secs => %(seconds_since)s))"""
_CLOSE_CALL = f"""
    WITH held AS ({_HELD}), closed AS (
        UPDATE calls c SET answered_at = {_ANSWERED}, released_at = {_ANSWERED}, endpoint = %(endpoint)s,
            outcome = %(outcome)s, http_status = %(http_status)s, duration_seconds = %(duration_seconds)s
        FROM held WHERE c.id = %(call_id)s AND c.answered_at IS NULL
        RETURNING least(c.asked_at, clock_timestamp()) AS asked_at
    )
    SELECT closed.asked_at, CASE WHEN %(shares_references)s THEN {share_sql("held.account_id")}::text END
    FROM held LEFT JOIN closed ON true
"""


def close_call(connection: Connection, fetch_id: int, token: UUID, end: CallEnd) -> datetime | None:
    """Hold the fetch while the lease is still ours, and write how its call ended; FencedError where the lease is lost.

    The call's slot is free `per_seconds` after the answer. Returns when it was asked by the clock as it is now, which
    may have been stepped since; None for an ended call.
    """
    parameters = {name: getattr(end, name) for name in CallEnd.__slots__} | {"fetch_id": fetch_id, "token": token}
    found = execute(connection, _CLOSE_CALL, parameters).fetchone()
    if found is None:
        raise FencedError
    asked_at: datetime | None = found[0]
    return asked_at


_DROP_CALL = f"""
    WITH held AS ({_HELD}), dropped AS (
        DELETE FROM calls c USING held WHERE c.id = %(call_id)s AND c.answered_at IS NULL
    )
    SELECT clock_timestamp() FROM held
"""


def drop_call(connection: Connection, fetch_id: int, token: UUID, call_id: int) -> datetime:
    """Hold the fetch like `close_call`, and take back the row of its call, of which not a byte has left.

    It was never made, and its slot is free at once. Returns PostgreSQL's clock.
    """
    parameters = {"fetch_id": fetch_id, "token": token, "call_id": call_id}
    found = execute(connection, _DROP_CALL, parameters).fetchone()
    if found is None:
        raise FencedError
    now: datetime = found[0]
    return now


_NOW = text("SELECT clock_timestamp()")


def database_now(connection: Connection) -> datetime:
    """PostgreSQL's clock, the only one that decides."""
    now: datetime = connection.execute(_NOW).scalar_one()
    return now


_RECENT = text("""
    SELECT outcome FROM calls
    WHERE account_id = :account_id AND answered_at IS NOT NULL
      AND (CAST(:since AS timestamptz) IS NULL OR asked_at > :since)
    ORDER BY asked_at DESC LIMIT :many
""")


def recent_outcomes(connection: Connection, account_id: str, many: int, *, since: datetime | None) -> list[str]:
    """Outcomes of the account's last answered calls asked after `since`, the earliest first."""
    parameters = {"account_id": account_id, "many": many, "since": since}
    return list(connection.execute(_RECENT, parameters).scalars())[::-1]


_TRACKED = """
    WITH given AS (
        SELECT * FROM jsonb_to_recordset(CAST(%(rows)s AS jsonb)) AS g(
            id bigint, next_check_at timestamptz, found boolean, close_reason text, is_incomplete boolean,
            fingerprint text)
    ), locked AS (
        SELECT t.id, t.fetch_id = %(fetch_id)s AS is_held,
            -- A list asked later has shown a change since: this answer is too old to close the id.
            CASE WHEN t.changed_as_of > %(as_of)s THEN NULL ELSE g.close_reason END AS closing,
            CASE WHEN t.changed_as_of > %(as_of)s THEN t.next_check_at ELSE g.next_check_at END AS next_check_at,
            g.found, g.is_incomplete, g.fingerprint
        -- By the key, or the plan may read every open id to join them with the few that are given.
        FROM tracked_ids t JOIN given g USING (id) WHERE t.id = ANY(%(ids)s::bigint[]) AND t.closed_at IS NULL
        ORDER BY t.id FOR NO KEY UPDATE OF t
    )
    UPDATE tracked_ids t SET
        fetch_id = CASE WHEN l.is_held OR l.closing IS NOT NULL THEN NULL ELSE t.fetch_id END,
        checked_before_at = coalesce(t.last_checked_at, t.sent_at), last_checked_at = %(asked_at)s,
        incomplete_answers = CASE WHEN l.is_incomplete THEN t.incomplete_answers + 1 ELSE 0 END,
        answer_fingerprint = l.fingerprint,
        last_found_at = CASE WHEN l.found THEN %(asked_at)s ELSE t.last_found_at END,
        next_check_at = CASE WHEN l.closing IS NULL THEN coalesce(l.next_check_at, clock_timestamp()) END,
        closed_at = CASE WHEN l.closing IS NOT NULL THEN clock_timestamp() END,
        close_reason = l.closing
    FROM locked l WHERE t.id = l.id
    RETURNING t.account_id, t.closed_at IS NOT NULL AND t.whole <> t.value AS is_closed_part, t.whole
"""


def update_tracked(
    connection: Connection, fetch_id: int, rows: list[Mapping[str, Any]], *, asked_at: datetime, as_of: datetime
) -> None:
    """Write what an answer means for the ids it was asked for: next check, or closed with a reason.

    `asked_at`: by the clock; `as_of`: in the order of the account's requests. A whole whose last open part closes here
    becomes due (`ulak.models.tracked.check_wholes`).
    """
    if rows:
        parameters = {"rows": json_parameter(rows), "fetch_id": fetch_id, "asked_at": asked_at, "as_of": as_of}
        parameters["ids"] = [row["id"] for row in rows]
        written = execute(connection, _TRACKED, parameters)
        closed = {(account_id, whole) for account_id, is_closed_part, whole in written if is_closed_part}
        for account_id, whole in sorted(closed):
            check_wholes(connection, account_id, [whole])


_FORGET_FINGERPRINTS = text("""
    UPDATE tracked_ids SET answer_fingerprint = NULL WHERE fetch_id = :fetch_id AND answer_fingerprint IS NOT NULL
""")


def forget_fingerprints(connection: Connection, fetch_id: int) -> None:
    """An answer that was refused stands between the answers before and after it: they do not follow each other."""
    connection.execute(_FORGET_FINGERPRINTS, {"fetch_id": fetch_id})


_FREE = text("""
    UPDATE tracked_ids SET fetch_id = NULL, next_check_at = greatest(next_check_at, CAST(:not_before AS timestamptz))
    WHERE fetch_id = :fetch_id
""")


def free_tracked(connection: Connection, fetch_id: int, *, not_before: datetime | None = None) -> None:
    """Free the ids that a fetch held without an answer about them; `not_before` delays their next check."""
    connection.execute(_FREE, {"fetch_id": fetch_id, "not_before": not_before})


_DISCOVER = text("""
    INSERT INTO tracked_ids AS t
        (account_id, id_kind, value, client_ref, recipient, expected, origin, sent_at, valid_until, next_check_at,
         whole, clear)
    SELECT :account_id, id_kind, value, client_ref, recipient, expected, 'discovered', sent_at, valid_until,
           next_check_at, whole, clear
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS g(
        id_kind text, value text, client_ref text, recipient text, expected integer, sent_at timestamptz,
        valid_until timestamptz, next_check_at timestamptz, whole text, clear jsonb)
    ORDER BY id_kind, value
    ON CONFLICT (account_id, id_kind, value) DO NOTHING
""")
# An id that was registered for its reference alone becomes one to be asked for, with the times that the list states.
_OPEN_REFERENCES = text("""
    WITH given AS (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS g(
            id_kind text, value text, recipient text, expected integer, sent_at timestamptz, valid_until timestamptz,
            next_check_at timestamptz, clear jsonb)
    ), locked AS (
        SELECT t.id, g.* FROM tracked_ids t JOIN given g USING (id_kind, value)
        WHERE t.account_id = :account_id AND t.close_reason = :reference ORDER BY t.id FOR NO KEY UPDATE OF t
    )
    UPDATE tracked_ids t SET closed_at = NULL, close_reason = NULL, next_check_at = l.next_check_at,
        sent_at = l.sent_at, valid_until = l.valid_until, expected = coalesce(l.expected, t.expected),
        recipient = coalesce(t.recipient, l.recipient), clear = l.clear
    FROM locked l WHERE t.id = l.id
""")
# Separate from the insert, so that an id that is known and unchanged is neither written nor locked.
_REOPEN = text("""
    WITH given AS (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS g(id_kind text, value text, expected integer)
    ), locked AS (
        SELECT t.id, g.expected FROM tracked_ids t JOIN given g USING (id_kind, value)
        WHERE t.account_id = :account_id AND coalesce(t.close_reason, '') NOT IN ('untracked', 'erased')
        ORDER BY t.id FOR NO KEY UPDATE OF t
    )
    UPDATE tracked_ids t SET closed_at = NULL, close_reason = NULL,
        changed_as_of = greatest(t.changed_as_of, :as_of),
        announced_at = coalesce(CAST(:announced_at AS timestamptz), t.announced_at),
        next_check_at = least(coalesce(t.next_check_at, clock_timestamp()), clock_timestamp()),
        expected = coalesce(locked.expected, t.expected)
    FROM locked WHERE t.id = locked.id
""")


def discover(
    connection: Connection,
    account_id: str,
    as_of: datetime,
    rows: Sequence[NewId],
    reopened: Sequence[Mapping[str, Any]],
    *,
    announced_at: datetime | None = None,
) -> None:
    """Insert ids that an answer named; reopen those whose delivery changed, and make them due now.

    `announced_at`: when a callback spoke of these; None where an answer did.
    """
    if rows:
        given = {"account_id": account_id, "rows": json_parameter(rows)}
        if connection.execute(_DISCOVER, given).rowcount < len(rows):
            connection.execute(_OPEN_REFERENCES, given | {"reference": REFERENCE})
    if reopened:
        parameters = {
            "account_id": account_id,
            "rows": json_parameter(reopened),
            "as_of": as_of,
            "announced_at": announced_at,
        }
        connection.execute(_REOPEN, parameters)


_END_FETCH = """
    UPDATE fetches SET state = %(state)s, finished_at = clock_timestamp(), lease_token = NULL, lease_until = NULL,
        seen = %(seen)s::jsonb, page = %(page)s::jsonb, last_error = %(error)s, attempts = attempts + %(counted)s
    WHERE id = %(fetch_id)s
"""
_END_DONE = _END_FETCH.replace("WHERE", f", {EMPTIED} WHERE")


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchEnd:
    """The last state of a fetch: `done`, `dead` or `cancelled`."""

    fetch_id: int
    state: str
    seen: tuple[str, ...] = ()
    page: Mapping[str, Any] | None = None
    error: str | None = None
    counted: bool = False

    def parameters(self) -> dict[str, Any]:
        """Of the statement."""
        return {
            "fetch_id": self.fetch_id,
            "state": self.state,
            "seen": json_parameter(list(self.seen)) if self.seen else None,
            "page": json_parameter(self.page) if self.page is not None else None,
            "error": self.error,
            "counted": int(self.counted),
        }


def end_fetch(connection: Connection, end: FetchEnd) -> None:
    """Put the fetch into its last state."""
    execute(connection, _END_DONE if end.state == "done" else _END_FETCH, end.parameters())


_RETURN = text("""
    UPDATE fetches f SET state = 'ready', available_at = :available_at, lease_token = NULL,
        lease_until = NULL, attempts = attempts + :counted, last_error = :error, claims = :claims,
        params = coalesce(CAST(:params AS jsonb), params), params_hash = coalesce(:params_hash, params_hash),
        label = coalesce(:label, label), round = round + :rounds
    WHERE f.id = :fetch_id AND NOT EXISTS (
        SELECT 1 FROM fetches o
        WHERE o.account_id = f.account_id AND o.params_hash = coalesce(:params_hash, f.params_hash)
          AND o.state = 'ready' AND o.id <> f.id)
    RETURNING id
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """What a fetch asks for when the pages that it ended are read again from the first one, in a new round."""

    params: Mapping[str, Any] = field(repr=False)
    params_hash: str
    label: str


def return_fetch(
    connection: Connection,
    fetch_id: int,
    *,
    available_at: datetime,
    error: str,
    counted: bool,
    claims: int = 0,
    restart: Restart | None = None,
) -> bool:
    """Make the fetch ready again from `available_at` on. It came to an end by itself, so the claims start anew.

    False when another fetch with equal params stands ready meanwhile: then this one is to be ended instead. The caller
    counts the poll next, whose lock shows whether it was cancelled meanwhile (`opening.cancel_if_ended`).
    """
    parameters = {
        "fetch_id": fetch_id,
        "available_at": available_at,
        "error": error,
        "counted": int(counted),
        "claims": claims,
        "params": None if restart is None else json_parameter(restart.params),
        "params_hash": None if restart is None else restart.params_hash,
        "label": None if restart is None else restart.label,
        "rounds": int(restart is not None),
    }
    return connection.execute(_RETURN, parameters).scalar_one_or_none() is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class PollCounts:
    """What one finished fetch adds to its poll."""

    ended: int = 0
    children: int = 0
    dead: int = 0
    calls: int = 0
    reports: int = 0
    new: int = 0
    advanced: int = 0
    unchanged: int = 0
    drifting: bool = False
    unswept: bool = False
    """A window of the plan was left to another poll: this one cannot vouch for the days it planned to sweep."""


_IS_LAST = "state = 'running' AND planned_at IS NOT NULL AND open_fetches - %(ended)s + %(children)s = 0"
_COUNT = f"""
    UPDATE polls SET
        open_fetches = open_fetches - %(ended)s + %(children)s, fetches = fetches + %(children)s,
        dead = dead + %(dead)s, calls = calls + %(calls)s, reports = reports + %(reports)s, new = new + %(new)s,
        advanced = advanced + %(advanced)s, unchanged = unchanged + %(unchanged)s,
        drifting = drifting OR %(drifting)s, sweep_through = CASE WHEN %(unswept)s THEN NULL ELSE sweep_through END,
        state = CASE WHEN {_IS_LAST}
            THEN {ended_state_sql("dead + %(dead)s", "(drifting OR %(drifting)s)")} ELSE state END,
        finished_at = CASE WHEN {_IS_LAST} THEN clock_timestamp() ELSE finished_at END
    WHERE id = %(poll_id)s
    RETURNING account_id, CASE WHEN open_fetches = 0 AND state LIKE 'complete%%' THEN state END AS ended
"""
# The fetch is held already, so it does not matter whether it or the poll is written first. The account comes last and
# without waiting, since its holder may be waiting for the poll: LATERAL makes PostgreSQL lock it after the poll.
_DONE_AND_COUNT = f"""
    WITH end_of_fetch AS ({_END_DONE}), counted AS ({_COUNT})
    SELECT counted.ended, account.* FROM counted
    LEFT JOIN LATERAL ({locked_sql("counted.account_id")} SKIP LOCKED) account ON true
"""
_END_AND_COUNT = _DONE_AND_COUNT.replace(_END_DONE, _END_FETCH)


def count_poll(connection: Connection, poll_id: int, counts: PollCounts) -> str | None:
    """Add the counts; the finisher that brings `open_fetches` to 0 ends the poll.

    Returns the last state where the poll ended here.
    """
    ended: str | None
    [[_, ended]] = execute(connection, _COUNT, _counted(poll_id, counts))
    return ended


def end_and_count(
    connection: Connection, poll_id: int, counts: PollCounts, end: FetchEnd
) -> tuple[str | None, StoredAccount | None]:
    """End a fetch that this transaction holds, count its poll, and lock the account for the take, in one statement.

    Returns what `count_poll` does, and the account for `taking.take`; None where another holds it.
    """
    statement = _DONE_AND_COUNT if end.state == "done" else _END_AND_COUNT
    [found] = execute_named(connection, statement, _counted(poll_id, counts) | end.parameters())
    ended: str | None = found.pop("ended")
    return ended, None if found["id"] is None else stored_account(found)


def _counted(poll_id: int, counts: PollCounts) -> dict[str, Any]:
    return {name: getattr(counts, name) for name in PollCounts.__slots__} | {"poll_id": poll_id}


_CHANGEABLE = (
    "breaker_state",
    "breaker_failures",
    "breaker_trips",
    "breaker_until",
    "throttles",
    "not_before",
    "paused_until",
    "pause_reason",
    "paused_by",
    "refusals",
    "pause_changed_at",
    "last_trouble",
    "last_trouble_at",
)
_ACCOUNT = text(f"""
    UPDATE accounts SET {", ".join(f"{column} = :{column}" for column in _CHANGEABLE)},
        learned = learned || CAST(:learned AS jsonb)
    WHERE id = :account_id
""")


def update_account(connection: Connection, account: StoredAccount, changes: Mapping[str, Any]) -> None:
    """Write changed columns of a locked account; `learned` is merged into what is there."""
    values = {column: changes.get(column, getattr(account, column)) for column in _CHANGEABLE}
    values["learned"] = json_parameter(changes.get("learned", {}))
    connection.execute(_ACCOUNT, values | {"account_id": account.id})
