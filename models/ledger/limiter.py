"""The rate limiter is the ledger of calls.

A call may be made when, under the account's row lock, fewer than `requests` rows of `calls` are busy and fewer than
`concurrency` are unanswered. A row is busy until `released_at + per_seconds`, where `released_at` is the moment at
which the request was answered, or given up (asked_at + deadline) while no answer is known. So two arrivals on one
slot are at least `per_seconds` apart at the provider, whatever the network does, and with `requests` slots no sliding
window can hold more. Precondition: a request reaches the provider before its answer or its deadline.

It is durable, needs no clock but PostgreSQL's, and no recovery after a crash. That this clock was stepped is noticed
before a call is allowed (`clockwatch`), and what was stored before is moved with it (`clocksteps`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, RowMapping, text

from core import clock
from models.ledger.clockwatch import TOLERATED_SECONDS, ClockWatch, Reading
from models.ledger.sharing import PRESSURE_COLUMNS, PRESSURE_PARAMETERS, threads_left
from models.permit import DEFAULT_DEADLINE_SECONDS, LONGEST_DEADLINE_SECONDS, Permit


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountState:
    """The changing part of an account as it was when a call was allowed."""

    breaker_state: str
    breaker_failures: int
    throttles: int

    @property
    def is_clean(self) -> bool:
        """Whether a success has nothing to reset."""
        return self.breaker_state == "closed" and self.breaker_failures == 0 and self.throttles == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A fetch that this worker now holds, with the call row that permits its one request."""

    fetch_id: int
    poll_id: int
    account_id: str
    kind: str
    params: Mapping[str, Any] = field(repr=False)
    label: str
    round: int
    priority: int
    attempts: int
    claims: int
    lease_token: UUID
    asked_at: datetime
    as_of: datetime
    """When the question was asked, in the order of the account's questions: it never decreases, and after a step of the
    clock back it runs ahead of the clock until that has caught up. What an answer states is true as of it."""
    permit: Permit
    state: AccountState


@dataclass(frozen=True, slots=True, kw_only=True)
class NotYet:
    """The account may not be asked now; the fetch stays ready and nothing was counted."""

    account_id: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    """The database's clock was stepped: no call may be made before that is settled. Nothing was counted."""

    account_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """Nothing to do: the fetch is not ready (a repeated or late hint), or it does not exist."""


_LOCK_ACCOUNT = text("""
    SELECT f.state AS fetch_state, f.available_at, f.account_id,
           a.enabled, a.paused_until, a.not_before, a.breaker_state, a.breaker_until, a.breaker_failures,
           a.throttles, a.last_asked_at, a.limit_requests, a.limit_per_seconds, a.limit_concurrency,
           CAST(a.options ->> 'deadline_seconds' AS double precision) AS deadline_seconds
    FROM fetches f JOIN accounts a ON a.id = f.account_id
    WHERE f.id = :fetch_id
    FOR NO KEY UPDATE OF a
""")

# Run after the lock is held, so its snapshot holds every call that was committed before.
_LOOK = text(f"""
    WITH t AS MATERIALIZED (SELECT clock_timestamp() AS now)
    SELECT t.now, {PRESSURE_COLUMNS},
           (SELECT count(*) FROM calls c
             WHERE c.account_id = :account_id AND c.answered_at IS NULL AND c.gives_up_at > t.now) AS unanswered,
           EXISTS (SELECT 1 FROM calls c
             WHERE c.account_id = :account_id
               AND c.released_at > t.now - make_interval(secs => :per_seconds)
             ORDER BY c.released_at DESC OFFSET :other_slots LIMIT 1) AS is_full
    FROM t
""")

_TAKE = text("""
    WITH t AS MATERIALIZED (SELECT clock_timestamp() AS now), moment AS MATERIALIZED (
        SELECT t.now AS asked_at,
            greatest(t.now, greatest(a.last_as_of, a.last_asked_at) + interval '1 microsecond') AS as_of
        FROM accounts a, t WHERE a.id = :account_id
    ), taken AS (
        UPDATE fetches f
        SET state = 'sending', lease_token = CAST(:token AS uuid), claims = f.claims + 1, hinted_at = NULL,
            lease_until = m.asked_at + make_interval(secs => :lease_seconds)
        FROM moment m
        WHERE f.id = :fetch_id AND f.state = 'ready'
        RETURNING f.*
    ), called AS (
        INSERT INTO calls (account_id, fetch_id, endpoint, asked_at, gives_up_at, released_at)
        SELECT taken.account_id, taken.id, :endpoint, m.asked_at,
               m.asked_at + make_interval(secs => :deadline), m.asked_at + make_interval(secs => :deadline)
        FROM taken, moment m
        RETURNING id
    ), account AS (
        UPDATE accounts a SET last_asked_at = m.asked_at, last_as_of = m.as_of, breaker_state = :breaker_state
        FROM called, moment m WHERE a.id = :account_id
    )
    SELECT taken.*, called.id AS call_id, m.asked_at, m.as_of FROM taken, called, moment m
""")

_UNHINT = text("UPDATE fetches SET hinted_at = NULL WHERE id = :fetch_id AND state = 'ready'")


def take(
    connection: Connection,
    fetch_id: int,
    *,
    watch: ClockWatch,
    lease_margin_seconds: float,
    endpoint: str = "",
) -> Taken | NotYet | Stepped | Gone:
    """Turn a ready fetch into a held one and write its call row, in one, if the account may be asked now.

    The caller commits at once: no byte leaves before. The lease lasts deadline + `lease_margin_seconds`; whoever
    finishes later than that may find that another worker holds the fetch (`lease_token` differs). `endpoint`: what is
    asked, for the audit. `watch`: of this process; after `Stepped` the step is to be settled first.
    """
    row = connection.execute(_LOCK_ACCOUNT, {"fetch_id": fetch_id}).mappings().one_or_none()
    if row is None or row["fetch_state"] != "ready":
        return Gone()
    watch.begin(connection)
    deadline = min(row["deadline_seconds"] or DEFAULT_DEADLINE_SECONDS, LONGEST_DEADLINE_SECONDS)
    before_look = clock.boot()
    found = connection.execute(
        _LOOK,
        {
            "account_id": row["account_id"],
            "per_seconds": row["limit_per_seconds"],
            "other_slots": row["limit_requests"] - 1,
        }
        | PRESSURE_PARAMETERS,
    )
    look = found.mappings().one()
    reading = Reading.between(before_look, look["now"], clock.boot())
    if watch.has_stepped(reading) or _lies_ahead(row["last_asked_at"], look["now"]):
        connection.execute(_UNHINT, {"fetch_id": fetch_id})
        return Stepped(account_id=row["account_id"])
    why = _why_not(row, look)
    if why is None and not threads_left(connection, row["account_id"], look, mine=look["unanswered"], wanted=1):
        why = "threads used"
    if why is not None:
        connection.execute(_UNHINT, {"fetch_id": fetch_id})
        return NotYet(account_id=row["account_id"], why=why)
    # Read before the row is written: the second that the door allows begins at the latest possible commit or earlier.
    before_commit = clock.boot()
    taken = (
        connection.execute(
            _TAKE,
            {
                "account_id": row["account_id"],
                "fetch_id": fetch_id,
                "token": str(uuid4()),
                "endpoint": endpoint,
                "deadline": deadline,
                "lease_seconds": deadline + lease_margin_seconds,
                "breaker_state": "closed" if row["breaker_state"] == "closed" else "probing",
            },
        )
        .mappings()
        .one_or_none()
    )
    return Gone() if taken is None else _taken(taken, row, deadline, before_commit)


def _lies_ahead(moment: datetime | None, now: datetime) -> bool:
    """Whether what has happened lies in the future: then the clock was set back, whether anybody saw it or not."""
    return moment is not None and moment > now + timedelta(seconds=TOLERATED_SECONDS)


def _why_not(row: RowMapping, look: RowMapping) -> str | None:
    """Why the account may not be asked now; None when it may."""
    now: datetime = look["now"]
    unanswered: int = look["unanswered"]
    reasons = {
        "disabled": not row["enabled"],
        "waiting for its retry": row["available_at"] > now + timedelta(milliseconds=1),
        "paused": (row["paused_until"] or now) > now,
        "throttled": (row["not_before"] or now) > now,
        "breaker open": row["breaker_state"] != "closed" and (unanswered > 0 or (row["breaker_until"] or now) > now),
        "limit used": look["is_full"],
        "concurrency used": unanswered >= row["limit_concurrency"],
    }
    return next((why for why, holds in reasons.items() if holds), None)


def _taken(taken: RowMapping, account: RowMapping, deadline: float, before_commit: float) -> Taken:
    """The record of a taken fetch."""
    return Taken(
        fetch_id=taken["id"],
        poll_id=taken["poll_id"],
        account_id=taken["account_id"],
        kind=taken["kind"],
        params=taken["params"],
        label=taken["label"],
        round=taken["round"],
        priority=taken["priority"],
        attempts=taken["attempts"],
        claims=taken["claims"],
        lease_token=taken["lease_token"],
        asked_at=taken["asked_at"],
        as_of=taken["as_of"],
        permit=Permit(
            call_id=taken["call_id"],
            account_id=taken["account_id"],
            asked_at=taken["asked_at"],
            committed_boot=before_commit,
            deadline_seconds=deadline,
        ),
        state=AccountState(
            breaker_state="closed" if account["breaker_state"] == "closed" else "probing",
            breaker_failures=account["breaker_failures"],
            throttles=account["throttles"],
        ),
    )
