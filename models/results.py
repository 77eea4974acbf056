"""What became of the messages, as people compare it: the last day, the week, before, by account, range and reason.

Made from the statistics alone (`ulak.models.statistics`); the delivery table is never counted.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Final, TypeVar

from sqlalchemy import Connection

from ulak.models.statistics import By, Figures, Group, count_days, count_hours
from ulak.models.vocabulary import Granularity

_Key = TypeVar("_Key")

WEEK_DAYS: Final = 7
DAY: Final = timedelta(days=1)
HOUR: Final = timedelta(hours=1)
NOTHING: Final = Figures()


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a comparison."""

    key: str | None
    """What it is about: an account, a reason, a range of numbers; None: those without one."""
    figures: Figures = NOTHING
    usual: Figures = NOTHING
    """The same over the time before, to compare with."""

    @property
    def change(self) -> float | None:
        """How much the delivery rate differs from before; None where one of the two is not known."""
        now, before = self.figures.delivery_rate, self.usual.delivery_rate
        return None if now is None or before is None else now - before


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountResults:
    """One account."""

    account: str
    last_day: Line
    """The last 24 hours, in whole hours, against the seven days before."""
    week: Sequence[tuple[date, Figures]]
    """Each of the last seven local days, today last."""
    reasons: Sequence[tuple[str | None, int]] = field(default_factory=tuple)
    """Failed messages of the last 24 hours by reason, most first."""
    credits: Decimal = Decimal(0)
    """Of the last 24 hours, of messages and orders: a provider reports them of one of the two."""


def total_of(figures: Iterable[Figures]) -> Figures:
    """All together."""
    return sum(figures, NOTHING)


def results_by_account(connection: Connection, now: datetime, today: Mapping[str, date]) -> dict[str, AccountResults]:
    """Of each account of `today` (its present local day). Five statements, whatever the number of accounts."""
    if not today:
        return {}
    accounts = sorted(today)
    since = now - DAY + HOUR
    reasons = count_hours(connection, since, now + HOUR, by=[By.ACCOUNT, By.REASON], accounts=accounts)
    before = count_hours(connection, since - WEEK_DAYS * DAY, since, by=[By.ACCOUNT], accounts=accounts)
    first = min(today.values()) - (WEEK_DAYS - 1) * DAY
    days = count_days(connection, first, max(today.values()) + DAY, by=[By.ACCOUNT, By.DAY], accounts=accounts)
    orders = count_hours(
        connection, since, now + HOUR, by=[By.ACCOUNT], accounts=accounts, granularity=Granularity.ORDER
    )
    of_orders = {each.account_id: each.figures.credits for each in orders}
    usual = {each.account_id: each.figures for each in before}
    by_day = {(each.account_id, each.day): each.figures for each in days}
    found = {}
    for account in accounts:
        mine = [each for each in reasons if each.account_id == account]
        week = [today[account] - back * DAY for back in reversed(range(WEEK_DAYS))]
        figures = total_of(each.figures for each in mine)
        found[account] = AccountResults(
            account=account,
            last_day=Line(key=account, figures=figures, usual=usual.get(account, NOTHING)),
            week=[(day, by_day.get((account, day), NOTHING)) for day in week],
            reasons=_most_failed(mine),
            credits=figures.credits + of_orders.get(account, Decimal(0)),
        )
    return found


def _most_failed(groups: Iterable[Group]) -> list[tuple[str | None, int]]:
    failed = [(each.reason, each.figures.failed) for each in groups if each.figures.failed]
    return sorted(failed, key=lambda pair: -pair[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """Some local days of some accounts, compared with the days before."""

    first: date
    last: date
    """Inclusive."""
    total: Line
    days: Sequence[tuple[date, Figures]]
    """Every day, the newest first."""
    hours: Sequence[tuple[datetime, Figures]]
    """Of a single day within the last two weeks, its hours with messages."""
    lines: Sequence[Line]
    """By what is compared, the most messages first."""
    reasons: Sequence[Line]
    """Failed messages by reason, the most first."""
    usual_days: int
    """How many days `usual` covers."""
    credits: Mapping[str | None, Decimal] = field(default_factory=dict)
    """By account or provider, where these are compared: of messages and orders together."""


KEYS: Final[Mapping[By, Callable[[Group], str | None]]] = {
    By.ACCOUNT: lambda each: each.account_id,
    By.STATUS: lambda each: each.status,
    By.REASON: lambda each: each.reason,
    By.NUMBER_RANGE: lambda each: each.number_range,
}


def results_of_period(
    connection: Connection,
    first: date,
    last: date,
    *,
    by: By,
    key: Callable[[str | None], str | None] = lambda each: each,
    accounts: Collection[str] | None,
    hours: tuple[datetime, datetime] | None = None,
) -> Period:
    """Local days from `first` to `last`, against as many days before, at least seven.

    `key`: under which name a group is compared (accounts by their provider). `hours`: the day by the hour as well.
    """
    many = (last - first).days + 1
    usual_days = max(many, WEEK_DAYS)
    until, since = last + DAY, first - usual_days * DAY

    def count(one: By, start: date, end: date) -> list[Group]:
        return count_days(connection, start, end, by=[one], accounts=accounts)

    days = {each.day: each.figures for each in count(By.DAY, first, until)}
    compared, compared_before = count(by, first, until), count(by, since, first)
    reasons, reasons_before = count(By.REASON, first, until), count(By.REASON, since, first)
    spent = {each: figures.credits for each, figures in _sums(compared, lambda each: key(each.account_id)).items()}
    if by is By.ACCOUNT:
        orders = count_days(connection, first, until, by=[by], accounts=accounts, granularity=Granularity.ORDER)
        for each in orders:
            spent[key(each.account_id)] = spent.get(key(each.account_id), Decimal(0)) + each.figures.credits
    by_hour = [] if hours is None else count_hours(connection, *hours, by=[By.HOUR], accounts=accounts)
    name = KEYS[by]
    return Period(
        first=first,
        last=last,
        total=Line(
            key=None,
            figures=total_of(days.values()),
            usual=total_of(each.figures for each in reasons_before),
        ),
        days=[(day, days.get(day, NOTHING)) for day in (last - back * DAY for back in range(many))],
        hours=[(each.hour, each.figures) for each in by_hour if each.hour is not None],
        lines=_lines(compared, compared_before, lambda each: key(name(each)), lambda figures: figures.messages),
        reasons=[
            line
            for line in _lines(reasons, reasons_before, lambda each: each.reason, lambda figures: figures.failed)
            if line.figures.failed
        ],
        usual_days=usual_days,
        credits=spent,
    )


def _sums(groups: Iterable[Group], key: Callable[[Group], _Key]) -> dict[_Key, Figures]:
    found: dict[_Key, Figures] = {}
    for each in groups:
        found[key(each)] = found.get(key(each), NOTHING) + each.figures
    return found


def _lines(
    groups: Iterable[Group],
    before: Iterable[Group],
    key: Callable[[Group], str | None],
    weight: Callable[[Figures], int],
) -> list[Line]:
    now, usual = _sums(groups, key), _sums(before, key)
    lines = [Line(key=each, figures=figures, usual=usual.get(each, NOTHING)) for each, figures in now.items()]
    return sorted(lines, key=lambda line: (-weight(line.figures), line.key or ""))
