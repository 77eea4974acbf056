"""Upkeep: what was lost is found, validity that ended is said, what is old is pruned. Safe anywhere, twice at once."""

from datetime import timedelta

from providers.registry import ADAPTERS
from sqlalchemy import Connection, RowMapping, text

from core.logging import get_logger
from models.database import retry_transaction
from models.deliveries import upsert
from models.ledger import healing
from models.ledger.dispatch import HINT_LASTS_SECONDS
from models.quarantine import prune as prune_quarantine
from models.report import DeliveryReport
from models.vocabulary import Granularity, Source, Status
from tasks.messages import Message, dispatch_account, poll_account
from tasks.runtime import Runtime, adapter_of

log = get_logger(__name__)

KEEP_CALLS_DAYS = 14
EXPIRE_AT_ONCE = 500


def reconcile(runtime: Runtime) -> list[Message]:
    """Re-ready expired leases, end polls that are done, and say again what nobody was told."""
    healed = retry_transaction(runtime.engine, _release_expired)
    with runtime.engine.begin() as connection:
        ended = healing.end_polls(connection)
    with runtime.engine.begin() as connection:
        unplanned = healing.unplanned_polls(connection)
        waiting = healing.waiting_accounts(connection, hint_lasts_seconds=HINT_LASTS_SECONDS)
    if healed or ended:
        log.info("upkeep.healed", leases=healed, polls=ended)
    messages = [poll_account(account_id, poll_id) for account_id, poll_id in unplanned]
    return messages + [dispatch_account(account_id) for account_id in waiting]


def _release_expired(connection: Connection) -> dict[str, int]:
    """How many expired fetches became what."""
    counts: dict[str, int] = {}
    for fetch in healing.expired_leases(connection):
        state = healing.release(connection, fetch)
        counts[state] = counts.get(state, 0) + 1
    return counts


_PUSH_ONLY = text("SELECT *, clock_timestamp() AS now FROM accounts WHERE provider = :provider AND enabled ORDER BY id")
_OVERDUE = text("""
    SELECT id, granularity, provider_key, provider_status, coalesce(valid_until, least(sent_at, first_seen_at)
           + make_interval(secs => :seconds)) AS valid_until
    FROM delivery_status
    WHERE account_id = :account_id AND NOT is_final AND status <> 'unknown' AND granularity = 'message'
      AND coalesce(valid_until, least(sent_at, first_seen_at) + make_interval(secs => :seconds)) < clock_timestamp()
    ORDER BY id LIMIT :many
""")


def expire(runtime: Runtime) -> int:
    """Write `unreported` where a provider that only pushes said nothing final within the validity; returns how many.

    Providers that can be asked get theirs from the check right after validity, in the finishing transaction.
    """
    total = 0
    for name, adapter in ADAPTERS.items():
        if adapter.record.id_kinds or adapter.record.sweep_window_days is not None:
            continue
        with runtime.engine.begin() as connection:
            rows = connection.execute(_PUSH_ONLY, {"provider": name}).mappings().all()
        for row in rows:
            total += retry_transaction(runtime.engine, lambda c, row=row: _expire_account(c, row))  # type: ignore[misc]
    return total


def _expire_account(connection: Connection, row: RowMapping) -> int:
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
    result = upsert(connection, row["id"], row["provider"], reports, asked_at=None)
    return result.advanced


def prune(runtime: Runtime) -> dict[str, int]:
    """Delete old calls, ended fetches and stale quarantine; at most a few thousand rows a run."""
    with runtime.engine.begin() as connection:
        calls, fetches = healing.prune(connection, days=KEEP_CALLS_DAYS)
    with runtime.engine.begin() as connection:
        sealed = prune_quarantine(connection)
    counts = {"calls": calls, "fetches": fetches, "quarantine": sealed}
    if any(counts.values()):
        log.info("upkeep.pruned", **counts)
    return counts
