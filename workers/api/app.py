"""The HTTP process: providers' callbacks and the probes of whatever runs us."""

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from core.logging import get_logger
from core.settings import CredentialError
from providers.adapter import Callback
from providers.errors import ProviderError
from tasks.runtime import Runtime
from tasks.steps.callbacks import CallbackRefusedError, NoSuchCallbackError, receive
from workers.api.bodies import BodyTooLargeError, read_body

log = get_logger(__name__)

PROBLEM = "application/problem+json"


def make_api(runtime: Runtime) -> FastAPI:
    """The application over this runtime. Interactive documents wait for the task API."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> Any:
        yield
        runtime.engine.dispose()

    api = FastAPI(title="Ulak", lifespan=lifespan)
    api.add_exception_handler(HTTPException, _problem)
    api.add_api_route("/healthz", _healthz, methods=["GET"], summary="The process answers")
    api.add_api_route("/readyz", _readyz(runtime), methods=["GET"], summary="The database answers too")
    callback = _callback(runtime)
    for path in ("/callbacks/{provider}/{account}", "/callbacks/{provider}/{account}/{tail:path}"):
        api.add_api_route(path, callback, methods=["POST"], summary="A provider's push")
    return api


async def _healthz() -> dict[str, str]:
    return {"status": "ok"}


def _readyz(runtime: Runtime) -> Callable[[], Awaitable[Response]]:
    async def readyz() -> Response:
        try:
            await run_in_threadpool(_ask_database, runtime)
        except SQLAlchemyError as error:
            log.warning("api.not_ready", error=type(error).__name__)
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, "The database does not answer.")
        return JSONResponse({"status": "ready"})

    return readyz


def _ask_database(runtime: Runtime) -> None:
    with runtime.engine.connect() as connection:
        connection.execute(text("SELECT 1"))


def _callback(runtime: Runtime) -> Callable[..., Awaitable[Response]]:
    async def callback(request: Request, provider: str, account: str, tail: str = "") -> Response:
        """200 only after the commit; 5xx when not stored, so that a provider that repeats loses nothing."""
        try:
            body = await read_body(request)
        except BodyTooLargeError as error:
            return problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error))
        pushed = Callback(
            tail=tail,
            body=body,
            headers={name.lower(): value for name, value in request.headers.items()},
            client_ip=request.client.host if request.client else None,
        )
        return await run_in_threadpool(_store, runtime, provider, account, pushed)

    return callback


def _store(runtime: Runtime, provider: str, account: str, pushed: Callback) -> Response:
    """Store a push and answer for it."""
    try:
        receive(runtime, provider, account, pushed)
    except NoSuchCallbackError:
        return problem(HTTPStatus.NOT_FOUND, "There is no such callback.")
    except CallbackRefusedError:
        log.warning("callback.refused", account=account, tail=pushed.tail)
        refusal = problem(HTTPStatus.UNAUTHORIZED, "The credentials of this callback are wrong or missing.")
        refusal.headers["WWW-Authenticate"] = 'Basic realm="ulak"'
        return refusal
    except (SQLAlchemyError, CredentialError) as error:
        log.warning("callback.not_stored", account=account, tail=pushed.tail, error=type(error).__name__)
        return problem(HTTPStatus.SERVICE_UNAVAILABLE, "The report could not be stored now; send it again.")
    except ProviderError as error:
        log.warning("callback.wrong", account=account, tail=pushed.tail, why=error.message)
        return problem(HTTPStatus.BAD_REQUEST, error.message)
    return JSONResponse({"status": "stored"})


async def _problem(_: Request, error: Exception) -> Response:
    """Errors of the framework in the form of all our errors."""
    status = error.status_code if isinstance(error, HTTPException) else HTTPStatus.INTERNAL_SERVER_ERROR
    return problem(HTTPStatus(status), HTTPStatus(status).description)


def problem(status: HTTPStatus, detail: str) -> JSONResponse:
    """An error as RFC 9457 has it."""
    body = {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": detail}
    return JSONResponse(body, status_code=status, media_type=PROBLEM)
