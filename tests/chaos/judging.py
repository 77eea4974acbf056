"""The judgement: by the stand-ins' own log and truth, and by what the ledger itself must never show."""

import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psutil
from counting import miscounted
from sqlalchemy.exc import InterfaceError, OperationalError
from system import DEADLINE_SECONDS, LEASE_SECONDS, System
from truth import differences, stored_rows

RECOVERY_SECONDS = LEASE_SECONDS + 10
"""What a fault may cost: its lease, the look that finds it, and a message that counts as lost."""
PATIENCE_SECONDS = 120.0
FRESH_SECONDS = 3.0
"""How soon a planned fetch is asked on a day without faults: well below the five seconds of a lost message."""

_OPEN = """
    SELECT f.id, f.state, f.lease_token FROM fetches f JOIN accounts a ON a.id = f.account_id
    WHERE f.state = 'sending' OR (f.state = 'ready' AND f.available_at <= :at)
"""
_STILL = """
    SELECT count(*) FROM fetches f
    WHERE f.id = ANY(:ids) AND f.state IN ('ready', 'sending')
      AND NOT EXISTS (SELECT 1 FROM calls c WHERE c.fetch_id = f.id AND c.asked_at > :at)
"""


def wait_recovered(system: System, seconds: float = PATIENCE_SECONDS) -> float:
    """Seconds until everything that was open when the fault ended has been asked again or has ended."""
    began, at = time.monotonic(), system.now()
    ids = [row.id for row in system.query(_OPEN, at=at)]
    system.until(lambda: not system.number(_STILL, ids=ids, at=at), what="an end of the backlog", seconds=seconds)
    system.until(
        lambda: system.number("SELECT count(*) FROM calls WHERE outcome = 'ok' AND asked_at > :at", at=at),
        what="an answered call after the fault",
        seconds=seconds,
    )
    return time.monotonic() - began


def wait_truth(system: System, seconds: float = PATIENCE_SECONDS) -> list[str]:
    """Wait until the table equals the truth and the polls of before have ended; what is still wrong after that."""
    end, at = time.monotonic() + seconds, system.now()
    while True:
        wrong = unsettled(system, at)
        if not wrong or time.monotonic() > end:
            return wrong
        time.sleep(0.5)


def unsettled(system: System, at: datetime) -> list[str]:
    """What is not yet as it must be when the stand-ins have come to rest."""
    told = system.sandbox.control("GET", "/truth/settled")
    if not told["settled"]:
        return [f"the sandbox has not come to rest: {told}"]
    with system.engine.connect() as connection:
        rows = stored_rows(connection)
    wrong = differences(rows, system.sandbox.truth())
    running = system.number("SELECT count(*) FROM polls WHERE state = 'running' AND started_at < :at", at=at)
    return wrong + ([f"{running} polls from before have not ended"] if running else [])


def never(system: System) -> list[str]:
    """What must not be so at any moment, fault or no fault."""
    log = system.sandbox.log()
    found = [
        f"limit: {entry['provider']} {entry['why']} n={entry['n']}"
        for entry in log
        if entry["violation"]
        and not (entry["why"] == "concurrency" and any(entry["n"] in excused for excused in system.excused))
    ]
    return found + _requests(system, log) + _ledger(system) + _statistics(system)


def _requests(system: System, log: list[dict[str, Any]]) -> list[str]:
    """Every request has its call row; a request is repeated at most once for each crash."""
    # By provider, not by the account in the log: a request whose sender died half-way could not be identified.
    made = Counter(f"demo-{entry['provider']}" for entry in log)
    rows = system.query("SELECT account_id, count(*) AS permitted FROM calls GROUP BY 1")
    permitted = {row.account_id: row.permitted for row in rows}
    found = [
        f"requests: {account} got {many}, {permitted.get(account, 0)} were permitted"
        for account, many in made.items()
        if many > permitted.get(account, 0)
    ]
    repeated = system.number("""
        SELECT coalesce(max(many), 0) FROM (
            SELECT count(*) AS many FROM calls WHERE outcome = 'abandoned' GROUP BY fetch_id) AS each
    """)
    if repeated > system.crashes:
        found.append(f"requests: one was repeated {repeated} times after {system.crashes} crashes")
    return found


_COUNTS = """
    SELECT count(*) FROM polls p
    WHERE p.planned_at IS NOT NULL AND p.open_fetches <> (
        SELECT count(*) FROM fetches f WHERE f.poll_id = p.id AND f.state IN ('ready', 'sending'))
"""
_ENDED_EARLY = """
    SELECT count(*) FROM polls p
    WHERE p.state LIKE 'complete%' AND EXISTS (
        SELECT 1 FROM fetches f WHERE f.poll_id = p.id AND f.state IN ('ready', 'sending'))
"""
_LEASED = """
    SELECT count(*) FROM fetches
    WHERE state = 'sending' AND lease_until < clock_timestamp() - make_interval(secs => :seconds)
"""
_STRAY = """
    SELECT count(*) FROM tracked_ids t
    WHERE t.fetch_id IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM fetches f WHERE f.id = t.fetch_id AND f.state IN ('ready', 'sending'))
"""


def _ledger(system: System) -> list[str]:
    """Polls that count otherwise than their fetches stand, leases that nobody gives back, ids held by nobody."""
    checks = {
        "polls count other open fetches than they have": system.number(_COUNTS),
        "polls are complete with open fetches": system.number(_ENDED_EARLY),
        "fetches are left leased": system.number(_LEASED, seconds=DEADLINE_SECONDS + 12),
        "ids are held by fetches that have ended": system.number(_STRAY),
        "answers could not be stored": system.log_lines("fetch.store_failed"),
        "answers could not be read": system.log_lines("fetch.parse_failed"),
    }
    return [f"ledger: {many} {what}" for what, many in checks.items() if many]


def _statistics(system: System) -> list[str]:
    """Counts that are not the stored rows and what was erased, in one snapshot, whatever else is happening."""

    def ask() -> list[dict[str, Any]] | None:
        try:
            with system.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
                return [miscounted(connection)]
        except (OperationalError, InterfaceError):
            return None

    [found] = system.until(ask, what="PostgreSQL", seconds=120)
    return [
        f"statistics: {len(keys)} counts of {what} are wrong: {list(keys.items())[:3]}" for what, keys in found.items()
    ]


def judge(system: System, seconds: float = PATIENCE_SECONDS) -> list[str]:
    """Everything: first the wait for the truth, then what must never be."""
    return wait_truth(system, seconds) + never(system)


def lateness(system: System, since: datetime) -> list[str]:
    """Whether planned fetches are asked soon, in a time without faults and without a queue."""
    rows = system.query(
        """
        SELECT f.account_id, percentile_cont(0.5) WITHIN GROUP (
            ORDER BY extract(epoch FROM coalesce(c.asked_at, clock_timestamp()) - f.created_at)) AS middle
        FROM fetches f, LATERAL (SELECT min(asked_at) AS asked_at FROM calls WHERE fetch_id = f.id) c
        WHERE f.created_at > :since AND f.state IN ('ready', 'sending', 'done')
        GROUP BY 1
        """,
        since=since,
    )
    late = [f"{row.account_id} {float(row.middle):.1f} s" for row in rows if float(row.middle) > FRESH_SECONDS]
    return [f"late: planned fetches wait: {', '.join(late)}"] if late else []


@dataclass(frozen=True)
class Usage:
    """What a process holds."""

    megabytes: float
    descriptors: int


def usage(pid: int) -> Usage:
    """What a process holds now."""
    process = psutil.Process(pid)
    return Usage(process.memory_info().rss / 1e6, process.num_fds())


def growth(before: Usage, after: Usage) -> list[str]:
    """Whether a process grew as one that leaks does."""
    found = []
    if after.megabytes > before.megabytes * 1.25 + 25:
        found.append(f"memory grew from {before.megabytes:.0f} to {after.megabytes:.0f} MB")
    if after.descriptors > before.descriptors + 30:
        found.append(f"descriptors grew from {before.descriptors} to {after.descriptors}")
    return found
