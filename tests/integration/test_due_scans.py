"""The questions asked at every tick and every call stay cheap, however many finished rows lie beside the open ones."""

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from driving import make_runtime, scalar
from ledger_acts import Held, add_account, add_ids, add_poll, execute, expire_lease, vairo_body
from msgspec.structs import replace
from sqlalchemy import Connection, Engine, event, text

from ulak.models import database, tracked
from ulak.models.database import make_engine, retry_transaction
from ulak.models.deliveries import delete_deliveries, stored_keys, upsert
from ulak.models.ledger import ending as ledger
from ulak.models.ledger import opening, planner_queries, sharing, taking
from ulak.models.ledger.sweep_pages import seen_in_chain, swept_pages
from ulak.models.lookups import explain
from ulak.models.report import DeliveryReport
from ulak.models.vocabulary import Granularity, Status
from ulak.providers.errors import TryAgainSoon
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps import upkeep
from ulak.tasks.steps.draining import drain
from ulak.tasks.steps.failures import return_unsent
from ulak.tasks.steps.ondemand import open_on_demand
from ulak.tasks.steps.planning import _pace, _plan_scheduled, plan_poll

FINISHED = 60_000
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
BIG = ("polls", "fetches", "calls", "tracked_ids", "delivery_status", "observations")
FILL = """
    INSERT INTO polls (account_id, kind, trigger, state, planned_at, finished_at, started_at, sweep_through)
    SELECT :a, 'plan', 'schedule', 'complete', now(), now(), now() - n * interval '1 minute',
           CASE WHEN n % 60 = 0 THEN current_date END FROM generate_series(1, :many / 3) n;
    INSERT INTO fetches (poll_id, account_id, kind, params, params_hash, state, finished_at)
    SELECT n / 3 + 1, :a, 'batch', jsonb_build_object('n', n), md5(CAST(n AS text)), 'done', now()
    FROM generate_series(1, :many - 3) n;
    INSERT INTO calls (account_id, fetch_id, asked_at, gives_up_at, answered_at, released_at, outcome)
    SELECT :a, n, t, t + interval '1 second', t, t, 'ok'
    FROM generate_series(1, :many) n, LATERAL (SELECT now() - n * interval '5 seconds' AS t) x;
    INSERT INTO tracked_ids
        (account_id, id_kind, value, origin, sent_at, valid_until, next_check_at, closed_at, close_reason)
    SELECT :a, 'number', 'old' || n, 'sender', now() - n * interval '1 second', now(),
           CASE WHEN n % 5 = 0 THEN now() + n * interval '1 second' END, CASE WHEN n % 5 > 0 THEN now() END,
           CASE WHEN n % 5 > 0 THEN 'final' END FROM generate_series(1, :many) n;
    INSERT INTO delivery_status (account_id, provider, granularity, provider_key, status, is_final, provider_status)
    SELECT :a, 'vairo', 'message', 'old' || n, 'delivered', true, 'DELIVERED' FROM generate_series(1, :many) n;
    INSERT INTO observations (delivery_id, content_hash, source, statement)
    SELECT id, sha256(convert_to(provider_key, 'UTF8')), 'poll', '{}' FROM delivery_status;
    ANALYZE
"""
SCANNED = re.compile(rf"Seq Scan on ({'|'.join(BIG)})\b")


@pytest.fixture
def long_used(migrated_database: Engine) -> Engine:
    """A database that has run for long: most rows are finished, and many ids are open but not due."""
    fill(migrated_database, add_account(migrated_database), FILL)
    return migrated_database


def fill(engine: Engine, account_id: str, statements: str, many: int = FINISHED) -> None:
    """Insert the finished rows."""
    with engine.begin() as connection:
        for statement in statements.split(";"):
            connection.execute(text(statement), {"a": account_id, "many": many})


@pytest.fixture
def asked(long_used: Engine) -> Iterator[list[tuple[str, Any]]]:
    """Every statement with its parameters that the engine is asked."""
    seen: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        seen.append((statement, parameters))

    event.listen(long_used, "before_cursor_execute", note)
    yield seen
    event.remove(long_used, "before_cursor_execute", note)


def test_no_hot_question_reads_a_whole_table(long_used: Engine, asked: list[tuple[str, Any]]) -> None:
    """Planning, waking, taking, finishing, failing, healing and cancelling: none of their plans scans a table."""
    ask_all(long_used, asked)
    assert scans(long_used, list(asked)) == []


def test_no_plan_that_is_kept_reads_a_whole_table(long_used: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with plans that are made once and know no parameter: by the rows that PostgreSQL says it has read."""
    monkeypatch.setattr(database, "PREPARE_AFTER", 0)
    url = long_used.url.update_query_dict({"options": "-c plan_cache_mode=force_generic_plan"})
    engine = make_engine(url.render_as_string(hide_password=False), prepares=True)
    before = rows_read(long_used)
    ask_all(engine, [])
    engine.dispose()
    read = {table: many - before[table] for table, many in rows_read(long_used).items()}
    assert {table: many for table, many in read.items() if many >= FINISHED / 3} == {}


def test_no_plan_that_was_made_while_tables_were_small_reads_a_whole_one(
    migrated_database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session keeps its plans while the tables grow under it, and nothing tells PostgreSQL to make new ones."""
    monkeypatch.setattr(database, "PREPARE_AFTER", 0)
    monkeypatch.setattr(database, "CONNECTION_TTL_SECONDS", 600)
    url = migrated_database.url.update_query_dict({"options": "-c plan_cache_mode=force_generic_plan"})
    engine = make_engine(url.render_as_string(hide_password=False), prepares=True, pool_size=1)
    for table in BIG:
        execute(migrated_database, f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
    account_id = add_account(migrated_database)
    ask_all(engine, [])
    for done_with in ("fetches", "tracked_ids", "delivery_status"):
        execute(migrated_database, f"DELETE FROM {done_with}")
    fill(migrated_database, account_id, FILL.removesuffix("ANALYZE\n"))
    before = rows_read(migrated_database, kept=1)
    ask_all(engine, [])
    engine.dispose()
    read = {table: many - before[table] for table, many in rows_read(migrated_database).items()}
    assert {table: many for table, many in read.items() if many >= FINISHED / 3} == {}


@pytest.mark.parametrize("seen", ["never analysed", "analysed", "vacuumed"])
def test_a_plan_made_for_empty_tables_does_not_read_full_ones(
    migrated_database: Engine, monkeypatch: pytest.MonkeyPatch, seen: str
) -> None:
    """Plans of the writer of deliveries that were kept before the tables grew, and before PostgreSQL noticed."""
    monkeypatch.setattr(database, "PREPARE_AFTER", 0)
    url = migrated_database.url.update_query_dict({"options": "-c plan_cache_mode=force_generic_plan"})
    engine = make_engine(url.render_as_string(hide_password=False), pool_size=1, prepares=True)
    account_id = add_account(migrated_database)
    with migrated_database.begin() as connection:
        for table in ("delivery_status", "observations"):
            connection.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = off)"))
    if seen != "never analysed":
        vacuum = "VACUUM (ANALYZE)" if seen == "vacuumed" else "ANALYZE"
        with migrated_database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"{vacuum} delivery_status, observations"))
    retry_transaction(engine, lambda c: write_deliveries(c, account_id))
    with migrated_database.begin() as connection:
        connection.execute(text("DELETE FROM delivery_status"))
        for statement in FILL.split(";")[-3:-1]:
            connection.execute(text(statement), {"a": account_id, "many": FINISHED})
    before = rows_read(migrated_database, kept=1)
    retry_transaction(engine, lambda c: write_deliveries(c, account_id))
    engine.dispose()
    read = {table: many - before[table] for table, many in rows_read(migrated_database).items()}
    assert {table: many for table, many in read.items() if many >= FINISHED / 3} == {}


def test_the_ids_of_an_answer_are_found_by_their_key(migrated_database: Engine) -> None:
    """However many ids are open, and though the plan does not know how many are given."""
    fill(migrated_database, add_account(migrated_database), FILL, many=10_000)
    account_id = add_account(migrated_database)
    runtime = make_runtime(migrated_database, resolve=lambda _: "secret")
    add_ids(migrated_database, account_id, ["s1:+905321234567"])
    _plan_scheduled(runtime, account_id)
    held = Held(runtime, fetches(migrated_database, account_id).pop())

    def read() -> int:
        report_statistics(migrated_database)
        query = "SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_user_tables WHERE relname = 'tracked_ids'"
        return int(str(scalar(migrated_database, query)))

    before = read()
    held.answer(vairo_body("s1:+905321234567", "DELIVERED"))
    assert read() - before < 100


def write_deliveries(connection: Connection, account_id: str) -> None:
    """New deliveries, one with two statements; one that moves; one that an order dates: it is explained and deleted."""

    def say(key: str, *statuses: Status) -> None:
        batch = [
            DeliveryReport(
                granularity=Granularity.MESSAGE, provider_key=key, status=status, provider_status=status.name
            )
            for status in statuses
        ]
        upsert(connection, account_id, "vairo", batch, asked_at=NOON)

    key = f"new{uuid4()}"
    say("old7", Status.EXPIRED)
    say(f"{key} twice", Status.ENROUTE, Status.DELIVERED)
    say(key, Status.DELIVERED)
    say(key, Status.EXPIRED)
    order, message = (
        DeliveryReport(
            granularity=granularity, provider_key=f"{key} {granularity}", status=Status.ENROUTE, provider_status="1"
        )
        for granularity in (Granularity.ORDER, Granularity.MESSAGE)
    )
    for report in (order, replace(message, parent_key=order.provider_key), replace(order, sent_at=NOON)):
        upsert(connection, account_id, "vairo", [report], asked_at=NOON)
    upsert(connection, account_id, "vairo", [replace(message, status=Status.DELIVERED)], asked_at=NOON)
    assert stored_keys(connection, account_id, [(Granularity.MESSAGE, key)])
    [found] = connection.execute(text("SELECT id FROM delivery_status ORDER BY id DESC LIMIT 1")).scalars()
    told = explain(connection, found)
    assert told is not None
    assert len(told.statements) == 2
    assert delete_deliveries(connection, [found]) == 1


def ask_all(engine: Engine, asked: list[tuple[str, Any]]) -> None:
    """Plan, wake, take, finish, fail, heal, cancel; what was needed before is not kept in `asked`."""
    runtime = make_runtime(engine, resolve=lambda _: "secret")
    account_id = str(scalar_account(engine))
    ids = add_ids(engine, account_id, [f"s{number}:+9053212345{number:02}" for number in range(6)])
    window = {"window": ["2026-01-01", "2026-01-02"], "page": 1}
    page = opening.NewFetch(kind="page", params=window, label="p", priority=40)
    poll_id, [other] = add_poll(engine, account_id, [page])
    # Of two threads, so that calls in the air are worth a look at who has which.
    with engine.begin() as connection:
        sharing.announce(connection, "one@host", 2)
    # What another run has left.
    execute(engine, "UPDATE accounts SET breaker_state = 'closed', breaker_failures = 0, breaker_until = NULL")
    asked.clear()
    _plan_scheduled(runtime, account_id)
    ready = fetches(engine, account_id)
    drain_once(runtime, ready.pop())
    Held(runtime, ready.pop()).answer(TryAgainSoon("The connection broke."))
    Held(runtime, ready.pop()).answer(b"{}")
    good = Held(runtime, ready.pop())
    [key] = good.prepared.tracked
    good.answer(vairo_body(key.value, "DELIVERED"))
    retry_transaction(engine, lambda c: write_deliveries(c, account_id))
    unsent = ready.pop()
    return_unsent(runtime, Held(runtime, unsent).taken)
    held = Held(runtime, unsent)
    expire_lease(engine, held.taken.fetch_id)
    upkeep.reconcile(runtime)
    plan_poll(runtime, account_id, open_on_demand(runtime, account_id, trigger="api"))
    with engine.begin() as connection:
        taking.take(connection, runtime.holder, account_id=account_id, may_wait=False)
    with engine.begin() as connection:
        planner_queries.plannable_accounts(connection, "vairo", _pace("vairo"))
        tracked.soonest_ids(connection, account_id, "number", 5, until=held.taken.asked_at, taken=ids)
        planner_queries.open_windows(connection, account_id)
        planner_queries.roll_watermark(connection, account_id)
        planner_queries.oldest_open_order(connection, account_id, 30.0)
        swept_pages(connection, poll_id, '["2026-01-01","2026-01-02"]')
        seen_in_chain(connection, poll_id, {"chain": "c"}, 1)
        ledger.recent_outcomes(connection, account_id, 20, since=None)
        opening.cancel(connection, poll_id)
    assert other in fetches(engine, account_id, "cancelled", "page")


def drain_once(runtime: Runtime, fetch_id: int) -> None:
    """Make this call, which fails, and go no further."""
    list(drain(runtime, fetch_id))


def report_statistics(engine: Engine, kept: int = 0) -> None:
    """End the engine's sessions, but for `kept` ones of others: a session reports what it read a second late, or here.

    Each reports before it leaves the list of sessions, which it does some time after its client has gone.
    """
    engine.dispose()
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    end = time.monotonic() + 30
    while (others := scalar(engine, query)) != kept:
        assert time.monotonic() < end, f"{others} sessions instead of {kept}"
        time.sleep(0.02)


def rows_read(engine: Engine, kept: int = 0) -> dict[str, int]:
    """How many rows of each big table were read by going through it, so far, by sessions that have ended.

    Of the deliveries and their history, whatever an index led to is counted, too: no question there needs many.
    """
    report_statistics(engine, kept)
    with engine.begin() as connection:
        query = text(
            "SELECT relname, seq_tup_read + CASE WHEN relname IN ('delivery_status', 'observations')"
            " THEN idx_tup_fetch ELSE 0 END AS many FROM pg_stat_user_tables WHERE relname = ANY(:big)"
        )
        return {row.relname: row.many for row in connection.execute(query, {"big": list(BIG)})}


def scans(engine: Engine, asked: list[tuple[str, Any]]) -> list[tuple[str, str]]:
    """(table, statement) of every plan that reads one of the big tables from end to end."""
    found = set()
    with engine.connect() as connection:
        for statement, parameters in asked:
            if not re.match(r"\s*(SELECT|WITH|UPDATE|INSERT|DELETE)", statement):
                continue
            plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars())
            found |= {(table, statement) for table in SCANNED.findall(plan)}
    return sorted(found)


def fetches(engine: Engine, account_id: str, state: str = "ready", kind: str = "batch") -> list[int]:
    """Ids of the account's fetches in a state."""
    with engine.connect() as connection:
        query = text("SELECT id FROM fetches WHERE account_id = :a AND state = :s AND kind = :k ORDER BY id")
        return list(connection.execute(query, {"a": account_id, "s": state, "k": kind}).scalars())


def scalar_account(engine: Engine) -> object:
    """The one account."""
    with engine.connect() as connection:
        return connection.execute(text("SELECT id FROM accounts")).scalar_one()
