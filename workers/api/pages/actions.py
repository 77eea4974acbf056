"""What the buttons of the status page do: log in and out, search, poll now, pause, resume, ask again."""

from datetime import timedelta
from http import HTTPStatus
from typing import Final

from fastapi import APIRouter
from starlette.responses import Response

from core import clock
from core.logging import get_logger
from models.accounts import UnknownAccountError, load, pause, resume
from models.database import retry_transaction, transaction
from models.ledger.deadletters import list_dead
from models.ledger.finishing import database_now
from models.overview import AccountState
from tasks.messages import Message, dispatch_account, poll_account
from tasks.steps.deadletters import retry_dead
from tasks.steps.ondemand import WrongPollError, open_on_demand
from workers.api.pages.language import CATALOGUES
from workers.api.pages.searches import search_of
from workers.api.pages.trouble import PageRoute
from workers.api.pages.visits import Anyone, Fields, Form, Member, MissingError, Visit, check_form, local_path

log = get_logger(__name__)

MOST_RETRIED: Final = 100
LONGEST_REASON: Final = 300
PAUSE_HOURS: Final = (1, 4, 24)

router = APIRouter(route_class=PageRoute, include_in_schema=False, default_response_class=Response)


@router.post("/login")
def log_in(seen: Anyone, form: Fields) -> Response:
    """Open a session for the bearer of a token."""
    site, address = seen.site, seen.request.client.host if seen.request.client else ""
    target = local_path(form.get("next", "/"))

    def again(text: str, status: HTTPStatus) -> Response:
        log.warning("page.login_refused", why=text)
        return seen.render("login.html", status=status, next=target, wrong=text)

    if not site.form_marks.fits(seen.id, form.get("form_mark", "")):
        return again("login.stale", HTTPStatus.FORBIDDEN)
    if site.attempts.are_too_many(address, clock.boot()):
        return again("login.too_often", HTTPStatus.TOO_MANY_REQUESTS)
    holder = site.sessions.holder(form.get("token", "").strip())
    if holder is None:
        site.attempts.note_failure(address, clock.boot())
        return again("login.wrong", HTTPStatus.UNAUTHORIZED)
    response = seen.go(target)
    seen.log_in(response, site.sessions.open(holder))
    log.info("page.logged_in", holder=holder)
    return response


@router.post("/logout")
def log_out(seen: Member, _: Form) -> Response:
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


@router.post("/deliveries")
def search_deliveries(seen: Member, form: Form) -> Response:
    """Seal a search into an address: what was looked for stands in no history and no log."""
    return seen.go(f"/deliveries?q={seen.site.seal.close(search_of(form))}#results")


@router.post("/accounts/{account}/poll")
def poll_now(seen: Member, form: Form, account: str) -> Response:
    """Ask the account now. The form's own mark is the key: pressed twice, it is one poll."""
    runtime = seen.site.runtime
    key = f"page:{form.get('once', '')[:40]}"
    try:
        with runtime.engine.connect() as connection:
            is_enabled = load(connection, account).enabled
    except UnknownAccountError:
        raise MissingError from None
    if not is_enabled:
        return _done(seen, form, "disabled")
    try:
        poll_id = open_on_demand(runtime, account, trigger="page", key=key)
    except WrongPollError:
        return _done(seen, form, "push_only")
    log.info("page.poll_opened", account=account, poll=poll_id)
    state = seen.site.looker.look().account(account)
    rests = state is not None and state.state is not AccountState.OK
    return _done(seen, form, "poll_waits" if rests else "poll", poll_account(account, poll_id))


@router.post("/accounts/{account}/pause")
def pause_account(seen: Member, form: Form, account: str) -> Response:
    """Let the account rest, with a reason that names who said so and when."""
    reason = " ".join(form.get("reason", "").split())[:LONGEST_REASON].replace("\x00", "")
    if not reason:
        return _done(seen, form, "reason_missing")
    hours = form.get("hours", "")
    holder = seen.session.holder if seen.session else ""
    try:
        with transaction(seen.site.runtime.engine) as connection:
            # By the clock that ends the pause: this host's may be wrong.
            now = database_now(connection)
            until = now + timedelta(hours=int(hours)) if hours in map(str, PAUSE_HOURS) else None
            told = seen.language.say("account.by", reason=reason, holder=holder, when=f"{now:%Y-%m-%d %H:%M}")
            is_changed = pause(connection, account, until, told)
    except UnknownAccountError:
        raise MissingError from None
    log.info("page.account_paused", account=account, until=until, changed=is_changed)
    return _done(seen, form, "pause" if is_changed else "kept")


@router.post("/accounts/{account}/resume")
def resume_account(seen: Member, form: Form, account: str) -> Response:
    """End every rest of the account."""
    try:
        retry_transaction(seen.site.runtime.engine, lambda connection: resume(connection, account))
    except UnknownAccountError:
        raise MissingError from None
    log.info("page.account_resumed", account=account)
    return _done(seen, form, "resume", dispatch_account(account))


@router.post("/accounts/{account}/retry")
def retry_account(seen: Member, form: Form, account: str) -> Response:
    """Ask again for what the account gave up."""
    with seen.site.runtime.engine.connect() as connection:
        rows = list_dead(connection, account=account, limit=MOST_RETRIED)
    retried = [retry_dead(seen.site.runtime, row["id"], trigger="page") for row in rows]
    messages = [message for each in retried if each is not None for message in each.messages]
    log.info("page.dead_retried", account=account, fetches=len(rows))
    return _done(seen, form, "retry" if messages else "retry_nothing", *messages)


def _done(seen: Visit, form: Form, told: str, *messages: Message) -> Response:
    """Tell the workers what the commit made, and go back to where the button was."""
    for message in messages:
        seen.site.publish(message)
    seen.site.looker.forget()
    # What an earlier action told must not be told again.
    return seen.go(local_path(form.get("next", "/")).partition("?")[0], told)
