"""The feed of changes over HTTP."""

import asyncio
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from ulak.api.authorization import NEEDS_READ, Caller, Who
from ulak.api.cursors import MAX_ID, decode, encode, wrong_cursor
from ulak.api.deliveries import Delivery, note_reading, shown
from ulak.api.dependencies import Dependencies, Deps
from ulak.api.fields import Cursor, Given, Limit
from ulak.api.problems import ProblemError, documented
from ulak.core import clock
from ulak.core.logging import get_logger
from ulak.models.access import Role
from ulak.models.changes import Change, ChangeCursor, CursorGoneError, FeedMovedError, read_changes, renew_feed
from ulak.models.database import transaction
from ulak.workers.audit_recording import Row

log = get_logger(__name__)
router = APIRouter(tags=["changes"])

MAX_WAIT_SECONDS = 30
LOOK_SECONDS = 0.5
"""How often a reader that waits is looked after: two index look-ups."""


class Removed(BaseModel):
    """The deliveries of an account that were sent before a moment."""

    account: str
    before: Annotated[
        datetime,
        Field(description="Of `message_time`; where your copy has none, of `first_seen_at`."),
    ]


class Entry(BaseModel):
    """One change: put the row, erase it, or remove all rows of a range."""

    op: Literal["put", "erase", "remove"]
    id: Annotated[int, Field(description="The delivery's id: put and erase by it. 0 with remove.")]
    version: Annotated[int, Field(description="Greater for every later change of the same row.")]
    delivery: Annotated[Delivery | None, Field(description="With put: the current row.")]
    removed: Annotated[
        Removed | None, Field(description="With remove: what was kept long enough and is no more (`keep_days`).")
    ] = None


class Feed(BaseModel):
    """The next changes."""

    changes: list[Entry]
    cursor: Annotated[str, Field(description="Keep it with what you stored, and go on from it.")]
    more: Annotated[bool, Field(description="The answer was full: ask again at once.")]


class FeedSearch(Given):
    """From where."""

    cursor: Cursor | None = None
    limit: Limit = 100
    wait: Annotated[
        float,
        Field(ge=0, le=MAX_WAIT_SECONDS, allow_inf_nan=False, description="Wait up to so many seconds for a change."),
    ] = 0


@router.get(
    "/changes",
    dependencies=[NEEDS_READ],
    responses=documented(HTTPStatus.GONE),
    summary="The feed of changes",
)
async def feed(asked: Annotated[FeedSearch, Query()], deps: Deps, who: Who, request: Request) -> Feed:
    """Every change of the shared table, in order, exactly once by cursor; without a cursor from the beginning.

    A row that changed several times appears once, as it is now. 410: start again without a cursor, and drop your
    copy. A token that is limited to accounts gets their rows and removals, and all erasures, which name no person.
    Numbers are masked below the role operate.
    """
    after = None if asked.cursor is None else parse_cursor(asked.cursor)
    until = clock.boot() + asked.wait
    while True:
        entries, cursor, more = await run_in_threadpool(_entries, deps, who, after, asked.limit)
        left = until - clock.boot()
        if entries or more or left <= 0 or await request.is_disconnected():
            break
        # A waiter holds neither a thread nor a connection.
        await asyncio.sleep(min(LOOK_SECONDS, left))
        after = cursor
    return Feed(changes=entries, cursor=text_of(cursor), more=more)


def text_of(cursor: ChangeCursor) -> str:
    """The cursor as it travels."""
    return encode((cursor.feed, cursor.began, cursor.changed_in, cursor.id))


def parse_cursor(text: str) -> ChangeCursor:
    """The cursor that `text_of` made; 400 for anything else."""
    feed_id, began, changed_in, last_id = decode(text, tuple[UUID, datetime, int, int])
    if not (0 <= changed_in <= MAX_ID and 0 <= last_id <= MAX_ID) or began.tzinfo is None:
        raise wrong_cursor()
    return ChangeCursor(feed=feed_id, began=began, changed_in=changed_in, id=last_id)


def _read(deps: Dependencies, after: ChangeCursor | None, limit: int) -> tuple[list[Change], ChangeCursor]:
    try:
        with deps.engine.connect() as connection:
            found, cursor = read_changes(connection, after, limit=limit)
            return list(found), cursor
    except CursorGoneError as error:
        raise ProblemError(HTTPStatus.GONE, str(error)) from error
    except FeedMovedError:
        with transaction(deps.engine) as connection:
            renewed = renew_feed(connection)
        log.warning("feed.renewed", renewed=renewed)
        return _read(deps, after, limit)


def _entries(
    deps: Dependencies, who: Caller, after: ChangeCursor | None, limit: int
) -> tuple[list[Entry], ChangeCursor, bool]:
    """What this caller may know of the next changes, the cursor behind them, and whether there are more."""
    changes, cursor = _read(deps, after, limit)
    rows: list[Row] = [each.delivery for each in changes if each.delivery is not None]
    note_reading(deps, who, rows)
    entries = [_entry(each, who) for each in changes if _may_know(each, who)]
    return entries, cursor, len(changes) == limit


def _may_know(change: Change, who: Caller) -> bool:
    if change.removed is not None:
        return who.access.may(Role.READ, change.removed.account_id)
    return change.delivery is None or who.access.may(Role.READ, change.delivery["account_id"])


def _entry(change: Change, who: Caller) -> Entry:
    if change.removed is not None:
        removed = Removed(account=change.removed.account_id, before=change.removed.before)
        return Entry(op="remove", id=change.id, version=change.changed_in, delivery=None, removed=removed)
    if change.delivery is None:
        return Entry(op="erase", id=change.id, version=change.changed_in, delivery=None)
    return Entry(op="put", id=change.id, version=change.changed_in, delivery=shown(change.delivery, who))
