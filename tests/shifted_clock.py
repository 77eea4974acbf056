"""A database whose clock a test may set: the clock's functions are shadowed by ours, which add a shift.

The server's own clock goes on, and so do the column defaults, which name the server's functions: `set_defaults`.
"""

from sqlalchemy import Engine, text

from ulak.models.database import make_engine

_FUNCTIONS = """
    CREATE SCHEMA shifted;
    CREATE TABLE shifted.by (seconds double precision NOT NULL);
    INSERT INTO shifted.by VALUES (0);
    CREATE FUNCTION shifted.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
        'SELECT pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => (SELECT seconds FROM shifted.by))';
    CREATE FUNCTION shifted.statement_timestamp() RETURNS timestamptz LANGUAGE sql STABLE AS
        'SELECT pg_catalog.statement_timestamp() + pg_catalog.make_interval(secs => (SELECT seconds FROM shifted.by))';
    CREATE FUNCTION shifted.now() RETURNS timestamptz LANGUAGE sql STABLE AS
        'SELECT pg_catalog.now() + pg_catalog.make_interval(secs => (SELECT seconds FROM shifted.by))';
"""
_DEFAULTS = """
    SELECT format('ALTER TABLE %I ALTER COLUMN %I SET DEFAULT shifted.now()', table_name, column_name)
    FROM information_schema.columns WHERE table_schema = 'public' AND column_default = 'now()'
"""


class ShiftedClock:
    """The clock of one database of a test's own; `engine` sees it shifted."""

    def __init__(self, plain: Engine) -> None:
        """`plain`: a migrated database that nobody else uses."""
        with plain.begin() as connection:
            connection.execute(text(_FUNCTIONS))
            for statement in connection.execute(text(_DEFAULTS)).scalars().all():
                connection.execute(text(statement))
        url = plain.url.update_query_dict({"options": "-c search_path=shifted,pg_catalog,public"})
        self.engine = make_engine(url.render_as_string(hide_password=False), pool_size=16)

    def step(self, seconds: float) -> None:
        """Set the clock forward, or back."""
        with self.engine.begin() as connection:
            connection.execute(text("UPDATE shifted.by SET seconds = seconds + :seconds"), {"seconds": seconds})
