"""What a failed statement says about PostgreSQL: that it is unavailable, or that it took too long.

The only place that decides this. Everything else is an error of the statement, and therefore ours.
"""

from typing import Final

import psycopg
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

READ_ONLY: Final = "25006"
"""SQLSTATE of a write to a standby, or in a session that may only read: after a failover, to the old primary."""
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_UNAVAILABLE_CLASSES: Final = frozenset(
    {
        "08",  # the connection failed
        "28",  # the login was refused
        "3D",  # the database does not exist (any more)
        "53",  # out of disk, memory or connections
        "58",  # the server's own system failed
    }
)
_UNAVAILABLE: Final = frozenset(
    {
        READ_ONLY,
        "25P03",  # ended by the server for idling in a transaction
        *(f"57P{number:02}" for number in range(1, 6)),  # shutdown, crash, starting up, dropped, idle too long
    }
)
_TOO_SLOW: Final = frozenset(
    {
        "57014",  # our own statement timeout
        "55P03",  # a lock timeout
        "25P04",  # a transaction timeout
        "40P01",  # a deadlock, after all repetitions
        "40001",  # a conflict, after all repetitions
    }
)


def sqlstate_of(error: BaseException) -> str | None:
    """The SQLSTATE behind an error of SQLAlchemy or psycopg; None where the server sent none."""
    source = error.orig if isinstance(error, DBAPIError) else error
    return source.sqlstate if isinstance(source, psycopg.Error) else None


def is_unavailable(error: BaseException) -> bool:
    """Whether nobody gets an answer now, or none that writes: worth a 503, a retry later and a new connection."""
    state = sqlstate_of(error)
    if state is not None:
        return state in _UNAVAILABLE or state[:2] in _UNAVAILABLE_CLASSES
    # Without a SQLSTATE there was no answer: no connection came about, the one at hand broke, or all are in use.
    without_answer = (OperationalError, InterfaceError, PoolTimeoutError, psycopg.OperationalError)
    return isinstance(error, without_answer)


def took_too_long(error: BaseException) -> bool:
    """Whether the server works and gave up on this statement alone: no outage, and the connection stays."""
    return isinstance(error, SQLAlchemyError) and sqlstate_of(error) in _TOO_SLOW
