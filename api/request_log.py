"""What happens to every request: an id, one line in the log, and an answer even where we have a bug."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from ulak.api.auth import GUARDED
from ulak.api.problems import problem
from ulak.core import clock
from ulak.core.logging import get_logger, origin
from ulak.core.redaction import redact_text

log = get_logger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{7,63}")
DEFAULTS: Mapping[str, str] = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""For every response without a header of its own: most contain phone numbers."""
HTTPS_ONLY: Mapping[str, str] = {"Strict-Transport-Security": "max-age=31536000"}

_QUIET = ("/healthz", "/readyz", "/metrics")


class RequestLog:
    """The outermost layer. Logs a route's template, never its path or query: those hold ids and numbers."""

    def __init__(self, app: ASGIApp, *, is_https: bool = False) -> None:
        """`app`: what answers. `is_https`: whether browsers reach it over https only."""
        self._app = app
        self._defaults = {**DEFAULTS, **(HTTPS_ONLY if is_https else {})}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(Headers(scope=scope).get("x-request-id"))
        status = 0

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                for name, value in self._defaults.items():
                    headers.setdefault(name, value)
            await send(message)

        with bound_contextvars(request_id=request_id):
            started = clock.boot()
            try:
                await self._app(scope, receive, named)
            except ClientDisconnect:
                log.info("api.client_gone", route=_route(scope))
                return
            except Exception as error:
                # The text of an exception may quote a body.
                log.error("api.failed", route=_route(scope), error=origin(error))
                if status:
                    raise
                detail = "This is a bug in Ulak; the log has details under this request id."
                answer = problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail, request_id=request_id)
                await answer(scope, receive, named)
            _log_request(scope, status, clock.boot() - started)


def request_id_of(given: str | None) -> str:
    """The caller's id where it is well-formed and could not be a number or a secret; else a new one."""
    if given is not None and _REQUEST_ID.fullmatch(given) and redact_text(given) == given:
        return given
    return uuid4().hex


def _route(scope: Scope) -> str:
    """The template of the route that was taken; `none` where there was none."""
    path: str = getattr(scope.get("route"), "path", "none")
    # A route of an included router does not know its prefix.
    is_inner = scope["path"].startswith(f"{GUARDED}/") and path.startswith("/") and not path.startswith(f"{GUARDED}/")
    return GUARDED + path if is_inner else path


def _log_request(scope: Scope, status: int, seconds: float) -> None:
    """One line for a request."""
    fields: dict[str, Any] = {"method": scope["method"], "route": _route(scope), "status": status}
    say = log.debug if scope["path"] in _QUIET else log.info
    say("api.answered", **fields, caller=scope.get("state", {}).get("caller"), seconds=round(seconds, 4))
