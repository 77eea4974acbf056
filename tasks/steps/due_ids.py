"""Which tracked ids of an account are due, and whether a batch of them waits until it is worth a call."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from math import ceil

from sqlalchemy import Connection, RowMapping

from ulak.models.ledger import planning
from ulak.models.tracked import due_ids, soonest_ids
from ulak.providers.adapter import Account, Adapter
from ulak.schedules.batching import is_worth_a_call
from ulak.schedules.beat import EARLY
from ulak.schedules.plans import latency_of
from ulak.schedules.poll_times import PRICE_SECONDS
from ulak.tasks.steps.fetch_rows import fetches_for
from ulak.tasks.steps.tracking import learned_times, time_factor

HORIZON_SECONDS = 10.0
"""A plan fills the account's time for about so long."""
FILL_SECONDS = 120.0
"""How far ahead an id may be due to fill a batch that leaves anyway (times the account's factor)."""


def capacity(row: RowMapping, *, is_shared: bool = False) -> int:
    """How many calls the account can make for scheduled work within the horizon, at least one.

    `is_shared`: on-demand work waits as well, which takes every other call.
    """
    calls_per_second = float(row["limit_requests"]) / float(row["limit_per_seconds"])
    return max(1, ceil(calls_per_second * HORIZON_SECONDS / (2 if is_shared else 1)))


def due_id_fetches(
    connection: Connection, row: RowMapping, account: Account, adapter: Adapter, room: int
) -> tuple[planning.NewFetch, ...]:
    """Fetches for the ids that are due, batches filled up with those that are due next, at most `room` of them.

    Where there is room for some only, those go whose ids come first among the due: a rank alone would starve the rest.
    """
    batch = int(account.options.get("batch_size") or 1)
    due = due_ids(connection, account.id, room * batch)
    if not due:
        return ()
    if batch > 1:
        fill_until = row["now"] + timedelta(seconds=FILL_SECONDS * time_factor(row))
        # As many as a plan holds fill their batches, and others may be due behind them.
        is_all = len(due) < room * batch
        due = [*due, *_fillers(connection, account.id, due, batch, fill_until)]
        if is_all and all(_may_wait(row, adapter, each) for each in due) and not _is_worth_a_call(row, due):
            return ()
    return fetches_for(adapter, account, due, row["now"])[:room]


def _may_wait(row: RowMapping, adapter: Adapter, tracked: RowMapping) -> bool:
    """Whether an id's check may wait until a call is worth it: it has a distribution, and no bound to keep."""
    longest = row["poll"].get("max_check_seconds")
    since = tracked["last_checked_at"] or tracked["sent_at"]
    is_bound = longest is not None and row["now"] - since >= timedelta(seconds=longest * time_factor(row) * EARLY)
    is_first = tracked["last_checked_at"] is None and row["poll"].get("first_check_seconds") is not None
    return (
        not is_bound
        and not is_first
        and row["now"] < tracked["valid_until"]
        and learned_times(row, adapter, tracked["id_kind"], tracked["expected"]) is not None
        and latency_of(row["poll_plan"], tracked["id_kind"]) is not None
    )


def _is_worth_a_call(row: RowMapping, due: Sequence[RowMapping]) -> bool:
    """Whether these ids, which may all wait, have waited for as long as a call costs."""
    factor = time_factor(row)
    latencies = {kind: latency_of(row["poll_plan"], kind) for kind in {each["id_kind"] for each in due}}
    ids = [
        (
            latency,
            ((each["last_checked_at"] or each["sent_at"]) - each["sent_at"]).total_seconds() / factor,
            (row["now"] - each["sent_at"]).total_seconds() / factor,
        )
        for each in due
        if (latency := latencies[each["id_kind"]]) is not None
    ]
    return is_worth_a_call(ids, float(row["poll_plan"].get("price", PRICE_SECONDS)))


def _fillers(
    connection: Connection, account_id: str, due: Sequence[RowMapping], batch: int, until: datetime
) -> list[RowMapping]:
    """The ids due soonest that fit into the last batch of each kind: a call costs the same whether full or not."""
    fillers: list[RowMapping] = []
    for kind in sorted({row["id_kind"] for row in due}):
        missing = -sum(row["id_kind"] == kind for row in due) % batch
        taken = [row["id"] for row in due if row["id_kind"] == kind]
        fillers += soonest_ids(connection, account_id, kind, missing, until=until, taken=taken)
    return fillers
