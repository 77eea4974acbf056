"""How fresh final reports were (see `ulak.models.objectives`): counted by upkeep, kept as running totals.

No call pays for it. Once a minute upkeep reads the rows that changed since it last did, and adds one row for each
account of which something became final; after a pause it catches up in short windows, each in its own transaction. What
happened in a window is the difference of two rows, so the totals can be summed over accounts, and Prometheus reads them
as counters.

A delivery is counted in the minute in which its first final report was stored, once: the windows in which that moment
may lie do not overlap. One that was stored by a transaction of more than `SETTLES_SECONDS` may be left out.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Engine, text

from ulak.core import clock
from ulak.models.database import json_parameter, transaction
from ulak.models.objectives import (
    BOUNDS,
    MAX_WINDOW,
    WINDOWS,
    Count,
    Objective,
    budget_left,
    burn_rate,
    burning,
    read_objective,
)
from ulak.models.vocabulary import STATUS_CLASS, Status

SETTLES_SECONDS: Final = 20.0
"""What was stored within this time may not be visible yet. Two looks are at least so far apart."""
WINDOW_SECONDS: Final = 300.0
"""No look spans more, so that one that was given up for its length does not make the next one longer."""
CATCH_UP_SECONDS: Final = 20.0
"""After this time the next minute goes on."""
MINUTE_SECONDS: Final = 60.0
"""Rows are a minute apart, and a window begins with the first minute that lies in it wholly: like that of Prometheus,
which begins with the first sample in it, it never holds what was good before."""
KEPT_DAYS: Final = 4
"""Longer than the longest window."""
FINAL: Final = tuple(status.value for status in Status if STATUS_CLASS[status] >= STATUS_CLASS[Status.SENT])
_OPEN: Final = tuple(status.value for status in Status if STATUS_CLASS[status] == STATUS_CLASS[Status.ENROUTE])
_LOCK: Final = 0x756C6166  # one advisory lock for all who count


def part_within(bound: str) -> str:
    """SQL: how much of a delivery counts as known within `bound` seconds, its freshness between `least` and `most`."""
    return f"CASE WHEN most <= {bound} THEN 1 WHEN least >= {bound} THEN 0 ELSE ({bound} - least) / (most - least) END"


_TURN = text("SELECT pg_try_advisory_xact_lock(:lock)")
_READ = text("""
    SELECT r.*, clock_timestamp() AS now, pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon
    FROM (SELECT 1) one LEFT JOIN freshness_read r ON true
""")
_BEGIN = text("""
    INSERT INTO freshness_read (through, from_transaction, next_transaction)
    VALUES (CAST(:now AS timestamptz), :horizon, :horizon)
""")
# Rows of a later part of the window are in no later transaction: both stay until the whole window was read.
_GO_ON_WITHIN = text("UPDATE freshness_read SET through = :until")
_GO_ON = text("""
    UPDATE freshness_read SET through = :until, from_transaction = next_transaction, next_transaction = :horizon
""")
_OBJECTIVES = text("SELECT id, objective FROM accounts WHERE objective IS NOT NULL")

# Facts that are null are those of the row (`ulak.models.history`). Each check overwrites `checked_before_at`: it bounds
# the moment only where it was before the request that found the delivery final, which is the last one where nobody has
# asked since. Statements of some requests have no `as_of`: they were true at the latest when they were stored.
# A transaction that runs for long holds `from_transaction` back. The two times of the row then spare the look into its
# history: whatever became final in the window has changed since, and was seen before (by one clock or the other).
_COUNT = text(f"""
    INSERT INTO freshness (account_id, at, total, good, seconds, buckets)
    WITH reported AS (
        SELECT d.account_id, a.created_at, d.provider_key, d.parent_key, final.first_seen_at AS seen,
            CASE WHEN d.message_time_source <> 'first_seen' THEN d.message_time END AS sent_at,
            final.as_of AS asked, final.done_at,
            CASE WHEN final.done_at IS NULL THEN
                (SELECT max(coalesce(o.as_of, o.first_seen_at)) FROM observations o WHERE o.delivery_id = d.id
                   AND coalesce(o.as_of, o.first_seen_at) < coalesce(final.as_of, final.first_seen_at)
                   AND coalesce(o.facts ->> 'status', d.status) = ANY(:open)) END AS last_open
        FROM delivery_status d JOIN accounts a ON a.id = d.account_id
        CROSS JOIN LATERAL (
            SELECT o.first_seen_at, o.as_of,
                CASE WHEN o.facts IS NULL THEN d.done_at ELSE CAST(o.facts ->> 'done_at' AS timestamptz) END AS done_at
            FROM observations o
            WHERE o.delivery_id = d.id AND coalesce(o.facts ->> 'status', d.status) = ANY(:final)
            ORDER BY o.first_seen_at, o.as_of, o.content_hash LIMIT 1) final
        WHERE d.changed_in >= :from_transaction AND d.granularity <> 'conversation' AND d.is_final
          AND d.changed_at > CAST(:through AS timestamptz) - interval '1 minute'
          AND least(d.first_seen_at, d.changed_at) <= :until
          AND d.status = ANY(:final) AND final.first_seen_at > :through AND final.first_seen_at <= :until
    ), bounded AS (
        SELECT reported.*, greatest(last_open, sent_at, checked.at) AS not_before
        FROM reported LEFT JOIN LATERAL (
            SELECT max(t.checked_before_at) AS at FROM unnest(CAST(:kinds AS text[])) AS kind(name)
            JOIN tracked_ids t ON t.account_id = reported.account_id AND t.id_kind = kind.name
                AND t.value IN (reported.provider_key, reported.parent_key)
            WHERE reported.done_at IS NULL AND t.checked_before_at < coalesce(reported.asked, reported.seen)
              AND (reported.asked IS NOT NULL OR t.last_checked_at <= reported.seen)) checked ON true
    ), lag AS (
        SELECT account_id,
            greatest(0, extract(epoch FROM seen - greatest(coalesce(done_at, asked, seen), created_at)))
                ::double precision AS least,
            greatest(0, extract(epoch FROM seen - greatest(coalesce(done_at, not_before), created_at)))
                ::double precision AS most
        FROM bounded WHERE coalesce(done_at, not_before) IS NOT NULL
    ), new AS (
        SELECT lag.account_id, count(*)::double precision AS total,
            sum(CASE WHEN wanted.seconds IS NULL THEN 1 ELSE {part_within("wanted.seconds")} END) AS good,
            sum((least + most) / 2) AS seconds,
            ARRAY[{", ".join(f"sum({part_within(str(bound))})" for bound in BOUNDS)}]::double precision[] AS buckets
        FROM (SELECT account_id, least(least, most) AS least, most FROM lag) lag
        LEFT JOIN jsonb_to_recordset(CAST(:wanted AS jsonb)) AS wanted(account_id text, seconds double precision)
            USING (account_id)
        WHERE least <= {MAX_WINDOW}
        GROUP BY lag.account_id
    )
    SELECT new.account_id, greatest(CAST(:until AS timestamptz), last.at + interval '1 ms'),
        new.total + coalesce(last.total, 0), new.good + coalesce(last.good, 0), new.seconds + coalesce(last.seconds, 0),
        ARRAY(SELECT n.value + coalesce(l.value, 0) FROM unnest(new.buckets) WITH ORDINALITY AS n(value, place)
              LEFT JOIN unnest(last.buckets) WITH ORDINALITY AS l(value, place) USING (place) ORDER BY place)
    FROM new LEFT JOIN LATERAL (
        SELECT f.at, f.total, f.good, f.seconds, f.buckets FROM freshness f WHERE f.account_id = new.account_id
        ORDER BY f.at DESC LIMIT 1) last ON true
""")


def count(connection: Connection, kinds: Collection[str]) -> bool:
    """Count what became final since the last look, or within the next `WINDOW_SECONDS` where that is less.

    False where another process does, or nothing is left to count yet.
    `kinds`: of tracked ids whose value may be the key of a delivery or of its order.
    """
    if not connection.execute(_TURN, {"lock": _LOCK}).scalar_one():
        return False
    state = connection.execute(_READ).one()
    if state.through is None:
        connection.execute(_BEGIN, {"now": state.now, "horizon": state.horizon})
        return False
    passed = (state.now - state.through).total_seconds()
    if 0 <= passed < 2 * SETTLES_SECONDS:
        return False
    settled = state.now - timedelta(seconds=SETTLES_SECONDS)
    until = min(settled, state.through + timedelta(seconds=WINDOW_SECONDS))
    given = {
        "through": state.through,
        "until": until,
        # Of another cluster, to which the data was moved: what it counted there is counted.
        "from_transaction": min(state.from_transaction, state.horizon),
        "final": list(FINAL),
        "open": list(_OPEN),
        "kinds": sorted(kinds),
        "wanted": json_parameter(_wanted(connection)),
    }
    connection.execute(_COUNT, given)
    if until < settled:
        connection.execute(_GO_ON_WITHIN, {"until": until})
    else:
        connection.execute(_GO_ON, {"until": until, "horizon": state.horizon})
    return True


def catch_up(engine: Engine, kinds: Collection[str]) -> None:
    """Count, each window in its own transaction, until nothing is left or `CATCH_UP_SECONDS` have passed."""
    began = clock.boot()
    while clock.boot() - began < CATCH_UP_SECONDS:
        with transaction(engine) as connection:
            if not count(connection, kinds):
                return


def _wanted(connection: Connection) -> list[dict[str, Any]]:
    """The seconds of each objective. Without one everything is good: an objective that is set judges what follows."""
    return [
        {"account_id": account_id, "seconds": read_objective(objective).seconds}
        for account_id, objective in connection.execute(_OBJECTIVES)
    ]


_PRUNE = text("""
    DELETE FROM freshness f WHERE f.at < clock_timestamp() - make_interval(days => :days) AND EXISTS (
        SELECT FROM freshness later WHERE later.account_id = f.account_id AND later.at > f.at
          AND later.at < clock_timestamp() - make_interval(days => :days))
""")


def prune(connection: Connection) -> int:
    """Delete rows that no window begins with any more; returns how many."""
    return connection.execute(_PRUNE, {"days": KEPT_DAYS}).rowcount


@dataclass(frozen=True, slots=True, kw_only=True)
class Burning:
    """A rule that holds: the budget is spent too fast."""

    factor: float
    """At least so many times as fast as allowed."""
    window: str
    """The long window by its name: 1h, 6h or 3d."""
    window_seconds: float
    late_percent: float
    """Of the deliveries that became final within the long window."""
    is_urgent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveStatus:
    """How an account meets its objective."""

    text: str
    """As it was written: 95 % within 60 s."""
    percent: float
    seconds: float
    finals: float
    """Deliveries that became final within the longest window, three days."""
    good_percent: float | None
    """Of these, how many were known in time; None where there were none."""
    budget_left: float | None
    """The part of the error budget of three days that is left; negative where more was spent."""
    burn_rates: Mapping[str, float]
    """How many times as fast as allowed the budget is spent, by window: 5m, 30m, 1h, 6h, 3d."""
    burning: tuple[Burning, ...] = ()


_WINDOW_NAMES: Final = {300.0: "5m", 1800.0: "30m", 3600.0: "1h", 21600.0: "6h", 259200.0: "3d"}
_WINDOWS = text("""
    SELECT a.id, a.objective, w.seconds, greatest(0, coalesce(last.total - coalesce(base.total, 0), 0)) AS total,
        greatest(0, coalesce(last.good - coalesce(base.good, 0), 0)) AS good
    FROM accounts a CROSS JOIN unnest(CAST(:windows AS double precision[])) AS w(seconds)
    LEFT JOIN LATERAL (SELECT f.total, f.good FROM freshness f WHERE f.account_id = a.id
        ORDER BY f.at DESC LIMIT 1) last ON true
    LEFT JOIN LATERAL (SELECT f.total, f.good FROM freshness f WHERE f.account_id = a.id
        AND f.at <= clock_timestamp() - make_interval(secs => w.seconds - :minute)
        ORDER BY f.at DESC LIMIT 1) base ON true
    WHERE a.objective IS NOT NULL AND a.id = ANY(:ids)
""")


def objective_statuses(connection: Connection, ids: Collection[str]) -> dict[str, ObjectiveStatus]:
    """How the accounts that have an objective stand against it, by id; a few index look-ups each."""
    found: dict[str, tuple[Objective, dict[float, Count]]] = {}
    for row in connection.execute(_WINDOWS, {"windows": list(WINDOWS), "ids": list(ids), "minute": MINUTE_SECONDS}):
        _, counts = found.setdefault(row.id, (read_objective(row.objective), {}))
        counts[row.seconds] = Count(row.total, row.good)
    return {account: objective_status(objective, counts) for account, (objective, counts) in found.items()}


def objective_status(objective: Objective, counts: Mapping[float, Count]) -> ObjectiveStatus:
    """What the counts of `WINDOWS` say. Pure."""
    whole = counts[MAX_WINDOW]
    return ObjectiveStatus(
        text=str(objective),
        percent=objective.percent,
        seconds=objective.seconds,
        finals=whole.total,
        good_percent=100.0 * (1.0 - whole.late) if whole.total > 0 else None,
        budget_left=budget_left(objective, whole) if whole.total > 0 else None,
        burn_rates={_WINDOW_NAMES[window]: burn_rate(objective, counts[window]) for window in WINDOWS},
        burning=tuple(
            Burning(
                factor=rule.factor,
                window=_WINDOW_NAMES[rule.long],
                window_seconds=rule.long,
                late_percent=100.0 * counts[rule.long].late,
                is_urgent=rule.is_urgent,
            )
            for rule in burning(objective, counts)
        ),
    )


_TOTALS = text("""
    SELECT a.id AS account, a.provider, a.objective, last.total, last.good, last.seconds, last.buckets
    FROM accounts a LEFT JOIN LATERAL (SELECT * FROM freshness f WHERE f.account_id = a.id
        ORDER BY f.at DESC LIMIT 1) last ON true
    ORDER BY a.id
""")


class Totals(NamedTuple):
    """Everything that was counted of an account since it has existed; None where nothing was."""

    account: str
    provider: str
    objective: str | None
    total: float | None
    good: float | None
    seconds: float | None
    buckets: Sequence[float] | None


def totals(connection: Connection) -> list[Totals]:
    """What was counted of each account."""
    return [Totals(*row) for row in connection.execute(_TOTALS)]
