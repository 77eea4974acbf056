"""Cursors as they travel: opaque text that holds a place and what was asked for."""

import base64
import binascii
from collections.abc import Sequence
from hashlib import sha256
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec

from ulak.api.problems import ProblemError

_Place = TypeVar("_Place")

MAX_ID = 2**63 - 1


def encode(place: Sequence[Any]) -> str:
    """The cursor of a place."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def decode(cursor: str, kind: type[_Place]) -> _Place:
    """The place; 400 for whatever did not come from `encode`."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(raw, type=kind)
    except (binascii.Error, ValueError, msgspec.MsgspecError, RecursionError):
        raise wrong_cursor() from None


def wrong_cursor() -> ProblemError:
    """400 for a cursor that is none."""
    return ProblemError(HTTPStatus.BAD_REQUEST, "This is no cursor: send the one of the last answer as it was.")


def encode_page(last_id: int, asked: Sequence[Any]) -> str:
    """The cursor of the page after the row `last_id`, for this question only."""
    return encode((last_id, _mark(asked)))


def decode_page(cursor: str | None, asked: Sequence[Any]) -> int | None:
    """The id to go on from; None at the beginning. 400 where the question is another one."""
    if cursor is None:
        return None
    last_id, mark = decode(cursor, tuple[int, str])
    if not 0 < last_id <= MAX_ID:
        raise wrong_cursor()
    if mark != _mark(asked):
        raise ProblemError(
            HTTPStatus.BAD_REQUEST, "This cursor is of another search: keep the filters from page to page."
        )
    return last_id


def _mark(asked: Sequence[Any]) -> str:
    """A digest of the query, so that a cursor reveals no number."""
    return sha256(msgspec.json.encode(asked)).hexdigest()[:12]
