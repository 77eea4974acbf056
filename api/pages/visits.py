"""One request of one visitor: who it is, in which language, with which forms; and the answers it may get."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from http import HTTPStatus
from secrets import token_urlsafe
from threading import BoundedSemaphore
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl

from cryptography.fernet import Fernet
from fastapi import Depends, Request
from jinja2 import Environment
from starlette.responses import HTMLResponse, RedirectResponse, Response

from ulak.api.authorization import Caller
from ulak.api.dependencies import Publish
from ulak.api.pages.alarms import alarms_of
from ulak.api.pages.language import CATALOGUES, Language, choose
from ulak.api.pages.overview_cache import OverviewCache, Snapshot
from ulak.api.pages.rendering import Show
from ulak.api.pages.search_form import Seal
from ulak.api.pages.sessions import SESSION_TTL, FormMarks, Seat, Session, Sessions
from ulak.api.pages.sign_on import SignOn
from ulak.core import clock
from ulak.core.settings import Settings
from ulak.models.access import Access, Role
from ulak.models.events import Action, Event, Via
from ulak.tasks.runtime import Runtime
from ulak.workers.audit_recording import Recorder
from ulak.workers.auth_attempts import FailedAttempts

SESSION_COOKIE, VISIT_COOKIE, LANGUAGE_COOKIE = "ulak_session", "ulak_visit", "ulak_language"
SIGN_ON_COOKIE = "ulak_sign_on"
YEAR_SECONDS = 365 * 24 * 3600
FORM_CAP_BYTES = 16 * 1024
MAX_FIELDS = 30
FLOWER_PORT = 5555
DOWNLOADS_AT_ONCE = 2
"""Of the process: each holds a thread and a connection while it reads."""
NOTICE = "notice"
"""The query's name for what an action did: a key among the texts, never a text."""

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Pages hold people's numbers: no cache on the way, and none on disk.
    "Cache-Control": "no-store",
}
"""Of every page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What all pages share."""

    runtime: Runtime
    settings: Settings
    sessions: Sessions
    form_marks: FormMarks
    seal: Seal
    overviews: OverviewCache
    templates: Environment
    publish: Publish
    push_only: frozenset[str]
    """Providers that are never asked."""
    failed: FailedAttempts
    """Shared with the task API and the callbacks."""
    recorder: Recorder
    sign_on: SignOn | None
    attempts: Fernet
    """Seals what a log-in by single sign-on began with."""
    downloads: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(DOWNLOADS_AT_ONCE))

    def cookie_name(self, name: str) -> str:
        """The cookie's name; `__Host-` lets a browser take it from this host over https only, from no neighbour of it.

        RFC 6265bis, section 4.1.3.2.
        """
        return f"__Host-{name}" if self.settings.is_https else name

    def cookie(self, request: Request, name: str) -> str | None:
        """What the visitor's cookie of this name holds."""
        return request.cookies.get(self.cookie_name(name))


class PageError(Exception):
    """Ends a request with a page of its own."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    template = "error.html"
    text = "error.missing"


class LoginNeededError(PageError):
    """Nobody is logged in."""

    status = HTTPStatus.UNAUTHORIZED
    template = "login.html"


class MissingError(PageError):
    """There is no such account, delivery or poll."""

    status = HTTPStatus.NOT_FOUND


class ForbiddenError(PageError):
    """The visitor's role does not do."""

    status = HTTPStatus.FORBIDDEN
    text = "error.role"


class FormRefusedError(PageError):
    """The form did not come from a page of this visitor."""

    status = HTTPStatus.FORBIDDEN
    text = "error.form"


class FormTooLargeError(PageError):
    """More bytes than any form of ours has."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    text = "error.too_large"


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One request."""

    site: Site
    request: Request
    language: Language
    seat: Seat | None
    id: str
    """What this visitor's forms are bound to: the session, before it a cookie of its own."""

    @property
    def session(self) -> Session | None:
        """The session of a logged-in visitor."""
        return None if self.seat is None else self.seat.session

    @property
    def access(self) -> Access:
        """What the visitor may do; nothing for an anonymous one."""
        return Access() if self.seat is None else self.seat.caller.access

    @property
    def caller(self) -> Caller:
        """The logged-in user; raises `LoginNeededError` if there is none."""
        if self.seat is None:
            raise LoginNeededError
        return self.seat.caller

    def event(self, action: Action, **more: Any) -> Event:
        """What this visitor did or saw."""
        return Event(action=action, actor=self.caller.actor, via=Via.PAGE, **more)

    def admit(self, role: Role, account: str) -> None:
        """`MissingError` where the visitor may not know of the account, `ForbiddenError` where the role does not do."""
        if not self.access.may(Role.READ, account):
            raise MissingError
        if not self.access.may(role, account):
            raise ForbiddenError

    @property
    def is_limited(self) -> bool:
        """Whether the visitor may see some accounts alone."""
        return not self.access.may_everywhere(Role.READ)

    def look(self) -> Snapshot:
        """The state of everything that the visitor may see."""
        look = self.site.overviews.look()
        if not self.is_limited:
            return look
        known = [account for account in look.accounts if self.access.may(Role.READ, account.id)]
        alarms = alarms_of(known, look.alarms)
        results = {account: each for account, each in look.results.items() if self.access.may(Role.READ, account)}
        return replace(look, accounts=known, alarms=alarms, results=results)

    @property
    def show(self) -> Show:
        """How values look to the visitor."""
        return Show(self.language, self.zones())

    def zones(self) -> Mapping[str, str]:
        """The time zone of each account that the visitor may see; empty for an anonymous visitor."""
        if self.seat is None:
            return {}
        zones = self.site.overviews.zones()
        return {account: zone for account, zone in zones.items() if self.access.may(Role.READ, account)}

    @property
    def form_mark(self) -> str:
        """What every form of this visitor carries, and no other site can know."""
        return self.site.form_marks.make(self.id)

    def render(self, template: str, *, status: HTTPStatus = HTTPStatus.OK, **values: Any) -> Response:
        """A page."""
        body = self.site.templates.get_template(template).render(self._context() | values)
        response = HTMLResponse(body, status_code=status, headers=dict(HEADERS))
        if self.session is None:
            self._keep(response, VISIT_COOKIE, self.id, SESSION_TTL)
        return response

    def render_live(self, name: str, **values: Any) -> Response:
        """The page, or for its script only the part that changes."""
        is_fragment = "fragment" in self.request.query_params
        return self.render(f"_{name}.html" if is_fragment else f"{name}.html", **values)

    def go(self, path: str, notice: str | None = None) -> Response:
        """On to another page, to be read with GET."""
        query = f"{'&' if '?' in path else '?'}{NOTICE}={notice}" if notice else ""
        return RedirectResponse(f"{path}{query}", HTTPStatus.SEE_OTHER, headers=dict(HEADERS))

    def log_in(self, response: Response, session: Session) -> None:
        """Give the session to the browser."""
        self._keep(response, SESSION_COOKIE, self.site.sessions.write(session, clock.now()), SESSION_TTL)
        self._forget(response, VISIT_COOKIE)

    def log_out(self, response: Response) -> None:
        """Take it back."""
        self._forget(response, SESSION_COOKIE)

    def speak(self, response: Response, language: str) -> None:
        """Remember the language."""
        self._keep(response, LANGUAGE_COOKIE, language, timedelta(seconds=YEAR_SECONDS))

    def begin_sign_on(self, response: Response, sealed: str, lasts: timedelta) -> None:
        """Remember what the log-in began with. Lax: the provider's page sends the browser back."""
        self._keep(response, SIGN_ON_COOKIE, sealed, lasts, samesite="lax")

    def end_sign_on(self, response: Response) -> None:
        """Forget it."""
        self._forget(response, SIGN_ON_COOKIE)

    def _keep(
        self,
        response: Response,
        name: str,
        value: str,
        lasts: timedelta,
        samesite: Literal["strict", "lax"] = "strict",
    ) -> None:
        seconds, name = int(lasts.total_seconds()), self.site.cookie_name(name)
        response.set_cookie(
            name, value, max_age=seconds, path="/", httponly=True, samesite=samesite, secure=self._is_secure()
        )

    def _forget(self, response: Response, name: str) -> None:
        name = self.site.cookie_name(name)
        response.delete_cookie(name, path="/", httponly=True, samesite="strict", secure=self._is_secure())

    def _is_secure(self) -> bool:
        """According to `ULAK_PUBLIC_URL`; if unset, according to this request."""
        if self.site.settings.public_url is not None:
            return self.site.settings.is_https
        return self.request.url.scheme == "https"

    def _context(self) -> dict[str, Any]:
        notice = self.request.query_params.get(NOTICE, "")
        known = f"notice.{notice}" in CATALOGUES[self.language.code]
        return {
            "t": self.language.html,
            "language": self.language,
            "word": self.language.word,
            "lang": self.language.code,
            "show": self.show,
            "session": self.session,
            "nav": self.session is not None,
            "may": lambda role, account=None: self.access.may(Role(role), account),
            "sso": self.site.sign_on is not None,
            "form_mark": self.form_mark,
            "once": token_urlsafe(9),
            "notice": f"notice.{notice}" if known else None,
            "here": self.here(),
            "path": self.request.url.path,
            "server_now": int(clock.now().timestamp() * 1000),
            "flower": self._flower(),
            "push_only": self.site.push_only,
        }

    def here(self) -> str:
        """This page's own address, to come back to."""
        query = self.request.url.query
        return self.request.url.path + (f"?{query}" if query else "")

    def _flower(self) -> str:
        """Where people reach Flower: as it is set, else on the host that this page was asked for."""
        if self.site.settings.flower_url is not None:
            return self.site.settings.flower_url
        host = self.request.url.hostname or self.site.settings.bind
        host = f"[{host}]" if ":" in host else host
        return f"{self.request.url.scheme}://{host}:{self.site.settings.flower_port or FLOWER_PORT}/"


def visit(request: Request) -> Visit:
    """Whoever asks."""
    site: Site = request.app.state.pages
    cookie = site.cookie(request, SESSION_COOKIE)
    seat = None if cookie is None else site.sessions.read(cookie, clock.now())
    if seat is not None:
        request.state.caller = seat.caller.actor.caller
    return _visit(site, request, seat)


def may_be_known(request: Request) -> bool:
    """Whether the browser brings a session, which may not be looked up now."""
    site: Site = request.app.state.pages
    return site.cookie(request, SESSION_COOKIE) is not None


def anonymous(request: Request) -> Visit:
    """The same without asking who it is, which may need a database that is away."""
    return _visit(request.app.state.pages, request, None)


def _visit(site: Site, request: Request, seat: Seat | None) -> Visit:
    language = choose(site.cookie(request, LANGUAGE_COOKIE), request.headers.get("accept-language"))
    visit_id = seat.session.id if seat else site.cookie(request, VISIT_COOKIE) or token_urlsafe(18)
    return Visit(site=site, request=request, language=language, seat=seat, id=visit_id)


def member(seen: Annotated[Visit, Depends(visit)]) -> Visit:
    """Whoever is logged in; the log-in form for everybody else."""
    if seen.session is None:
        raise LoginNeededError
    return seen


def needs(role: Role) -> Callable[[Visit], Visit]:
    """The visitor who is logged in and has the role; where the address names an account, for that account."""

    def member_with_role(seen: Annotated[Visit, Depends(member)]) -> Visit:
        account = seen.request.path_params.get("account")
        if account is not None:
            seen.admit(role, account)
        elif not seen.access.may(role):
            raise ForbiddenError
        return seen

    return member_with_role


async def fields(request: Request) -> Mapping[str, str]:
    """The fields of a form; of a name that comes twice the last."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > FORM_CAP_BYTES:
            raise FormTooLargeError
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError:
        raise FormRefusedError from None


Fields = Annotated[Mapping[str, str], Depends(fields)]
Anyone = Annotated[Visit, Depends(visit)]
Member = Annotated[Visit, Depends(needs(Role.READ))]
Supporter = Annotated[Visit, Depends(needs(Role.SUPPORT))]
Operator = Annotated[Visit, Depends(needs(Role.OPERATE))]


def check_form(seen: Visit, form: Mapping[str, str]) -> None:
    """Refuse a form that another site made this visitor send."""
    if not seen.site.form_marks.fits(seen.id, form.get("form_mark", "")):
        raise FormRefusedError


def member_form(seen: Annotated[Visit, Depends(member)], form: Fields) -> Mapping[str, str]:
    """The fields of a form that a logged-in user submitted from our own page."""
    check_form(seen, form)
    return form


Form = Annotated[Mapping[str, str], Depends(member_form)]


def local_path(wanted: str) -> str:
    """Where to go after a form: an address within these pages, or the beginning."""
    # One slash, and none that a browser reads as a second: no parser is needed, which could raise or read it otherwise.
    is_local = wanted.startswith("/") and not wanted.startswith("//") and "\\" not in wanted
    return wanted if is_local and wanted.isprintable() else "/"
