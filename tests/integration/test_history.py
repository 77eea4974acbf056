"""The lighter history beside processes of the previous version: its migration, its shape, and who deletes it."""

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from alembic import command
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from database_fixtures import add_account
from driving import scalar
from msgspec import structs
from previous_history import DELETE, EXPLAIN, REVISION, migrate_previous, previous_histories, previous_upsert
from sqlalchemy import Connection, Engine, text
from stored_rows import stored_rows

from ulak.core import clock
from ulak.models.database import make_engine, retry_transaction, transaction
from ulak.models.deliveries import History, delete_deliveries, load_histories, upsert
from ulak.models.history import holds
from ulak.models.lookups import explain, history
from ulak.models.rebuild import RebuildResult, rebuild
from ulak.models.report import DeliveryReport
from ulak.models.schema import alembic_config, migrate, schema_is_current
from ulak.models.sending_time import fill_missing
from ulak.models.vocabulary import Granularity, Source, Status
from ulak.models.withdrawals import withdraw_unreported

NOON = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)


def say(status: Status, key: str = "k", **fields: object) -> DeliveryReport:
    """A report of a message."""
    values = {
        "provider_status": status.value,
        "statement": {"raw": status.value},
        "sent_at": NOON,
        "credits": 1,
        **fields,
    }
    return DeliveryReport(granularity=Granularity.MESSAGE, provider_key=key, status=status, **values)  # type: ignore[arg-type]


@pytest.fixture
def previous(fresh_database: str) -> Iterator[Engine]:
    """An Engine on a database of the previous version, not migrated yet, with one account."""
    engine = make_engine(fresh_database, pool_size=12, prepares=True)
    migrate_previous(engine)
    with transaction(engine) as connection:
        add_account(connection, "before")
    yield engine
    engine.dispose()


def ids(connection: Connection) -> list[int]:
    """Every delivery."""
    return list(connection.execute(text("SELECT id FROM delivery_status ORDER BY id")).scalars())


def unstamped(histories: Mapping[int, History]) -> dict[int, History]:
    """Without the time of storing, which the previous version does not read."""
    return {
        place: {digest: structs.replace(seen, first_seen_at=None) for digest, seen in made.items()}
        for place, made in histories.items()
    }


def stored_facts(connection: Connection) -> list[bool]:
    """Whether each observation keeps its facts."""
    query = "SELECT facts IS NOT NULL FROM observations ORDER BY delivery_id, as_of, content_hash"
    return list(connection.execute(text(query)).scalars())


def contract(connection: Connection) -> None:
    """What the next version's migration does."""
    script = ScriptDirectory.from_config(alembic_config()).get_revision("0011")
    with Operations.context(MigrationContext.configure(connection)):
        script.module.contract()


# ------------------------------------------------------------------------------------------------ the migration


def test_workers_of_the_previous_version_write_through_the_migration(previous: Engine) -> None:
    """None of them fails or waits long, deletes included; afterwards both versions write, and nothing is missing."""
    ended, failures, longest = threading.Event(), list[BaseException](), [0.0]
    told: dict[int, int] = {}

    def work(worker: int) -> None:
        statuses = (Status.ENROUTE, Status.DELIVERED, Status.READ)
        turn = 0
        try:
            while not ended.is_set():
                batch = [say(statuses[turn % 3], f"{worker}-{turn // 3}-{place}") for place in range(5)]
                start = time.perf_counter()
                at = NOON + timedelta(minutes=turn)
                retry_transaction(previous, lambda c: previous_upsert(c, "before", batch, asked_at=at))  # noqa: B023
                longest[0] = max(longest[0], time.perf_counter() - start)
                turn += 1
        except BaseException as error:  # noqa: BLE001 - raised again by the test
            failures.append(error)
        told[worker] = turn

    workers = [threading.Thread(target=work, args=(each,)) for each in range(4)]
    for worker in workers:
        worker.start()
    time.sleep(1)
    migrate(previous)
    for turn in range(20):
        batch = [say(Status.DELIVERED, f"new-{turn}-{place}") for place in range(5)]
        retry_transaction(previous, lambda c: upsert(c, "before", "vairo", batch, asked_at=NOON))  # noqa: B023
    ended.set()
    for worker in workers:
        worker.join()
    assert failures == []
    assert longest[0] < 3
    fill_missing(previous, chunks=100)
    with transaction(previous) as connection:
        assert set(stored_facts(connection)) == {True}
        assert len(stored_facts(connection)) == 5 * (sum(told.values()) + 20)
        assert rebuild(connection) == RebuildResult(deliveries=len(ids(connection)), differed=0)


def test_the_migration_lets_workers_pass_while_somebody_holds_the_tables(previous: Engine) -> None:
    """A rebuild of a long table: the migration tries again and again, and nobody waits behind it for long."""
    migrated = threading.Event()

    def run() -> None:
        migrate(previous)
        migrated.set()

    migrating = threading.Thread(target=run)
    with previous.connect() as reader:
        reader.execute(text("SELECT count(*) FROM observations"))
        migrating.start()
        waited: list[float] = []
        end = time.perf_counter() + 4
        while time.perf_counter() < end:
            start = time.perf_counter()
            with transaction(previous) as connection:
                previous_upsert(connection, "before", [say(Status.DELIVERED, str(len(waited)))], asked_at=NOON)
            waited.append(time.perf_counter() - start)
        assert not migrated.is_set()
        reader.rollback()
    migrating.join(30)
    assert migrated.is_set()
    assert max(waited) < 2
    with transaction(previous) as connection:
        assert len(ids(connection)) == len(waited)


def test_a_revision_waits_for_its_tables_without_those_of_the_one_before(previous: Engine) -> None:
    """No deadlock with a worker that holds a fetch while it stores deliveries, contrary to the order of revisions."""
    with ThreadPoolExecutor(1) as pool, previous.connect() as worker:
        worker.execute(text("UPDATE fetches SET priority = priority"))
        migrating = pool.submit(migrate, previous)
        waits = "SELECT count(*) FROM pg_locks WHERE relation = 'fetches'::regclass AND NOT granted"
        while not scalar(previous, waits):
            time.sleep(0.01)
        previous_upsert(worker, "before", [say(Status.DELIVERED, "a")], asked_at=NOON)
        worker.commit()
        migrating.result(30)
    assert schema_is_current(previous)


def test_facts_are_kept_as_long_as_the_previous_version_may_read_them(previous: Engine) -> None:
    """Every old process reads what new ones write; once it cannot run any more, new statements leave them out."""
    with transaction(previous) as connection:
        previous_upsert(connection, "before", [say(Status.DELIVERED, "a"), say(Status.ENROUTE, "b")], asked_at=NOON)
    migrate(previous)
    with transaction(previous) as connection:
        upsert(connection, "before", "vairo", [say(Status.DELIVERED, "c")], asked_at=NOON)
        assert stored_facts(connection) == [True] * 3
        places = ids(connection)
        assert previous_histories(connection, places) == unstamped(load_histories(connection, places))
        page = [connection.exec_driver_sql(EXPLAIN, {"id": place}).mappings().one() for place in places]
        # The previous version's page puts equal times in the order of the numbers.
        assert sorted(row["id"] for row in page) == [0, 1, 2]
        contract(connection)
        upsert(connection, "before", "vairo", [say(Status.DELIVERED, "d")], asked_at=NOON)
        assert stored_facts(connection) == [True, True, True, False]
        contract(connection)
        places = ids(connection)
        assert len({holds(seen) for made in load_histories(connection, places).values() for seen in made.values()}) == 1


def test_a_new_database_leaves_facts_out_at_once(migrated_database: Engine) -> None:
    """No previous version can run on tables that this migration made. What is open keeps its facts, as it will move."""
    with transaction(migrated_database) as connection:
        account = add_account(connection)
        upsert(connection, account, "vairo", [say(Status.DELIVERED, "a"), say(Status.ENROUTE, "b")], asked_at=NOON)
        assert stored_facts(connection) == [False, True]
        later = [say(Status.READ, "a"), say(Status.DELIVERED, "b")]
        upsert(connection, account, "vairo", later, asked_at=NOON + timedelta(hours=1))
        assert stored_facts(connection) == [True] * 4
        [first, *_] = ids(connection)
        told = explain(connection, first)
        assert told is not None
        assert [one.observation.facts["status"] for one in told.statements] == ["read", "delivered"]


def test_an_untrue_unreported_is_withdrawn_although_it_once_kept_no_facts(migrated_database: Engine) -> None:
    """Alone it stays, since nothing else is known; beside what the provider says it goes, and the rest keeps facts."""
    ahead = clock.now() + timedelta(hours=1)
    with transaction(migrated_database) as connection:
        account = add_account(connection)
        upsert(
            connection,
            account,
            "vairo",
            [say(Status.UNREPORTED, key, source=Source.OURS, as_of=ahead) for key in "ab"],
            asked_at=None,
        )
        assert stored_facts(connection) == [False, False]
        withdraw_unreported(connection, after_id=0)
        assert stored_facts(connection) == [False, False]
        upsert(connection, account, "vairo", [say(Status.ENROUTE, "b")], asked_at=NOON)
        assert stored_facts(connection) == [False, True, True]
        withdraw_unreported(connection, after_id=0)
        assert stored_facts(connection) == [False, True]
        rows = stored_rows(connection, account)
        assert [row.status for row in rows.values()] == ["unreported", "enroute"]
        assert rebuild(connection) == RebuildResult(deliveries=2, differed=0)


def test_a_downgrade_gives_the_previous_version_all_facts(migrated_database: Engine) -> None:
    """It reads them, equal to those that were said, goes on writing, and finds foreign key and number again."""
    with transaction(migrated_database) as connection:
        account = add_account(connection)
        reports = [
            say(Status.DELIVERED, "a", extra={"operator": "x", "n": 1}, credits=0.5, segments=2, done_at=NOON),
            say(Status.ENROUTE, "b"),
            say(Status.EXPIRED, "c", sent_at=NOON.replace(microsecond=0), recipient="+905301234567"),
        ]
        upsert(connection, account, "vairo", reports, asked_at=NOON)
        before = unstamped(load_histories(connection, ids(connection), with_statements=True))
        rows = stored_rows(connection, account)
        assert stored_facts(connection) == [False, True, False]
        config = alembic_config()
        config.attributes["connection"] = connection
        command.downgrade(config, REVISION)
    with transaction(migrated_database) as connection:
        assert previous_histories(connection, ids(connection), statements=True) == before
        at = NOON + timedelta(hours=1)
        _, advanced = previous_upsert(connection, account, [say(Status.READ, "a")], asked_at=at)
        assert len(advanced) == 1
        assert stored_rows(connection, account).keys() == rows.keys()
        connection.exec_driver_sql(DELETE, {"ids": ids(connection)})
        assert stored_facts(connection) == []


# ------------------------------------------------------------------------------------------------ the end of a history


@pytest.mark.parametrize("by", ["this version", "the previous version", "hand"])
def test_a_history_goes_with_its_delivery(migrated_database: Engine, by: str) -> None:
    """Whoever deletes a delivery: no statement stays behind, and those of others do."""
    with transaction(migrated_database) as connection:
        account = add_account(connection)
        batch = [say(Status.ENROUTE, key) for key in "abc"]
        upsert(connection, account, "vairo", batch, asked_at=NOON)
        upsert(connection, account, "vairo", [say(Status.DELIVERED, "b")], asked_at=NOON + timedelta(hours=1))
        first, second, third = ids(connection)
        if by == "this version":
            assert delete_deliveries(connection, [first, second]) == 2
        elif by == "the previous version":
            connection.exec_driver_sql(DELETE, {"ids": [first, second]})
        else:
            connection.execute(text("DELETE FROM delivery_status WHERE provider_key < 'c'"))
        left = connection.execute(text("SELECT delivery_id FROM observations")).scalars().all()
        assert (left, ids(connection)) == ([third], [third])
        assert [one.facts["status"] for one in history(connection, third)] == ["enroute"]


# ------------------------------------------------------------------------------------------------ the only writer


def test_deliveries_that_others_inserted_first_get_their_history_once(migrated_database: Engine) -> None:
    """A batch some of whose deliveries another transaction is inserting: each statement is kept, under its delivery."""
    with transaction(migrated_database) as connection:
        account = add_account(connection)
    theirs, ours = [say(Status.ENROUTE, key) for key in "bd"], [say(Status.DELIVERED, key) for key in "abcde"]
    twin = say(Status.READ, "c")
    results = []

    def write() -> None:
        with transaction(migrated_database) as connection:
            at = NOON + timedelta(hours=1)
            results.append(upsert(connection, account, "vairo", [*ours, twin], asked_at=at))

    with transaction(migrated_database) as connection:
        upsert(connection, account, "vairo", theirs, asked_at=NOON)
        writing = threading.Thread(target=write)
        writing.start()
        time.sleep(0.5)
        assert results == []
    writing.join()
    assert [(result.new, result.advanced) for result in results] == [(3, 2)]
    with transaction(migrated_database) as connection:
        query = (
            "SELECT provider_key, array_agg(statement ->> 'raw' ORDER BY as_of, statement ->> 'raw') FROM observations"
            " FULL JOIN delivery_status d ON d.id = delivery_id GROUP BY 1 ORDER BY 1"
        )
        assert [tuple(row) for row in connection.execute(text(query))] == [
            ("a", ["delivered"]),
            ("b", ["enroute", "delivered"]),
            ("c", ["delivered", "read"]),
            ("d", ["enroute", "delivered"]),
            ("e", ["delivered"]),
        ]
        assert rebuild(connection) == RebuildResult(deliveries=5, differed=0)
