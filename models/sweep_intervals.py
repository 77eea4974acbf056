"""How often an account's lists are read: what is configured, what follows from their rate of change, or the default.

The one place that says which interval is in force: the planner, the page's alarms and the question whether all is
settled read it here.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, text

from ulak.models.account import IS_ADAPTIVE, StoredAccount

LOOK_BACK_SECONDS = 1800.0
"""Sweeps of so long ago tell the rate of change."""
MAX_SWEEPS = 60

EVERY_SECONDS = f"""
    coalesce(CAST(a.poll ->> 'every_seconds' AS double precision),
        CASE WHEN {IS_ADAPTIVE} THEN a.sweep_seconds END)
"""
"""SQL: the interval in force of the account `a`; null where the default of its provider is."""

_SWEPT = text(f"""
    SELECT a.id AS account, p.started_at, p.news, p.calls, clock_timestamp() AS now
    FROM accounts a CROSS JOIN LATERAL (
        SELECT p.started_at, p.new + p.advanced AS news,
            (SELECT count(*) FROM fetches f WHERE f.poll_id = p.id AND f.params ? 'window') AS calls
        FROM polls p WHERE p.account_id = a.id AND p.trigger = 'schedule' AND p.state <> 'running'
          AND p.scheduled_for > statement_timestamp() - make_interval(secs => :seconds)
          AND EXISTS (SELECT FROM fetches f WHERE f.poll_id = p.id AND f.params ? 'window')
        ORDER BY p.scheduled_for DESC LIMIT :many) p
    WHERE a.provider = ANY(:providers) AND a.enabled AND {IS_ADAPTIVE} AND NOT a.poll ? 'every_seconds'
    ORDER BY a.id
""")
_KEEP = text("UPDATE accounts SET sweep_seconds = :seconds WHERE id = :account_id")


def every_seconds(account: StoredAccount, default: float) -> float:
    """`EVERY_SECONDS` of an account, or the default of its provider."""
    learned = account.sweep_seconds if account.is_adaptive else None
    return next(float(each) for each in (account.every_seconds, learned, default) if each is not None)


class LastSweep(NamedTuple):
    """One sweep of an account's lists."""

    account: str
    started_at: datetime
    news: int
    calls: int
    now: datetime


def last_sweeps(connection: Connection, providers: Sequence[str]) -> Sequence[LastSweep]:
    """The latest sweeps of every account of these providers whose interval follows its lists, the latest first."""
    given = {"providers": list(providers), "seconds": LOOK_BACK_SECONDS, "many": MAX_SWEEPS}
    return [LastSweep(*row) for row in connection.execute(_SWEPT, given)]


def keep(connection: Connection, account_id: str, seconds: float) -> None:
    """Let this interval be in force, where the account has none that is configured."""
    connection.execute(_KEEP, {"account_id": account_id, "seconds": round(seconds, 1)})
