"""What the statistics cost a writer: time and WAL of `upsert` with their triggers and without.

    python tests/bench statistics

Both databases take the same reports in turn: of one message, of 20 and of 500, sent within an hour or within a day,
to 29 ranges of numbers, 8 % of them undeliverable for one of three reasons. Only ratios within one run mean anything;
WAL is exact but for full pages, so nothing but its median is shown.
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from statistics import median
from time import perf_counter
from uuid import uuid4

from database_fixtures import add_account
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, make_url, text

from ulak.models.database import make_engine, retry_transaction, transaction
from ulak.models.deliveries import upsert
from ulak.models.report import DeliveryReport
from ulak.models.schema import migrate
from ulak.models.statistics_upkeep import drop_triggers
from ulak.models.vocabulary import Granularity, Reason, Status

NOW = datetime.now(UTC).replace(microsecond=0)
CASES = ((1, 1), (20, 1), (20, 24), (500, 1), (500, 24))
"""Messages of a batch, and the hours in which they were sent."""
KINDS = ("new, final", "known", "new, open", "becomes final")
_RANGES = [*range(501, 508), *range(530, 550), 551, 555]
_REASONS = (Reason.ABSENT, Reason.INVALID_NUMBER, Reason.NETWORK)
_numbers = count(1)
Batch = Sequence[DeliveryReport]


def batches(size: int, hours: int, rng: random.Random) -> Iterator[tuple[str, Batch, datetime]]:
    """Batches of every kind, with the time at which they were asked for."""
    new = [(next(_numbers), rng.random() * hours * 3600, rng.choice(_RANGES), rng.random()) for _ in range(size)]
    yield "new, final", [_report(*each, is_final=True) for each in new], NOW
    yield "known", [_report(*each, is_final=True) for each in new], NOW
    new = [(next(_numbers), rng.random() * hours * 3600, rng.choice(_RANGES), rng.random()) for _ in range(size)]
    yield "new, open", [_report(*each, is_final=False) for each in new], NOW
    yield "becomes final", [_report(*each, is_final=True) for each in new], NOW + timedelta(minutes=1)


def _report(number: int, ago: float, code: int, luck: float, *, is_final: bool) -> DeliveryReport:
    is_delivered = luck < 0.92
    sent = NOW - timedelta(seconds=ago)
    return DeliveryReport(
        granularity=Granularity.MESSAGE,
        provider_key=f"{number * 7919 % 10**9:09}{number}",
        parent_key=str(number // 500),
        client_ref=f"order-{number}",
        recipient=f"+90{code}{number % 10**7:07}",
        status=(Status.DELIVERED if is_delivered else Status.UNDELIVERABLE) if is_final else Status.ENROUTE,
        provider_status="3" if is_final else "1",
        reason=None if is_delivered or not is_final else _REASONS[number % 3],
        segments=1,
        credits=0.5,
        sent_at=sent,
        done_at=sent + timedelta(seconds=3 + number % 97) if is_final else None,
        extra={"operator": "x" * 10},
        statement={f"field_{place}": "x" * 20 for place in range(11)},
    )


@contextmanager
def _database(url: str, server: Engine) -> Iterator[Engine]:
    name = f"bench_{uuid4().hex[:8]}"
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine = make_engine(make_url(url).set(database=name).render_as_string(hide_password=False), prepares=True)
    try:
        migrate(engine)
        with transaction(engine) as connection:
            add_account(connection, "marka-sms")
        yield engine
    finally:
        engine.dispose()
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


def _wal(engine: Engine) -> float:
    with engine.connect() as connection:
        return float(connection.execute(text("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")).scalar_one())


def _write(engine: Engine, batch: Batch, asked_at: datetime) -> tuple[float, float]:
    """Milliseconds of a batch, and bytes of WAL of one of its rows."""
    wal, began = _wal(engine), perf_counter()
    retry_transaction(engine, lambda connection: upsert(connection, "marka-sms", "organik", batch, asked_at=asked_at))
    took = perf_counter() - began
    return took * 1000, (_wal(engine) - wal) / len(batch)


def main(url: str) -> None:
    """Measure in databases of their own and print the table."""
    server = make_engine(url, pool_size=1).execution_options(isolation_level="AUTOCOMMIT")
    with _database(url, server) as counting, _database(url, server) as plain:
        with transaction(plain) as connection:
            drop_triggers(connection)
        table = Table("batch", "sent within", "", "ms without", "with", "ratio", "WAL a row without", "with", "ratio")
        rng = random.Random(7)
        for size, hours in CASES:
            found: dict[tuple[str, bool], list[tuple[float, float]]] = defaultdict(list)
            for _ in range(15 if size > 100 else 60):
                for kind, batch, asked_at in batches(size, hours, rng):
                    for engine in (counting, plain):
                        found[kind, engine is counting].append(_write(engine, batch, asked_at))
            for kind in KINDS:
                (slow, more), (fast, less) = (
                    [median(each) for each in zip(*found[kind, counts][3:], strict=True)] for counts in (True, False)
                )
                cells = (f"{fast:.1f}", f"{slow:.1f}", f"{slow / fast:.2f}", f"{less:,.0f}", f"{more:,.0f}")
                table.add_row(str(size), f"{hours} h", kind, *cells, f"{more / less:.3f}" if less else "")
        Console(width=120).print(table)
    server.dispose()
