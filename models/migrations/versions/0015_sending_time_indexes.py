"""The indexes of `message_time`, for one account and for all. Writers wait while they are built, readers do not."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE delivery_status VALIDATE CONSTRAINT ck_delivery_status_message_time_source_known")
    op.create_index(
        "ix_delivery_status_account_time", "delivery_status", ["account_id", "message_time"], if_not_exists=True
    )
    op.create_index(
        "ix_delivery_status_time", "delivery_status", ["message_time"], postgresql_using="brin", if_not_exists=True
    )


def downgrade() -> None:
    op.drop_index("ix_delivery_status_time", "delivery_status")
    op.drop_index("ix_delivery_status_account_time", "delivery_status")
