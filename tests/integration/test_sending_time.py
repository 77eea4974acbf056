"""`message_time` in the table: orders that come late, rows of the previous version, and rows of before the column."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from database_fixtures import add_account
from sqlalchemy import Connection, Engine, text

from ulak.models.database import transaction
from ulak.models.deliveries import UpsertResult, upsert
from ulak.models.rebuild import rebuild
from ulak.models.report import DeliveryReport
from ulak.models.sending_time import FILL_ROWS, fill_missing
from ulak.models.vocabulary import Granularity, Status

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)


@pytest.fixture(autouse=True)
def _account(migrated_database: Engine) -> None:
    with transaction(migrated_database) as connection:
        add_account(connection, "brand")


def message(key: str, status: Status = Status.ENROUTE, **more: Any) -> DeliveryReport:
    """A message of the order `o`."""
    fields = {"parent_key": "o", **more}
    return DeliveryReport(
        granularity=Granularity.MESSAGE, provider_key=key, status=status, provider_status=str(status), **fields
    )


def order(sent_at: datetime | None, **more: Any) -> DeliveryReport:
    """The order `o`."""
    return DeliveryReport(
        granularity=Granularity.ORDER,
        provider_key="o",
        status=Status.ENROUTE,
        provider_status="113",
        sent_at=sent_at,
        **more,
    )


def conversation(code: str, **more: Any) -> DeliveryReport:
    """A conversation of the day of `NOON`; the same report after that day ends it."""
    return DeliveryReport(
        granularity=Granularity.CONVERSATION,
        provider_key="c",
        status=Status.ENROUTE,
        provider_status=code,
        day=NOON.date(),
        **more,
    )


def write(connection: Connection, *reports: DeliveryReport) -> UpsertResult:
    """Write them as the response to one poll."""
    return upsert(connection, "brand", "vairo", reports, asked_at=NOON)


def times(connection: Connection) -> dict[str, tuple[datetime | None, str | None]]:
    """Time and source of every row, by its key."""
    rows = connection.execute(text("SELECT provider_key, message_time, message_time_source FROM delivery_status"))
    return {key: (at, source) for key, at, source in rows}


def test_open_messages_get_the_time_of_their_order_in_the_transaction_that_stores_it(migrated_database: Engine) -> None:
    """Final ones keep theirs, those with a time of their own too; each that moves is fed as a change."""
    with transaction(migrated_database) as connection:
        write(
            connection,
            message("open"),
            message("own", sent_at=LATER),
            message("final", Status.DELIVERED),
            message("elsewhere", parent_key="p"),
            order(None),
        )
        first = {key: at for key, (at, source) in times(connection).items() if source == "first_seen"}
        assert first.keys() == {"open", "final", "elsewhere", "o"}
    with transaction(migrated_database) as connection:
        before = connection.execute(text("SELECT pg_current_xact_id()::text::bigint")).scalar_one()
        result = write(connection, order(NOON))
        assert times(connection) == {
            "open": (NOON, "order"),
            "own": (LATER, "own"),
            "final": (first["final"], "first_seen"),
            "elsewhere": (first["elsewhere"], "first_seen"),
            "o": (NOON, "own"),
        }
        fed = connection.execute(text(f"SELECT provider_key FROM delivery_status WHERE changed_in = {before}"))
        assert set(fed.scalars()) == {"open", "o"}
        # Counted are the deliveries of the batch.
        assert (result.new, result.advanced, result.unchanged) == (0, 1, 0)


@pytest.mark.parametrize("known", [True, False], ids=["order-known", "order-new"])
def test_messages_and_the_time_of_their_order_may_come_in_one_response(migrated_database: Engine, known: bool) -> None:
    """Even for messages that are final at first sight or become final by it, whatever the row ids."""
    with transaction(migrated_database) as connection:
        write(connection, message("becomes-final"), *([order(None)] if known else []))
    with transaction(migrated_database) as connection:
        write(connection, message("new", Status.DELIVERED), message("becomes-final", Status.DELIVERED), order(NOON))
    with transaction(migrated_database) as connection:
        assert times(connection) == {"new": (NOON, "order"), "becomes-final": (NOON, "order"), "o": (NOON, "own")}
    with transaction(migrated_database) as connection:
        write(connection, order(LATER, delivered=2), message("new", Status.READ, sent_at=LATER))
    with transaction(migrated_database) as connection:
        found = times(connection)
        assert found["new"] == found["becomes-final"] == (NOON, "order")


def test_a_row_that_is_opened_again_follows_the_reports_again(migrated_database: Engine) -> None:
    """Until it is final once more; a rebuild finds it as it is."""
    row = text("SELECT is_final, message_time, message_time_source FROM delivery_status")
    with transaction(migrated_database) as connection:
        write(connection, *(conversation("3", as_of=NOON + timedelta(days=days)) for days in (0, 9)))
        assert connection.execute(row).one()[::2] == (True, "first_seen")
    with transaction(migrated_database) as connection:
        write(connection, conversation("4", as_of=NOON + timedelta(days=10), sent_at=NOON))
        assert tuple(connection.execute(row).one()) == (False, NOON, "own")
        assert rebuild(connection, "brand").differed == 0


# What a worker of the previous version runs, reduced to the columns that it must give.
OLD_INSERT = text("""
    INSERT INTO delivery_status (account_id, provider, granularity, provider_key, status, is_final, provider_status,
      parent_key, sent_at)
    VALUES ('brand', 'vairo', 'message', :key, 'enroute', false, 'x', :parent, :sent_at)
""")
OLD_UPDATE = text("""
    UPDATE delivery_status SET (status, is_final, provider_status, parent_key, sent_at)
      = ROW ('delivered', true, 'x', parent_key, CAST(:sent_at AS timestamptz)) WHERE provider_key = :key
""")


def test_a_row_that_the_previous_version_inserts_or_moves_has_a_time(migrated_database: Engine) -> None:
    """Its workers run beside new ones for a while and know nothing of the column."""
    with transaction(migrated_database) as connection:
        write(connection, order(NOON))
        for key, parent, sent_at in (("own", "o", LATER), ("ordered", "o", None), ("alone", None, None)):
            connection.execute(OLD_INSERT, {"key": key, "parent": parent, "sent_at": sent_at})
        first = connection.execute(text("SELECT now()")).scalar_one()
        assert times(connection) == {
            "o": (NOON, "own"),
            "own": (LATER, "own"),
            "ordered": (NOON, "order"),
            "alone": (first, "first_seen"),
        }
    with transaction(migrated_database) as connection:
        connection.execute(OLD_UPDATE, {"key": "alone", "sent_at": LATER})
        assert times(connection)["alone"] == (LATER, "own")
    with transaction(migrated_database) as connection:
        # Final by now, so fixed, whoever writes.
        connection.execute(OLD_UPDATE, {"key": "alone", "sent_at": NOON})
        assert times(connection)["alone"] == (LATER, "own")


def test_the_trigger_for_the_previous_version_never_fires_for_this_one(migrated_database: Engine) -> None:
    """It costs what is written now nothing but its condition."""
    with transaction(migrated_database) as connection:
        connection.execute(
            text(
                "CREATE OR REPLACE FUNCTION set_message_time() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN RAISE 'fired'; END $$"
            )
        )
    steps = (
        (message("a"), message("b", sent_at=NOON), order(None)),
        (message("a", sent_at=LATER), message("b", Status.DELIVERED, sent_at=LATER)),
        (message("c"), order(NOON)),
        (order(LATER, delivered=1), message("c", Status.DELIVERED)),
        (message("c", Status.READ, sent_at=NOON),),
    )
    for reports in steps:
        with transaction(migrated_database) as connection:
            write(connection, *reports)
    with transaction(migrated_database) as connection, pytest.raises(Exception, match="fired"):
        connection.execute(OLD_INSERT, {"key": "d", "parent": "o", "sent_at": None})


def test_upkeep_fills_the_times_of_rows_of_before_the_column(migrated_database: Engine) -> None:
    """In chunks, without feeding them as changes, and without waiting for a row that somebody holds."""
    many = 2 * FILL_ROWS + 2
    with transaction(migrated_database) as connection:
        write(connection, order(NOON), *(message(str(n)) for n in range(many)))
        connection.execute(text("UPDATE delivery_status SET message_time = NULL, message_time_source = NULL"))
    with transaction(migrated_database) as connection:
        fed = connection.execute(text("SELECT max(changed_in) FROM delivery_status")).scalar_one()
        held = connection.execute(text("SELECT id FROM delivery_status WHERE provider_key = '0' FOR UPDATE"))
        assert held.scalar_one()
        assert fill_missing(migrated_database, chunks=1) == FILL_ROWS
        assert fill_missing(migrated_database, chunks=9) == many - FILL_ROWS - 1
    assert fill_missing(migrated_database, chunks=9) == 1
    assert fill_missing(migrated_database, chunks=9) == 0
    with transaction(migrated_database) as connection:
        assert times(connection) == {"o": (NOON, "own")} | {str(n): (NOON, "order") for n in range(many)}
        assert connection.execute(text("SELECT max(changed_in) FROM delivery_status")).scalar_one() == fed


def test_an_order_dates_its_messages_though_another_transaction_was_first_with_one(migrated_database: Engine) -> None:
    """The batch is looked up again for that one message; the order that it inserted before still counts."""
    with transaction(migrated_database) as connection:
        write(connection, message("stored"))
    with ThreadPoolExecutor(1) as pool:
        with transaction(migrated_database) as first:
            write(first, message("both"))

            def second() -> None:
                with transaction(migrated_database) as connection:
                    write(connection, message("both", Status.DELIVERED), order(NOON))

            writing = pool.submit(second)
            waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted"
            end = time.monotonic() + 60
            while first.execute(text(waits)).scalar_one() == 0:
                assert time.monotonic() < end, "nobody waits for the message"
                time.sleep(0.02)
        writing.result(60)
    with transaction(migrated_database) as connection:
        assert times(connection) == {"stored": (NOON, "order"), "both": (NOON, "order"), "o": (NOON, "own")}
