"""What learning costs: the index that finds closed ids, a look at one account, a look where nobody closed anything."""

import time
from statistics import median

from driving import make_runtime
from ledger_acts import add_account
from real_processes import migrated_database
from sqlalchemy import Engine, text
from verdicts import Verdicts

from ulak.models import latencies
from ulak.models.ledger import planner_queries
from ulak.tasks.steps.latency_learning import learn_all

IDS = """
    INSERT INTO tracked_ids (account_id, id_kind, value, origin, sent_at, valid_until, next_check_at, last_checked_at)
    SELECT :a, 'number', :name || n, 'sender', now() - n * interval '1 second', now() + interval '1 day',
           now() + interval '1 hour', now() - n * interval '0.5 second'
    FROM generate_series(1, :many) n
"""
CLOSE = """
    UPDATE tracked_ids SET closed_at = clock_timestamp() - interval '20 seconds', close_reason = 'final',
        next_check_at = NULL, checked_before_at = coalesce(last_checked_at, sent_at), last_checked_at = now()
    WHERE account_id = :a AND id > :after
"""
INDEX = """
    CREATE INDEX IF NOT EXISTS ix_tracked_ids_closed ON tracked_ids (account_id, closed_at)
    WHERE close_reason = 'final'
"""
IDLE = """
    INSERT INTO accounts (id, provider, base_url, timezone, credentials, credentials_hash, limit_requests,
        limit_per_seconds, limit_concurrency)
    SELECT id || '-' || n, provider, base_url, timezone, credentials, id || n, 1, 1, 1
    FROM accounts, generate_series(1, 1000) n WHERE id = :a
"""


# Lists that nobody has configured, with a plan as large as one is, or fixed as before adaptive polling.
TICK_OF = """
    INSERT INTO accounts (id, provider, base_url, timezone, credentials, credentials_hash, limit_requests,
        limit_per_seconds, limit_concurrency, planned_at, closed_swept_at, poll, options, sweep_seconds, poll_plan)
    SELECT :name || n, 'iletimerkezi', base_url, timezone, credentials, :name || n, 1, 1, 1, now(), now(),
        CAST(:poll AS jsonb), options, 300.0, jsonb_build_object('missed', '{"order": 0.05}'::jsonb, 'settings',
            jsonb_build_object('form', 1, 'poll', CAST(:poll AS jsonb), 'options', options), 'kinds',
            jsonb_build_object('order', jsonb_build_object('masses', array_agg, 'ages', array_agg)))
    FROM accounts, (SELECT array_agg(i * 1.2345678) FROM generate_series(1, 60) i) m, generate_series(1, 1000) n
    WHERE id = :a
"""
TICKS = 60


def main(url: str) -> None:
    """A line for each question."""
    with migrated_database(url, "learning") as engine:
        account_id = add_account(engine)
        _ticks(engine, account_id)
        spans: dict[str, list[float]] = {"with": [], "without": []}
        for turn in range(16):
            name = ("with", "without")[turn % 2]
            _do(engine, INDEX if name == "with" else "DROP INDEX ix_tracked_ids_closed")
            spans[name].append(_closing(engine, account_id, f"{turn}-"))
        _do(engine, INDEX)
        for name, found in spans.items():
            print(f"close 1,000 ids {name} the index: {median(found):.1f} ms")
        runtime = make_runtime(engine, resolve=lambda _: "secret")
        learn_all(runtime)
        _do(engine, "UPDATE latencies SET read_through = now() - interval '9 hours'")
        _do(engine, IDS, a=account_id, name="open", many=20_000)
        begun = time.perf_counter()
        learn_all(runtime)
        print(f"a look at 20,000 closed and 20,000 open ids: {(time.perf_counter() - begun) * 1000:.0f} ms")
        _do(engine, IDLE, a=account_id)
        _do(engine, "ANALYZE")
        begun = time.perf_counter()
        with engine.connect() as connection:
            latencies.candidates(connection)
        print(f"a look at 1,000 idle accounts: {(time.perf_counter() - begun) * 1000:.1f} ms")


def _ticks(engine: Engine, account_id: str) -> None:
    """What a tick over a thousand idle accounts costs, with a plan in force and without adaptation, in two rounds."""
    statement = planner_queries._PLANNABLE
    given = {"provider": "iletimerkezi", "sweeps": True, "every": 60.0, "early": 0.95, "priority": 50, "waited": 60.0}
    cases = {"adaptive = false": '{"adaptive": false}', "with a plan": "{}"}
    costs: dict[str, list[float]] = {name: [] for name in cases}
    for name, poll in (*cases.items(), *reversed(cases.items())):
        _do(engine, "DELETE FROM accounts WHERE provider = 'iletimerkezi'")
        _do(engine, TICK_OF, a=account_id, name=name.split()[0] + "-", poll=poll)
        _do(engine, "ANALYZE accounts")
        with engine.connect() as connection:
            explain = text(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {statement.text}")
            for _ in range(TICKS):
                [found] = connection.execute(explain, given).scalar_one()
                costs[name].append(found["Execution Time"])
        blocks = found["Plan"]["Shared Hit Blocks"] + found["Plan"]["Shared Read Blocks"]
        print(f"a tick over 1,000 idle accounts, {name}: {median(costs[name]):.2f} ms, {blocks} shared buffers")
    ratio = median(costs["with a plan"]) / median(costs["adaptive = false"])
    verdicts = Verdicts()
    verdicts.at_most("a tick over 1,000 idle accounts, with a plan / without adaptation", [ratio], 1.2)


def _closing(engine: Engine, account_id: str, name: str) -> float:
    """How many milliseconds it takes to close a thousand ids."""
    _do(engine, IDS, a=account_id, name=name, many=1000)
    with engine.connect() as connection:
        last = connection.execute(text("SELECT max(id) FROM tracked_ids")).scalar_one()
    begun = time.perf_counter()
    _do(engine, CLOSE, a=account_id, after=last - 1000)
    return (time.perf_counter() - begun) * 1000


def _do(engine: Engine, statement: str, **values: object) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement), values)
