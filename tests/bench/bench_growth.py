"""What a tick, a take and the end of a call read beside many finished rows and accounts: blocks of tables and indexes.

Counted by PostgreSQL (`pg_statio_user_tables`) in a database that does nothing else, so a busy machine does not matter.
"""

import logging
import sys
from collections.abc import Callable

import structlog
from driving import make_runtime
from ledger_acts import Held, add_account, add_ids, plan, vairo_body
from real_processes import migrated_database, url_of
from sqlalchemy import Engine, text

from ulak.models.database import make_engine, transaction
from ulak.tasks.steps import upkeep
from ulak.tasks.steps.planning import plan_due

SIZES = ((10_000, 10), (3_000_000, 1_000))
"""Finished fetches and calls, with as many deliveries and a twentieth of polls and ids; accounts."""
CALLS = 40
WARM = 10
BIG = ("polls", "fetches", "calls", "tracked_ids", "delivery_status")
FILL = """
    INSERT INTO polls (account_id, kind, trigger, state, planned_at, finished_at, started_at)
    SELECT (CAST(:ids AS text[]))[1 + n % :accounts], 'plan', 'schedule', 'complete', now(), now(),
           now() - n * interval '1 minute' FROM generate_series(1, :many / 20) n;
    INSERT INTO fetches (poll_id, account_id, kind, params, params_hash, state, finished_at)
    SELECT p.id, p.account_id, 'batch', jsonb_build_object('n', n), md5(CAST(p.id * 20 + n AS text)), 'done', now()
    FROM polls p, generate_series(1, 20) n;
    INSERT INTO calls (account_id, fetch_id, asked_at, gives_up_at, answered_at, released_at, outcome)
    SELECT f.account_id, f.id, t, t + interval '1 second', t, t, 'ok'
    FROM fetches f, LATERAL (SELECT now() - interval '1 hour' - f.id * interval '1 second' AS t) x;
    INSERT INTO tracked_ids
        (account_id, id_kind, value, origin, sent_at, valid_until, next_check_at, closed_at, close_reason)
    SELECT (CAST(:ids AS text[]))[1 + n % :accounts], 'number', 'old' || n, 'sender', now(), now(),
           CASE WHEN n % 5 = 0 THEN now() + interval '1 day' END, CASE WHEN n % 5 > 0 THEN now() END,
           CASE WHEN n % 5 > 0 THEN 'final' END FROM generate_series(1, :many / 20) n;
    INSERT INTO delivery_status (account_id, provider, granularity, provider_key, status, is_final, provider_status)
    SELECT (CAST(:ids AS text[]))[1 + n % :accounts], 'vairo', 'message', 'old' || n, 'delivered', true, 'DELIVERED'
    FROM generate_series(1, :many) n
"""


def main(url: str) -> None:
    """Print one row for each act."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    found = [_measure(url, f"bench_growth_{number}", *size) for number, size in enumerate(SIZES)]
    print("blocks read           " + "  ".join(f"{rows:>9,} rows {accounts:>5,} accounts" for rows, accounts in SIZES))
    for act, few in found[0].items():
        many = found[1][act]
        print(f"{act:<22}{few:>29.1f}  {many:>29.1f}  {many / few:.2f}", flush=True)


def _measure(url: str, database: str, rows: int, accounts: int) -> dict[str, float]:
    """Blocks that one act reads, on average."""
    with migrated_database(url, database) as admin:
        ids = [add_account(admin) for _ in range(accounts)]
        _fill(admin, ids, rows)
        engine = make_engine(url_of(url, database), pool_size=1, prepares=True)
        runtime = make_runtime(engine, resolve=lambda _: "secret")
        values = [f"s{number}:+90532123{number:04}" for number in range(CALLS + WARM)]
        add_ids(engine, ids[0], values)
        ready = plan(runtime, ids[0])
        for fetch_id in ready[:WARM]:
            _answer(Held(runtime, fetch_id))
        held: list[Held] = []
        found = {
            "tick, nothing due": _blocks(engine, lambda: list(plan_due(runtime, "vairo")), 5),
            "reconcile": _blocks(engine, lambda: upkeep.reconcile(runtime), 5),
        }
        waiting = iter(ready[WARM:])
        found["take"] = _blocks(engine, lambda: held.append(Held(runtime, next(waiting))), CALLS)
        found["finish"] = _blocks(engine, lambda: _answer(held.pop(0)), CALLS)
        runtime.door.close()
        engine.dispose()
    return found


def _answer(held: Held) -> None:
    """The one id of the fetch is delivered."""
    [key] = held.prepared.tracked
    held.answer(vairo_body(key.value, "DELIVERED", key=held.taken.fetch_id))


def _fill(engine: Engine, ids: list[str], rows: int) -> None:
    """Insert the finished rows; nothing runs beside what is measured."""
    patient = engine.execution_options(isolation_level="AUTOCOMMIT")
    with patient.connect() as connection:
        connection.execute(text("SET statement_timeout = 0"))
        for table in BIG:
            connection.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = false)"))
        for statement in FILL.split(";"):
            connection.execute(text(statement), {"ids": ids, "accounts": len(ids), "many": rows})
        connection.execute(text("VACUUM ANALYZE"))


def _blocks(engine: Engine, act: Callable[[], object], times: int) -> float:
    """Blocks of tables and indexes that one act reads, from memory or not."""
    before = _read(engine)
    for _ in range(times):
        act()
    return (_read(engine) - before) / times


def _read(engine: Engine) -> int:
    with transaction(engine) as connection:
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
    query = """
        SELECT sum(heap_blks_read + heap_blks_hit + coalesce(idx_blks_read + idx_blks_hit, 0)
                   + coalesce(toast_blks_read + toast_blks_hit + tidx_blks_read + tidx_blks_hit, 0))
        FROM pg_statio_user_tables
    """
    with transaction(engine) as connection:
        return int(connection.execute(text(query)).scalar_one())


if __name__ == "__main__":
    main(sys.argv[1])
