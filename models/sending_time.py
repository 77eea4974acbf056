"""`message_time`: when a message was sent, as well as anybody knows; the one time that reports group and filter by.

It is the row's own `sent_at`, otherwise that of its order, otherwise when it was first seen. The writer of statuses
(`ulak.models.deliveries`) computes it with the SQL below in the statement that writes the row, so of an open row it
always follows from what has been reported so far, in whatever order that came. It is fixed once the row is final: what
was reported up to then decides, and a later report no longer moves the row to another day. Within the transaction that
inserts a row it may still move, and a report that opens the row again has it follow the reports again.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, Engine, text

from ulak.models.database import execute, json_parameter, transaction
from ulak.models.meanings import TimeSource
from ulak.models.vocabulary import Granularity

COLUMNS: Final = "message_time, message_time_source"
FILL_ROWS: Final = 1000


def order_time(account: str, granularity: str, parent: str) -> str:
    """SQL: the sending time that the provider reported of a message's order, null where there is none.

    A range of one key in the order of keys: whatever the planner believes about the size of the table, it can only take
    the unique index.
    """
    return (
        f"(SELECT o.sent_at FROM delivery_status o WHERE {granularity} = '{Granularity.MESSAGE}'"
        f" AND o.account_id = {account} AND o.granularity = '{Granularity.ORDER}'"
        f" AND o.provider_key BETWEEN {parent} AND {parent} ORDER BY o.provider_key LIMIT 1)"
    )


def _values(own: str, order: str, first_seen: str) -> str:
    return (
        f"coalesce({own}, {order}, {first_seen}), CASE WHEN {own} IS NOT NULL THEN '{TimeSource.OWN}'"
        f" WHEN {order} IS NOT NULL THEN '{TimeSource.ORDER}' ELSE '{TimeSource.FIRST_SEEN}' END"
    )


def _is_fixed(d: str) -> str:
    """Of a stored row that is about to become `r`; one that `r` opens again takes its time anew."""
    return f"({d}.is_final AND r.is_final AND {d}.message_time IS NOT NULL AND {d}.first_seen_at <> now())"


_LACKS: Final = "r.sent_at IS NULL AND r.parent_key IS NOT NULL"

# Both writers look the order up where they read their rows `r`, not where these meet the table: the planner must not
# choose how to join by what the look-up costs.
ORDER_OF_NEW: Final = f"""CASE WHEN {_LACKS}
    THEN {order_time("%(account)s", "r.granularity", "r.parent_key")} END AS order_sent_at"""
ORDER_OF_STORED: Final = f"""CASE WHEN {_LACKS} THEN (
    SELECT {order_time("stored.account_id", "stored.granularity", "r.parent_key")}
    FROM delivery_status stored WHERE stored.id = r.id AND NOT {_is_fixed("stored")}
  ) END AS order_sent_at"""

# Of a new row `r`, and of a stored row `d` that is about to become `r`.
NEW_VALUES: Final = _values("r.sent_at", "r.order_sent_at", "now()")
NEXT_VALUES: Final = f"""(
  SELECT CASE WHEN {_is_fixed("d")} THEN d.message_time ELSE t.at END,
         CASE WHEN {_is_fixed("d")} THEN d.message_time_source ELSE t.source END
  FROM (SELECT {_values("r.sent_at", "r.order_sent_at", "d.first_seen_at")}) AS t(at, source)
)"""
MOVES: Final = f"""(NOT {_is_fixed("d")}
  AND d.message_time IS DISTINCT FROM coalesce(r.sent_at, r.order_sent_at, d.first_seen_at))"""
"""Whether `NEXT_VALUES` differ from what the row has. (Equal times with another source are the same time.)"""

# Both look-ups are ranges of one key in the order of keys, as `order_time` is: of several indexes that begin with the
# account only one serves that order.
_MOVED_BY_ORDERS: Final = """
SELECT m.id
FROM jsonb_to_recordset(%(orders)s::jsonb) AS r(provider_key text, sent_at timestamptz)
CROSS JOIN LATERAL (
  SELECT sent_at, first_seen_at FROM delivery_status
  WHERE account_id = %(account)s AND granularity = 'order' AND provider_key BETWEEN r.provider_key AND r.provider_key
  ORDER BY provider_key LIMIT 1
) o
CROSS JOIN LATERAL (
  SELECT id, granularity, is_final, sent_at, message_time, first_seen_at FROM delivery_status
  WHERE account_id = %(account)s AND parent_key BETWEEN r.provider_key AND r.provider_key
  ORDER BY parent_key OFFSET 0
) m
WHERE (o.sent_at IS DISTINCT FROM r.sent_at OR o.first_seen_at = now()) AND m.granularity = 'message'
  AND m.sent_at IS NULL AND m.message_time IS DISTINCT FROM r.sent_at AND (NOT m.is_final OR m.first_seen_at = now())
"""


def moved_by_orders(
    connection: Connection, account_id: str, times: Mapping[str, Collection[datetime | str]]
) -> set[int]:
    """Ids of messages that may take their time from these orders, of which a report says when they were sent.

    `times` by the order's key. Locks nothing: the caller locks the messages afterwards and computes their times anew.
    """
    said: Iterable[tuple[str, datetime | str]] = ((order, at) for order, given in times.items() for at in given)
    orders = [{"provider_key": order, "sent_at": at} for order, at in said]
    if not orders:
        return set()
    parameters = {"orders": json_parameter(orders), "account": account_id}
    return {place for (place,) in execute(connection, _MOVED_BY_ORDERS, parameters)}


# --------------------------------------------------------------------------------------- rows stored before this column

# The end of the index that holds the rows without a time: whatever the planner believes about how many there are.
_FILL = text(f"""
WITH r AS MATERIALIZED (
  SELECT id FROM delivery_status WHERE account_id = :account AND message_time IS NULL
  ORDER BY message_time DESC LIMIT :many FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE delivery_status d SET ({COLUMNS}) = (
  SELECT {_values("d.sent_at", "o.sent_at", "d.first_seen_at")}
  FROM (SELECT {order_time("d.account_id", "d.granularity", "d.parent_key")} AS sent_at OFFSET 0) o
)
FROM r WHERE d.id = r.id
""")
_UNFILLED = text("""
SELECT a.id FROM accounts a CROSS JOIN LATERAL (
  SELECT message_time FROM delivery_status WHERE account_id = a.id ORDER BY message_time DESC LIMIT 1
) d WHERE d.message_time IS NULL ORDER BY a.id
""")


def fill_missing(engine: Engine, *, chunks: int) -> int:
    """Give up to `chunks` times `FILL_ROWS` rows stored before this column their time; returns how many.

    Each chunk in a transaction of its own that waits for nobody. The rows are not fed as changes: nothing that a
    provider reported has changed.
    """
    filled = 0
    with engine.connect() as connection:
        accounts = list(connection.execute(_UNFILLED).scalars())
    for account in accounts:
        while chunks > 0:
            with transaction(engine) as connection:
                many = connection.execute(_FILL, {"account": account, "many": FILL_ROWS}).rowcount
            filled += many
            chunks -= 1
            if many < FILL_ROWS:
                break
    return filled
