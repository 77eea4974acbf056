"""The right to make one HTTP request, which only a committed call row gives."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

DEFAULT_DEADLINE_SECONDS: Final = 30.0
"""Within which a request has been answered or given up, where neither the account nor its provider says otherwise."""
MAX_DEADLINE_SECONDS: Final = 75.0
MAX_PAUSE_SECONDS: Final = 1800.0
"""No automatic pause of an account lasts longer: two calls an hour never hammer a provider with a wrong key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """One call row, committed; good for one request, whose first byte leaves within a second of the commit.

    The HTTP door sends nothing without one, so no request can escape the limiter, which counts the rows.
    """

    call_id: int
    account_id: str
    asked_at: datetime
    """PostgreSQL's clock just after `committed_boot`: what an answer's times are compared with."""
    committed_boot: float
    """Boot clock read *before* the row's transaction committed: the deadline runs from here."""
    deadline_seconds: float
    """The request has been answered or given up this long after `committed_boot`."""
