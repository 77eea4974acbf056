"""Planning: which fetches a poll consists of. Only rows; the account is asked later, by the fetch step.

A plan holds no more than the account can fetch within a short horizon, the most valuable first, so that what becomes
due never waits behind hours of older plans. Missed ticks are never made up for: the next one sees all that is due.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy import Connection

from ulak.core.credentials import CredentialError
from ulak.models.account import StoredAccount, lock
from ulak.models.database import transaction
from ulak.models.job_runs import beat, planning_of
from ulak.models.ledger import opening
from ulak.models.ledger.hashing import params_hash
from ulak.models.ledger.planner_queries import (
    PlannerState,
    mark_planned,
    plannable_accounts,
    promote_waiting,
    ready_work,
)
from ulak.models.ledger.taking import wake
from ulak.models.tracked import held_ids
from ulak.providers.adapter import Account
from ulak.providers.effective import adapter_of
from ulak.providers.pseudonymiser import Pseudonymiser
from ulak.providers.registry import adapter_for
from ulak.schedules.beat import EARLY
from ulak.tasks.effects import Effects, commit
from ulak.tasks.isolation import isolated
from ulak.tasks.messages import wake_up
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.due_ids import HORIZON_SECONDS, capacity, due_id_fetches
from ulak.tasks.steps.due_windows import due_sweep
from ulak.tasks.steps.fetch_rows import Plan, fetches_for
from ulak.tasks.steps.pausing import pause_without_credentials
from ulak.tasks.steps.poll_targets import wanted

PROMOTE_SECONDS = 60.0
"""A fetch that could have gone for so long is raised to the rank of young messages, where the oldest goes first."""


def plan_due(runtime: Runtime, provider: str) -> Iterator[Effects]:
    """Plan a poll for each account of the provider that has something due; each in a transaction of its own."""
    with transaction(runtime.engine) as connection:
        account_ids = plannable_accounts(connection, provider, _pace(provider))
        beat(connection, planning_of(provider))
    for account_id in account_ids:
        with isolated("poll.plan_failed", account=account_id):
            yield _plan_scheduled(runtime, account_id)


def _pace(provider: str) -> PlannerState:
    record = adapter_for(provider).record
    return PlannerState(
        sweeps=record.sweep_window_days is not None,
        every_seconds=record.every_seconds,
        early=EARLY,
        priority=opening.PRIORITY_YOUNG,
        waited_seconds=PROMOTE_SECONDS,
    )


def _plan_scheduled(runtime: Runtime, account_id: str) -> Effects:
    """One tick of one account."""

    def run(connection: Connection, effects: Effects) -> None:
        stored = lock(connection, account_id)
        account = _account_or_pause(runtime, connection, effects, stored)
        if account is None:
            return
        promote_waiting(
            connection,
            account_id,
            priority=opening.PRIORITY_YOUNG,
            waited_seconds=PROMOTE_SECONDS * stored.time_factor,
        )
        plan = _scheduled_plan(connection, stored, account)
        tick = _floor(stored.now, runtime.tick_seconds)
        if plan.fetches and not _open_and_fill(connection, effects, account_id, plan, tick):
            # The tick was planned already: what has fallen due since is the next one's, and nothing is noted as done.
            return
        if plan.opens_today or plan.opens_closed:
            mark_planned(connection, account_id, today=plan.opens_today, closed=plan.opens_closed)
        if plan.fetches:
            effects.send(*wake_up(wake(connection, account_id)))

    effects = Effects()
    commit(runtime.engine, effects, run)
    return effects


def _account_or_pause(
    runtime: Runtime, connection: Connection, effects: Effects, stored: StoredAccount
) -> Account | None:
    """The adapter's account; None when its credentials cannot be found, with the account paused for a while."""
    try:
        return runtime.account(stored)
    except CredentialError as error:
        if not stored.is_paused:
            pause_without_credentials(connection, stored, effects, str(error))
        return None


def _open_and_fill(connection: Connection, effects: Effects, account_id: str, plan: Plan, tick: datetime) -> bool:
    """Open the tick's poll with its plan; False where the tick was planned already, which is left alone."""
    new = opening.NewPoll(account_id=account_id, trigger="schedule", scheduled_for=tick)
    poll_id, created = opening.open_poll(connection, new)
    if poll_id is None or not created:
        return False
    inserted = opening.insert_fetches(connection, poll_id, account_id, plan.fetches)
    opening.close_plan(connection, poll_id, inserted, sweep_through=plan.sweep_through)
    effects.info("poll.planned", account=account_id, poll=poll_id, fetches=inserted)
    effects.shown.append(f"{account_id} poll {poll_id}")
    return True


def _scheduled_plan(connection: Connection, stored: StoredAccount, account: Account) -> Plan:
    """What is due at this account now: windows at their interval, ids by the poll policy."""
    adapter = adapter_of(stored)
    sweep = due_sweep(connection, stored, account, adapter)
    ready, is_shared = ready_work(connection, account.id, within_seconds=HORIZON_SECONDS)
    room = max(0, capacity(stored, is_shared=is_shared) - ready - len(sweep.fetches))
    ids = due_id_fetches(connection, stored, account, adapter, room) if room else ()
    return replace(sweep, fetches=sweep.fetches + ids)


def plan_poll(runtime: Runtime, account_id: str, poll_id: int) -> Effects:
    """Plan a poll that was opened on demand; one that is planned already, or cancelled, is left alone."""

    def run(connection: Connection, effects: Effects) -> None:
        stored = lock(connection, account_id)
        account = _account_or_pause(runtime, connection, effects, stored)
        poll = opening.lock_poll(connection, poll_id)
        if account is None or poll is None or poll.planned_at is not None or poll.state != "running":
            return
        _fill_on_demand(connection, effects, runtime, stored, account, poll)
        effects.send(*wake_up(wake(connection, account_id)))

    effects = Effects()
    commit(runtime.engine, effects, run)
    return effects


def _fill_on_demand(  # noqa: PLR0917 - what `plan_poll` has found out
    connection: Connection,
    effects: Effects,
    runtime: Runtime,
    stored: StoredAccount,
    account: Account,
    poll: opening.LockedPoll,
) -> None:
    """Give the poll its fetches: ready ones of others are taken over, those under way left, the rest its own."""
    priority, asked = opening.PRIORITY_ON_DEMAND, wanted(connection, runtime, stored, account, poll)
    ids = [tracked.id for tracked in asked.ids]
    taken = opening.take_over(connection, poll.id, account.id, hashes=[], ids=ids, priority=priority)
    held = held_ids(connection, poll.id)
    rest = [tracked for tracked in asked.ids if tracked.id not in held]
    fetches = asked.fetches + fetches_for(adapter_of(stored), account, rest, stored.now, priority)
    _close_on_demand(connection, effects, poll, fetches, taken=taken, hidden=runtime.pseudonymiser_of(stored))


def _close_on_demand(
    connection: Connection,
    effects: Effects,
    poll: opening.LockedPoll,
    fetches: Sequence[opening.NewFetch],
    *,
    taken: int,
    hidden: Pseudonymiser | None,
) -> None:
    """Give the poll these fetches, beside the `taken` ones, and say that its plan is complete."""
    account_id, poll_id = poll.account_id, poll.id
    # Windows hold no ids, and a fetch may have let go of its own: these are known by what they ask.
    hashes = [params_hash(fetch.kind, fetch.params) for fetch in fetches]
    taken += opening.take_over(
        connection, poll_id, account_id, hashes=hashes, ids=[], priority=opening.PRIORITY_ON_DEMAND
    )
    inserted = opening.insert_fetches(connection, poll_id, account_id, fetches)
    opening.close_plan(connection, poll_id, inserted + taken)
    if poll.ids:
        ids = poll.ids if hidden is None else [hidden.named(each) for each in poll.ids]
        opening.mask_ids(connection, poll_id, ids)
    effects.info("poll.planned", account=account_id, poll=poll_id, fetches=inserted, taken_over=taken)


def _floor(moment: datetime, seconds: float) -> datetime:
    """The tick that `moment` falls into."""
    stamp = moment.timestamp()
    return datetime.fromtimestamp(stamp - stamp % seconds, UTC)
