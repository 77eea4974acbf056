"""Which workers make fetches with how many threads, and which accounts wait for one."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "workers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("threads", sa.SmallInteger(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("threads >= 1", name=op.f("ck_workers_threads_positive")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
        postgresql_with={"fillfactor": "50"},
    )
    op.add_column("accounts", sa.Column("crowded_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        "ix_accounts_crowded",
        "accounts",
        ["crowded_at"],
        unique=False,
        postgresql_where=sa.text("crowded_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_accounts_crowded", table_name="accounts")
    op.drop_column("accounts", "crowded_at")
    op.drop_table("workers")
