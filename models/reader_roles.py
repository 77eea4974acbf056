"""Roles of PostgreSQL that may read the delivery table and its views, and nothing else of Ulak.

A migration cannot make them: it may lack the right to create roles, and roles belong to the whole cluster. So an
administrator creates the role, and this grants it what it needs, as often as wanted.
"""

from sqlalchemy import Connection, text

from ulak.models.views import TABLE_NAME, VIEW_SQL

READABLE = (*VIEW_SQL, TABLE_NAME)
"""What a reader may read."""

_ROLE = text("SELECT rolsuper FROM pg_roles WHERE rolname = :role")
_PLACE = text("SELECT quote_ident(current_database()), quote_ident(current_schema()), quote_ident(:role)")
_EXCESS = text("""
    SELECT right_name || ' on ' || c.relname
    FROM pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) AS right_name
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
      AND NOT (right_name = 'SELECT' AND c.relname = ANY(:readable))
      AND (has_table_privilege(:role, c.oid, right_name) OR right_name IN ('SELECT', 'INSERT', 'UPDATE')
        AND has_any_column_privilege(:role, c.oid, right_name))
    UNION ALL SELECT 'CREATE on the schema' WHERE has_schema_privilege(:role, current_schema(), 'CREATE')
    ORDER BY 1
""")


class ReaderError(Exception):
    """The role cannot be made a reader; the text says what to do."""


def grants(connection: Connection, role: str) -> list[str]:
    """The statements that make `role` a reader of this database. They may be repeated."""
    database, schema, reader = connection.execute(_PLACE, {"role": role}).one()
    relations = ", ".join(f"{schema}.{name}" for name in READABLE)
    return [
        f"GRANT CONNECT ON DATABASE {database} TO {reader}",
        f"GRANT USAGE ON SCHEMA {schema} TO {reader}",
        f"GRANT SELECT ON {relations} TO {reader}",
    ]


def grant_reader(connection: Connection, role: str) -> None:
    """Let `role` read the table and its views. `ReaderError` where it is not there, or could do more than that.

    The caller rolls back after an error.
    """
    is_superuser = connection.execute(_ROLE, {"role": role}).scalar_one_or_none()
    if is_superuser is None:
        raise ReaderError(
            f"There is no role {role}: let an administrator of PostgreSQL run CREATE ROLE … LOGIN PASSWORD … first."
        )
    if is_superuser:
        raise ReaderError(f"The role {role} is a superuser and may do everything: choose another one.")
    for statement in grants(connection, role):
        connection.exec_driver_sql(statement)
    excess = connection.execute(_EXCESS, {"role": role, "readable": list(READABLE)}).scalars().all()
    if excess:
        more = f" and {len(excess) - 3} more" if len(excess) > 3 else ""  # noqa: PLR2004 - three show what it is about
        raise ReaderError(
            f"The role {role} may do more than read: {', '.join(excess[:3])}{more}. Revoke that (from the role, the"
            " roles it is a member of, or PUBLIC), or choose another one."
        )
