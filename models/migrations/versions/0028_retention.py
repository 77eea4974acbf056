"""How long an account's deliveries are kept, and what was removed because it had been kept long enough.

Only additions; processes of the previous version do not know them.
"""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "delivery_removals",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "changed_in",
            sa.BigInteger(),
            server_default=sa.text("pg_current_xact_id()::text::bigint"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("account_id", "before", name=op.f("pk_delivery_removals")),
    )
    op.add_column("accounts", sa.Column("keep_days", sa.Integer()))
    op.add_column("accounts", sa.Column("keep_days_in_force", sa.Integer()))
    op.add_column("accounts", sa.Column("removal_days", sa.Integer()))
    op.add_column("accounts", sa.Column("removal_starts_at", sa.DateTime(timezone=True)))
    op.add_column("accounts", sa.Column("kept_from", sa.DateTime(timezone=True)))


def downgrade() -> None:
    for column in ("kept_from", "removal_starts_at", "removal_days", "keep_days_in_force", "keep_days"):
        op.drop_column("accounts", column)
    op.drop_table("delivery_removals")
