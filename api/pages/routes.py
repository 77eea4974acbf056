"""The status page at `/`: what is late or broken and what to do, accounts, polls, deliveries; for a browser."""

from collections.abc import Sequence
from secrets import token_urlsafe
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from sqlalchemy import Connection, Engine
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from ulak.api.dependencies import Dependencies
from ulak.api.pages import account, actions, deliveries, polls, results, sign_on_routes, unprocessed_actions
from ulak.api.pages.error_pages import PageRoute, add_error_pages
from ulak.api.pages.overview_cache import OverviewCache
from ulak.api.pages.rendering import STATIC, environment
from ulak.api.pages.search_form import NONE, Seal
from ulak.api.pages.sentences import title_of
from ulak.api.pages.sessions import FormMarks, Keys, Sessions
from ulak.api.pages.sign_on import sign_on_for
from ulak.api.pages.visits import YEAR_SECONDS, Member, Site
from ulak.core.credentials import CredentialError, generated_secret, resolve_reference
from ulak.core.logging import get_logger
from ulak.core.secret_strength import is_example
from ulak.core.settings import Settings
from ulak.models.account import list_accounts
from ulak.models.results import Line, total_of
from ulak.providers.codes import explain_credits
from ulak.providers.registry import ADAPTERS
from ulak.tasks.runtime import Runtime
from ulak.workers.connections import paces
from ulak.workers.generated_secrets import api_token
from ulak.workers.weak_secrets import short_path_secrets, short_settings

log = get_logger(__name__)

SECRET: Final = "page_secret"  # noqa: S105 - the name of a file
MIN_SECRET_LENGTH: Final = 32

router = APIRouter(route_class=PageRoute, include_in_schema=False, default_response_class=Response)


PARTS: Final = (
    router,
    *(each.router for each in (account, results, polls, deliveries, actions, unprocessed_actions, sign_on_routes)),
)
"""Every page and button."""


def add_pages(api: FastAPI, runtime: Runtime, settings: Settings, receiver_faults: Sequence[str] = ()) -> None:
    """Add the status page to what `ulak.api.app.make_api` made."""
    deps: Dependencies = api.state.deps
    keys = Keys(_secret(settings))
    sign_on = sign_on_for(settings)
    api.state.pages = Site(
        runtime=runtime,
        settings=settings,
        sessions=Sessions(engine=runtime.engine, keys=keys, token=api_token(settings), sign_on=sign_on),
        form_marks=FormMarks(keys.box("form")),
        seal=Seal(keys.box("search")),
        overviews=overviews_for(runtime.engine, runtime, settings, receiver_faults),
        templates=environment(),
        publish=deps.send,
        failed=deps.failed,
        recorder=deps.recorder,
        sign_on=sign_on,
        attempts=keys.box("sign-on"),
        push_only=frozenset(name for name, adapter in ADAPTERS.items() if not adapter.record.is_pulled),
    )
    for part in PARTS:
        api.include_router(part)
    add_error_pages(api)
    api.mount("/static", KeptFiles(directory=STATIC), name="static")


def overviews_for(
    engine: Engine, runtime: Runtime, settings: Settings, receiver_faults: Sequence[str] = ()
) -> OverviewCache:
    """Looks at the system through this engine."""
    return OverviewCache(
        engine,
        {name: pace.every_seconds for name, pace in paces().items()},
        lambda connection: _short_secrets(connection, runtime, settings),
        receiver_faults,
    )


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


def _secret(settings: Settings) -> str:
    """What signs sessions; `CredentialError` where the configured file holds no secret.

    Without such a file it is kept in the home, or where that cannot be written known to this process alone.
    """
    if settings.page_secret_file is not None:
        secret = resolve_reference(f"file:{settings.page_secret_file}")
        if len(secret) < MIN_SECRET_LENGTH or is_example(secret):
            fault = "an example" if is_example(secret) else "too short"
            raise CredentialError(
                f"The secret in {settings.page_secret_file} is {fault}: give at least {MIN_SECRET_LENGTH} characters."
            )
        return secret
    try:
        return generated_secret(settings.home, SECRET, lambda: token_urlsafe(32))
    except OSError as error:
        log.warning("page.secret_not_stored", home=str(settings.home), error=error.strerror)
        return token_urlsafe(32)


@router.get("/")
def show_overview(seen: Member) -> Response:
    """What is wrong, what became of the messages of the last day, and how every account is polled."""
    look = seen.look()
    return seen.render_live(
        "overview",
        look=look,
        is_limited=seen.is_limited,
        together=Line(
            key=None,
            figures=total_of(each.last_day.figures for each in look.results.values()),
            usual=total_of(each.last_day.usual for each in look.results.values()),
        ),
        credits_means=explain_credits(each.provider for each in look.accounts),
        title_of=title_of,
        none=NONE,
    )
