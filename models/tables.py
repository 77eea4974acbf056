"""Every table of Ulak, as SQLAlchemy Core.

PostgreSQL is the only truth: each constraint here makes a wrong state impossible, and each partial index keeps a
due-scan as cheap as the open rows are few, however many finished rows lie beside them. No constraint lists providers.
"""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from ulak.models.meanings import COLUMNS, TABLE, TimeSource
from ulak.models.statistics_upkeep import KEY, TOOK
from ulak.models.vocabulary import Granularity, Reason, Recipients, Source, Status

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_TIME = DateTime(timezone=True)
_EMPTY = text("'{}'::jsonb")


def _one_of(column: str, words: list[str]) -> CheckConstraint:
    """A check that `column` holds one of `words`."""
    listed = ", ".join(f"'{word}'" for word in words)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


accounts = Table(
    "accounts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("provider", Text, nullable=False),
    Column("base_url", Text, nullable=False),
    Column("timezone", Text, nullable=False),
    Column("credentials", JSONB, nullable=False),
    Column("credentials_hash", Text, nullable=False),
    Column("limit_requests", Integer, nullable=False),
    Column("limit_per_seconds", Double, nullable=False),
    Column("limit_concurrency", Integer, nullable=False),
    Column("retry", JSONB, nullable=False, server_default=_EMPTY),
    Column("poll", JSONB, nullable=False, server_default=_EMPTY),
    Column("options", JSONB, nullable=False, server_default=_EMPTY),
    Column("learned", JSONB, nullable=False, server_default=_EMPTY),
    Column("enabled", Boolean, nullable=False, server_default=text("true")),
    Column("paused_until", _TIME),
    Column("pause_reason", Text),
    Column("paused_by", Text),
    Column("refusals", Integer, nullable=False, server_default=text("0")),
    Column("pause_changed_at", _TIME),
    Column("breaker_state", Text, nullable=False, server_default=text("'closed'")),
    Column("breaker_failures", Integer, nullable=False, server_default=text("0")),
    Column("breaker_trips", Integer, nullable=False, server_default=text("0")),
    Column("breaker_until", _TIME),
    Column("throttles", Integer, nullable=False, server_default=text("0")),
    Column("not_before", _TIME),
    Column("wake_at", _TIME),
    Column("last_asked_at", _TIME),
    Column("planned_at", _TIME),
    Column("closed_swept_at", _TIME),
    Column("swept_through", Date),
    Column("last_trouble", Text),
    Column("last_trouble_at", _TIME),
    Column("created_at", _TIME, nullable=False, server_default=func.now()),
    Column("crowded_at", _TIME),
    Column("ca_file", Text),
    Column("proxy", Text),
    Column("last_as_of", _TIME),
    # When ids are checked, by kind, where it was learned (`ulak.models.latencies`).
    Column("poll_plan", JSONB, nullable=False, server_default=_EMPTY),
    # Fixed when the account is created. Of hashed ones: what identifies the person key of their pseudonyms.
    Column("recipients", Text, nullable=False, server_default=text("'clear'")),
    Column("recipients_key", LargeBinary),
    CheckConstraint("(recipients = 'hashed') = (recipients_key IS NOT NULL)", name="hashed_with_key"),
    # How fresh its deliveries are to be, as accounts.toml says it (`ulak.models.objectives`).
    Column("objective", Text),
    # How often its lists are swept, where they say so and nobody has configured it (`ulak.models.sweep_intervals`).
    Column("sweep_seconds", Double),
    # How many days its deliveries are kept, as accounts.toml says it; and what upkeep has made of it
    # (`ulak.models.retention`).
    Column("keep_days", Integer),
    Column("keep_days_in_force", Integer),
    Column("removal_days", Integer),
    Column("removal_starts_at", _TIME),
    Column("kept_from", _TIME),
    CheckConstraint("limit_requests >= 1 AND limit_per_seconds > 0 AND limit_concurrency >= 1", name="limit_sane"),
    CheckConstraint("id ~ '^[a-z0-9][a-z0-9-]*$'", name="id_is_slug"),
    _one_of("breaker_state", ["closed", "open", "probing"]),
    _one_of("paused_by", ["operator", "automatic"]),
    _one_of("recipients", [word.value for word in Recipients]),
)
# Two enabled accounts with the same credentials at the same address would double the provider's limit.
Index(
    "uq_accounts_credentials_enabled",
    accounts.c.provider,
    accounts.c.credentials_hash,
    unique=True,
    postgresql_where=accounts.c.enabled,
)
Index("ix_accounts_crowded", accounts.c.crowded_at, postgresql_where=accounts.c.crowded_at.is_not(None))

polls = Table(
    "polls",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("account_id", Text, ForeignKey("accounts.id"), nullable=False),
    # Follows from the trigger; no longer written or read, kept for processes of the previous version.
    Column("kind", Text, nullable=False, server_default=text("'on_demand'")),
    Column("trigger", Text, nullable=False),
    Column("idempotency_key", Text),
    Column("scheduled_for", _TIME),
    Column("window_from", Date),
    Column("window_to", Date),
    Column("ids", JSONB),
    Column("planned_at", _TIME),
    Column("state", Text, nullable=False, server_default=text("'running'")),
    Column("open_fetches", Integer, nullable=False, server_default=text("0")),
    Column("fetches", Integer, nullable=False, server_default=text("0")),
    Column("dead", Integer, nullable=False, server_default=text("0")),
    Column("calls", Integer, nullable=False, server_default=text("0")),
    Column("reports", Integer, nullable=False, server_default=text("0")),
    Column("new", Integer, nullable=False, server_default=text("0")),
    Column("advanced", Integer, nullable=False, server_default=text("0")),
    Column("unchanged", Integer, nullable=False, server_default=text("0")),
    Column("drifting", Boolean, nullable=False, server_default=text("false")),
    Column("sweep_through", Date),
    Column("taken_over_by", BigInteger),
    Column("started_at", _TIME, nullable=False, server_default=func.now()),
    Column("finished_at", _TIME),
    UniqueConstraint("account_id", "idempotency_key"),
    _one_of("kind", ["plan", "on_demand"]),
    _one_of("trigger", ["schedule", "api", "cli", "task", "page"]),
    _one_of("state", ["running", "complete", "complete_with_errors", "cancelled"]),
    CheckConstraint("open_fetches >= 0", name="open_fetches_not_negative"),
    CheckConstraint("state <> 'complete' OR (open_fetches = 0 AND dead = 0)", name="complete_means_done"),
    CheckConstraint("(state = 'running') = (finished_at IS NULL)", name="finished_when_ended"),
)
Index("ix_polls_running", polls.c.account_id, postgresql_where=polls.c.state == "running")
Index(
    "ix_polls_unplanned",
    polls.c.started_at,
    postgresql_where=text("state = 'running' AND planned_at IS NULL"),
)
Index("ix_polls_account_started", polls.c.account_id, polls.c.id.desc())
Index(
    "uq_polls_tick",
    polls.c.account_id,
    polls.c.scheduled_for,
    unique=True,
    postgresql_where=polls.c.trigger == "schedule",
)

fetches = Table(
    "fetches",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("poll_id", BigInteger, ForeignKey("polls.id"), nullable=False),
    Column("account_id", Text, ForeignKey("accounts.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("params", JSONB, nullable=False),
    Column("params_hash", Text, nullable=False),
    Column("label", Text, nullable=False, server_default=text("''")),
    Column("round", SmallInteger, nullable=False, server_default=text("1")),
    Column("state", Text, nullable=False, server_default=text("'ready'")),
    Column("priority", SmallInteger, nullable=False, server_default=text("100")),
    Column("available_at", _TIME, nullable=False, server_default=func.now()),
    # No longer written or read, kept for processes of the previous version.
    Column("hinted_at", _TIME),
    Column("lease_token", Uuid),
    Column("lease_until", _TIME),
    Column("claims", Integer, nullable=False, server_default=text("0")),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("seen", JSONB),
    Column("page", JSONB),
    Column("last_error", Text),
    Column("created_at", _TIME, nullable=False, server_default=func.now()),
    Column("finished_at", _TIME),
    # Of a dead letter: how often its cause struck, what is unread because of it, and since when.
    Column("times", Integer, nullable=False, server_default=text("1")),
    Column("subjects", ARRAY(Text)),
    Column("first_failed_at", _TIME),
    _one_of("kind", ["page", "batch"]),
    _one_of("state", ["ready", "sending", "done", "dead", "cancelled"]),
    CheckConstraint(
        "(state = 'sending') = (lease_token IS NOT NULL) AND (state = 'sending') = (lease_until IS NOT NULL)",
        name="lease_only_while_sending",
    ),
    CheckConstraint("(state IN ('ready', 'sending')) = (finished_at IS NULL)", name="finished_when_ended"),
)
# At most one unsent fetch asks the same thing; one that is in the air may be asked again by another poll.
Index(
    "uq_fetches_ready",
    fetches.c.account_id,
    fetches.c.params_hash,
    unique=True,
    postgresql_where=fetches.c.state == "ready",
)
Index(
    "ix_fetches_ready_order",
    fetches.c.account_id,
    fetches.c.priority,
    fetches.c.available_at,
    fetches.c.id,
    postgresql_where=fetches.c.state == "ready",
)
Index("ix_fetches_sending", fetches.c.lease_until, postgresql_where=fetches.c.state == "sending")
Index("ix_fetches_poll", fetches.c.poll_id, fetches.c.state)
Index("ix_fetches_dead", fetches.c.account_id, fetches.c.id.desc(), postgresql_where=fetches.c.state == "dead")

calls = Table(
    "calls",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("account_id", Text, ForeignKey("accounts.id"), nullable=False),
    Column("fetch_id", BigInteger),
    Column("endpoint", Text, nullable=False, server_default=text("''")),
    Column("asked_at", _TIME, nullable=False),
    Column("gives_up_at", _TIME, nullable=False),
    Column("answered_at", _TIME),
    Column("released_at", _TIME, nullable=False),
    Column("outcome", Text),
    Column("http_status", SmallInteger),
    Column("duration_seconds", Double),
    CheckConstraint("(answered_at IS NULL) = (outcome IS NULL)", name="outcome_when_answered"),
    CheckConstraint("gives_up_at >= asked_at AND released_at >= asked_at", name="times_in_order"),
)
# The limiter's question: a slot is busy while `released_at + per_seconds` lies ahead. Storing the release and adding
# the account's *current* per_seconds makes a changed limit hold at once, without rewriting rows.
Index("ix_calls_released", calls.c.account_id, calls.c.released_at)
Index("ix_calls_unanswered", calls.c.account_id, calls.c.gives_up_at, postgresql_where=calls.c.answered_at.is_(None))
Index("ix_calls_asked", calls.c.account_id, calls.c.asked_at)

tracked_ids = Table(
    "tracked_ids",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("account_id", Text, ForeignKey("accounts.id"), nullable=False),
    Column("id_kind", Text, nullable=False),
    Column("value", Text, nullable=False),
    Column("client_ref", Text),
    Column("recipient", Text),
    Column("expected", Integer),
    Column("origin", Text, nullable=False),
    Column("sent_at", _TIME, nullable=False),
    Column("valid_until", _TIME, nullable=False),
    Column("next_check_at", _TIME),
    Column("checks", Integer, nullable=False, server_default=text("0")),
    Column("incomplete_answers", Integer, nullable=False, server_default=text("0")),
    Column("answer_fingerprint", Text),
    Column("gate_open", Boolean, nullable=False, server_default=text("false")),
    Column("last_checked_at", _TIME),
    # The check before that, or the sending: the id became final after it. Null where an earlier version asked.
    Column("checked_before_at", _TIME),
    Column("last_found_at", _TIME),
    # When a callback last spoke of the id (`ulak.models.callback_shares`).
    Column("announced_at", _TIME),
    Column("changed_as_of", _TIME),
    Column("fetch_id", BigInteger),
    Column("closed_at", _TIME),
    Column("close_reason", Text),
    Column("whole", Text),
    Column("registered_at", _TIME, nullable=False, server_default=func.now()),
    # Of an account with hashed recipients: the value and the recipient that requests need. A trigger empties it, and
    # `answer_fingerprint`, when the id is closed.
    Column("clear", JSONB(none_as_null=True)),
    UniqueConstraint("account_id", "id_kind", "value"),
    _one_of("origin", ["sender", "discovered"]),
    CheckConstraint("(closed_at IS NULL) = (close_reason IS NULL)", name="closed_with_reason"),
    CheckConstraint("(closed_at IS NULL) = (next_check_at IS NOT NULL)", name="open_means_due_some_time"),
    CheckConstraint("closed_at IS NULL OR fetch_id IS NULL", name="closed_is_not_asked"),
)
Index(
    "ix_tracked_ids_due",
    tracked_ids.c.account_id,
    tracked_ids.c.next_check_at,
    postgresql_where=text("closed_at IS NULL AND fetch_id IS NULL"),
)
Index(
    "ix_tracked_ids_open", tracked_ids.c.account_id, tracked_ids.c.sent_at, postgresql_where=text("closed_at IS NULL")
)
Index(
    "ix_tracked_ids_closed",
    tracked_ids.c.account_id,
    tracked_ids.c.closed_at,
    postgresql_where=text("close_reason = 'final' AND checked_before_at IS NOT NULL"),
)
Index("ix_tracked_ids_fetch", tracked_ids.c.fetch_id, postgresql_where=tracked_ids.c.fetch_id.is_not(None))
Index(
    "ix_tracked_ids_whole",
    tracked_ids.c.account_id,
    tracked_ids.c.whole,
    postgresql_where=text("whole IS NOT NULL AND closed_at IS NULL"),
)
Index("ix_tracked_ids_recipient", tracked_ids.c.recipient)
Index("ix_tracked_ids_client_ref", tracked_ids.c.client_ref)
# Whether an account has references by key (`ulak.models.references`): asked with every provider call that stores
# something.
Index(
    "ix_tracked_ids_references",
    tracked_ids.c.account_id,
    postgresql_where=text("client_ref IS NOT NULL AND id_kind IN ('message', 'order', 'conversation')"),
)

# What is known of how long an account's messages take, by kind of id: `ulak.schedules.learning.Learned` as JSON.
latencies = Table(
    "latencies",
    metadata,
    Column("account_id", Text, ForeignKey("accounts.id"), primary_key=True),
    Column("id_kind", Text, primary_key=True),
    Column("learned", JSONB, nullable=False),
    Column("read_through", _TIME, nullable=False),
)

# How fresh final reports were, counted since the account has existed: each row holds the totals up to `at`, so what
# happened in a window is the difference of two rows. Upkeep writes at most one row an account and minute.
freshness = Table(
    "freshness",
    metadata,
    Column("account_id", Text, ForeignKey("accounts.id"), primary_key=True),
    Column("at", _TIME, primary_key=True),
    Column("total", Double, nullable=False),
    Column("good", Double, nullable=False),
    Column("seconds", Double, nullable=False),
    # By upper bound (`ulak.models.objectives.BOUNDS`), cumulative.
    Column("buckets", ARRAY(Double), nullable=False),
)

# One row: through which moment and transaction `freshness` was counted.
freshness_read = Table(
    "freshness_read",
    metadata,
    Column("only_row", Boolean, primary_key=True, server_default=text("true")),
    Column("through", _TIME, nullable=False),
    Column("from_transaction", BigInteger, nullable=False),
    Column("next_transaction", BigInteger, nullable=False),
    CheckConstraint("only_row", name="one_row"),
)

delivery_status = Table(
    "delivery_status",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("account_id", Text, ForeignKey("accounts.id"), nullable=False),
    Column("provider", Text, nullable=False),
    Column("granularity", Text, nullable=False),
    Column("provider_key", Text, nullable=False),
    Column("parent_key", Text),
    Column("client_ref", Text),
    Column("recipient", Text),
    Column("status", Text, nullable=False),
    Column("is_final", Boolean, nullable=False),
    Column("reason", Text),
    Column("provider_status", Text, nullable=False),
    Column("provider_error", Text),
    Column("conflict", Boolean, nullable=False, server_default=text("false")),
    Column("total", Integer),
    Column("delivered", Integer),
    Column("undelivered", Integer),
    Column("waiting", Integer),
    Column("segments", Integer),
    Column("credits", Numeric),
    Column("sent_at", _TIME),
    Column("done_at", _TIME),
    Column("valid_until", _TIME),
    Column("first_seen_at", _TIME, nullable=False, server_default=func.now()),
    Column("changed_at", _TIME, nullable=False, server_default=func.now()),
    # The transaction of the last change: what is older than every running transaction can be fed in order, without
    # gaps, whoever committed first.
    Column("changed_in", BigInteger, nullable=False, server_default=text("pg_current_xact_id()::text::bigint")),
    Column("extra", JSONB, nullable=False, server_default=_EMPTY),
    # Null only in rows stored before this column, until upkeep has filled them (`ulak.models.sending_time`).
    Column("message_time", _TIME),
    Column("message_time_source", Text),
    UniqueConstraint("account_id", "granularity", "provider_key"),
    _one_of("granularity", [word.value for word in Granularity]),
    _one_of("status", [word.value for word in Status]),
    _one_of("reason", [word.value for word in Reason]),
    _one_of("message_time_source", [word.value for word in TimeSource]),
    # Rows advance in place; room on the page keeps the updates off the indexes.
    postgresql_with={"fillfactor": "80"},
    comment=TABLE,
)
for _column in delivery_status.c:
    _column.comment = COLUMNS[_column.name]
Index("ix_delivery_status_recipient", delivery_status.c.recipient)
Index("ix_delivery_status_client_ref", delivery_status.c.client_ref)
Index("ix_delivery_status_changed", delivery_status.c.changed_in, delivery_status.c.id)
Index("ix_delivery_status_parent", delivery_status.c.account_id, delivery_status.c.parent_key)
Index(
    "ix_delivery_status_open",
    delivery_status.c.account_id,
    delivery_status.c.first_seen_at,
    postgresql_where=text("NOT is_final"),
)
# By status, but for those that nearly all messages end with: a search for them finds enough in any part of the table.
USUAL_STATUSES = (Status.DELIVERED.value, Status.READ.value)
UNUSUAL_STATUS = "status NOT IN ('{}', '{}')".format(*USUAL_STATUSES)
Index(
    "ix_delivery_status_unusual", delivery_status.c.status, delivery_status.c.id, postgresql_where=text(UNUSUAL_STATUS)
)
# Ranges of time: of one account, and of all of them.
Index(
    "ix_delivery_status_newest",
    delivery_status.c.account_id,
    delivery_status.c.message_time,
    delivery_status.c.id,
)
Index("ix_delivery_status_time", delivery_status.c.message_time, postgresql_using="brin")

# No foreign key and nothing but its key: each would cost every new row more than the observation itself. A trigger
# removes the history of a delivery that is deleted. `facts` is null where the row says them (`ulak.models.history`).
observations = Table(
    "observations",
    metadata,
    Column("delivery_id", BigInteger, nullable=False),
    Column("content_hash", LargeBinary, nullable=False),
    Column("source", Text, nullable=False),
    Column("as_of", _TIME),
    Column("as_of_last", _TIME),
    Column("provider_time", _TIME),
    Column("first_seen_at", _TIME, nullable=False, server_default=func.now()),
    Column("facts", JSONB),
    Column("statement", JSONB, nullable=False),
    UniqueConstraint("delivery_id", "content_hash"),
    _one_of("source", [word.value for word in Source]),
)

# The statistics (`ulak.models.statistics_upkeep`, `ulak.models.statistics`). Every change of the delivery table appends
# its effect on the counts: no key and no index, so it costs little and nothing waits. Columns of 8 bytes come first,
# which saves their padding. `was_…` is set where messages have only changed their state.
statistics_deltas = Table(
    "statistics_deltas",
    metadata,
    Column("hour", _TIME),
    Column("segments", BigInteger),
    Column("milliseconds", BigInteger),
    Column("day", Date, nullable=False),
    Column("messages", Integer, nullable=False),
    Column("conflicts", Integer),
    *(Column(name, Integer) for name in TOOK),
    Column("is_final", Boolean, nullable=False),
    Column("was_is_final", Boolean),
    Column("erased", Boolean, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("granularity", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("was_status", Text),
    Column("reason", Text),
    Column("was_reason", Text),
    Column("number_range", Text),
    Column("credits", Numeric),
)
# Upkeep folds it into these two.
statistics_days = Table(
    "statistics_days",
    metadata,
    Column("day", Date, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("hour", _TIME),
    Column("granularity", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("number_range", Text),
    Column("is_final", Boolean, nullable=False),
    Column("erased", Boolean, nullable=False),
    Column("messages", Integer, nullable=False),
    Column("conflicts", Integer, nullable=False),
    Column("segments", BigInteger, nullable=False),
    Column("credits", Numeric, nullable=False),
    Column("milliseconds", BigInteger, nullable=False),
    *(Column(name, Integer, nullable=False) for name in TOOK),
    UniqueConstraint(*KEY, name="uq_statistics_days_key", postgresql_nulls_not_distinct=True),
)
Index("ix_statistics_days_hour", statistics_days.c.hour, postgresql_where=statistics_days.c.hour.is_not(None))
statistics_totals = Table(
    "statistics_totals",
    metadata,
    Column("account_id", Text, primary_key=True),
    Column("granularity", Text, primary_key=True),
    Column("status", Text, primary_key=True),
    Column("is_final", Boolean, primary_key=True),
    Column("messages", BigInteger, nullable=False),
    Column("conflicts", BigInteger, nullable=False),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("account_id", Text, ForeignKey("accounts.id"), nullable=False),
    Column("fetch_id", BigInteger),
    Column("provider_key", Text),
    Column("reason", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("context", JSONB, nullable=False, server_default=_EMPTY),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("sealed", LargeBinary),
    Column("times", Integer, nullable=False, server_default=text("1")),
    Column("first_seen_at", _TIME, nullable=False, server_default=func.now()),
    Column("last_seen_at", _TIME, nullable=False, server_default=func.now()),
    Column("resolved_at", _TIME),
    UniqueConstraint("account_id", "fingerprint"),
)
Index("ix_quarantine_open", quarantine.c.first_seen_at, postgresql_where=quarantine.c.resolved_at.is_(None))

# Where a delivery was, the feed of changes tells that it is gone. The row's id is all that is kept: it names nobody.
delivery_erasures = Table(
    "delivery_erasures",
    metadata,
    Column("delivery_id", BigInteger, primary_key=True, autoincrement=False),
    Column("erased_at", _TIME, nullable=False, server_default=func.now()),
    Column("changed_in", BigInteger, nullable=False, server_default=text("pg_current_xact_id()::text::bigint")),
)
Index("ix_delivery_erasures_changed", delivery_erasures.c.changed_in, delivery_erasures.c.delivery_id)

# Before which `message_time` all deliveries of an account were removed, because they had been kept long enough: entries
# of the feed of changes. A later one that reaches further replaces those before it.
delivery_removals = Table(
    "delivery_removals",
    metadata,
    Column("account_id", Text, primary_key=True),
    Column("before", _TIME, primary_key=True),
    Column("removed_at", _TIME, nullable=False, server_default=func.now()),
    Column("changed_in", BigInteger, nullable=False, server_default=text("pg_current_xact_id()::text::bigint")),
)

# One row: which feed this is (`id`, in every cursor), in which cluster its transactions are counted, and which
# erasures are no longer told.
change_feed = Table(
    "change_feed",
    metadata,
    Column("only_row", Boolean, primary_key=True, server_default=text("true")),
    Column("id", Uuid, nullable=False, server_default=text("gen_random_uuid()")),
    Column("cluster", Text, nullable=False),
    Column("forgotten_before", _TIME),
    Column("forgotten_in", BigInteger, nullable=False, server_default=text("0")),
    CheckConstraint("only_row", name="one_row"),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("name", Text, primary_key=True),
    Column("sha256", LargeBinary, nullable=False),
    Column("created_at", _TIME, nullable=False, server_default=func.now()),
    Column("revoked_at", _TIME),
    Column("last_used_at", _TIME),
    # The previous version knows no roles: what it makes may do everything, as all tokens could there.
    Column("role", Text, nullable=False, server_default=text("'admin'")),
    Column("accounts", ARRAY(Text)),
    UniqueConstraint("sha256"),
    CheckConstraint("name ~ '^[a-z0-9][a-z0-9-]*$'", name="name_is_slug"),
)

# Sessions of the status page that were ended by a log-out, until their cookie has expired anyway.
ended_sessions = Table(
    "ended_sessions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("expires_at", _TIME, nullable=False),
)

# People of the single sign-on whose sessions from before a moment are over, until those cookies have expired anyway.
ended_people = Table(
    "ended_people",
    metadata,
    Column("person", Text, primary_key=True),
    Column("ended_at", _TIME, nullable=False, server_default=text("clock_timestamp()")),
)

# Who did, saw or erased what. Triggers of the migration refuse to change or delete a row. No foreign key: an event
# outlives what it is about.
events = Table(
    "events",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("at", _TIME, nullable=False, server_default=text("clock_timestamp()")),
    Column("action", Text, nullable=False),
    Column("actor_kind", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("actor_label", Text),
    Column("via", Text, nullable=False),
    Column("account_id", Text),
    Column("delivery_id", BigInteger),
    Column("person", LargeBinary),
    Column("details", JSONB, nullable=False, server_default=text("'{}'")),
)
Index("ix_events_account", events.c.account_id, events.c.id)
Index("ix_events_person", events.c.person, events.c.id, postgresql_where=events.c.person.is_not(None))
Index("ix_events_delivery", events.c.delivery_id, events.c.id, postgresql_where=events.c.delivery_id.is_not(None))

# Erased people, as keyed hashes of each spelling (`ulak.models.suppression`). `version` is the same for all that one
# erasure wrote; `key_check` identifies the key they were made with.
suppressions = Table(
    "suppressions",
    metadata,
    Column("mark", LargeBinary, primary_key=True),
    Column("erased_at", _TIME, nullable=False),
    Column("key_check", LargeBinary, nullable=False),
    Column("version", BigInteger, nullable=False),
)
Index("ix_suppressions_version", suppressions.c.version)

# Requests that were rejected for an account, by kind. Apart from `accounts`, whose rows the limiter locks: a stranger
# can cause these.
rejections = Table(
    "rejections",
    metadata,
    Column("account_id", Text, ForeignKey("accounts.id"), primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("times", BigInteger, nullable=False),
    Column("first_at", _TIME, nullable=False, server_default=text("clock_timestamp()")),
    Column("last_at", _TIME, nullable=False, server_default=text("clock_timestamp()")),
)

# When each periodic task last came to its end: the sign that beat, broker, workers and database work together.
heartbeats = Table(
    "heartbeats",
    metadata,
    Column("name", Text, primary_key=True),
    Column("at", _TIME, nullable=False),
    # One row each, written every few seconds forever.
    postgresql_with={"fillfactor": "50"},
)

# What is wrong now, or was until a moment ago (`ulak.models.problems`): one row for each problem that receivers know
# of, or will know of if it stays.
problems = Table(
    "problems",
    metadata,
    Column("key", Text, primary_key=True),
    Column("episode", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("account_id", Text),
    Column("summary", Text, nullable=False),
    Column("advice", Text, nullable=False),
    Column("first_seen_at", _TIME, nullable=False),
    Column("seen_at", _TIME, nullable=False),
    Column("opened_at", _TIME),
    Column("absent_since", _TIME),
)

# Messages about problems, one row for each receiver (`ulak.models.notifications`). `items`: what it says; fixed once it
# has been attempted.
notifications = Table(
    "notifications",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("receiver", Text, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("items", JSONB, nullable=False),
    Column("created_at", _TIME, nullable=False, server_default=text("clock_timestamp()")),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("attempted_at", _TIME),
    Column("next_attempt_at", _TIME, nullable=False),
    Column("delivered_at", _TIME),
    Column("last_error", Text),
    UniqueConstraint("receiver", "message_id"),
)
Index(
    "ix_notifications_waiting",
    notifications.c.receiver,
    notifications.c.id,
    postgresql_where=notifications.c.delivered_at.is_(None),
)

# The worker processes that make fetches: their threads are shared out among the accounts.
workers = Table(
    "workers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("threads", SmallInteger, nullable=False),
    Column("seen_at", _TIME, nullable=False),
    CheckConstraint("threads >= 1", name="threads_positive"),
    # One row each, written every few seconds forever.
    postgresql_with={"fillfactor": "50"},
)

# Steps of the database's clock that a worker noticed: `seconds` forward, or back where negative. The stored times have
# all been moved with the clock once `moved_at` is set.
clock_steps = Table(
    "clock_steps",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("noticed_at", _TIME, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("evidence", Text, nullable=False),
    Column("noticed_by", Text, nullable=False),
    Column("moved_at", _TIME),
    _one_of("evidence", ["boot_clock", "stored_times"]),
)

# How far the database's clock was ahead of a machine's boot clock when a worker there last looked: what a process that
# starts on the same run of the same machine compares its first look with.
clock_readings = Table(
    "clock_readings",
    metadata,
    Column("boot_id", Text, primary_key=True),
    Column("ahead_least", Double, nullable=False),
    Column("ahead_most", Double, nullable=False),
    Column("step_id", BigInteger, nullable=False),
    Column("at", _TIME, nullable=False),
    # One row each, written every few seconds forever.
    postgresql_with={"fillfactor": "50"},
)
