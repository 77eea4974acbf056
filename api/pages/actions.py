"""What the buttons of the status page do: log in and out, poll now, pause, resume."""

from datetime import timedelta
from http import HTTPStatus
from typing import Final

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.responses import Response

from ulak.api.auth_throttle import address_of
from ulak.api.pages.error_pages import PageRoute
from ulak.api.pages.language import CATALOGUES
from ulak.api.pages.visits import Anyone, Fields, Form, MissingError, Operator, Visit, check_form, local_path
from ulak.core.logging import get_logger
from ulak.core.redaction import redact_text
from ulak.models.access import Role
from ulak.models.account import AccountState, UnknownAccountError, load
from ulak.models.accounts import pause, resume
from ulak.models.database import retry_transaction, transaction
from ulak.models.events import Action, Event, Via, record
from ulak.models.ledger.ending import database_now
from ulak.tasks.messages import Message, dispatch_account, poll_account
from ulak.tasks.steps.ondemand import WrongPollError, open_on_demand

log = get_logger(__name__)

MAX_REASON_LENGTH: Final = 300
PAUSE_HOURS: Final = (1, 4, 24)

router = APIRouter(route_class=PageRoute, include_in_schema=False, default_response_class=Response)


@router.post("/login")
def log_in(seen: Anyone, form: Fields) -> Response:
    """Open a session for the bearer of a token."""
    site, target = seen.site, local_path(form.get("next", "/"))

    def again(text: str, status: HTTPStatus) -> Response:
        return seen.render("login.html", status=status, next=target, wrong=text)

    if not site.form_marks.fits(seen.id, form.get("form_mark", "")):
        return again("login.stale", HTTPStatus.FORBIDDEN)
    bearer = site.sessions.bearer(form.get("token", "").strip())
    if bearer is None and site.failed.note(address_of(seen.request.scope)):
        return again("login.too_often", HTTPStatus.TOO_MANY_REQUESTS)
    if bearer is None or not bearer.access.may(Role.READ):
        log.warning("page.login_refused")
        return again("login.wrong", HTTPStatus.UNAUTHORIZED)
    site.recorder.try_add(Event(action=Action.SESSION_OPENED, actor=bearer.actor, via=Via.PAGE))
    response = seen.go(target)
    seen.log_in(response, site.sessions.open(bearer.actor))
    log.info("page.logged_in", holder=bearer.actor.caller)
    return response


@router.post("/logout")
def log_out(seen: Anyone, _: Form) -> Response:
    """End the session."""
    if seen.session is not None:
        seen.site.sessions.end(seen.session)
    response = seen.go("/")
    seen.log_out(response)
    return response


@router.post("/language")
def switch_language(seen: Anyone, form: Fields) -> Response:
    """Speak another language from now on."""
    check_form(seen, form)
    response = seen.go(local_path(form.get("next", "/")))
    if form.get("language") in CATALOGUES:
        seen.speak(response, form["language"])
    return response


@router.post("/accounts/{account}/poll")
def poll_now(seen: Operator, form: Form, account: str) -> Response:
    """Ask the account now. The form's own mark is the key: pressed twice, it is one poll."""
    runtime = seen.site.runtime
    key = f"page:{form.get('once', '')[:40]}"
    try:
        with runtime.engine.connect() as connection:
            is_enabled = load(connection, account).enabled
    except UnknownAccountError:
        raise MissingError from None
    if not is_enabled:
        return done(seen, form, "disabled")

    def also(connection: Connection, poll_id: int) -> None:
        record(connection, seen.event(Action.POLL_OPENED, account=account, details={"poll": poll_id}))

    try:
        poll_id = open_on_demand(runtime, account, trigger="page", key=key, also=also)
    except WrongPollError:
        return done(seen, form, "push_only")
    log.info("page.poll_opened", account=account, poll=poll_id)
    state = seen.site.overviews.look().account(account)
    rests = state is not None and state.state is not AccountState.OK
    return done(seen, form, "poll_waits" if rests else "poll", poll_account(account, poll_id))


@router.post("/accounts/{account}/pause")
def pause_account(seen: Operator, form: Form, account: str) -> Response:
    """Pause the account, with a reason that names who did so and when."""
    reason = " ".join(form.get("reason", "").split())[:MAX_REASON_LENGTH].replace("\x00", "")
    if not reason:
        return done(seen, form, "reason_missing")
    hours = form.get("hours", "")
    holder = seen.caller.actor.shown
    try:
        with transaction(seen.site.runtime.engine) as connection:
            # By the clock that ends the pause: this host's may be wrong.
            now = database_now(connection)
            until = now + timedelta(hours=int(hours)) if hours in map(str, PAUSE_HOURS) else None
            why = seen.language.say("account.by", reason=reason, holder=holder, when=f"{now:%Y-%m-%d %H:%M}")
            is_changed = pause(connection, account, until, why)
            if is_changed:
                details = {"reason": redact_text(reason), "until": until and until.isoformat()}
                record(connection, seen.event(Action.ACCOUNT_PAUSED, account=account, details=details))
    except UnknownAccountError:
        raise MissingError from None
    log.info("page.account_paused", account=account, until=until, changed=is_changed)
    return done(seen, form, "pause" if is_changed else "kept")


@router.post("/accounts/{account}/resume")
def resume_account(seen: Operator, form: Form, account: str) -> Response:
    """End every rest of the account."""

    def run(connection: Connection) -> None:
        resume(connection, account)
        record(connection, seen.event(Action.ACCOUNT_RESUMED, account=account))

    try:
        retry_transaction(seen.site.runtime.engine, run)
    except UnknownAccountError:
        raise MissingError from None
    log.info("page.account_resumed", account=account)
    return done(seen, form, "resume", dispatch_account(account))


def done(seen: Visit, form: Form, notice: str, *messages: Message) -> Response:
    """Tell the workers what the commit made, and go back to where the button was."""
    for message in messages:
        seen.site.publish(message)
    seen.site.overviews.forget()
    # The notice of an earlier action must not be shown again.
    return seen.go(local_path(form.get("next", "/")).partition("?")[0], notice)
