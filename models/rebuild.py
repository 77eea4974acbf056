"""The shared table, recomputed from its history."""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from models.deliveries import find_differing, load_histories, refold
from models.merge import fold_values
from models.tables import delivery_status
from models.vocabulary import Granularity

CHUNK = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildResult:
    """What a rebuild found."""

    deliveries: int
    """Rows recomputed."""
    differed: int
    """Rows that were not what their history says, and were written."""


def rebuild(
    connection: Connection,
    account_id: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> RebuildResult:
    """Recompute every row (of one account, or of all) from its observations; afterwards the table is what they say.

    Streams in chunks of 1000 rows, so memory does not grow with the table. Locks and writes only rows that differ, and
    may run beside the workers. `on_progress` gets (rows done, rows in all). The caller commits.
    """
    mine = delivery_status.c.account_id == account_id if account_id is not None else delivery_status.c.id > 0
    total = connection.execute(select(func.count()).select_from(delivery_status).where(mine)).scalar_one()
    done = differed = last = 0
    while True:
        page = select(delivery_status.c.id, delivery_status.c.granularity).where(mine, delivery_status.c.id > last)
        found = connection.execute(page.order_by(delivery_status.c.id).limit(CHUNK)).all()
        if not found:
            return RebuildResult(deliveries=done, differed=differed)
        deliveries = {place: Granularity(granularity) for place, granularity in found}
        differed += _rebuild_chunk(connection, deliveries)
        done, last = done + len(found), found[-1].id
        if on_progress is not None:
            on_progress(done, max(total, done))


def _rebuild_chunk(connection: Connection, deliveries: dict[int, Granularity]) -> int:
    histories = load_histories(connection, list(deliveries))
    rows = {place: fold_values(deliveries[place], history.values()) for place, history in histories.items()}
    differing = find_differing(connection, rows)
    # What differed without a lock may have been a neighbour's commit in between: the fold under the lock decides.
    return len(refold(connection, {place: deliveries[place] for place in differing}))
