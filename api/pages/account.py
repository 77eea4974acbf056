"""The page of one account: what became of its messages, what is wrong, how it is configured, what was done to it."""

from collections.abc import Sequence
from typing import Any, Final

from fastapi import APIRouter
from sqlalchemy import Connection, Row
from starlette.responses import Response

from ulak.api.pages.actions import PAUSE_HOURS
from ulak.api.pages.configuration import WIDE, settings_of
from ulak.api.pages.error_pages import PageRoute
from ulak.api.pages.polls import polls_of
from ulak.api.pages.sentences import title_of
from ulak.api.pages.visits import Member, MissingError, Visit
from ulak.models.access import Role
from ulak.models.account import load
from ulak.models.events import ABOUT_PEOPLE, OPEN_TO_ALL, list_events
from ulak.models.ledger.deadletters import list_dead
from ulak.models.quarantine import list_quarantine
from ulak.models.recent_failures import KEPT_DAYS, failed_calls

POLLS_SHOWN: Final = 10
LEFTOVERS_SHOWN: Final = 20
EVENTS_SHOWN: Final = 20

router = APIRouter(route_class=PageRoute, include_in_schema=False, default_response_class=Response)


@router.get("/accounts/{account}")
def show_account(seen: Member, account: str) -> Response:
    """One account."""
    look = seen.look()
    found = look.account(account)
    if found is None:
        raise MissingError
    with seen.site.runtime.engine.connect() as connection:
        values: dict[str, Any] = {
            "polls": polls_of(connection, seen, account, POLLS_SHOWN),
            "dead": list_dead(connection, account=account, limit=LEFTOVERS_SHOWN),
            "quarantined": list_quarantine(connection, account=account, limit=LEFTOVERS_SHOWN),
            "failures": failed_calls(connection, account),
            "events": _events(connection, seen, account),
            "settings": settings_of(load(connection, account), seen.show),
        }
    alarms = [alarm for alarm in look.alarms if alarm.account == account]
    return seen.render_live(
        "account",
        look=look,
        account=found,
        result=look.results.get(account),
        alarms=alarms,
        hours=PAUSE_HOURS,
        failure_days=KEPT_DAYS,
        title_of=title_of,
        wide=WIDE,
        **values,
    )


def _events(connection: Connection, seen: Visit, account: str) -> Sequence[Row[Any]]:
    """What was done to the account, the newest first; administrators also see who viewed or erased whose number.

    Erasures and searches concern every account and name none, so only an administrator of all accounts sees them.
    """
    actions_shown = None if seen.access.may(Role.ADMIN, account) else OPEN_TO_ALL
    found = list_events(connection, accounts=[account], actions=actions_shown, limit=EVENTS_SHOWN)
    if not seen.access.may_everywhere(Role.ADMIN):
        return found
    general = list_events(connection, of_no_account=True, actions=ABOUT_PEOPLE, limit=EVENTS_SHOWN)
    return sorted((*found, *general), key=lambda event: event.id, reverse=True)[:EVENTS_SHOWN]
