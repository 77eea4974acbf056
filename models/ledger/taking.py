"""Decides about an account's next call. The rows of `calls` are the rate limiter.

A call may be made when, under the account's row lock, fewer than `requests` rows of `calls` are busy and fewer than
`concurrency` are unanswered. A row is busy until `released_at + per_seconds`, where `released_at` is the moment at
which the request was answered, or its deadline while no response is known. So two requests on one slot arrive at
least `per_seconds` apart at the provider, whatever the network does, and with `requests` slots no sliding
window can hold more. Precondition: a request reaches the provider before its answer or its deadline.

It is durable, needs no clock but PostgreSQL's, and no recovery after a crash. A step of this clock is detected
before a call is permitted (`clockwatch`), and the stored times are shifted with it (`clocksteps`).

A take that is refused for now, or that leaves room for another call, publishes one message: work waits as rows, and
at most one message of an account is in flight. `accounts.wake_at` is its due time; a message that was not consumed
within `MESSAGE_TTL_SECONDS` counts as lost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection

from ulak.core import clock
from ulak.models.account import StoredAccount, try_lock
from ulak.models.database import execute, execute_named
from ulak.models.ledger.clockwatch import TOLERATED_SECONDS, ClockWatch, Reading
from ulak.models.ledger.deciding import Decision, Seen, decide, look
from ulak.models.ledger.sharing import CROWDED_TTL_SECONDS
from ulak.models.ledger.sweep_pages import seen_in_chain
from ulak.models.permit import Permit
from ulak.models.tracked import IDS_OF_FETCH, AskedId, ids_of_fetch

MESSAGE_TTL_SECONDS = 5.0
"""After this a message that was not consumed counts as lost."""
TIMER_CAP_SECONDS = 5.0
"""The longest delay of a message; `upkeep.reconcile` finds what is due later."""
EARLY = timedelta(milliseconds=20)
"""Due times of messages that are this close count as equal."""
BUSY_WAITS = (0.001, 0.002, 0.004, 0.008)
"""Seconds between attempts to lock an account held by another transaction, where waiting for locks is not allowed."""
BUSY_SECONDS = 0.1
"""When to try again if another transaction holds the chosen fetch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeUp:
    """A message to publish after the commit: start draining the account, with this fetch, in `delay_seconds`."""

    account_id: str
    fetch_id: int
    kind: str
    label: str
    delay_seconds: float


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
    """The logical time of the request: it never decreases within an account, and after a backward step of the clock it
    runs ahead until the clock has caught up. A response is true as of this time."""
    permit: Permit
    account: StoredAccount = field(repr=False)
    has_dead: bool
    """Whether the account has dead letters."""
    tracked: Sequence[AskedId] = field(repr=False)
    """The ids that it polls."""
    seen_before: Mapping[str, int] = field(repr=False)
    wake_up: WakeUp | None = None
    """Set if another thread could make a further call of this account meanwhile, now or soon."""

    @property
    def is_clean(self) -> bool:
        """Whether a success leaves nothing to reset in the account's row."""
        account = self.account
        return account.breaker_state == "closed" and account.breaker_failures == account.throttles == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NotYet:
    """No call may be made now, or there is none to make; nothing was counted."""

    account_id: str
    why: str
    wake_up: WakeUp | None = None
    """The next attempt, unless a response or a message in flight triggers it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    """The database's clock was stepped: no call may be made until that is settled. Nothing was counted or written."""

    account_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """Another transaction holds the account: repeat in a separate transaction, which may wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """There is no such fetch or account."""


TakeResult = Taken | NotYet | Stepped | Busy | Gone
"""The result of a take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseHolder:
    """The taking process: its clock watch, and how long its leases last beyond the deadline."""

    watch: ClockWatch = field(repr=False)
    lease_margin_seconds: float


LEFT_TO_ANOTHER_THREAD = "left to another thread"

_ACCOUNT_OF = "SELECT account_id FROM fetches WHERE id = %(fetch_id)s"

_KEPT = ("poll_id", "account_id", "kind", "params", "label", "round", "priority", "attempts", "claims", "lease_token")
# Never waits for a fetch: this may be the end of a transaction that holds a poll, for which its holder may wait.
_PERMIT = f"""
    WITH t AS MATERIALIZED (SELECT clock_timestamp() AS now), moment AS MATERIALIZED (
        SELECT now AS asked_at, greatest(now, %(latest)s::timestamptz + interval '1 microsecond') AS as_of FROM t
    ), chosen AS (
        SELECT id FROM fetches WHERE id = %(fetch_id)s AND state = 'ready' FOR NO KEY UPDATE SKIP LOCKED
    ), taken AS (
        UPDATE fetches f
        SET state = 'sending', lease_token = %(token)s, claims = f.claims + 1,
            lease_until = m.asked_at + make_interval(secs => %(lease_seconds)s)
        FROM chosen, moment m WHERE f.id = chosen.id
        RETURNING f.*
    ), called AS (
        INSERT INTO calls (account_id, fetch_id, asked_at, gives_up_at, released_at)
        SELECT taken.account_id, taken.id, m.asked_at,
               m.asked_at + make_interval(secs => %(deadline)s), m.asked_at + make_interval(secs => %(deadline)s)
        FROM taken, moment m
        RETURNING id
    ), account AS (
        UPDATE accounts a SET last_asked_at = m.asked_at, last_as_of = m.as_of, breaker_state = %(breaker_state)s,
            wake_at = %(wake_at)s, crowded_at = %(crowded_at)s
        FROM called, moment m WHERE a.id = %(account_id)s
    )
    SELECT taken.id AS fetch_id, {", ".join(f"taken.{name}" for name in _KEPT)}, m.asked_at, m.as_of,
        called.id AS call_id, {IDS_OF_FETCH} AS tracked
    FROM taken, called, moment m
"""

_NOTE = "UPDATE accounts SET wake_at = %(wake_at)s, crowded_at = %(crowded_at)s WHERE id = %(account_id)s"


def take(
    connection: Connection,
    holder: LeaseHolder | None,
    *,
    account_id: str | None = None,
    fetch_id: int | None = None,
    by_message: bool = False,
    may_wait: bool = True,
    account: StoredAccount | None = None,
) -> TakeResult:
    """Lease the best ready fetch of an account and write its call row, in one statement, if a call may be made now.

    The account is given by its id, or by that of its first fetch. The caller commits before it sends the request.
    The lease lasts deadline + margin; a worker that finishes later may find that another one holds the fetch
    (`lease_token` differs). After `Stepped` the step is to be settled first.

    `holder` None: only decide, and let another thread take by a message (`NotYet.wake_up`). `by_message`: a message
    led here, so none is in flight any more, unless one is due later; without a holder, none at all.
    `may_wait` False: at the end of a transaction that holds other locks, and must not wait for the account. `account`:
    where this transaction has locked it already (`ending.end_and_count`).
    """
    account = account or _locked(connection, account_id or _account_of(connection, fetch_id), may_wait=may_wait)
    if account is None:
        return Gone() if may_wait else Busy()
    if holder is not None:
        holder.watch.begin(connection)
    before_look = clock.boot()
    seen = look(connection, account, fetch_id)
    now = seen.now
    if holder is not None:
        reading = Reading.between(before_look, now, clock.boot())
        if holder.watch.has_stepped(reading) or _is_in_the_future(account.last_asked_at, now):
            return Stepped(account_id=account.id)
    armed = account.wake_at
    if by_message and armed is not None and (holder is None or armed <= now + EARLY):
        armed = None
    decision = decide(connection, account, seen)
    if decision.why is None and holder is not None:
        taken = _permit(connection, holder, account, seen, decision, armed=armed)
        if taken is not None:
            return taken
    if decision.why is None:
        why, wait = (LEFT_TO_ANOTHER_THREAD, 0.0) if holder is None else ("busy", BUSY_SECONDS)
        decision = replace(decision, why=why, at=now + timedelta(seconds=wait), next=decision.fetch)
    noted, wake_up = _noted(account, now, decision, armed)
    if noted != {"wake_at": account.wake_at, "crowded_at": account.crowded_at}:
        execute(connection, _NOTE, noted | {"account_id": account.id})
    return NotYet(account_id=account.id, why=decision.why or "", wake_up=wake_up)


def _account_of(connection: Connection, fetch_id: int | None) -> str | None:
    found = execute(connection, _ACCOUNT_OF, {"fetch_id": fetch_id}).fetchone()
    return None if found is None else str(found[0])


def _locked(connection: Connection, account_id: str | None, *, may_wait: bool) -> StoredAccount | None:
    """The account, locked; without `may_wait` only if it can be had within `BUSY_WAITS`.

    Giving up immediately would be expensive: a take in a separate transaction holds the row when the next finisher
    comes, which then needs such a transaction too, and so on.
    """
    if account_id is None:
        return None
    account = try_lock(connection, account_id, may_wait=may_wait)
    for wait in () if may_wait else BUSY_WAITS:
        if account is not None:
            break
        clock.sleep(wait)
        account = try_lock(connection, account_id, may_wait=False)
    return account


def wake(connection: Connection, account_id: str, *, by_message: bool = False) -> WakeUp | None:
    """The message that makes the account continue, now or at its next attempt.

    None if it has nothing to do, or if such a message is in flight, unless `by_message`.
    """
    found = take(connection, None, account_id=account_id, by_message=by_message)
    return found.wake_up if isinstance(found, NotYet) else None


def _is_in_the_future(moment: datetime | None, now: datetime) -> bool:
    """Whether a past event is in the future: then the clock was set back, noticed or not."""
    return moment is not None and moment > now + timedelta(seconds=TOLERATED_SECONDS)


def _noted(
    account: StoredAccount, now: datetime, decision: Decision, armed: datetime | None
) -> tuple[dict[str, datetime | None], WakeUp | None]:
    """The account's columns to update, and the message to publish.

    The message is None if one is already in flight: `armed` is its due time.
    """
    noted: dict[str, datetime | None] = {"wake_at": armed, "crowded_at": None}
    if decision.is_crowded:
        noted_at = account.crowded_at
        is_fresh = noted_at is not None and noted_at > now - timedelta(seconds=CROWDED_TTL_SECONDS / 2)
        noted["crowded_at"] = noted_at if is_fresh else now
    at, fetch = decision.at, decision.next
    if at is None or fetch is None or at > now + timedelta(seconds=TIMER_CAP_SECONDS):
        return noted, None
    if armed is not None and now - timedelta(seconds=MESSAGE_TTL_SECONDS) < armed <= at + EARLY:
        return noted, None
    noted["wake_at"] = at
    delay = max(0.0, (at - now).total_seconds())
    return noted, WakeUp(
        account_id=account.id, fetch_id=fetch.id, kind=fetch.kind, label=fetch.label, delay_seconds=delay
    )


def _permit(
    connection: Connection,
    holder: LeaseHolder,
    account: StoredAccount,
    seen: Seen,
    decision: Decision,
    *,
    armed: datetime | None,
) -> Taken | None:
    """Lease the fetch and write its call row; None if another transaction holds it or has just ended it."""
    if decision.fetch is None:
        return None
    deadline = account.deadline_seconds
    noted, wake_up = _noted(account, seen.now, decision, armed)
    # Read before the row is written: the permit's second must begin no later than the commit.
    before_commit = clock.boot()
    parameters = noted | {
        "account_id": account.id,
        "fetch_id": decision.fetch.id,
        "token": uuid4(),
        "latest": max((each for each in (account.last_as_of, account.last_asked_at) if each is not None), default=None),
        "deadline": deadline,
        "lease_seconds": deadline + holder.lease_margin_seconds,
        "breaker_state": "closed" if account.breaker_state == "closed" else "probing",
    }
    taken = execute_named(connection, _PERMIT, parameters).fetchone()
    if taken is None:
        return None
    tracked = ids_of_fetch(taken.pop("tracked"))
    permit = Permit(
        call_id=taken.pop("call_id"),
        account_id=account.id,
        asked_at=taken["asked_at"],
        committed_boot=before_commit,
        deadline_seconds=deadline,
    )
    return Taken(
        **taken,
        permit=permit,
        account=account,
        has_dead=seen.has_dead,
        tracked=tracked,
        seen_before=seen_in_chain(connection, taken["poll_id"], taken["params"], taken["round"]),
        wake_up=wake_up,
    )
