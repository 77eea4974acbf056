"""Finds out whether an account has references by key. Writers of tracked ids wait while it is built, readers do not."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_tracked_ids_references",
        "tracked_ids",
        ["account_id"],
        postgresql_where=sa.text("client_ref IS NOT NULL AND id_kind IN ('message', 'order', 'conversation')"),
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_index("ix_tracked_ids_references", "tracked_ids")
