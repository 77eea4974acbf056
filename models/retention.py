"""Removing deliveries that an account has kept long enough: what is announced, and the removal in small batches.

`ulak.models.keeping` decides, upkeep asks it once a minute, and what it decided is stored with the account. Removal
walks the index of the account's times from the oldest on. A batch is one transaction: it deletes rows with their
history, the triggers count them as erased (`ulak.models.statistics_upkeep`), so past figures stay, and the feed of
changes says up to which `message_time` everything of the account is gone (`delivery_removals`). Batches are small,
skip locked rows and never wait for a lock, so no writer waits for more than one of them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection, text

from ulak.models.account import StoredAccount, load, lock
from ulak.models.database import execute
from ulak.models.keeping import Keeping, Step, advance
from ulak.models.statistics_upkeep import COUNTS

BEGINNING: Final = datetime(1, 1, 2, tzinfo=UTC)
_COLUMNS: Final = tuple(each.name for each in fields(Keeping))


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """A removal that has been announced and has not begun."""

    starts_at: datetime
    before: datetime
    """Deliveries that were sent before are removed."""
    deliveries: int
    """How many that are, orders and conversation-days included, by whole local days: a few hours' more or less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What has become of an account's retention."""

    step: Step
    keeping: Keeping
    removal: Removal | None = None
    """With `Step.ANNOUNCED`."""


def keeping_of(account: StoredAccount) -> Keeping:
    """How the account keeps its deliveries."""
    return Keeping(**{name: getattr(account, name) for name in _COLUMNS})


_CONCERNED = text("""
    SELECT id FROM accounts WHERE num_nonnulls(keep_days, keep_days_in_force, removal_days, kept_from) > 0 ORDER BY id
""")
_STORE = text(f"""
    UPDATE accounts SET {", ".join(f"{name} = :{name}" for name in _COLUMNS if name != "keep_days")} WHERE id = :account
""")


def concerned(connection: Connection) -> list[str]:
    """Accounts that do not keep everything, or did not until now."""
    return list(connection.execute(_CONCERNED).scalars())


def move_on(connection: Connection, account: str) -> Moved:
    """Let what is due by now take effect. Locks the account's row only where that changes anything; last, as all do."""
    seen = load(connection, account)
    if advance(keeping_of(seen), seen.now)[1] is Step.NOTHING:
        return Moved(step=Step.NOTHING, keeping=keeping_of(seen))
    held = lock(connection, account)
    keeping, step = advance(keeping_of(held), held.now)
    if step is not Step.NOTHING:
        connection.execute(_STORE, asdict(keeping) | {"account": account})
    removal = announced(connection, {account: (keeping, held.now)}).get(account) if step is Step.ANNOUNCED else None
    return Moved(step=step, keeping=keeping, removal=removal)


_COUNT = text(f"""
    SELECT wanted.account_id, coalesce(sum(messages * CASE WHEN erased THEN -1 ELSE 1 END), 0) AS deliveries
    FROM unnest(CAST(:accounts AS text[]), CAST(:moments AS timestamptz[])) AS wanted(account_id, before)
    JOIN accounts a ON a.id = wanted.account_id
    LEFT JOIN ({COUNTS}) AS counts ON counts.account_id = a.id
      AND counts.day < CAST(wanted.before AT TIME ZONE a.timezone AS date)
    GROUP BY wanted.account_id
""")


def announced(connection: Connection, keepings: Mapping[str, tuple[Keeping, datetime]]) -> dict[str, Removal]:
    """Removals that have been announced and have not begun, by account. Reads counts, never the deliveries."""
    coming = {
        account: (keeping.removal_starts_at, before)
        for account, (keeping, now) in keepings.items()
        if keeping.removal_starts_at is not None and (before := keeping.removes_before(now)) is not None
    }
    if not coming:
        return {}
    given = {"accounts": list(coming), "moments": [before for _, before in coming.values()]}
    return {
        row.account_id: Removal(
            starts_at=coming[row.account_id][0], before=coming[row.account_id][1], deliveries=int(row.deliveries)
        )
        for row in connection.execute(_COUNT, given)
    }


# Where a batch is full, or rows were locked, all before its last row's time, or before the first locked one, is gone;
# otherwise all before the bound. A range that reaches as far and comes later replaces those before it. Two kinds of
# rows are announced by their ids: those that are gone though an older one was locked, since the removal may be
# cancelled before that one goes; and those that a copy may hold under a time at which they were fed before it moved,
# that is, those first seen late enough for that and changed since.
_REMOVE: Final = """
WITH oldest AS MATERIALIZED (
  SELECT id, message_time FROM delivery_status
  WHERE account_id = %(account)s AND message_time >= %(since)s::timestamptz AND message_time < %(before)s
  ORDER BY account_id, message_time, id LIMIT %(many)s
), mine AS MATERIALIZED (
  SELECT id FROM delivery_status WHERE id = ANY(ARRAY(SELECT id FROM oldest)) AND message_time < %(before)s
  FOR UPDATE SKIP LOCKED
), reached AS (
  SELECT held, coalesce(held, full_to, %(before)s::timestamptz) AS before FROM (
    SELECT min(message_time) FILTER (WHERE NOT id IN (SELECT id FROM mine)) AS held,
      CASE WHEN count(*) = %(many)s THEN max(message_time) END AS full_to FROM oldest) AS ends
), gone AS (
  DELETE FROM delivery_status WHERE id = ANY(ARRAY(SELECT id FROM mine))
  RETURNING id, message_time, first_seen_at, changed_at
), by_id AS (
  INSERT INTO delivery_erasures (delivery_id)
  SELECT id FROM gone
  WHERE message_time >= (SELECT held FROM reached)
     OR (first_seen_at >= %(before)s::timestamptz - interval '1 day' AND changed_at <> first_seen_at)
), covered AS (
  DELETE FROM delivery_removals WHERE account_id = %(account)s AND before < (SELECT before FROM reached)
  RETURNING account_id
), by_time AS (
  INSERT INTO delivery_removals AS r (account_id, before)
  SELECT %(account)s, before FROM reached
  -- One that reaches further may be older than those it replaces.
  WHERE EXISTS (SELECT FROM gone) OR EXISTS (SELECT FROM covered)
     OR NOT EXISTS (SELECT FROM delivery_removals t WHERE t.account_id = %(account)s AND t.before >= reached.before)
  ON CONFLICT (account_id, before) DO UPDATE SET removed_at = excluded.removed_at, changed_in = excluded.changed_in
)
SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM oldest), (SELECT before FROM reached)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one batch has removed."""

    removed: int
    before: datetime
    """All that was sent before is gone."""
    is_last: bool
    """Whether nothing is left to remove, or only locked rows."""


def remove_some(
    connection: Connection, account: str, before: datetime, many: int, *, since: datetime = BEGINNING
) -> Batch:
    """Remove up to `many` deliveries of an account that were sent before `before`, the oldest first.

    `since`: `Batch.before` of the batch before, for the entries of removed rows stay in the index for a while and need
    not be read again. Locked rows are left for a later run. The caller commits at once.
    """
    given = {"account": account, "since": since, "before": before, "many": many}
    [[removed, found, reached]] = execute(connection, _REMOVE, given)
    return Batch(removed=removed, before=reached, is_last=found < many or removed < found)
