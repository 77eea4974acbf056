"""The shared table, looked up."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from sqlalchemy import Connection, RowMapping

from ulak.api.authorization import NEEDS_READ, NEEDS_SUPPORT, Caller, Who
from ulak.api.cursors import decode_page, encode_page
from ulak.api.dependencies import Dependencies, Deps
from ulak.api.fields import AccountId, Cursor, Given, Limit, Moment, RowId, Text
from ulak.api.masking import masked_row, masked_value
from ulak.api.problems import ProblemError, check_account, documented
from ulak.models.access import Role
from ulak.models.events import Action, Event
from ulak.models.lookups import Explanation, explain
from ulak.models.meanings import COLUMNS, GRANULARITIES, REASONS, SOURCES, STATUSES, TIME_SOURCES, TimeSource
from ulak.models.searches import find_deliveries, open_tracked
from ulak.models.vocabulary import Granularity, Reason, Source, Status
from ulak.providers.codes import explain_codes
from ulak.providers.phone_numbers import trimmed
from ulak.workers.audit_recording import Row, people_in, people_of

router = APIRouter(tags=["deliveries"])


def _listed(meaning: str, words: Mapping[Any, str]) -> str:
    """A column's meaning with that of each word it may hold."""
    return meaning + "".join(f"\n- `{word}`: {said}" for word, said in words.items())


_DESCRIPTIONS: Final[Mapping[str, str]] = {
    **COLUMNS,
    "recipient": f"{COLUMNS['recipient']} Masked below the role operate.",
    "granularity": _listed(COLUMNS["granularity"], GRANULARITIES),
    "status": _listed(COLUMNS["status"], STATUSES),
    "reason": _listed(COLUMNS["reason"], REASONS),
    "message_time_source": _listed(COLUMNS["message_time_source"], TIME_SOURCES),
    "source": _listed("How the report reached Ulak.", SOURCES),
    "provider_status_meaning": "What provider_status means by the provider's documents; null where they do not say.",
    "provider_error_meaning": "What provider_error means by the provider's documents; null where they do not say.",
}


def _column(name: str, **more: Any) -> Any:
    """A field that is described like the column of this name."""
    return Field(description=_DESCRIPTIONS[name], **more)


class Delivery(BaseModel):
    """One row of the shared table, as its columns are."""

    id: Annotated[int, _column("id")]
    account_id: Annotated[str, _column("account_id")]
    provider: Annotated[str, _column("provider")]
    granularity: Annotated[Granularity, _column("granularity")]
    provider_key: Annotated[str, _column("provider_key")]
    parent_key: Annotated[str | None, _column("parent_key")]
    client_ref: Annotated[str | None, _column("client_ref")]
    recipient: Annotated[str | None, _column("recipient", examples=["+905301234567"])]
    status: Annotated[Status, _column("status")]
    is_final: Annotated[bool, _column("is_final")]
    reason: Annotated[Reason | None, _column("reason")]
    provider_status: Annotated[str, _column("provider_status")]
    provider_status_meaning: Annotated[str | None, _column("provider_status_meaning", examples=["sending completed"])]
    provider_error: Annotated[str | None, _column("provider_error")]
    provider_error_meaning: Annotated[str | None, _column("provider_error_meaning")]
    conflict: Annotated[bool, _column("conflict")]
    total: Annotated[int | None, _column("total")]
    delivered: Annotated[int | None, _column("delivered")]
    undelivered: Annotated[int | None, _column("undelivered")]
    waiting: Annotated[int | None, _column("waiting")]
    segments: Annotated[int | None, _column("segments")]
    credits: Annotated[float | None, _column("credits")]
    message_time: Annotated[datetime | None, _column("message_time")]
    message_time_source: Annotated[TimeSource | None, _column("message_time_source")]
    sent_at: Annotated[datetime | None, _column("sent_at")]
    done_at: Annotated[datetime | None, _column("done_at")]
    valid_until: Annotated[datetime | None, _column("valid_until")]
    first_seen_at: Annotated[datetime, _column("first_seen_at")]
    changed_at: Annotated[datetime, _column("changed_at")]
    extra: Annotated[dict[str, Any], _column("extra")]


class Unanswered(BaseModel):
    """A registered id without a report so far."""

    account_id: str
    kind: str
    value: str
    client_ref: str | None
    recipient: str | None
    sent_at: datetime
    valid_until: datetime
    closed_at: Annotated[datetime | None, Field(description="When its polling ended.")]


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

    status: Annotated[Status, _column("status")]
    provider_status: Annotated[str, _column("provider_status")]
    provider_status_meaning: Annotated[str | None, _column("provider_status_meaning")]
    provider_error: Annotated[str | None, _column("provider_error")]
    provider_error_meaning: Annotated[str | None, _column("provider_error_meaning")]
    source: Annotated[Source, _column("source")]
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


@router.get("/deliveries", dependencies=[NEEDS_READ], responses=documented(HTTPStatus.NOT_FOUND), summary="Deliveries")
def search(asked: Annotated[DeliverySearch, Query()], deps: Deps, who: Who) -> Deliveries:
    """Pages go by row id, which never changes: a row that changes while you page is neither skipped nor repeated.

    Follow `cursor` until it is null: without a recipient, reference or key a page looks through a part of the table, so
    that it may have few rows, or none, though more follow.

    A recipient that is no phone number is searched literally, since it may be a provider's own id of a person.
    To look for a person takes the role support, and is recorded; so does a key or reference that holds a number. Of
    conversations `parent_key` is a person, so they are found by it only with `granularity=conversation`. Numbers are
    masked below the role operate.
    """
    recorder = deps.recorder
    recipients = recorder.spellings(asked.recipient) if asked.recipient else None
    client_ref = trimmed(asked.client_ref) if asked.client_ref is not None else None
    key = trimmed(asked.provider_key) if asked.provider_key is not None else None
    parent = trimmed(asked.parent_key) if asked.parent_key is not None else None
    granularity = asked.granularity
    if parent is not None and granularity is None:
        granularity = Granularity.MESSAGE
    people = people_in(client_ref, key, parent)
    if asked.recipient is not None:
        people.append(asked.recipient)
    if parent is not None and granularity is Granularity.CONVERSATION:
        people.append(parent)
    accounts = who.scope(Role.SUPPORT if people else Role.READ, asked.account)
    filters = (asked.account, asked.status, recipients, client_ref, key, parent, asked.granularity)
    question = ("deliveries", *filters, asked.since, asked.until)
    after = decode_page(asked.cursor, question)
    with deps.engine.connect() as connection:
        check_account(connection, asked.account)
        page = find_deliveries(
            connection,
            accounts=accounts,
            status=asked.status,
            recipient=recipients,
            client_ref=client_ref,
            provider_key=None if key is None else recorder.key_forms(key),
            parent_key=None if parent is None else (parent, *recorder.pseudonyms(parent)),
            granularity=granularity,
            since=asked.since,
            until=asked.until,
            limit=asked.limit,
            after_id=after or 0,
        )
        named = asked.recipient is not None or asked.client_ref is not None
        waiting = _unanswered(connection, asked, accounts, recipients, client_ref) if named and after is None else ()
    note_search(deps, who, asked.account, people)
    if not people:
        note_reading(deps, who, (*page.rows, *waiting))
    return Deliveries(
        deliveries=[shown(row, who) for row in page.rows],
        unanswered=[unanswered_of(row, who) for row in waiting],
        cursor=encode_page(page.next_after, question) if page.next_after is not None else None,
    )


@router.get(
    "/deliveries/{delivery_id}",
    dependencies=[NEEDS_READ],
    responses=documented(HTTPStatus.NOT_FOUND),
    summary="One delivery with its history",
)
def show(delivery_id: RowId, deps: Deps, who: Who) -> ExplainedDelivery:
    """Every distinct statement about the delivery, which one won and why. Recorded, unless its numbers are masked."""
    found = _found(deps, who, delivery_id)
    may_see = who.access.may(Role.OPERATE, found.delivery["account_id"])
    if may_see:
        deps.recorder.try_add(*_seen(deps, who, found, Action.DELIVERY_VIEWED))
    return _explained(found, may_see=may_see)


@router.post(
    "/deliveries/{delivery_id}/reveal",
    dependencies=[NEEDS_SUPPORT],
    responses=documented(HTTPStatus.NOT_FOUND),
    summary="One delivery with its number",
)
def reveal(delivery_id: RowId, deps: Deps, who: Who) -> ExplainedDelivery:
    """The same with the number in full. That it was shown, and to whom, is recorded first; without that, 503."""
    found = _found(deps, who, delivery_id)
    who.admit(Role.SUPPORT, found.delivery["account_id"])
    deps.recorder.add(*_seen(deps, who, found, Action.NUMBER_REVEALED))
    return _explained(found, may_see=True)


def shown(row: Row, who: Caller) -> Delivery:
    """The row as this caller may see it."""
    seen = row if who.access.may(Role.OPERATE, row["account_id"]) else masked_row(row)
    return Delivery(**seen, **explain_codes(seen))


def note_search(deps: Dependencies, who: Caller, account: str | None, people: Sequence[str]) -> None:
    """Record that the caller looked for these people, whether they are known or not."""
    if people:
        marks = deps.recorder.marks(people)
        deps.recorder.try_add(*(who.event(Action.PERSON_SEARCHED, account=account, person=mark) for mark in marks))


def note_reading(deps: Dependencies, who: Caller, rows: Sequence[Row]) -> None:
    """Record, once an hour, that the caller reads numbers in full and many at once."""
    for account in sorted({row["account_id"] for row in rows if row["recipient"] is not None}):
        if who.access.may(Role.OPERATE, account):
            deps.recorder.add_hourly(who.event(Action.DELIVERIES_READ, account=account))


def _found(deps: Dependencies, who: Caller, delivery_id: int) -> Explanation:
    """The delivery, where the caller may know of it."""
    with deps.engine.connect() as connection:
        found = explain(connection, delivery_id)
    if found is None or not who.access.may(Role.READ, found.delivery["account_id"]):
        raise ProblemError(HTTPStatus.NOT_FOUND, "There is no such delivery.")
    return found


def _seen(deps: Dependencies, who: Caller, found: Explanation, action: Action) -> list[Event]:
    """One event for each person that the delivery is about."""
    row = found.delivery
    about = {"account": row["account_id"], "delivery_id": row["id"]}
    return [who.event(action, person=mark, **about) for mark in deps.recorder.marks(people_of(row))]


def _explained(found: Explanation, *, may_see: bool) -> ExplainedDelivery:
    row = found.delivery if may_see else masked_row(found.delivery)
    people = None if may_see else people_of(found.delivery)
    return ExplainedDelivery(
        **row, **explain_codes(row), conflicting=list(found.conflicting), history=_history(found, people)
    )


def _unanswered(
    connection: Connection,
    asked: DeliverySearch,
    accounts: Collection[str] | None,
    recipients: Sequence[str] | None,
    client_ref: str | None,
) -> Sequence[RowMapping]:
    others = (asked.status, asked.since, asked.until, asked.provider_key, asked.parent_key, asked.granularity)
    if any(other is not None for other in others):
        return []
    return open_tracked(connection, accounts=accounts, recipient=recipients, client_ref=client_ref)


def unanswered_of(row: Row, who: Caller) -> Unanswered:
    """A tracked row that no provider has reported yet, as this caller may see it."""
    seen = row if who.access.may(Role.OPERATE, row["account_id"]) else masked_row(row)
    return Unanswered(kind=row["id_kind"], **{name: seen[name] for name in Unanswered.model_fields if name in seen})


def _history(found: Explanation, people: Sequence[str] | None) -> list[Statement]:
    """The history; with the numbers of these people masked, if given."""
    return [
        Statement(
            status=facts["status"],
            provider_status=facts["provider_status"],
            provider_error=facts.get("provider_error"),
            **explain_codes({**found.delivery, "provider_error": None, **facts}),
            source=each.observation.source,
            as_of=each.observation.as_of,
            first_seen_at=each.observation.first_seen_at,
            won=each.lost_by is None,
            lost_by=each.lost_by,
            gave=list(each.gave),
            statement=_masked(each.observation.statement, people),
        )
        for each in found.statements
        for facts in [_masked(each.observation.facts, people)]
    ]


def _masked(value: dict[str, Any], people: Sequence[str] | None) -> dict[str, Any]:
    return value if people is None else masked_value(value, people)
