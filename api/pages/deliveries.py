"""Deliveries: the newest, searches of them, the same as CSV, and one with its history."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Final

from fastapi import APIRouter
from starlette.responses import Response

from ulak.api.masking import masked_row, masked_value
from ulak.api.pages.delivery_search import Finder, Found
from ulak.api.pages.downloads import MAX_DOWNLOADED, Download, csv_parts
from ulak.api.pages.error_pages import PageRoute
from ulak.api.pages.rendering import Show
from ulak.api.pages.search_form import (
    KINDS,
    NONE,
    OUTCOMES,
    REASONS,
    STATUSES,
    Search,
    needed_role,
    people_sought,
    search_of,
)
from ulak.api.pages.sentences import Sentences, title_of
from ulak.api.pages.visits import ForbiddenError, Form, Member, MissingError, Supporter, Visit
from ulak.models.access import Role
from ulak.models.events import Action
from ulak.models.lookups import MAX_ID, Explanation, Statement, explain
from ulak.models.newest_deliveries import Place
from ulak.workers.audit_recording import Row, people_of

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

router = APIRouter(route_class=PageRoute, include_in_schema=False, default_response_class=Response)


@router.get("/deliveries")
def show_deliveries(seen: Member, q: str = "", before: str = "") -> Response:
    """The newest deliveries that match; of a search for people or references, by its sealed form."""
    search, is_old = _search(seen, q)
    _admit(seen, search)
    show = seen.show
    with seen.site.runtime.engine.connect() as connection:
        found = Finder(connection, seen.access, show, seen.site.recorder).find(search, before=place_of(before))
    here = f"q={q}" if q and not is_old else search.query
    return seen.render(
        "deliveries.html",
        found=found,
        asked=search,
        is_old=is_old,
        accounts=sorted(seen.zones()),
        statuses=STATUSES,
        outcomes=OUTCOMES,
        reasons=(*REASONS, NONE),
        kinds=KINDS,
        many=_many(search),
        is_first=not before,
        same=here,
        following=_address(here, found),
        most=MAX_DOWNLOADED,
    )


@router.post("/deliveries")
def search_deliveries(seen: Member, form: Form) -> Response:
    """Turn the form's query into an address: sealed if it contains a recipient or an id."""
    search = search_of(form)
    if search.is_named:
        return seen.go(f"/deliveries?q={seen.site.seal.close(search)}")
    return seen.go(f"/deliveries?{search.query}")


@router.get("/deliveries.csv")
def download_deliveries(seen: Member, q: str = "") -> Response:
    """The same as a file, numbers masked as on the page, sent as it is read; 429 while others are downloaded."""
    search, is_old = _search(seen, q)
    if is_old:
        raise MissingError
    _admit(seen, search)

    def refusal() -> Response:
        return seen.render("error.html", status=HTTPStatus.TOO_MANY_REQUESTS, text="error.downloads")

    return Download(csv_parts(seen, search), seen.site.downloads, refusal)


def _search(seen: Visit, sealed: str) -> tuple[Search, bool]:
    """What the address asks for, and whether it cannot be shown any more."""
    if not sealed:
        return search_of({name: seen.request.query_params[name] for name in _open_fields(seen)}), False
    search = seen.site.seal.open(sealed)
    return search or Search(), search is None


def _open_fields(seen: Visit) -> list[str]:
    """The fields that may appear in plain text in an address: none that identifies a person."""
    named = {"recipient", "client_ref", "id"}
    return [name for name in Search.__struct_fields__ if name in seen.request.query_params and name not in named]


def _many(search: Search) -> int:
    """How many numbers or references are looked for."""
    return max(len(search.recipients), len(search.references))


def _address(here: str, found: Found) -> str | None:
    """The address of the next page."""
    if found.before is None:
        return None
    when, row_id = found.before
    place = f"{(when - _EPOCH) // timedelta(microseconds=1)}-{row_id}"
    return f"/deliveries?{here}{'&' if here else ''}before={place}"


def place_of(text: str) -> Place | None:
    """The continuation of a listing from its address; None for anything else."""
    micros, _, row_id = text.partition("-")
    if not (micros.isascii() and micros.isdigit() and row_id.isascii() and row_id.isdigit()):
        return None
    try:
        when = _EPOCH + timedelta(microseconds=int(micros))
    except (OverflowError, ValueError):
        return None
    return (when, int(row_id)) if len(row_id) <= len(str(MAX_ID)) and int(row_id) <= MAX_ID else None


def _admit(seen: Visit, search: Search) -> None:
    """Refuse a search that the visitor may not make; record at every page of it that it looks for people.

    Nothing is recorded about an account that the visitor may not know, or may not search for people.
    """
    needed, account = needed_role(search), search.account or None
    if account is not None:
        seen.admit(needed, account)
    elif not seen.access.may(needed):
        raise ForbiddenError
    people, recorder = people_sought(search), seen.site.recorder
    if people and seen.access.may(Role.SUPPORT, account):
        marks = recorder.marks(people)
        recorder.try_add(*(seen.event(Action.PERSON_SEARCHED, person=mark, account=account) for mark in marks))


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
        found = explain(connection, delivery_id) if delivery_id <= MAX_ID else None
    if found is None or not seen.access.may(Role.READ, found.delivery["account_id"]):
        raise MissingError
    return found


def _masked(each: Statement, people: Sequence[str]) -> Statement:
    """The statement without these people's numbers."""
    shown = {name: masked_value(getattr(each.observation, name), people) for name in ("facts", "statement")}
    return replace(each, observation=replace(each.observation, **shown))


def _render_delivery(
    seen: Visit, found: Explanation, row: Row, statements: Sequence[Statement], *, is_revealed: bool = False
) -> Response:
    # The page shows the history as it happened; the explanation begins with the greatest.
    line = sorted(statements, key=lambda each: each.place)
    show: Show = seen.show
    return seen.render(
        "delivery.html",
        row=row,
        line=line,
        conflicting=found.conflicting,
        is_revealed=is_revealed,
        sentence=Sentences(show).of(row, found.statements),
        title_of=title_of,
        here=f"/deliveries/{row['id']}",
    )
