"""Providers' pushes."""

from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from core import clock
from core.logging import get_logger, origin
from core.metrics import histogram
from core.settings import CredentialError
from models.availability import took_too_long
from providers.adapter import Callback
from providers.errors import ProviderError
from providers.registry import ADAPTERS
from tasks.runtime import Runtime
from tasks.steps.callbacks import CallbackRefusedError, NoSuchCallbackError, receive
from workers.api.bodies import read_body
from workers.api.means import Have
from workers.api.problems import problem

log = get_logger(__name__)
router = APIRouter(tags=["callbacks"])
_SECONDS = histogram(
    "ulak_callback_seconds", "Storing one push of a provider, by what became of it.", ("provider", "outcome")
)


@router.post("/callbacks/{provider}/{account}", summary="A provider's push")
@router.post("/callbacks/{provider}/{account}/{tail:path}", summary="A provider's push")
async def push(request: Request, means: Have, provider: str, account: str, tail: str = "") -> Response:
    """200 only after the commit; 5xx when not stored, so that a provider that repeats loses nothing."""
    pushed = Callback(
        tail=tail,
        body=await read_body(request),
        headers={name.lower(): value for name, value in request.headers.items()},
        client_ip=request.client.host if request.client else None,
    )
    return await run_in_threadpool(_store, means.runtime, provider, account, pushed)


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
