"""Steps of the database's clock, and an as_of that does not follow them."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("accounts", sa.Column("last_as_of", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "clock_steps",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("noticed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("noticed_by", sa.Text(), nullable=False),
        sa.Column("moved_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("evidence IN ('boot_clock', 'stored_times')", name=op.f("ck_clock_steps_evidence_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_clock_steps")),
    )
    op.create_table(
        "clock_readings",
        sa.Column("boot_id", sa.Text(), nullable=False),
        sa.Column("ahead_least", sa.Double(), nullable=False),
        sa.Column("ahead_most", sa.Double(), nullable=False),
        sa.Column("step_id", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("boot_id", name=op.f("pk_clock_readings")),
        postgresql_with={"fillfactor": "50"},
    )


def downgrade() -> None:
    op.drop_table("clock_readings")
    op.drop_table("clock_steps")
    op.drop_column("accounts", "last_as_of")
