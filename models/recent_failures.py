"""Requests of an account that failed lately, by cause. Nothing here writes."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, text

READ_CALLS: Final = 20_000
"""How many of the account's latest requests are read."""
KEPT_DAYS: Final = 7
MAX_CAUSES: Final = 20

_FAILURES = text("""
    SELECT outcome, http_status, endpoint, count(*) AS times, min(asked_at) AS first_at, max(asked_at) AS last_at
    FROM (SELECT outcome, http_status, endpoint, asked_at FROM calls
          WHERE account_id = :account AND asked_at > now() - make_interval(days => :days)
          ORDER BY asked_at DESC LIMIT :many) AS latest
    WHERE outcome NOT IN ('ok', 'later') GROUP BY outcome, http_status, endpoint ORDER BY last_at DESC LIMIT :most
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedCalls:
    """Requests that failed in the same way."""

    outcome: str
    """As `calls.outcome`."""
    http_status: int | None
    endpoint: str
    times: int
    first_at: datetime
    last_at: datetime


def failed_calls(connection: Connection, account: str) -> list[FailedCalls]:
    """The failed requests of the last days, the latest cause first."""
    parameters = {"account": account, "days": KEPT_DAYS, "many": READ_CALLS, "most": MAX_CAUSES}
    return [FailedCalls(**row) for row in connection.execute(_FAILURES, parameters).mappings()]
