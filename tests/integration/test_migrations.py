"""The schema: migrations and tables say the same, and any number of processes may migrate at once."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from ledger_acts import add_account
from sqlalchemy import Connection, Engine, text

from ulak.models.database import PREPARE_AFTER, TRANSACTION_ATTEMPTS, make_engine, retry_transaction, transaction
from ulak.models.schema import alembic_config, migrate, schema_is_current
from ulak.models.tables import metadata

ROOT = Path(__file__).parents[2]

# Columns with types and defaults, constraints, indexes and storage options: all that PostgreSQL knows of the tables.
_CATALOG = """
SELECT 'column', c.relname, a.attname, concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
  pg_get_expr(d.adbin, d.adrelid))
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
  LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (c.oid, a.attnum)
WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL SELECT 'index', tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL SELECT 'options', relname, '', reloptions::text
FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
ORDER BY 1, 2, 3
"""


def catalog(connection: Connection) -> list[tuple[str, ...]]:
    """What the database holds, without Alembic's own table."""
    return [tuple(row) for row in connection.execute(text(_CATALOG)) if row[1] != "alembic_version"]


def test_autogenerate_finds_no_difference(migrated_database: Engine) -> None:
    """A changed table without a migration is noticed."""
    with migrated_database.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True, "target_metadata": metadata}
        )
        assert compare_metadata(context, metadata) == []


def test_migrations_make_exactly_what_the_tables_say(migrated_database: Engine, fresh_database: str) -> None:
    """Checks, partial indexes and storage options too, which autogenerate does not compare."""
    engine = make_engine(fresh_database, pool_size=1)
    with transaction(engine) as connection:
        metadata.create_all(connection)
        expected = catalog(connection)
    engine.dispose()
    with migrated_database.connect() as connection:
        assert catalog(connection) == expected


def test_the_indexes_of_a_large_table_may_be_built_before_the_migration(
    migrated_database: Engine, fresh_database: str
) -> None:
    """By the statements of docs/how-to/upgrade.md; the migration ends with the same schema."""
    engine = make_engine(fresh_database, pool_size=1)
    with transaction(engine) as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0013")
    page = (ROOT / "docs" / "how-to" / "upgrade.md").read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"```sql\n(.*?)```", page, re.DOTALL) if "CONCURRENTLY" in block]
    assert len(blocks) == 2
    statements = "".join(blocks)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in statements.removesuffix(";\n").split(";\n"):
            connection.execute(text(statement))
    migrate(engine)
    with engine.connect() as connection, migrated_database.connect() as plain:
        assert catalog(connection) == catalog(plain)
    engine.dispose()


def test_the_schema_is_current_only_after_migrating(fresh_database: str) -> None:
    """An empty database is told from a migrated one, and migrating again does nothing."""
    engine = make_engine(fresh_database, pool_size=1)
    assert schema_is_current(engine) is False
    migrate(engine)
    assert schema_is_current(engine) is True
    migrate(engine)
    assert schema_is_current(engine) is True
    engine.dispose()


def test_several_may_migrate_at_once(fresh_database: str) -> None:
    """Workers that start together all end with the schema in place and no error."""
    engines = [make_engine(fresh_database, pool_size=1) for _ in range(6)]
    with ThreadPoolExecutor(len(engines)) as pool:
        list(pool.map(migrate, engines))
    assert schema_is_current(engines[0]) is True
    for engine in engines:
        engine.dispose()


def test_a_failed_migration_leaves_nothing_behind(fresh_database: str) -> None:
    """On an empty database all revisions run in one transaction."""
    engine = make_engine(fresh_database, pool_size=1)
    with transaction(engine) as connection:
        connection.execute(text("CREATE TABLE quarantine (in_the_way integer)"))
    with pytest.raises(Exception, match="already exists"):
        migrate(engine)
    with engine.connect() as connection:
        tables = connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).scalars().all()
    assert tables == ["quarantine"]
    engine.dispose()


def test_a_downgrade_removes_every_table(fresh_database: str) -> None:
    """The first revision can be taken back."""
    engine = make_engine(fresh_database, pool_size=1)
    migrate(engine)
    with transaction(engine) as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        assert catalog(connection) == []
    engine.dispose()


def test_a_migration_under_a_running_worker_goes_unnoticed(migrated_database: Engine) -> None:
    """A worker keeps statements prepared that name no column; once there is one more, they are prepared anew."""
    account = add_account(migrated_database)

    def run(connection: Connection) -> set[str]:
        rows = connection.execute(text("SELECT * FROM accounts WHERE id = :id"), {"id": account})
        return set(rows.keys())

    sessions = [migrated_database.connect() for _ in range(TRANSACTION_ATTEMPTS + 2)]
    for session in sessions:
        session.close()
    # The pool lends them in turn.
    for _ in range((PREPARE_AFTER + 1) * len(sessions)):
        before = retry_transaction(migrated_database, run)
    kept = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'SELECT * FROM accounts%'"
    with migrated_database.begin() as connection:
        assert connection.execute(text(kept)).scalar_one() == 1
        connection.execute(text("ALTER TABLE accounts ADD COLUMN newer text"))
    with migrated_database.begin() as connection:
        after = run(connection)
    assert after - before == {"newer"}
    assert retry_transaction(migrated_database, run) == after
