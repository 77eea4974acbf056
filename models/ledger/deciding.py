"""Which fetch of an account is next, and whether its call may be made now: a look under the account's lock.

A call may be made while fewer than `requests` rows of `calls` are busy (`ulak.models.ledger.taking`), fewer than
`concurrency` are unanswered, nothing blocks the account, and its part of the threads is not used up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from ulak.models.account import AccountState, StoredAccount
from ulak.models.database import execute_named
from ulak.models.ledger.opening import PRIORITY_ON_DEMAND
from ulak.models.ledger.sharing import PRESSURE, SLOW_RECHECK_SECONDS, sharing_parameters, threads_left
from ulak.models.ledger.slots import busy_sql

NOTHING_READY = "nothing ready"

_READY = """
    SELECT f.id, f.kind, f.label, f.priority, f.available_at, f.priority <= %(on_demand)s AS is_on_demand
    FROM fetches f WHERE f.account_id = %(account_id)s AND f.state = 'ready' AND f.available_at <= t.now
"""
_FIRST_TWO = "ORDER BY f.priority, f.available_at, f.id LIMIT 2"
# Run after the lock is held, so its snapshot holds every call that was committed before.
#
# `candidates` is the one place that decides which fetch is next: scheduled work by its rank, and every other call for
# on-demand work. Where one of the two has nothing ready, the other one has all. The last call says whose turn it is,
# so a group that had all the calls for a while owes none. The fetch that a message names goes first among its own kind.
_LOOK = f"""
    WITH t AS MATERIALIZED (SELECT clock_timestamp() AS now)
    SELECT t.now, pressure.*,
           (SELECT count(*) FROM calls c
             WHERE c.account_id = %(account_id)s AND c.answered_at IS NULL AND c.gives_up_at > t.now) AS unanswered,
           ARRAY(SELECT c.released_at FROM calls c
             WHERE c.account_id = %(account_id)s AND {busy_sql("t.now", "%(per_seconds)s")}
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
    FROM t CROSS JOIN {PRESSURE} AS pressure CROSS JOIN LATERAL (SELECT CASE WHEN (
        SELECT f.priority <= %(on_demand)s FROM calls c LEFT JOIN fetches f ON f.id = c.fetch_id
        WHERE c.account_id = %(account_id)s ORDER BY c.asked_at DESC LIMIT 1) THEN 1 ELSE -1 END AS ahead) AS last
"""

_LATER = """
    SELECT id, kind, label, available_at FROM fetches
    WHERE account_id = %(account_id)s AND state = 'ready' AND available_at > %(now)s ORDER BY available_at LIMIT 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A ready fetch that may be next."""

    id: int
    kind: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Later(Candidate):
    """A fetch that waits for a retry."""

    available_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a look has found, beside the account's row."""

    now: datetime
    unanswered: int
    """Calls of the account that are neither answered nor given up."""
    releases: Sequence[datetime]
    """When the calls were answered that hold the last slot and the one before it."""
    has_dead: bool
    candidates: Sequence[Candidate]
    """The best of each kind of work that is ready, the next first."""
    threads: int
    in_the_air: int
    pool: Mapping[str, Any] | None
    """These three: `ulak.models.ledger.sharing.PRESSURE`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Why no call may be made now (None: it may, with `fetch`), and when the next attempt is due."""

    why: str | None
    fetch: Candidate | None = None
    at: datetime | None = None
    """When another attempt may succeed: of a further thread, where a call may be made now. None where that is for an
    answer to bring."""
    next: Candidate | None = None
    """The fetch for that attempt."""
    is_crowded: bool = False
    """Whether the account waits for threads."""


def look(connection: Connection, account: StoredAccount, first: int | None) -> Seen:
    """What decides. `account`: locked; `first`: the fetch that a message names."""
    parameters = {
        "account_id": account.id,
        "first": first,
        "per_seconds": account.limit_per_seconds,
        # The last slot and the one before it: whether one call may be made, and whether two may.
        "other_slots": max(0, account.limit_requests - 2),
        "on_demand": PRIORITY_ON_DEMAND,
    }
    [row] = execute_named(connection, _LOOK, parameters | sharing_parameters())
    row["candidates"] = [Candidate(**each) for each in row["candidates"] or ()]
    return Seen(**row)


def decide(connection: Connection, account: StoredAccount, seen: Seen) -> Decision:
    """What follows from the account and a `look` at it."""
    now, unanswered, ready = seen.now, seen.unanswered, seen.candidates
    why, until = _why_not(account, seen)
    if not ready:
        later = _later(connection, account, now)
        if later is None or (why and until is None):
            return Decision(why=NOTHING_READY)
        return Decision(why=NOTHING_READY, at=max(later.available_at, until or now), next=later)
    if why is not None:
        return Decision(why=why, at=until, next=ready[0])
    at, another = _another(connection, account, seen)
    wanted = 2 if at == now else 1
    left = threads_left(seen.threads, seen.in_the_air, seen.pool, mine=unanswered, wanted=wanted)
    if left == 0:
        # The answer of a call of its own brings the next attempt; without one, only time does.
        at = None if unanswered else now + timedelta(seconds=SLOW_RECHECK_SECONDS)
        return Decision(why="threads used", at=at, next=ready[0], is_crowded=True)
    is_crowded = left < wanted
    return Decision(why=None, fetch=ready[0], at=None if is_crowded else at, next=another, is_crowded=is_crowded)


def _another(connection: Connection, account: StoredAccount, seen: Seen) -> tuple[datetime | None, Candidate | None]:
    """When another thread could make a further call, while the one that is taken now is unanswered, and which."""
    concurrency = account.limit_concurrency if account.breaker_state == "closed" else 1
    if account.limit_requests == 1 or seen.unanswered + 2 > concurrency:
        return None, None
    slot = seen.releases[0] + timedelta(seconds=account.limit_per_seconds) if seen.releases else seen.now
    if len(seen.candidates) > 1:
        return slot, seen.candidates[1]
    later = _later(connection, account, seen.now)
    return (None, None) if later is None else (max(slot, later.available_at), later)


def _later(connection: Connection, account: StoredAccount, now: datetime) -> Later | None:
    """The fetch that is ready first of those that wait for a retry."""
    row = execute_named(connection, _LATER, {"account_id": account.id, "now": now}).fetchone()
    return None if row is None else Later(**row)


def _why_not(account: StoredAccount, seen: Seen) -> tuple[str | None, datetime | None]:
    """Why the account may make no call now, and until when, if time alone ends that; (None, None) when it may."""
    if not account.enabled:
        return AccountState.DISABLED, None
    if (until := account.blocked_until(seen.now)) is not None:
        return account.standing.state, until
    if account.breaker_state != "closed" and seen.unanswered:
        return AccountState.BREAKER_OPEN, None
    last_slot = min(1, account.limit_requests - 1)
    if len(seen.releases) > last_slot:
        return "limit used", seen.releases[last_slot] + timedelta(seconds=account.limit_per_seconds)
    return ("concurrency used", None) if seen.unanswered >= account.limit_concurrency else (None, None)
