"""Removing deliveries that were kept long enough, beside live writers: rate, batches, what writers wait, sizes.

`BENCH_ROWS=10000000 make bench BENCH=retention` for another size than a million. The rows are 200 days of one account,
of which 20 are kept; each has one observation. Writers store new messages and update recent ones of the same account
all the time, in batches of 20. Locks are those that PostgreSQL shows as not granted, sampled every 5 ms.
"""

import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count

from ledger_acts import add_account
from real_processes import migrated_database, url_of
from sqlalchemy import Engine, text

from ulak.core import clock
from ulak.models.database import make_engine, transaction
from ulak.models.deliveries import upsert
from ulak.models.report import DeliveryReport
from ulak.models.retention import BEGINNING, remove_some
from ulak.models.statistics_upkeep import fold
from ulak.models.vocabulary import Granularity, Status
from ulak.tasks.steps.retention import BATCH_SECONDS, MIN, next_size

ROWS = int(os.environ.get("BENCH_ROWS", "1000000"))
AT_ONCE = 100_000
DAYS, KEPT_DAYS = 200, 20
WRITERS = 2
ALONE_SECONDS = 15.0
FILL = """
WITH d AS (
  INSERT INTO delivery_status (account_id, provider, granularity, provider_key, recipient, status, is_final,
    provider_status, segments, credits, sent_at, done_at, first_seen_at, changed_at, message_time, message_time_source)
  SELECT :account, 'vairo', 'message', 'm' || n, '+90532' || lpad((n % 10000000)::text, 7, '0'),
    CASE WHEN n % 12 = 0 THEN 'undeliverable' ELSE 'delivered' END, true, 'DELIVERED', 1, 0.1,
    t.at, t.at + interval '3 s', t.at + interval '5 s', t.at + interval '5 s', t.at, 'own'
  FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) n,
    LATERAL (SELECT now() - make_interval(secs => (:rows - n) * :step) AS at) t
  RETURNING id, first_seen_at
)
INSERT INTO observations (delivery_id, content_hash, source, first_seen_at, statement)
SELECT id, sha256(id::text::bytea), 'poll', first_seen_at,
  jsonb_build_object('id', id, 'status', 'DELIVERED', 'done', first_seen_at) FROM d
"""
SIZES = ("delivery_status", "observations", "statistics_days")


def main(url: str) -> None:
    """Print one block of figures."""
    with migrated_database(url, "bench_retention") as admin:
        account = add_account(admin)
        began = clock.boot()
        _fill(admin, account)
        print(f"{ROWS:,} rows made in {clock.boot() - began:.0f} s")
        for table, size in _sizes(admin).items():
            print(f"  {table:<18}{size / 1e6:>9,.0f} MB{size / ROWS:>9,.0f} bytes a row")
        engine = make_engine(url_of(url, "bench_retention"), pool_size=WRITERS + 2, prepares=True)
        alone = _beside(engine, account, lambda: time.sleep(ALONE_SECONDS))
        removal = _Removal(engine, account)
        beside = _beside(engine, account, removal.run)
        removal.show()
        for name, found in (("alone", alone), ("beside", beside)):
            found.show(f"writers {name}")
        _dead(admin)
        engine.dispose()


def _fill(admin: Engine, account: str) -> None:
    patient = admin.execution_options(isolation_level="AUTOCOMMIT")
    with patient.connect() as connection:
        connection.execute(text("SET statement_timeout = 0"))
        for first in range(1, ROWS + 1, AT_ONCE):
            last = min(first + AT_ONCE - 1, ROWS)
            values = {"account": account, "first": first, "last": last, "rows": ROWS, "step": DAYS * 86400 / ROWS}
            connection.execute(text(FILL), values)
        fold(admin)
        connection.execute(text("VACUUM ANALYZE"))


def _sizes(admin: Engine) -> dict[str, int]:
    with transaction(admin) as connection:
        return {
            table: connection.execute(text(f"SELECT pg_total_relation_size('{table}')")).scalar_one() for table in SIZES
        }


def _dead(admin: Engine) -> None:
    with transaction(admin) as connection:
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
        rows = connection.execute(
            text("SELECT relname, n_live_tup, n_dead_tup FROM pg_stat_user_tables WHERE relname = ANY(:names)"),
            {"names": list(SIZES[:2])},
        ).all()
    for table, live, dead in sorted(rows):
        print(f"  {table:<18}{live:>11,} live{dead:>11,} dead rows, which vacuum makes room of")


class _Removal:
    """What upkeep does, without its pauses."""

    def __init__(self, engine: Engine, account: str) -> None:
        self.engine, self.account = engine, account
        self.before = datetime.now(UTC) - timedelta(days=KEPT_DAYS)
        self.seconds: list[float] = []
        self.removed = 0
        self.took = 0.0

    def run(self) -> None:
        """Remove all that is old."""
        since, many, is_last = BEGINNING, MIN, False
        began = clock.boot()
        while not is_last:
            start = clock.boot()
            with transaction(self.engine) as connection:
                batch = remove_some(connection, self.account, self.before, many, since=since)
            self.seconds.append(clock.boot() - start)
            since, is_last, many = batch.before, batch.is_last, next_size(many, self.seconds[-1])
            self.removed += batch.removed
        self.took = clock.boot() - began

    def show(self) -> None:
        """The rate and how long batches took."""
        rate = self.removed / self.took
        print(
            f"removed {self.removed:,} rows in {self.took:.0f} s: {rate:,.0f} a second ({rate * 60 / 3:,.0f} a minute"
        )
        print("  of upkeep, which removes for 20 s of it)")
        print(f"  {len(self.seconds):,} batches, wanted {BATCH_SECONDS * 1000:.0f} ms: {_spread(self.seconds)}")


@dataclass
class _Beside:
    """What writers and a watcher of locks saw."""

    seconds: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def show(self, name: str) -> None:
        """How long transactions took, and how long a session waited for a lock of rows or tables."""
        print(f"{name:<15} {len(self.seconds):>6,} transactions of 20 messages: {_spread(self.seconds)}")
        longest = max(self.waits, default=0.0) * 1000
        print(f"{'':<15} {len(self.waits):>6,} waits for a lock seen, the longest {longest:.0f} ms")


def _beside(engine: Engine, account: str, run: Callable[[], None]) -> _Beside:
    """Run it while writers write and a watcher looks."""
    found, ended = _Beside(), threading.Event()
    threads = [threading.Thread(target=_write, args=(engine, account, n, found, ended)) for n in range(WRITERS)]
    threads.append(threading.Thread(target=_watch, args=(engine, found, ended)))
    with _running(threads, ended):
        run()
    return found


@contextmanager
def _running(threads: list[threading.Thread], ended: threading.Event) -> Iterator[None]:
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


_numbers = count(1)


def _write(engine: Engine, account: str, place: int, found: _Beside, ended: threading.Event) -> None:
    while not ended.is_set():
        number = next(_numbers)
        now = datetime.now(UTC)
        reports = [
            DeliveryReport(
                granularity=Granularity.MESSAGE,
                provider_key=f"w{place}-{(number - each % 2) // 2}-{each // 2}",
                recipient=f"+9053211{each:05}",
                status=Status.ENROUTE if number % 2 else Status.DELIVERED,
                provider_status=str(number % 2),
                sent_at=now - timedelta(seconds=each),
            )
            for each in range(20)
        ]
        start = clock.boot()
        with transaction(engine) as connection:
            upsert(connection, account, "vairo", reports, asked_at=now)
        found.seconds.append(clock.boot() - start)


def _watch(engine: Engine, found: _Beside, ended: threading.Event) -> None:
    query = text("""
        SELECT pid, extract(epoch FROM clock_timestamp() - waitstart)::float8 FROM pg_locks
        WHERE NOT granted AND waitstart IS NOT NULL AND database = (SELECT oid FROM pg_database
          WHERE datname = current_database()) OR NOT granted AND locktype = 'transactionid' AND waitstart IS NOT NULL
    """)
    waiting: dict[int, float] = {}
    while not ended.is_set():
        with transaction(engine) as connection:
            now = {row[0]: float(row[1]) for row in connection.execute(query)}
        for pid, seconds in waiting.items():
            if pid not in now or now[pid] < seconds:
                found.waits.append(seconds)
        waiting = now
        time.sleep(0.005)
    found.waits.extend(waiting.values())


def _spread(seconds: list[float]) -> str:
    ordered = sorted(1000 * each for each in seconds)
    part = ordered[int(len(ordered) * 0.99)]
    return f"median {statistics.median(ordered):.1f}, 99 % {part:.1f}, longest {ordered[-1]:.1f} ms"


if __name__ == "__main__":
    main(sys.argv[1])
