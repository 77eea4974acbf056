"""How every account stands, and whether all is settled: what `ulak status` and `ulak up --until-settled` look at."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, text

from ulak.models.account import IS_ADAPTIVE, AccountState, StoredAccount, find, list_accounts
from ulak.models.freshness import ObjectiveStatus, objective_statuses
from ulak.models.rejections import Rejected, recent_rejections
from ulak.models.retention import Removal, announced, keeping_of
from ulak.models.snapshot import Calls, Work, age, read_calls, read_work
from ulak.models.statistics import stored
from ulak.models.sweep_intervals import every_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountOverview:
    """How one account stands at `as_of`, by PostgreSQL's clock."""

    id: str
    provider: str
    enabled: bool
    state: AccountState
    reason: str | None
    """Why the state is not ok; safe to show."""
    until: datetime | None
    """When the state ends by itself; None where it does not, or is ok. Of an automatic pause: the next attempt."""
    paused_by: str | None
    """Who paused the account: `operator` or `automatic`; None where it is not paused."""
    as_of: datetime
    open_deliveries: int
    final_deliveries: int
    open_tracked: int
    """Registered or discovered ids that are still asked for."""
    oldest_unanswered: datetime | None
    """`sent_at` of the oldest id that is still asked for."""
    freshness_seconds: float | None
    """Seconds since the last call that was answered well; None where none was (yet)."""
    calls_last_minute: int
    calls_last_hour: int
    limit_requests: int
    limit_per_seconds: float
    limit_concurrency: int
    busy_slots: int
    """How many of `limit_requests` are taken now."""
    ready_fetches: int
    sending_fetches: int
    dead_fetches: int
    running_polls: int
    quarantined: int
    """Entries in quarantine that nobody has resolved yet."""
    last_trouble: str | None
    """The last error of a call; None where there was none, or the state is ok and a call made since has succeeded."""
    last_trouble_at: datetime | None
    rejected: tuple[Rejected, ...] = ()
    """Requests that were rejected for the account lately, by kind, the latest first."""
    objective: ObjectiveStatus | None = None
    """How it meets its objective; None where it has none."""
    keep_days: int | None = None
    """How many days its deliveries are kept, as accounts.toml says it; None: forever."""
    kept_from: datetime | None = None
    """Deliveries that were sent before are removed, and not stored any more; None: all are kept."""
    removal: Removal | None = None
    """A removal that has been announced and has not begun."""


def overview(
    connection: Connection, account: str | None = None, work: Sequence[Work] | None = None
) -> list[AccountOverview]:
    """How every account stands (or the one named; empty where it does not exist), in the order of their ids.

    Six statements whatever the number of accounts, and one more while a removal is announced. Deliveries are counted
    already (`ulak.models.statistics`), all others read open rows by partial indexes. `work`: of all accounts, where it
    was read a moment ago.
    """
    known = list_accounts(connection) if account is None else [find(connection, account)]
    accounts = [each for each in known if each is not None]
    ids = [each.id for each in accounts]
    deliveries: Counter[tuple[str, bool]] = Counter()
    for each in stored(connection, ids):
        deliveries[each.account_id, each.is_final] += each.rows
    calls = {each.account_id: each for each in read_calls(connection, ids)}
    works = {each.account_id: each for each in (read_work(connection, ids) if work is None else work)}
    rejected = recent_rejections(connection, ids)
    objectives = objective_statuses(connection, ids)
    removals = announced(connection, {each.id: (keeping_of(each), each.now) for each in accounts})
    return [
        _overview_of(
            each,
            deliveries,
            calls[each.id],
            works[each.id],
            rejected=rejected.get(each.id, ()),
            objective=objectives.get(each.id),
            removal=removals.get(each.id),
        )
        for each in accounts
        if each.id in works
    ]


def _overview_of(
    account: StoredAccount,
    deliveries: Mapping[tuple[str, bool], int],
    calls: Calls,
    work: Work,
    *,
    rejected: tuple[Rejected, ...],
    objective: ObjectiveStatus | None,
    removal: Removal | None,
) -> AccountOverview:
    """What was read of one account as one record."""
    state, reason, until = account.standing
    trouble_at = account.last_trouble_at
    is_over = trouble_at is not None and calls.good_asked_at is not None and calls.good_asked_at > trouble_at
    has_trouble = state is not AccountState.OK or not is_over
    return AccountOverview(
        id=account.id,
        provider=account.provider,
        enabled=account.enabled,
        state=state,
        reason=reason,
        until=until,
        paused_by=account.pauser if state is AccountState.PAUSED else None,
        as_of=account.now,
        open_deliveries=deliveries[account.id, False],
        final_deliveries=deliveries[account.id, True],
        open_tracked=work.ids,
        oldest_unanswered=work.ids_since,
        freshness_seconds=age(calls.now, calls.good_answered_at),
        calls_last_minute=calls.minute,
        calls_last_hour=calls.hour,
        limit_requests=account.limit_requests,
        limit_per_seconds=account.limit_per_seconds,
        limit_concurrency=account.limit_concurrency,
        busy_slots=calls.busy_slots,
        ready_fetches=work.ready,
        sending_fetches=work.sending,
        dead_fetches=work.dead,
        running_polls=work.polls,
        quarantined=work.quarantined,
        last_trouble=account.last_trouble if has_trouble else None,
        last_trouble_at=trouble_at if has_trouble else None,
        rejected=rejected,
        objective=objective,
        keep_days=account.keep_days,
        kept_from=account.kept_from,
        removal=removal,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderPace:
    """What settling needs to know of a provider: this room knows none."""

    every_seconds: float
    """Default of `[account.poll] every_seconds`."""
    sweeps: bool
    """Whether the provider has a list that is swept."""


_RUNNING = text("""
    SELECT p.account_id, count(*) AS many, count(*) FILTER (WHERE p.planned_at IS NULL) AS unplanned
    FROM polls p WHERE p.state = 'running' AND p.account_id = ANY(:ids) GROUP BY p.account_id
""")
# A disabled account's fetches go nowhere; a stray id (its fetch is gone) is freed by the reconciler and asked again.
_HELD = text("""
    SELECT account_id, count(*) AS many FROM tracked_ids
    WHERE fetch_id IS NOT NULL AND account_id = ANY(:ids) GROUP BY account_id
""")
_DUE = text("""
    SELECT w.account_id, count(t.id) AS many FROM unnest(CAST(:ids AS text[]), CAST(:untils AS timestamptz[]))
        AS w(account_id, until)
    JOIN tracked_ids t ON t.account_id = w.account_id AND t.next_check_at <= w.until
         AND t.closed_at IS NULL AND t.fetch_id IS NULL
    GROUP BY w.account_id
""")
_LEARNED_OPEN = text(f"""
    SELECT a.id AS account_id, count(t.id) AS many FROM accounts a
    JOIN tracked_ids t ON t.account_id = a.id AND t.closed_at IS NULL
    WHERE a.id = ANY(:ids) AND {IS_ADAPTIVE}
      AND (a.poll_plan -> 'kinds' <> '{{}}'::jsonb OR a.poll_plan -> 'missed' <> '{{}}'::jsonb)
    GROUP BY a.id
""")
# The last poll that swept anything, and the last one that swept closed days; both walk back from the newest poll.
_SWEEPS = text("""
    SELECT a.id AS account_id, latest.state, latest.new, latest.advanced, closed.state AS closed_state
    FROM accounts a
    LEFT JOIN LATERAL (
        SELECT p.state, p.new, p.advanced FROM polls p
        WHERE p.account_id = a.id AND p.state <> 'cancelled' AND p.planned_at IS NOT NULL
          AND EXISTS (SELECT 1 FROM fetches f WHERE f.poll_id = p.id AND f.params ? 'window')
        ORDER BY p.id DESC LIMIT 1) latest ON true
    LEFT JOIN LATERAL (
        SELECT p.state FROM polls p WHERE p.account_id = a.id AND p.sweep_through IS NOT NULL AND p.state <> 'cancelled'
        ORDER BY p.id DESC LIMIT 1) closed ON true
    WHERE a.id = ANY(:ids)
""")


def unsettled(connection: Connection, paces: Mapping[str, ProviderPace]) -> list[str]:
    """Why the system is not settled, one sentence for each reason; empty when it is.

    Settled: no poll of an enabled account is open, the last sweep of each account with lists was complete and found
    nothing new or advanced, so was its last sweep of closed days, no id falls due within the account's
    interval, none is open in an account whose poll policy has learned (its waits may be long), and no account is
    paused or behind an open breaker (what it would say is not known).

    `paces`: of each provider by name. Where no account is enabled nothing is settled, since nobody is asked.
    """
    accounts = [each for each in list_accounts(connection) if each.enabled]
    if not accounts:
        return ["No account is enabled, so nobody is asked."]
    ids = {"ids": [each.id for each in accounts]}
    reasons = [*_stopped(accounts), *_open_work(connection, ids), *_due_soon(connection, accounts, paces)]
    swept = [each.id for each in accounts if paces[each.provider].sweeps]
    return reasons + [
        reason for sweep in connection.execute(_SWEEPS, {"ids": swept}) if (reason := _sweep_reason(sweep)) is not None
    ]


def _stopped(accounts: Sequence[StoredAccount]) -> list[str]:
    """Accounts that may not be asked now, for a reason that does not end by waiting for a slot."""
    standings = {each.id: each.standing for each in accounts}
    return [
        f"{account} is {state}{f': {reason}' if reason else ''}."
        for account, (state, reason, _) in standings.items()
        if state in {AccountState.PAUSED, AccountState.BREAKER_OPEN}
    ]


def _open_work(connection: Connection, ids: Mapping[str, Any]) -> list[str]:
    """Polls that run or wait for their plan, and ids that a fetch still holds."""
    reasons: list[str] = []
    busy: set[str] = set()
    for row in connection.execute(_RUNNING, ids):
        busy.add(row.account_id)
        waiting = f" ({row.unplanned} not planned yet)" if row.unplanned else ""
        reasons.append(f"{row.account_id} has {_count(row.many, 'open poll')}{waiting}.")
    held = [row for row in connection.execute(_HELD, ids) if row.account_id not in busy]
    return reasons + [f"{row.account_id} has {_count(row.many, 'id')} that a fetch holds." for row in held]


def _due_soon(
    connection: Connection, accounts: Sequence[StoredAccount], paces: Mapping[str, ProviderPace]
) -> list[str]:
    """Ids that fall due within the account's interval."""
    untils = [
        each.now + timedelta(seconds=every_seconds(each, paces[each.provider].every_seconds)) for each in accounts
    ]
    parameters = {"ids": [each.id for each in accounts], "untils": untils}
    return [
        f"{row.account_id} has {_count(row.many, 'id')} to be asked for soon."
        for row in connection.execute(_DUE, parameters)
    ] + [
        f"{row.account_id} has {_count(row.many, 'open id')}, checked at learned times."
        for row in connection.execute(_LEARNED_OPEN, {"ids": parameters["ids"]})
    ]


def _sweep_reason(sweep: Row[Any]) -> str | None:
    """Why the sweeps of an account are not at rest; a sweep that still runs is told as an open poll already."""
    account = sweep.account_id
    if sweep.state is None:
        return f"{account} has not been swept yet."
    if sweep.state == "complete_with_errors":
        return f"{account}: the last sweep ended with errors."
    if sweep.state == "complete" and (sweep.new or sweep.advanced):
        return f"{account}: the last sweep found {sweep.new} new and {sweep.advanced} advanced."
    if sweep.closed_state == "complete_with_errors":
        return f"{account}: the last sweep of closed days ended with errors."
    return None


def _count(many: int, noun: str) -> str:
    return f"{many} {noun}{'' if many == 1 else 's'}"
