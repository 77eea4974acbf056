"""Alembic's entry: runs revisions on the connection that `ulak.models.schema` hands over, inside its transaction."""

from alembic import context

from ulak.models.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_type=True,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
