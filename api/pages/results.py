"""What became of the messages: by day, account, provider, range of numbers and reason, down to the deliveries."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter
from starlette.responses import Response

from ulak.api.pages.error_pages import PageRoute
from ulak.api.pages.formats import local_day, start_of
from ulak.api.pages.search_form import NONE, day_of
from ulak.api.pages.sentences import title_of
from ulak.api.pages.visits import Member, Visit
from ulak.models.access import Role
from ulak.models.ledger.ending import database_now
from ulak.models.results import DAY, Line, Period, results_of_period
from ulak.models.statistics import By
from ulak.providers.codes import explain_credits

PERIODS: Final = (7, 14, 30)
HOURS_KEPT_DAYS: Final = 13
PROVIDER: Final = "provider"
COMPARED: Final[Mapping[str, By]] = {
    "account": By.ACCOUNT,
    PROVIDER: By.ACCOUNT,
    "range": By.NUMBER_RANGE,
    "status": By.STATUS,
}
"""What results may be compared by, and how the statistics group it."""
NOTABLE_RISE: Final = 0.02
"""A reason whose part of all messages has grown by so much is marked."""

router = APIRouter(route_class=PageRoute, include_in_schema=False, default_response_class=Response)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the address asks for."""

    account: str
    by: str
    days: int
    day: date | None

    def query(self, **changed: Any) -> str:
        """An address of this page with some of it changed."""
        given = {"account": self.account, "by": self.by, "days": self.days, "day": self.day} | changed
        return "/results?" + urlencode({name: value for name, value in given.items() if value})


@router.get("/results")
def show_results(seen: Member, account: str = "", by: str = "", days: int = 0, day: str = "") -> Response:
    """The results of a period, or of one day; of one account, or of all."""
    if account:
        seen.admit(Role.READ, account)
    usual_by = "range" if account else "account"
    asked = Asked(
        account=account,
        by=by if by in COMPARED else usual_by,
        days=days if days in PERIODS else PERIODS[0],
        day=day_of(day),
    )
    period = _period(seen, asked)
    providers = {each.id: each.provider for each in seen.look().accounts}
    return seen.render(
        "results.html",
        asked=asked,
        period=period,
        compared=[each for each in COMPARED if not (account and each in {"account", PROVIDER})],
        periods=PERIODS,
        accounts=sorted(seen.zones()),
        credits_means=explain_credits([providers[account]] if account in providers else providers.values()),
        providers=providers,
        title_of=title_of,
        list_of=lambda **filters: list_address(asked, period, **filters),
        rise_of=rise_of,
        notable_rise=NOTABLE_RISE,
        usual_of=lambda line: _share(line.usual.failed, period.total.usual.messages),
        none=NONE,
    )


def _period(seen: Visit, asked: Asked) -> Period:
    zone = seen.show.zone_of(asked.account)
    accounts = [asked.account] if asked.account else seen.access.accounts(Role.READ)
    providers = {each.id: each.provider for each in seen.look().accounts}
    with seen.site.runtime.engine.connect() as connection:
        today = local_day(database_now(connection), zone)
        last = asked.day or today
        first = last if asked.day else last - timedelta(days=asked.days - 1)
        hours = None
        if asked.day and today - timedelta(days=HOURS_KEPT_DAYS) <= asked.day <= today:
            hours = (start_of(asked.day, zone), start_of(asked.day + DAY, zone))
        return results_of_period(
            connection,
            first,
            last,
            by=COMPARED[asked.by],
            key=(lambda each: providers.get(each or "", each)) if asked.by == PROVIDER else lambda each: each,
            accounts=accounts,
            hours=hours,
        )


def list_address(asked: Asked, period: Period, **filters: str | None) -> str:
    """The deliveries of the period that have these filters."""
    given = {"account": asked.account, "since": period.first, "until": period.last} | filters
    return "/deliveries?" + urlencode({name: value for name, value in given.items() if value})


def rise_of(line: Line, total: Line) -> float:
    """By how much a reason's part of all messages has grown against the time before."""
    return _share(line.figures.failed, total.figures.messages) - _share(line.usual.failed, total.usual.messages)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
