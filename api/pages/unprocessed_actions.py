"""What the buttons beside dead letters and quarantined content do: retry, or discard."""

from typing import Final

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.responses import Response

from ulak.api.pages.actions import done
from ulak.api.pages.error_pages import PageRoute
from ulak.api.pages.visits import Form, Operator, Visit
from ulak.core.logging import get_logger
from ulak.models.database import transaction
from ulak.models.events import Action, record
from ulak.models.ledger.deadletters import list_dead
from ulak.models.quarantine import WrongQuarantineKeyError, list_quarantine, resolve
from ulak.tasks.steps.quarantine_retry import reread
from ulak.tasks.steps.retrying import Retried, discard_dead, retry_dead

log = get_logger(__name__)

MAX_RETRIED: Final = 100
_MAX_ID_DIGITS: Final = 18

router = APIRouter(route_class=PageRoute, include_in_schema=False, default_response_class=Response)


def _chosen(form: Form, field: str) -> int | None:
    """The row that the form names; None for all."""
    text = form.get(field, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_ID_DIGITS else None


@router.post("/accounts/{account}/retry")
def retry_account(seen: Operator, form: Form, account: str) -> Response:
    """Request again what dead letters of the account asked for: one, or all."""
    chosen = _chosen(form, "fetch")
    with seen.site.runtime.engine.connect() as connection:
        rows = list_dead(connection, account=account, limit=MAX_RETRIED)
    wanted = [row["id"] for row in rows if chosen in {None, row["id"]}]

    def also(connection: Connection, of: str, retried: Retried) -> None:
        details = {"fetch": retried.fetch_id, "poll": retried.poll_id}
        record(connection, seen.event(Action.DEAD_RETRIED, account=of, details=details))

    retried = [retry_dead(seen.site.runtime, fetch_id, trigger="page", also=also) for fetch_id in wanted]
    messages = [message for each in retried if each is not None for message in each.messages]
    log.info("page.dead_retried", account=account, fetches=len(wanted))
    return done(seen, form, "retry" if messages else "retry_nothing", *messages)


@router.post("/accounts/{account}/discard")
def discard_account(seen: Operator, form: Form, account: str) -> Response:
    """Take one dead letter off the list without requesting anything."""
    fetch_id = _chosen(form, "fetch")

    def also(connection: Connection) -> None:
        record(connection, seen.event(Action.DEAD_DISCARDED, account=account, details={"fetch": fetch_id}))

    is_done = fetch_id is not None and discard_dead(seen.site.runtime, fetch_id, account, also=also)
    log.info("page.dead_discarded", account=account, fetch=fetch_id, found=is_done)
    return done(seen, form, "discard" if is_done else "discard_nothing")


@router.post("/accounts/{account}/quarantine/retry")
def retry_quarantine(seen: Operator, form: Form, account: str) -> Response:
    """Parse entries again with this version: one, or all. No request is made."""
    runtime, chosen = seen.site.runtime, _chosen(form, "entry")
    wanted = _entries(seen, account, chosen)
    if wanted:
        details = {"entries": len(wanted)}
        seen.site.recorder.add(seen.event(Action.QUARANTINE_RETRIED, account=account, details=details))
    try:
        results = [reread(runtime, entry_id) for entry_id in wanted]
    except WrongQuarantineKeyError:
        return done(seen, form, "reread_key")
    understood = sum(result is not None and result.understood for result in results)
    log.info("page.quarantine_retried", account=account, entries=len(wanted), understood=understood)
    return done(seen, form, "reread" if wanted and understood == len(wanted) else "reread_not")


@router.post("/accounts/{account}/quarantine/discard")
def discard_quarantine(seen: Operator, form: Form, account: str) -> Response:
    """Delete one entry without parsing it."""
    chosen = _chosen(form, "entry")
    is_done = False
    for entry_id in _entries(seen, account, chosen) if chosen is not None else ():
        with transaction(seen.site.runtime.engine) as connection:
            is_done = resolve(connection, entry_id)
            if is_done:
                details = {"entry": entry_id}
                record(connection, seen.event(Action.QUARANTINE_DISCARDED, account=account, details=details))
    log.info("page.quarantine_discarded", account=account, entry=chosen, found=is_done)
    return done(seen, form, "discard" if is_done else "discard_nothing")


def _entries(seen: Visit, account: str, chosen: int | None) -> list[int]:
    with seen.site.runtime.engine.connect() as connection:
        rows = list_quarantine(connection, account=account, limit=MAX_RETRIED)
    return [row["id"] for row in rows if chosen in {None, row["id"]}]
