"""Tables of the statistics, and the triggers that keep them. Only additions: they count what older workers write, too.

Rows stored before are counted by the next revision, in a transaction of its own that keeps nobody waiting: this one
holds a lock that writers wait for.
"""

import sqlalchemy as sa
from alembic import op

from ulak.models.statistics_upkeep import create_triggers, drop_triggers
from ulak.models.views import create_views, drop_views, write_comments

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

TRIGGERS = "db94a1376393daa9"
"""`ulak.models.statistics_upkeep.fingerprint` of what this revision makes."""
VIEWS_AND_COMMENTS = "49158e540d85b5d4"
"""`ulak.models.views.fingerprint` of what this revision makes."""

_TOOK = (1, 2, 4, 8, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)


def _took(*, nullable: bool) -> list[sa.Column[int]]:
    names = [*(f"took_{seconds}s" for seconds in _TOOK), "took_longer"]
    return [sa.Column(name, sa.Integer(), nullable=nullable) for name in names]


def upgrade() -> None:
    op.create_table(
        "statistics_deltas",
        sa.Column("hour", sa.DateTime(timezone=True), nullable=True),
        sa.Column("segments", sa.BigInteger(), nullable=True),
        sa.Column("milliseconds", sa.BigInteger(), nullable=True),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("messages", sa.Integer(), nullable=False),
        sa.Column("conflicts", sa.Integer(), nullable=True),
        *_took(nullable=True),
        sa.Column("is_final", sa.Boolean(), nullable=False),
        sa.Column("was_is_final", sa.Boolean(), nullable=True),
        sa.Column("erased", sa.Boolean(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("granularity", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("was_status", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("was_reason", sa.Text(), nullable=True),
        sa.Column("number_range", sa.Text(), nullable=True),
        sa.Column("credits", sa.Numeric(), nullable=True),
    )
    op.create_table(
        "statistics_days",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=True),
        sa.Column("granularity", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("number_range", sa.Text(), nullable=True),
        sa.Column("is_final", sa.Boolean(), nullable=False),
        sa.Column("erased", sa.Boolean(), nullable=False),
        sa.Column("messages", sa.Integer(), nullable=False),
        sa.Column("conflicts", sa.Integer(), nullable=False),
        sa.Column("segments", sa.BigInteger(), nullable=False),
        sa.Column("credits", sa.Numeric(), nullable=False),
        sa.Column("milliseconds", sa.BigInteger(), nullable=False),
        *_took(nullable=False),
        sa.UniqueConstraint(
            "day",
            "account_id",
            "hour",
            "granularity",
            "status",
            "reason",
            "number_range",
            "is_final",
            "erased",
            name=op.f("uq_statistics_days_key"),
            postgresql_nulls_not_distinct=True,
        ),
    )
    op.create_index(
        "ix_statistics_days_hour", "statistics_days", ["hour"], postgresql_where=sa.text("hour IS NOT NULL")
    )
    op.create_table(
        "statistics_totals",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("granularity", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("is_final", sa.Boolean(), nullable=False),
        sa.Column("messages", sa.BigInteger(), nullable=False),
        sa.Column("conflicts", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "granularity", "status", "is_final", name=op.f("pk_statistics_totals")),
    )
    create_triggers(op.get_bind())
    create_views(op.get_bind())
    write_comments(op.get_bind())


def downgrade() -> None:
    drop_views(op.get_bind())
    drop_triggers(op.get_bind())
    for table in ("statistics_totals", "statistics_days", "statistics_deltas"):
        op.drop_table(table)
