"""Deriving the facts of stored statements again with today's adapters: how rows heal after an adapter was corrected.

Nothing is requested from a provider, so no credentials are needed. Each chunk is a transaction of its own, and workers
may write beside it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Engine

from models.accounts import list_accounts
from models.database import retry_transaction
from models.rebuild import RereadChunk, reread_chunk
from tasks.runtime import account_without_credentials, adapter_of
from tasks.steps.tracking import account_row


@dataclass(frozen=True, slots=True, kw_only=True)
class RereadResult:
    """What a reread found."""

    deliveries: int = 0
    differed: int = 0
    """Deliveries whose stored facts were not what their statements give today."""
    written: int = 0
    """Rows that changed by it."""


def reread_statements(
    engine: Engine, account_id: str | None = None, on_progress: Callable[[int], None] | None = None
) -> RereadResult:
    """Derive the facts of all stored statements (of one account, or of all) again, and write what differs.

    `on_progress` gets the number of deliveries read so far. Running it twice changes nothing the second time.
    """
    result = RereadResult()
    with engine.connect() as connection:
        wanted = [account.id for account in list_accounts(connection) if account_id in {None, account.id}]
        rows = [account_row(connection, each) for each in wanted]
    for row in rows:
        restate = partial(adapter_of(row).restate, account_without_credentials(row))
        chunk = RereadChunk(last_id=0)
        while chunk.last_id is not None:
            after_id, mine = chunk.last_id, row["id"]
            chunk = retry_transaction(engine, lambda c: reread_chunk(c, mine, restate, after_id=after_id))  # noqa: B023
            result = RereadResult(
                deliveries=result.deliveries + chunk.deliveries,
                differed=result.differed + chunk.differed,
                written=result.written + chunk.written,
            )
            if on_progress is not None:
                on_progress(result.deliveries)
    return result
