"""What became of the messages of a period."""

from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from ulak.api.authorization import NEEDS_READ, Who
from ulak.api.dependencies import Deps
from ulak.api.fields import AccountId, Given, Moment
from ulak.api.problems import check_account, documented, wrong_fields
from ulak.models.access import Role
from ulak.models.ledger.ending import database_now
from ulak.models.summary import MAX_PERIOD, Summary, summarise, total_of

router = APIRouter(tags=["deliveries"])


class SummarySearch(Given):
    """Which messages."""

    account: AccountId | None = None
    since: Annotated[
        Moment | None,
        Field(
            description=f"Sent since then (`message_time`), at most {MAX_PERIOD.days} days ago; by default a day ago."
        ),
    ] = None


class Counts(BaseModel):
    """How many messages there are, and what became of them."""

    total: int
    delivered: Annotated[int, Field(description="Delivered or read.")]
    failed: Annotated[int, Field(description="Undeliverable, expired or rejected.")]
    pending: Annotated[int, Field(description="All others: no provider has reported whether they arrived.")]
    delivery_rate: Annotated[
        float | None, Field(description="delivered / (delivered + failed), from 0 to 1; null without either.")
    ]
    statuses: Annotated[dict[str, int], Field(description="How many have each status.")]


class AccountCounts(Counts):
    """The same of one account."""

    account: str


class Summaries(BaseModel):
    """The messages whose `message_time` is since then, and what is known of them now."""

    since: datetime
    as_of: datetime
    total: Counts
    accounts: Annotated[list[AccountCounts], Field(description="Those that have messages, by id.")]


@router.get(
    "/summary",
    dependencies=[NEEDS_READ],
    responses=documented(HTTPStatus.NOT_FOUND),
    summary="What became of the latest messages",
)
def summary(asked: Annotated[SummarySearch, Query()], deps: Deps, who: Who) -> Summaries:
    """Delivered, failed and pending messages by account, of the last day or since a time.

    As the view `messages` counts them. Orders and conversations are not counted: they are no messages.
    """
    accounts = who.scope(Role.READ, asked.account)
    with deps.engine.connect() as connection:
        check_account(connection, asked.account)
        now = database_now(connection)
        since = asked.since or now - timedelta(days=1)
        if not now - MAX_PERIOD <= since <= now:
            raise wrong_fields([("query.since", f"must be a time within the last {MAX_PERIOD.days} days")])
        found = summarise(connection, since, now, accounts)
    return Summaries(
        since=since,
        as_of=now,
        total=Counts.model_validate(_counts(total_of(list(found.values())))),
        accounts=[AccountCounts(account=account, **_counts(each)) for account, each in sorted(found.items())],
    )


def _counts(each: Summary) -> dict[str, Any]:
    return {name: getattr(each, name) for name in Counts.model_fields}
