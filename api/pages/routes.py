"""The status page at `/`: what is late or broken and what to do, accounts, polls, deliveries; for a browser."""

from collections.abc import Sequence
from dataclasses import replace
from secrets import token_urlsafe
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from sqlalchemy import Connection, RowMapping
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from ulak.api.masking import masked_row, masked_value
from ulak.api.means import Means
from ulak.api.pages import actions, entrance
from ulak.api.pages.looks import Looker
from ulak.api.pages.searches import STATUSES, Found, Seal, Search, find, needed_role, people_sought
from ulak.api.pages.sessions import FormMarks, Keys, Sessions
from ulak.api.pages.showing import STATIC, environment
from ulak.api.pages.sign_on import sign_on_for
from ulak.api.pages.trouble import PageRoute
from ulak.api.pages.visits import YEAR_SECONDS, ForbiddenError, Form, Member, MissingError, Site, Supporter, Visit
from ulak.core.logging import get_logger
from ulak.core.settings import CredentialError, Settings, generated_secret, resolve_reference
from ulak.core.strength import is_example
from ulak.models.access import Role
from ulak.models.accounts import list_accounts
from ulak.models.events import OPEN_TO_ALL, Action, list_events
from ulak.models.ledger.deadletters import list_dead
from ulak.models.ledger.listing import list_polls, running_on_demand
from ulak.models.lookups import Explanation, Statement, explain
from ulak.models.quarantine import list_quarantine
from ulak.providers.adapter import Adapter
from ulak.providers.registry import ADAPTERS
from ulak.tasks.runtime import Runtime
from ulak.workers.connections import paces
from ulak.workers.recording import Row, people_of
from ulak.workers.secrets import api_token
from ulak.workers.strength import short_path_secrets, short_settings

log = get_logger(__name__)

SECRET: Final = "page_secret"  # noqa: S105 - the name of a file
SHORTEST_SECRET: Final = 32
POLLS_ON_A_PAGE: Final = 50
POLLS_OF_AN_ACCOUNT: Final = 10
LEFTOVERS_SHOWN: Final = 20
EVENTS_SHOWN: Final = 20
LARGEST_ID: Final = 2**63 - 1

router = APIRouter(route_class=PageRoute, include_in_schema=False, default_response_class=Response)


def add_pages(api: FastAPI, runtime: Runtime, settings: Settings) -> None:
    """Add the status page to what `ulak.api.app.make_api` made."""
    means: Means = api.state.means
    keys = Keys(_secret(settings))
    sign_on = sign_on_for(settings)
    api.state.pages = Site(
        runtime=runtime,
        settings=settings,
        sessions=Sessions(engine=runtime.engine, keys=keys, token=api_token(settings), sign_on=sign_on),
        form_marks=FormMarks(keys.box("form")),
        seal=Seal(keys.box("search")),
        looker=Looker(
            runtime.engine,
            {name: pace.every_seconds for name, pace in paces().items()},
            lambda connection: _short_secrets(connection, runtime, settings),
        ),
        templates=environment(),
        publish=means.send,
        failed=means.failed,
        recorder=means.recorder,
        sign_on=sign_on,
        attempts=keys.box("sign-on"),
        push_only=frozenset(name for name, adapter in ADAPTERS.items() if not _is_pulled(adapter)),
    )
    api.include_router(router)
    api.include_router(actions.router)
    api.include_router(entrance.router)
    api.mount("/static", KeptFiles(directory=STATIC), name="static")


class KeptFiles(StaticFiles):
    """Files that a browser keeps: each address names its content."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """The file."""
        answer = super().file_response(*args, **kwargs)
        answer.headers["Cache-Control"] = f"public, max-age={YEAR_SECONDS}, immutable"
        return answer


def _short_secrets(connection: Connection, runtime: Runtime, settings: Settings) -> list[str]:
    """Names of the secrets that we chose and that could be guessed."""
    accounts = [account for account in list_accounts(connection) if account.enabled]
    return [*short_settings(settings), *short_path_secrets(accounts, runtime.credentials.get)]


def _is_pulled(adapter: Adapter) -> bool:
    """Whether the provider can be asked for anything."""
    return bool(adapter.record.id_kinds) or adapter.record.sweep_window_days is not None


def _secret(settings: Settings) -> str:
    """What signs sessions; `CredentialError` where the configured file holds no secret.

    Without such a file it is kept in the home, or where that cannot be written known to this process alone.
    """
    if settings.page_secret_file is not None:
        secret = resolve_reference(f"file:{settings.page_secret_file}")
        if len(secret) < SHORTEST_SECRET or is_example(secret):
            fault = "an example" if is_example(secret) else "too short"
            raise CredentialError(
                f"The secret in {settings.page_secret_file} is {fault}: give at least {SHORTEST_SECRET} characters."
            )
        return secret
    try:
        return generated_secret(settings.home, SECRET, lambda: token_urlsafe(32))
    except OSError as error:
        log.warning("page.secret_not_kept", home=str(settings.home), error=error.strerror)
        return token_urlsafe(32)


@router.get("/")
def show_overview(seen: Member) -> Response:
    """What is wrong, and how every account stands."""
    return _render_live(seen, "overview", look=seen.look())


@router.get("/accounts/{account}")
def show_account(seen: Member, account: str) -> Response:
    """One account, with what it gave up and what it could not understand."""
    look = seen.look()
    found = look.account(account)
    if found is None:
        raise MissingError
    with seen.site.runtime.engine.connect() as connection:
        values: dict[str, Any] = {
            "polls": _newest(connection, seen, account, POLLS_OF_AN_ACCOUNT),
            "dead": list_dead(connection, account=account, limit=LEFTOVERS_SHOWN),
            "quarantined": list_quarantine(connection, account=account, limit=LEFTOVERS_SHOWN),
            "events": _events(connection, seen, account),
        }
    alarms = [alarm for alarm in look.alarms if alarm.account == account]
    return _render_live(seen, "account", look=look, account=found, alarms=alarms, hours=actions.PAUSE_HOURS, **values)


def _events(connection: Connection, seen: Visit, account: str) -> Sequence[RowMapping]:
    """What was done to the account; administrators also see who viewed whose number."""
    actions_shown = None if seen.access.may(Role.ADMIN, account) else OPEN_TO_ALL
    return list_events(connection, accounts=[account], actions=actions_shown, limit=EVENTS_SHOWN)


@router.get("/polls")
def show_polls(seen: Member, account: str = "", before: int = LARGEST_ID) -> Response:
    """Polls with their progress: on the first page those that run on demand, then the newest."""
    before = min(max(before, 0), LARGEST_ID)
    if account:
        seen.admit(Role.READ, account)
    with seen.site.runtime.engine.connect() as connection:
        if before == LARGEST_ID:
            polls = _newest(connection, seen, account or None, POLLS_ON_A_PAGE)
        else:
            known = seen.access.accounts(Role.READ)
            found = list_polls(
                connection, account=account or None, accounts=known, limit=POLLS_ON_A_PAGE, before_id=before
            )
            polls = [*found]
    older = polls[-1]["id"] if len(polls) >= POLLS_ON_A_PAGE else None
    return _render_live(seen, "polls", polls=polls, account=account, older=older)


def _newest(connection: Connection, seen: Visit, account: str | None, many: int) -> list[RowMapping]:
    """On-demand polls that have not ended, before the newest of all polls.

    Scheduled polls come every few seconds, and would push what an operator waits for off the page.
    """
    known = seen.access.accounts(Role.READ)
    waiting = running_on_demand(connection, account=account, accounts=known, limit=many)
    first = {poll["id"] for poll in waiting}
    newest = list_polls(connection, account=account, accounts=known, limit=many)
    return [*waiting, *(poll for poll in newest if poll["id"] not in first)]


@router.get("/deliveries")
def show_deliveries(seen: Member, q: str = "", after: int = 0, account: str = "") -> Response:
    """The search form; with a sealed search its results."""
    search = seen.site.seal.open(q) if q else None
    found: Found | None = None
    if search is not None:
        _note_search(seen, search)
        with seen.site.runtime.engine.connect() as connection:
            found = find(connection, search, seen.access, after_id=min(max(after, 0), LARGEST_ID))
    accounts = [each.id for each in seen.look().accounts]
    asked = search or Search(account=account if account in accounts else "")
    is_old = bool(q) and search is None
    return seen.render(
        "deliveries.html", found=found, asked=asked, q=q, is_old=is_old, accounts=accounts, statuses=STATUSES
    )


def _note_search(seen: Visit, search: Search) -> None:
    """Record that the visitor searches for people, at every page of it; refuse where the role is missing."""
    if not seen.access.may(needed_role(search)):
        raise ForbiddenError
    people, recorder = people_sought(search), seen.site.recorder
    if people and seen.access.may(Role.SUPPORT):
        about = {"account": search.account or None}
        marks = recorder.marks(people)
        recorder.try_add(*(seen.event(Action.PERSON_SEARCHED, person=mark, **about) for mark in marks))


@router.get("/deliveries/{delivery_id:int}")
def show_delivery(seen: Member, delivery_id: int) -> Response:
    """One delivery: its fields, and every statement about it, what won and why; people's numbers are masked."""
    found = _delivery(seen, delivery_id)
    people = people_of(found.delivery)
    return _render_delivery(
        seen, found, masked_row(found.delivery), [_masked(each, people) for each in found.statements]
    )


@router.post("/deliveries/{delivery_id:int}/reveal")
def reveal_delivery(seen: Supporter, delivery_id: int, _: Form) -> Response:
    """The same with the number in full. That it was shown, and to whom, is recorded first."""
    found = _delivery(seen, delivery_id)
    row, recorder = found.delivery, seen.site.recorder
    seen.admit(Role.SUPPORT, row["account_id"])
    about = {"account": row["account_id"], "delivery_id": row["id"]}
    marks = recorder.marks(people_of(row))
    recorder.add(*(seen.event(Action.NUMBER_REVEALED, person=mark, **about) for mark in marks))
    return _render_delivery(seen, found, row, found.statements, is_revealed=True)


def _delivery(seen: Visit, delivery_id: int) -> Explanation:
    with seen.site.runtime.engine.connect() as connection:
        found = explain(connection, delivery_id) if delivery_id <= LARGEST_ID else None
    if found is None or not seen.access.may(Role.READ, found.delivery["account_id"]):
        raise MissingError
    return found


def _masked(each: Statement, people: Sequence[str]) -> Statement:
    """The statement without these people's numbers."""
    shown = {name: masked_value(each.observation[name], people) for name in ("facts", "statement")}
    return replace(each, observation=dict(each.observation) | shown)


def _render_delivery(
    seen: Visit, found: Explanation, row: Row, statements: Sequence[Statement], *, is_revealed: bool = False
) -> Response:
    # The history is told as it happened; the explanation comes the greatest first.
    line = sorted(statements, key=lambda each: each.place)
    here = f"/deliveries/{row['id']}"
    return seen.render(
        "delivery.html", row=row, line=line, conflicting=found.conflicting, is_revealed=is_revealed, here=here
    )


def _render_live(seen: Visit, name: str, **values: Any) -> Response:
    """The page, or for its script only the part that changes."""
    is_fragment = "fragment" in seen.request.query_params
    return seen.render(f"_{name}.html" if is_fragment else f"{name}.html", **values)
