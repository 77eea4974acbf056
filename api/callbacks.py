"""Providers' pushes."""

import re
from http import HTTPStatus

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from ulak.api.auth_throttle import address_of, slow_down
from ulak.api.body_limits import headers_of, not_unpacked, read_counted
from ulak.api.dependencies import Dependencies, Deps
from ulak.api.problems import documented, problem
from ulak.api.validation_messages import ACCOUNT_ID
from ulak.core import clock
from ulak.core.credentials import CredentialError
from ulak.core.logging import get_logger, origin
from ulak.core.memory_budget import Budget
from ulak.core.metrics import histogram
from ulak.models.database_errors import took_too_long
from ulak.models.rejections import Rejection
from ulak.providers.adapter import Callback
from ulak.providers.errors import ProviderError
from ulak.providers.phone_numbers import trimmed
from ulak.providers.registry import ADAPTERS
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.callbacks import (
    Admitted,
    BodyRefusedError,
    CallbackRefusedError,
    NoSuchCallbackError,
    WrongAddressError,
    admit,
    receive,
    turn_away,
)

log = get_logger(__name__)
router = APIRouter(tags=["callbacks"])
_SECONDS = histogram(
    "ulak_callback_seconds", "Storing one push of a provider, by what became of it.", ("provider", "outcome")
)


_ADDRESSES = ("/callbacks/{provider}/{account}", "/callbacks/{provider}/{account}/{tail:path}")
_BEFORE_THE_TAIL = 3
"""Segments: `callbacks`, the provider, the account. Both names are slugs in lower case."""
_OTHER_METHODS = ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"]
UNPROVEN_BYTES = 1024 * 1024
"""Of one body that has yet to prove where it comes from …"""
ALL_UNPROVEN_BYTES = 16 * 1024 * 1024
"""… and of all of them."""
_unproven = Budget(ALL_UNPROVEN_BYTES)
_ANSWERS = documented(
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


@router.post(_ADDRESSES[0], responses=_ANSWERS, summary="A provider's push")
@router.post(_ADDRESSES[1], responses=_ANSWERS, summary="A provider's push")
async def push(request: Request, deps: Deps, provider: str, account: str, tail: str = "") -> Response:
    """200 only after the commit; 5xx when not stored, so that a provider that repeats loses nothing.

    Nothing of the body is read before the head has shown that it may come here.
    """
    if not re.fullmatch(ACCOUNT_ID, account):
        return _no_such()
    started = clock.boot()
    head = Callback(
        tail=tail,
        body=b"",
        headers=headers_of(request),
        client_ip=request.client.host if request.client else None,
    )
    answer, outcome = await _answer(request, deps, provider, account, head)
    # The path is whatever a stranger wrote: only names that we know become labels.
    _SECONDS.labels(provider if provider in ADAPTERS else "none", outcome).observe(clock.boot() - started)
    return answer


async def _answer(
    request: Request, deps: Dependencies, provider: str, account: str, head: Callback
) -> tuple[Response, str]:
    """What a push is answered, and one word for it. The tail is never logged: it may be a secret."""
    try:
        admitted = await run_in_threadpool(admit, deps.runtime, provider, account, head)
        body = await _body(request, deps.runtime, admitted)
        received = await run_in_threadpool(receive, deps.runtime, admitted, body)
    except (NoSuchCallbackError, CallbackRefusedError) as error:
        return _refusal(error, deps, request.scope)
    except BodyRefusedError as error:
        log.warning("callback.not_unpacked", account=account, why=error.sentence)
        return not_unpacked(type(error.fault), error.sentence), "wrong"
    except (SQLAlchemyError, CredentialError) as error:
        return _not_stored(error, account)
    except ProviderError as error:
        log.warning("callback.wrong", account=account, why=error.message)
        return problem(HTTPStatus.BAD_REQUEST, error.message), "wrong"
    return JSONResponse({"status": "stored"}), "unreadable" if received.is_unreadable else "stored"


def _refusal(
    error: NoSuchCallbackError | CallbackRefusedError, deps: Dependencies, scope: Scope
) -> tuple[Response, str]:
    """404 or 401; 429 where the address has sent too many wrong secrets."""
    outcome = "no_such" if isinstance(error, NoSuchCallbackError) else "refused"
    is_guess = isinstance(error, WrongAddressError | CallbackRefusedError)
    if is_guess and deps.failed.note(address_of(scope)):
        return slow_down(), outcome
    if isinstance(error, NoSuchCallbackError):
        return _no_such(), outcome
    refusal = problem(HTTPStatus.UNAUTHORIZED, "The credentials of this callback are wrong or missing.")
    refusal.headers["WWW-Authenticate"] = 'Basic realm="ulak"'
    return refusal, outcome


def _not_stored(error: SQLAlchemyError | CredentialError, account: str) -> tuple[Response, str]:
    """503: the push is worth another try."""
    is_slow = took_too_long(error)
    log.warning("callback.not_stored", account=account, error=origin(error), too_slow=is_slow)
    detail = "The database took too long to store" if is_slow else "Ulak could not store"
    refusal = problem(HTTPStatus.SERVICE_UNAVAILABLE, f"{detail} the report; send it again.")
    return refusal, "too_slow" if is_slow else "not_stored"


def _no_such() -> Response:
    return problem(HTTPStatus.NOT_FOUND, "There is no such callback.")


async def _body(request: Request, runtime: Runtime, admitted: Admitted) -> bytes:
    if admitted.is_proven:
        return await read_counted(request, runtime, admitted.stored)
    return await read_counted(request, runtime, admitted.stored, cap=UNPROVEN_BYTES, room=_unproven)


@router.api_route(_ADDRESSES[0], methods=_OTHER_METHODS, include_in_schema=False)
@router.api_route(_ADDRESSES[1], methods=_OTHER_METHODS, include_in_schema=False)
async def refuse_method(deps: Deps, account: str) -> Response:
    """405: a provider's panel may try the address in this way, or be set to it."""
    if re.fullmatch(ACCOUNT_ID, account):
        await run_in_threadpool(turn_away, deps.runtime, account, Rejection.WRONG_METHOD)
    raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": "POST"})


class CallbackPaths:
    """Reads a callback's address as the person meant it who typed it into a provider's panel.

    Empty segments, blanks and invisible marks around a segment, and the case of all but the tail do not count.
    """

    def __init__(self, app: ASGIApp) -> None:
        """`app`: what answers."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Rewrite `//Callbacks/bip//ID /` to `/callbacks/bip/id`, and no other address."""
        if scope["type"] == "http":
            parts = [part for part in map(trimmed, scope["path"].split("/")) if part]
            named = [part.lower() for part in parts[:_BEFORE_THE_TAIL]]
            if named[:1] == ["callbacks"]:
                scope = {**scope, "path": "/" + "/".join([*named, *parts[_BEFORE_THE_TAIL:]])}
        await self._app(scope, receive, send)
