"""How large a request may be, and reading bodies with a cap before anything is believed of them."""

import asyncio
import re
from http import HTTPStatus
from typing import Final

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ulak.api.auth import GUARDED
from ulak.api.problems import NO_ROOM, RETRY_AFTER_SECONDS, ProblemError, problem, problem_of
from ulak.core import clock
from ulak.core.content_coding import (
    SUPPORTED,
    ContentCodingError,
    ExpandedTooLargeError,
    UnsupportedCodingError,
    unpack,
)
from ulak.core.memory_budget import Budget
from ulak.models.account import StoredAccount
from ulak.models.rejections import Rejection
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.callbacks import reject
from ulak.tasks.steps.kept_bodies import MAX_BYTES

SMALL_CAP_BYTES = 1024 * 1024
TRACKED_CAP_BYTES = 32 * 1024 * 1024
"""A hundred thousand ids with every field."""
BODY_SECONDS: Final = 30.0
"""How long a request may keep us waiting for its body, all waits together."""
ALL_BODIES_BYTES: Final = 64 * 1024 * 1024
"""What the bodies of all requests in flight may hold together, those of the task API half of it."""

_REPORTS = "/v1/reports/"
_CAPS = (("/v1/tracked", TRACKED_CAP_BYTES), (_REPORTS, MAX_BYTES), ("/callbacks/", MAX_BYTES))


_CHARSET: Final = re.compile(r"(?i);\s*charset\s*=[^;]*")


def too_large(cap: int) -> ProblemError:
    """413, naming the cap."""
    return ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body is larger than {cap} bytes.")


def too_slow() -> ProblemError:
    """408."""
    detail = f"The body did not come within {BODY_SECONDS:g} seconds."
    return ProblemError(HTTPStatus.REQUEST_TIMEOUT, detail, headers={"Connection": "close"})


def too_many() -> ProblemError:
    """503: the bodies of other requests take all the room."""
    retry = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, NO_ROOM, headers=retry)


def cap_of(path: str) -> int:
    """How many bytes a request to this path may carry."""
    return next((cap for start, cap in _CAPS if path.startswith(start)), SMALL_CAP_BYTES)


class BodyCap:
    """Bounds what is received: of one request (413), of all requests together (503), and in time (408).

    The bytes received count, not Content-Length: a client that announces much and sends nothing occupies nothing.
    """

    def __init__(self, app: ASGIApp, *, room: Budget, seconds: float = BODY_SECONDS) -> None:
        """`app`: what answers. `room`: what all bodies may hold. `seconds`: how long we wait for one."""
        self._app = app
        self._room = room
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what is received."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        cap, leave = cap_of(scope["path"]), _to_leave(scope["path"], self._room)
        size, held, left, is_whole = 0, 0, self._seconds, False

        async def counted() -> Message:
            nonlocal size, held, left, is_whole
            if is_whole:
                return await receive()
            began = clock.boot()
            try:
                async with asyncio.timeout(left):
                    message = await receive()
            except TimeoutError:
                raise too_slow() from None
            left -= clock.boot() - began
            is_whole = not message.get("more_body", False)
            part = len(message.get("body", b""))
            size += part
            if size > cap:
                raise too_large(cap)
            if not self._room.take(part, leave=leave):
                raise too_many()
            held += part
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self._room.give(held)


def _to_leave(path: str, room: Budget) -> int:
    """A sender's bulk request leaves half of the room to the pushes of providers, which may not be repeated."""
    return room.total // 2 if path.startswith(f"{GUARDED}/") else 0


class JsonBodies:
    """Parses every body under `/v1` as JSON, regardless of Content-Type: nothing else is accepted there.

    `curl -d` calls JSON a form. A bearer token is not a cookie, so a foreign page cannot use it (no CSRF). A
    charset that is named there stays: a reply that is handed over may need it.
    """

    def __init__(self, app: ASGIApp) -> None:
        """`app`: what reads the bodies."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Name the body what it is."""
        if scope["type"] == "http" and scope["path"].startswith(f"{GUARDED}/"):
            headers = MutableHeaders(scope=scope)
            charset = _CHARSET.search(headers.get("Content-Type", ""))
            headers["Content-Type"] = "application/json" + (charset[0] if charset else "")
        await self._app(scope, receive, send)


class PackedBodies:
    """Unpacks bodies under `/v1` that declare a content coding, up to the size that their path may carry.

    Not those that submit a provider's reply: they are unpacked where they are stored, so that one that cannot be
    unpacked is kept.
    """

    def __init__(self, app: ASGIApp, *, room: Budget) -> None:
        """`app`: what reads the bodies. `room`: what all bodies may hold."""
        self._app = app
        self._room = room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Give the body on unpacked, or answer why it cannot be."""
        is_read_here = scope["type"] == "http" and scope["path"].startswith(f"{GUARDED}/")
        declared = coding_of(Headers(scope=scope)) if is_read_here and not scope["path"].startswith(_REPORTS) else None
        if declared is None:
            await self._app(scope, receive, send)
            return
        try:
            plain = unpack(await read_body(Request(scope, receive)), declared, cap_of(scope["path"]))
        except ContentCodingError as error:
            await not_unpacked(type(error), error.sentence("body"))(scope, receive, send)
            return
        except ProblemError as error:
            await problem_of(error)(scope, receive, send)
            return
        if not self._room.take(len(plain), leave=_to_leave(scope["path"], self._room)):
            await problem_of(too_many())(scope, receive, send)
            return
        del MutableHeaders(scope=scope)["content-encoding"]
        size = len(plain)
        whole: list[Message] = [{"type": "http.request", "body": plain, "more_body": False}]
        del plain

        async def given() -> Message:
            return whole.pop() if whole else await receive()

        try:
            await self._app(scope, given, send)
        finally:
            self._room.give(size)


def coding_of(headers: Headers) -> str | None:
    """All that `Content-Encoding` declares; None where there is no such header."""
    return ", ".join(headers.getlist("content-encoding")) or None


def not_unpacked(error: type[ContentCodingError], sentence: str) -> JSONResponse:
    """The answer to a body that cannot be unpacked: 415, 413 or 422."""
    if issubclass(error, UnsupportedCodingError):
        refusal = problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, sentence)
        refusal.headers["Accept-Encoding"] = SUPPORTED
        return refusal
    is_large = issubclass(error, ExpandedTooLargeError)
    return problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE if is_large else HTTPStatus.UNPROCESSABLE_ENTITY, sentence)


async def read_body(request: Request) -> bytes:
    """The whole body; 413 where it is larger than its path may carry."""
    return b"".join([part async for part in request.stream()])


async def read_counted(
    request: Request,
    runtime: Runtime,
    stored: StoredAccount | None,
    *,
    cap: int | None = None,
    room: Budget | None = None,
) -> bytes:
    """The whole body; one that is too large, or does not come whole or in time, is counted as rejected.

    `stored`: the account, None where there is none to count for. `cap`, `room`: smaller ones than those of every body,
    for what has yet to prove where it comes from.
    """
    parts: list[bytes] = []
    held = 0
    try:
        async for part in request.stream():
            if cap is not None and held + len(part) > cap:
                raise too_large(cap)
            if room is not None and not room.take(len(part)):
                raise too_many()
            held += len(part)
            parts.append(part)
        return b"".join(parts)
    except ProblemError as error:
        kind = _COUNTED_AS.get(error.status_code)
        if stored is not None and kind is not None:
            await run_in_threadpool(reject, runtime, stored, kind)
        raise
    except ClientDisconnect:
        if stored is not None:
            await run_in_threadpool(reject, runtime, stored, Rejection.BROKEN_OFF)
        raise
    finally:
        if room is not None:
            room.give(held)


_COUNTED_AS: Final = {
    int(HTTPStatus.REQUEST_ENTITY_TOO_LARGE): Rejection.TOO_LARGE,
    int(HTTPStatus.REQUEST_TIMEOUT): Rejection.BROKEN_OFF,
}


def headers_of(request: Request) -> dict[str, str]:
    """All headers by their lower-case names; what was given several times is joined by commas (RFC 9110, 5.3)."""
    return {name: ", ".join(request.headers.getlist(name)) for name in set(request.headers.keys())}
