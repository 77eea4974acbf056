"""How much of a limit is used when there is always more to ask: 1 to 8 worker processes, windows of 1 to 60 seconds.

The bound is `min(T / (T + h + w), C * T / (N * h))`: a slot is used again only T after its last request was answered,
so the time h from asking to the answer and the time w from a free slot to its next request are lost each time round.
`T / (T + answer)` leaves out only what the provider itself takes, by its own log; so does `of it`, use against that.

`use` is counted in whole rounds: the mean time between a request and the N-th after it, against T. A count between two
moments would take in or leave out up to a round, since the requests of a long window come in bursts.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import mean

from limits_at_work import Scene
from limits_judged import Arrival, Limit, broken_limits, way_seconds
from real_processes import migrated_database
from sqlalchemy import Engine, text

from ulak.local.embedded.valkey import ValkeyServer

SECOND, TWO, TEN, MINUTE = Limit(20, 1.0, 8), Limit(40, 2.0, 8), Limit(100, 10.0, 8), Limit(120, 60.0, 8)
CASES: tuple[tuple[int, tuple[Limit, ...]], ...] = (
    (1, (SECOND, TWO, TEN)),
    (2, (SECOND, TWO, TEN)),
    (4, (SECOND, TWO, TEN)),
    (8, (SECOND, TWO, TEN)),
    # From a fresh start: after another limit, its first requests would come a minute later.
    (8, (MINUTE,)),
)
"""Worker processes, and the limits that the account has one after the other while they run."""
WARM_SECONDS = 2.0
LEAST_SECONDS = 7.0
PATIENCE_SECONDS = 30.0
"""What a busy machine may need more."""
HEAD = (
    "limit N/T       C  processes  requests   use    bound  use/bound  T/(T+answer)  of it "
    "    h ms   w ms  answer ms  violations"
)


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured under one limit; seconds."""

    requests: int
    use: float
    h: float
    w: float
    answer: float


def main(url: str) -> None:
    """Print a row for each limit; ends the program with an error where one was broken."""
    print(HEAD)
    broken: list[str] = []
    for number, (processes, limits) in enumerate(CASES):
        with _scene(url, f"bench_limits_{number}", limits[0]) as scene, scene.running(processes):
            for limit in limits:
                row = _measure(scene, limit)
                found = broken_limits(scene.arrivals(), scene.changes, way_seconds())
                print(_told(limit, processes, row, len(found)), flush=True)
            broken += found
    if broken:
        raise SystemExit("\n".join([f"{len(broken)} requests broke a limit:", *broken[:20]]))


def _told(limit: Limit, processes: int, row: Row, violations: int) -> str:
    """A line of the table. `violations` are those since these processes began."""
    many, window = limit.requests, limit.per_seconds
    by_concurrency = limit.concurrency * window / many
    bound = min(window / (window + row.h + row.w), by_concurrency / row.h)
    alone = min(window / (window + row.answer), by_concurrency / row.answer)
    cells = (
        f"{many:>4} in {window:>2g} s  {limit.concurrency:>4} {processes:>10} {row.requests:>9}",
        f"{row.use:.3f}  {bound:.3f}      {row.use / bound:.3f}         {alone:.3f}  {row.use / alone:.3f}",
        f"{row.h * 1000:>6.1f} {row.w * 1000:>6.1f}     {row.answer * 1000:>6.1f}  {violations:>10}",
    )
    return "  ".join(cells)


def _measure(scene: Scene, limit: Limit) -> Row:
    """One limit: two rounds of long windows, more of short ones, after a warm-up; longer where the machine is slow."""
    window = limit.per_seconds
    if scene.changes[-1].limit != limit:
        scene.set_limit(limit)
        # Until the requests under the limit of before are out of the window.
        time.sleep(window)
    time.sleep(min(window, WARM_SECONDS))
    begin, begin_wall = time.monotonic(), time.time()
    time.sleep(max(LEAST_SECONDS, 2.15 * window))
    end = time.monotonic() + PATIENCE_SECONDS
    while len(arrivals := _since(scene, begin)) < 2 * limit.requests + 1 and time.monotonic() < end:
        time.sleep(0.5)
    h, w = _waits(scene.engine, limit, begin_wall)
    return Row(
        requests=len(arrivals),
        use=_use([arrival.at for arrival in arrivals], limit),
        h=h,
        w=w,
        answer=mean(arrival.answered - arrival.at for arrival in arrivals if arrival.answered is not None),
    )


def _since(scene: Scene, begin: float) -> list[Arrival]:
    """What has come since then and is answered, so that it stands in the ledger too."""
    return [arrival for arrival in scene.arrivals() if arrival.at >= begin and arrival.answered is not None]


def _use(moments: Sequence[float], limit: Limit) -> float:
    """The rounds that fit into the time, as many as were seen, against the time that they took."""
    rounds = (len(moments) - 1) // limit.requests
    if not rounds:
        raise RuntimeError(f"Only {len(moments)} requests under a limit of {limit}")
    later = moments[rounds * limit.requests :]
    return rounds * limit.per_seconds / mean(last - first for first, last in zip(moments, later, strict=False))


def _waits(engine: Engine, limit: Limit, since: float) -> tuple[float, float]:
    """h: asked to answered; w: from the moment a slot is free to the call that takes it."""
    query = text("""
        SELECT extract(epoch FROM asked_at)::float8 AS asked, extract(epoch FROM released_at)::float8 AS released
        FROM calls WHERE answered_at IS NOT NULL AND asked_at >= :since ORDER BY asked_at
    """)
    with engine.connect() as connection:
        rows = connection.execute(query, {"since": datetime.fromtimestamp(since).astimezone()}).all()
    frees = sorted(row.released + limit.per_seconds for row in rows)
    waits = [max(0.0, row.asked - free) for row, free in zip(rows[limit.requests :], frees, strict=False)]
    return mean(row.released - row.asked for row in rows), mean(waits or [0.0])


@contextmanager
def _scene(url: str, name: str, limit: Limit) -> Iterator[Scene]:
    """A migrated database and a broker of its own."""
    with migrated_database(url, name) as engine, tempfile.TemporaryDirectory(prefix="ulak-bench-") as folder:
        valkey = ValkeyServer(Path(folder), durable=False)
        try:
            yield Scene(engine, valkey.start(), Path(folder), limit)
        finally:
            valkey.stop()
