"""Every error as `application/problem+json` (RFC 9457), with nothing in it that a caller may not read."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from ulak.api.validation_messages import known_names, mistake_of
from ulak.core.credentials import CredentialError
from ulak.core.logging import get_logger, origin
from ulak.models.account import StoredAccount, find
from ulak.models.database_errors import is_unavailable, took_too_long
from ulak.tasks.steps.callbacks import NoRoomError

log = get_logger(__name__)

PROBLEM = "application/problem+json"
RETRY_AFTER_SECONDS = 2
NO_ROOM = "Too many large bodies are being received at the moment: nothing was done, send it again."
MAX_MISTAKES = 20

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong, and the expected form."},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "description": "With 422: each field that is wrong.",
            "items": {
                "type": "object",
                "required": ["field", "problem"],
                "properties": {"field": {"type": "string"}, "problem": {"type": "string"}},
            },
        },
    },
}
"""The body of every error, for the OpenAPI document."""


class ProblemError(HTTPException):
    """Ends a request with this status and sentence; `mistakes` are (field, what is wrong with it)."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        mistakes: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`detail` and `mistakes` repeat no submitted value."""
        super().__init__(status, detail, headers=headers)
        self.mistakes = tuple(mistakes)


def wrong_fields(mistakes: Sequence[tuple[str, str]]) -> ProblemError:
    """422 that names each field. What is wrong with it goes after its name: `is empty: give at least one id`."""
    named = "; ".join(f"{field} {what}" for field, what in mistakes[:3])
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, f"The request is wrong: {named}.", mistakes)


def unknown_account() -> ProblemError:
    """404: there is no such account, or the caller may not know of it."""
    return ProblemError(HTTPStatus.NOT_FOUND, "There is no such account: /v1/accounts lists the known ones.")


def existing_account(connection: Connection, account: str) -> StoredAccount:
    """The account; 404 where there is no such account."""
    stored = find(connection, account)
    if stored is None:
        raise unknown_account()
    return stored


def check_account(connection: Connection, account: str | None) -> None:
    """404 where a search is narrowed to an account that is not there: an empty answer would say that it has nothing."""
    if account is not None:
        existing_account(connection, account)


def problem(status: HTTPStatus, detail: str, **more: Any) -> JSONResponse:
    """An error as RFC 9457 has it."""
    body = {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": detail, **more}
    return JSONResponse(body, status_code=status, media_type=PROBLEM)


def documented(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """These errors, for a route's part of the OpenAPI document."""
    content = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {int(status): {"description": status.phrase, "content": content} for status in statuses}


def register(api: FastAPI) -> None:
    """Let every error of the framework and of ours take this form."""
    api.add_exception_handler(HTTPException, _http)
    api.add_exception_handler(RequestValidationError, _validation)
    api.add_exception_handler(SQLAlchemyError, _database)
    api.add_exception_handler(CredentialError, _credential)
    api.add_exception_handler(NoRoomError, _no_room)


async def _http(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    return problem_of(error)


def problem_of(error: HTTPException) -> JSONResponse:
    """The response for an error."""
    status = HTTPStatus(error.status_code)
    more = {}
    if isinstance(error, ProblemError) and error.mistakes:
        more = {"errors": [{"field": field, "problem": what} for field, what in error.mistakes[:MAX_MISTAKES]]}
    detail = error.detail if isinstance(error, ProblemError) else _standard_sentence(status)
    answer = problem(status, detail, **more)
    answer.headers.update(error.headers or {})
    return answer


def _standard_sentence(status: HTTPStatus) -> str:
    sentences = {
        HTTPStatus.NOT_FOUND: "There is nothing at this address: /docs shows what there is.",
        HTTPStatus.METHOD_NOT_ALLOWED: "This address does not support that method: see the Allow header.",
        HTTPStatus.BAD_REQUEST: "The body cannot be read: it must be JSON in UTF-8.",
    }
    return sentences.get(status, status.description or status.phrase)


async def _validation(request: Request, error: Exception) -> JSONResponse:
    """What FastAPI found wrong, each field by name, without the values that were given."""
    if not isinstance(error, RequestValidationError):
        raise error
    if any(each["type"] == "json_invalid" for each in error.errors()):
        return problem(HTTPStatus.BAD_REQUEST, _standard_sentence(HTTPStatus.BAD_REQUEST))
    found = [mistake_of(each, _known_beside(request, each["loc"])) for each in error.errors()[:MAX_MISTAKES]]
    return await _http(request, wrong_fields(found))


def _known_beside(request: Request, place: Sequence[str | int]) -> Sequence[str]:
    """The names that the route knows where a mistake is: a query's parameters, or the fields of an object."""
    dependant = getattr(request.scope.get("route"), "dependant", None)
    given = getattr(dependant, f"{place[0]}_params", ())
    return next((known_names(each.field_info.annotation, place[1:-1]) for each in given), ())


async def _database(_: Request, error: Exception) -> JSONResponse:
    answer = database_problem(error)
    if answer is None:
        raise error
    return answer


def database_problem(error: Exception) -> JSONResponse | None:
    """503 where the database is unavailable or took too long, each logged as what it is; None for any other error."""
    if is_unavailable(error):
        log.warning("api.database_away", error=origin(error))
        detail = "The database does not answer now; try again in a moment."
    elif took_too_long(error):
        log.info("api.database_slow", error=origin(error))
        detail = "The database took too long for this request; try again later, or ask for less."
    else:
        return None
    answer = problem(HTTPStatus.SERVICE_UNAVAILABLE, detail)
    answer.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return answer


async def _credential(_: Request, error: Exception) -> JSONResponse:
    log.warning("api.credential_missing", why=str(error))
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, "A credential of this account cannot be read by the server.")


async def _no_room(_: Request, error: Exception) -> JSONResponse:
    del error
    answer = problem(HTTPStatus.SERVICE_UNAVAILABLE, NO_ROOM)
    answer.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return answer
