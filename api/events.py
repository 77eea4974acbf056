"""Who did, saw or erased what, for administrators."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from sqlalchemy import Row

from ulak.api.authorization import NEEDS_ADMIN, Who, forbidden
from ulak.api.cursors import decode_page, encode_page
from ulak.api.dependencies import Dependencies, Deps
from ulak.api.fields import AccountId, Cursor, Given, Limit, Moment, Text
from ulak.api.problems import check_account, documented
from ulak.models.access import Role
from ulak.models.events import Action, list_events
from ulak.models.lookups import deliveries_about

router = APIRouter(tags=["events"])


class RecordedEvent(BaseModel):
    """One thing that was done or seen. It never holds a person's number."""

    id: int
    at: datetime
    action: str
    actor_kind: str
    actor: Annotated[str, Field(description="A token's name, the subject of the sign-on, or a user of the host.")]
    actor_label: Annotated[str | None, Field(description="What people know this person by.")]
    via: str
    account: str | None
    delivery_id: int | None
    details: dict[str, Any]


class Events(BaseModel):
    """A page of events, the newest first."""

    events: list[RecordedEvent]
    cursor: Annotated[str | None, Field(description="Of the next page; null on the last one.")]


class EventSearch(Given):
    """Which events; everything given must hold."""

    account: AccountId | None = None
    action: Action | None = None
    actor: Annotated[Text | None, Field(description="By name or by label.")] = None
    recipient: Annotated[
        Text | None,
        Field(
            description="About this person: a number in any usual spelling, or a provider's own id. Also once erased."
        ),
    ] = None
    since: Moment | None = None
    cursor: Cursor | None = None
    limit: Limit = 100


@router.get(
    "/events",
    dependencies=[NEEDS_ADMIN],
    responses=documented(HTTPStatus.NOT_FOUND),
    summary="Who did, saw or erased what",
)
def search(asked: Annotated[EventSearch, Query()], deps: Deps, who: Who) -> Events:
    """Of the accounts that the token is limited to; without such a limit also what belongs to no account.

    Reading in bulk (`deliveries.read`) is recorded once an hour and is about no person: it may include everybody.
    """
    if asked.account is not None:
        who.admit(Role.ADMIN, asked.account)
    elif asked.recipient is not None and not who.access.may_everywhere(Role.ADMIN):
        raise forbidden(Role.ADMIN)
    accounts = who.access.accounts(Role.ADMIN) if asked.account is None else frozenset({asked.account})
    question = ("events", asked.account, asked.action, asked.actor, asked.recipient, asked.since)
    before = decode_page(asked.cursor, question)
    rows = _rows(deps, asked, accounts, before)
    full = len(rows) == asked.limit
    return Events(events=[_view(row) for row in rows], cursor=encode_page(rows[-1].id, question) if full else None)


def _rows(
    deps: Dependencies, asked: EventSearch, accounts: frozenset[str] | None, before: int | None
) -> list[Row[Any]]:
    marks = None if asked.recipient is None else deps.recorder.every_mark(asked.recipient)
    with deps.engine.connect() as connection:
        check_account(connection, asked.account)
        about = () if asked.recipient is None else deps.recorder.spellings(asked.recipient)
        found = list_events(
            connection,
            accounts=accounts,
            actions=None if asked.action is None else [asked.action],
            actor=asked.actor,
            people=marks,
            deliveries=deliveries_about(connection, about) if about else (),
            since=asked.since,
            before_id=before,
            limit=asked.limit,
        )
    return list(found)


def _view(row: Row[Any]) -> RecordedEvent:
    same = {name: getattr(row, name) for name in RecordedEvent.model_fields if hasattr(row, name)}
    return RecordedEvent(**same, account=row.account_id)
