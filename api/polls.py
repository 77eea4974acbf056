"""Polls on demand: opened, looked at, cancelled."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, BackgroundTasks, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection

from ulak.api.authorization import NEEDS_OPERATE, NEEDS_READ, Caller, Who
from ulak.api.cursors import decode_page, encode_page
from ulak.api.dependencies import Dependencies, Deps
from ulak.api.fields import AccountId, Cursor, Given, IdempotencyKey, Limit, RowId, Text
from ulak.api.problems import ProblemError, check_account, documented, existing_account, wrong_fields
from ulak.models.access import Role
from ulak.models.account import load
from ulak.models.database import retry_transaction
from ulak.models.events import Action, record
from ulak.models.ledger import opening
from ulak.models.ledger.listing import KeyedPoll, ListedPoll, find_poll, key_of_task, list_polls, polls_of_key
from ulak.tasks.messages import poll_account
from ulak.tasks.steps.idcheck import IdCheck
from ulak.tasks.steps.ondemand import open_on_demand, poll_mistake

MAX_IDS = 1000

router = APIRouter(tags=["polls"])
State = Literal["running", "complete", "complete_with_errors", "cancelled"]


class AskedId(Given):
    """One id to ask for."""

    kind: Text
    value: Text


class NewPoll(Given):
    """What to ask. Without days and ids: the account's whole lookback and every open id."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"account": "marka-sms"},
                {"account": "marka-sms", "from": "2026-05-01", "to": "2026-05-03"},
                {"account": "marka-sms", "ids": [{"kind": "transaction", "value": "123456"}]},
            ]
        }
    )

    account: AccountId
    first: Annotated[date | None, Field(alias="from", description="First day, in the account's time zone.")] = None
    last: Annotated[date | None, Field(alias="to", description="Last day, inclusive; the first one when absent.")] = (
        None
    )
    ids: Annotated[list[AskedId] | None, Field(min_length=1, max_length=MAX_IDS)] = None


class Poll(BaseModel):
    """One run over one account."""

    id: int
    account: str
    kind: str
    trigger: str
    state: State
    first: Annotated[date | None, Field(serialization_alias="from")]
    last: Annotated[date | None, Field(serialization_alias="to")]
    planned: Annotated[bool, Field(description="Its fetches are known; before that the progress is empty.")]
    fetches: int
    open_fetches: Annotated[int, Field(description="Of `fetches`, those that have not ended.")]
    dead: int
    calls: int
    reports: int
    new: int
    advanced: int
    unchanged: int
    drifting: Annotated[bool, Field(description="A list kept changing while it was read.")]
    taken_over_by: Annotated[
        int | None, Field(description="The later poll that asks what this one had not asked yet: follow that one, too.")
    ]
    started_at: datetime
    finished_at: datetime | None


class Polls(BaseModel):
    """A page of polls, the newest first."""

    polls: list[Poll]
    cursor: Annotated[str | None, Field(description="Of the next page; null on the last one.")]


class PollSearch(Given):
    """Which polls."""

    account: AccountId | None = None
    state: State | None = None
    task: Annotated[Text | None, Field(description="A Celery task id, or an Idempotency-Key.")] = None
    cursor: Cursor | None = None
    limit: Limit = 100


@router.post(
    "/polls",
    dependencies=[NEEDS_OPERATE],
    status_code=HTTPStatus.ACCEPTED,
    responses=documented(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT),
    summary="Ask an account now",
)
def create(
    new: NewPoll,
    deps: Deps,
    *,
    who: Who,
    later: BackgroundTasks,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> Poll:
    """Opens a poll; its plan follows within seconds. The same Idempotency-Key gives the same poll."""
    who.admit(Role.OPERATE, new.account)
    poll = open_poll(deps, who, new, idempotency_key)
    if not poll.planned:
        # After the answer: a broker that is away costs the caller nothing.
        later.add_task(deps.send, poll_account(poll.account, poll.id))
    response.headers["Location"] = f"/v1/polls/{poll.id}"
    return poll


@router.get(
    "/polls/{poll_id}", dependencies=[NEEDS_READ], responses=documented(HTTPStatus.NOT_FOUND), summary="One poll"
)
def show(poll_id: RowId, deps: Deps, who: Who) -> Poll:
    """State and progress of a poll."""
    with deps.engine.connect() as connection:
        return _found(connection, who, poll_id)


@router.delete(
    "/polls/{poll_id}",
    dependencies=[NEEDS_OPERATE],
    responses=documented(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT),
    summary="Cancel a poll",
)
def cancel(poll_id: RowId, deps: Deps, who: Who) -> Poll:
    """Drops outstanding requests; responses to requests in flight are still stored. 409 if it has already ended."""
    with deps.engine.connect() as connection:
        who.admit(Role.OPERATE, _found(connection, who, poll_id).account)

    def run(connection: Connection) -> None:
        if opening.cancel(connection, poll_id) is not None:
            account = _found(connection, who, poll_id).account
            record(connection, who.event(Action.POLL_CANCELLED, account=account, details={"poll": poll_id}))

    retry_transaction(deps.engine, run)
    with deps.engine.connect() as connection:
        poll = _found(connection, who, poll_id)
    if poll.state != "cancelled":
        raise ProblemError(HTTPStatus.CONFLICT, f"The poll has ended already: it is {poll.state.replace('_', ' ')}.")
    return poll


@router.get("/polls", dependencies=[NEEDS_READ], responses=documented(HTTPStatus.NOT_FOUND), summary="Polls")
def search(asked: Annotated[PollSearch, Query()], deps: Deps, who: Who) -> Polls:
    """Polls, the newest first. Those that are opened while you page stand before your first page."""
    if asked.account is not None:
        who.admit(Role.READ, asked.account)
    question = ("polls", asked.account, asked.state, asked.task)
    before = decode_page(asked.cursor, question)
    with deps.engine.connect() as connection:
        check_account(connection, asked.account)
        if asked.task is not None:
            rows: Sequence[ListedPoll] = [
                row
                for row in polls_of_key(connection, asked.task, key_of_task(asked.task))
                if who.access.may(Role.READ, row.account_id)
                and asked.account in {None, row.account_id}
                and asked.state in {None, row.state}
            ]
            return Polls(polls=[_view(row) for row in rows], cursor=None)
        rows = list_polls(
            connection,
            account=asked.account,
            accounts=who.access.accounts(Role.READ),
            state=asked.state,
            limit=asked.limit,
            before_id=before,
        )
    full = len(rows) == asked.limit
    return Polls(polls=[_view(row) for row in rows], cursor=encode_page(rows[-1].id, question) if full else None)


def open_poll(deps: Dependencies, who: Caller, new: NewPoll, key: str | None) -> Poll:
    """Open the poll, or give the one of this key; 422 where that one asked for something else."""
    with deps.engine.connect() as connection:
        known = polls_of_key(connection, key) if key is not None else []
        if known:
            return _same(connection, deps, known, new)
        _check(connection, new)

    def also(connection: Connection, poll_id: int) -> None:
        record(connection, who.event(Action.POLL_OPENED, account=new.account, details={"poll": poll_id}))

    poll_id = open_on_demand(
        deps.runtime, new.account, trigger="api", key=key, window=(new.first, new.last), ids=_ids(new), also=also
    )
    with deps.engine.connect() as connection:
        # Two requests with one key may have come at once.
        return (
            _found(connection, who, poll_id)
            if key is None
            else _same(connection, deps, polls_of_key(connection, key), new)
        )


def _same(connection: Connection, deps: Dependencies, known: Sequence[KeyedPoll], new: NewPoll) -> Poll:
    """The poll of a key, where it asked for the same."""
    hidden = deps.runtime.pseudonymiser_of(load(connection, known[0].account_id))

    def masked(ids: Sequence[Mapping[str, str]] | None) -> list[dict[str, str]] | None:
        if ids is None:
            return None
        return opening.masked_ids(ids if hidden is None else [hidden.named(each) for each in ids])

    wanted = (new.account, new.first, (new.last or new.first) if new.first else None, masked(_ids(new)))
    if any((row.account_id, row.window_from, row.window_to, masked(row.ids)) != wanted for row in known):
        mistake = ("header.Idempotency-Key", "was used for a poll that asks for something else; send a new key")
        raise wrong_fields([mistake])
    return _view(known[0])


def _ids(new: NewPoll) -> list[dict[str, str]] | None:
    return None if new.ids is None else [each.model_dump() for each in new.ids]


def _check(connection: Connection, new: NewPoll) -> None:
    """Refuse what could never be asked, each field by name."""
    stored = existing_account(connection, new.account)
    if not stored.enabled:
        raise ProblemError(HTTPStatus.CONFLICT, "The account is disabled: enable it in the accounts file first.")
    mistake = poll_mistake(stored, (new.first, new.last))
    mistakes = [] if mistake is None else [(f"body.{mistake[0]}", mistake[1])]
    check = IdCheck(stored, references=False)
    for place, each in enumerate(_ids(new) or ()):
        why = check.why_not(each)
        if why is not None:
            mistakes.append((f"body.ids.{place}", why))
    if mistakes:
        raise wrong_fields(mistakes)


def _found(connection: Connection, who: Caller, poll_id: int) -> Poll:
    row = find_poll(connection, poll_id)
    if row is None or not who.access.may(Role.READ, row.account_id):
        raise ProblemError(HTTPStatus.NOT_FOUND, "There is no such poll.")
    return _view(row)


def _view(row: ListedPoll) -> Poll:
    same = {name: getattr(row, name) for name in Poll.model_fields if hasattr(row, name)}
    return Poll(
        **same,
        account=row.account_id,
        first=row.window_from,
        last=row.window_to,
        planned=row.planned_at is not None,
    )
