"""Messages of a period by account and what became of them: the first answer to "are my messages delivered?"."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, text

from ulak.models.meanings import Outcome, outcome_of
from ulak.models.vocabulary import Granularity, Status

LONGEST: Final = timedelta(days=7)
PART: Final = timedelta(days=1)
"""How much one statement reads."""

# Account by account, so that each is read through the index of its times and nothing before the period is.
_PART = text("""
    SELECT a.id AS account_id, d.status, count(*) AS many
    FROM accounts a CROSS JOIN LATERAL (
        SELECT status FROM delivery_status
        WHERE account_id = a.id AND message_time >= :since AND message_time < :until AND granularity = :message
        OFFSET 0
    ) d
    WHERE CAST(:accounts AS text[]) IS NULL OR a.id = ANY(CAST(:accounts AS text[]))
    GROUP BY a.id, d.status
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

    As the view `messages` counts them. `accounts`: only these. Reads the messages of the period through the index of
    their times, a day in one statement.
    """
    of_these = None if accounts is None else sorted(accounts)
    found: dict[str, Counter[str]] = {}
    while since < until:
        end = min(since + PART, until)
        parameters = {"since": since, "until": end, "accounts": of_these, "message": Granularity.MESSAGE.value}
        for row in connection.execute(_PART, parameters):
            found.setdefault(row.account_id, Counter())[row.status] += row.many
        since = end
    return {account_id: Summary(statuses=dict(sorted(counts.items()))) for account_id, counts in found.items()}


def total_of(summaries: Sequence[Summary]) -> Summary:
    """All accounts together."""
    counts: Counter[str] = Counter()
    for each in summaries:
        counts.update(each.statuses)
    return Summary(statuses=dict(sorted(counts.items())))
