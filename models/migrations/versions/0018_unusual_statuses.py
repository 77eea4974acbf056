"""Finds deliveries by an unusual status. Writers wait while the index is built, readers do not."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_delivery_status_unusual",
        "delivery_status",
        ["status", "id"],
        postgresql_where=sa.text("status NOT IN ('delivered', 'read')"),
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_index("ix_delivery_status_unusual", "delivery_status")
