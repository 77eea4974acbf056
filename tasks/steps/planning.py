"""Planning: which fetches a poll consists of. Only rows; the account is asked later, by the fetch step.

A plan holds no more than the account can fetch within a short horizon, the most valuable first, so that what becomes
due never waits behind hours of older plans. Missed ticks are never made up for: the next one sees all that is due.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from math import ceil
from typing import Any

from sqlalchemy import Connection, RowMapping

from core.logging import get_logger, origin
from core.settings import CredentialError
from models.availability import is_unavailable
from models.database import transaction
from models.heartbeats import beat, planning_of
from models.ledger import planning
from models.ledger.finishing import lock_account
from models.ledger.hashing import params_hash
from models.ledger.healing import resting_windows
from models.ledger.pace import (
    Pace,
    mark_planned,
    oldest_open_order,
    open_windows,
    plannable_accounts,
    promote_waiting,
    ready_work,
    roll_watermark,
)
from models.ledger.taking import wake
from models.report import TrackedKey
from models.tracked import due_ids, held_ids, known_ids, open_ids, soonest_ids
from providers.adapter import Account, Adapter, DueId, FetchSpec
from providers.registry import adapter_for
from schedules.batching import is_worth_a_call
from schedules.plans import latency_of
from schedules.poll_times import PRICE_SECONDS
from schedules.windows import closed_windows, sweep_start
from tasks.effects import Effects, commit
from tasks.messages import call_up
from tasks.runtime import Runtime, adapter_of
from tasks.steps.pausing import is_paused, pause_without_credentials
from tasks.steps.tracking import due_id, learned_times, register

log = get_logger(__name__)

PlanRange = Callable[[Account, Sequence[DueId], date, date], tuple[FetchSpec, ...]]

HORIZON_SECONDS = 10.0
"""A plan fills the account's time for about so long."""
FILL_SECONDS = 120.0
"""How far ahead an id may be due to fill a batch that leaves anyway (times the account's factor)."""
YOUNG = timedelta(hours=1)
ON_DEMAND_IDS = 10_000
PROMOTE_SECONDS = 60.0
"""A fetch that could have gone for so long is raised to the rank of young messages, where the oldest goes first."""
EARLY = 0.95
"""An interval counts as over a little early, or a tick that comes a moment too soon would lose a whole tick."""
CLOSED_DAYS_EVERY = 10
"""Closed days with open orders are swept at every so-manieth interval; without, once an hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Fetches to insert, and the closed day through which the plan sweeps (None where it sweeps none)."""

    fetches: tuple[planning.NewFetch, ...] = ()
    sweep_through: date | None = None
    opens_today: bool = False
    """Today's window was looked at: its interval begins anew once the plan is stored."""
    opens_closed: bool = False
    """The same of the closed days."""


def plan_due(runtime: Runtime, provider: str) -> Iterator[Effects]:
    """Plan a poll for each account of the provider that has something due; each in a transaction of its own."""
    with transaction(runtime.engine) as connection:
        account_ids = plannable_accounts(connection, provider, _pace(provider))
        beat(connection, planning_of(provider))
    for account_id in account_ids:
        try:
            yield _plan_scheduled(runtime, account_id)
        except Exception as error:
            if is_unavailable(error):
                raise
            # One account's trouble must not keep the others from being planned.
            log.error("poll.plan_failed", account=account_id, error=origin(error))  # noqa: TRY400


def _pace(provider: str) -> Pace:
    record = adapter_for(provider).record
    return Pace(
        sweeps=record.sweep_window_days is not None,
        every_seconds=record.every_seconds,
        early=EARLY,
        priority=planning.PRIORITY_YOUNG,
        waited_seconds=PROMOTE_SECONDS,
    )


def _plan_scheduled(runtime: Runtime, account_id: str) -> Effects:
    """One tick of one account."""

    def run(connection: Connection, effects: Effects) -> None:
        row = lock_account(connection, account_id)
        account = _account_or_pause(runtime, connection, effects, row)
        if account is None:
            return
        promote_waiting(
            connection, account_id, priority=planning.PRIORITY_YOUNG, waited_seconds=PROMOTE_SECONDS * _factor(row)
        )
        plan = _scheduled_plan(connection, row, account)
        tick = _floor(row["now"], runtime.tick_seconds)
        if plan.fetches and not _open_and_fill(connection, effects, account_id, plan, tick):
            # The tick was planned already: what has fallen due since is the next one's, and nothing is noted as done.
            return
        if plan.opens_today or plan.opens_closed:
            mark_planned(connection, account_id, today=plan.opens_today, closed=plan.opens_closed)
        if plan.fetches:
            effects.send(*call_up(wake(connection, account_id)))

    effects = Effects()
    commit(runtime.engine, effects, run)
    return effects


def _account_or_pause(runtime: Runtime, connection: Connection, effects: Effects, row: RowMapping) -> Account | None:
    """The adapter's account; None when its credentials cannot be found, with the account paused for a while."""
    try:
        return runtime.account(row)
    except CredentialError as error:
        if not is_paused(row):
            pause_without_credentials(connection, row, effects, str(error))
        return None


def _open_and_fill(connection: Connection, effects: Effects, account_id: str, plan: Plan, tick: datetime) -> bool:
    """Open the tick's poll with its plan; False where the tick was planned already, which is left alone."""
    new = planning.NewPoll(account_id=account_id, trigger="schedule", scheduled_for=tick)
    poll_id, created = planning.open_poll(connection, new)
    if poll_id is None or not created:
        return False
    inserted = planning.insert_fetches(connection, poll_id, account_id, plan.fetches)
    planning.close_plan(connection, poll_id, inserted, sweep_through=plan.sweep_through)
    effects.info("poll.planned", account=account_id, poll=poll_id, fetches=inserted)
    effects.shown.append(f"{account_id} poll {poll_id}")
    return True


def _scheduled_plan(connection: Connection, row: RowMapping, account: Account) -> Plan:
    """What is due at this account now: windows at their interval, ids by the poll policy."""
    adapter = adapter_of(row)
    sweep = _due_sweep(connection, row, account, adapter)
    ready, is_shared = ready_work(connection, account.id, within_seconds=HORIZON_SECONDS)
    room = max(0, capacity(row, is_shared=is_shared) - ready - len(sweep.fetches))
    ids = _due_id_fetches(connection, row, account, adapter, room) if room else ()
    return replace(sweep, fetches=sweep.fetches + ids)


def capacity(row: RowMapping, *, is_shared: bool = False) -> int:
    """How many calls the account can make for scheduled work within the horizon, at least one.

    `is_shared`: on-demand work waits as well, which takes every other call.
    """
    calls_per_second = float(row["limit_requests"]) / float(row["limit_per_seconds"])
    return max(1, ceil(calls_per_second * HORIZON_SECONDS / (2 if is_shared else 1)))


# ---------------------------------------------------------------------------------------------- windows


def _due_sweep(connection: Connection, row: RowMapping, account: Account, adapter: Adapter) -> Plan:
    """Today's window when its interval has passed; closed days where the watermark or an open order asks for them."""
    if adapter.record.sweep_window_days is None or not _is_tick_due(row, adapter):
        return Plan()
    today = row["now"].astimezone(account.timezone).date()
    running, resting = open_windows(connection, account.id), resting_windows(connection, account.id)
    closed, through = _due_closed(connection, row, account, adapter, today)
    left_out = {window for window in [(today, today), *closed] if window in running or _overlaps(window, resting)}
    windows = [window for window in [(today, today), *closed] if window not in left_out]
    complete = through if closed and not left_out.intersection(closed) else None
    return Plan(
        fetches=window_fetches(adapter, account, windows, today),
        sweep_through=complete,
        opens_today=True,
        opens_closed=through is not None,
    )


def _overlaps(window: tuple[date, date], others: Iterable[tuple[date, date]]) -> bool:
    return any(first <= window[1] and window[0] <= last for first, last in others)


def _is_tick_due(row: RowMapping, adapter: Adapter) -> bool:
    """Whether `every_seconds` have passed since windows were last opened."""
    every = _every_seconds(row, adapter)
    return row["planned_at"] is None or row["now"] - row["planned_at"] >= timedelta(seconds=every * EARLY)


def _every_seconds(row: RowMapping, adapter: Adapter) -> float:
    return float(row["poll"].get("every_seconds", adapter.record.every_seconds))


def _due_closed(
    connection: Connection, row: RowMapping, account: Account, adapter: Adapter, today: date
) -> tuple[list[tuple[date, date]], date | None]:
    """The closed windows to sweep now, and the last day they cover."""
    yesterday = today - timedelta(days=1)
    swept = roll_watermark(connection, account.id)
    oldest = oldest_open_order(connection, account.id, adapter.record.poll.forget_days)
    oldest_day = oldest.astimezone(account.timezone).date() if oldest else None
    if not _is_closed_due(row, adapter, swept_is_behind=swept is None or swept < yesterday, oldest=oldest_day):
        return [], None
    start = sweep_start(today, account.lookback_days, swept, oldest_day)
    return closed_windows(start, today, _window_days(account, adapter)), yesterday


def _is_closed_due(row: RowMapping, adapter: Adapter, *, swept_is_behind: bool, oldest: date | None) -> bool:
    """Whether closed days are worth a look: an unswept day, an open order, or the hourly look at late changes."""
    if row["closed_swept_at"] is None:
        return True
    every = _every_seconds(row, adapter)
    wait = every if swept_is_behind else every * CLOSED_DAYS_EVERY if oldest else 3600.0 * _factor(row)
    return bool(row["now"] - row["closed_swept_at"] >= timedelta(seconds=wait))


def _factor(row: RowMapping) -> float:
    return float(row["poll"].get("time_factor", 1.0))


def _window_days(account: Account, adapter: Adapter) -> int:
    """The longest window: the account's option where it is shorter than the provider's."""
    longest = adapter.record.sweep_window_days or 1
    wanted: int = account.options.get("window_days") or longest
    return min(longest, int(wanted))


def window_fetches(
    adapter: Adapter, account: Account, windows: Iterable[tuple[date, date]], today: date, priority: int | None = None
) -> tuple[planning.NewFetch, ...]:
    """Page one of each window."""
    fetches: list[planning.NewFetch] = []
    for start, end in windows:
        rank = planning.PRIORITY_TODAY if end >= today else planning.PRIORITY_CLOSED_DAYS
        specs = adapter.plan_window(account, start, end)
        fetches += [new_fetch(spec, priority=priority or rank) for spec in specs]
    return tuple(fetches)


# -------------------------------------------------------------------------------------------------- ids


def _due_id_fetches(
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
        fill_until = row["now"] + timedelta(seconds=FILL_SECONDS * _factor(row))
        due = [*due, *_fillers(connection, account.id, due, batch, fill_until)]
        if all(_may_wait(row, adapter, each) for each in due) and not _is_worth_a_call(row, due):
            return ()
    return fetches_for(adapter, account, due, row["now"])[:room]


def _may_wait(row: RowMapping, adapter: Adapter, tracked: RowMapping) -> bool:
    """Whether an id's check may wait until a call is worth it: it has a distribution, and no bound to keep."""
    longest = row["poll"].get("max_check_seconds")
    since = tracked["last_checked_at"] or tracked["sent_at"]
    is_bound = longest is not None and row["now"] - since >= timedelta(seconds=longest * _factor(row) * EARLY)
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
    factor = _factor(row)
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


def fetches_for(
    adapter: Adapter, account: Account, rows: Sequence[RowMapping], now: datetime, priority: int | None = None
) -> tuple[planning.NewFetch, ...]:
    """The adapter's fetches for these tracked rows, as rows to insert, in the order of their first rows."""
    by_key = {TrackedKey(id_kind=row["id_kind"], value=row["value"]): row for row in rows}
    turns = {key: turn for turn, key in enumerate(by_key)}
    specs = adapter.plan_ids(account, [due_id(row) for row in rows], now.astimezone(UTC).date())
    fetches = []
    for spec in sorted(specs, key=lambda spec: min((turns[key] for key in spec.ids if key in turns), default=0)):
        asked = [by_key[key] for key in spec.ids if key in by_key]
        youngest = max((row["sent_at"] for row in asked), default=now)
        rank = planning.PRIORITY_YOUNG if now - youngest < YOUNG else planning.PRIORITY_OLD
        fetches.append(new_fetch(spec, priority=priority or rank, ids=tuple(row["id"] for row in asked)))
    return tuple(fetches)


def new_fetch(
    spec: FetchSpec, *, priority: int, ids: tuple[int, ...] = (), walk: int | None = None
) -> planning.NewFetch:
    """A row to insert for an adapter's spec."""
    return planning.NewFetch(
        kind=spec.kind,
        params=spec.params,
        label=spec.label,
        priority=priority,
        round=spec.round,
        ids=ids,
        walk=walk,
    )


# -------------------------------------------------------------------------------------------- on demand


def plan_poll(runtime: Runtime, account_id: str, poll_id: int) -> Effects:
    """Plan a poll that was opened on demand; one that is planned already, or cancelled, is left alone."""

    def run(connection: Connection, effects: Effects) -> None:
        row = lock_account(connection, account_id)
        account = _account_or_pause(runtime, connection, effects, row)
        poll = planning.lock_poll(connection, poll_id)
        if account is None or poll is None or poll["planned_at"] is not None or poll["state"] != "running":
            return
        _fill_on_demand(connection, effects, row, account, poll)
        effects.send(*call_up(wake(connection, account_id)))

    effects = Effects()
    commit(runtime.engine, effects, run)
    return effects


def _fill_on_demand(
    connection: Connection, effects: Effects, row: RowMapping, account: Account, poll: RowMapping
) -> None:
    """Give the poll its fetches: taken over where they stand ready, its own where they are in the air or missing."""
    adapter, priority = adapter_of(row), planning.PRIORITY_ON_DEMAND
    if poll["window_from"] is not None and adapter.record.plan_range is not None:
        of_range = range_fetches(connection, row, account, poll, adapter.record.plan_range)
        _close_on_demand(connection, effects, poll, of_range)
        return
    windows = wanted_windows(row, account, adapter, poll)
    today = row["now"].astimezone(account.timezone).date()
    sweeps = window_fetches(adapter, account, windows, today, priority)
    wanted = wanted_ids(connection, row, account, adapter, poll)
    ids = [tracked["id"] for tracked in wanted]
    taken = planning.take_over(connection, poll["id"], account.id, hashes=[], ids=ids, priority=priority)
    held = held_ids(connection, poll["id"])
    rest = [tracked for tracked in wanted if tracked["id"] not in held]
    fetches = sweeps + fetches_for(adapter, account, rest, row["now"], priority)
    _close_on_demand(connection, effects, poll, fetches, taken=taken)


def _close_on_demand(
    connection: Connection, effects: Effects, poll: RowMapping, fetches: Sequence[planning.NewFetch], *, taken: int = 0
) -> None:
    """Give the poll these fetches, beside the `taken` ones, and say that its plan is complete."""
    account_id, poll_id = poll["account_id"], poll["id"]
    # Windows hold no ids, and a fetch may have let go of its own: these are known by what they ask.
    hashes = [params_hash(fetch.kind, fetch.params) for fetch in fetches]
    taken += planning.take_over(
        connection, poll_id, account_id, hashes=hashes, ids=[], priority=planning.PRIORITY_ON_DEMAND
    )
    inserted = planning.insert_fetches(connection, poll_id, account_id, fetches)
    planning.close_plan(connection, poll_id, inserted + taken)
    effects.info("poll.planned", account=account_id, poll=poll_id, fetches=inserted, taken_over=taken)


def range_fetches(
    connection: Connection,
    row: RowMapping,
    account: Account,
    poll: RowMapping | Mapping[str, Any],
    plan_range: PlanRange,
) -> list[planning.NewFetch]:
    """The fetches that ask for ids over the poll's days: those it names, or all that were ever registered.

    Nothing is taken over by id, since what stands ready for an id asks for other days.
    """
    if poll["ids"] is None:
        wanted = known_ids(connection, account.id, ON_DEMAND_IDS)
    else:
        wanted = register(connection, row, account, adapter_of(row), poll["ids"])
    specs = plan_range(account, [due_id(tracked) for tracked in wanted], poll["window_from"], poll["window_to"])
    return [new_fetch(spec, priority=planning.PRIORITY_ON_DEMAND) for spec in specs]


def wanted_windows(
    row: RowMapping, account: Account, adapter: Adapter, poll: RowMapping | Mapping[str, Any]
) -> list[tuple[date, date]]:
    """The windows that an on-demand poll asks for: its own days, or the lookback when it names neither days nor ids."""
    if adapter.record.sweep_window_days is None or (poll["ids"] is not None and poll["window_from"] is None):
        return []
    today = row["now"].astimezone(account.timezone).date()
    start = poll["window_from"] or today - timedelta(days=account.lookback_days)
    end = min(poll["window_to"] or today, today)
    windows = closed_windows(start, min(end + timedelta(days=1), today), _window_days(account, adapter))
    return windows + ([(today, today)] if start <= today <= end else [])


def wanted_ids(
    connection: Connection, row: RowMapping, account: Account, adapter: Adapter, poll: RowMapping | Mapping[str, Any]
) -> Sequence[RowMapping]:
    """The tracked rows that an on-demand poll asks for: those it names, or all open ones when it names nothing."""
    if poll["ids"] is None:
        return open_ids(connection, account.id, ON_DEMAND_IDS) if poll["window_from"] is None else []
    return register(connection, row, account, adapter, poll["ids"])


def _floor(moment: datetime, seconds: float) -> datetime:
    """The tick that `moment` falls into."""
    stamp = moment.timestamp()
    return datetime.fromtimestamp(stamp - stamp % seconds, UTC)
