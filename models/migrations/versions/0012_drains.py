"""Fetches are no longer hinted one by one: the index of hints goes; its column stays for workers of before."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_fetches_hinted", table_name="fetches")


def downgrade() -> None:
    op.create_index(
        "ix_fetches_hinted",
        "fetches",
        ["hinted_at"],
        postgresql_where=sa.text("state = 'ready' AND hinted_at IS NOT NULL"),
    )
