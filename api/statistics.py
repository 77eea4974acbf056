"""Counts of messages over days: how many, what became of them, how long they took and what they cost."""

from datetime import date, datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from ulak.api.authorization import NEEDS_READ, Who
from ulak.api.dependencies import Deps
from ulak.api.fields import AccountId, Given
from ulak.api.problems import check_account, documented, wrong_fields
from ulak.models.access import Role
from ulak.models.ledger.ending import database_now
from ulak.models.meanings import GRANULARITIES, VIEW_COLUMNS
from ulak.models.statistics import By, Figures, count_days
from ulak.models.vocabulary import Granularity
from ulak.workers.message_counts import credits_of, days_of, figures_of, group_of

router = APIRouter(tags=["deliveries"])

MAX_DAYS: Final = 366
MAX_GROUPS: Final = 10_000
_FIRST, _LAST = date(2000, 1, 1), date(2099, 12, 31)
_MEANS = VIEW_COLUMNS["statistics"]


class StatisticsSearch(Given):
    """What is counted."""

    account: AccountId | None = None
    first: Annotated[
        date | None,
        Field(alias="from", ge=_FIRST, le=_LAST, description="First local day; by default six days before the last."),
    ] = None
    last: Annotated[
        date | None,
        Field(alias="to", ge=_FIRST, le=_LAST, description="Last local day, inclusive; by default today."),
    ] = None
    by: Annotated[
        list[By],
        Field(
            default_factory=list,
            max_length=len(By),
            description="What to group by; repeat it for several. Hours are known for 14 days: what lies before is a "
            "group without an hour.",
        ),
    ]
    granularity: Annotated[Granularity, Field(description="Count orders or conversations instead of messages.")] = (
        Granularity.MESSAGE
    )


class Counted(BaseModel):
    """How many there are, what became of them, how long they took and what they cost."""

    messages: Annotated[int, Field(description=_MEANS["messages"])]
    delivered: Annotated[int, Field(description="Delivered or read.")]
    failed: Annotated[int, Field(description="Undeliverable, expired or rejected.")]
    pending: Annotated[int, Field(description="All others: no provider has reported whether they arrived.")]
    delivery_rate: Annotated[
        float | None, Field(description="delivered / (delivered + failed), from 0 to 1; null without either.")
    ]
    conflicts: Annotated[int, Field(description=_MEANS["conflicts"])]
    segments: Annotated[int, Field(description=_MEANS["segments"])]
    credits: Annotated[
        float | None,
        Field(
            description="The sum of their credits, where reported: see `credits_mean`. Null where several "
            "providers are counted together, whose credits differ, or none that reports any."
        ),
    ]
    timed: Annotated[int, Field(description=_MEANS["timed"])]
    mean_seconds: Annotated[float | None, Field(description="Mean time from sent_at to done_at of the timed.")]
    median_seconds: Annotated[
        float | None,
        Field(description="Half of the timed took at most this; interpolated between the bounds that are counted."),
    ]
    p95_seconds: Annotated[float | None, Field(description="The same of 95 of 100.")]


class CountedGroup(Counted):
    """The same of a group; null in what was not grouped by."""

    account: str | None
    day: Annotated[date | None, Field(description=_MEANS["local_day"])]
    hour: Annotated[datetime | None, Field(description="The beginning of the hour of message_time.")]
    status: str | None
    reason: Annotated[str | None, Field(description="Null also where no cause is known.")]
    number_range: Annotated[str | None, Field(description=_MEANS["number_range"])]


class Statistics(BaseModel):
    """What is counted on these days."""

    first: Annotated[date, Field(serialization_alias="from")]
    last: Annotated[date, Field(serialization_alias="to")]
    granularity: Annotated[
        Granularity, Field(description=" ".join(f"{word}: {said}" for word, said in GRANULARITIES.items()))
    ]
    as_of: datetime
    total: Counted
    groups: Annotated[list[CountedGroup], Field(description="In the order of what they are grouped by.")]
    credits_mean: Annotated[dict[str, str], Field(description="What the credits are, by provider.")]


@router.get(
    "/statistics",
    dependencies=[NEEDS_READ],
    responses=documented(HTTPStatus.NOT_FOUND),
    summary="Messages counted by day, status, reason or number range",
)
def statistics(asked: Annotated[StatisticsSearch, Query()], deps: Deps, who: Who) -> Statistics:
    """Exact counts, as cheap as there are groups, however many messages are stored.

    Days are those of the account's time zone. Messages that were erased since are counted.
    """
    accounts = who.scope(Role.READ, asked.account)
    with deps.engine.connect() as connection:
        check_account(connection, asked.account)
        first, last = days_of(connection, asked.first, asked.last)
        if not timedelta(0) <= last - first < timedelta(days=MAX_DAYS):
            raise wrong_fields([("query.from", f"must be a day up to query.to, at most {MAX_DAYS} days in all")])
        now = database_now(connection)
        groups = count_days(
            connection,
            first,
            last + timedelta(days=1),
            by=asked.by,
            accounts=accounts,
            granularity=asked.granularity,
            most=MAX_GROUPS + 1,
        )
        priced = credits_of(connection, accounts)
    if len(groups) > MAX_GROUPS:
        raise wrong_fields([("query.by", f"gives more than {MAX_GROUPS:,} groups: name fewer days or groups")])
    total = sum((each.figures for each in groups), Figures())
    return Statistics(
        first=first,
        last=last,
        granularity=asked.granularity,
        as_of=now,
        total=Counted(**figures_of(total, priced)),
        groups=[CountedGroup(**group_of(each, priced)) for each in groups] if asked.by else [],
        credits_mean=dict(priced.meanings),
    )
