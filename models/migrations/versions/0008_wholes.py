"""Which whole (a send) a tracked id belongs to."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tracked_ids", sa.Column("whole", sa.Text(), nullable=True))
    op.create_index(
        "ix_tracked_ids_whole",
        "tracked_ids",
        ["account_id", "whole"],
        postgresql_where=sa.text("whole IS NOT NULL AND closed_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_tracked_ids_whole", table_name="tracked_ids")
    op.drop_column("tracked_ids", "whole")
