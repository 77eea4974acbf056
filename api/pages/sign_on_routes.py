"""The way in by single sign-on: to the provider, and back from it."""

from datetime import timedelta
from http import HTTPStatus
from typing import Final

import msgspec
from cryptography.fernet import InvalidToken
from fastapi import APIRouter
from starlette.responses import RedirectResponse, Response

from ulak.api.auth_throttle import address_of
from ulak.api.pages.error_pages import PageRoute
from ulak.api.pages.sign_on import CALLBACK, Attempt, Identity, SignOn, SignOnError
from ulak.api.pages.visits import HEADERS, SIGN_ON_COOKIE, Anyone, MissingError, Visit, local_path
from ulak.core.logging import get_logger
from ulak.models.database import transaction
from ulak.models.events import Action, Event, Via
from ulak.models.sessions import end_session

log = get_logger(__name__)

ATTEMPT_TTL: Final = timedelta(minutes=10)
"""The user must return from the provider within this time."""
MAX_COOKIE_LENGTH: Final = 4000
_STATUSES: Final = {
    "stale": HTTPStatus.BAD_REQUEST,
    "refused": HTTPStatus.FORBIDDEN,
    "no_role": HTTPStatus.FORBIDDEN,
    "wrong": HTTPStatus.BAD_GATEWAY,
    "away": HTTPStatus.SERVICE_UNAVAILABLE,
}

router = APIRouter(route_class=PageRoute, include_in_schema=False, default_response_class=Response)


@router.get("/login/sso")
def go_to_provider(seen: Anyone, next: str = "/") -> Response:  # noqa: A002 - its name in every form
    """Begin a log-in at the provider of the sign-on."""
    sign_on = _sign_on(seen)
    attempt = Attempt.begin(local_path(next))
    try:
        url = sign_on.begin(attempt)
    except SignOnError as error:
        return _refused(seen, error)
    response = RedirectResponse(url, HTTPStatus.SEE_OTHER, headers=dict(HEADERS))
    sealed = seen.site.attempts.encrypt(msgspec.json.encode(attempt)).decode()
    seen.begin_sign_on(response, sealed, ATTEMPT_TTL)
    return response


@router.get(CALLBACK)
def come_back(seen: Anyone) -> Response:
    """Open a session for whom the provider sends back with an answer to this browser's own log-in."""
    sign_on = _sign_on(seen)
    try:
        attempt = _attempt(seen)
        # Before the code is used: an answer that comes twice, at whichever process, logs in once.
        _use_once(seen, attempt)
        identity = sign_on.finish(attempt, dict(seen.request.query_params))
    except SignOnError as error:
        return _refused(seen, error)
    return _let_in(seen, sign_on, identity, attempt.target)


def _sign_on(seen: Visit) -> SignOn:
    if seen.site.sign_on is None:
        raise MissingError
    return seen.site.sign_on


def _attempt(seen: Visit) -> Attempt:
    """What this browser's log-in began with."""
    sealed = seen.site.cookie(seen.request, SIGN_ON_COOKIE) or ""
    if len(sealed) > MAX_COOKIE_LENGTH:
        raise SignOnError("stale", "the cookie is too long")
    try:
        content = seen.site.attempts.decrypt(sealed.encode("utf-8", "surrogatepass"), int(ATTEMPT_TTL.total_seconds()))
        return msgspec.json.decode(content, type=Attempt)
    except (InvalidToken, msgspec.MsgspecError):
        raise SignOnError("stale", "this browser began no log-in, or too long ago") from None


def _use_once(seen: Visit, attempt: Attempt) -> None:
    with transaction(seen.site.runtime.engine) as connection:
        if not end_session(connection, f"sign-on:{attempt.state}", lasts=ATTEMPT_TTL):
            raise SignOnError("stale", "the answer was used before")


def _let_in(seen: Visit, sign_on: SignOn, identity: Identity, target: str) -> Response:
    """A page that leads on: cookies of this host alone are not sent along a redirect that begins elsewhere."""
    site = seen.site
    session = site.sessions.open_for(identity, sign_on)
    site.recorder.try_add(Event(action=Action.SESSION_OPENED, actor=identity.actor, via=Via.PAGE))
    # The address holds the answer, which no form should repeat.
    response = seen.render("entered.html", target=target, here="/")
    seen.end_sign_on(response)
    seen.log_in(response, session)
    log.info("page.logged_in", holder=identity.actor.caller)
    return response


def _refused(seen: Visit, error: SignOnError) -> Response:
    """The log-in form with a sentence; 429 for an address that tries too often."""
    log.warning("page.sign_on_refused", kind=error.kind, why=str(error))
    text, status = f"sso.{error.kind}", _STATUSES[error.kind]
    if error.kind in {"stale", "wrong"} and seen.site.failed.note(address_of(seen.request.scope)):
        text, status = "login.too_often", HTTPStatus.TOO_MANY_REQUESTS
    response = seen.render("login.html", status=status, next="/", wrong=text, here="/")
    seen.end_sign_on(response)
    return response
