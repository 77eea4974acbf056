"""Who asks, and what they may do: each route of the task API names the role that it needs.

What belongs to an account that the caller may not see is answered as if it were not there.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.routing import APIRoute

from ulak.api.problems import ProblemError, unknown_account
from ulak.models.access import Access, Role
from ulak.models.events import Action, Actor, Event, Via


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The sender of the request."""

    actor: Actor
    access: Access

    def event(self, action: Action, **more: Any) -> Event:
        """What this caller did through the task API."""
        return Event(action=action, actor=self.actor, via=Via.API, **more)

    def admit(self, role: Role, account: str) -> None:
        """404 where the caller may not know of the account, 403 where it may not do this with it."""
        if not self.access.may(Role.READ, account):
            raise unknown_account()
        if not self.access.may(role, account):
            raise forbidden(role)

    def scope(self, role: Role, account: str | None) -> frozenset[str] | None:
        """The accounts, narrowed to one if it is named, for which the caller has the role; None: all. As `admit`."""
        if account is not None:
            self.admit(role, account)
            return frozenset({account})
        if not self.access.may(role):
            raise forbidden(role)
        return self.access.accounts(role)


@dataclass(frozen=True, slots=True)
class Needs:
    """Refuses who has this role for no account at all; each handler looks at its account by `Caller.admit`."""

    role: Role

    def __call__(self, request: Request) -> None:
        """Raise 403."""
        if not caller_of(request).access.may(self.role):
            raise forbidden(self.role)


def caller_of(request: Request) -> Caller:
    """Whom the guard let in."""
    caller: Caller = request.state.who
    return caller


Who = Annotated[Caller, Depends(caller_of)]
NEEDS_READ, NEEDS_SUPPORT, NEEDS_OPERATE, NEEDS_ADMIN = (Depends(Needs(role)) for role in Role)


def forbidden(role: Role) -> ProblemError:
    """403 that names the role."""
    detail = (
        f"Your token may not do this: it takes the role {role.value} (`ulak tokens create NAME --role {role.value}`)."
    )
    return ProblemError(HTTPStatus.FORBIDDEN, detail)


def roles_of(routes: Iterable[Any]) -> Iterator[tuple[APIRoute, Role]]:
    """The role of every route. `RuntimeError` for one that names none: it would be open to every token."""
    for route in routes:
        if not isinstance(route, APIRoute):
            raise TypeError(f"{route} is no route")
        named = [need.role for each in route.dependencies if isinstance(need := each.dependency, Needs)]
        if len(named) != 1:
            raise RuntimeError(f"{route.path} must name one role, and names {len(named)}")
        yield route, named[0]
