"""Roles of tokens, people whose sessions are over, and the append-only events. Only additions."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_REFUSE = """
CREATE FUNCTION refuse_change_of_events() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'events are only appended' USING ERRCODE = 'insufficient_privilege'; END $$
"""
_TRIGGER = """
CREATE TRIGGER events_are_only_appended BEFORE UPDATE OR DELETE OR TRUNCATE ON events
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_events()
"""


def upgrade() -> None:
    op.add_column("api_tokens", sa.Column("role", sa.Text(), server_default=sa.text("'admin'"), nullable=False))
    op.add_column("api_tokens", sa.Column("accounts", postgresql.ARRAY(sa.Text()), nullable=True))
    op.create_table(
        "ended_people",
        sa.Column("person", sa.Text(), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("person", name=op.f("pk_ended_people")),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("actor_kind", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("actor_label", sa.Text(), nullable=True),
        sa.Column("via", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=True),
        sa.Column("delivery_id", sa.BigInteger(), nullable=True),
        sa.Column("person", sa.LargeBinary(), nullable=True),
        sa.Column("details", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index("ix_events_account", "events", ["account_id", "id"])
    op.create_index("ix_events_person", "events", ["person", "id"], postgresql_where=sa.text("person IS NOT NULL"))
    op.create_index(
        "ix_events_delivery", "events", ["delivery_id", "id"], postgresql_where=sa.text("delivery_id IS NOT NULL")
    )
    op.execute(_REFUSE)
    op.execute(_TRIGGER)


def downgrade() -> None:
    op.drop_table("events")
    op.execute("DROP FUNCTION refuse_change_of_events()")
    op.drop_table("ended_people")
    op.drop_column("api_tokens", "accounts")
    op.drop_column("api_tokens", "role")
