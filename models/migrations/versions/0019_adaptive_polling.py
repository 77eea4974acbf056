"""What is learned of latencies, and the schedules made of it. Only additions."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("accounts", sa.Column("poll_plan", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False))
    op.add_column("tracked_ids", sa.Column("checked_before_at", sa.DateTime(timezone=True)))
    # No row has the new column yet: the table is read once, and the index begins empty.
    op.create_index(
        op.f("ix_tracked_ids_closed"),
        "tracked_ids",
        ["account_id", "closed_at"],
        postgresql_where=sa.text("close_reason = 'final' AND checked_before_at IS NOT NULL"),
    )
    op.create_table(
        "latencies",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("id_kind", sa.Text(), nullable=False),
        sa.Column("learned", JSONB(), nullable=False),
        sa.Column("read_through", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_latencies_account_id")),
        sa.PrimaryKeyConstraint("account_id", "id_kind", name=op.f("pk_latencies")),
    )


def downgrade() -> None:
    op.drop_table("latencies")
    op.drop_index(op.f("ix_tracked_ids_closed"), table_name="tracked_ids")
    op.drop_column("tracked_ids", "checked_before_at")
    op.drop_column("accounts", "poll_plan")
