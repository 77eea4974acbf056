"""The feed of changes: whoever folds it holds the table, whatever is committed when."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from database_fixtures import add_account
from feed_copy import Reader, table
from quiet_cluster import wait_for_the_feed
from sqlalchemy import Engine, text

from ulak.models.changes import CursorGoneError, FeedMovedError, forget_erasures, read_changes, renew_feed
from ulak.models.database import retry_transaction, transaction
from ulak.models.deliveries import upsert
from ulak.models.erasure import erase
from ulak.models.rebuild import rebuild
from ulak.models.report import DeliveryReport
from ulak.models.vocabulary import Granularity, Status

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
STATUSES = [Status.SCHEDULED, Status.ENROUTE, Status.DELIVERED, Status.UNDELIVERABLE]


def said(key: str, status: Status = Status.ENROUTE, **fields: Any) -> DeliveryReport:
    """A statement about one message."""
    return DeliveryReport(
        granularity=Granularity.MESSAGE, provider_key=key, status=status, provider_status=status.value, **fields
    )


@pytest.fixture
def account(migrated_database: Engine) -> str:
    """An account of the test's own database."""
    with transaction(migrated_database) as connection:
        return add_account(connection, "marka-sms")


def tell(engine: Engine, *reports: DeliveryReport, hours: float = 0) -> None:
    """What the provider answered, in a transaction of its own."""
    with transaction(engine) as connection:
        upsert(connection, "marka-sms", "vairo", reports, asked_at=NOON + timedelta(hours=hours))


def write_at_random(engine: Engine, seed: int, until: float) -> None:
    """Batches over few keys, committed late or not at all, sometimes an erasure."""
    dice = random.Random(seed)
    hours = 0
    while time.monotonic() < until:
        hours += 1
        keys = sorted({f"k{dice.randrange(30)}" for _ in range(dice.randint(1, 5))})
        reports = [said(key, dice.choice(STATUSES), recipient=f"person-{key}") for key in keys]
        asked_at = NOON + timedelta(hours=hours)
        gone = f"person-k{dice.randrange(30)}" if dice.random() < 0.15 else None

        def run(
            connection: Any, reports: list[DeliveryReport] = reports, asked_at: datetime = asked_at, gone: Any = gone
        ) -> None:
            # A transaction takes its number at its first write: here, long before what it is about.
            if dice.random() < 0.5:
                connection.execute(text("SELECT pg_current_xact_id()"))
                time.sleep(dice.random() * 0.02)
            if gone is not None:
                erase(connection, gone)
            else:
                upsert(connection, "marka-sms", "vairo", reports, asked_at=asked_at)
            time.sleep(dice.choice([0, 0, 0.005, 0.05]))
            if dice.random() < 0.1:
                connection.rollback()

        retry_transaction(engine, run)


@pytest.mark.parametrize("seed", range(3))
def test_whoever_folds_the_feed_holds_the_table(migrated_database: Engine, account: str, seed: int) -> None:
    """Concurrent writers, late commits, roll-backs, erasures, small pages: nothing lost, nothing told twice."""
    readers = [Reader(migrated_database, limit=limit) for limit in (1, 7, 100)]
    for round_of in range(2):
        until = time.monotonic() + 0.8
        with ThreadPoolExecutor(9) as pool:
            writers = [
                pool.submit(write_at_random, migrated_database, seed * 100 + round_of * 10 + n, until) for n in range(6)
            ]

            def follow(reader: Reader, until: float = until) -> None:
                while time.monotonic() < until:
                    reader.read()
                    time.sleep(0.005)

            followers = [pool.submit(follow, reader) for reader in readers]
            for each in (*writers, *followers):
                each.result()
        whole = table(migrated_database)
        for reader in (*readers, Reader(migrated_database, limit=3)):
            reader.read_all()
            assert reader.rows == whole
            assert reader.places == sorted(set(reader.places))
    assert len(whole) > 5
    assert any(len(reader.places) > len(whole) for reader in readers)


def test_a_change_that_commits_late_is_told_late_and_not_lost(migrated_database: Engine, account: str) -> None:
    """A transaction that began first and ends last holds back what lies above it, and nothing overtakes it."""
    tell(migrated_database, said("k"))
    reader = Reader(migrated_database).read_all()
    late = migrated_database.connect()
    late.begin()
    late.execute(text("SELECT pg_current_xact_id()"))
    tell(migrated_database, said("k", Status.DELIVERED), said("other"))
    assert reader.read() == 0
    upsert(late, account, "vairo", [said("k", Status.UNDELIVERABLE)], asked_at=NOON + timedelta(hours=1))
    late.commit()
    late.close()
    reader.read_all()
    assert reader.rows == table(migrated_database)
    assert reader.places == sorted(set(reader.places))


def test_an_erasure_overtakes_no_change_that_commits_late(migrated_database: Engine, account: str) -> None:
    """A cursor that had passed the erasure would never hear of what was begun before it."""
    tell(migrated_database, said("a", recipient="+905301234567"), said("b"))
    reader = Reader(migrated_database).read_all()
    late = migrated_database.connect()
    late.begin()
    late.execute(text("SELECT pg_current_xact_id()"))
    with transaction(migrated_database) as connection:
        erase(connection, "+905301234567")
    assert reader.read() == 0
    upsert(late, account, "vairo", [said("b", Status.DELIVERED)], asked_at=NOON + timedelta(hours=1))
    late.commit()
    late.close()
    reader.read_all()
    assert reader.rows == table(migrated_database)
    assert reader.places == sorted(set(reader.places))


def test_only_a_real_change_takes_a_new_place(migrated_database: Engine, account: str) -> None:
    """Restatements, weaker statements and a rebuild that finds nothing are not told."""
    tell(migrated_database, said("k", Status.DELIVERED))
    reader = Reader(migrated_database).read_all()
    tell(migrated_database, said("k", Status.DELIVERED))
    tell(migrated_database, said("k", Status.ENROUTE))
    with transaction(migrated_database) as connection:
        rebuild(connection)
    assert reader.read() == 0
    with transaction(migrated_database) as connection:
        connection.execute(text("UPDATE delivery_status SET status = 'sent'"))
        rebuild(connection)
    reader.read_all()
    assert (len(reader.places), reader.rows) == (2, table(migrated_database))


def test_an_erased_row_is_told_without_what_it_was(migrated_database: Engine, account: str) -> None:
    """The reader learns the id only; who begins later never hears of the row."""
    tell(migrated_database, said("a", recipient="+905301234567"), said("b"))
    reader = Reader(migrated_database).read_all()
    with transaction(migrated_database) as connection:
        erase(connection, "+905301234567")
        assert connection.execute(text("SELECT count(*) FROM delivery_erasures")).scalar_one() == 1
    reader.read_all()
    assert [row["provider_key"] for row in reader.rows.values()] == ["b"]
    assert Reader(migrated_database).read_all().rows == reader.rows == table(migrated_database)


def test_a_cursor_older_than_the_erasures_that_are_told_is_refused(migrated_database: Engine, account: str) -> None:
    """Only where it may have missed one: a reader that passed it, or began after it, goes on."""
    tell(migrated_database, said("a", recipient="+905301234567"), said("b"))
    behind, ahead = (Reader(migrated_database).read_all() for _ in range(2))
    half = Reader(migrated_database, limit=1)
    wait_for_the_feed(migrated_database)
    half.read()
    with transaction(migrated_database) as connection:
        erase(connection, "+905301234567")
        connection.execute(text("UPDATE delivery_erasures SET erased_at = erased_at - interval '31 days'"))
    ahead.read_all()
    with transaction(migrated_database) as connection:
        forget_erasures(connection)
        assert connection.execute(text("SELECT count(*) FROM delivery_erasures")).scalar_one() == 0
    # The test's readers began a moment ago; these have been away for as long as the erasure is old.
    for reader in (behind, ahead, half):
        assert reader.cursor is not None
        reader.cursor = replace(reader.cursor, began=reader.cursor.began - timedelta(days=32))
    for reader in (behind, half):
        with pytest.raises(CursorGoneError, match="too old"):
            reader.read()
    young = Reader(migrated_database, limit=1)
    wait_for_the_feed(migrated_database)
    young.read()
    for reader in (ahead, young):
        assert reader.read_all().rows == table(migrated_database)


def test_the_latest_of_the_forgotten_erasures_decides_which_cursor_is_too_old(
    migrated_database: Engine, account: str
) -> None:
    """A reader stands between two that are forgotten; one that began within the hour of an erasure has seen its row."""
    tell(migrated_database, *(said(key, recipient=f"+9053012345{key}") for key in ("61", "62")), said("other"))
    reader = Reader(migrated_database).read_all()
    with transaction(migrated_database) as connection:
        erase(connection, "+905301234561")
    between = Reader(migrated_database, cursor=reader.read_all().cursor)
    with transaction(migrated_database) as connection:
        erase(connection, "+905301234562")
        connection.execute(text("UPDATE delivery_erasures SET erased_at = erased_at - interval '31 days'"))
    with transaction(migrated_database) as connection:
        forget_erasures(connection)
        began = connection.execute(text("SELECT forgotten_before FROM change_feed")).scalar_one()
        told_since = connection.execute(text("SELECT now() - interval '30 days'")).scalar_one()
    assert began == told_since + timedelta(hours=1)
    assert between.cursor is not None
    between.cursor = replace(between.cursor, began=began - timedelta(seconds=1))
    with pytest.raises(CursorGoneError, match="too old"):
        between.read()


def test_each_erasure_forgets_what_is_told_no_more(migrated_database: Engine, account: str) -> None:
    """So what is kept of the erased grows only as people are erased; a younger erasure is told on."""
    tell(migrated_database, *(said(key, recipient=f"+9053012345{key}") for key in ("61", "62", "63")))
    query = text("SELECT delivery_id FROM delivery_erasures ORDER BY delivery_id")
    with transaction(migrated_database) as connection:
        ids = {row.provider_key: row.id for row in connection.execute(text("SELECT * FROM delivery_status"))}
        for key, days in (("61", 31), ("62", 29)):
            erase(connection, f"+9053012345{key}")
            aged = (
                "UPDATE delivery_erasures SET erased_at = now() - make_interval(days => :days) WHERE delivery_id = :id"
            )
            connection.execute(text(aged), {"days": days, "id": ids[key]})
    with transaction(migrated_database) as connection:
        erase(connection, "+905301234563")
        assert connection.execute(query).scalars().all() == [ids["62"], ids["63"]]


def test_a_restored_database_begins_a_new_feed(migrated_database: Engine, account: str) -> None:
    """Rows that carry the transactions of another cluster are told again, once, and old cursors are refused."""
    tell(migrated_database, said("a"), said("b"), said("gone", recipient="+905301234567"))
    with transaction(migrated_database) as connection:
        erase(connection, "+905301234567")
    reader = Reader(migrated_database).read_all()
    with transaction(migrated_database) as connection:
        # What a dump from a cluster that has counted further leaves behind.
        connection.execute(text("UPDATE delivery_status SET changed_in = 9000000000000 WHERE provider_key = 'a'"))
        connection.execute(text("UPDATE change_feed SET cluster = 'another'"))
    with pytest.raises(FeedMovedError):
        reader.read()

    def renew() -> bool:
        with transaction(migrated_database) as connection:
            return renew_feed(connection)

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(lambda _: renew(), range(4))) == [False, False, False, True]
    with pytest.raises(CursorGoneError, match="restored"):
        reader.read()
    again = Reader(migrated_database).read_all()
    assert (again.rows, len(again.places)) == (table(migrated_database), 2)
    with migrated_database.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM delivery_erasures")).scalar_one() == 0
    tell(migrated_database, said("c"))
    assert len(again.read_all().places) == 3


def test_a_cursor_of_the_future_is_refused(migrated_database: Engine, account: str) -> None:
    """After a restore to an earlier point the cluster's name is the same, but its transactions are fewer."""
    with migrated_database.connect() as connection:
        _, cursor = read_changes(connection, None)
        for wrong in (replace(cursor, changed_in=2**62), replace(cursor, feed=uuid4())):
            with pytest.raises(CursorGoneError):
                read_changes(connection, wrong)


def test_reading_a_page_walks_the_index(migrated_database: Engine, account: str) -> None:
    """However long the table: a page costs a page."""
    with transaction(migrated_database) as connection:
        connection.execute(
            text(
                "INSERT INTO delivery_status (account_id, provider, granularity, provider_key, status, is_final,"
                " provider_status, changed_in)"
                " SELECT 'marka-sms', 'vairo', 'message', n::text, 'sent', true, 's', n + 10"
                " FROM generate_series(1, 20000) n"
            )
        )
    with transaction(migrated_database) as connection:
        connection.execute(text("ANALYZE delivery_status"))
        _, cursor = read_changes(connection, None, limit=1)
        from ulak.models import changes

        bounds = {"changed_in": 500, "id": 490, "limit": 100}
        plan = connection.execute(text("EXPLAIN (ANALYZE, FORMAT TEXT) " + changes._READ.text), bounds).scalars().all()
    assert not any("Seq Scan on delivery_status" in line for line in plan), "\n".join(plan)
    assert cursor.id > 0
