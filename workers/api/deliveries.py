"""The shared table, looked up."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from sqlalchemy import Connection, RowMapping

from models.lookups import Explanation, explain
from models.searches import find_deliveries, open_tracked
from models.vocabulary import Granularity, Reason, Source, Status
from providers.numbers import same_number_spellings, trimmed
from workers.api.cursors import decode_page, encode_page
from workers.api.fields import AccountId, Cursor, Given, Limit, Moment, RowId, Text
from workers.api.means import Have
from workers.api.problems import ProblemError, check_account, documented

router = APIRouter(tags=["deliveries"])


class Delivery(BaseModel):
    """One row of the shared table, as its columns are."""

    id: int
    account_id: str
    provider: str
    granularity: Granularity
    provider_key: str
    parent_key: str | None
    client_ref: str | None
    recipient: Annotated[str | None, Field(description="E.164 where it is a number.", examples=["+905301234567"])]
    status: Status
    is_final: bool
    reason: Reason | None
    provider_status: str
    provider_error: str | None
    conflict: Annotated[bool, Field(description="The provider said two different finals of one message.")]
    total: int | None
    delivered: int | None
    undelivered: int | None
    waiting: int | None
    segments: int | None
    credits: Annotated[
        float | None,
        Field(
            description="The provider's price of this message or send in its own credits. Whether it is what was spent"
            " differs by provider (docs/providers), so do not add it up for a bill without reading that page."
        ),
    ]
    sent_at: datetime | None
    done_at: datetime | None
    valid_until: datetime | None
    first_seen_at: datetime
    changed_at: datetime
    extra: dict[str, Any]


class Unanswered(BaseModel):
    """An id that was registered and about which the provider has said nothing yet."""

    account_id: str
    kind: str
    value: str
    client_ref: str | None
    recipient: str | None
    sent_at: datetime
    valid_until: datetime
    closed_at: Annotated[datetime | None, Field(description="Since then nobody asks for it any more.")]


class Deliveries(BaseModel):
    """A page of deliveries, in the order of their ids."""

    deliveries: list[Delivery]
    unanswered: Annotated[
        list[Unanswered],
        Field(description="On the first page of a search by recipient or client_ref: registered, not answered yet."),
    ]
    cursor: Annotated[str | None, Field(description="Of the next page; null on the last one.")]


class Statement(BaseModel):
    """One distinct statement about a delivery."""

    status: Status
    source: Source
    as_of: Annotated[datetime | None, Field(description="The least time at which it was made; null: none is known.")]
    first_seen_at: datetime
    won: Annotated[bool, Field(description="It decides the status.")]
    lost_by: Annotated[str | None, Field(description="The part of its rank by which the winner beats it.")]
    gave: Annotated[list[str], Field(description="The fields of the row that come from it.")]
    statement: Annotated[dict[str, Any], Field(description="As the provider made it, without message text and names.")]


class ExplainedDelivery(Delivery):
    """A delivery with its history, and why it is what it is."""

    conflicting: Annotated[list[str], Field(description="The statuses that contradict each other.")]
    history: Annotated[list[Statement], Field(description="The greatest first: it won.")]


class DeliverySearch(Given):
    """Which deliveries; everything given must hold."""

    account: AccountId | None = None
    status: Status | None = None
    recipient: Annotated[
        Text | None,
        Field(
            description="A number in any usual spelling, or a provider's own id of a person. A conversation is found by"
            " either of its people."
        ),
    ] = None
    client_ref: Text | None = None
    provider_key: Annotated[
        Text | None, Field(description="The provider's id of the message, order or conversation.")
    ] = None
    parent_key: Annotated[Text | None, Field(description="All rows under this key, such as an order's messages.")] = (
        None
    )
    granularity: Granularity | None = None
    since: Annotated[Moment | None, Field(description="Changed since then. To keep a copy use /v1/changes.")] = None
    until: Annotated[Moment | None, Field(description="Changed before then.")] = None
    cursor: Cursor | None = None
    limit: Limit = 100


@router.get("/deliveries", responses=documented(HTTPStatus.NOT_FOUND), summary="Deliveries")
def search(asked: Annotated[DeliverySearch, Query()], means: Have) -> Deliveries:
    """Pages go by row id, which never changes: a row that changes while you page is neither skipped nor repeated.

    Follow `cursor` until it is null: without a recipient, reference or key a page looks through a part of the table, so
    that it may have few rows, or none, though more follow.

    A recipient that is no phone number is searched as it stands, since it may be a provider's own id of a person.
    """
    recipients = same_number_spellings(asked.recipient) if asked.recipient else None
    client_ref = trimmed(asked.client_ref) if asked.client_ref is not None else None
    key = trimmed(asked.provider_key) if asked.provider_key is not None else None
    parent = trimmed(asked.parent_key) if asked.parent_key is not None else None
    filters = (asked.account, asked.status, recipients, client_ref, key, parent, asked.granularity)
    question = ("deliveries", *filters, asked.since, asked.until)
    after = decode_page(asked.cursor, question)
    with means.engine.connect() as connection:
        check_account(connection, asked.account)
        page = find_deliveries(
            connection,
            account=asked.account,
            status=asked.status,
            recipient=recipients,
            client_ref=client_ref,
            provider_key=key,
            parent_key=parent,
            granularity=asked.granularity,
            since=asked.since,
            until=asked.until,
            limit=asked.limit,
            after_id=after or 0,
        )
        named = asked.recipient is not None or asked.client_ref is not None
        unanswered = _unanswered(connection, asked, recipients, client_ref) if named and after is None else []
    return Deliveries(
        deliveries=[Delivery(**row) for row in page.rows],
        unanswered=unanswered,
        cursor=encode_page(page.next_after, question) if page.next_after is not None else None,
    )


@router.get(
    "/deliveries/{delivery_id}",
    responses=documented(HTTPStatus.NOT_FOUND),
    summary="One delivery with its history",
)
def show(delivery_id: RowId, means: Have) -> ExplainedDelivery:
    """Every distinct statement about the delivery, which one won and why."""
    with means.engine.connect() as connection:
        found = explain(connection, delivery_id)
    if found is None:
        raise ProblemError(HTTPStatus.NOT_FOUND, "There is no such delivery.")
    return ExplainedDelivery(**found.delivery, conflicting=list(found.conflicting), history=_history(found))


def _unanswered(
    connection: Connection, asked: DeliverySearch, recipients: tuple[str, ...] | None, client_ref: str | None
) -> list[Unanswered]:
    others = (asked.status, asked.since, asked.until, asked.provider_key, asked.parent_key, asked.granularity)
    if any(other is not None for other in others):
        return []
    rows = open_tracked(connection, account=asked.account, recipient=recipients, client_ref=client_ref)
    return [unanswered_of(row) for row in rows]


def unanswered_of(row: RowMapping) -> Unanswered:
    """A tracked row that no provider has answered for, as the API shows it."""
    return Unanswered(kind=row["id_kind"], **{name: row[name] for name in Unanswered.model_fields if name in row})


def _history(found: Explanation) -> list[Statement]:
    return [
        Statement(
            status=each.observation["facts"]["status"],
            source=each.observation["source"],
            as_of=each.observation["as_of"],
            first_seen_at=each.observation["first_seen_at"],
            won=each.lost_by is None,
            lost_by=each.lost_by,
            gave=list(each.gave),
            statement=each.observation["statement"],
        )
        for each in found.statements
    ]
