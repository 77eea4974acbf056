"""What waits longer than it should, per account: whether anybody works, and what is late against its validity.

Nothing here writes. It serves, with `ulak.models.overview`, everything that reports problems.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from ulak.models.latencies import DUE_SINCE
from ulak.models.sweep_intervals import EVERY_SECONDS

LATE_SECONDS = 3600.0
"""How long after its validity a delivery that is still open counts as late: the last looks need a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What waits at one account; each time is that of the oldest, None where nothing waits. By PostgreSQL's clock."""

    account: str
    ready_since: datetime | None
    """A request that could be made."""
    lease_ended: datetime | None
    """A request whose worker wrote no answer in time, and that nobody has brought back."""
    due_since: datetime | None
    """An id that should have been asked for and is in no request yet."""
    unplanned_since: datetime | None
    """A poll that nobody has planned."""
    planned_at: datetime | None
    """When lists were last planned; None where the account has none, or was never planned."""
    every_seconds: float | None
    """How often lists are planned; None: at the default of the provider."""
    late_ids: int
    """Registered ids that got no answer at all, though they were asked for after their validity too."""
    late_ids_since: datetime | None
    """When the oldest of them was sent."""
    late_deliveries: int
    """Messages that are still open long after their validity ended: a word that nobody could map, mostly."""


_BACKLOG = text(f"""
    SELECT a.id AS account, a.planned_at, {EVERY_SECONDS} AS every_seconds,
        (SELECT min(f.available_at) FROM fetches f WHERE f.account_id = a.id AND f.state = 'ready') AS ready_since,
        (SELECT min(f.lease_until) FROM fetches f
          WHERE f.account_id = a.id AND f.state = 'sending' AND f.lease_until < clock_timestamp()) AS lease_ended,
        (SELECT min({DUE_SINCE}) FROM tracked_ids t
          WHERE t.account_id = a.id AND t.closed_at IS NULL AND t.fetch_id IS NULL
            AND t.next_check_at <= statement_timestamp()) AS due_since,
        (SELECT min(p.started_at) FROM polls p
          WHERE p.account_id = a.id AND p.state = 'running' AND p.planned_at IS NULL) AS unplanned_since,
        late.many AS late_ids, late.since AS late_ids_since, open.many AS late_deliveries
    FROM accounts a
    CROSS JOIN LATERAL (
        SELECT count(*) AS many, min(t.sent_at) AS since FROM tracked_ids t
        WHERE t.account_id = a.id AND t.closed_at IS NULL AND t.origin = 'sender' AND t.last_found_at IS NULL
          AND t.last_checked_at > t.valid_until) late
    CROSS JOIN LATERAL (
        SELECT count(*) AS many FROM delivery_status d
        WHERE d.account_id = a.id AND NOT d.is_final AND d.granularity = 'message'
          AND d.valid_until < clock_timestamp() - make_interval(secs => :late)) open
    WHERE a.enabled ORDER BY a.id
""")


def read_backlog(connection: Connection) -> dict[str, Backlog]:
    """What waits at every enabled account, by its id; reads open rows by their partial indexes only."""
    found = connection.execute(_BACKLOG, {"late": LATE_SECONDS}).mappings()
    return {row["account"]: Backlog(**row) for row in found}
