"""What a row costs PostgreSQL, with its history: the previous form beside this one, in the same run, batch by batch.

    python tests/bench history

`first`: new deliveries, all final. `first open`: all open. `moved`: the open ones become final. `again`: what is known.
`SQL` is the inserting statement alone with its parameters made beforehand, the rest goes through `upsert`. CPU is that
of the session's server process, from the kernel; WAL without what the client causes between the statements.
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from statistics import median
from uuid import uuid4

from msgspec.structs import replace
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection, Engine, make_url, text

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from bench_upsert import NOON, make_reports  # noqa: E402 -- found through the path above
from database_fixtures import add_account  # noqa: E402
from previous_history import INSERT, insert_parameters, migrate_previous, previous_upsert  # noqa: E402

from ulak.models import deliveries  # noqa: E402
from ulak.models.database import make_engine  # noqa: E402
from ulak.models.merge import observe  # noqa: E402
from ulak.models.report import DeliveryReport  # noqa: E402
from ulak.models.schema import migrate  # noqa: E402
from ulak.models.suppression import Suppressions  # noqa: E402
from ulak.models.vocabulary import Status  # noqa: E402

SIZES = (20, 500)
ROUNDS = 24
WARM = 4
ACCOUNT = "bench"
Run = Callable[[Connection], object]
Costs = dict[tuple[str, int, str], list[tuple[float, float]]]
"""(CPU in microseconds, bytes of WAL) a row, by form, rows of a batch and case."""


def previous_insert(reports: Sequence[DeliveryReport]) -> Run:
    """The previous version's inserting statement, ready to run."""
    seen = [observe(report, asked_at=NOON) for report in reports]
    keys = sorted((report.granularity, report.provider_key) for report in reports)
    by_key = {(report.granularity, report.provider_key): one for report, one in zip(reports, seen, strict=True)}
    incoming = {key: {by_key[key].content_hash: by_key[key]} for key in keys}
    parameters = {"account": ACCOUNT, "provider": "vairo", **insert_parameters(keys, incoming)}
    return lambda connection: connection.exec_driver_sql(INSERT, parameters).all()


def current_insert(reports: Sequence[DeliveryReport]) -> Run:
    """This version's inserting statement, ready to run."""
    batch = deliveries._Batch(ACCOUNT, "vairo", reports, NOON, Suppressions())
    batch.incoming = deliveries._gather(reports, NOON)
    parameters = deliveries._insert_parameters(batch, sorted(batch.incoming), keeps_facts=False)
    return lambda connection: connection.exec_driver_sql(deliveries._INSERT, parameters).all()


def previous(reports: Sequence[DeliveryReport], hours: int) -> Run:
    """The previous version's upsert."""
    return lambda connection: previous_upsert(connection, ACCOUNT, reports, asked_at=NOON + timedelta(hours=hours))


def current(reports: Sequence[DeliveryReport], hours: int) -> Run:
    """This version's upsert."""
    at = NOON + timedelta(hours=hours)
    return lambda connection: deliveries.upsert(connection, ACCOUNT, "vairo", reports, asked_at=at)


def cpu_seconds(process: int) -> float:
    """Processor seconds of a server process so far."""
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e9


def cost(connection: Connection, run: Run, rows: int) -> tuple[float, float]:
    """Run it in a transaction; CPU and WAL a row."""
    process = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    place = text("SELECT pg_current_wal_insert_lsn() - '0/0'")
    before, start = connection.execute(place).scalar_one(), cpu_seconds(process)
    run(connection)
    connection.commit()
    spent = cpu_seconds(process) - start
    return spent * 1e6 / rows, float(connection.execute(place).scalar_one() - before) / rows


def measure(connections: dict[str, Connection]) -> Costs:
    """Every case for both forms, interleaved so that noise hits both alike, in sessions that have prepared it all."""
    for connection in connections.values():
        connection.connection.dbapi_connection.prepare_threshold = 0  # type: ignore[union-attr]
    costs: Costs = defaultdict(list)
    forms = {"previous": (previous, previous_insert), "current": (current, current_insert)}
    for number in range(ROUNDS * len(SIZES)):
        size = SIZES[number % len(SIZES)]
        for form, (upsert, insert) in forms.items():
            final, opened = make_reports(size), [replace(one, status=Status.ENROUTE) for one in make_reports(size)]
            moved = [replace(one, status=Status.DELIVERED) for one in opened]
            cases = {
                "first, SQL": insert(make_reports(size)),
                "first": upsert(final, 0),
                "first open": upsert(opened, 0),
                "moved": upsert(moved, 1),
                "again": upsert(final, 2),
            }
            for case, run in cases.items():
                costs[form, size, case].append(cost(connections[form], run, size))
    return costs


def show(costs: Costs) -> None:
    """Medians, and what this form costs of the previous one."""
    table = Table("rows", "case", "CPU us: previous", "current", "ratio", "WAL bytes: previous", "current", "ratio")
    for size in SIZES:
        for case in ("first, SQL", "first", "first open", "moved", "again"):
            (cpu, wal), (cpu_now, wal_now) = (
                [median(taken) for taken in zip(*costs[form, size, case][WARM:], strict=True)]
                for form in ("previous", "current")
            )
            ratios = (f"{cpu_now / cpu:.2f}", f"{wal_now / wal:.2f}" if wal else "-")
            figures = (f"{cpu:.1f}", f"{cpu_now:.1f}", ratios[0], f"{wal:,.0f}", f"{wal_now:,.0f}", ratios[1])
            table.add_row(str(size), case, *figures)
    Console(width=110).print(table)


def main(url: str) -> None:
    """Measure in two databases of its own and print the table."""
    server = make_engine(url, pool_size=1).execution_options(isolation_level="AUTOCOMMIT")
    names = {form: f"bench_{uuid4().hex[:8]}" for form in ("previous", "current")}
    options = {"options": "-c plan_cache_mode=force_generic_plan"}
    engines: dict[str, Engine] = {}
    for form, name in names.items():
        address = make_url(url).set(database=name).update_query_dict(options)
        engines[form] = make_engine(address.render_as_string(hide_password=False), pool_size=1)
    try:
        with server.connect() as connection:
            for name in names.values():
                connection.execute(text(f"CREATE DATABASE {name}"))
        for form, prepare in (("previous", migrate_previous), ("current", migrate)):
            prepare(engines[form])
            with engines[form].begin() as connection:
                add_account(connection, ACCOUNT)
        with engines["previous"].connect() as before, engines["current"].connect() as now:
            show(measure({"previous": before, "current": now}))
    finally:
        for engine in engines.values():
            engine.dispose()
        with server.connect() as connection:
            for name in names.values():
                connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        server.dispose()


if __name__ == "__main__":
    main(sys.argv[1])
