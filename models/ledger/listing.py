"""Polls as people and programs see them. Nothing here writes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Connection, Select, case, func, not_, or_, select

from ulak.models.tables import accounts, polls

_KIND = case((polls.c.trigger == "schedule", "plan"), else_="on_demand").label("kind")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedPoll:
    """A poll with its progress."""

    id: int
    account_id: str
    trigger: str
    idempotency_key: str | None
    scheduled_for: datetime | None
    window_from: date | None
    window_to: date | None
    planned_at: datetime | None
    state: str
    open_fetches: int
    fetches: int
    dead: int
    calls: int
    reports: int
    new: int
    advanced: int
    unchanged: int
    drifting: bool
    taken_over_by: int | None
    started_at: datetime
    finished_at: datetime | None
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedPoll(ListedPoll):
    """A poll that was opened with an idempotency key."""

    ids: Sequence[Mapping[str, str]] | None
    """As they were asked for."""


_FIELDS = fields(ListedPoll)
_COLUMNS = [_KIND if each.name == "kind" else polls.c[each.name] for each in _FIELDS]

SCANNED_POLLS: Final = 5_000
"""How many polls, one after the other, a page of notable ones reads at most: scheduled ones come every few seconds."""
Notable = Literal["changed", "failed", "running"]
_CHANGED = or_(polls.c.new > 0, polls.c.advanced > 0)
_FAILED = or_(polls.c.dead > 0, polls.c.state == "complete_with_errors")
_RUNNING = polls.c.state == "running"
_OF_PEOPLE = polls.c.trigger != "schedule"
# A scheduled poll that has just begun is no news yet: the next one is seconds away.
_NEWS = or_(_CHANGED, _FAILED, _OF_PEOPLE)
_KINDS: dict[Notable | None, ColumnElement[bool]] = {
    None: _NEWS,
    "changed": _CHANGED,
    "failed": _FAILED,
    "running": _RUNNING,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NotablePoll:
    """A poll that changed something, failed, or was opened by a person, and the scheduled ones without news before."""

    poll: ListedPoll | None
    """None for the quiet ones that are newer than all that is notable, and for those that end a part."""
    quiet: int
    """How many polls without news lie between this one and the notable one before it in time."""
    quiet_from: datetime | None
    quiet_to: datetime | None
    """When the first and the last of these began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotablePolls:
    """A page of them, the newest first."""

    polls: Sequence[NotablePoll]
    before_id: int | None
    """The cursor of the next page; None where there are no older polls."""


def find_poll(connection: Connection, poll_id: int) -> ListedPoll | None:
    """One poll with its progress; None where there is none."""
    return next(iter(_read(connection, select(*_COLUMNS).where(polls.c.id == poll_id))), None)


def _read(connection: Connection, query: Select[Any]) -> Sequence[ListedPoll]:
    return [ListedPoll(**row) for row in connection.execute(query).mappings()]


def key_of_task(task_id: str) -> str:
    """The idempotency key of a poll that a Celery task opened: apart from those that callers choose."""
    return f"task:{task_id}"


def polls_of_key(connection: Connection, *keys: str) -> Sequence[KeyedPoll]:
    """Polls opened with one of these idempotency keys.

    A key belongs to an account, so the unique index is asked once for each account.
    """
    query = select(*_COLUMNS, polls.c.ids).select_from(accounts.join(polls, polls.c.account_id == accounts.c.id))
    query = query.where(polls.c.idempotency_key.in_(keys)).order_by(polls.c.id)
    return [KeyedPoll(**row) for row in connection.execute(query).mappings()]


def running_on_demand(
    connection: Connection, *, account: str | None = None, accounts: Collection[str] | None = None, limit: int = 100
) -> Sequence[ListedPoll]:
    """On-demand polls that have not ended, the newest first; `accounts`: only of these."""
    wanted = [polls.c.state == "running", polls.c.trigger != "schedule"]
    if account is not None:
        wanted.append(polls.c.account_id == account)
    if accounts is not None:
        wanted.append(polls.c.account_id.in_(sorted(accounts)))
    query = select(*_COLUMNS).where(*wanted).order_by(polls.c.id.desc()).limit(limit)
    return _read(connection, query)


def list_polls(
    connection: Connection,
    *,
    account: str | None = None,
    accounts: Collection[str] | None = None,
    state: str | None = None,
    limit: int = 100,
    before_id: int | None = None,
) -> Sequence[ListedPoll]:
    """Polls, the newest first; the last id is the cursor (`before_id`) of the next page. `accounts`: only of these."""
    given: tuple[tuple[ColumnElement[Any], Any], ...] = ((polls.c.account_id, account), (polls.c.state, state))
    wanted = [column == value for column, value in given if value is not None]
    if accounts is not None:
        wanted.append(polls.c.account_id.in_(sorted(accounts)))
    if before_id is not None:
        wanted.append(polls.c.id < before_id)
    query = select(*_COLUMNS).where(*wanted).order_by(polls.c.id.desc()).limit(limit)
    return _read(connection, query)


def list_notable(
    connection: Connection,
    *,
    account: str | None = None,
    accounts: Collection[str] | None = None,
    kind: Notable | None = None,
    limit: int = 50,
    before_id: int | None = None,
) -> NotablePolls:
    """Polls with news, the newest first, each with the number of those without that came before it.

    `kind`: only those that changed something, failed, or are running; the others count as without news. Reads at most
    `SCANNED_POLLS` polls: a page may have few rows and still have a next. `accounts`: only of these.
    """
    wanted = [polls.c.account_id == account] if account is not None else []
    wanted += [polls.c.account_id.in_(sorted(accounts))] if accounts is not None else []
    wanted += [polls.c.id < before_id] if before_id is not None else []
    is_news = _KINDS[kind].label("is_news")
    scan = select(polls.c.id, polls.c.started_at, is_news).where(*wanted).order_by(polls.c.id.desc())
    part = scan.limit(SCANNED_POLLS).cte("part")
    place = func.sum(case((part.c.is_news, 1), else_=0)).over(order_by=part.c.id.desc()).label("place")
    placed = select(part, place).cte("placed")
    quiet = not_(placed.c.is_news)
    groups = (
        select(
            func.max(placed.c.id).filter(placed.c.is_news).label("id"),
            func.count().filter(quiet).label("quiet"),
            func.min(placed.c.started_at).filter(quiet).label("quiet_from"),
            func.max(placed.c.started_at).filter(quiet).label("quiet_to"),
            func.min(placed.c.id).label("last_id"),
        )
        .group_by(placed.c.place)
        .order_by(placed.c.place)
        .limit(limit + 1)
        .cte("groups")
    )
    listed = groups.outerjoin(polls, polls.c.id == groups.c.id)
    query = select(groups.c.id.label("found"), groups.c.quiet, groups.c.quiet_from, groups.c.quiet_to, *_COLUMNS)
    query = query.add_columns(groups.c.last_id, select(func.count()).select_from(part).scalar_subquery().label("read"))
    rows = connection.execute(query.select_from(listed).order_by(groups.c.last_id.desc())).all()
    shown = rows[:limit]
    found = [
        NotablePoll(
            poll=None if row.found is None else ListedPoll(**{each.name: getattr(row, each.name) for each in _FIELDS}),
            quiet=row.quiet,
            quiet_from=row.quiet_from,
            quiet_to=row.quiet_to,
        )
        for row in shown
    ]
    is_last = len(rows) <= limit and (not rows or rows[0].read < SCANNED_POLLS)
    return NotablePolls(polls=found, before_id=None if is_last else shown[-1].last_id)
