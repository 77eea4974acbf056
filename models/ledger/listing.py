"""Polls as people and programs see them. Nothing here writes."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, case, select

from ulak.models.tables import accounts, polls

_KIND = case((polls.c.trigger == "schedule", "plan"), else_="on_demand").label("kind")
_COLUMNS = [*(column for column in polls.c if column.name not in {"ids", "sweep_through", "kind"}), _KIND]


def find_poll(connection: Connection, poll_id: int) -> RowMapping | None:
    """One poll with its progress; None where there is none."""
    return connection.execute(select(*_COLUMNS).where(polls.c.id == poll_id)).mappings().one_or_none()


def key_of_task(task_id: str) -> str:
    """The idempotency key of a poll that a Celery task opened: apart from those that callers choose."""
    return f"task:{task_id}"


def polls_of_key(connection: Connection, *keys: str) -> Sequence[RowMapping]:
    """Polls opened with one of these idempotency keys, with `ids` as they were asked for.

    A key belongs to an account, so the unique index is asked once for each account.
    """
    query = select(polls).select_from(accounts.join(polls, polls.c.account_id == accounts.c.id))
    return connection.execute(query.where(polls.c.idempotency_key.in_(keys)).order_by(polls.c.id)).mappings().all()


def running_on_demand(
    connection: Connection, *, account: str | None = None, accounts: Collection[str] | None = None, limit: int = 100
) -> Sequence[RowMapping]:
    """On-demand polls that have not ended, the newest first; `accounts`: only of these."""
    wanted = [polls.c.state == "running", polls.c.trigger != "schedule"]
    if account is not None:
        wanted.append(polls.c.account_id == account)
    if accounts is not None:
        wanted.append(polls.c.account_id.in_(sorted(accounts)))
    query = select(*_COLUMNS).where(*wanted).order_by(polls.c.id.desc()).limit(limit)
    return connection.execute(query).mappings().all()


def list_polls(
    connection: Connection,
    *,
    account: str | None = None,
    accounts: Collection[str] | None = None,
    state: str | None = None,
    limit: int = 100,
    before_id: int | None = None,
) -> Sequence[RowMapping]:
    """Polls, the newest first; the last id is the cursor (`before_id`) of the next page. `accounts`: only of these."""
    given: tuple[tuple[ColumnElement[Any], Any], ...] = ((polls.c.account_id, account), (polls.c.state, state))
    wanted = [column == value for column, value in given if value is not None]
    if accounts is not None:
        wanted.append(polls.c.account_id.in_(sorted(accounts)))
    if before_id is not None:
        wanted.append(polls.c.id < before_id)
    query = select(*_COLUMNS).where(*wanted).order_by(polls.c.id.desc()).limit(limit)
    return connection.execute(query).mappings().all()
