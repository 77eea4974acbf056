"""How many answers in a row were incomplete, and what the next answer about an id is compared with."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "tracked_ids", sa.Column("incomplete_answers", sa.Integer(), server_default=sa.text("0"), nullable=False)
    )
    op.add_column("tracked_ids", sa.Column("answer_fingerprint", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("tracked_ids", "answer_fingerprint")
    op.drop_column("tracked_ids", "incomplete_answers")
