"""The views for readers, and the comments that explain table and views within the database.

Both hold no data, so only the newest migration that changes one of them has to run `create_views` and `write_comments`:
it takes the calls over from the migration that had them before, with the `fingerprint` of what it makes.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from sqlalchemy import Connection, text

from ulak.models.meanings import COLUMNS, TABLE, VIEWS, Outcome, outcome_of, view_column
from ulak.models.statistics_upkeep import COUNTS, HOUR, TOOK
from ulak.models.vocabulary import Status

TABLE_NAME: Final = "delivery_status"


def _statuses(outcome: Outcome) -> str:
    return ", ".join(f"'{status}'" for status in Status if outcome_of(status) is outcome)


_OUTCOME: Final = (
    f"CASE WHEN d.status IN ({_statuses(Outcome.DELIVERED)}) THEN '{Outcome.DELIVERED}'"
    f" WHEN d.status IN ({_statuses(Outcome.FAILED)}) THEN '{Outcome.FAILED}' ELSE '{Outcome.PENDING}' END"
)
_LOCAL_DAY: Final = "(d.message_time AT TIME ZONE a.timezone)::date"
_STATE: Final = ("status", "is_final", "reason", "provider_status", "provider_error")
_TIME: Final = ("message_time", "message_time_source")
_OURS: Final = ("first_seen_at", "changed_at", "extra")


def _own(*names: str) -> dict[str, str]:
    return {name: f"d.{name}" for name in names}


def _ever(name: str) -> str:
    """A sum of what has been counted, erased since or not."""
    return f"coalesce(sum(d.{name}) FILTER (WHERE NOT d.erased), 0)"


VIEW_SQL: Final[Mapping[str, Mapping[str, str]]] = {
    "messages": {
        **_own("id", "account_id", "provider", "provider_key"),
        "order_key": "d.parent_key",
        **_own("client_ref", "recipient"),
        "outcome": _OUTCOME,
        **_own(*_STATE, "conflict"),
        "local_day": _LOCAL_DAY,
        **_own(*_TIME, "sent_at", "done_at", "valid_until"),
        "seconds_to_done": "CASE WHEN d.done_at >= d.sent_at THEN extract(epoch FROM d.done_at - d.sent_at) END",
        **_own("segments", "credits", *_OURS),
    },
    "orders": {
        **_own("id", "account_id", "provider"),
        "order_key": "d.provider_key",
        **_own("client_ref", *_STATE, "total", "delivered"),
        "failed": "d.undelivered",
        "pending": "coalesce(d.waiting, greatest(d.total - coalesce(d.delivered, 0) - coalesce(d.undelivered, 0), 0))",
        "local_day": _LOCAL_DAY,
        **_own(*_TIME, "sent_at", "done_at", "valid_until", "credits", *_OURS),
    },
    "conversations": {
        **_own("id", "account_id", "provider"),
        "conversation_key": "d.provider_key",
        "sender": "d.parent_key",
        "receiver": "d.recipient",
        **_own("client_ref"),
        # The adapter's own text of a date, so the cast cannot fail.
        "day": "(d.extra ->> 'day')::date",
        "messages": "d.total",
        **_own(*_STATE[:2], *_OURS),
    },
    "statistics": {
        **_own("account_id"),
        "provider": "a.provider",
        "local_day": "d.day",
        "hour": "d.by_hour",
        "outcome": _OUTCOME,
        **_own("status", "reason", "number_range"),
        "messages": _ever("messages"),
        "erased": "coalesce(sum(d.messages) FILTER (WHERE d.erased), 0)",
        **{name: _ever(name) for name in ("conflicts", "segments", "credits")},
        "timed": " + ".join(map(_ever, TOOK)),
        "seconds_to_done": f"round({_ever('milliseconds')} / 1000, 3)",
        **{name: _ever(name) for name in TOOK},
    },
}
"""Of each view its columns, in order, as SQL over `_FROM`."""


def _rows_of(granularity: str) -> str:
    return f"{TABLE_NAME} d JOIN accounts a ON a.id = d.account_id WHERE d.granularity = '{granularity}'"


_FROM: Final = {
    "messages": _rows_of("message"),
    "orders": _rows_of("order"),
    "conversations": _rows_of("conversation"),
    "statistics": f"(SELECT *, {HOUR} AS by_hour FROM ({COUNTS}) AS counts) AS d"
    " JOIN accounts a ON a.id = d.account_id WHERE d.granularity = 'message'"
    " GROUP BY d.account_id, a.provider, d.day, d.by_hour, d.status, d.reason, d.number_range"
    " HAVING sum(d.messages) FILTER (WHERE NOT d.erased) <> 0",
}


def create_views(connection: Connection) -> None:
    """Create the views, or bring them to this definition; columns can only be added at the end of an existing view."""
    for view, columns in VIEW_SQL.items():
        listed = ", ".join(f"{sql} AS {name}" for name, sql in columns.items())
        connection.execute(text(f"CREATE OR REPLACE VIEW {view} AS SELECT {listed} FROM {_FROM[view]}"))


def drop_views(connection: Connection) -> None:
    """Remove the views."""
    for view in VIEW_SQL:
        connection.execute(text(f"DROP VIEW {view}"))


def comments() -> dict[tuple[str, str | None], str]:
    """The comment of every relation (column None) and column that readers see."""
    found: dict[tuple[str, str | None], str] = {(TABLE_NAME, None): TABLE}
    found |= {(TABLE_NAME, column): meaning for column, meaning in COLUMNS.items()}
    for view, columns in VIEW_SQL.items():
        found[view, None] = VIEWS[view]
        found |= {(view, column): view_column(view, column) for column in columns}
    return found


def fingerprint() -> str:
    """Distinguishes these views and comments from others, so that a test notices a change without a migration."""
    made = {view: [*columns.items(), ("FROM", _FROM[view])] for view, columns in VIEW_SQL.items()}
    said = sorted((relation, column or "", meaning) for (relation, column), meaning in comments().items())
    return sha256(json.dumps([made, said]).encode()).hexdigest()[:16]


_PRESENT = text("""
    SELECT c.relname, a.attname, c.relkind = 'v' AS is_view
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v')
""")


def write_comments(connection: Connection) -> None:
    """Comment every relation and column that there is at this revision. A migration runs it whenever a text changes."""
    present = connection.execute(_PRESENT).all()
    columns = {(row.relname, row.attname) for row in present}
    is_view = {row.relname: row.is_view for row in present}
    for (relation, column), meaning in comments().items():
        quoted = "'" + meaning.replace("'", "''") + "'"
        if column is None and relation in is_view:
            kind = "VIEW" if is_view[relation] else "TABLE"
            connection.exec_driver_sql(f"COMMENT ON {kind} {relation} IS {quoted}")
        elif (relation, column) in columns:
            connection.exec_driver_sql(f"COMMENT ON COLUMN {relation}.{column} IS {quoted}")
