"""Certificates and proxy of an account; requests that were rejected for an account."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("accounts", sa.Column("ca_file", sa.Text(), nullable=True))
    op.add_column("accounts", sa.Column("proxy", sa.Text(), nullable=True))
    op.create_table(
        "rejections",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("times", sa.BigInteger(), nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_rejections_account_id"),
        sa.PrimaryKeyConstraint("account_id", "kind", name="pk_rejections"),
    )


def downgrade() -> None:
    op.drop_table("rejections")
    op.drop_column("accounts", "proxy")
    op.drop_column("accounts", "ca_file")
