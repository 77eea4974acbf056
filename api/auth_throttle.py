"""What the HTTP process answers an address that has sent too many wrong secrets (`ulak.workers.auth_attempts`)."""

from http import HTTPStatus

from starlette.responses import Response
from starlette.types import Scope

from ulak.api.problems import problem
from ulak.workers.auth_attempts import WITHIN_SECONDS


def address_of(scope: Scope) -> str:
    """The client's address; behind a trusted proxy, the one that it names."""
    client: tuple[str, int] | None = scope.get("client")
    return client[0] if client else ""


def slow_down() -> Response:
    """The answer to one wrong secret too many."""
    detail = "Too many wrong credentials from this address: wait a minute. Valid ones are accepted all the same."
    answer = problem(HTTPStatus.TOO_MANY_REQUESTS, detail)
    answer.headers["Retry-After"] = str(int(WITHIN_SECONDS))
    return answer
