"""The first schema."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("base_url", sa.Text(), nullable=False),
        sa.Column("timezone", sa.Text(), nullable=False),
        sa.Column("credentials", JSONB(), nullable=False),
        sa.Column("credentials_hash", sa.Text(), nullable=False),
        sa.Column("limit_requests", sa.Integer(), nullable=False),
        sa.Column("limit_per_seconds", sa.Double(), nullable=False),
        sa.Column("limit_concurrency", sa.Integer(), nullable=False),
        sa.Column("retry", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("poll", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("options", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("learned", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("paused_until", sa.DateTime(timezone=True)),
        sa.Column("pause_reason", sa.Text()),
        sa.Column("breaker_state", sa.Text(), server_default=sa.text("'closed'"), nullable=False),
        sa.Column("breaker_failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("breaker_trips", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("breaker_until", sa.DateTime(timezone=True)),
        sa.Column("throttles", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True)),
        sa.Column("wake_at", sa.DateTime(timezone=True)),
        sa.Column("last_asked_at", sa.DateTime(timezone=True)),
        sa.Column("planned_at", sa.DateTime(timezone=True)),
        sa.Column("closed_swept_at", sa.DateTime(timezone=True)),
        sa.Column("swept_through", sa.Date()),
        sa.Column("last_trouble", sa.Text()),
        sa.Column("last_trouble_at", sa.DateTime(timezone=True)),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "breaker_state IN ('closed', 'open', 'probing')", name=op.f("ck_accounts_breaker_state_known")
        ),
        sa.CheckConstraint("id ~ '^[a-z0-9][a-z0-9-]*$'", name=op.f("ck_accounts_id_is_slug")),
        sa.CheckConstraint(
            "limit_requests >= 1 AND limit_per_seconds > 0 AND limit_concurrency >= 1",
            name=op.f("ck_accounts_limit_sane"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
    )
    op.create_index(
        "uq_accounts_credentials_enabled",
        "accounts",
        ["provider", "credentials_hash"],
        unique=True,
        postgresql_where=sa.text("enabled"),
    )
    op.create_table(
        "calls",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("fetch_id", sa.BigInteger()),
        sa.Column("endpoint", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("gives_up_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True)),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("outcome", sa.Text()),
        sa.Column("http_status", sa.SmallInteger()),
        sa.Column("duration_seconds", sa.Double()),
        sa.CheckConstraint("(answered_at IS NULL) = (outcome IS NULL)", name=op.f("ck_calls_outcome_when_answered")),
        sa.CheckConstraint("gives_up_at >= asked_at AND released_at >= asked_at", name=op.f("ck_calls_times_in_order")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_calls_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_calls")),
    )
    op.create_index("ix_calls_asked", "calls", ["account_id", "asked_at"])
    op.create_index("ix_calls_released", "calls", ["account_id", "released_at"])
    op.create_index(
        "ix_calls_unanswered", "calls", ["account_id", "gives_up_at"], postgresql_where=sa.text("answered_at IS NULL")
    )
    op.create_table(
        "delivery_status",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("granularity", sa.Text(), nullable=False),
        sa.Column("provider_key", sa.Text(), nullable=False),
        sa.Column("parent_key", sa.Text()),
        sa.Column("client_ref", sa.Text()),
        sa.Column("recipient", sa.Text()),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("is_final", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("provider_status", sa.Text(), nullable=False),
        sa.Column("provider_error", sa.Text()),
        sa.Column("conflict", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("total", sa.Integer()),
        sa.Column("delivered", sa.Integer()),
        sa.Column("undelivered", sa.Integer()),
        sa.Column("waiting", sa.Integer()),
        sa.Column("segments", sa.Integer()),
        sa.Column("credits", sa.Numeric()),
        sa.Column("sent_at", sa.DateTime(timezone=True)),
        sa.Column("done_at", sa.DateTime(timezone=True)),
        sa.Column("valid_until", sa.DateTime(timezone=True)),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "changed_in", sa.BigInteger(), server_default=sa.text("pg_current_xact_id()::text::bigint"), nullable=False
        ),
        sa.Column("extra", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.CheckConstraint(
            "granularity IN ('message', 'order', 'conversation')", name=op.f("ck_delivery_status_granularity_known")
        ),
        sa.CheckConstraint(
            "reason IN ('invalid_number', 'absent', 'handset', 'network', 'content', 'opted_out', "
            "'blacklisted', 'quota', 'sms_barred', 'expired', 'test', 'other')",
            name=op.f("ck_delivery_status_reason_known"),
        ),
        sa.CheckConstraint(
            "status IN ('scheduled', 'enroute', 'unknown', 'unreported', 'sent', 'delivered', "
            "'undeliverable', 'expired', 'rejected', 'partially_delivered', 'read')",
            name=op.f("ck_delivery_status_status_known"),
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_delivery_status_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery_status")),
        sa.UniqueConstraint(
            "account_id",
            "granularity",
            "provider_key",
            name=op.f("uq_delivery_status_account_id_granularity_provider_key"),
        ),
        postgresql_with={"fillfactor": "80"},
    )
    op.create_index("ix_delivery_status_changed", "delivery_status", ["changed_in", "id"])
    op.create_index("ix_delivery_status_client_ref", "delivery_status", ["client_ref"])
    op.create_index(
        "ix_delivery_status_open",
        "delivery_status",
        ["account_id", "first_seen_at"],
        postgresql_where=sa.text("NOT is_final"),
    )
    op.create_index("ix_delivery_status_parent", "delivery_status", ["account_id", "parent_key"])
    op.create_index("ix_delivery_status_recipient", "delivery_status", ["recipient"])
    op.create_table(
        "polls",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text()),
        sa.Column("scheduled_for", sa.DateTime(timezone=True)),
        sa.Column("window_from", sa.Date()),
        sa.Column("window_to", sa.Date()),
        sa.Column("ids", JSONB()),
        sa.Column("planned_at", sa.DateTime(timezone=True)),
        sa.Column("state", sa.Text(), server_default=sa.text("'running'"), nullable=False),
        sa.Column("open_fetches", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("fetches", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("dead", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("calls", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("reports", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("new", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("advanced", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("unchanged", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("drifting", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("sweep_through", sa.Date()),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint("(state = 'running') = (finished_at IS NULL)", name=op.f("ck_polls_finished_when_ended")),
        sa.CheckConstraint("kind IN ('plan', 'on_demand')", name=op.f("ck_polls_kind_known")),
        sa.CheckConstraint(
            "state <> 'complete' OR (open_fetches = 0 AND dead = 0)", name=op.f("ck_polls_complete_means_done")
        ),
        sa.CheckConstraint(
            "state IN ('running', 'complete', 'complete_with_errors', 'cancelled')", name=op.f("ck_polls_state_known")
        ),
        sa.CheckConstraint("trigger IN ('schedule', 'api', 'cli', 'task')", name=op.f("ck_polls_trigger_known")),
        sa.CheckConstraint("open_fetches >= 0", name=op.f("ck_polls_open_fetches_not_negative")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_polls_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_polls")),
        sa.UniqueConstraint("account_id", "idempotency_key", name=op.f("uq_polls_account_id_idempotency_key")),
    )
    op.create_index("ix_polls_account_started", "polls", ["account_id", sa.literal_column("id DESC")])
    op.create_index("ix_polls_running", "polls", ["account_id"], postgresql_where=sa.text("state = 'running'"))
    op.create_index(
        "ix_polls_unplanned",
        "polls",
        ["started_at"],
        postgresql_where=sa.text("state = 'running' AND planned_at IS NULL"),
    )
    op.create_index(
        "uq_polls_tick",
        "polls",
        ["account_id", "scheduled_for"],
        unique=True,
        postgresql_where=sa.text("trigger = 'schedule'"),
    )
    op.create_table(
        "quarantine",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("fetch_id", sa.BigInteger()),
        sa.Column("provider_key", sa.Text()),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("context", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("sealed", sa.LargeBinary()),
        sa.Column("times", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("resolved_at", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_quarantine_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quarantine")),
        sa.UniqueConstraint("account_id", "fingerprint", name=op.f("uq_quarantine_account_id_fingerprint")),
    )
    op.create_index(
        "ix_quarantine_open", "quarantine", ["first_seen_at"], postgresql_where=sa.text("resolved_at IS NULL")
    )
    op.create_table(
        "tracked_ids",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("id_kind", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("client_ref", sa.Text()),
        sa.Column("recipient", sa.Text()),
        sa.Column("expected", sa.Integer()),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("valid_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_check_at", sa.DateTime(timezone=True)),
        sa.Column("checks", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("gate_open", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("last_checked_at", sa.DateTime(timezone=True)),
        sa.Column("last_found_at", sa.DateTime(timezone=True)),
        sa.Column("changed_as_of", sa.DateTime(timezone=True)),
        sa.Column("fetch_id", sa.BigInteger()),
        sa.Column("closed_at", sa.DateTime(timezone=True)),
        sa.Column("close_reason", sa.Text()),
        sa.Column("registered_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("origin IN ('sender', 'discovered')", name=op.f("ck_tracked_ids_origin_known")),
        sa.CheckConstraint(
            "(closed_at IS NULL) = (close_reason IS NULL)", name=op.f("ck_tracked_ids_closed_with_reason")
        ),
        sa.CheckConstraint(
            "(closed_at IS NULL) = (next_check_at IS NOT NULL)", name=op.f("ck_tracked_ids_open_means_due_some_time")
        ),
        sa.CheckConstraint("closed_at IS NULL OR fetch_id IS NULL", name=op.f("ck_tracked_ids_closed_is_not_asked")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_tracked_ids_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tracked_ids")),
        sa.UniqueConstraint("account_id", "id_kind", "value", name=op.f("uq_tracked_ids_account_id_id_kind_value")),
    )
    op.create_index("ix_tracked_ids_client_ref", "tracked_ids", ["client_ref"])
    op.create_index(
        "ix_tracked_ids_due",
        "tracked_ids",
        ["account_id", "next_check_at"],
        postgresql_where=sa.text("closed_at IS NULL AND fetch_id IS NULL"),
    )
    op.create_index(
        "ix_tracked_ids_fetch", "tracked_ids", ["fetch_id"], postgresql_where=sa.text("fetch_id IS NOT NULL")
    )
    op.create_index(
        "ix_tracked_ids_open", "tracked_ids", ["account_id", "sent_at"], postgresql_where=sa.text("closed_at IS NULL")
    )
    op.create_index("ix_tracked_ids_recipient", "tracked_ids", ["recipient"])
    op.create_table(
        "fetches",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("poll_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("params", JSONB(), nullable=False),
        sa.Column("params_hash", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("round", sa.SmallInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'ready'"), nullable=False),
        sa.Column("priority", sa.SmallInteger(), server_default=sa.text("100"), nullable=False),
        sa.Column("available_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("hinted_at", sa.DateTime(timezone=True)),
        sa.Column("lease_token", sa.Uuid()),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
        sa.Column("claims", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("seen", JSONB()),
        sa.Column("page", JSONB()),
        sa.Column("last_error", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint(
            "(state = 'sending') = (lease_token IS NOT NULL) AND (state = 'sending') = (lease_until IS NOT NULL)",
            name=op.f("ck_fetches_lease_only_while_sending"),
        ),
        sa.CheckConstraint(
            "(state IN ('ready', 'sending')) = (finished_at IS NULL)", name=op.f("ck_fetches_finished_when_ended")
        ),
        sa.CheckConstraint("kind IN ('page', 'batch')", name=op.f("ck_fetches_kind_known")),
        sa.CheckConstraint(
            "state IN ('ready', 'sending', 'done', 'dead', 'cancelled')", name=op.f("ck_fetches_state_known")
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_fetches_account_id")),
        sa.ForeignKeyConstraint(["poll_id"], ["polls.id"], name=op.f("fk_fetches_poll_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fetches")),
    )
    op.create_index(
        "ix_fetches_dead",
        "fetches",
        ["account_id", sa.literal_column("id DESC")],
        postgresql_where=sa.text("state = 'dead'"),
    )
    op.create_index(
        "ix_fetches_hinted",
        "fetches",
        ["hinted_at"],
        postgresql_where=sa.text("state = 'ready' AND hinted_at IS NOT NULL"),
    )
    op.create_index("ix_fetches_poll", "fetches", ["poll_id", "state"])
    op.create_index(
        "ix_fetches_ready_order",
        "fetches",
        ["account_id", "priority", "available_at", "id"],
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.create_index("ix_fetches_sending", "fetches", ["lease_until"], postgresql_where=sa.text("state = 'sending'"))
    op.create_index(
        "uq_fetches_ready",
        "fetches",
        ["account_id", "params_hash"],
        unique=True,
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.create_table(
        "observations",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("delivery_id", sa.BigInteger(), nullable=False),
        sa.Column("content_hash", sa.LargeBinary(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True)),
        sa.Column("as_of_last", sa.DateTime(timezone=True)),
        sa.Column("provider_time", sa.DateTime(timezone=True)),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("facts", JSONB(), nullable=False),
        sa.Column("statement", JSONB(), nullable=False),
        sa.CheckConstraint(
            "source IN ('poll', 'callback', 'send_reply', 'ours')", name=op.f("ck_observations_source_known")
        ),
        sa.ForeignKeyConstraint(
            ["delivery_id"], ["delivery_status.id"], name=op.f("fk_observations_delivery_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_observations")),
        sa.UniqueConstraint("delivery_id", "content_hash", name=op.f("uq_observations_delivery_id_content_hash")),
    )


def downgrade() -> None:
    op.drop_table("observations")
    op.drop_table("fetches")
    op.drop_table("tracked_ids")
    op.drop_table("quarantine")
    op.drop_table("polls")
    op.drop_table("delivery_status")
    op.drop_table("calls")
    op.drop_table("accounts")
