"""What is late at an account: against its validity, or because polling has stalled.

Nothing here writes. It serves, with `ulak.models.overview`, everything that reports problems.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from ulak.models.snapshot import Work, read_work
from ulak.models.sweep_intervals import EVERY_SECONDS

LATE_SECONDS = 3600.0
"""How long after its validity a delivery that is still open counts as late: the last looks need a while."""


PLANS_MISSED = 5
"""This many intervals without a plan mean that planning has stalled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What waits at one account, by PostgreSQL's clock."""

    work: Work
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

    def stalled_since(self, provider_every: float | None) -> datetime | None:
        """Since when something waits here that could have been done: a call or its plan; None where nothing does.

        `provider_every`: the interval at which lists are planned where the account has none.
        """
        work = self.work
        moments = [work.ready_since, work.due_since, work.unplanned_since, work.lease_ended]
        every = (provider_every or 0.0) if self.every_seconds is None else self.every_seconds
        if self.planned_at is not None and every > 0:
            # Lists are planned at their interval whether or not anything is due.
            moments.append(self.planned_at + timedelta(seconds=every * PLANS_MISSED))
        return work.stalled_since(min((moment for moment in moments if moment is not None), default=None))


_LATE = text(f"""
    SELECT a.id, a.planned_at, {EVERY_SECONDS} AS every_seconds,
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
    WHERE a.enabled
""")


def read_backlog(connection: Connection, work: Sequence[Work] | None = None) -> dict[str, Backlog]:
    """What waits at every enabled account, by its id. `work`: of all accounts, where it was read a moment ago."""
    late = {row.pop("id"): row for row in map(dict, connection.execute(_LATE, {"late": LATE_SECONDS}).mappings())}
    found = read_work(connection) if work is None else work
    return {each.account_id: Backlog(work=each, **late[each.account_id]) for each in found if each.account_id in late}
