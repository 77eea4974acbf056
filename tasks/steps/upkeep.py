"""Upkeep: what was lost is found, validity that ended is said, what is old is pruned. Safe anywhere, twice at once."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from sqlalchemy import Connection, text

from ulak.models import freshness, statistics_upkeep
from ulak.models.account import StoredAccount, list_accounts
from ulak.models.database import retry_transaction, transaction
from ulak.models.deliveries import upsert
from ulak.models.job_runs import RECONCILE, beat
from ulak.models.ledger import recovery
from ulak.models.ledger.sweep_pages import forget_sweeps
from ulak.models.ledger.taking import MESSAGE_TTL_SECONDS
from ulak.models.notifications import prune as prune_notifications
from ulak.models.quarantine import prune as prune_quarantine
from ulak.models.report import DeliveryReport
from ulak.models.sending_time import fill_missing
from ulak.models.sessions import prune as prune_sessions
from ulak.models.vocabulary import Granularity, Source, Status
from ulak.providers import effective
from ulak.providers.effective import record_of
from ulak.providers.registry import ADAPTERS
from ulak.tasks.effects import Effects, commit
from ulak.tasks.isolation import isolated
from ulak.tasks.messages import dispatch_account, poll_account
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps import clock_watching, latency_learning, sweep_pacing
from ulak.tasks.steps.failures import note_lost_answer
from ulak.tasks.steps.retention import retain

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
    clock_watching.look(runtime)
    effects = Effects()
    healed = _release_expired(runtime, effects)
    with transaction(runtime.engine) as connection:
        ended = recovery.end_polls(connection)
    with transaction(runtime.engine) as connection:
        unplanned = recovery.unplanned_polls(connection)
        waiting = recovery.waiting_accounts(connection, lasts_seconds=MESSAGE_TTL_SECONDS)
        beat(connection, RECONCILE)
    filled = fill_missing(runtime.engine, chunks=FILL_CHUNKS)
    if filled:
        effects.info("upkeep.times_filled", rows=filled)
    if healed or ended:
        effects.info("upkeep.recovered", leases=healed, polls=ended)
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


def _release_one(connection: Connection, effects: Effects) -> recovery.Released | None:
    """What became of the fetch that expired first; None where none has."""
    fetch = recovery.expired_lease(connection)
    if fetch is None:
        return None
    released = recovery.release(connection, fetch)
    note_lost_answer(connection, effects, released)
    return released


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
    statistics_upkeep.fold(runtime.engine)


def _expire(runtime: Runtime, _: Effects) -> None:
    expire(runtime)


def _count_freshness(runtime: Runtime, _: Effects) -> None:
    freshness.catch_up(runtime.engine, _NAMED_KINDS)


def _pace(runtime: Runtime, _: Effects) -> None:
    sweep_pacing.pace_all(runtime)


def _learn(runtime: Runtime, effects: Effects) -> None:
    effects.add(latency_learning.learn_all(runtime))


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
    with transaction(runtime.engine) as connection:
        accounts = list_accounts(connection)
    for stored in accounts:
        if stored.enabled and not record_of(stored).is_pulled:
            with isolated("upkeep.expire_failed", account=stored.id):
                total += retry_transaction(runtime.engine, partial(_expire_account, stored=stored, runtime=runtime))
    return total


def _expire_account(connection: Connection, *, stored: StoredAccount, runtime: Runtime) -> int:
    """One batch of an account's overdue messages."""
    seconds = effective.validity(stored).total_seconds()
    overdue = connection.execute(_OVERDUE, {"account_id": stored.id, "seconds": seconds, "many": EXPIRE_AT_ONCE}).all()
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
    result = upsert(connection, stored.id, stored.provider, reports, asked_at=None, suppressions=known)
    return result.advanced


def prune(runtime: Runtime) -> Effects:
    """Delete old calls, ended fetches, polls and sessions, stale quarantine and notifications, in small batches."""
    counts = {"calls": 0, "fetches": 0, "polls": 0}
    for _ in range(PRUNE_BATCHES):
        with transaction(runtime.engine) as connection:
            deleted = recovery.prune(connection, days=KEEP_CALLS_DAYS, many=PRUNE_ROWS)
        counts = {name: count + more for (name, count), more in zip(counts.items(), deleted, strict=True)}
        if max(deleted) < PRUNE_ROWS:
            break
    with transaction(runtime.engine) as connection:
        counts["quarantine"] = prune_quarantine(connection)
        counts["sessions"] = prune_sessions(connection)
        forget_sweeps(connection)
        counts["notifications"] = prune_notifications(connection)
        counts["freshness"] = freshness.prune(connection)
    effects = Effects()
    if any(counts.values()):
        effects.info("upkeep.pruned", **counts)
    return effects
