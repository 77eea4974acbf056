"""The schema of the database: brought to the newest revision, and asked whether it is there."""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from models.database import transaction

_LOCK = 0x756C616B  # "ulak"; one advisory lock per database


def alembic_config() -> Config:
    """Alembic's configuration, without a file."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def migrate(engine: Engine) -> None:
    """Bring the schema to the newest revision, in one transaction; does nothing where it is there already.

    Several processes may do so at once: the others wait for the first and then find nothing to do.
    """
    config = alembic_config()
    with transaction(engine) as connection:
        # Waiting for the first and building an index on a full table may both outlast a statement's usual time.
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def schema_is_behind(connection: Connection) -> bool:
    """Whether the database lacks a revision that this code needs.

    A revision that this code does not know is a newer one: old processes go on beside a schema that was migrated for
    their successors.
    """
    newest, known = known_revisions()
    current = set(MigrationContext.configure(connection).get_current_heads())
    return current <= known and current != newest


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
