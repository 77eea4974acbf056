"""Which sessions of the status page are over, for every API process, and what the others open.

A session lives in its cookie. What ends it early is stored here (log-out, or all sessions of a person) or with its
token (revocation).
"""

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, delete, exists, func, select
from sqlalchemy.dialects.postgresql import insert

from ulak.models.access import Access, grant_of
from ulak.models.tables import api_tokens, ended_people, ended_sessions

MAX_SESSION_AGE = timedelta(hours=12)
"""How long a session may last."""


def database_now(connection: Connection) -> datetime:
    """The moment at which a session is opened, by the clock that ends it."""
    moment: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return moment


def end_session(connection: Connection, session_id: str, *, lasts: timedelta) -> bool:
    """Refuse the session from the commit on; `lasts`: how long its cookie would be valid at most.

    False where it was over already: of several callers one gets True.
    """
    values = insert(ended_sessions).values(id=session_id, expires_at=func.now() + lasts).on_conflict_do_nothing()
    return connection.execute(values.returning(ended_sessions.c.id)).one_or_none() is not None


def end_sessions_of(connection: Connection, person: str) -> None:
    """Refuse all sessions of a person that were opened until now."""
    values = insert(ended_people).values(person=person)
    again = {"ended_at": func.clock_timestamp()}
    connection.execute(values.on_conflict_do_update(index_elements=["person"], set_=again))


def is_valid(
    connection: Connection, session_id: str, *, person: str | None = None, since: datetime | None = None
) -> bool:
    """Whether nobody ended the session, nor, where a person's is given with its beginning, all of that person's."""
    is_over: ColumnElement[bool] = exists().where(ended_sessions.c.id == session_id)
    if person is not None:
        is_over = is_over | exists().where(ended_people.c.person == person, ended_people.c.ended_at >= since)
    return not connection.execute(select(is_over)).scalar_one()


def access_of_token(connection: Connection, name: str) -> Access | None:
    """What the named token opens at this moment; None where it is revoked."""
    table = api_tokens.c
    query = select(table.role, table.accounts).where(table.name == name, table.revoked_at.is_(None))
    row = connection.execute(query).one_or_none()
    return None if row is None else grant_of(row.role, row.accounts)


def prune(connection: Connection) -> int:
    """Delete what ends sessions whose cookies have expired; returns how many."""
    sessions = connection.execute(delete(ended_sessions).where(ended_sessions.c.expires_at < func.now())).rowcount
    people = connection.execute(
        delete(ended_people).where(ended_people.c.ended_at < func.now() - 2 * MAX_SESSION_AGE)
    ).rowcount
    return sessions + people
