"""Messages of a period by account and what became of them: the first answer to "are my messages delivered?"."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, text

from models.vocabulary import FAILURES, Granularity, Status

LONGEST: Final = timedelta(days=7)
_STRAY: Final = timedelta(minutes=10)
"""By how much rows may lie out of the order of their ids: the longest transaction that writes any."""
SUCCESSES: Final = frozenset({Status.DELIVERED, Status.READ})

# Ids are given in the order in which deliveries come, so the period's are the last ones: found by walking back from the
# newest row, which reads the period and no more.
_COUNTS = text("""
    SELECT d.account_id, d.status, count(*) AS many FROM delivery_status d
    WHERE d.id > coalesce((
        SELECT b.id FROM delivery_status b WHERE b.first_seen_at < :before ORDER BY b.id DESC LIMIT 1), 0)
      AND d.first_seen_at >= :since AND d.granularity = :message
      AND (CAST(:account AS text) IS NULL OR d.account_id = :account)
    GROUP BY d.account_id, d.status ORDER BY d.account_id, d.status
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Messages of one account, or of all."""

    statuses: Mapping[str, int]
    """How many have each status."""

    @property
    def total(self) -> int:
        """All messages."""
        return sum(self.statuses.values())

    @property
    def delivered(self) -> int:
        """Delivered, or even read."""
        return sum(many for word, many in self.statuses.items() if Status(word) in SUCCESSES)

    @property
    def failed(self) -> int:
        """Reported as not delivered."""
        return sum(many for word, many in self.statuses.items() if Status(word) in FAILURES)

    @property
    def pending(self) -> int:
        """All others: nothing counts as delivered or failed that no provider has reported so."""
        return self.total - self.delivered - self.failed

    @property
    def delivery_rate(self) -> float | None:
        """Delivered as a part of delivered and failed; None without either."""
        decided = self.delivered + self.failed
        return round(self.delivered / decided, 4) if decided else None


def summarise(connection: Connection, since: datetime, account: str | None = None) -> dict[str, Summary]:
    """By account: the messages (no orders, no conversations) that were first seen since then.

    Reads the rows of that period and no others.
    """
    parameters = {"since": since, "before": since - _STRAY, "account": account, "message": Granularity.MESSAGE.value}
    found: dict[str, dict[str, int]] = {}
    for row in connection.execute(_COUNTS, parameters):
        found.setdefault(row.account_id, {})[row.status] = row.many
    return {account_id: Summary(statuses=statuses) for account_id, statuses in found.items()}


def total_of(summaries: Sequence[Summary]) -> Summary:
    """All accounts together."""
    counts: Counter[str] = Counter()
    for each in summaries:
        counts.update(each.statuses)
    return Summary(statuses=dict(sorted(counts.items())))
