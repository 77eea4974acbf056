"""Who may use the task API: bearers of the configured token or of a named, unrevoked one."""

import hmac
import re
from http import HTTPStatus

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ulak.api.auth_throttle import address_of, slow_down
from ulak.api.authorization import Caller
from ulak.api.dependencies import Dependencies
from ulak.api.problems import database_problem, problem
from ulak.models.access import EVERYTHING
from ulak.models.events import Actor, Kind
from ulak.models.tokens import PREFIX, Bearer, bearer_of, digest

GUARDED = "/v1"
CONFIGURED = Caller(actor=Actor(kind=Kind.CONFIGURED, name=Kind.CONFIGURED.value), access=EVERYTHING)
"""The bearer of `ULAK_API_TOKEN`."""
_OURS = re.compile(re.escape(PREFIX) + r"[A-Za-z0-9_-]{43}")


class BearerGuard:
    """Stands before the routes, so that nothing of a stranger's request is read and no new route can be forgotten."""

    def __init__(self, app: ASGIApp, deps: Dependencies) -> None:
        """`app`: what answers those who may ask."""
        self._app = app
        self._dependencies = deps
        self._configured = None if deps.token is None else digest(deps.token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or refuse it."""
        guarded = scope["type"] == "http" and (scope["path"] + "/").startswith(GUARDED + "/")
        refusal = await self._refusal(scope) if guarded else None
        await (self._app if refusal is None else refusal)(scope, receive, send)

    async def _refusal(self, scope: Scope) -> Response | None:
        """None where the caller is known; the request's state then names it."""
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        token = token.strip()
        try:
            caller = await self._caller(token) if scheme.lower() == "bearer" and token else None
        except SQLAlchemyError as error:
            if (answer := database_problem(error)) is None:
                raise
            return answer
        if caller is not None:
            scope.setdefault("state", {}).update(who=caller, caller=caller.actor.caller)
            return None
        if token and self._dependencies.failed.note(address_of(scope)):
            return slow_down()
        refusal = problem(HTTPStatus.UNAUTHORIZED, "A valid token is missing: send Authorization: Bearer <token>.")
        refusal.headers["WWW-Authenticate"] = 'Bearer realm="ulak"'
        return refusal

    async def _caller(self, token: str) -> Caller | None:
        """The bearer. What cannot be a token of ours costs no look-up."""
        if self._configured is not None and hmac.compare_digest(digest(token), self._configured):
            return CONFIGURED
        return await run_in_threadpool(self._holder, token) if _OURS.fullmatch(token) else None

    def _holder(self, token: str) -> Caller | None:
        bearer = bearer_of(self._dependencies.engine, token)
        return None if bearer is None else bearer_caller(bearer)


def bearer_caller(bearer: Bearer) -> Caller:
    """The bearer of a named token."""
    return Caller(actor=Actor(kind=Kind.TOKEN, name=bearer.name), access=bearer.access)
