"""The statistics beside everything else: concurrent writers, migrations, a changed zone, and what is read of them."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from threading import Event

import pytest
from alembic import command
from counting import miscounted
from database_fixtures import add_account
from driving import make_runtime
from previous_history import previous_upsert
from sqlalchemy import Connection, Engine, text

from ulak.core import clock
from ulak.models import statistics_upkeep
from ulak.models.database import make_engine, retry_transaction, transaction
from ulak.models.deliveries import upsert
from ulak.models.erasure import erase
from ulak.models.rebuild import rebuild, remove_repetitions
from ulak.models.report import DeliveryReport
from ulak.models.schema import alembic_config, migrate
from ulak.models.statistics import By, Figures, count_days, count_hours, stored
from ulak.models.statistics_upkeep import fold, fold_some, recount, recount_rezoned
from ulak.models.vocabulary import Granularity, Reason, Source, Status
from ulak.tasks.steps.upkeep import every_minute

NOW = datetime.now(UTC).replace(microsecond=0)
PATIENCE_SECONDS = 120


def message(key: str, status: Status = Status.DELIVERED, **fields: object) -> DeliveryReport:
    """A message to a Turkish mobile number, sent an hour ago."""
    given = {
        "recipient": f"+90532{int(key) % 10**7:07}",
        "parent_key": f"order-{int(key) % 3}",
        "provider_status": status.value,
        "sent_at": NOW - timedelta(hours=1),
        "segments": 2,
        "credits": 0.5,
        "source": Source.POLL,
        **fields,
    }
    return DeliveryReport(granularity=Granularity.MESSAGE, provider_key=key, status=status, **given)  # type: ignore[arg-type]


def _write(random: Random, engine: Engine, account: str) -> None:
    """One of what writers do, in random ways."""
    keys = random.sample(range(40), 8)
    statuses = [Status.ENROUTE, Status.DELIVERED, Status.UNDELIVERABLE, Status.READ]
    batch = [
        message(str(key), random.choice(statuses), sent_at=random.choice([None, NOW - timedelta(hours=key)]))
        for key in keys
    ]
    if random.random() < 0.3:
        at = NOW - timedelta(hours=random.randrange(60))
        batch.append(
            DeliveryReport(
                granularity=Granularity.ORDER,
                provider_key=f"order-{random.randrange(3)}",
                status=Status.ENROUTE,
                provider_status="113",
                sent_at=at,
                source=Source.POLL,
            )
        )
    asked_at = NOW + timedelta(seconds=random.randrange(60))
    retry_transaction(engine, lambda connection: upsert(connection, account, "vairo", batch, asked_at=asked_at))


def _write_as_previous(random: Random, engine: Engine, account: str) -> None:
    """The same as a worker of the previous version writes it."""
    batch = [message(str(key), random.choice(list(Status))) for key in random.sample(range(60), 8)]
    retry_transaction(engine, lambda connection: previous_upsert(connection, account, batch, asked_at=NOW))


@contextmanager
def writers(
    engine: Engine, account: str, *, many: int = 4, write: Callable[[Random, Engine, str], None] = _write
) -> Iterator[None]:
    """Threads that write without a pause; none may fail."""
    over = Event()

    def run(seed: int) -> None:
        random = Random(seed)
        while not over.is_set():
            write(random, engine, account)

    with ThreadPoolExecutor(many) as pool:
        running = [pool.submit(run, seed) for seed in range(many)]
        try:
            yield
        finally:
            over.set()
        for each in running:
            each.result(timeout=PATIENCE_SECONDS)


def snapshot(engine: Engine, run: Callable[[Connection], object]) -> object:
    """What `run` reads in one snapshot."""
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        return run(connection)


def test_counts_are_exact_in_every_snapshot_beside_concurrent_writers(migrated_database: Engine) -> None:
    """While others write, erase, rebuild, correct and fold, twice at once."""
    engine = migrated_database
    with transaction(engine) as connection:
        account = add_account(connection)
    acts: list[Callable[[Connection], object]] = [
        fold_some,
        lambda connection: erase(connection, "+905320000007"),
        rebuild,
        recount,
    ]
    with writers(engine, account), ThreadPoolExecutor(2) as pool:
        for turn in range(24):
            pair = [pool.submit(retry_transaction, engine, acts[(turn + n) % len(acts)]) for n in (0, turn % 2)]
            assert snapshot(engine, miscounted) == {}
            for each in pair:
                each.result(timeout=PATIENCE_SECONDS)
    assert snapshot(engine, miscounted) == {}
    with transaction(engine) as connection:
        # Nobody needed the correction.
        assert recount(connection) == 0


def test_what_is_known_appends_nothing(migrated_database: Engine) -> None:
    """Neither known reports nor a change of what is not counted."""
    with transaction(migrated_database) as connection:
        account = add_account(connection)
        batch = [message(str(key)) for key in range(30)]
        upsert(connection, account, "vairo", batch, asked_at=NOW)
    query = text("SELECT count(*) FROM statistics_deltas")
    with transaction(migrated_database) as connection:
        before = connection.execute(query).scalar_one()
        upsert(connection, account, "vairo", batch, asked_at=NOW)
        connection.execute(text("UPDATE delivery_status SET client_ref = 'x', changed_at = now()"))
        assert (before, connection.execute(query).scalar_one()) == (1, 1)


def test_a_page_appends_a_line_for_each_kind_of_change(migrated_database: Engine) -> None:
    """However many messages it names."""
    query = text("SELECT messages, was_status, status FROM statistics_deltas")
    with transaction(migrated_database) as connection:
        account = add_account(connection)
        open_ = [message(str(key), Status.ENROUTE) for key in range(500)]
        upsert(connection, account, "vairo", open_, asked_at=NOW)
        final = [message(str(key), Status.UNDELIVERABLE if key < 100 else Status.SENT) for key in range(500)]
        upsert(connection, account, "vairo", final, asked_at=NOW)
        assert sorted(map(tuple, connection.execute(query)), key=str) == [
            (100, "enroute", "undeliverable"),
            (400, "enroute", "sent"),
            (500, None, "enroute"),
        ]
        assert fold_some(connection) == 3
        assert connection.execute(query).all() == []
        assert miscounted(connection) == {}


def test_a_migration_counts_what_was_stored_while_workers_write(fresh_database: str) -> None:
    """Workers of the version before write beside it and know nothing of the statistics."""
    engine = make_engine(fresh_database, pool_size=8)
    with transaction(engine) as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0022-1")
        account = add_account(connection)
        batch = [message(str(key), sent_at=NOW - timedelta(hours=key % 700)) for key in range(100, 3000)]
        previous_upsert(connection, account, batch, asked_at=NOW)
    with writers(engine, account, write=_write_as_previous):
        migrate(engine)
        assert snapshot(engine, miscounted) == {}
    assert snapshot(engine, miscounted) == {}
    fold(engine)
    assert snapshot(engine, miscounted) == {}
    engine.dispose()


def test_a_changed_zone_moves_the_counts_while_workers_write(migrated_database: Engine) -> None:
    """To the days of the new zone, those of writers too that still counted by the old one."""
    engine = migrated_database
    with transaction(engine) as connection:
        account = add_account(connection)
    with writers(engine, account):
        for zone in ("Pacific/Kiritimati", "America/Los_Angeles"):
            with transaction(engine) as connection:
                connection.execute(text("UPDATE accounts SET timezone = :zone"), {"zone": zone})
            recount_rezoned(engine, [account])
            assert snapshot(engine, miscounted) == {}


def test_a_changed_zone_waits_for_those_who_count_by_the_old_one(migrated_database: Engine) -> None:
    """What a transaction counted that began before the change and commits after it is moved, too."""
    engine = migrated_database
    # Of another day in the new zone, whatever hour it is now.
    morning = message("1", sent_at=(NOW - timedelta(days=1)).replace(hour=6))
    with transaction(engine) as connection:
        account = add_account(connection)
    with ThreadPoolExecutor(1) as pool, engine.connect() as early:
        early.begin()
        upsert(early, account, "vairo", [morning], asked_at=NOW)
        with transaction(engine) as connection:
            connection.execute(text("UPDATE accounts SET timezone = 'Pacific/Kiritimati'"))
            connection.execute(text("UPDATE accounts SET timezone = 'Pacific/Pago_Pago' WHERE now()::time < '12:00'"))
        moving = pool.submit(recount_rezoned, engine, [account])
        # Long enough for one that does not wait; no harm where it is not.
        clock.sleep(1.0)
        early.commit()
        assert moving.result(timeout=PATIENCE_SECONDS) == 2
    assert snapshot(engine, miscounted) == {}


def test_two_corrections_at_once_correct_once(migrated_database: Engine) -> None:
    """The second waits for the first and finds nothing."""
    engine = migrated_database
    with transaction(engine) as connection:
        account = add_account(connection)
        upsert(connection, account, "vairo", [message("1")], asked_at=NOW)
        connection.execute(text("DELETE FROM statistics_deltas"))
    with ThreadPoolExecutor(1) as pool, engine.connect() as first:
        assert recount(first) == 1
        second = pool.submit(retry_transaction, engine, recount)
        clock.sleep(0.5)
        first.commit()
        assert second.result(timeout=PATIENCE_SECONDS) == 0
    assert snapshot(engine, miscounted) == {}


def test_upkeep_folds_by_the_minute(migrated_database: Engine) -> None:
    """All that has been appended, whatever else it does."""
    with transaction(migrated_database) as connection:
        account = add_account(connection)
        upsert(connection, account, "vairo", [message("1"), message("2")], asked_at=NOW)
    every_minute(make_runtime(migrated_database))
    with transaction(migrated_database) as connection:
        assert connection.execute(text("SELECT count(*) FROM statistics_deltas")).scalar_one() == 0
        assert connection.execute(text("SELECT sum(messages) FROM statistics_days")).scalar_one() == 2
        assert miscounted(connection) == {}


def test_changed_triggers_need_a_migration() -> None:
    """Only a fresh database would have them otherwise. The newest migration that makes them names what it makes."""
    versions = sorted((Path(statistics_upkeep.__file__).parent / "migrations" / "versions").glob("*.py"))
    sources = [path.read_text(encoding="utf-8") for path in versions]
    named = [found[1] for source in sources if (found := re.search(r'^TRIGGERS = "(\w+)"', source, re.MULTILINE))]
    assert named[-1] == statistics_upkeep.fingerprint()
    assert sum("create_triggers(op" in source for source in sources) == 1


# ------------------------------------------------------------------------------------------------------------ erasures


def figures(connection: Connection, **arguments: object) -> list[tuple[object, Figures]]:
    """All days, by status."""
    found = count_days(connection, date(2000, 1, 1), date(2100, 1, 1), by=[By.STATUS], **arguments)  # type: ignore[arg-type]
    return [(each.status, each.figures) for each in found]


def test_an_erasure_leaves_past_figures_and_is_recorded(migrated_database: Engine) -> None:
    """What is stored now is the difference."""
    with transaction(migrated_database) as connection:
        account = add_account(connection)
        upsert(connection, account, "vairo", [message("1"), message("2", Status.READ)], asked_at=NOW)
        before = figures(connection)
        erase(connection, "+905320000001")
        assert figures(connection) == before
        assert [(each.status, each.rows) for each in stored(connection)] == [("read", 1)]
        while fold_some(connection):
            pass
        assert figures(connection) == before
        assert [(each.status, each.rows) for each in stored(connection)] == [("read", 1)]
        assert miscounted(connection) == {}


def test_a_withdrawn_repetition_is_not_counted(migrated_database: Engine) -> None:
    """It was never a message, and the next response brings back what is one."""
    with transaction(migrated_database) as connection:
        account = add_account(connection)
        order = DeliveryReport(
            granularity=Granularity.ORDER,
            provider_key="7",
            status=Status.DELIVERED,
            provider_status="114",
            total=1,
            source=Source.POLL,
        )
        batch = [message(key, parent_key="7") for key in ("1", "2")]
        upsert(connection, account, "iletimerkezi", [order, *batch], asked_at=NOW)
        assert remove_repetitions(connection, account, "7", lambda key: key == "2") == 1
        assert [(status, each.messages) for status, each in figures(connection)] == [("delivered", 1)]
        erase(connection, "+905320000001")
        assert [(status, each.messages) for status, each in figures(connection)] == [("delivered", 1)]
        assert miscounted(connection) == {}


# ------------------------------------------------------------------------------------------------------------- reading


def test_hours_become_days_after_two_weeks(migrated_database: Engine) -> None:
    """By a fold, whether they were appended before or after; no figure of a day changes."""
    old, young = NOW - timedelta(days=16), NOW - timedelta(days=3)
    with transaction(migrated_database) as connection:
        account = add_account(connection)
        batch = [message(str(n), sent_at=(old, young)[n % 2]) for n in range(8)]
        upsert(connection, account, "vairo", batch, asked_at=NOW)
        before = figures(connection)
        fold_some(connection)
        hours = text("SELECT hour IS NOT NULL, sum(messages) FROM statistics_days GROUP BY 1 ORDER BY 1")
        assert connection.execute(hours).all() == [(False, 4), (True, 4)]
        assert figures(connection) == before
        [found] = count_hours(connection, young, young + timedelta(hours=1), by=[By.HOUR])
        assert (found.hour, found.figures.messages) == (young.replace(minute=0, second=0), 4)
        connection.execute(text("UPDATE statistics_days SET hour = hour - interval '13 days' WHERE hour IS NOT NULL"))
        fold_some(connection)
        assert connection.execute(hours).all() == [(False, 8)]
        assert figures(connection) == before


def test_counts_are_grouped_by_what_is_asked(migrated_database: Engine) -> None:
    """Local days, reasons, number ranges, accounts; orders apart."""
    midnight = datetime(2026, 5, 1, 21, tzinfo=UTC)
    with transaction(migrated_database) as connection:
        account, other = add_account(connection, "marka-sms"), add_account(connection, "bildirim")
        connection.execute(text("UPDATE accounts SET timezone = 'Europe/Istanbul' WHERE id = 'marka-sms'"))
        batch = [
            message("1", sent_at=midnight, done_at=midnight + timedelta(seconds=4)),
            message("2", Status.UNDELIVERABLE, reason=Reason.ABSENT, sent_at=midnight - timedelta(seconds=1)),
            message("3", Status.ENROUTE, recipient="+493012345678", sent_at=midnight, credits=None),
        ]
        upsert(connection, account, "vairo", batch, asked_at=NOW)
        upsert(connection, other, "bip", [message("9", recipient="hash", sent_at=midnight)], asked_at=NOW)
        first = date(2026, 5, 1)

        def count(*by: By, accounts: list[str] | None = None) -> list[tuple[object, ...]]:
            groups = count_days(connection, first, first + timedelta(days=2), by=by, accounts=accounts)
            return [
                (*(getattr(each, "account_id" if one is By.ACCOUNT else one) for one in by), each.figures.messages)
                for each in groups
            ]

        assert count(By.ACCOUNT) == [("bildirim", 1), ("marka-sms", 3)]
        assert count(By.DAY, accounts=[account]) == [(first, 1), (date(2026, 5, 2), 2)]
        assert count(By.DAY, accounts=[other]) == [(first, 1)]
        assert count(By.REASON) == [("absent", 1), (None, 3)]
        assert count(By.NUMBER_RANGE) == [("+49", 1), ("+90532", 2), (None, 1)]
        assert count(accounts=[]) == [(0,)]
        [all_] = count_days(connection, first, date(2026, 5, 3), accounts=[account])
        found = all_.figures
        assert (found.messages, found.delivered, found.failed, found.pending) == (3, 1, 1, 1)
        assert (found.segments, found.credits, found.delivery_rate, found.timed) == (6, Decimal("1.0"), 0.5, 1)
        assert found.mean_seconds == 4.0
        [none] = count_days(connection, first, first)
        assert none.figures == Figures()


def test_quantiles_lie_within_their_bounds() -> None:
    """Of 10 messages: 5 within 2 seconds, 4 within 15, 1 later than all bounds."""
    within = [0] * 16
    within[1], within[4], within[15] = 5, 4, 1
    found = Figures(messages=10, delivered=10, milliseconds=20_000, within=tuple(within))
    assert [found.quantile_seconds(part) for part in (0.1, 0.5, 0.9, 1.0)] == [1.2, 2.0, 15.0, 86400.0]
    assert found.mean_seconds == 2.0
    assert (found + found).quantile_seconds(0.5) == 2.0
    assert Figures().quantile_seconds(0.5) is None


@pytest.mark.parametrize(
    ("recipient", "expected"),
    [
        ("+905321234567", "+90532"),
        ("+902121234567", "+90"),
        ("+12025550100", "+1"),
        ("+79161234567", "+7"),
        ("+35512345678", "+355"),
        ("+493012345678", "+49"),
        ("+2012345678", "+20"),
        ("+21312345678", "+213"),
        ("+99412345678", "+994"),
        ("h90532-abcdefghijklmnopabcdefghijklmnop", "+90532"),
        ("h90212-abcdefghijklmnopabcdefghijklmnop", "+90"),
        ("h-abcdefghijklmnopabcdefghijklmnop", None),
        ("905321234567", None),
        ("+", None),
        ("user", None),
        (None, None),
    ],
)
def test_the_range_of_a_number(shared_database: Engine, recipient: str | None, expected: str | None) -> None:
    """The operator's code of a Turkish mobile number, otherwise the country's."""
    with shared_database.connect() as connection:
        query = text("SELECT number_range(CAST(:recipient AS text))")
        assert connection.execute(query, {"recipient": recipient}).scalar_one() == expected


def test_every_number_begins_with_exactly_one_country_code(shared_database: Engine) -> None:
    """The codes of the ITU's plan: none begins another, and every number that does not begin with 0 has one."""
    with shared_database.connect() as connection:
        query = text("SELECT number_range('+' || n) FROM generate_series(100, 999) AS n")
        found = [
            (number, code) for number, code in zip(range(100, 1000), connection.execute(query).scalars(), strict=True)
        ]
    codes = {code for _, code in found}
    assert None not in codes
    assert all(f"+{number}".startswith(code) for number, code in found)
    assert {len(code) for code in codes} == {2, 3, 4}
    assert {code for code in codes if len(code) == 2} == {"+1", "+7"}
    assert not any(one != other and other.startswith(one) for one in codes for other in codes)
