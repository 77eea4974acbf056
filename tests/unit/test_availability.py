"""One function decides whether PostgreSQL is unavailable; by the SQLSTATE, not by the class of the exception."""

import psycopg
import pytest
from psycopg import errors
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from ulak.models.database_errors import is_unavailable, took_too_long

UNAVAILABLE = [
    *("08000", "08003", "08006", "08001", "08P01", "25006", "25P03", "28000", "28P01", "3D000"),
    *("53000", "53100", "53200", "53300", "53400", "57P01", "57P02", "57P03", "57P04", "57P05"),
    *("58000", "58030", "58P01"),
]
SLOW = ["57014", "55P03", "25P04", "40001", "40P01"]
OTHER = ["22001", "23505", "42P01", "42501", "42703", "25001", "25P01", "55006", "57000", "54000", "XX000", "3F000"]


def wrapped(state: str) -> DBAPIError:
    """The error as SQLAlchemy raises it."""

    class Made(psycopg.Error):
        sqlstate = state

    original = errors.lookup(state)("why") if state in UNAVAILABLE + SLOW and _is_known(state) else Made("why")
    return DBAPIError("SELECT 1", {}, original)


def _is_known(state: str) -> bool:
    try:
        errors.lookup(state)
    except KeyError:
        return False
    return True


@pytest.mark.parametrize("state", [*UNAVAILABLE, *SLOW, *OTHER])
def test_the_sqlstate_decides(state: str) -> None:
    """An outage is one, our own time-out is none, and the rest is an error of the statement."""
    error = wrapped(state)
    assert (is_unavailable(error), took_too_long(error)) == (state in UNAVAILABLE, state in SLOW)
    assert error.orig is not None
    assert is_unavailable(error.orig) == (state in UNAVAILABLE)


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("SELECT 1", {}, psycopg.OperationalError("server closed the connection")),
        psycopg.OperationalError("connection refused"),
        PoolTimeoutError("QueuePool limit reached"),
    ],
)
def test_no_answer_at_all_is_an_outage(error: Exception) -> None:
    """A refused or broken connection carries no SQLSTATE; a pool without a free one is no better."""
    assert (is_unavailable(error), took_too_long(error)) == (True, False)


@pytest.mark.parametrize(
    "error", [IntegrityError("INSERT", {}, psycopg.IntegrityError("x")), ValueError("x"), OSError("x"), KeyError("x")]
)
def test_other_errors_are_none(error: Exception) -> None:
    """A bug of ours must not pass for an outage."""
    assert (is_unavailable(error), took_too_long(error)) == (False, False)
