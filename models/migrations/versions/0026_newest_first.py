"""An index of an account's times that also orders rows of the same time: pages of the newest deliveries end anywhere.

Writers wait while it is built, readers do not.
"""

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_delivery_status_newest", "delivery_status", ["account_id", "message_time", "id"], if_not_exists=True
    )


def downgrade() -> None:
    op.drop_index("ix_delivery_status_newest", "delivery_status", if_exists=True)
