"""Deriving the facts of stored statements again with today's adapters: how rows heal after an adapter was corrected.

Nothing is requested from a provider, so no credentials are needed. Each chunk is a transaction of its own, and workers
may write beside it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from sqlalchemy import Connection, Engine

from ulak.models.account import StoredAccount, list_accounts, load
from ulak.models.database import retry_transaction
from ulak.models.ledger.ending import database_now, discover
from ulak.models.rebuild import RereadChunk, Restate, RestateOf, remove_repetitions, reread_chunk, surplus_orders
from ulak.models.suppression import Suppressions
from ulak.models.vocabulary import Granularity
from ulak.providers.adapter import ProviderRecord
from ulak.providers.effective import adapter_of, record_of
from ulak.tasks.runtime import account_without_credentials


@dataclass(frozen=True, slots=True, kw_only=True)
class RereadResult:
    """What a reread found."""

    deliveries: int = 0
    differed: int = 0
    """Deliveries whose stored facts were not what their statements give today."""
    written: int = 0
    """Rows that changed by it."""
    removed: int = 0
    """Messages that a response had repeated beyond the recipients of its order."""


def reread_statements(
    engine: Engine,
    suppressions: Suppressions,
    account_id: str | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> RereadResult:
    """Derive the facts of all stored statements (of one account, or of all) again, and write what differs.

    `on_progress` gets the number of deliveries read so far. Running it twice changes nothing the second time.
    """
    result = RereadResult()
    with engine.connect() as connection:
        wanted = [stored for stored in list_accounts(connection) if account_id in {None, stored.id}]
    for stored in wanted:
        restate = _restate(stored)
        chunk = RereadChunk(last_id=0)
        while chunk.last_id is not None:
            read = partial(
                reread_chunk,
                account_id=stored.id,
                restate=restate,
                suppressions=suppressions,
                after_id=chunk.last_id,
            )
            chunk = retry_transaction(engine, read)
            result = replace(
                result,
                deliveries=result.deliveries + chunk.deliveries,
                differed=result.differed + chunk.differed,
                written=result.written + chunk.written,
            )
            if on_progress is not None:
                on_progress(result.deliveries)
        result = replace(result, removed=result.removed + _remove_phantoms(engine, stored.id, record_of(stored)))
    return result


def restate_of(connection: Connection) -> RestateOf:
    """For `rebuild`: how each account's adapter reads kept statements today."""
    return cache(lambda account_id: _restate(load(connection, account_id)))


def _restate(stored: StoredAccount) -> Restate:
    return partial(adapter_of(stored).restate, account_without_credentials(stored))


def _remove_phantoms(engine: Engine, account_id: str, record: ProviderRecord) -> int:
    """Remove repeated messages of orders that have more of them than recipients, and make these orders due."""
    if record.is_repetition is None:
        return 0
    with engine.connect() as connection:
        orders = surplus_orders(connection, account_id)
    return sum(
        retry_transaction(engine, partial(_remove_of_order, account_id=account_id, record=record, order=order))
        for order in orders
    )


def _remove_of_order(connection: Connection, *, account_id: str, record: ProviderRecord, order: str) -> int:
    removed = remove_repetitions(connection, account_id, order, record.is_repetition) if record.is_repetition else 0
    if removed:
        kinds = [kind for kind, granularity in record.reference_kinds.items() if granularity is Granularity.ORDER]
        reopened: list[Mapping[str, Any]] = [{"id_kind": kind, "value": order, "expected": None} for kind in kinds]
        discover(connection, account_id, database_now(connection), [], reopened)
    return removed
