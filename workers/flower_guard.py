"""Flower's log-in, with wrong passwords counted for each address."""

from typing import Any

from flower.views import BaseHandler
from tornado.web import HTTPError

from ulak.workers.auth_attempts import FailedAttempts


def slow_down_guessers() -> None:
    """Answer 429 in place of 401 to one wrong password too many; Flower checks first, so a right one comes in."""
    failed = FailedAttempts()
    check = BaseHandler.get_current_user

    def guarded(handler: Any) -> Any:
        try:
            return check(handler)
        except HTTPError as error:
            is_guess = error.status_code == 401 and "Authorization" in handler.request.headers  # noqa: PLR2004
            if is_guess and failed.note(handler.request.remote_ip):
                raise HTTPError(429, "Too many wrong passwords: wait a minute.") from None
            raise

    BaseHandler.get_current_user = guarded
