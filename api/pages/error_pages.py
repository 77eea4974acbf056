"""Trouble as a page for a person, where the task API answers with a problem document."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ulak.api.auth import GUARDED
from ulak.api.pages.visits import LoginNeededError, MissingError, PageError, anonymous, may_be_known, visit
from ulak.api.problems import database_problem, problem_of
from ulak.models.database_errors import took_too_long


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
                status, nav = HTTPStatus.SERVICE_UNAVAILABLE, may_be_known(request)
                return anonymous(request).render("error.html", status=status, text=text, nav=nav)
            except RequestValidationError:
                # A mistyped or truncated address.
                return await run_in_threadpool(_error_page, request, MissingError())

        return guarded


def add_error_pages(api: FastAPI) -> None:
    """Answer a browser at an unknown address with a page that leads on; programs get their problem document."""

    async def missing(request: Request, error: Exception) -> Response:
        if _is_of_a_browser(request):
            return await run_in_threadpool(_guarded_page, request)
        if not isinstance(error, HTTPException):
            raise error
        return problem_of(error)

    api.add_exception_handler(HTTPStatus.NOT_FOUND, missing)


def _is_of_a_browser(request: Request) -> bool:
    path = request.url.path
    is_for_programs = path.startswith((f"{GUARDED}/", "/callbacks/", "/static/"))
    return request.method == "GET" and not is_for_programs and "text/html" in request.headers.get("accept", "")


def _guarded_page(request: Request) -> Response:
    try:
        return _error_page(request, MissingError())
    except SQLAlchemyError:
        return anonymous(request).render("error.html", status=MissingError.status, text=MissingError.text)


def _error_page(request: Request, error: PageError) -> Response:
    """The page of an error; the log-in form for a person, nothing but the status for the script."""
    if isinstance(error, LoginNeededError):
        seen = anonymous(request)
        if request.method != "GET" or "fragment" in request.query_params:
            return seen.render("error.html", status=error.status, text="error.form")
        return seen.render("login.html", status=HTTPStatus.OK, next=seen.here(), wrong=None)
    return visit(request).render(error.template, status=error.status, text=error.text)
