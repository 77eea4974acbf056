"""How large a request may be, and reading bodies with a cap before anything is believed of them."""

import re
from http import HTTPStatus
from typing import Final

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.content_coding import SUPPORTED, ContentCodingError, ExpandedTooLargeError, UnsupportedCodingError, unpack
from models.rejections import Rejection
from tasks.runtime import Runtime
from tasks.steps.bodies import LARGEST_BYTES
from tasks.steps.callbacks import turn_away
from workers.api.auth import GUARDED
from workers.api.problems import ProblemError, problem

SMALL_CAP_BYTES = 1024 * 1024
TRACKED_CAP_BYTES = 32 * 1024 * 1024
"""A hundred thousand ids with everything that can be said of each."""

_REPORTS = "/v1/reports/"
_CAPS = (("/v1/tracked", TRACKED_CAP_BYTES), (_REPORTS, LARGEST_BYTES), ("/callbacks/", LARGEST_BYTES))


_CHARSET: Final = re.compile(r"(?i);\s*charset\s*=[^;]*")


def too_large(cap: int) -> ProblemError:
    """413 that says what the cap is."""
    return ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body is larger than {cap} bytes.")


def cap_of(path: str) -> int:
    """How many bytes a request to this path may carry."""
    return next((cap for start, cap in _CAPS if path.startswith(start)), SMALL_CAP_BYTES)


class BodyCap:
    """Ends a request with 413 as soon as more bytes have come than its path may carry, whatever Content-Length says."""

    def __init__(self, app: ASGIApp) -> None:
        """`app`: what answers requests that are not too large."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what is received."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        cap, size = cap_of(scope["path"]), 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > cap:
                raise too_large(cap)
            return message

        await self._app(scope, counted, send)


class JsonBodies:
    """Lets every body under `/v1` be read as JSON, whatever Content-Type says: nothing else is taken there.

    `curl -d` calls JSON a form. A bearer token is no cookie, so that no page of somebody else can make use of it. A
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

    Not those that hand over what a provider said: they are unpacked where they are stored, so that one that cannot be
    unpacked is kept.
    """

    def __init__(self, app: ASGIApp) -> None:
        """`app`: what reads the bodies."""
        self._app = app

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
            await problem(HTTPStatus(error.status_code), str(error.detail))(scope, receive, send)
            return
        del MutableHeaders(scope=scope)["content-encoding"]
        whole: list[Message] = [{"type": "http.request", "body": plain, "more_body": False}]

        async def given() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, given, send)


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


async def read_counted(request: Request, runtime: Runtime, account: str) -> bytes:
    """The whole body; one that is too large, or that ends too early, is counted as rejected for the account."""
    try:
        return await read_body(request)
    except ProblemError:
        await run_in_threadpool(turn_away, runtime, account, Rejection.TOO_LARGE)
        raise
    except ClientDisconnect:
        await run_in_threadpool(turn_away, runtime, account, Rejection.BROKEN_OFF)
        raise


def headers_of(request: Request) -> dict[str, str]:
    """All headers by their lower-case names; what was given several times is joined by commas (RFC 9110, 5.3)."""
    return {name: ", ".join(request.headers.getlist(name)) for name in set(request.headers.keys())}
