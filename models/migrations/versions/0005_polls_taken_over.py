"""Which poll asks what another one had not asked yet."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("polls", sa.Column("taken_over_by", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("polls", "taken_over_by")
