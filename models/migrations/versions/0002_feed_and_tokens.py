"""The feed of changes tells erasures and knows which cluster it counts in; bearer tokens by name."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "delivery_erasures",
        sa.Column("delivery_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("erased_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "changed_in", sa.BigInteger(), server_default=sa.text("pg_current_xact_id()::text::bigint"), nullable=False
        ),
        sa.PrimaryKeyConstraint("delivery_id", name=op.f("pk_delivery_erasures")),
    )
    op.create_index("ix_delivery_erasures_changed", "delivery_erasures", ["changed_in", "delivery_id"])
    op.create_table(
        "change_feed",
        sa.Column("only_row", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("forgotten_before", sa.DateTime(timezone=True)),
        sa.Column("forgotten_in", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("only_row", name=op.f("ck_change_feed_one_row")),
        sa.PrimaryKeyConstraint("only_row", name=op.f("pk_change_feed")),
    )
    op.execute("INSERT INTO change_feed (cluster) SELECT system_identifier::text FROM pg_control_system()")
    op.create_table(
        "api_tokens",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
        sa.Column("last_used_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint("name ~ '^[a-z0-9][a-z0-9-]*$'", name=op.f("ck_api_tokens_name_is_slug")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("sha256", name=op.f("uq_api_tokens_sha256")),
    )


def downgrade() -> None:
    op.drop_table("api_tokens")
    op.drop_table("change_feed")
    op.drop_table("delivery_erasures")
