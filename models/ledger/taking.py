"""The one decision about the next call of an account, and the rate limiter: it is the ledger of calls.

A call may be made when, under the account's row lock, fewer than `requests` rows of `calls` are busy and fewer than
`concurrency` are unanswered. A row is busy until `released_at + per_seconds`, where `released_at` is the moment at
which the request was answered, or given up (asked_at + deadline) while no answer is known. So two arrivals on one
slot are at least `per_seconds` apart at the provider, whatever the network does, and with `requests` slots no sliding
window can hold more. Precondition: a request reaches the provider before its answer or its deadline.

It is durable, needs no clock but PostgreSQL's, and no recovery after a crash. That this clock was stepped is noticed
before a call is allowed (`clockwatch`), and what was stored before is moved with it (`clocksteps`).

Whoever cannot take now, or could take twice, causes one message: work waits as rows, and at most one message of an
account is on its way. `accounts.wake_at` is its moment; one that nobody took within `MESSAGE_LASTS_SECONDS` is lost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, RowMapping

from core import clock
from models.ledger.clockwatch import TOLERATED_SECONDS, ClockWatch, Reading
from models.ledger.planning import PRIORITY_ON_DEMAND
from models.ledger.sharing import (
    CROWDED_LASTS_SECONDS,
    PRESSURE_COLUMNS,
    PRESSURE_PARAMETERS,
    SLOW_LOOK_SECONDS,
    threads_left,
)
from models.ledger.walks import seen_in_chain
from models.permit import Permit
from models.tracked import IDS_OF_FETCH, AskedId, ids_of_fetch

DEFAULT_DEADLINE_SECONDS = 30.0
MAX_DEADLINE_SECONDS = 75.0
MESSAGE_LASTS_SECONDS = 5.0
"""After this a message that nobody took counts as lost."""
TIMER_CAP_SECONDS = 5.0
"""The longest delay of a message; what is due later is found by `upkeep.reconcile`."""
BUSY_SECONDS = 0.1
"""When to try again where another transaction holds the fetch that was chosen."""


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
class CallUp:
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
    """When the question was asked, in the order of the account's questions: it never decreases, and after a step of the
    clock back it runs ahead of the clock until that has caught up. What an answer states is true as of it."""
    permit: Permit
    state: AccountState
    account: RowMapping = field(repr=False)
    """The account's row, with PostgreSQL's `now`."""
    has_dead: bool
    """Whether the account has dead letters."""
    tracked: Sequence[AskedId] = field(repr=False)
    """The ids that it asks for."""
    seen_before: Mapping[str, int] = field(repr=False)
    call_up: CallUp | None = None
    """Set where another thread could make a further call of this account now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotYet:
    """No call may be made now, or there is none to make; nothing was counted."""

    account_id: str
    why: str
    call_up: CallUp | None = None
    """The next attempt, unless an answer or a message that is on its way brings it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    """The database's clock was stepped: no call may be made before that is settled. Nothing was counted or written."""

    account_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """There is no such fetch or account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who takes: the clock watch of its process, and how long a lease lasts beyond the deadline."""

    watch: ClockWatch = field(repr=False)
    lease_margin_seconds: float


NOTHING_READY = "nothing ready"
MAY_GO = "left to another thread"
BUSY = "busy"

_LOCK = """
    SELECT a.*, clock_timestamp() AS now FROM accounts a
    WHERE a.id = coalesce(%(account_id)s::text, (SELECT f.account_id FROM fetches f WHERE f.id = %(fetch_id)s::bigint))
    FOR NO KEY UPDATE OF a
"""
_LOCK_UNLESS_BUSY = f"{_LOCK} SKIP LOCKED"

_READY = """
    SELECT f.id, f.kind, f.label, f.priority, f.available_at, f.priority <= %(on_demand)s AS is_on_demand
    FROM fetches f WHERE f.account_id = %(account_id)s AND f.state = 'ready' AND f.available_at <= t.now
"""
_FIRST_TWO = "ORDER BY f.priority, f.available_at, f.id LIMIT 2"
# Run after the lock is held, so its snapshot holds every call that was committed before.
#
# `candidates` is the one place that decides which fetch is next: scheduled work by its rank, and every other call for
# on-demand work. Where one of the two has nothing ready, the other one has all. The last call says whose turn it is,
# so whoever had all the calls for a while owes none. The fetch that a message names goes first among its own kind.
_LOOK = f"""
    WITH t AS MATERIALIZED (SELECT clock_timestamp() AS now)
    SELECT t.now, {PRESSURE_COLUMNS},
           (SELECT count(*) FROM calls c
             WHERE c.account_id = %(account_id)s AND c.answered_at IS NULL AND c.gives_up_at > t.now) AS unanswered,
           ARRAY(SELECT c.released_at FROM calls c
             WHERE c.account_id = %(account_id)s AND c.released_at > t.now - make_interval(secs => %(per_seconds)s)
             ORDER BY c.released_at DESC OFFSET %(other_slots)s LIMIT 2) AS releases,
           EXISTS (SELECT FROM fetches d WHERE d.account_id = %(account_id)s AND d.state = 'dead') AS has_dead,
           (SELECT json_agg(json_build_object('id', id, 'kind', kind, 'label', label) ORDER BY place) FROM (
             SELECT id, kind, label, 2 * row_number() OVER (
                   PARTITION BY is_on_demand ORDER BY id IS DISTINCT FROM %(first)s, priority, available_at, id)
                 + CASE WHEN is_on_demand THEN last.ahead ELSE 0 END AS place
             FROM ((({_READY} AND f.priority <= %(on_demand)s {_FIRST_TWO})
                UNION ({_READY} AND f.priority > %(on_demand)s {_FIRST_TWO}))
                UNION ({_READY} AND f.id = %(first)s)) AS ready
             ORDER BY place LIMIT 2) AS next) AS candidates
    FROM t CROSS JOIN LATERAL (SELECT CASE WHEN (
        SELECT f.priority <= %(on_demand)s FROM calls c LEFT JOIN fetches f ON f.id = c.fetch_id
        WHERE c.account_id = %(account_id)s ORDER BY c.asked_at DESC LIMIT 1) THEN 1 ELSE -1 END AS ahead) AS last
"""

_LATER = """
    SELECT id, kind, label, available_at FROM fetches
    WHERE account_id = %(account_id)s AND state = 'ready' AND available_at > %(now)s ORDER BY available_at LIMIT 1
"""

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
    SELECT taken.*, called.id AS call_id, m.asked_at, m.as_of, {IDS_OF_FETCH} AS tracked FROM taken, called, moment m
"""

_NOTE = "UPDATE accounts SET wake_at = %(wake_at)s, crowded_at = %(crowded_at)s WHERE id = %(account_id)s"


def take(
    connection: Connection,
    holder: Holder | None,
    *,
    account_id: str | None = None,
    fetch_id: int | None = None,
    is_heard: bool = False,
    may_wait: bool = True,
) -> Taken | NotYet | Stepped | Gone:
    """Turn the best ready fetch of an account into a held one and write its call row, in one, if one may be made now.

    The account by its id, or by that of the fetch to begin with. The caller commits at once: no byte leaves before.
    The lease lasts deadline + margin; whoever finishes later than that may find that another worker holds the fetch
    (`lease_token` differs). After `Stepped` the step is to be settled first.

    `holder` None: only look, and have another thread take by a message (`NotYet.call_up`). `is_heard`: a message has
    led here, so none is on its way any more. `may_wait` False: at the end of a transaction that holds other locks; if
    another one holds the account then, the result is `NotYet` with `BUSY`, to be repeated in a transaction of its own.
    """
    parameters = {"account_id": account_id, "fetch_id": fetch_id}
    row = connection.exec_driver_sql(_LOCK if may_wait else _LOCK_UNLESS_BUSY, parameters).mappings().one_or_none()
    if row is None:
        return Gone() if may_wait else NotYet(account_id=account_id or "", why=BUSY)
    if holder is not None:
        holder.watch.begin(connection)
    before_look = clock.boot()
    look = _look(connection, row, fetch_id)
    now: datetime = look["now"]
    if holder is not None:
        reading = Reading.between(before_look, now, clock.boot())
        if holder.watch.has_stepped(reading) or _lies_ahead(row["last_asked_at"], now):
            return Stepped(account_id=row["id"])
    decision = _decide(connection, row, look, is_heard=is_heard)
    if decision.why is None:
        taken = None if holder is None else _permit(connection, holder, row, look, decision)
        if taken is not None:
            return taken
        why, wait = (MAY_GO, 0.0) if holder is None else (BUSY, BUSY_SECONDS)
        at, is_crowded = now + timedelta(seconds=wait), decision.is_crowded
        decision = _postponed(row, now, why, at, decision.candidate, is_heard=is_heard, is_crowded=is_crowded)
    return NotYet(account_id=row["id"], why=decision.why or "", call_up=_note(connection, row, decision))


def wake(connection: Connection, account_id: str, *, is_heard: bool = False) -> CallUp | None:
    """The message with which the account goes on, now or at its next attempt; None if it has nothing to do.

    Nor where such a message is on its way, unless `is_heard`.
    """
    found = take(connection, None, account_id=account_id, is_heard=is_heard)
    return found.call_up if isinstance(found, NotYet) else None


# ------------------------------------------------------------------------------------------------------- the decision


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decision:
    """Why no call may be made now (None: it may), and what is written and published beside that."""

    why: str | None
    candidate: Mapping[str, Any] | None
    wake_at: datetime | None
    call_up: CallUp | None = None
    is_crowded: bool = False


def _look(connection: Connection, account: RowMapping, first: int | None) -> RowMapping:
    """What decides, read under the account's lock."""
    parameters = {
        "account_id": account["id"],
        "first": first,
        "per_seconds": account["limit_per_seconds"],
        # The last slot and the one before it: whether one call may be made, and whether two may.
        "other_slots": max(0, account["limit_requests"] - 2),
        "on_demand": PRIORITY_ON_DEMAND,
    }
    return connection.exec_driver_sql(_LOOK, parameters | PRESSURE_PARAMETERS).mappings().one()


def _decide(connection: Connection, row: RowMapping, look: RowMapping, *, is_heard: bool) -> _Decision:
    """Whether a call may be made now; if so whether one more could, else when to try again."""
    now: datetime = look["now"]
    candidates = look["candidates"]
    if not candidates:
        return _nothing_ready(connection, row, look, is_heard=is_heard)
    why, at = _why_not(row, look)
    if why is not None:
        return _postponed(row, now, why, at, candidates[0], is_heard=is_heard)
    unanswered: int = look["unanswered"]
    another_at, another = _another(connection, row, look)
    wanted = 2 if another_at == now else 1
    left = threads_left(connection, row["id"], look, mine=unanswered, wanted=wanted)
    if left == 0:
        # The answer of a call of its own brings the next look; without one, only time does.
        at = None if unanswered else now + timedelta(seconds=SLOW_LOOK_SECONDS)
        return _postponed(row, now, "threads used", at, candidates[0], is_heard=is_heard, is_crowded=True)
    is_crowded = left < wanted
    wake_at, call_up = _call_up(row, now, None if is_crowded else another_at, another, is_heard=is_heard)
    return _Decision(why=None, candidate=candidates[0], wake_at=wake_at, call_up=call_up, is_crowded=is_crowded)


def _another(
    connection: Connection, row: RowMapping, look: RowMapping
) -> tuple[datetime | None, Mapping[str, Any] | None]:
    """When another thread could make a further call, while the one that is taken now is unanswered, and which."""
    releases, now = look["releases"], look["now"]
    if row["limit_requests"] == 1 or look["unanswered"] + 2 > _concurrency(row):
        return None, None
    slot = releases[0] + timedelta(seconds=row["limit_per_seconds"]) if releases else now
    if len(look["candidates"]) > 1:
        return slot, look["candidates"][1]
    later = _later(connection, row, now)
    return (None, None) if later is None else (max(slot, later["available_at"]), later)


def _later(connection: Connection, row: RowMapping, now: datetime) -> Mapping[str, Any] | None:
    """The fetch that is ready first of those that wait for a retry."""
    found = connection.exec_driver_sql(_LATER, {"account_id": row["id"], "now": now}).mappings().one_or_none()
    return None if found is None else dict(found)


def _nothing_ready(connection: Connection, row: RowMapping, look: RowMapping, *, is_heard: bool) -> _Decision:
    """No fetch is ready now: the next attempt is when the first of those that wait for a retry may be made."""
    later = _later(connection, row, look["now"])
    if later is None:
        return _postponed(row, look["now"], NOTHING_READY, None, None, is_heard=is_heard)
    why, blocked_until = _why_not(row, look)
    at = None if why and blocked_until is None else max(later["available_at"], blocked_until or look["now"])
    return _postponed(row, look["now"], NOTHING_READY, at, later, is_heard=is_heard)


def _why_not(row: RowMapping, look: RowMapping) -> tuple[str | None, datetime | None]:
    """Why the account may make no call now, and until when, if time alone ends that; (None, None) when it may."""
    now: datetime = look["now"]
    blocked = {
        "paused": row["paused_until"],
        "throttled": row["not_before"],
        "breaker open": row["breaker_until"] if row["breaker_state"] != "closed" else None,
    }
    waits = {why: until for why, until in blocked.items() if until is not None and until > now}
    if not row["enabled"]:
        return "disabled", None
    if waits:
        return next(iter(waits)), max(waits.values())
    if row["breaker_state"] != "closed" and look["unanswered"]:
        return "breaker open", None
    last_slot = min(1, row["limit_requests"] - 1)
    if len(look["releases"]) > last_slot:
        return "limit used", look["releases"][last_slot] + timedelta(seconds=row["limit_per_seconds"])
    return ("concurrency used", None) if look["unanswered"] >= row["limit_concurrency"] else (None, None)


def _concurrency(row: RowMapping) -> int:
    """How many calls may be unanswered at once: one where the breaker is not closed."""
    return int(row["limit_concurrency"]) if row["breaker_state"] == "closed" else 1


def _lies_ahead(moment: datetime | None, now: datetime) -> bool:
    """Whether what has happened lies in the future: then the clock was set back, whether anybody saw it or not."""
    return moment is not None and moment > now + timedelta(seconds=TOLERATED_SECONDS)


def _postponed(
    row: RowMapping,
    now: datetime,
    why: str,
    at: datetime | None,
    candidate: Mapping[str, Any] | None,
    *,
    is_heard: bool,
    is_crowded: bool = False,
) -> _Decision:
    """No call now; the next attempt at `at`, with this fetch."""
    wake_at, call_up = _call_up(row, now, at, candidate, is_heard=is_heard)
    return _Decision(why=why, candidate=candidate, wake_at=wake_at, call_up=call_up, is_crowded=is_crowded)


def _call_up(
    row: RowMapping, now: datetime, at: datetime | None, fetch: Mapping[str, Any] | None, *, is_heard: bool
) -> tuple[datetime | None, CallUp | None]:
    """The account's `wake_at`, and the message for a next attempt at `at` where none is on its way until then."""
    armed: datetime | None = row["wake_at"]
    if is_heard and armed is not None and armed <= now:
        armed = None
    if at is None or fetch is None or at > now + timedelta(seconds=TIMER_CAP_SECONDS):
        return armed, None
    is_on_its_way = armed is not None and armed > now - timedelta(seconds=MESSAGE_LASTS_SECONDS)
    if armed is not None and is_on_its_way and armed <= at + timedelta(milliseconds=20):
        return armed, None
    delay = max(0.0, (at - now).total_seconds())
    return at, CallUp(
        account_id=row["id"], fetch_id=fetch["id"], kind=fetch["kind"], label=fetch["label"], delay_seconds=delay
    )


# ---------------------------------------------------------------------------------------------------------- the writes


def _permit(
    connection: Connection, holder: Holder, row: RowMapping, look: RowMapping, decision: _Decision
) -> Taken | None:
    """Hold the fetch and write its call row; None where another transaction holds or has just ended it."""
    if decision.candidate is None:
        return None
    wanted = (row["options"].get("deadline_seconds") or DEFAULT_DEADLINE_SECONDS, MAX_DEADLINE_SECONDS)
    deadline = float(min(wanted))
    token = uuid4()
    breaker_state = "closed" if row["breaker_state"] == "closed" else "probing"
    # Read before the row is written: the second that the door allows begins at the latest possible commit or earlier.
    before_commit = clock.boot()
    parameters = {
        "account_id": row["id"],
        "fetch_id": decision.candidate["id"],
        "token": token,
        "latest": max((each for each in (row["last_as_of"], row["last_asked_at"]) if each is not None), default=None),
        "deadline": deadline,
        "lease_seconds": deadline + holder.lease_margin_seconds,
        "breaker_state": breaker_state,
        "wake_at": decision.wake_at,
        "crowded_at": _crowded_at(row, is_crowded=decision.is_crowded),
    }
    taken = connection.exec_driver_sql(_PERMIT, parameters).mappings().one_or_none()
    if taken is None:
        return None
    state = AccountState(
        breaker_state=breaker_state, breaker_failures=row["breaker_failures"], throttles=row["throttles"]
    )
    permit = Permit(
        call_id=taken["call_id"],
        account_id=row["id"],
        asked_at=taken["asked_at"],
        committed_boot=before_commit,
        deadline_seconds=deadline,
    )
    names = ("poll_id", "account_id", "kind", "params", "label", "round", "priority", "attempts", "claims")
    return Taken(
        fetch_id=taken["id"],
        **{name: taken[name] for name in names},
        lease_token=token,
        asked_at=taken["asked_at"],
        as_of=taken["as_of"],
        permit=permit,
        state=state,
        account=row,
        has_dead=look["has_dead"],
        tracked=ids_of_fetch(taken["tracked"]),
        seen_before=seen_in_chain(connection, taken["poll_id"], taken["params"], taken["round"]),
        call_up=decision.call_up,
    )


def _note(connection: Connection, row: RowMapping, decision: _Decision) -> CallUp | None:
    """Write what the others have to know; gives the message."""
    crowded_at = _crowded_at(row, is_crowded=decision.is_crowded)
    if (decision.wake_at, crowded_at) != (row["wake_at"], row["crowded_at"]):
        parameters = {"account_id": row["id"], "wake_at": decision.wake_at, "crowded_at": crowded_at}
        connection.exec_driver_sql(_NOTE, parameters)
    return decision.call_up


def _crowded_at(row: RowMapping, *, is_crowded: bool) -> datetime | None:
    """Since when the account waits for threads, for the others to see; renewed now and then, or it expires."""
    now: datetime = row["now"]
    told: datetime | None = row["crowded_at"]
    if not is_crowded:
        return None
    is_fresh = told is not None and told > now - timedelta(seconds=CROWDED_LASTS_SECONDS / 2)
    return told if is_fresh else now
