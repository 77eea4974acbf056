"""The deliveries that a search finds, the newest first, with how many there are."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, Connection, RowMapping, Text, cast, func, or_

from ulak.api.pages.formats import local_day, start_of
from ulak.api.pages.rendering import Show
from ulak.api.pages.search_form import NONE, Search, day_of, needed_role
from ulak.models.access import Access, Role
from ulak.models.ledger.ending import database_now
from ulak.models.lookups import find_by_any
from ulak.models.meanings import Outcome, outcome_of
from ulak.models.newest_deliveries import (
    Filters,
    Named,
    Place,
    conditions_of,
    newest_named,
    newest_of_accounts,
    of_accounts,
)
from ulak.models.results import total_of
from ulak.models.searches import open_tracked
from ulak.models.statistics import By, Figures, Group, count_days
from ulak.models.tables import delivery_status
from ulak.models.vocabulary import Granularity, Status
from ulak.workers.audit_recording import Recorder, forms_of, people_in

PAGE: Final = 50
MAX_PARTS: Final = 3
"""How many parts of the table a page looks through for its rows."""
MAX_PER_ID: Final = 500
USUAL_DAYS: Final = 30
"""How far back filters look where no day is given."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some accounts between two moments."""

    accounts: Sequence[str]
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the statistics say of a search by filters: where its rows are, and how many. The same for all its pages."""

    kind: Granularity
    stretches: Sequence[Stretch]
    total: int
    figures: Figures | None
    since: date | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A page of a search."""

    rows: Sequence[RowMapping]
    before: Place | None = None
    """The cursor of the next page."""
    total: int | None = None
    is_capped: bool = False
    """Whether there are more than `total`."""
    figures: Figures | None = None
    """What became of all that match, where the search is one of filters alone."""
    unanswered: Sequence[RowMapping] = field(default_factory=tuple)
    """Registered ids without any answer, on the first page of a search for people or references."""
    since: date | None = None
    """The first day that was searched, where none was given."""
    scans: int = 1
    """How many parts of the table were read."""
    plan: Plan | None = None
    """For the next page of a search by filters."""


@dataclass(frozen=True, slots=True)
class Finder:
    """Searches what one visitor may see."""

    connection: Connection
    access: Access
    show: Show
    recorder: Recorder

    def find(
        self, search: Search, *, before: Place | None = None, limit: int = PAGE, plan: Plan | None = None
    ) -> Found:
        """One page of what matches and may be known. `plan`: of an earlier page, so that nothing is counted again.

        People are looked for only in the accounts for which the caller has the role support.
        """
        if search.id:
            return self._by_id(search)
        if search.is_named:
            return self._named(search, before, limit)
        return self._filtered(search, before, limit, plan or self._plan(search))

    # ------------------------------------------------------------------------------------------ by what names them

    def _named(self, search: Search, before: Place | None, limit: int) -> Found:
        spellings = self.recorder.spellings(*search.recipients)
        named = Named(recipients=spellings, references=search.references)
        scope = self._scope(search)
        page = newest_named(self.connection, named, self._filters(search), accounts=scope, limit=limit, before=before)
        waiting = [] if before is not None or _is_narrowed(search) else self._unanswered(search, spellings, scope)
        return Found(
            rows=page.rows,
            before=page.before,
            total=page.total,
            is_capped=page.is_capped,
            unanswered=waiting,
        )

    def _unanswered(
        self, search: Search, spellings: Sequence[str], accounts: Collection[str] | None
    ) -> Sequence[RowMapping]:
        return open_tracked(
            self.connection,
            accounts=accounts,
            recipient=spellings or None,
            client_ref=list(search.references) or None,
            limit=PAGE,
        )

    def _by_id(self, search: Search) -> Found:
        """The few rows that an id may mean."""
        people, keys = forms_of(self.recorder, search.id)
        table, sought = delivery_status.c, self.recorder.spellings(*search.recipients)
        only = [*of_accounts(self._scope(search)), *self._may_find(search), *conditions_of(self._filters(search))]
        only += [table.recipient.in_(sought)] if sought else []
        only += [table.client_ref.in_(search.references)] if search.references else []
        rows = find_by_any(self.connection, search.id, people=people, keys=keys, only=only, limit=MAX_PER_ID)
        return Found(rows=list(reversed(rows)), total=len(rows))

    def _may_find(self, search: Search) -> list[ColumnElement[bool]]:
        """Rows that may be found by this id: by a person's only with the role support."""
        searchable = of_accounts(self.access.accounts(Role.SUPPORT))
        if not searchable or people_in(search.id):
            return searchable
        table = delivery_status.c
        by_itself = (cast(table.id, Text), table.provider_key, table.client_ref)
        return [or_(*searchable, *(column == search.id for column in by_itself))]

    # ------------------------------------------------------------------------------------------------- by filters

    def _filtered(self, search: Search, before: Place | None, limit: int, plan: Plan) -> Found:
        """Rows are looked for where the statistics have counted some, a day after the other."""
        rows, following, scans = self._read(search, plan, before, limit)
        return Found(
            rows=rows,
            before=following,
            total=plan.total,
            figures=plan.figures,
            since=plan.since,
            scans=scans,
            plan=plan,
        )

    def _plan(self, search: Search) -> Plan:
        today = local_day(database_now(self.connection), self.show.zone_of(search.account))
        last = day_of(search.until) or today + timedelta(days=1)
        first = day_of(search.since) or min(last, today) - timedelta(days=USUAL_DAYS - 1)
        kind = Granularity(search.kind or Granularity.MESSAGE)
        groups = self._counted(search, kind, first, last)
        return Plan(
            kind=kind,
            stretches=self._stretches(search, groups),
            total=sum(_matching(search, each.figures) for each in groups),
            figures=None if search.outcome or search.status else total_of(each.figures for each in groups),
            since=None if search.since else first,
        )

    def _read(
        self, search: Search, plan: Plan, before: Place | None, limit: int
    ) -> tuple[list[RowMapping], Place | None, int]:
        """Rows of the plan's stretches of time, the start of the next page, and how many parts were read."""
        rows: list[RowMapping] = []
        left = MAX_PARTS
        ahead = [each for each in plan.stretches if before is None or each.since < before[0]]
        for place, stretch in enumerate(ahead):
            filters = self._filters(search, kind=plan.kind, since=stretch.since, until=stretch.until)
            while True:
                page = newest_of_accounts(
                    self.connection, stretch.accounts, filters, limit=limit - len(rows), before=before
                )
                rows += page.rows
                left -= 1
                before = page.before
                if before is None or not left or len(rows) >= limit:
                    break
            is_last = place == len(ahead) - 1
            if before is not None or ((not left or len(rows) >= limit) and not is_last):
                return rows, before or (stretch.since, 0), MAX_PARTS - left
        return rows, None, MAX_PARTS - left

    def _counted(self, search: Search, kind: Granularity, first: date, last: date) -> list[Group]:
        """By account and day, what the statistics have counted of what matches."""
        narrowing = {By.STATUS: search.status, By.REASON: search.reason, By.NUMBER_RANGE: search.range}
        groups = count_days(
            self.connection,
            first,
            last + timedelta(days=1),
            by=[By.ACCOUNT, By.DAY, *(by for by, word in narrowing.items() if word)],
            accounts=self._scope(search),
            granularity=kind,
        )
        return [
            each
            for each in groups
            if (not search.status or each.status == search.status)
            and (not search.reason or (each.reason or NONE) == search.reason)
            and (not search.range or (each.number_range or NONE) == search.range)
        ]

    def _stretches(self, search: Search, groups: Sequence[Group]) -> list[Stretch]:
        """The days with something to find, the newest first; days that overlap, of several zones, are one stretch."""
        found: list[Stretch] = []
        days = {(each.account_id or "", each.day) for each in groups if each.day and _matching(search, each.figures)}
        for account, day in sorted(days, key=lambda each: start_of(each[1], self.show.zone_of(each[0])), reverse=True):
            zone = self.show.zone_of(account)
            since, until = start_of(day, zone), start_of(day + timedelta(days=1), zone)
            if found and found[-1].since < until:
                last = found.pop()
                since, until = min(since, last.since), max(until, last.until)
                found.append(Stretch(sorted({*last.accounts, account}), since, until))
            else:
                found.append(Stretch([account], since, until))
        return found

    # -------------------------------------------------------------------------------------------------------- both

    def _scope(self, search: Search) -> Collection[str] | None:
        """The accounts that may be searched; None: all."""
        known = self.access.accounts(needed_role(search))
        if not search.account:
            return known
        return [search.account] if known is None or search.account in known else []

    def _statuses(self, search: Search) -> list[Status]:
        if search.status:
            return [Status(search.status)]
        return [word for word in Status if search.outcome and outcome_of(word).value == search.outcome]

    def _filters(
        self,
        search: Search,
        *,
        kind: Granularity | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Filters:
        zone = self.show.zone_of(search.account)
        first, last = day_of(search.since), day_of(search.until)
        recipient_range = func.number_range(delivery_status.c.recipient)
        extra = [recipient_range.is_not_distinct_from(None if search.range == NONE else search.range)]
        return Filters(
            statuses=self._statuses(search),
            reasons=[] if search.reason in {"", NONE} else [search.reason],
            granularity=kind.value if kind else search.kind or None,
            since=since or (start_of(first, zone) if first else None),
            until=until or (start_of(last + timedelta(days=1), zone) if last else None),
            extra=[
                *(extra if search.range else ()),
                *((delivery_status.c.reason.is_(None),) if search.reason == NONE else ()),
            ],
        )


def _is_narrowed(search: Search) -> bool:
    """Whether only some of what is named is wanted: then what was never answered is none of it."""
    return bool(search.status or search.outcome or search.reason or search.range or search.kind or search.since)


def _matching(search: Search, figures: Figures) -> int:
    """How many of these messages have the outcome that is wanted."""
    outcomes = {
        Outcome.DELIVERED: figures.delivered,
        Outcome.FAILED: figures.failed,
        Outcome.PENDING: figures.pending,
    }
    return outcomes[Outcome(search.outcome)] if search.outcome else figures.messages
