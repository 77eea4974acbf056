"""How large a request may be, and reading bodies with a cap before anything is believed of them."""

import re
from http import HTTPStatus
from typing import Final

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers.api.auth import GUARDED
from workers.api.problems import ProblemError

BODY_CAP_BYTES = 8 * 1024 * 1024
"""A BiP report of tens of thousands of receivers fits in; a flood does not."""
SMALL_CAP_BYTES = 1024 * 1024
TRACKED_CAP_BYTES = 32 * 1024 * 1024
"""A hundred thousand ids with everything that can be said of each."""

_CAPS = (("/v1/tracked", TRACKED_CAP_BYTES), ("/v1/reports/", BODY_CAP_BYTES), ("/callbacks/", BODY_CAP_BYTES))


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


async def read_body(request: Request) -> bytes:
    """The whole body; 413 where it is larger than its path may carry."""
    return b"".join([part async for part in request.stream()])
