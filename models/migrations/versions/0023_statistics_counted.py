"""Count the rows that were stored before the statistics.

Every writer counts by now, so one statement finds the difference exactly and keeps nobody waiting.
"""

from alembic import op

from ulak.models.statistics_upkeep import recount

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    recount(op.get_bind())


def downgrade() -> None:
    """The tables go with the revision before."""
