"""A copy of the shared table that is made from the feed of changes alone."""

from dataclasses import dataclass, field
from typing import Any

from quiet_cluster import wait_for_the_feed
from sqlalchemy import Engine, text

from ulak.models.changes import ChangeCursor, read_changes


@dataclass
class Reader:
    """Folds the feed: puts and erases by id, removes by account and time, nothing else."""

    engine: Engine
    limit: int = 100
    cursor: ChangeCursor | None = None
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    places: list[tuple[int, int]] = field(default_factory=list)

    def read(self) -> int:
        """One page; how many changes it had."""
        with self.engine.connect() as connection:
            changes, self.cursor = read_changes(connection, self.cursor, limit=self.limit)
        for change in changes:
            self.places.append((change.changed_in, change.id))
            if change.removed is not None:
                gone = change.removed
                self.rows = {
                    place: row
                    for place, row in self.rows.items()
                    if row["account_id"] != gone.account_id
                    or (row["message_time"] or row["first_seen_at"]) >= gone.before
                }
            elif change.delivery is None:
                self.rows.pop(change.id, None)
            else:
                self.rows[change.id] = dict(change.delivery)
        return len(changes)

    def read_all(self) -> "Reader":
        """Pages until one is empty."""
        wait_for_the_feed(self.engine)
        while self.read():
            pass
        return self


def table(engine: Engine) -> dict[int, dict[str, Any]]:
    """The shared table by id."""
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM delivery_status")).mappings()
        return {row["id"]: dict(row) for row in rows}
