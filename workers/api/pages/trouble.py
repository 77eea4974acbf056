"""Trouble as a page for a person, where the task API answers with a problem document."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, Final

from fastapi import Request
from fastapi.routing import APIRoute
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from core.logging import get_logger, origin
from workers.api.pages.visits import LoginNeededError, PageError, anonymous

log = get_logger(__name__)

AWAY: Final = (OperationalError, InterfaceError, PoolTimeoutError)


class PageRoute(APIRoute):
    """Answers trouble with a page, where the task API answers with a problem document."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, inside what turns its errors into pages."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                return await handle(request)
            except PageError as error:
                return await run_in_threadpool(_error_page, request, error)
            except AWAY as error:
                log.warning("page.database_away", error=origin(error))
                status = HTTPStatus.SERVICE_UNAVAILABLE
                return anonymous(request).render("error.html", status=status, text="error.away")

        return guarded


def _error_page(request: Request, error: PageError) -> Response:
    """The page of an error; the log-in form for a person, nothing but the status for the script."""
    seen = anonymous(request)
    if isinstance(error, LoginNeededError):
        if request.method != "GET" or "fragment" in request.query_params:
            return seen.render("error.html", status=error.status, text="error.form")
        return seen.render("login.html", status=HTTPStatus.OK, next=seen.here(), wrong=None)
    return seen.render(error.template, status=error.status, text=error.text)
