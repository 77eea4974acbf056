"""Tracked ids: what is registered, and ending the polling of some."""

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from sqlalchemy import RowMapping
from starlette.concurrency import run_in_threadpool

from ulak.api.authorization import NEEDS_OPERATE, NEEDS_READ, Caller, Who
from ulak.api.body_limits import TRACKED_CAP_BYTES, read_body
from ulak.api.cursors import decode_page, encode_page
from ulak.api.deliveries import note_reading, note_search
from ulak.api.dependencies import Dependencies, Deps
from ulak.api.fields import AccountId, Cursor, Given, Limit, Text
from ulak.api.masking import masked_row
from ulak.api.problems import ProblemError, check_account, documented, existing_account
from ulak.api.registration import BODY_SCHEMA, MAX_IDS, REFUSED, envelope_of, read_fields
from ulak.models.access import Role
from ulak.models.database import retry_transaction
from ulak.models.events import Action
from ulak.models.searches import find_tracked
from ulak.providers.phone_numbers import plain, trimmed
from ulak.tasks.steps.idcheck import IdCheck
from ulak.tasks.steps.tracking import MAX_AT_ONCE, untrack
from ulak.workers.audit_recording import people_in

UNTRACKED, NOT_OPEN = "untracked", "not open"

router = APIRouter(tags=["tracked ids"])


class TrackedId(BaseModel):
    """One registered or discovered id."""

    id: int
    account: str
    kind: str
    value: str
    client_ref: str | None
    recipient: str | None
    expected: int | None
    origin: Annotated[Literal["sender", "discovered"], Field(description="Registered, or named by a provider's list.")]
    state: Annotated[Literal["open", "closed"], Field(description="open: it is polled until it is final or expired.")]
    close_reason: Annotated[
        str | None,
        Field(description="Such as final, untracked, erased, or reference (registered for its reference alone)."),
    ]
    sent_at: datetime
    valid_until: datetime
    next_check_at: Annotated[datetime | None, Field(description="When it is polled next; null when closed.")]
    checks: int
    last_checked_at: datetime | None
    last_found_at: Annotated[datetime | None, Field(description="When an answer last was about it.")]
    registered_at: datetime
    closed_at: datetime | None


class TrackedIds(BaseModel):
    """A page of tracked ids, in the order of their row ids."""

    tracked: list[TrackedId]
    cursor: Annotated[str | None, Field(description="Of the next page; null on the last one.")]


class TrackedSearch(Given):
    """Which tracked ids; everything given must hold."""

    account: AccountId | None = None
    kind: Text | None = None
    value: Annotated[Text | None, Field(description="Found at once with its account and kind.")] = None
    client_ref: Text | None = None
    recipient: Annotated[Text | None, Field(description="A number in any usual spelling.")] = None
    state: Literal["open", "closed"] | None = None
    cursor: Cursor | None = None
    limit: Limit = 100


class OneId(Given):
    """One id."""

    account: AccountId
    kind: Text
    value: Text


class UntrackResult(BaseModel):
    """What became of one id."""

    index: Annotated[int, Field(description="Its place in `ids`, from 0.")]
    result: Annotated[str, Field(description="untracked, not open (unknown, or closed before) or refused")]
    problem: Annotated[str | None, Field(description="With refused: what is wrong and what would be right.")] = None


class Untracked(BaseModel):
    """What became of the ids."""

    untracked: Annotated[int, Field(description="Ids that were open and are polled no more.")]
    results: list[UntrackResult]


@router.get("/tracked", dependencies=[NEEDS_READ], responses=documented(HTTPStatus.NOT_FOUND), summary="Tracked ids")
def search(asked: Annotated[TrackedSearch, Query()], deps: Deps, who: Who) -> TrackedIds:
    """Pages go by row id; follow `cursor` until it is null.

    Without a reference, a recipient or a whole id a page looks through a part of the table, so that it may have few
    rows, or none, though more follow.

    With a recipient, or a number within the value or the reference, it takes the role support, and the person is
    recorded. Numbers are masked below the role operate.
    """
    recorder = deps.recorder
    recipients = recorder.spellings(asked.recipient) if asked.recipient else None
    client_ref = trimmed(asked.client_ref) if asked.client_ref is not None else None
    value = plain(asked.value) if asked.value is not None else None
    people = people_in(client_ref, value)
    if asked.recipient is not None:
        people.append(asked.recipient)
    accounts = who.scope(Role.SUPPORT if people else Role.READ, asked.account)
    question = ("tracked", asked.account, asked.kind, value, client_ref, recipients, asked.state)
    after = decode_page(asked.cursor, question)
    with deps.engine.connect() as connection:
        check_account(connection, asked.account)
        page = find_tracked(
            connection,
            account=asked.account,
            accounts=accounts,
            kind=asked.kind,
            value=None if value is None else (*recorder.key_forms(value), *recorder.pseudonyms(value)),
            client_ref=client_ref,
            recipient=recipients,
            is_open=None if asked.state is None else asked.state == "open",
            limit=asked.limit,
            after_id=after or 0,
        )
    note_search(deps, who, asked.account, people)
    if not people:
        note_reading(deps, who, page.rows)
    return TrackedIds(
        tracked=[_view(row, who) for row in page.rows],
        cursor=encode_page(page.next_after, question) if page.next_after is not None else None,
    )


@router.delete(
    "/tracked", dependencies=[NEEDS_OPERATE], responses=documented(HTTPStatus.NOT_FOUND), summary="Stop polling one id"
)
def untrack_one(asked: Annotated[OneId, Query()], deps: Deps, who: Who) -> TrackedId:
    """Closes the id; what is stored about it stays, and so does its reference.

    Repeating it changes nothing; registering the id again opens it. An answer that is on its way is still stored.
    """
    who.admit(Role.OPERATE, asked.account)
    item = {"kind": asked.kind, "value": asked.value}
    event = who.event(Action.IDS_UNTRACKED, account=asked.account)
    with deps.engine.connect() as connection:
        check_account(connection, asked.account)
    [result] = retry_transaction(deps.engine, lambda c: untrack(c, deps.runtime, asked.account, [item], event))
    with deps.engine.connect() as connection:
        page = find_tracked(connection, account=asked.account, kind=result.key.id_kind, value=result.key.value)
    if not page.rows:
        raise ProblemError(HTTPStatus.NOT_FOUND, "There is no such tracked id: GET /v1/tracked lists the known ones.")
    return _view(page.rows[0], who)


@router.post(
    "/tracked/untrack",
    dependencies=[NEEDS_OPERATE],
    responses=documented(HTTPStatus.NOT_FOUND),
    summary="Stop polling many ids",
    description=f"Up to {MAX_IDS} ids and {TRACKED_CAP_BYTES // 2**20} MiB in one request, in the form of "
    "`POST /v1/tracked`, of which only `kind` and `value` count. Idempotent. What is stored about an id stays, and so "
    "does its reference; registering it again opens it.",
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": BODY_SCHEMA}}}},
)
async def untrack_many(request: Request, deps: Deps, who: Who) -> Untracked:
    """Closes ids; committed when the answer comes."""
    body = await read_body(request)
    return await run_in_threadpool(_untrack_body, deps, who, body)


def _untrack_body(deps: Dependencies, who: Caller, body: bytes) -> Untracked:
    given = envelope_of(body)
    who.admit(Role.OPERATE, given.account)
    with deps.engine.connect() as connection:
        stored = existing_account(connection, given.account)
    check = IdCheck(stored)
    event = who.event(Action.IDS_UNTRACKED, account=given.account)
    results: list[UntrackResult] = []
    good: list[tuple[int, Mapping[str, Any]]] = []
    for index, raw in enumerate(given.ids):
        fields, why = read_fields(raw)
        # Any value may be stored, in whatever form it once was; a kind that the provider does not have is a mistake.
        why = check.why_no_kind(fields["kind"]) if fields is not None else why
        if fields is None or why is not None:
            results.append(UntrackResult(index=index, result=REFUSED, problem=why))
        else:
            good.append((index, fields))
    for start in range(0, len(good), MAX_AT_ONCE):
        part = good[start : start + MAX_AT_ONCE]
        items = [fields for _, fields in part]
        run = partial(untrack, runtime=deps.runtime, account_id=given.account, items=items, event=event)
        done = retry_transaction(deps.engine, run)
        results += [
            UntrackResult(index=index, result=UNTRACKED if each.was_open else NOT_OPEN)
            for (index, _), each in zip(part, done, strict=True)
        ]
    results.sort(key=lambda each: each.index)
    return Untracked(untracked=sum(each.result == UNTRACKED for each in results), results=results)


def _view(row: RowMapping, who: Caller) -> TrackedId:
    seen = row if who.access.may(Role.OPERATE, row["account_id"]) else masked_row(row)
    same = {name: seen[name] for name in TrackedId.model_fields if name in seen}
    state: Literal["open", "closed"] = "open" if row["closed_at"] is None else "closed"
    return TrackedId(**same, account=row["account_id"], kind=row["id_kind"], state=state)
