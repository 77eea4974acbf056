"""Trouble as a page for a person, where the task API answers with a problem document."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from ulak.api.pages.visits import LoginNeededError, PageError, anonymous
from ulak.api.problems import database_problem
from ulak.models.availability import took_too_long


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
            except SQLAlchemyError as error:
                if database_problem(error) is None:
                    raise
                text = "error.slow" if took_too_long(error) else "error.away"
                return anonymous(request).render("error.html", status=HTTPStatus.SERVICE_UNAVAILABLE, text=text)

        return guarded


def _error_page(request: Request, error: PageError) -> Response:
    """The page of an error; the log-in form for a person, nothing but the status for the script."""
    seen = anonymous(request)
    if isinstance(error, LoginNeededError):
        if request.method != "GET" or "fragment" in request.query_params:
            return seen.render("error.html", status=error.status, text="error.form")
        return seen.render("login.html", status=HTTPStatus.OK, next=seen.here(), wrong=None)
    return seen.render(error.template, status=error.status, text=error.text)
