"""The door to PostgreSQL: how connections are made, and how a transaction begins, ends and repeats itself."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from random import uniform
from threading import local
from typing import Any, TypeVar

import msgspec
import psycopg
from psycopg.rows import dict_row, tuple_row
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry

from ulak.core import clock
from ulak.core.environment import libpq_options
from ulak.models.database_errors import is_unavailable, sqlstate_of

CONNECT_TIMEOUT_SECONDS = 10
IDLE_IN_TRANSACTION_SECONDS = 60
WORKER_IDLE_IN_TRANSACTION_SECONDS = 10
"""A worker's transactions wait for nobody but PostgreSQL. One that was frozen in the middle must let go of the row of
its account before the threads of all other workers have queued up behind it."""
TRANSACTION_ATTEMPTS = 6
REPEAT_PAUSE_SECONDS = 0.02
OUTDATED = "0A000"
"""SQLSTATE of a prepared statement whose columns a migration has changed."""
REPEATABLE = frozenset({"40P01", "40001", OUTDATED})
"""SQLSTATEs after which the same transaction may simply be run again: deadlock, serialization failure, outdated."""
PREPARES = "ulak_prepares"
"""The note at a connection whose transactions keep prepared statements."""
LENT = "ulak_lent"
"""The note at a connection whose session a pooler lends."""
CONNECTION_TTL_SECONDS = 60
"""Connections are replaced after so long: none stays on a failed-over server, and no plan outlives a small table."""
IDLE_SECONDS = 1.0
"""A connection that nobody has used for so long is always pinged before its next transaction."""
USED_AT = "ulak_used_at"
"""The note at a connection when it was last used, by the boot clock."""
PREPARE_AFTER = 5
"""A statement is prepared when a connection has run it so often."""

_Result = TypeVar("_Result")
Record = Mapping[Any, Any]
"""A row by the names of its columns."""
_thread = local()


def make_engine(
    url: str,
    *,
    pool_size: int = 5,
    statement_timeout_seconds: float = 60.0,
    idle_in_transaction_seconds: float = IDLE_IN_TRANSACTION_SECONDS,
    connect_timeout_seconds: int = CONNECT_TIMEOUT_SECONDS,
    application_name: str = "ulak",
    prepares: bool = False,
) -> Engine:
    """An engine for a `postgresql://…` address. Connects only when it is used; opens at most `pool_size` connections.

    Every session speaks UTC, gives up on a statement after `statement_timeout_seconds` (0: never), is ended by the
    server after `idle_in_transaction_seconds` without a statement in an open transaction, and notices a dead network
    within six times `connect_timeout_seconds`. Connections are at most a minute old, and one that turns out to be
    unavailable (`ulak.models.database_errors`) is closed with all others. No error of this engine shows parameters or
    values of rows.

    `prepares`: keep the plans of statements that a connection runs again and again in `retry_transaction`, through
    migrations that come between, and do not scan tables for them. Not in sessions that a pooler lends to several
    clients.
    """
    address = make_url(url)
    if address.drivername in {"postgresql", "postgres"}:
        address = address.set(drivername="postgresql+psycopg")
    session = (
        f"-c timezone=UTC -c statement_timeout={int(statement_timeout_seconds * 1000)}"
        f" -c idle_in_transaction_session_timeout={int(idle_in_transaction_seconds * 1000)}"
        " -c ulak.direct=on -c ulak.hashes=on"
    )
    if prepares:
        # A kept plan must not rest on a table that fitted a page when it was made. Up to PostgreSQL 17 a scan that
        # cannot be avoided then looks so dear that it would be compiled each time.
        session += " -c enable_seqscan=off -c jit=off"
    given = address.query.get("options") or libpq_options()
    engine = create_engine(
        address,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=30,
        pool_recycle=CONNECTION_TTL_SECONDS,
        hide_parameters=True,
        connect_args={
            "application_name": application_name,
            "connect_timeout": connect_timeout_seconds,
            # A database that was created with SQL_ASCII would otherwise send bytes in place of text.
            "client_encoding": "utf8",
            "options": f"{session} {given}" if isinstance(given, str) else session,
            "prepare_threshold": None,
            "keepalives_idle": 20,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": connect_timeout_seconds * 6_000,
        },
    )
    event.listen(engine, "handle_error", _judge)
    event.listen(engine, "checkout", partial(_ping, engine))
    event.listen(engine, "checkin", _note_use)
    event.listen(engine, "connect", partial(_note_session, prepares))
    event.listen(engine, "begin", _mark_as_hashing)
    return engine


def _note_session(prepares: bool, session: Any, record: ConnectionPoolEntry) -> None:  # noqa: FBT001 - bound once
    """Prepare only in sessions that began as we asked.

    Others are lent by a pooler, and there the statement that has our name may be another client's.
    """
    [is_direct] = session.execute("SELECT current_setting('ulak.direct', true) = 'on'").fetchone()
    session.rollback()
    record.info[PREPARES] = prepares and bool(is_direct)
    record.info[LENT] = not is_direct


def _mark_as_hashing(connection: Connection) -> None:
    """Say in each transaction of a session that a pooler lends that this version hashes recipients (migration 0021)."""
    if connection.info.get(LENT):
        connection.exec_driver_sql("SELECT set_config('ulak.hashes', 'on', true)")


def _ping(engine: Engine, session: Any, record: ConnectionPoolEntry, _: Any) -> None:
    """Ping a connection before it is used; one that is of no use is made anew, with all others of before."""
    used_at = record.info.get(USED_AT)
    if used_at is not None and clock.boot() - used_at < IDLE_SECONDS and getattr(_thread, "may_skip_ping", False):
        _thread.has_skipped_ping = True
        return
    try:
        engine.dialect.do_ping(session)
    except psycopg.Error:
        raise InvalidatePoolError from None


def _note_use(_: Any, record: ConnectionPoolEntry) -> None:
    record.info[USED_AT] = clock.boot()


def _judge(context: ExceptionContext) -> None:
    """Close connections that are of no use any more, and reduce the error to its primary message.

    PostgreSQL's DETAIL and CONTEXT quote rows, that is phone numbers.
    """
    error = context.original_exception
    if not isinstance(error, psycopg.Error) or error.diag.message_primary is None:
        return
    if error.sqlstate == OUTDATED or is_unavailable(error):
        # The pool's other connections have prepared the same statements, or lead to the same server.
        context.is_disconnect = True
    text = f"{error.diag.message_primary} (SQLSTATE {error.sqlstate})"
    error.args = (text,)
    if context.sqlalchemy_exception is not None:
        context.sqlalchemy_exception.args = (f"({type(error).__name__}) {text}",)


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """A connection inside one transaction: committed at the end of the block, rolled back when the block raises."""
    with engine.begin() as connection:
        yield connection


def retry_transaction(engine: Engine, run: Callable[[Connection], _Result]) -> _Result:
    """Run `run` in one transaction; repeat the whole after a deadlock, a conflict or a migration.

    So too, but once, where the session is lost or takes no writes before COMMIT is sent, since nothing was committed
    then: after a failover the next session leads to the new primary, and a worker that was frozen for so long that the
    server ended its session still has its work in hand. One that was used without a ping does not count for this.

    `run` must therefore have no effect outside the database. After `TRANSACTION_ATTEMPTS` tries the error is raised.
    """
    was_lost = False
    for attempt in range(1, TRANSACTION_ATTEMPTS):
        is_running = False
        try:
            with _unpinged(attempt), transaction(engine) as connection, _preparing(connection):
                is_running = True
                result = run(connection)
                is_running = False
        except DBAPIError as error:
            if sqlstate_of(error) not in REPEATABLE:
                if was_lost or not is_running or not is_unavailable(error):
                    raise
                was_lost = not _thread.has_skipped_ping
        else:
            return result
        # The other side has to be woken before it holds the row: at once, the victim could take it away again.
        clock.sleep(uniform(0.5, 1.0) * REPEAT_PAUSE_SECONDS * attempt)  # noqa: S311 - a pause, not a secret
    with transaction(engine) as connection, _preparing(connection):
        return run(connection)


@contextmanager
def _unpinged(attempt: int) -> Iterator[None]:
    """Let the first attempt begin on a connection that was used a moment ago without a ping.

    A ping costs as much as a statement. Where the connection is lost before the commit, nothing is written, and the
    whole is simply repeated on one that is pinged.
    """
    _thread.may_skip_ping, _thread.has_skipped_ping = attempt == 1, False
    try:
        yield
    finally:
        _thread.may_skip_ping = False


@contextmanager
def _preparing(connection: Connection) -> Iterator[None]:
    """Let the driver prepare what is run often, and use what it has prepared, within this block."""
    if not connection.info.get(PREPARES):
        yield
        return
    session: Any = connection.connection.dbapi_connection
    session.prepare_threshold = PREPARE_AFTER
    try:
        yield
    finally:
        session.prepare_threshold = None


def execute(
    connection: Connection, statement: str, parameters: Mapping[str, Any] | None = None
) -> "psycopg.Cursor[tuple[Any, ...]]":
    """Run one statement of this transaction through the driver, which costs a third of the way through SQLAlchemy.

    Names in it are written `%(name)s`, a percent sign `%%`. Errors are SQLAlchemy's, and its listeners see it.
    """
    cursor: psycopg.Cursor[tuple[Any, ...]] = _execute(connection, statement, parameters, tuple_row)
    return cursor


def execute_named(
    connection: Connection, statement: str, parameters: Mapping[str, Any] | None = None
) -> "psycopg.Cursor[dict[str, Any]]":
    """As `execute`; each row is a dict."""
    cursor: psycopg.Cursor[dict[str, Any]] = _execute(connection, statement, parameters, dict_row)
    return cursor


def _execute(connection: Connection, statement: str, parameters: Mapping[str, Any] | None, rows: Any) -> Any:
    session: Any = connection.connection.dbapi_connection
    cursor = session.cursor(row_factory=rows)
    for listen in connection.dispatch.before_cursor_execute:
        listen(connection, cursor, statement, parameters, None, False)
    try:
        return cursor.execute(statement, parameters)
    except psycopg.Error as error:
        # There is no public way to have SQLAlchemy translate an error, tell `_judge`, and close what is of no use.
        connection._handle_dbapi_exception(error, statement, None, cursor, None)  # noqa: SLF001


def json_parameter(rows: Any) -> str:
    """`rows` as one JSON text for `jsonb_to_recordset`: times as ISO 8601, bytes as base64."""
    return msgspec.json.encode(rows).decode()
