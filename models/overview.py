"""How every account stands, and whether all is settled: what `ulak status` and `ulak up --until-settled` look at."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, RowMapping, text

from ulak.models.accounts import FOREVER, PausedBy
from ulak.models.freshness import Standing, standings
from ulak.models.intervals import every_seconds
from ulak.models.rejections import Rejected, recent_rejections
from ulak.models.retention import Removal, announced, keeping_of
from ulak.models.statistics import stored


class AccountState(StrEnum):
    """One word for what keeps an account from being asked; the strongest reason wins, in this order."""

    DISABLED = "disabled"
    PAUSED = "paused"
    BREAKER_OPEN = "breaker open"
    THROTTLED = "throttled"
    OK = "ok"


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
    objective: Standing | None = None
    """How it meets its objective; None where it has none."""
    keep_days: int | None = None
    """How many days its deliveries are kept, as accounts.toml says it; None: for ever."""
    kept_from: datetime | None = None
    """Deliveries that were sent before are removed, and not stored any more; None: all are kept."""
    removal: Removal | None = None
    """A removal that has been announced and has not begun."""


_ACCOUNTS = text("""
    SELECT a.*, clock_timestamp() AS now FROM accounts a
    WHERE CAST(:account AS text) IS NULL OR a.id = :account ORDER BY a.id
""")
_TRACKED = text("""
    -- A whole (a send) only waits for its parts or the end of validity: how long says nothing about the provider.
    SELECT account_id, count(*) AS open, min(sent_at) FILTER (WHERE whole IS DISTINCT FROM value) AS oldest
    FROM tracked_ids
    WHERE account_id = ANY(:ids) AND closed_at IS NULL GROUP BY account_id
""")
_CALLS = text("""
    SELECT a.id AS account_id, recent.minute, recent.hour, busy.slots, good.asked_at, good.answered_at
    FROM accounts a
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE c.asked_at > now() - interval '1 minute') AS minute, count(*) AS hour
        FROM calls c WHERE c.account_id = a.id AND c.asked_at > now() - interval '1 hour') recent
    CROSS JOIN LATERAL (
        SELECT count(*) AS slots FROM calls c WHERE c.account_id = a.id
          AND c.released_at > clock_timestamp() - make_interval(secs => a.limit_per_seconds)) busy
    LEFT JOIN LATERAL (
        SELECT c.asked_at, c.answered_at FROM calls c WHERE c.account_id = a.id AND c.outcome = 'ok'
        ORDER BY c.asked_at DESC LIMIT 1) good ON true
    WHERE a.id = ANY(:ids)
""")
# One branch for each partial index.
_WORK = text("""
    SELECT account_id, 'ready' AS what, count(*) AS many FROM fetches
     WHERE state = 'ready' AND account_id = ANY(:ids) GROUP BY account_id
    UNION ALL SELECT account_id, 'sending', count(*) FROM fetches
     WHERE state = 'sending' AND account_id = ANY(:ids) GROUP BY account_id
    UNION ALL SELECT account_id, 'dead', count(*) FROM fetches
     WHERE state = 'dead' AND account_id = ANY(:ids) GROUP BY account_id
    UNION ALL SELECT account_id, 'polls', count(*) FROM polls
     WHERE state = 'running' AND account_id = ANY(:ids) GROUP BY account_id
    UNION ALL SELECT account_id, 'quarantined', count(*) FROM quarantine
     WHERE resolved_at IS NULL AND account_id = ANY(:ids) GROUP BY account_id
""")


def overview(connection: Connection, account: str | None = None) -> list[AccountOverview]:
    """How every account stands (or the one named; empty where it does not exist), in the order of their ids.

    Seven statements whatever the number of accounts, and one more while a removal is announced. Deliveries are counted
    already (`ulak.models.statistics`), all others read open rows by partial indexes.
    """
    rows = connection.execute(_ACCOUNTS, {"account": account}).mappings().all()
    ids = {"ids": [row["id"] for row in rows]}
    deliveries: Counter[tuple[str, bool]] = Counter()
    for each in stored(connection, ids["ids"]):
        deliveries[each.account_id, each.is_final] += each.rows
    tracked = {row.account_id: row for row in connection.execute(_TRACKED, ids)}
    calls = {row.account_id: row for row in connection.execute(_CALLS, ids)}
    work = {(row.account_id, row.what): int(row.many) for row in connection.execute(_WORK, ids)}
    rejected = recent_rejections(connection, ids["ids"])
    objectives = standings(connection, ids["ids"])
    removals = announced(connection, {row["id"]: (keeping_of(row), row["now"]) for row in rows})
    return [
        _overview_of(
            row,
            deliveries,
            tracked.get(row["id"]),
            calls[row["id"]],
            work,
            rejected=rejected.get(row["id"], ()),
            objective=objectives.get(row["id"]),
            removal=removals.get(row["id"]),
        )
        for row in rows
    ]


def _overview_of(
    row: RowMapping,
    deliveries: Mapping[tuple[str, bool], int],
    tracked: Any,
    calls: Any,
    work: Mapping[tuple[str, str], int],
    *,
    rejected: tuple[Rejected, ...],
    objective: Standing | None,
    removal: Removal | None,
) -> AccountOverview:
    """The rows of one account as one record."""
    account, now = row["id"], row["now"]
    state, reason, until = state_of(row, now)
    trouble_at = row["last_trouble_at"]
    is_over = trouble_at is not None and calls.asked_at is not None and calls.asked_at > trouble_at
    has_trouble = state is not AccountState.OK or not is_over
    return AccountOverview(
        id=account,
        provider=row["provider"],
        enabled=row["enabled"],
        state=state,
        reason=reason,
        until=until,
        paused_by=paused_by(row) if state is AccountState.PAUSED else None,
        as_of=now,
        open_deliveries=deliveries[account, False],
        final_deliveries=deliveries[account, True],
        open_tracked=tracked.open if tracked else 0,
        oldest_unanswered=tracked.oldest if tracked else None,
        freshness_seconds=max(0.0, (now - calls.answered_at).total_seconds()) if calls.answered_at else None,
        calls_last_minute=calls.minute,
        calls_last_hour=calls.hour,
        limit_requests=row["limit_requests"],
        limit_per_seconds=row["limit_per_seconds"],
        limit_concurrency=row["limit_concurrency"],
        busy_slots=min(calls.slots, row["limit_requests"]),
        ready_fetches=work.get((account, "ready"), 0),
        sending_fetches=work.get((account, "sending"), 0),
        dead_fetches=work.get((account, "dead"), 0),
        running_polls=work.get((account, "polls"), 0),
        quarantined=work.get((account, "quarantined"), 0),
        last_trouble=row["last_trouble"] if has_trouble else None,
        last_trouble_at=trouble_at if has_trouble else None,
        rejected=rejected,
        objective=objective,
        keep_days=row["keep_days"],
        kept_from=row["kept_from"],
        removal=removal,
    )


def paused_by(row: Mapping[str, Any] | RowMapping) -> PausedBy:
    """Who paused an account that is paused. A row of the previous version does not say; its reason tells."""
    if row["paused_by"] is not None:
        return PausedBy(row["paused_by"])
    trouble, reason = row["last_trouble"] or "", row["pause_reason"] or ""
    is_refusal = trouble.startswith("PauseAccount: ") and reason.startswith(trouble.removeprefix("PauseAccount: "))
    return PausedBy.AUTOMATIC if is_refusal else PausedBy.OPERATOR


def state_of(row: Mapping[str, Any] | RowMapping, now: datetime) -> tuple[AccountState, str | None, datetime | None]:
    """The state word of an account's row, why, and until when (None: until somebody acts)."""
    if not row["enabled"]:
        return AccountState.DISABLED, "switched off in the accounts file", None
    if row["paused_until"] is not None and row["paused_until"] > now:
        until = row["paused_until"] if row["paused_until"] < FOREVER else None
        return AccountState.PAUSED, row["pause_reason"], until
    if row["breaker_state"] != "closed":
        return AccountState.BREAKER_OPEN, row["last_trouble"], row["breaker_until"]
    if row["not_before"] is not None and row["not_before"] > now:
        return AccountState.THROTTLED, row["last_trouble"], row["not_before"]
    return AccountState.OK, None, None


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
_LEARNED_OPEN = text("""
    SELECT a.id AS account_id, count(t.id) AS many FROM accounts a
    JOIN tracked_ids t ON t.account_id = a.id AND t.closed_at IS NULL
    WHERE a.id = ANY(:ids) AND coalesce(CAST(a.poll ->> 'adaptive' AS boolean), true)
      AND (a.poll_plan -> 'kinds' <> '{}'::jsonb OR a.poll_plan -> 'missed' <> '{}'::jsonb)
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
    found = connection.execute(_ACCOUNTS, {"account": None}).mappings().all()
    rows = [row for row in found if row["enabled"]]
    if not rows:
        return ["No account is enabled, so nobody is asked."]
    ids = {"ids": [row["id"] for row in rows]}
    reasons = [*_stopped(rows), *_open_work(connection, ids), *_due_soon(connection, rows, paces)]
    swept = {row["id"] for row in rows if paces[row["provider"]].sweeps}
    return reasons + [
        reason
        for sweep in connection.execute(_SWEEPS, {"ids": sorted(swept)}).mappings()
        if (reason := _sweep_reason(sweep)) is not None
    ]


def _stopped(rows: Sequence[RowMapping]) -> list[str]:
    """Accounts that may not be asked now, for a reason that does not end by waiting for a slot."""
    states = {row["id"]: state_of(row, row["now"]) for row in rows}
    return [
        f"{account} is {state}{f': {reason}' if reason else ''}."
        for account, (state, reason, _) in states.items()
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


def _due_soon(connection: Connection, rows: Sequence[RowMapping], paces: Mapping[str, ProviderPace]) -> list[str]:
    """Ids that fall due within the account's interval."""
    untils = [row["now"] + timedelta(seconds=every_seconds(row, paces[row["provider"]].every_seconds)) for row in rows]
    parameters = {"ids": [row["id"] for row in rows], "untils": untils}
    return [
        f"{row.account_id} has {_count(row.many, 'id')} to be asked for soon."
        for row in connection.execute(_DUE, parameters)
    ] + [
        f"{row.account_id} has {_count(row.many, 'open id')}, checked at learned times."
        for row in connection.execute(_LEARNED_OPEN, {"ids": parameters["ids"]})
    ]


def _sweep_reason(sweep: RowMapping) -> str | None:
    """Why the sweeps of an account are not at rest; a sweep that still runs is told as an open poll already."""
    account = sweep["account_id"]
    if sweep["state"] is None:
        return f"{account} has not been swept yet."
    if sweep["state"] == "complete_with_errors":
        return f"{account}: the last sweep ended with errors."
    if sweep["state"] == "complete" and (sweep["new"] or sweep["advanced"]):
        return f"{account}: the last sweep found {sweep['new']} new and {sweep['advanced']} advanced."
    if sweep["closed_state"] == "complete_with_errors":
        return f"{account}: the last sweep of closed days ended with errors."
    return None


def _count(many: int, noun: str) -> str:
    return f"{many} {noun}{'' if many == 1 else 's'}"
