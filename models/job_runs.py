"""Signs of progress: when periodic work last came to its end, and work that is due and does not move.

A process that is alive proves nothing; a heartbeat proves that beat, broker, worker and database work together.
"""

from typing import Final

from sqlalchemy import Connection, text

from ulak.models.ledger.clockwatch import TOLERATED_SECONDS
from ulak.models.ledger.slots import FREE_SINCE

RECONCILE: Final = "reconcile"
TICK_LATE_SECONDS: Final = 60.0
"""Ticks come every few seconds; so late, nobody sends or takes them."""
WORK_STUCK_SECONDS: Final = 120.0
"""More than the longest request (75 s) with the lease's margin, so one slow provider call is not a standstill."""

_BEAT = text("""
    INSERT INTO heartbeats AS h (name, at) VALUES (:name, clock_timestamp())
    ON CONFLICT (name) DO UPDATE SET at = excluded.at
""")


READINESS: Final = "readiness"
"""No periodic work: the row that a readiness probe writes to see whether it can."""
NOTIFYING: Final = "notifying"
"""Work of API processes, and only where there are receivers: when problems were last evaluated with success."""
NOTIFYING_TURN: Final = "notifying turn"
"""When one of them last began to."""
NOT_OF_WORKERS: Final = (READINESS, NOTIFYING, NOTIFYING_TURN)
_PROOF = text("""
    INSERT INTO heartbeats (name, at) VALUES (:name, clock_timestamp())
    ON CONFLICT (name) DO UPDATE SET at = excluded.at
""")


def prove_write(connection: Connection) -> None:
    """Write a row, whatever is in it; raises what PostgreSQL says where it takes no writes."""
    connection.execute(_PROOF, {"name": READINESS})


def planning_of(provider: str) -> str:
    """The heartbeat of a provider's planning tick."""
    return f"plan {provider}"


def beat(connection: Connection, name: str) -> None:
    """Say that this work has come to its end now, whatever was said before: the clock may have been set back."""
    connection.execute(_BEAT, {"name": name})


_LATE = text("""
    SELECT wanted.name, extract(epoch FROM clock_timestamp() - h.at)::double precision AS seconds
    FROM (SELECT DISTINCT 'plan ' || provider AS name FROM accounts WHERE enabled
          UNION SELECT :reconcile FROM accounts WHERE enabled) wanted
    LEFT JOIN heartbeats h ON h.name = wanted.name
    WHERE h.at IS NULL OR h.at < clock_timestamp() - make_interval(secs => :late_seconds)
       OR h.at > clock_timestamp() + make_interval(secs => :ahead_seconds)
    ORDER BY wanted.name
""")
# What could go: ready, of an account whose call nothing has kept from being made since.
_STUCK = text(f"""
    SELECT a.id, extract(epoch FROM clock_timestamp() - since.at)::double precision AS seconds
    FROM accounts a
    CROSS JOIN LATERAL (SELECT min(f.available_at) AS at FROM fetches f
        WHERE f.account_id = a.id AND f.state = 'ready') ready
    CROSS JOIN LATERAL (SELECT greatest(ready.at, {FREE_SINCE}) AS at) since
    WHERE a.enabled AND ready.at IS NOT NULL AND since.at < clock_timestamp() - make_interval(secs => :stuck_seconds)
    ORDER BY a.id
""")

# What has happened cannot lie ahead of the clock. Workers look every few seconds and move it.
_AHEAD = text("""
    SELECT id, extract(epoch FROM greatest(last_asked_at, planned_at, closed_swept_at) - clock_timestamp())
        ::double precision AS seconds
    FROM accounts
    WHERE enabled AND greatest(last_asked_at, planned_at, closed_swept_at)
        > clock_timestamp() + make_interval(secs => :ahead_seconds)
    ORDER BY id
""")


def stalls(
    connection: Connection,
    *,
    late_seconds: float = TICK_LATE_SECONDS,
    stuck_seconds: float = WORK_STUCK_SECONDS,
) -> list[str]:
    """One sentence for each thing that is due and does not move; empty where all moves or no account is enabled.

    An account that rests (pause, breaker, throttle, used limit) does not stand still: it waits.
    """
    late = connection.execute(
        _LATE,
        {"reconcile": RECONCILE, "late_seconds": late_seconds, "ahead_seconds": TOLERATED_SECONDS},
    )
    reasons = [f"The tick {name!r} {_since(seconds)}" for name, seconds in late]
    ahead = connection.execute(_AHEAD, {"ahead_seconds": TOLERATED_SECONDS})
    reasons += [
        f"{account} has times {seconds:.0f} s ahead of the database's clock: it was set back, and no worker has moved"
        " them yet."
        for account, seconds in ahead
    ]
    stuck = connection.execute(_STUCK, {"stuck_seconds": stuck_seconds})
    return reasons + [
        f"{account} has fetches that may be made for {seconds:.0f} s, and none is." for account, seconds in stuck
    ]


def _since(seconds: float | None) -> str:
    if seconds is None:
        return "has never been worked off."
    if seconds < 0:
        return f"was last worked off {-seconds:.0f} s ahead of the database's clock, which was set back."
    return f"was last worked off {seconds:.0f} s ago."
