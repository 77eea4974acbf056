"""How the statistics are kept: every change of the delivery table appends what it changes in the counts.

Triggers with transition tables do it, once for each statement and in its transaction, so every writer of a row (this
version or the one before, an erasure, a person at a prompt) keeps the counts exact, and no writer waits for another:
rows are only appended (`statistics_deltas`). Upkeep folds them into `statistics_days` and `statistics_totals`; readers
add both (`ulak.models.statistics`). What is folded, and when, changes no sum.

What a deleted row had counted stays counted, and is counted once more as erased: past figures do not change with an
erasure. So, for every key, whatever has been written, erased and folded:

    counted = GROUP BY over the rows that are stored + erased

Both sides change in one transaction, so their difference is the same in every snapshot, and one statement can correct
it without a lock (`recount`).
"""

from collections.abc import Collection
from hashlib import sha256
from typing import Final

from sqlalchemy import Connection, Engine, text

from ulak.core import clock
from ulak.models.database import transaction
from ulak.models.meanings import SLOWEST_SECONDS, Outcome, outcome_of
from ulak.models.vocabulary import Status

HOURS_FOLDED_AFTER_DAYS: Final = 15
"""So long counts are kept by the hour. Readers ask for a day less, so that none of their hours is being folded."""
TOOK: Final = (*(f"took_{seconds}s" for seconds in SLOWEST_SECONDS), "took_longer")
KEY: Final = (
    "day",
    "account_id",
    "hour",
    "granularity",
    "status",
    "reason",
    "number_range",
    "is_final",
    "erased",
)
"""What is counted apart. Null: no reason, no number, or (`hour`) counted by the day alone."""
TOTAL_KEY: Final = ("account_id", "granularity", "status", "is_final")
MEASURES: Final = ("messages", "conflicts", "segments", "credits", "milliseconds", *TOOK)
FOLD_ROWS: Final = 20_000
"""How many deltas one transaction folds."""

_LOCK: Final = 0x756C6174  # one advisory lock for all who fold, one number further for all who recount
_RETRACTS: Final = "ulak.retracts"
_DELIVERED: Final = ", ".join(f"'{status}'" for status in Status if outcome_of(status) is Outcome.DELIVERED)
_BOUNDS: Final = ", ".join(str(seconds * 1000 + 1) for seconds in SLOWEST_SECONDS)


def _hour_of(moment: str) -> str:
    # From an origin before every time that is stored: versions of PostgreSQL differ in how they round before it.
    return f"date_bin('1 hour', {moment}, '0001-01-01 00:00Z')"


_CUTOFF: Final = _hour_of(f"now() - interval '{HOURS_FOLDED_AFTER_DAYS} days'")

# The country codes of the ITU are disjoint; of a Turkish mobile number the code of its operator belongs to it. What
# follows the range does not matter, so a Turkish pseudonym (`ulak.models.pseudonyms`: `h90532-…`) counts as its number
# would; others have no range.
_NUMBER_RANGE: Final = r"""
CREATE OR REPLACE FUNCTION number_range(recipient text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN left(recipient, 1) IN ('+', 'h') THEN
    substring(CASE WHEN recipient ~ '^h[0-9]{5}-' THEN '+' || substr(recipient, 2) ELSE recipient END
      FROM '^\+(?:905[0-9]{2}|1|7|2[07]|3[0-469]'
      '|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|(?:2[1-689]|3[578]|42|5[09]|6[7-9]|8[035789]|9[679])[0-9])') END
$$
"""


def _contributions(rows: str, *, hours_since: str | None = None) -> str:
    """SQL: what each row of a relation like `delivery_status` counts as. Before `hours_since`: by the day alone."""
    hour = _hour_of("d.at")
    if hours_since is not None:
        hour = f"CASE WHEN d.at >= {hours_since} THEN {hour} END"
    return f"""
      SELECT d.id, CAST(d.at AT TIME ZONE a.timezone AS date) AS day, d.account_id, {hour} AS hour, d.granularity,
        d.status, d.reason, number_range(d.recipient) AS number_range, d.is_final, d.conflict, d.segments, d.credits,
        d.took, width_bucket(d.took, CAST(ARRAY[{_BOUNDS}] AS bigint[])) AS place
      FROM (
        SELECT id, account_id, granularity, status, reason, recipient, is_final, conflict, segments, credits,
          coalesce(message_time, sent_at, first_seen_at) AS at,
          CASE WHEN status IN ({_DELIVERED}) AND done_at >= sent_at
            THEN CAST(floor(extract(epoch FROM done_at - sent_at) * 1000) AS bigint) END AS took
        FROM {rows} OFFSET 0
      ) AS d JOIN accounts a ON a.id = d.account_id
    """


def _counted(signed: str, key: tuple[str, ...] = KEY) -> str:
    """SQL: signed contributions by key; a measure is null where it is 0, which takes no room."""
    took = ", ".join(
        f"nullif(sum(sign) FILTER (WHERE place = {place}), 0) AS {name}" for place, name in enumerate(TOOK)
    )
    return f"""
      SELECT {", ".join(key)}, sum(sign) AS messages, nullif(sum(sign) FILTER (WHERE conflict), 0) AS conflicts,
        nullif(sum(segments * sign), 0) AS segments, nullif(sum(credits * sign), 0) AS credits,
        nullif(sum(took * sign), 0) AS milliseconds, {took}
      FROM ({signed}) AS signed GROUP BY {", ".join(key)}
    """


def _signed(contributions: str, sign: int, *, erased: bool = False) -> str:
    return f"SELECT *, {sign} AS sign, {erased} AS erased FROM ({contributions}) AS contributed"


def _append(counted: str, key: tuple[str, ...] = KEY) -> str:
    """SQL: append these counts, without those that are 0."""
    names = ", ".join((*key, *MEASURES))
    return f"""
      INSERT INTO statistics_deltas ({names}) SELECT {names} FROM ({counted}) AS counted
      WHERE messages <> 0 OR num_nonnulls({", ".join(MEASURES[1:])}) > 0
    """


_STATE: Final = ("status", "reason", "is_final")
_WAS: Final = tuple(f"was_{name}" for name in _STATE)
_ALIKE: Final = ("day", "account_id", "hour", "granularity", "number_range", "segments", "credits")
_LINE: Final = (*_ALIKE, *_STATE, "conflict", "took", "place")


def _of(row: str, names: tuple[str, ...]) -> str:
    return ", ".join(f"{row}.{name}" for name in names)


# Most changes give a row nothing but another state. Such a row counts in one line that holds both, the others in two.
_CHANGED: Final = f"""
  SELECT line.*, false AS erased
  FROM ({_contributions("new_rows")}) AS n JOIN ({_contributions("old_rows")}) AS o ON o.id = n.id
  CROSS JOIN LATERAL (
    SELECT ({_of("n", _ALIKE)}) IS NOT DISTINCT FROM ({_of("o", _ALIKE)}) AND o.took IS NULL AND NOT o.conflict
  ) AS t(moves)
  CROSS JOIN LATERAL (VALUES
    ({_of("n", _LINE)}, 1, {", ".join(f"CASE WHEN t.moves THEN o.{name} END" for name in _STATE)}),
    ({_of("o", _LINE)}, -1, NULL, NULL, NULL)
  ) AS line({", ".join((*_LINE, "sign", *_WAS))})
  WHERE ({_of("n", _LINE)}) IS DISTINCT FROM ({_of("o", _LINE)}) AND (line.sign = 1 OR NOT t.moves)
"""


def changes(deltas: str) -> str:
    """SQL: what these deltas add to each key."""
    names = ", ".join((*KEY, *MEASURES))
    was = ", ".join(f"was_{name}" if name in _STATE else name for name in KEY)
    lost = ", ".join(f"-{name}" if name in {"messages", "segments", "credits"} else "NULL" for name in MEASURES)
    return f"SELECT {names} FROM {deltas} UNION ALL SELECT {was}, {lost} FROM {deltas} WHERE was_status IS NOT NULL"


COUNTS: Final = f"SELECT {', '.join((*KEY, *MEASURES))} FROM statistics_days UNION ALL {changes('statistics_deltas')}"
"""SQL: all counts, folded or not, as columns `KEY` and `MEASURES`, several rows for a key; a measure may be null."""

_RETRACT: Final = _append(_counted(_signed(_contributions("old_rows"), -1)))
_ERASE: Final = _append(_counted(_signed(_contributions("old_rows"), 1, erased=True)))
_TRIGGERS: Final = {
    "insert": (_append(_counted(_signed(_contributions("new_rows"), 1))), "NEW TABLE AS new_rows"),
    "update": (
        _append(_counted(_CHANGED, (*KEY, *_WAS)), (*KEY, *_WAS)),
        "OLD TABLE AS old_rows NEW TABLE AS new_rows",
    ),
    "delete": (
        f"IF current_setting('{_RETRACTS}', true) = 'on' THEN {_RETRACT}; ELSE {_ERASE}; END IF",
        "OLD TABLE AS old_rows",
    ),
}


def create_triggers(connection: Connection) -> None:
    """Create the functions and triggers that count, or bring them to this definition."""
    connection.exec_driver_sql(_NUMBER_RANGE)
    for change, (body, tables) in _TRIGGERS.items():
        # A plan that was made for one row is kept for hundreds: a nested loop over them would be quadratic.
        connection.exec_driver_sql(
            f"CREATE OR REPLACE FUNCTION count_{change}() RETURNS trigger LANGUAGE plpgsql"
            f" SET enable_nestloop = off SET jit = off AS $$ BEGIN {body}; RETURN NULL; END $$"
        )
        connection.exec_driver_sql(
            f"CREATE OR REPLACE TRIGGER statistics_of_{change} AFTER {change.upper()} ON delivery_status"
            f" REFERENCING {tables} FOR EACH STATEMENT EXECUTE FUNCTION count_{change}()"
        )


def drop_triggers(connection: Connection) -> None:
    """Remove what `create_triggers` has made."""
    for change in _TRIGGERS:
        connection.exec_driver_sql(f"DROP TRIGGER statistics_of_{change} ON delivery_status")
        connection.exec_driver_sql(f"DROP FUNCTION count_{change}()")
    connection.exec_driver_sql("DROP FUNCTION number_range(text)")


def fingerprint() -> str:
    """Distinguishes these functions and triggers from others, so that a test notices a change without a migration."""
    return sha256(repr((_NUMBER_RANGE, _TRIGGERS)).encode()).hexdigest()[:16]


def retract_deleted(connection: Connection, *, retracts: bool) -> None:
    """Whether what this transaction deletes from now on was never real: then it is not counted any more, either."""
    connection.execute(
        text("SELECT set_config(:name, :value, true)"), {"name": _RETRACTS, "value": "on" if retracts else ""}
    )


# ------------------------------------------------------------------------------------------------------------- recount


HOUR: Final = f"CASE WHEN hour >= {_CUTOFF} THEN hour END"
"""SQL: the hour of a count, null where counts are kept by the day alone, whether that one is folded already or not."""


def _with_hours(erased: str = "erased") -> str:
    """SQL: the columns of counts, with the hour only where counts are kept by the hour."""
    return ", ".join({"hour": f"{HOUR} AS hour", "erased": erased}.get(name, name) for name in (*KEY, *MEASURES))


def _recount(condition: str) -> str:
    rows = f"(SELECT * FROM delivery_status WHERE {condition}) AS stored"
    stored = _counted(_signed(_contributions(rows, hours_since=_CUTOFF), 1))
    names = ", ".join((*KEY, *MEASURES))
    key, sums = ", ".join(KEY), ", ".join(f"nullif(sum({name} * sign), 0) AS {name}" for name in MEASURES[1:])
    return _append(f"""
      SELECT {key}, coalesce(sum(messages * sign), 0) AS messages, {sums}
      FROM (
        SELECT {names}, 1 AS sign FROM ({stored}) AS stored
        UNION ALL SELECT {_with_hours("false AS erased")}, CASE WHEN erased THEN 1 ELSE -1 END
        FROM ({COUNTS}) AS counted WHERE {condition}
      ) AS both_sides GROUP BY {key}
    """)


_RECOUNT: Final = _recount("true")
_RECOUNT_SOME: Final = _recount("account_id = ANY(:accounts)")


def recount(connection: Connection, accounts: Collection[str] | None = None) -> int:
    """Correct the counts (of these accounts, or all) by the stored rows; returns how many keys were wrong.

    Locks nothing and may run beside writers, erasures and folds. What was erased keeps the day it was counted on.
    Reads every row. The caller commits.
    """
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    # Two at once would both add the same difference.
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK + 1})
    if accounts is None:
        return connection.execute(text(_RECOUNT)).rowcount
    return connection.execute(text(_RECOUNT_SOME), {"accounts": sorted(accounts)}).rowcount


_NEXT_TRANSACTION: Final = text("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
_OLDEST_TRANSACTION: Final = text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
WRITERS_END_SECONDS: Final = 60.0


def recount_rezoned(engine: Engine, accounts: Collection[str]) -> int:
    """Move the counts of accounts whose time zone has been changed (and committed) to their new days.

    Waits until all transactions have ended that may still count by the old zone, at most `WRITERS_END_SECONDS`.
    """
    if not accounts:
        return 0
    with transaction(engine) as connection:
        later = connection.execute(_NEXT_TRANSACTION).scalar_one()
    end = clock.boot() + WRITERS_END_SECONDS
    while clock.boot() < end:
        with transaction(engine) as connection:
            if connection.execute(_OLDEST_TRANSACTION).scalar_one() >= later:
                break
        clock.sleep(0.05)
    with transaction(engine) as connection:
        return recount(connection, accounts)


# ---------------------------------------------------------------------------------------------------------------- fold


def _merge(table: str, key: tuple[str, ...], measures: tuple[str, ...], source: str) -> str:
    """SQL: add sums to a table of counts, in the order of its keys."""
    names = ", ".join((*key, *measures))
    sums = ", ".join(f"{table}.{name} + excluded.{name}" for name in measures)
    return (
        f"INSERT INTO {table} ({names}) {source} ORDER BY {', '.join(key)}"
        f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET ({', '.join(measures)}) = ROW ({sums})"
    )


def _sums(counts: str) -> str:
    """SQL: counts by key, without those that are 0."""
    sums = ", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in MEASURES)
    return f"""
      SELECT * FROM (SELECT {", ".join(KEY)}, {sums} FROM ({counts}) AS counts GROUP BY {", ".join(KEY)}) AS sums
      WHERE ({", ".join(MEASURES)}) <> ({", ".join("0" for _ in MEASURES)})
    """


_NET: Final = "coalesce(sum({0} * CASE WHEN erased THEN -1 ELSE 1 END), 0) AS {0}"
_NET_MEASURES: Final = ("messages", "conflicts")
_NET_SUMS: Final = f"""
  SELECT {", ".join((*TOTAL_KEY, *map(_NET.format, _NET_MEASURES)))} FROM changed GROUP BY {", ".join(TOTAL_KEY)}
"""
_FOLD: Final = f"""
WITH gone AS (
  DELETE FROM statistics_deltas WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM statistics_deltas LIMIT {FOLD_ROWS} FOR UPDATE SKIP LOCKED
  )) RETURNING *
), changed AS (
  SELECT {_with_hours()} FROM ({changes("gone")}) AS changes
), totals AS (
  {_merge("statistics_totals", TOTAL_KEY, _NET_MEASURES, _NET_SUMS)}
), days AS (
  {_merge("statistics_days", KEY, MEASURES, _sums("SELECT * FROM changed"))}
)
SELECT count(*) FROM gone
"""
_FOLD_HOURS: Final = f"""
WITH past AS (DELETE FROM statistics_days WHERE hour < {_CUTOFF} RETURNING *)
{_merge("statistics_days", KEY, MEASURES, _sums(f"SELECT {_with_hours()} FROM past"))}
"""


def fold_some(connection: Connection) -> int:
    """Fold up to `FOLD_ROWS` deltas, and the hours that are past; returns how many deltas. 0 where another folds."""
    if not connection.execute(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": _LOCK}).scalar_one():
        return 0
    folded = int(connection.execute(text(_FOLD)).scalar_one())
    connection.execute(text(_FOLD_HOURS))
    return folded


def fold(engine: Engine, *, times: int = 50) -> int:
    """Fold what has been appended, in transactions of `FOLD_ROWS`, at most `times`; returns how many deltas."""
    total = 0
    for _ in range(times):
        with transaction(engine) as connection:
            folded = fold_some(connection)
        total += folded
        if folded < FOLD_ROWS:
            break
    return total
