"""Objectives, how fresh final reports are, problems and the messages about them. Only additions."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("accounts", sa.Column("objective", sa.Text()))
    op.create_table(
        "freshness",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("total", sa.Double(), nullable=False),
        sa.Column("good", sa.Double(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("buckets", sa.ARRAY(sa.Double()), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_freshness_account_id")),
        sa.PrimaryKeyConstraint("account_id", "at", name=op.f("pk_freshness")),
    )
    op.create_table(
        "freshness_read",
        sa.Column("only_row", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("through", _TIME, nullable=False),
        sa.Column("from_transaction", sa.BigInteger(), nullable=False),
        sa.Column("next_transaction", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("only_row", name=op.f("ck_freshness_read_one_row")),
        sa.PrimaryKeyConstraint("only_row", name=op.f("pk_freshness_read")),
    )
    op.create_table(
        "problems",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("episode", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text()),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("advice", sa.Text(), nullable=False),
        sa.Column("first_seen_at", _TIME, nullable=False),
        sa.Column("seen_at", _TIME, nullable=False),
        sa.Column("opened_at", _TIME),
        sa.Column("absent_since", _TIME),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_problems")),
    )
    op.create_table(
        "notifications",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("receiver", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("items", JSONB(), nullable=False),
        sa.Column("created_at", _TIME, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempted_at", _TIME),
        sa.Column("next_attempt_at", _TIME, nullable=False),
        sa.Column("delivered_at", _TIME),
        sa.Column("last_error", sa.Text()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notifications")),
        sa.UniqueConstraint("receiver", "message_id", name=op.f("uq_notifications_receiver_message_id")),
    )
    op.create_index(
        "ix_notifications_waiting",
        "notifications",
        ["receiver", "id"],
        postgresql_where=sa.text("delivered_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_table("notifications")
    op.drop_table("problems")
    op.drop_table("freshness_read")
    op.drop_table("freshness")
    op.drop_column("accounts", "objective")
