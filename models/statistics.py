"""Exact counts of deliveries: by account, local day, status, reason and number range; by the hour for 14 days.

Every change updates them (`ulak.models.statistics_upkeep`), so reading them costs the same however many deliveries
are stored: no function here reads the delivery table. Each is one statement and sees what is committed when it begins.

Past figures stay when a person is erased: `count_days` and `count_hours` count erased messages, `stored` does not.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, text

from ulak.models.meanings import SLOWEST_SECONDS, Outcome, outcome_of
from ulak.models.statistics_upkeep import COUNTS, HOUR, TOOK, changes
from ulak.models.vocabulary import Granularity, Status

__all__ = [
    "HOURS_KEPT",
    "SLOWEST_SECONDS",
    "By",
    "Figures",
    "Group",
    "Stored",
    "count_days",
    "count_hours",
    "hour_of",
    "stored",
]

HOURS_KEPT: Final = timedelta(days=14)


class By(StrEnum):
    """What a count can be grouped by."""

    ACCOUNT = "account"
    DAY = "day"
    """The local day of `message_time` in the account's time zone."""
    HOUR = "hour"
    """The hour of `message_time`, for `HOURS_KEPT`."""
    STATUS = "status"
    REASON = "reason"
    NUMBER_RANGE = "number_range"
    """`+90532` and the like for a Turkish mobile number (the operator that the range was assigned to: a number may have
    been ported since), otherwise the country code (`+49`). None without a number, and for a hashed foreign one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The counts of a set of messages."""

    messages: int = 0
    delivered: int = 0
    """Delivered or read."""
    failed: int = 0
    """Undeliverable, expired or rejected."""
    conflicts: int = 0
    """Messages about which the provider contradicted itself."""
    segments: int = 0
    """The sum of what was reported."""
    credits: Decimal = Decimal(0)
    """The sum of what was reported. What it means differs by provider (`credits_mean` of the adapter's record), so sums
    of several providers mean nothing."""
    milliseconds: int = 0
    """The sum of the times to delivery: of delivered messages from `sent_at` to `done_at`, where both are reported."""
    within: tuple[int, ...] = (0,) * len(TOOK)
    """These messages by the time they took: up to each of `SLOWEST_SECONDS` (inclusive), and longer."""

    @property
    def pending(self) -> int:
        """All others: nothing counts as delivered or failed that no provider has reported so."""
        return self.messages - self.delivered - self.failed

    @property
    def delivery_rate(self) -> float | None:
        """Delivered as a part of delivered and failed; None without either."""
        decided = self.delivered + self.failed
        return round(self.delivered / decided, 4) if decided else None

    @property
    def timed(self) -> int:
        """Delivered messages whose time to delivery is known."""
        return sum(self.within)

    @property
    def mean_seconds(self) -> float | None:
        """The mean time to delivery; None where none is known."""
        return self.milliseconds / 1000 / self.timed if self.timed else None

    def quantile_seconds(self, part: float) -> float | None:
        """The time within which this part (0 to 1) of the timed messages was delivered; None where none is known.

        Interpolated between the two bounds it lies between, so it may be off by their distance. Above the last bound,
        the last bound.
        """
        rank, seen = part * self.timed, 0
        lower = 0.0
        for many, upper in zip(self.within, SLOWEST_SECONDS, strict=False):
            if many and seen + many >= rank:
                return lower + (upper - lower) * max(0.0, rank - seen) / many
            seen, lower = seen + many, float(upper)
        return lower if self.timed else None

    def __add__(self, other: "Figures") -> "Figures":
        """Both sets together."""
        sums: dict[str, Any] = {
            each.name: getattr(self, each.name) + getattr(other, each.name)
            for each in fields(self)
            if each.name != "within"
        }
        within = tuple(one + another for one, another in zip(self.within, other.within, strict=True))
        return Figures(**sums, within=within)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The messages that agree in what they were grouped by; None in what they were not."""

    figures: Figures
    account_id: str | None = None
    day: date | None = None
    hour: datetime | None = None
    """The beginning of the hour, UTC."""
    status: str | None = None
    reason: str | None = None
    """None also where no cause is known."""
    number_range: str | None = None
    """None also where the recipient is no phone number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Rows of the delivery table as they are now."""

    account_id: str
    granularity: Granularity
    status: str
    is_final: bool
    rows: int
    conflicts: int


def latest_day(now: datetime) -> date:
    """The day that it is in the time zone where the day begins first: no message was sent on a later local day."""
    return (now.astimezone(UTC) + timedelta(hours=14)).date()


_COLUMN: Final = {each: "account_id" if each is By.ACCOUNT else each.value for each in By}


def _words(outcome: Outcome) -> str:
    return ", ".join(f"'{status}'" for status in Status if outcome_of(status) is outcome)


_FIGURES: Final = ", ".join(
    (
        "sum(messages) AS messages",
        *(
            f"coalesce(sum(messages) FILTER (WHERE status IN ({_words(outcome)})), 0) AS {outcome}"
            for outcome in (Outcome.DELIVERED, Outcome.FAILED)
        ),
        *(
            f"coalesce(sum({name}), 0) AS {name}"
            for name in ("conflicts", "segments", "credits", "milliseconds", *TOOK)
        ),
    )
)


def count_days(
    connection: Connection,
    since: date,
    until: date,
    *,
    by: Collection[By] = (),
    accounts: Collection[str] | None = None,
    granularity: Granularity = Granularity.MESSAGE,
    most: int | None = None,
) -> list[Group]:
    """What is counted on the local days `since <= day < until`, by group, in the order of the groups.

    `accounts`: only these. `granularity`: orders or conversations in place of messages. By the hour, a day that lies
    before `HOURS_KEPT` is a group without an hour. `most`: no more groups than these.
    """
    return _count(connection, _Asked("day", since, until, by, accounts, granularity, most))


def count_hours(
    connection: Connection,
    since: datetime,
    until: datetime,
    *,
    by: Collection[By] = (),
    accounts: Collection[str] | None = None,
    granularity: Granularity = Granularity.MESSAGE,
) -> list[Group]:
    """What is counted in the hours `since <= hour < until`, both cut down to the hour; otherwise as `count_days`.

    Counts by the hour are kept for `HOURS_KEPT`; what lies before is not found.
    """
    return _count(connection, _Asked("hour", hour_of(since), hour_of(until), by, accounts, granularity))


def hour_of(moment: datetime) -> datetime:
    """The beginning of its hour, by UTC: in zones of half an hour it lies in the middle of theirs."""
    return moment - timedelta(seconds=moment.timestamp() % 3600)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What to count; `since` and `until` are of this column."""

    column: str
    since: date
    until: date
    by: Collection[By]
    accounts: Collection[str] | None
    granularity: Granularity
    most: int | None = None


def _count(connection: Connection, asked: _Asked) -> list[Group]:
    names = [_COLUMN[each] for each in By if each in asked.by]
    places = ", ".join(str(place) for place, _ in enumerate(names, 1))
    group = f"GROUP BY {places} HAVING sum(messages) <> 0 ORDER BY {places}" if names else ""
    # Nothing but names of columns is put into the statement.
    query = f"""
        SELECT {", ".join((*(f"{HOUR} AS hour" if name == "hour" else name for name in names), _FIGURES))}
        FROM ({COUNTS}) AS counts
        WHERE {asked.column} >= :since AND {asked.column} < :until AND granularity = :granularity AND NOT erased
          AND (CAST(:accounts AS text[]) IS NULL OR account_id = ANY(CAST(:accounts AS text[]))) {group}
        LIMIT CAST(:most AS bigint)
    """
    values = {
        "most": asked.most,
        "since": asked.since,
        "until": asked.until,
        "granularity": asked.granularity.value,
        "accounts": None if asked.accounts is None else sorted(asked.accounts),
    }
    rows = connection.execute(text(query), values).mappings().all()
    return [Group(figures=_figures(row), **{name: row[name] for name in names}) for row in rows]


_SUMS: Final = ("messages", "delivered", "failed", "conflicts", "segments", "milliseconds")


def _figures(row: RowMapping) -> Figures:
    return Figures(
        **{name: int(row[name] or 0) for name in _SUMS},
        credits=row["credits"],
        within=tuple(int(row[name]) for name in TOOK),
    )


_STORED: Final = text(f"""
    SELECT account_id, granularity, status, is_final, sum(messages) AS rows, sum(conflicts) AS conflicts FROM (
        SELECT account_id, granularity, status, is_final, messages, conflicts FROM statistics_totals
        UNION ALL SELECT account_id, granularity, status, is_final,
            messages * CASE WHEN erased THEN -1 ELSE 1 END,
            coalesce(conflicts, 0) * CASE WHEN erased THEN -1 ELSE 1 END
        FROM ({changes("statistics_deltas")}) AS appended
    ) AS counts
    WHERE CAST(:accounts AS text[]) IS NULL OR account_id = ANY(CAST(:accounts AS text[]))
    GROUP BY account_id, granularity, status, is_final HAVING sum(messages) <> 0
    ORDER BY account_id, granularity, status, is_final
""")


def stored(connection: Connection, accounts: Collection[str] | None = None) -> Sequence[Stored]:
    """How many rows the delivery table has now, of all kinds; of these accounts, or of all."""
    of_these = None if accounts is None else sorted(accounts)
    return [
        Stored(
            account_id=row.account_id,
            granularity=Granularity(row.granularity),
            status=row.status,
            is_final=row.is_final,
            rows=int(row.rows),
            conflicts=int(row.conflicts),
        )
        for row in connection.execute(_STORED, {"accounts": of_these})
    ]
