"""Messages of a period by account and what became of them: the first answer to "are my messages delivered?"."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, text

from ulak.models.meanings import Outcome, outcome_of
from ulak.models.statistics import hour_of
from ulak.models.statistics_upkeep import COUNTS
from ulak.models.vocabulary import Granularity, Status

MAX_PERIOD: Final = timedelta(days=7)

# Whole hours are counted already. Of the hours at both ends, the rows are counted account by account, so that each is
# read through the index of its times. One statement: a message that moves meanwhile is counted once.
_EDGE = """
    SELECT a.id AS account_id, d.status, 1 AS many
    FROM accounts a CROSS JOIN LATERAL (
        SELECT status FROM delivery_status
        WHERE account_id = a.id AND message_time >= {} AND message_time < {} AND granularity = :message
        OFFSET 0
    ) d
"""
_SUMMARY = text(f"""
    SELECT account_id, status, sum(many) AS many FROM (
        {_EDGE.format(":since", ":first")} UNION ALL {_EDGE.format(":last", ":until")}
        UNION ALL SELECT account_id, status, messages * CASE WHEN erased THEN -1 ELSE 1 END
        FROM ({COUNTS}) AS counts WHERE hour >= :first AND hour < :last AND granularity = :message
    ) AS counted
    WHERE CAST(:accounts AS text[]) IS NULL OR account_id = ANY(CAST(:accounts AS text[]))
    GROUP BY account_id, status HAVING sum(many) <> 0
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
        return self._many(Outcome.DELIVERED)

    @property
    def failed(self) -> int:
        """Reported as not delivered."""
        return self._many(Outcome.FAILED)

    @property
    def pending(self) -> int:
        """All others: nothing counts as delivered or failed that no provider has reported so."""
        return self._many(Outcome.PENDING)

    @property
    def delivery_rate(self) -> float | None:
        """Delivered as a part of delivered and failed; None without either."""
        decided = self.delivered + self.failed
        return round(self.delivered / decided, 4) if decided else None

    def _many(self, outcome: Outcome) -> int:
        return sum(many for word, many in self.statuses.items() if outcome_of(Status(word)) is outcome)


def summarise(
    connection: Connection, since: datetime, until: datetime, accounts: Collection[str] | None = None
) -> dict[str, Summary]:
    """By account: the messages (no orders, no conversations) with `since <= message_time < until`.

    As the view `messages` counts them. `accounts`: only these. The period begins within `statistics.HOURS_KEPT`.
    """
    # The first whole hour, and the end of the last one.
    first = min(hour_of(since + timedelta(hours=1) - timedelta(microseconds=1)), until)
    parameters = {
        "since": since,
        "first": first,
        "last": max(hour_of(until), first),
        "until": until,
        "accounts": None if accounts is None else sorted(accounts),
        "message": Granularity.MESSAGE.value,
    }
    found: dict[str, Counter[str]] = {}
    for row in connection.execute(_SUMMARY, parameters):
        found.setdefault(row.account_id, Counter())[row.status] += int(row.many)
    return {account_id: Summary(statuses=dict(sorted(counts.items()))) for account_id, counts in found.items()}


def total_of(summaries: Sequence[Summary]) -> Summary:
    """All accounts together."""
    counts: Counter[str] = Counter()
    for each in summaries:
        counts.update(each.statuses)
    return Summary(statuses=dict(sorted(counts.items())))
