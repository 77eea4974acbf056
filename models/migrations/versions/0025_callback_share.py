"""When a callback last spoke of an id, and how often an account's lists are swept.

Only additions; processes of the previous version do not know them.
"""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tracked_ids", sa.Column("announced_at", sa.DateTime(timezone=True)))
    op.add_column("accounts", sa.Column("sweep_seconds", sa.Double()))


def downgrade() -> None:
    op.drop_column("accounts", "sweep_seconds")
    op.drop_column("tracked_ids", "announced_at")
