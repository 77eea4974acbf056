"""Upkeep: what was lost is found, validity that ended is said, what is old is pruned. Safe anywhere, twice at once."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Final

from sqlalchemy import Connection, RowMapping, text

from ulak.models import freshness, tally
from ulak.models.database import retry_transaction, transaction
from ulak.models.deliveries import upsert
from ulak.models.heartbeats import RECONCILE, beat
from ulak.models.ledger import healing
from ulak.models.ledger.taking import MESSAGE_LASTS_SECONDS
from ulak.models.ledger.walks import forget_walks
from ulak.models.notifications import prune as prune_notifications
from ulak.models.quarantine import prune as prune_quarantine
from ulak.models.report import DeliveryReport
from ulak.models.sending_time import fill_missing
from ulak.models.sessions import prune as prune_sessions
from ulak.models.vocabulary import Granularity, Source, Status
from ulak.providers.registry import ADAPTERS
from ulak.tasks.effects import Effects, commit
from ulak.tasks.isolation import isolated
from ulak.tasks.messages import dispatch_account, poll_account
from ulak.tasks.runtime import Runtime, adapter_of
from ulak.tasks.steps import clocks, learning, pacing
from ulak.tasks.steps.retention import retain
from ulak.tasks.steps.trouble import note_lost_answer

KEEP_CALLS_DAYS = 14
LEASES_AT_ONCE = 200
PRUNE_ROWS = 5000
PRUNE_BATCHES = 200
EXPIRE_AT_ONCE = 500
FILL_CHUNKS = 5
_NAMED_KINDS = frozenset(
    kind for adapter in ADAPTERS.values() for kind in (*adapter.record.id_kinds, *adapter.record.reference_kinds)
)


def reconcile(runtime: Runtime) -> Effects:
    """Re-ready expired leases, end polls that are done, and repeat messages that nobody acted on."""
    # First: what follows compares stored times with the clock.
    clocks.look(runtime)
    effects = Effects()
    healed = _release_expired(runtime, effects)
    with transaction(runtime.engine) as connection:
        ended = healing.end_polls(connection)
    with transaction(runtime.engine) as connection:
        unplanned = healing.unplanned_polls(connection)
        waiting = healing.waiting_accounts(connection, lasts_seconds=MESSAGE_LASTS_SECONDS)
        beat(connection, RECONCILE)
    filled = fill_missing(runtime.engine, chunks=FILL_CHUNKS)
    if filled:
        effects.info("upkeep.times_filled", rows=filled)
    if healed or ended:
        effects.info("upkeep.healed", leases=healed, polls=ended)
    effects.send(*(poll_account(account_id, poll_id) for account_id, poll_id in unplanned))
    effects.send(*map(dispatch_account, waiting))
    return effects


def _release_expired(runtime: Runtime, effects: Effects) -> dict[str, int]:
    """How many expired fetches became what; each in a transaction of its own."""
    counts: dict[str, int] = {}
    for _ in range(LEASES_AT_ONCE):
        released = commit(runtime.engine, effects, _release_one)
        if released is None:
            break
        counts[released.state] = counts.get(released.state, 0) + 1
    return counts


def _release_one(connection: Connection, effects: Effects) -> healing.Released | None:
    """What became of the fetch that expired first; None where none has."""
    fetch = healing.expired_lease(connection)
    if fetch is None:
        return None
    released = healing.release(connection, fetch)
    note_lost_answer(connection, effects, released)
    return released


_PUSH_ONLY = text("SELECT *, clock_timestamp() AS now FROM accounts WHERE provider = :provider AND enabled ORDER BY id")
_OVERDUE = text("""
    SELECT id, granularity, provider_key, provider_status, coalesce(valid_until, least(sent_at, first_seen_at)
           + make_interval(secs => :seconds)) AS valid_until
    FROM delivery_status
    WHERE account_id = :account_id AND NOT is_final AND status <> 'unknown' AND granularity = 'message'
      AND coalesce(valid_until, least(sent_at, first_seen_at) + make_interval(secs => :seconds)) < clock_timestamp()
    ORDER BY id LIMIT :many
""")


def every_minute(runtime: Runtime) -> Effects:
    """What is due each minute: counts, ended validity, freshness of finals, intervals of sweeps, latencies, retention.

    They share one task: workers of the version before reject a name that they do not know. A step that fails is logged
    and keeps none of the others from their turn; without the database none has one.
    """
    effects = Effects()
    for name, step in _EACH_MINUTE.items():
        with isolated("upkeep.step_failed", step=name):
            step(runtime, effects)
    return effects


def _fold(runtime: Runtime, _: Effects) -> None:
    tally.fold(runtime.engine)


def _expire(runtime: Runtime, _: Effects) -> None:
    expire(runtime)


def _count_freshness(runtime: Runtime, _: Effects) -> None:
    freshness.catch_up(runtime.engine, _NAMED_KINDS)


def _pace(runtime: Runtime, _: Effects) -> None:
    pacing.pace_all(runtime)


def _learn(runtime: Runtime, effects: Effects) -> None:
    effects.add(learning.learn_all(runtime))


# Folding comes first: readers scan what is not folded yet.
_EACH_MINUTE: Final[Mapping[str, Callable[[Runtime, Effects], None]]] = {
    "fold": _fold,
    "expire": _expire,
    "freshness": _count_freshness,
    "pacing": _pace,
    "learning": _learn,
    "retention": retain,
}


def expire(runtime: Runtime) -> int:
    """Write `unreported` where a provider that only pushes said nothing final within the validity; returns how many.

    Providers that can be asked get theirs from the check right after validity, in the finishing transaction.
    """
    total = 0
    for name, adapter in ADAPTERS.items():
        if adapter.record.id_kinds or adapter.record.sweep_window_days is not None:
            continue
        with transaction(runtime.engine) as connection:
            rows = connection.execute(_PUSH_ONLY, {"provider": name}).mappings().all()
        for row in rows:
            with isolated("upkeep.expire_failed", account=row["id"]):
                total += retry_transaction(runtime.engine, lambda c, row=row: _expire_account(c, row, runtime))  # type: ignore[misc]
    return total


def _expire_account(connection: Connection, row: RowMapping, runtime: Runtime) -> int:
    """One batch of an account's overdue messages."""
    hours = float(row["options"].get("validity_hours", adapter_of(row).record.validity_hours))
    overdue = connection.execute(
        _OVERDUE,
        {
            "account_id": row["id"],
            "seconds": timedelta(hours=hours).total_seconds(),
            "many": EXPIRE_AT_ONCE,
        },
    ).all()
    reports = [
        DeliveryReport(
            granularity=Granularity(each.granularity),
            provider_key=each.provider_key,
            status=Status.UNREPORTED,
            provider_status=each.provider_status,
            source=Source.OURS,
            as_of=each.valid_until,
        )
        for each in overdue
    ]
    known = runtime.suppressions
    result = upsert(connection, row["id"], row["provider"], reports, asked_at=None, suppressions=known)
    return result.advanced


def prune(runtime: Runtime) -> Effects:
    """Delete old calls, ended fetches, polls and sessions, stale quarantine and notifications, in small batches."""
    counts = {"calls": 0, "fetches": 0, "polls": 0}
    for _ in range(PRUNE_BATCHES):
        with transaction(runtime.engine) as connection:
            deleted = healing.prune(connection, days=KEEP_CALLS_DAYS, many=PRUNE_ROWS)
        counts = {name: count + more for (name, count), more in zip(counts.items(), deleted, strict=True)}
        if max(deleted) < PRUNE_ROWS:
            break
    with transaction(runtime.engine) as connection:
        counts["quarantine"] = prune_quarantine(connection)
        counts["sessions"] = prune_sessions(connection)
        forget_walks(connection)
        counts["notifications"] = prune_notifications(connection)
        counts["freshness"] = freshness.prune(connection)
    effects = Effects()
    if any(counts.values()):
        effects.info("upkeep.pruned", **counts)
    return effects
