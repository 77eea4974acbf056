"""Which sessions of the status page are over, for every API process.

A session lives in its cookie. What ends it early is stored here (log-out) or with its token (revocation).
"""

from datetime import timedelta

from sqlalchemy import Connection, delete, exists, func, select
from sqlalchemy.dialects.postgresql import insert

from models.tables import api_tokens, ended_sessions


def end_session(connection: Connection, session_id: str, *, lasts: timedelta) -> None:
    """Refuse the session from the commit on; `lasts`: how long its cookie would be valid at most."""
    values = insert(ended_sessions).values(id=session_id, expires_at=func.now() + lasts)
    connection.execute(values.on_conflict_do_nothing())


def is_valid(connection: Connection, session_id: str, *, token_name: str | None) -> bool:
    """Whether nobody ended the session and its token, where a named one opened it, is not revoked."""
    is_over = exists().where(ended_sessions.c.id == session_id)
    query = select(~is_over)
    if token_name is not None:
        is_held = exists().where(api_tokens.c.name == token_name, api_tokens.c.revoked_at.is_(None))
        query = select(~is_over & is_held)
    return bool(connection.execute(query).scalar_one())


def prune(connection: Connection) -> int:
    """Delete sessions whose cookie has expired; returns how many."""
    return connection.execute(delete(ended_sessions).where(ended_sessions.c.expires_at < func.now())).rowcount
