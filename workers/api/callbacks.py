"""Providers' pushes."""

from http import HTTPStatus

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from core import clock
from core.logging import get_logger, origin
from core.metrics import histogram
from core.settings import CredentialError
from models.availability import took_too_long
from models.rejections import Rejection
from providers.adapter import Callback
from providers.errors import ProviderError
from providers.numbers import trimmed
from providers.registry import ADAPTERS
from tasks.runtime import Runtime
from tasks.steps.callbacks import BodyRefusedError, CallbackRefusedError, NoSuchCallbackError, receive, turn_away
from workers.api.bodies import headers_of, not_unpacked, read_counted
from workers.api.means import Have
from workers.api.problems import problem

log = get_logger(__name__)
router = APIRouter(tags=["callbacks"])
_SECONDS = histogram(
    "ulak_callback_seconds", "Storing one push of a provider, by what became of it.", ("provider", "outcome")
)


_ADDRESSES = ("/callbacks/{provider}/{account}", "/callbacks/{provider}/{account}/{tail:path}")
_BEFORE_THE_TAIL = 3
"""Segments: `callbacks`, the provider, the account. Both names are slugs in lower case."""
_OTHER_METHODS = ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"]


@router.post(_ADDRESSES[0], summary="A provider's push")
@router.post(_ADDRESSES[1], summary="A provider's push")
async def push(request: Request, means: Have, provider: str, account: str, tail: str = "") -> Response:
    """200 only after the commit; 5xx when not stored, so that a provider that repeats loses nothing."""
    pushed = Callback(
        tail=tail,
        body=await read_counted(request, means.runtime, account),
        headers=headers_of(request),
        client_ip=request.client.host if request.client else None,
    )
    return await run_in_threadpool(_store, means.runtime, provider, account, pushed)


@router.api_route(_ADDRESSES[0], methods=_OTHER_METHODS, include_in_schema=False)
@router.api_route(_ADDRESSES[1], methods=_OTHER_METHODS, include_in_schema=False)
async def refuse_method(means: Have, account: str) -> Response:
    """405: a provider's panel may try the address in this way, or be set to it."""
    await run_in_threadpool(turn_away, means.runtime, account, Rejection.WRONG_METHOD)
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


def _store(runtime: Runtime, provider: str, account: str, pushed: Callback) -> Response:
    """Store a push, answer for it, and measure both."""
    started = clock.boot()
    answer, outcome = _answer(runtime, provider, account, pushed)
    # The path is whatever a stranger wrote: only names that we know become labels.
    _SECONDS.labels(provider if provider in ADAPTERS else "none", outcome).observe(clock.boot() - started)
    return answer


def _answer(runtime: Runtime, provider: str, account: str, pushed: Callback) -> tuple[Response, str]:
    """What a push is answered, and one word for it. The tail is never logged: it may be a secret."""
    try:
        receive(runtime, provider, account, pushed)
    except NoSuchCallbackError:
        return problem(HTTPStatus.NOT_FOUND, "There is no such callback."), "no_such"
    except CallbackRefusedError:
        log.warning("callback.refused", account=account)
        refusal = problem(HTTPStatus.UNAUTHORIZED, "The credentials of this callback are wrong or missing.")
        refusal.headers["WWW-Authenticate"] = 'Basic realm="ulak"'
        return refusal, "refused"
    except BodyRefusedError as error:
        log.warning("callback.not_unpacked", account=account, why=error.sentence)
        return not_unpacked(type(error.fault), error.sentence), "wrong"
    except (SQLAlchemyError, CredentialError) as error:
        is_slow = took_too_long(error)
        log.warning("callback.not_stored", account=account, error=origin(error), too_slow=is_slow)
        detail = "The database took too long to store" if is_slow else "Ulak could not store"
        refusal = problem(HTTPStatus.SERVICE_UNAVAILABLE, f"{detail} the report; send it again.")
        return refusal, "too_slow" if is_slow else "not_stored"
    except ProviderError as error:
        log.warning("callback.wrong", account=account, why=error.message)
        return problem(HTTPStatus.BAD_REQUEST, error.message), "wrong"
    return JSONResponse({"status": "stored"}), "stored"
