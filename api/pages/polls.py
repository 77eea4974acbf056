"""The polls, those with news first: what changed something, what failed, what a person opened."""

from collections.abc import Sequence
from typing import Final, get_args

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.responses import Response

from ulak.api.pages.error_pages import PageRoute
from ulak.api.pages.visits import Member, Visit
from ulak.models.access import Role
from ulak.models.ledger.listing import Notable, NotablePoll, NotablePolls, list_notable, list_polls, running_on_demand
from ulak.models.lookups import MAX_ID

POLLS_ON_A_PAGE: Final = 50
KINDS: Final[Sequence[str]] = get_args(Notable)
ALL: Final = "all"

router = APIRouter(route_class=PageRoute, include_in_schema=False, default_response_class=Response)


@router.get("/polls")
def show_polls(seen: Member, account: str = "", show: str = "", before: int = MAX_ID) -> Response:
    """Polls with their progress, the newest first; those without news are counted only, unless all are wanted."""
    before = min(max(before, 0), MAX_ID)
    show = show if show in {*KINDS, ALL} else ""
    if account:
        seen.admit(Role.READ, account)
    with seen.site.runtime.engine.connect() as connection:
        found = polls_of(connection, seen, account or None, POLLS_ON_A_PAGE, show=show, before=before)
    return seen.render_live(
        "polls", found=found, account=account, shown=show, kinds=(*KINDS, ALL), accounts=sorted(seen.zones())
    )


def polls_of(
    connection: Connection, seen: Visit, account: str | None, many: int, *, show: str = "", before: int = MAX_ID
) -> NotablePolls:
    """A page of polls that the visitor may see, on the first page after those of people that have not ended."""
    known = seen.access.accounts(Role.READ)
    if show == ALL:
        rows = list_polls(connection, account=account, accounts=known, limit=many, before_id=before)
        every = [NotablePoll(poll=row, quiet=0, quiet_from=None, quiet_to=None) for row in rows]
        return NotablePolls(polls=every, before_id=rows[-1].id if len(rows) == many else None)
    kind = next((each for each in get_args(Notable) if each == show), None)
    page = list_notable(connection, account=account, accounts=known, kind=kind, limit=many, before_id=before)
    if kind is not None or before < MAX_ID:
        return page
    waiting = running_on_demand(connection, account=account, accounts=known, limit=many)
    first = {row.id for row in waiting}
    ahead = [NotablePoll(poll=row, quiet=0, quiet_from=None, quiet_to=None) for row in waiting]
    rest = [each for each in page.polls if each.poll is None or each.poll.id not in first or each.quiet]
    return NotablePolls(polls=[*ahead, *(_without(each, first) for each in rest)], before_id=page.before_id)


def _without(each: NotablePoll, shown: set[int]) -> NotablePoll:
    """The quiet polls of an entry whose own poll is shown elsewhere."""
    if each.poll is None or each.poll.id not in shown:
        return each
    return NotablePoll(poll=None, quiet=each.quiet, quiet_from=each.quiet_from, quiet_to=each.quiet_to)
