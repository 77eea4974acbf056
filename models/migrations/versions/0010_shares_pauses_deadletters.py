"""Who paused an account and how often it was refused; dead letters counted by cause; polls opened from the status page.

Only additions. `polls.kind` follows from the trigger and is no longer written: its default is for the previous version.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

WORDS = ("schedule", "api", "cli", "task")


def upgrade() -> None:
    op.add_column("accounts", sa.Column("paused_by", sa.Text(), nullable=True))
    op.add_column("accounts", sa.Column("refusals", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("accounts", sa.Column("pause_changed_at", sa.DateTime(timezone=True), nullable=True))
    op.create_check_constraint(
        op.f("ck_accounts_paused_by_known"), "accounts", "paused_by IN ('operator', 'automatic')"
    )
    op.add_column("fetches", sa.Column("times", sa.Integer(), server_default=sa.text("1"), nullable=False))
    op.add_column("fetches", sa.Column("subjects", sa.ARRAY(sa.Text()), nullable=True))
    op.add_column("fetches", sa.Column("first_failed_at", sa.DateTime(timezone=True), nullable=True))
    op.alter_column("polls", "kind", server_default=sa.text("'on_demand'"))
    _know_triggers((*WORDS, "page"))


def downgrade() -> None:
    op.execute("UPDATE polls SET trigger = 'api' WHERE trigger = 'page'")
    _know_triggers(WORDS)
    op.alter_column("polls", "kind", server_default=None)
    for column in ("first_failed_at", "subjects", "times"):
        op.drop_column("fetches", column)
    op.drop_constraint(op.f("ck_accounts_paused_by_known"), "accounts")
    for column in ("pause_changed_at", "refusals", "paused_by"):
        op.drop_column("accounts", column)


def _know_triggers(words: tuple[str, ...]) -> None:
    listed = ", ".join(f"'{word}'" for word in words)
    op.drop_constraint(op.f("ck_polls_trigger_known"), "polls")
    op.create_check_constraint(op.f("ck_polls_trigger_known"), "polls", f"trigger IN ({listed})")
