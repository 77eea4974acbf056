"""What a sick account costs the healthy ones: one real worker, ten accounts of one provider, beside a control run.

The provider is a few lines over HTTP. Nine accounts are healthy in every case, so the control run has the same nine
and a healthy tenth. `calls/s`: answered calls of the nine; `silence`: the longest time that any of the nine got no
answer, in which a time-out of the sick one would show; ratios to the control run.

`WITHOUT="even patience yielding all" make bench BENCH=fairness` measures each case again without each of these rules
(`without_rules.py`), beside the run with all of them.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ledger_acts import add_account, add_ids
from real_processes import migrated_database, url_of, wait_for_calls, worker_processes
from sqlalchemy import Engine, text
from tiny_provider import Reply, Request, TinyProvider, vairo_reply

from ulak.local.embedded.valkey import ValkeyServer

HEALTHY = 9
THREADS = 12
IDS = 8
SPAN_SECONDS = 20.0
WARM_SECONDS = 3.0
DEADLINE_SECONDS = 5.0
ANSWER_SECONDS = 0.05
REQUESTS = 3
"""A second, of each healthy account; the sick have more, which tells them apart."""


def well(request: Request) -> Reply:
    """An open word, so that there is always something to ask."""
    return vairo_reply(request, "WAITING", after_seconds=ANSWER_SECONDS)


def hangs(request: Request) -> Reply:
    """Every call runs into its deadline."""
    return vairo_reply(request, "WAITING", after_seconds=DEADLINE_SECONDS * 4)


def slow(request: Request) -> Reply:
    """Every call is answered, just before its deadline: no breaker ever opens."""
    return vairo_reply(request, "WAITING", after_seconds=DEADLINE_SECONDS - 1)


def fails(_: Request) -> Reply:
    """A fault of the provider's, at once."""
    return Reply(b"", status=500)


CASES: Sequence[tuple[str, Callable[[Request], Reply], int, int]] = (
    ("control", well, 1, 2),
    ("one fails", fails, 1, 2),
    ("one hangs, concurrency 2", hangs, 1, 2),
    ("one hangs, concurrency 16", hangs, 1, 16),
    ("three hang, concurrency 16", hangs, 3, 16),
    ("one slow, concurrency 2", slow, 1, 2),
    ("one slow, concurrency 8", slow, 1, 8),
    ("one slow, concurrency 16", slow, 1, 16),
)
"""Name, what the sick accounts answer, how many there are, their concurrency."""


def main(url: str) -> None:
    """Print one row for each case."""
    print("case                        without   calls/s  ratio  silence s  ratio")
    control: Mapping[str, float] | None = None
    for number, case in enumerate(CASES):
        for rule in ["", *os.environ.get("WITHOUT", "").split()]:
            found = _measure(url, f"bench_fairness_{number}_{rule}", rule, *case[1:])
            control = control or found
            print(
                f"{case[0]:<27} {rule or '-':<8} {found['calls']:>8.1f}  {found['calls'] / control['calls']:.2f}"
                f"  {found['silence']:>8.2f}  {found['silence'] / control['silence']:>6.1f}",
                flush=True,
            )


def _measure(  # noqa: PLR0917 - a case, spread out
    url: str, database: str, rule: str, answer: Callable[[Request], Reply], many: int, concurrency: int
) -> dict[str, float]:
    """One run: the nine and the sick from the same moment on, so that whatever they can hold they hold."""
    program = [str(Path(__file__).with_name("without_rules.py")), rule] if rule else ["-m", "ulak.cli.main"]
    with (
        tempfile.TemporaryDirectory(prefix="ulak-bench-") as name,
        migrated_database(url, database) as engine,
        TinyProvider(lambda request: answer(request) if request.who == "sick" else well(request)) as tiny,
    ):
        folder = Path(name)
        key = folder / "key"
        key.write_text("secret", encoding="utf-8")
        for _ in range(HEALTHY):
            _account(engine, tiny.address("well"), key, requests=REQUESTS, concurrency=2)
        for _ in range(many):
            _account(engine, tiny.address("sick"), key, requests=40, concurrency=concurrency)
        valkey = ValkeyServer(folder, durable=False)
        with worker_processes(url_of(url, database), valkey.start(), folder, 1, threads=THREADS, program=program):
            wait_for_calls(engine)
            time.sleep(WARM_SECONDS + SPAN_SECONDS)
            found = _found(engine)
        valkey.stop()
    return found


def _account(engine: Engine, base_url: str, key: Path, *, requests: int, concurrency: int) -> None:
    """A Vairo account with ids that are asked for again and again."""
    account_id = add_account(
        engine,
        base_url=base_url,
        requests=requests,
        concurrency=concurrency,
        options={"deadline_seconds": DEADLINE_SECONDS},
        poll={"time_factor": 0.001, "max_check_seconds": 1},
    )
    ids = IDS if requests == REQUESTS else 60
    add_ids(engine, account_id, [f"s{n}:+9053212345{n:02}" for n in range(ids)])
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE accounts SET credentials = jsonb_build_object('api_key', CAST(:k AS text)) WHERE id = :a"),
            {"k": f"file:{key}", "a": account_id},
        )


def _found(engine: Engine) -> dict[str, float]:
    """Answered calls a second of the healthy accounts, and the longest time that one of them got no answer."""
    query = text("""
        WITH healthy AS (SELECT id FROM accounts WHERE limit_requests = :requests),
             span AS (SELECT max(answered_at) AS till, max(answered_at) - make_interval(secs => :span) AS since
                      FROM calls JOIN healthy ON healthy.id = account_id),
             told AS (SELECT account_id, answered_at FROM calls JOIN healthy ON healthy.id = account_id, span
                      WHERE outcome = 'ok' AND answered_at >= since),
             gaps AS (SELECT answered_at - lag(answered_at, 1, since) OVER (
                      PARTITION BY account_id ORDER BY answered_at) AS gap FROM told, span)
        SELECT (SELECT count(*) FROM told) AS calls, (SELECT extract(epoch FROM max(gap)) FROM gaps) AS silence
    """)
    with engine.connect() as connection:
        row = connection.execute(query, {"requests": REQUESTS, "span": SPAN_SECONDS}).one()
    return {"calls": row.calls / SPAN_SECONDS, "silence": float(row.silence)}


if __name__ == "__main__":
    main(sys.argv[1])
