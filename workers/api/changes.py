"""The feed of changes over HTTP."""

import asyncio
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from core import clock
from core.logging import get_logger
from models.changes import Change, ChangeCursor, CursorGoneError, FeedMovedError, read_changes, renew_feed
from models.database import transaction
from workers.api.cursors import LARGEST, decode, encode, wrong_cursor
from workers.api.deliveries import Delivery
from workers.api.fields import Cursor, Given, Limit
from workers.api.means import Have, Means
from workers.api.problems import ProblemError, documented

log = get_logger(__name__)
router = APIRouter(tags=["changes"])

LONGEST_WAIT_SECONDS = 30
LOOK_SECONDS = 0.5
"""How often a reader that waits is looked after: two index look-ups."""


class Entry(BaseModel):
    """One change: put the row, or erase it."""

    op: Literal["put", "erase"]
    id: Annotated[int, Field(description="The delivery's id: put and erase by it.")]
    version: Annotated[int, Field(description="Greater for every later change of the same row.")]
    delivery: Annotated[Delivery | None, Field(description="With put: the row as it stands now.")]


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
        Field(
            ge=0, le=LONGEST_WAIT_SECONDS, allow_inf_nan=False, description="Wait up to so many seconds for a change."
        ),
    ] = 0


@router.get(
    "/changes",
    responses=documented(HTTPStatus.GONE),
    summary="The feed of changes",
)
async def feed(asked: Annotated[FeedSearch, Query()], means: Have, request: Request) -> Feed:
    """Every change of the shared table, in order, exactly once by cursor; without a cursor from the beginning.

    A row that changed several times comes once, as it stands now. 410: begin again without a cursor, and drop what you
    hold.
    """
    after = None if asked.cursor is None else parse_cursor(asked.cursor)
    until = clock.boot() + asked.wait
    while True:
        changes, cursor = await run_in_threadpool(_read, means, after, asked.limit)
        left = until - clock.boot()
        if changes or left <= 0 or await request.is_disconnected():
            break
        # A waiter holds neither a thread nor a connection.
        await asyncio.sleep(min(LOOK_SECONDS, left))
        after = cursor
    return Feed(changes=[_entry(each) for each in changes], cursor=text_of(cursor), more=len(changes) == asked.limit)


def text_of(cursor: ChangeCursor) -> str:
    """The cursor as it travels."""
    return encode((cursor.feed, cursor.began, cursor.changed_in, cursor.id))


def parse_cursor(text: str) -> ChangeCursor:
    """The cursor that `text_of` made; 400 for anything else."""
    feed_id, began, changed_in, last_id = decode(text, tuple[UUID, datetime, int, int])
    if not (0 <= changed_in <= LARGEST and 0 <= last_id <= LARGEST) or began.tzinfo is None:
        raise wrong_cursor()
    return ChangeCursor(feed=feed_id, began=began, changed_in=changed_in, id=last_id)


def _read(means: Means, after: ChangeCursor | None, limit: int) -> tuple[list[Change], ChangeCursor]:
    try:
        with means.engine.connect() as connection:
            found, cursor = read_changes(connection, after, limit=limit)
            return list(found), cursor
    except CursorGoneError as error:
        raise ProblemError(HTTPStatus.GONE, str(error)) from error
    except FeedMovedError:
        with transaction(means.engine) as connection:
            renewed = renew_feed(connection)
        log.warning("feed.renewed", renewed=renewed)
        return _read(means, after, limit)


def _entry(change: Change) -> Entry:
    if change.delivery is None:
        return Entry(op="erase", id=change.id, version=change.changed_in, delivery=None)
    return Entry(op="put", id=change.id, version=change.changed_in, delivery=Delivery(**change.delivery))
