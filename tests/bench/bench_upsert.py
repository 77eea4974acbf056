"""How fast the one writer is: rows a second of `upsert`, beside COPY of the same rows into the same tables.

    python tests/bench/bench_upsert.py postgresql://… [seconds per case]

Machines differ and are noisy: only the ratios within one run mean anything. COPY gets the finished rows for nothing;
`upsert` starts from reports, folds and hashes them and looks for what is known. COPY cannot say the same thing twice,
so `again` (every report known) is compared with COPY of fresh rows, too.
"""

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, cast
from uuid import uuid4

import msgspec
import psycopg
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, make_url, text

sys.path[:0] = [str(Path(__file__).parents[1])]

from database_fixtures import add_account  # noqa: E402 -- found through the path above

from ulak.models.database import make_engine, transaction  # noqa: E402
from ulak.models.deliveries import upsert  # noqa: E402
from ulak.models.merge import ROW_FIELDS, fold, observe  # noqa: E402
from ulak.models.report import DeliveryReport  # noqa: E402
from ulak.models.schema import migrate  # noqa: E402
from ulak.models.vocabulary import Granularity, Status  # noqa: E402

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SIZES = (20, 100, 500)
_numbers = count(1)


def make_reports(size: int) -> list[DeliveryReport]:
    """Delivered messages with a statement of about 400 bytes, under keys never seen before."""
    return [
        DeliveryReport(
            granularity=Granularity.MESSAGE,
            provider_key=f"{number * 7919 % 10**9:09}{number}",
            parent_key=str(number // 500),
            client_ref=f"order-{number}",
            recipient=f"+9053{number % 10**8:08}",
            status=Status.DELIVERED,
            provider_status="3",
            segments=1,
            sent_at=NOON,
            done_at=NOON + timedelta(seconds=7),
            extra={"operator": "x" * 10},
            statement={f"field_{place}": "x" * 20 for place in range(11)},
        )
        for number in (next(_numbers) for _ in range(size))
    ]


def copy(engine: Engine, account: str, reports: list[DeliveryReport]) -> Callable[[], None]:
    """COPY of the rows and observations that `upsert` would make of the reports, encoded beforehand."""
    first = _copy_ids(len(reports))
    rows, seen = [], []
    for number, report in enumerate(reports, first):
        one = observe(report, asked_at=NOON)
        row = fold(report.granularity, [one])
        values = [getattr(row, name) for name in ROW_FIELDS]
        values[ROW_FIELDS.index("extra")] = msgspec.json.encode(row.extra).decode()
        rows.append((number, account, "vairo", report.granularity.value, report.provider_key, *values))
        facts, statement = (msgspec.json.encode(value).decode() for value in (one.facts, one.statement))
        seen.append((number, one.content_hash, one.source.value, one.as_of, facts, statement))

    def run() -> None:
        with transaction(engine) as connection:
            cursor = cast("psycopg.Cursor[Any]", connection.connection.cursor())
            columns = f"id, account_id, provider, granularity, provider_key, {', '.join(ROW_FIELDS)}"
            _copy(cursor, f"COPY delivery_status ({columns}) FROM STDIN", rows)
            columns = "delivery_id, content_hash, source, as_of, facts, statement"
            _copy(cursor, f"COPY observations ({columns}) FROM STDIN", seen)

    return run


def _copy(cursor: "psycopg.Cursor[Any]", statement: str, rows: list[tuple[Any, ...]]) -> None:
    with cursor.copy(statement.encode()) as sink:
        for row in rows:
            sink.write_row(row)


_next_copy_id = 10**12


def _copy_ids(size: int) -> int:
    global _next_copy_id  # noqa: PLW0603 -- ids that the identity column will not reach
    _next_copy_id += size
    return _next_copy_id


def write(engine: Engine, account: str, reports: list[DeliveryReport]) -> Callable[[], None]:
    """The upsert of the reports in a transaction of its own."""

    def run() -> None:
        with transaction(engine) as connection:
            upsert(connection, account, "vairo", reports, asked_at=NOON)

    return run


def measure(engine: Engine, account: str, size: int, seconds: float) -> dict[str, float]:
    """Median seconds of COPY, a first upsert and the same again, interleaved so that noise hits all alike."""
    times: dict[str, list[float]] = {"copy": [], "fresh": [], "again": []}
    end = perf_counter() + seconds
    while perf_counter() < end or len(times["copy"]) < 5:
        reports = make_reports(size)
        cases = {"copy": copy(engine, account, make_reports(size)), "fresh": write(engine, account, reports)}
        cases["again"] = cases["fresh"]
        for name, run in cases.items():
            start = perf_counter()
            run()
            times[name].append(perf_counter() - start)
    return {name: median(taken[1:]) for name, taken in times.items()}


def main(url: str, seconds: float = 5.0) -> None:
    """Measure in a database of its own and print the table."""
    name = f"bench_{uuid4().hex[:8]}"
    server = make_engine(url, pool_size=1).execution_options(isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine = make_engine(make_url(url).set(database=name).render_as_string(hide_password=False))
    try:
        migrate(engine)
        with transaction(engine) as connection:
            account = add_account(connection)
        table = Table("rows a batch", "COPY rows/s", "fresh rows/s", "again rows/s", "fresh : COPY", "again : COPY")
        for size in SIZES:
            taken = measure(engine, account, size, seconds)
            speeds = [f"{size / taken[case]:,.0f}" for case in ("copy", "fresh", "again")]
            ratios = [f"{taken['copy'] / taken[case]:.2f}" for case in ("fresh", "again")]
            table.add_row(str(size), *speeds, *ratios)
        Console(width=100).print(table)
    finally:
        engine.dispose()
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        server.dispose()


if __name__ == "__main__":
    main(sys.argv[1], *(float(word) for word in sys.argv[2:3]))
