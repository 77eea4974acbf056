"""The deliveries of one account and calendar month, in the order of their times, a chunk at a time."""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from sqlalchemy import Engine, RowMapping, select, tuple_

from ulak.models.tables import delivery_status

CHUNK: Final = 5_000
COLUMNS: Final = tuple(column for column in delivery_status.c if column.name != "changed_in")
_MONTH: Final = re.compile(r"(\d{4})-(0[1-9]|1[0-2])")


def month_bounds(month: str, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """When a month, `2026-05`, begins and ends in a zone. `ValueError` for anything else."""
    found = _MONTH.fullmatch(month)
    if found is None:
        raise ValueError(month)
    year, number = int(found[1]), int(found[2])
    first, after = (
        datetime(year, number, 1, tzinfo=zone),
        datetime(year + number // 12, number % 12 + 1, 1, tzinfo=zone),
    )
    try:
        return first.astimezone(UTC), after.astimezone(UTC)
    except OverflowError:
        raise ValueError(month) from None


def read_range(
    engine: Engine, account: str, since: datetime, until: datetime, *, chunk: int = CHUNK
) -> Iterator[Sequence[RowMapping]]:
    """Deliveries with `since <= message_time < until`, all of `COLUMNS`, by time and id.

    Each chunk is a transaction of its own, so nothing is held up however long the reader takes. Of rows that change
    meanwhile each is read as it is then; one whose time moves may be read twice or not at all, which final ones and
    those of a month that is long over do not do.
    """
    table = delivery_status.c
    after: tuple[Any, Any] = (since, 0)
    while True:
        query = (
            select(*COLUMNS)
            .where(table.account_id == account, table.message_time >= since, table.message_time < until)
            .where(tuple_(table.message_time, table.id) > tuple_(*after))
            .order_by(table.account_id, table.message_time, table.id)
            .limit(chunk)
        )
        with engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        if rows:
            yield rows
        if len(rows) < chunk:
            return
        after = (rows[-1]["message_time"], rows[-1]["id"])
