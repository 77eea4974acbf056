"""Which fetch of an account is next, and whether its call may be made now: a look under the account's lock.

A call may be made while fewer than `requests` rows of `calls` are busy (`ulak.models.ledger.taking`), fewer than
`concurrency` are unanswered, nothing blocks the account, and its part of the threads is not used up.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from ulak.models.database import Record, execute_named
from ulak.models.ledger.opening import PRIORITY_ON_DEMAND
from ulak.models.ledger.sharing import PRESSURE, SLOW_RECHECK_SECONDS, sharing_parameters, threads_left

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
    FROM t CROSS JOIN {PRESSURE} AS pressure CROSS JOIN LATERAL (SELECT CASE WHEN (
        SELECT f.priority <= %(on_demand)s FROM calls c LEFT JOIN fetches f ON f.id = c.fetch_id
        WHERE c.account_id = %(account_id)s ORDER BY c.asked_at DESC LIMIT 1) THEN 1 ELSE -1 END AS ahead) AS last
"""

_LATER = """
    SELECT id, kind, label, available_at FROM fetches
    WHERE account_id = %(account_id)s AND state = 'ready' AND available_at > %(now)s ORDER BY available_at LIMIT 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Why no call may be made now (None: it may, with `fetch`), and when the next attempt is due."""

    why: str | None
    fetch: Mapping[str, Any] | None = None
    at: datetime | None = None
    """When another attempt may succeed: of a further thread, where a call may be made now. None where that is for an
    answer to bring."""
    next: Mapping[str, Any] | None = None
    """The fetch for that attempt: `id`, `kind`, `label`."""
    is_crowded: bool = False
    """Whether the account waits for threads."""


def look(connection: Connection, account: Record, first: int | None) -> Record:
    """What decides. `account`: its locked row; `first`: the fetch that a message names."""
    parameters = {
        "account_id": account["id"],
        "first": first,
        "per_seconds": account["limit_per_seconds"],
        # The last slot and the one before it: whether one call may be made, and whether two may.
        "other_slots": max(0, account["limit_requests"] - 2),
        "on_demand": PRIORITY_ON_DEMAND,
    }
    [seen] = execute_named(connection, _LOOK, parameters | sharing_parameters())
    return seen


def decide(connection: Connection, row: Record, seen: Record) -> Decision:
    """What follows from the account's row and a `look` at it."""
    now, unanswered, ready = seen["now"], seen["unanswered"], seen["candidates"]
    why, until = _why_not(row, seen)
    if not ready:
        later = _later(connection, row, now)
        if later is None or (why and until is None):
            return Decision(why=NOTHING_READY)
        return Decision(why=NOTHING_READY, at=max(later["available_at"], until or now), next=later)
    if why is not None:
        return Decision(why=why, at=until, next=ready[0])
    at, another = _another(connection, row, seen)
    wanted = 2 if at == now else 1
    left = threads_left(seen, mine=unanswered, wanted=wanted)
    if left == 0:
        # The answer of a call of its own brings the next attempt; without one, only time does.
        at = None if unanswered else now + timedelta(seconds=SLOW_RECHECK_SECONDS)
        return Decision(why="threads used", at=at, next=ready[0], is_crowded=True)
    is_crowded = left < wanted
    return Decision(why=None, fetch=ready[0], at=None if is_crowded else at, next=another, is_crowded=is_crowded)


def _another(connection: Connection, row: Record, seen: Record) -> tuple[datetime | None, Mapping[str, Any] | None]:
    """When another thread could make a further call, while the one that is taken now is unanswered, and which."""
    releases, now = seen["releases"], seen["now"]
    concurrency = row["limit_concurrency"] if row["breaker_state"] == "closed" else 1
    if row["limit_requests"] == 1 or seen["unanswered"] + 2 > concurrency:
        return None, None
    slot = releases[0] + timedelta(seconds=row["limit_per_seconds"]) if releases else now
    if len(seen["candidates"]) > 1:
        return slot, seen["candidates"][1]
    later = _later(connection, row, now)
    return (None, None) if later is None else (max(slot, later["available_at"]), later)


def _later(connection: Connection, row: Record, now: datetime) -> Mapping[str, Any] | None:
    """The fetch that is ready first of those that wait for a retry."""
    return execute_named(connection, _LATER, {"account_id": row["id"], "now": now}).fetchone()


def _why_not(row: Record, seen: Record) -> tuple[str | None, datetime | None]:
    """Why the account may make no call now, and until when, if time alone ends that; (None, None) when it may."""
    now: datetime = seen["now"]
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
    if row["breaker_state"] != "closed" and seen["unanswered"]:
        return "breaker open", None
    last_slot = min(1, row["limit_requests"] - 1)
    if len(seen["releases"]) > last_slot:
        return "limit used", seen["releases"][last_slot] + timedelta(seconds=row["limit_per_seconds"])
    return ("concurrency used", None) if seen["unanswered"] >= row["limit_concurrency"] else (None, None)
