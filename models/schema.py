"""The schema of the database: brought to the newest revision, and asked whether it is there."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from ulak.core import clock
from ulak.models.database import transaction
from ulak.models.database_errors import sqlstate_of

NEWER = "The schema is newer than this program: install the version of Ulak that migrated it."
LOCK_SECONDS = 0.5
LOCK_ATTEMPTS = 300
LOCK_PAUSE_SECONDS = 2.0
"""What workers have to themselves between two attempts of a migration to lock their tables."""
_LOCK = 0x756C616B  # "ulak"; one advisory lock per database
_LOCKED = {"40P01", "55P03"}
"""SQLSTATEs of a migration that did not get its locks: a deadlock, and time out."""


class UnfitDatabaseError(Exception):
    """The database cannot hold the schema, or holds a newer one; the text says what to do."""


def check_encoding(connection: Connection) -> None:
    """`UnfitDatabaseError` where the database cannot store every letter, or does not know which bytes it stores."""
    encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
    if encoding != "UTF8":
        raise UnfitDatabaseError(
            f"The database's encoding is {encoding}, and Ulak needs UTF8: create another one with "
            "CREATE DATABASE ulak ENCODING 'UTF8' TEMPLATE template0, and let ULAK_DATABASE_URL lead to it."
        )


def alembic_config() -> Config:
    """Alembic's configuration, without a file."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def migrate(engine: Engine) -> None:
    """Bring the schema to the newest revision; does nothing where it is there already.

    An empty database receives all revisions in one transaction. In one with a schema, where workers may be running,
    each revision has its own, so that it holds no locks but those it needs. It waits for them `LOCK_SECONDS` at a time,
    so that no worker queues behind it for longer, and tries again; after `LOCK_ATTEMPTS` it raises `OperationalError`.

    Several processes may do so at once: the others wait for the first and then find nothing to do. Raises
    `UnfitDatabaseError`, nothing made, where the database's encoding or its present schema allows none of this.
    """
    while _retry_locked(lambda: _upgrade(engine)):
        pass


def _upgrade(engine: Engine) -> bool:
    """Run the next revision, or all of them on an empty database; whether there was one to run."""
    config = alembic_config()
    with transaction(engine) as connection:
        check_encoding(connection)
        # Waiting for the first and building an index on a full table may both outlast a statement's usual time.
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        if schema_is_newer(connection):
            raise UnfitDatabaseError(NEWER)
        current = set(MigrationContext.configure(connection).get_current_heads())
        if current == known_revisions()[0]:
            return False
        if current:
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
        config.attributes["connection"] = connection
        command.upgrade(config, "+1" if current else "head")
    return True


def _retry_locked(run: Callable[[], bool]) -> bool:
    """Repeat `run` until it gets its locks; its result."""
    for _ in range(LOCK_ATTEMPTS - 1):
        try:
            return run()
        except OperationalError as error:
            if sqlstate_of(error) not in _LOCKED:
                raise
        clock.sleep(LOCK_PAUSE_SECONDS)
    return run()


def schema_is_behind(connection: Connection) -> bool:
    """Whether the database lacks a revision that this code needs.

    A revision that this code does not know is a newer one: old processes go on beside a schema that was migrated for
    their successors.
    """
    newest, known = known_revisions()
    current = set(MigrationContext.configure(connection).get_current_heads())
    return current <= known and current != newest


def schema_is_newer(connection: Connection) -> bool:
    """Whether the database stands at a revision that this code does not know."""
    _, known = known_revisions()
    return not set(MigrationContext.configure(connection).get_current_heads()) <= known


@cache
def known_revisions() -> tuple[frozenset[str], frozenset[str]]:
    """The newest revisions of this code, and all that it knows."""
    script = ScriptDirectory.from_config(alembic_config())
    return frozenset(script.get_heads()), frozenset(each.revision for each in script.walk_revisions())


def schema_is_current(engine: Engine) -> bool:
    """Whether the database stands at the newest revision that this code knows."""
    newest = set(ScriptDirectory.from_config(alembic_config()).get_heads())
    with engine.connect() as connection:
        return set(MigrationContext.configure(connection).get_current_heads()) == newest
