"""Messages of a period by account and what became of them: the first answer to "are my messages delivered?"."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, text

from models.lookups import LARGEST_ID
from models.vocabulary import FAILURES, Granularity, Status

LONGEST: Final = timedelta(days=7)
PART_ROWS: Final = 50_000
"""How many rows are read at once; also by how many a row may lie behind those that came after its time."""
SUCCESSES: Final = frozenset({Status.DELIVERED, Status.READ})

_PART = text("""
    WITH part AS MATERIALIZED (
        SELECT id, account_id, status, granularity, first_seen_at FROM delivery_status
        WHERE id < :before ORDER BY id DESC LIMIT :many
    )
    SELECT (SELECT min(id) FROM part) AS first_id, p.account_id, p.status,
           count(*) FILTER (
               WHERE p.granularity = :message AND (CAST(:account AS text) IS NULL OR p.account_id = :account)) AS many
    FROM part p WHERE p.first_seen_at >= :since GROUP BY p.account_id, p.status ORDER BY p.account_id, p.status
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

    Ids are given in the order in which deliveries come, so the table is read backwards, part by part, up to the first
    part that has nothing of the period: that is the period and one part more, however large the table is.
    """
    parameters = {"since": since, "account": account, "message": Granularity.MESSAGE.value, "many": PART_ROWS}
    found: dict[str, dict[str, int]] = {}
    before = LARGEST_ID
    while rows := connection.execute(_PART, {**parameters, "before": before}).all():
        for row in rows:
            if row.many:
                counts = found.setdefault(row.account_id, {})
                counts[row.status] = counts.get(row.status, 0) + row.many
        before = rows[0].first_id
    return {account_id: Summary(statuses=dict(sorted(counts.items()))) for account_id, counts in found.items()}


def total_of(summaries: Sequence[Summary]) -> Summary:
    """All accounts together."""
    counts: Counter[str] = Counter()
    for each in summaries:
        counts.update(each.statuses)
    return Summary(statuses=dict(sorted(counts.items())))
