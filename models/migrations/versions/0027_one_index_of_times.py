"""The index of an account's times that the revision before replaces is gone.

In a transaction of its own: with the lock of the new index in hand, this one and busy writers would each wait for the
other.
"""

from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_delivery_status_account_time", "delivery_status", if_exists=True)


def downgrade() -> None:
    op.create_index(
        "ix_delivery_status_account_time", "delivery_status", ["account_id", "message_time"], if_not_exists=True
    )
