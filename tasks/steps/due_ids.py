"""Which tracked ids of an account are due, and whether a batch of them waits until it is worth a call."""

from collections.abc import Sequence
from datetime import timedelta
from math import ceil

from sqlalchemy import Connection

from ulak.models.account import StoredAccount
from ulak.models.callback_shares import settle
from ulak.models.latencies import in_force
from ulak.models.ledger import opening
from ulak.models.tracked import TrackedId, due_ids, soonest_ids
from ulak.providers.adapter import Account, Adapter
from ulak.schedules.batching import WaitingId, expected_waiting, half_age, is_worth_a_call
from ulak.schedules.latency import Latency
from ulak.schedules.plans import latency_of, missed_of
from ulak.schedules.poll_times import PRICE_SECONDS
from ulak.tasks.steps.fetch_rows import fetches_for
from ulak.tasks.steps.tracking import announced_kinds, learned_times

HORIZON_SECONDS = 10.0
"""A plan fills the account's time for about so long."""
FILL_SECONDS = 120.0
"""How far ahead an id may be due to fill a batch that leaves anyway (times the account's factor) …"""
MAX_CANDIDATES = 1000
"""… and among how many of them those are chosen that are expected to have waited longest."""


def capacity(stored: StoredAccount, *, is_shared: bool = False) -> int:
    """How many calls the account can make for scheduled work within the horizon, at least one.

    `is_shared`: on-demand work waits as well, which takes every other call.
    """
    return max(1, ceil(stored.calls_per_second * HORIZON_SECONDS / (2 if is_shared else 1)))


def due_id_fetches(
    connection: Connection, stored: StoredAccount, account: Account, adapter: Adapter, room: int
) -> tuple[opening.NewFetch, ...]:
    """Fetches for the ids that are due, batches filled up with those that are due next, at most `room` of them.

    Where there is room for some only, those go whose ids come first among the due: a rank alone would starve the rest.
    """
    batch = account.options.ids_per_call
    due = due_ids(connection, account.id, room * batch)
    if batch > 1 and len(due) == room * batch:
        # More than a plan holds: those of which hardly one can be final must not take the calls of the others.
        due = due_ids(connection, account.id, room * batch, _half_ages(stored))
    # As many as a plan holds fill their batches, and others may be due behind them.
    is_all = len(due) < room * batch
    due = _unsettled(connection, stored, account, adapter, due)
    if not due:
        return ()
    if batch > 1:
        may_wait = is_all and all(each.due_since is not None and each.due_since > stored.now for each in due)
        due = [*due, *_fillers(connection, stored, due, batch)]
        if may_wait and not _is_worth_a_call(stored, due):
            return ()
    return fetches_for(adapter, account, due, stored.now)[:room]


def _unsettled(
    connection: Connection, stored: StoredAccount, account: Account, adapter: Adapter, due: Sequence[TrackedId]
) -> list[TrackedId]:
    """The due ids without those that callbacks have settled: a poll of them could find nothing."""
    kinds = announced_kinds(stored, account, adapter)
    if not kinds:
        return list(due)
    settled = settle(connection, [each.id for each in due if each.id_kind in kinds], kinds)
    return [each for each in due if each.id not in settled]


def _half_ages(stored: StoredAccount) -> dict[str, float]:
    """By kind of id, for how long after sending a check is hardly worth its call."""
    plan = in_force(stored)
    latencies = ((kind, latency_of(plan, kind)) for kind in plan.get("kinds", {}))
    return {kind: half_age(latency) * stored.time_factor for kind, latency in latencies if latency is not None}


def _is_worth_a_call(stored: StoredAccount, ids: Sequence[TrackedId]) -> bool:
    """Whether these ids, which may all wait, have waited for as long as a call costs."""
    plan = in_force(stored)
    latencies = {kind: latency_of(plan, kind) for kind in {each.id_kind for each in ids}}
    waiting = (
        _waiting(stored, each, latency, missed_of(plan, each.id_kind))
        for each in ids
        if (latency := latencies[each.id_kind]) is not None
    )
    return is_worth_a_call(waiting, float(plan.get("price", PRICE_SECONDS)))


def _waiting(stored: StoredAccount, tracked: TrackedId, latency: Latency, missed: float) -> WaitingId:
    sent_at, announced_at, factor = tracked.sent_at, tracked.announced_at, stored.time_factor
    checked_at = tracked.last_checked_at or sent_at
    return WaitingId(
        latency=latency,
        checked=(checked_at - sent_at).total_seconds() / factor,
        age=(stored.now - sent_at).total_seconds() / factor,
        missed=missed,
        announced=None
        if announced_at is None or announced_at <= checked_at
        else (announced_at - sent_at).total_seconds() / factor,
    )


def _fillers(connection: Connection, stored: StoredAccount, due: Sequence[TrackedId], batch: int) -> list[TrackedId]:
    """What fills the last batch of each kind, since a call costs the same whether full or not.

    The ids that are expected to have waited longest; where nothing was learned of them, those that are due next.
    """
    until = stored.now + timedelta(seconds=FILL_SECONDS * stored.time_factor)
    fillers: list[TrackedId] = []
    for kind in sorted({each.id_kind for each in due}):
        missing = -sum(each.id_kind == kind for each in due) % batch
        if not missing:
            continue
        latency, missed = latency_of(in_force(stored), kind), missed_of(in_force(stored), kind)
        taken = [each.id for each in due if each.id_kind == kind]
        many = missing if latency is None else MAX_CANDIDATES
        found = soonest_ids(connection, stored.id, kind, many, until=until, taken=taken)
        if latency is not None:
            is_one = {each.id for each in found if learned_times(stored, kind, each.expected) is not None}
            waited = {
                each.id: expected_waiting(_waiting(stored, each, latency, missed)) if each.id in is_one else 0.0
                for each in found
            }
            found = sorted(found, key=lambda each: waited[each.id], reverse=True)
        fillers += found[:missing]
    return fillers
