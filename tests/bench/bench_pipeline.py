"""From HTTP to PostgreSQL: Ulak as it is, the leanest Celery form of the same work, and dlt, in one interleaved run.

    python tests/bench pipeline

The provider answers Organik's detailed reports of transactions from memory, a transaction being a page of 500 or of 20
rows; a pass asks for all of them, and then for the same again. Limits are wide and never bind. Every contender has a
database of its own in one PostgreSQL, and Ulak and the lean form have one worker process with eight calls at a time.

`ratio`: rows a second beside the lean form's in the same round, the median over the rounds. `CPU`: seconds of the
client's and of PostgreSQL's processes for 100,000 rows, where the system tells them. Absolute figures are orientation.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
from contenders import HERE, Contender, Dlt, Lean, is_dlt_there, run_process, start_dlt, start_lean, start_ulak
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, text

from ulak.local.embedded.valkey import ValkeyServer

ROUNDS = 3
WHICH = ("first", "again")
PAGES: Mapping[int, int] = {500: 40, 20: 150}
"""Pages of a pass, by rows per page."""


@dataclass(frozen=True)
class Pass:
    """What one pass took."""

    speed: float
    client: float
    server: float
    wal: float


class Meter:
    """Processor seconds and WAL, before and after."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        with engine.connect() as connection:
            backend: int = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        self._postmaster = _parent(backend)

    def read(self, pid: int) -> tuple[float, float, float]:
        """Seconds of the client, seconds of PostgreSQL, bytes of WAL, up to now."""
        with self._engine.connect() as connection:
            wal = connection.execute(text("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")).scalar_one()
        return _cpu(pid), _cpu(self._postmaster) + sum(map(_cpu, _children(self._postmaster))), float(wal)


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(") ", 1)[1].split()


def _parent(pid: int) -> int:
    try:
        return int(_stat(pid)[1])
    except OSError:
        return 0


def _cpu(pid: int) -> float:
    """Processor seconds of a process and of its ended children; not a number where the system does not tell."""
    try:
        return sum(map(int, _stat(pid)[11:15])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return float("nan")


def _children(pid: int) -> list[int]:
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    except OSError:
        return []
    return [int(word) for word in words]


def main(url: str) -> None:
    """Measure, and print one table for each size of a page."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ulak-bench-")))
        base_url = stack.enter_context(_canned_server())
        valkey = ValkeyServer(folder, durable=False)
        redis_url = valkey.start()
        stack.callback(valkey.stop)
        contenders: list[Contender] = [
            stack.enter_context(start_lean(url, base_url, redis_url)),
            *stack.enter_context(start_ulak(url, base_url, redis_url, folder)),
        ]
        if is_dlt_there():
            contenders.append(stack.enter_context(start_dlt(url, base_url, folder)))
        meter = Meter(contenders[0].engine)
        print(f"the provider alone: {_answers_a_second(base_url):,.0f} pages of 500 rows a second over one connection")
        for contender in contenders:
            contender.run(20, range(1))
        for size, many in PAGES.items():
            found = _measure(contenders, meter, size, many)
            Console(width=120).print(_table(found, size, many))


def _measure(contenders: Sequence[Contender], meter: Meter, size: int, many: int) -> dict[tuple[str, str], list[Pass]]:
    """All passes, interleaved: whatever else the machine does hits all alike."""
    found: dict[tuple[str, str], list[Pass]] = defaultdict(list)
    for turn in range(ROUNDS):
        pages = range(1 + turn * many, 1 + (turn + 1) * many)
        for contender in (*contenders[turn % 2 :], *contenders[: turn % 2]):
            for which in WHICH:
                found[contender.name, which].append(_pass(contender, meter, size, pages))
    return found


def _pass(contender: Contender, meter: Meter, size: int, pages: range) -> Pass:
    """One pass; in it every row of the pages must have come to be stored, and none twice."""
    rows = size * len(pages)
    had = _count(contender)
    before = meter.read(contender.pid)
    seconds = contender.run(size, pages)
    # What a worker does after its last commit belongs to the pass.
    time.sleep(0.2)
    client, server, wal = (late - early for late, early in zip(meter.read(contender.pid), before, strict=True))
    assert _count(contender) - had in {0, rows}, contender.name
    return Pass(speed=rows / seconds, client=client / rows * 1e5, server=server / rows * 1e5, wal=wal / rows)


def _count(contender: Contender) -> int:
    with contender.engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {contender.table}")).scalar_one())


def _table(found: Mapping[tuple[str, str], Sequence[Pass]], size: int, many: int) -> Table:
    """A row for each contender, the median of the rounds."""
    title = f"pages of {size}: {ROUNDS} rounds of {many} pages, {size * many:,} rows"
    heads = ("rows/s first", "again", "ratio first", "again", "CPU first", "again", "WAL a row first", "again")
    table = Table("", *heads, title=title)
    for name in dict.fromkeys(name for name, _ in found):
        cells = [f"{_of(found[name, which], 'speed'):,.0f}" for which in WHICH]
        for which in WHICH:
            lean = found[Lean.name, which]
            cells.append(f"{median(a.speed / b.speed for a, b in zip(found[name, which], lean, strict=True)):.2f}")
        cells += [
            f"{_of(found[name, which], 'client'):.1f} + {_of(found[name, which], 'server'):.1f}" for which in WHICH
        ]
        cells += [f"{_of(found[name, which], 'wal'):,.0f}" for which in WHICH]
        table.add_row(name, *cells)
    if not is_dlt_there():
        table.add_row(Dlt.name, "not installed")
    return table


def _of(passes: Sequence[Pass], name: str) -> float:
    return float(median(getattr(each, name) for each in passes))


@contextmanager
def _canned_server() -> Iterator[str]:
    words = [str(word) for size, many in PAGES.items() for word in (size, 1 + ROUNDS * many)]
    argv = [sys.executable, str(HERE / "canned_pages.py"), *words]
    with run_process(argv, {}, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"


def _answers_a_second(base_url: str) -> float:
    """What one client gets that does nothing else."""
    with httpx.Client(base_url=base_url) as client:
        begun, many = time.perf_counter(), 0
        while time.perf_counter() - begun < 1.0:
            client.get("/v2/pages/500?page=0").raise_for_status()
            many += 1
        return many / (time.perf_counter() - begun)


if __name__ == "__main__":
    main(sys.argv[1])
