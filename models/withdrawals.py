"""Our own statements that a step of the clock has shown to be untrue are withdrawn from the history."""

from sqlalchemy import Connection, text

from ulak.models.deliveries import load_histories, lock_deliveries, rewrite_histories
from ulak.models.vocabulary import Granularity, Source, Status

_CHUNK = 20_000

_LAST = text("SELECT max(id) FROM (SELECT id FROM delivery_status WHERE id > :after ORDER BY id LIMIT :many) AS page")
# Read after the step was noted, by the clock as it is now.
_UNTRUE = text("""
    SELECT d.id, d.granularity, clock_timestamp() AS now FROM delivery_status d
    WHERE d.id > :after AND d.id <= :last AND d.status = :unreported
      AND EXISTS (SELECT FROM observations o
            WHERE o.delivery_id = d.id AND o.source = :ours AND o.as_of > clock_timestamp())
    ORDER BY d.id
""")


def withdraw_unreported(connection: Connection, *, after_id: int) -> int | None:
    """Withdraw `unreported` from deliveries after `after_id` whose validity has not ended after all: a clock was ahead.

    Each row becomes what the provider's statements alone say. Returns the id to go on after; None: there are no further
    deliveries. The caller commits each part.
    """
    last: int | None = connection.execute(_LAST, {"after": after_id, "many": _CHUNK}).scalar_one()
    if last is None:
        return None
    names = {"after": after_id, "last": last, "unreported": Status.UNREPORTED, "ours": Source.OURS}
    found = {row.id: row for row in connection.execute(_UNTRUE, names)}
    stored = load_histories(connection, lock_deliveries(connection, list(found)))
    histories = {}
    for place, history in stored.items():
        now = found[place].now
        true = [
            seen
            for seen in history.values()
            if seen.source is not Source.OURS or seen.as_of is None or seen.as_of <= now
        ]
        if true:
            histories[place] = Granularity(found[place].granularity), true
    if histories:
        rewrite_histories(connection, histories)
    return last
