"""The figures that operators watch, read from the tables: the same whichever process is asked, and after any crash.

Label values are an account's id, its provider and words of small fixed sets; never a number, an id of a message, a
text. Every figure that can be 0 is told as 0 for every account, so that an alarm needs no guess about absence.

A group is one statement or two. None reads the shared table whole.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, text

from ulak.models import snapshot
from ulak.models.account import AccountState, PausedBy, list_accounts
from ulak.models.freshness import totals
from ulak.models.job_runs import NOT_OF_WORKERS
from ulak.models.ledger.clocksteps import steps_of_last_day
from ulak.models.ledger.sharing import thread_totals
from ulak.models.objectives import BOUNDS, read_objective
from ulak.models.snapshot import age
from ulak.models.statistics import stored

RECENT_SECONDS: Final = 300
"""The window of the figures that count recent calls."""
HOUR_SECONDS: Final = 3600
BREAKER_STATES: Final = ("closed", "open", "probing")
FETCH_STATES: Final = ("ready", "sending", "dead")
POLL_ENDS: Final = ("complete", "complete_with_errors", "cancelled")


@dataclass(frozen=True, slots=True)
class Sample:
    """One number: of which figure, under which labels."""

    figure: str
    labels: Mapping[str, str]
    value: float
    """Of a histogram: its sum."""
    buckets: tuple[tuple[str, float], ...] = ()
    """Of a histogram: (upper bound, how many up to it), the last one `+Inf`."""


Samples = Iterator[Sample]


def _of(row: Row[Any], **more: str) -> dict[str, str]:
    return {"account": row.account, "provider": row.provider, **more}


def read_accounts(connection: Connection) -> Samples:
    """How every account stands, and its limit."""
    for account in list_accounts(connection):
        labels = {"account": account.id, "provider": account.provider}
        for state in AccountState:
            word = state.value.replace(" ", "_")
            yield Sample("account_state", labels | {"state": word}, state is account.standing.state)
        # An automatic pause lasts until a call succeeds, and lends itself the breaker for its probes.
        refused = account.paused_by == PausedBy.AUTOMATIC and account.refusals > 0
        breaker = "closed" if refused and account.breaker_trips == 0 else account.breaker_state
        for word in BREAKER_STATES:
            yield Sample("account_breaker", labels | {"state": word}, word == breaker)
        yield Sample("account_paused", labels, (refused or account.is_paused) and account.enabled)
        yield Sample("account_limit_requests", labels, account.limit_requests)
        yield Sample("account_limit_window_seconds", labels, account.limit_per_seconds)
        yield Sample("account_limit_concurrency", labels, account.limit_concurrency)
        if (asked := age(account.now, account.last_asked_at)) is not None:
            yield Sample("account_asked_age_seconds", labels, asked)


_RECENT_CALLS = text("""
    SELECT a.id AS account, a.provider, c.outcome,
        CASE WHEN c.http_status IS NULL THEN 'none' ELSE (c.http_status / 100) || 'xx' END AS status, count(*) AS many
    FROM calls c JOIN accounts a ON a.id = c.account_id
    WHERE c.asked_at > clock_timestamp() - make_interval(secs => :seconds) AND c.outcome IS NOT NULL
    GROUP BY 1, 2, 3, 4
""")


def read_calls(connection: Connection) -> Samples:
    """What was asked of the providers, and how much of the limit is in use."""
    for row in connection.execute(_RECENT_CALLS, {"seconds": RECENT_SECONDS}):
        yield Sample("calls_recent", _of(row, outcome=row.outcome, status=row.status), row.many)
    for calls in snapshot.read_calls(connection):
        labels = {"account": calls.account_id, "provider": calls.provider}
        yield Sample("limit_slots_busy", labels, calls.busy_slots)
        yield Sample("calls_unanswered", labels, calls.unanswered)
        if (answered := age(calls.now, calls.good_answered_at)) is not None:
            yield Sample("answer_age_seconds", labels, answered)


_ENDED = text("""
    SELECT a.id AS account, a.provider, word.state, count(p.id) AS many
    FROM accounts a CROSS JOIN unnest(CAST(:states AS text[])) AS word(state)
    LEFT JOIN LATERAL (SELECT id, state, finished_at FROM polls WHERE account_id = a.id ORDER BY id DESC LIMIT 5000) p
        ON p.state = word.state AND p.finished_at > clock_timestamp() - make_interval(secs => :seconds)
    GROUP BY 1, 2, 3
""")


def read_work(connection: Connection) -> Samples:
    """What is to be done, what waits, what was given up."""
    for work in snapshot.read_work(connection):
        labels = {"account": work.account_id, "provider": work.provider}
        for state in FETCH_STATES:
            yield Sample("fetches", labels | {"state": state}, getattr(work, state))
        yield Sample("fetches_retrying", labels, work.retrying)
        yield Sample("fetch_ready_age_seconds", labels, age(work.now, work.ready_since) or 0.0)
        yield Sample("fetch_stalled_seconds", labels, age(work.now, work.stalled_since(work.ready_since)) or 0.0)
        yield Sample("polls_running", labels, work.polls)
        yield Sample("quarantine_open", labels, work.quarantined)
        yield Sample("tracked_open", labels, work.ids)
        yield Sample("tracked_due", labels, work.due)
        yield Sample("tracked_overdue_seconds", labels, age(work.now, work.due_since) or 0.0)
        yield Sample("unanswered_age_seconds", labels, age(work.now, work.ids_since) or 0.0)
    ends = {"states": list(POLL_ENDS), "seconds": HOUR_SECONDS}
    for row in connection.execute(_ENDED, ends):
        yield Sample("polls_ended_last_hour", _of(row, state=row.state), row.many)


# One ahead of the clock, which was set back, is no fresh one.
_HEARTBEATS = text("""
    SELECT name, abs(extract(epoch FROM clock_timestamp() - at))::double precision AS age FROM heartbeats
    WHERE name <> ALL(CAST(:others AS text[]))
""")
# What the feed of changes does not tell yet, since an older transaction is still open somewhere in the cluster.
_FEED = text("""
    SELECT count(*) AS many, coalesce(greatest(0, extract(epoch FROM clock_timestamp() - min(changed_at))), 0) AS age
    FROM (SELECT changed_at FROM delivery_status
          WHERE changed_in >= pg_snapshot_xmin(pg_current_snapshot())::text::bigint LIMIT 100000) held
""")


def read_pulse(connection: Connection) -> Samples:
    """Whether periodic work is done, and how far the feed of changes is behind the table."""
    for row in connection.execute(_HEARTBEATS, {"others": list(NOT_OF_WORKERS)}):
        yield Sample("heartbeat_age_seconds", {"name": row.name}, row.age)
    yield Sample("clock_steps_last_day", {}, steps_of_last_day(connection))
    threads, crowded = thread_totals(connection)
    yield Sample("worker_threads", {}, threads)
    yield Sample("accounts_waiting_for_threads", {}, crowded)
    row = connection.execute(_FEED).one()
    yield Sample("feed_held_back", {}, row.many)
    yield Sample("feed_lag_seconds", {}, row.age)


_PROVIDERS = text("SELECT id, provider FROM accounts")


def read_deliveries(connection: Connection) -> Samples:
    """The shared table, counted (`ulak.models.statistics`)."""
    providers = {row.id: row.provider for row in connection.execute(_PROVIDERS)}
    counts: Counter[tuple[str, str, str]] = Counter()
    conflicts: Counter[str] = Counter()
    for each in stored(connection):
        counts[each.account_id, each.granularity, each.status] += each.rows
        conflicts[each.account_id] += each.conflicts
    for (account, granularity, status), many in counts.items():
        labels = {"account": account, "provider": providers[account], "granularity": granularity, "status": status}
        yield Sample("deliveries", labels, many)
    for account, many in conflicts.items():
        yield Sample("deliveries_conflicting", {"account": account, "provider": providers[account]}, many)


def read_freshness(connection: Connection) -> Samples:
    """How fresh final reports were, counted since the account has existed; and what is wanted of them."""
    for row in totals(connection):
        labels = {"account": row.account, "provider": row.provider}
        buckets = tuple(zip(map(str, BOUNDS), row.buckets or [0.0] * len(BOUNDS), strict=True))
        total = row.total or 0.0
        yield Sample("final_freshness_seconds", labels, row.seconds or 0.0, (*buckets, ("+Inf", total)))
        yield Sample("finals_good", labels, row.good or 0.0)
        if row.objective is not None:
            objective = read_objective(row.objective)
            yield Sample("objective_ratio", labels, objective.percent / 100.0)
            yield Sample("objective_seconds", labels, objective.seconds)


GROUPS: Final[Mapping[str, Callable[[Connection], Samples]]] = {
    "accounts": read_accounts,
    "calls": read_calls,
    "work": read_work,
    "pulse": read_pulse,
    "deliveries": read_deliveries,
    "freshness": read_freshness,
}
"""Each is read and kept by itself."""
