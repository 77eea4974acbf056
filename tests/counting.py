"""The statistics, judged: what they should be, counted in Python from the stored rows, and what they are."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, text

from ulak.models.meanings import SLOWEST_SECONDS
from ulak.models.statistics import stored
from ulak.models.statistics_upkeep import COUNTS, KEY, TOOK

_MEASURES = ("messages", "conflicts", "segments", "credits", "milliseconds", *TOOK)
_COUNTRIES = ("+90", "+49", "+61", "+355", "+1", "+7")
"""Those that tests and the sandbox use."""
Counts = Mapping[tuple[Any, ...], tuple[Any, ...]]


def number_range(recipient: str | None) -> str | None:
    """The range of a number, by the letter of its definition."""
    if recipient is None:
        return None
    if recipient.startswith("+905"):
        return recipient[:6]
    return next((code for code in _COUNTRIES if recipient.startswith(code)), None)


def _took(row: Any) -> int | None:
    if row.status not in {"delivered", "read"} or row.sent_at is None or row.done_at is None:
        return None
    took = row.done_at - row.sent_at
    return None if took < timedelta(0) else took // timedelta(milliseconds=1)


def _measures(row: Any) -> tuple[Any, ...]:
    took = _took(row)
    place = None if took is None else sum(took > bound * 1000 for bound in SLOWEST_SECONDS)
    places = (int(each == place) for each in range(len(TOOK)))
    return (1, int(row.conflict), row.segments or 0, row.credits or 0, took or 0, *places)


def _sum(lines: Collection[tuple[tuple[Any, ...], tuple[Any, ...]]]) -> Counts:
    sums: dict[tuple[Any, ...], list[Any]] = {}
    for key, measures in lines:
        before = sums.setdefault(key, [0] * len(measures))
        sums[key] = [one + other for one, other in zip(before, measures, strict=True)]
    return {key: tuple(measures) for key, measures in sums.items() if any(measures)}


def _rows(connection: Connection, accounts: Collection[str] | None) -> Collection[Any]:
    query = """
        SELECT d.*, a.timezone FROM delivery_status d JOIN accounts a ON a.id = d.account_id
        WHERE CAST(:accounts AS text[]) IS NULL OR a.id = ANY(:accounts)
    """
    of_these = None if accounts is None else list(accounts)
    return connection.execute(text(query), {"accounts": of_these}).all()


def _key(row: Any, *, hour: bool) -> tuple[Any, ...]:
    at = row.message_time or row.sent_at or row.first_seen_at
    day = at.astimezone(ZoneInfo(row.timezone)).date()
    when = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0) if hour else None
    return (
        day,
        row.account_id,
        when,
        row.granularity,
        row.status,
        row.reason,
        number_range(row.recipient),
        row.is_final,
    )


def miscounted(connection: Connection, accounts: Collection[str] | None = None) -> dict[str, Any]:
    """Where the statistics (of these accounts, or all) are not the stored rows and what was erased.

    By day, by hour of the last 14 days, and in total. Empty where they are. The transaction should see one snapshot.
    """
    rows = _rows(connection, accounts)
    query = f"SELECT * FROM ({COUNTS}) AS c WHERE CAST(:accounts AS text[]) IS NULL OR account_id = ANY(:accounts)"
    counts = connection.execute(text(query), {"accounts": None if accounts is None else list(accounts)}).all()
    since = datetime.now(UTC) - timedelta(days=14)
    lines = [
        (
            tuple(getattr(row, name) for name in KEY[:-1]),
            tuple((getattr(row, name) or 0) * (-1 if row.erased else 1) for name in _MEASURES),
        )
        for row in counts
    ]
    found = {
        "days": (
            _sum([(_key(row, hour=False), _measures(row)) for row in rows]),
            _sum([((key[0], key[1], None, *key[3:]), measures) for key, measures in lines]),
        ),
        "hours": (
            _sum([(key, _measures(row)) for row in rows if (key := _key(row, hour=True))[2] >= since]),
            _sum([line for line in lines if line[0][2] is not None and line[0][2] >= since]),
        ),
        "totals": (
            _sum([((row.account_id, row.granularity, row.status, row.is_final), _measures(row)[:2]) for row in rows]),
            {
                (each.account_id, each.granularity, each.status, each.is_final): (each.rows, each.conflicts)
                for each in stored(connection, accounts)
            },
        ),
    }
    return {
        what: {
            key: (right.get(key), counted.get(key))
            for key in right.keys() | counted.keys()
            if right.get(key) != counted.get(key)
        }
        for what, (right, counted) in found.items()
        if right != counted
    }
