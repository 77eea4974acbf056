"""Searches give exactly what matches, page by page, and read no more than an index leads to or a bounded part."""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from database_fixtures import add_account
from sqlalchemy import Engine, event, text

from ulak.models import searches
from ulak.models.database import transaction
from ulak.models.deliveries import upsert
from ulak.models.metric_queries import read_deliveries
from ulak.models.overview import overview
from ulak.models.report import DeliveryReport, NewId
from ulak.models.searches import Identifier, Page, find_deliveries, find_tracked, look_up, open_tracked, waiting_for
from ulak.models.statistics import By, count_days
from ulak.models.statistics_upkeep import fold
from ulak.models.summary import summarise
from ulak.models.tracked import open_by, register
from ulak.models.vocabulary import Granularity, Status

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NUMBERS = ("+905301234567", "+905301234568", "+905301234569")
PART = 7
"""Rows that a page may read in the tests of what it gives."""


@pytest.fixture
def filled(migrated_database: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Sixty deliveries of two accounts, alike in every way that a filter tells; pages that read seven rows."""
    monkeypatch.setattr(searches, "SCANNED_ROWS", PART)
    monkeypatch.setattr(searches, "SCANNED_OF_STATUS", PART)
    chance = random.Random(3)
    with transaction(migrated_database) as connection:
        for account in ("bir", "iki"):
            add_account(connection, account)
            reports = [
                DeliveryReport(
                    granularity=chance.choice((Granularity.MESSAGE, Granularity.ORDER)),
                    provider_key=f"k{number % 20}",
                    parent_key=chance.choice(("p1", "p2", None)),
                    client_ref=chance.choice(("r1", "r2", None)),
                    recipient=chance.choice((*NUMBERS, None)),
                    status=chance.choice((Status.DELIVERED, Status.ENROUTE)),
                    provider_status="x",
                )
                for number in range(30)
            ]
            upsert(connection, account, "vairo", reports, asked_at=NOON)
        spread = "UPDATE delivery_status SET changed_at = CAST(:noon AS timestamptz) + (id % 5) * interval '1 hour'"
        connection.execute(text(spread), {"noon": NOON})
        ids = [
            NewId(
                id_kind=chance.choice(("number", "order")), value=f"v{number}",
                client_ref=chance.choice(("r1", None)), recipient=chance.choice((*NUMBERS, None)),
                sent_at=NOON, valid_until=NOON, next_check_at=NOON,
                close_reason=chance.choice(("reference", None)),
            )
            for number in range(40)
        ]  # fmt: skip
        register(connection, "bir", ids)
    return migrated_database


def combinations(filters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every way to give some of the filters."""
    for given in product((False, True), repeat=len(filters)):
        yield {name: value for (name, value), is_given in zip(filters.items(), given, strict=True) if is_given}


DELIVERIES: Mapping[str, Any] = {
    "account": "bir", "status": "delivered", "granularity": "message", "recipient": NUMBERS[0], "client_ref": "r1",
    "provider_key": "k3", "parent_key": "p1", "since": NOON + timedelta(hours=1), "until": NOON + timedelta(hours=4),
}  # fmt: skip
TRACKED: Mapping[str, Any] = {
    "account": "bir", "kind": "order", "value": "v3", "recipient": NUMBERS[0], "client_ref": "r1", "is_open": True
}  # fmt: skip
COLUMN = {"account": "account_id", "kind": "id_kind"}
UNUSUAL: Mapping[str, Callable[[Any, Any], bool]] = {
    "since": lambda row, value: row["changed_at"] >= value,
    "until": lambda row, value: row["changed_at"] < value,
    "is_open": lambda row, value: (row["closed_at"] is None) is value,
}


def matches(row: Any, given: Mapping[str, Any]) -> bool:
    """Whether a row meets all that is given."""
    return all(
        UNUSUAL[name](row, value) if name in UNUSUAL else row[COLUMN.get(name, name)] == value
        for name, value in given.items()
    )


def all_pages(find: Callable[..., Page], connection: Any, given: Mapping[str, Any], limit: int) -> list[int]:
    """The ids of all pages, one after the other."""
    found: list[int] = []
    after: int | None = 0
    while after is not None:
        page = find(connection, **given, limit=limit, after_id=after)
        assert len(page.rows) <= limit
        assert page.next_after is None or page.next_after > after
        found += [row["id"] for row in page.rows]
        after = page.next_after
    return found


@pytest.mark.parametrize(("find", "table", "filters"), [
    (find_deliveries, "delivery_status", DELIVERIES),
    (find_deliveries, "delivery_status", {**DELIVERIES, "status": "enroute"}), (find_tracked, "tracked_ids", TRACKED),
], ids=["deliveries", "deliveries of an unusual status", "tracked ids"])  # fmt: skip
def test_every_combination_of_filters_gives_what_matches_once_and_in_order(
    filled: Engine, find: Callable[..., Page], table: str, filters: Mapping[str, Any]
) -> None:
    """Over all pages, whatever their size; a page that found nothing leads to the next."""
    with filled.connect() as connection:
        rows = connection.execute(text(f"SELECT * FROM {table} ORDER BY id")).mappings().all()
        assert len(rows) > 5 * PART
        for number, given in enumerate(combinations(filters)):
            right = [row["id"] for row in rows if matches(row, given)]
            assert all_pages(find, connection, given, 1 + number % 9) == right, given


def test_a_look_up_gives_each_identifier_its_newest_deliveries(filled: Engine) -> None:
    """In the order of the question, at most so many of each, of one account where it is named."""
    with filled.connect() as connection:
        rows = connection.execute(text("SELECT * FROM delivery_status ORDER BY id DESC")).mappings().all()

        def right(column: str, value: str, account: str | None = None) -> list[int]:
            return [row["id"] for row in rows if row[column] == value and account in {None, row["account_id"]}]

        for by, words in (
            (Identifier.CLIENT_REF, ["r2", "none", "r1"]),
            (Identifier.PROVIDER_KEY, ["k3", "k3", "k19"]),
            (Identifier.RECIPIENT, [NUMBERS[1], NUMBERS[0]]),
        ):
            for account in (None, "iki"):
                found = look_up(connection, by, [[word] for word in words], accounts=account and [account], most=5)
                ids = [[row["id"] for row in each] for each in found]
                assert ids == [right(by.value, word, account)[:5] for word in words]
        spelled = look_up(connection, Identifier.RECIPIENT, [[NUMBERS[0], "x", NUMBERS[0][1:]]], most=100)
        assert [row["id"] for row in spelled[0]] == right("recipient", NUMBERS[0])


# ---------------------------------------------------------------------------------------------- what it reads
ROWS = 30_000
READ = 400
FILL = """
    INSERT INTO delivery_status (account_id, provider, granularity, provider_key, parent_key, client_ref, recipient,
        status, is_final, provider_status, first_seen_at, changed_at, message_time, message_time_source)
    SELECT CASE WHEN n % 2 = 0 THEN 'bir' ELSE 'iki' END, 'vairo', 'message', 'k' || n, 'p' || n / 4, 'r' || n / 2,
        '+90530' || n / 2, CASE WHEN n = 29990 THEN 'rejected' ELSE 'delivered' END, true, 'x',
        now(), now() - (30000 - n) * interval '1 minute', now() - (30000 - n) * interval '1 minute', 'own'
    FROM generate_series(1, 30000) n;
    INSERT INTO tracked_ids (account_id, id_kind, value, client_ref, recipient, origin, sent_at, valid_until, closed_at,
        close_reason)
    SELECT 'bir', 'number', 'v' || n, 'r' || n / 2, '+90530' || n / 2, 'sender', now(), now(), now(), 'final'
    FROM generate_series(1, 30000) n;
    ANALYZE
"""


@pytest.fixture
def large(migrated_database: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Thirty thousand rows; a page may read a hundred where it has no index."""
    monkeypatch.setattr(searches, "SCANNED_ROWS", 100)
    monkeypatch.setattr(searches, "SCANNED_OF_STATUS", 100)
    with transaction(migrated_database) as connection:
        for account in ("bir", "iki"):
            add_account(connection, account)
        for statement in FILL.split(";"):
            connection.execute(text(statement))
    fold(migrated_database)
    return migrated_database


class Reading:
    """How many rows the statements of a connection read, by their plans as they are carried out."""

    def __init__(self, engine: Engine) -> None:
        """Every statement is explained after it was made."""
        self._engine = engine
        self.statements: list[tuple[str, Any]] = []

    def note(self, _: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        """Keep a statement."""
        self.statements.append((statement, parameters))

    def rows(self) -> int:
        """Of all statements since the last look."""
        asked, self.statements = self.statements, []
        with self._engine.connect() as connection:
            plans = [
                connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters).scalar_one()
                for statement, parameters in asked
            ]
        self.statements = []
        return sum(
            read_by(plan[0]["Plan"] if isinstance(plan, list) else json.loads(plan)[0]["Plan"]) for plan in plans
        )


def read_by(node: Mapping[str, Any]) -> int:
    """Rows of tables that a plan and its parts have read, thrown away or not."""
    removed = sum(value for name, value in node.items() if name.startswith("Rows Removed by"))
    own = (node["Actual Rows"] + removed) * node["Actual Loops"] if "Relation Name" in node else 0
    return int(own) + sum(read_by(part) for part in node.get("Plans", ()))


@pytest.fixture
def reading(large: Engine) -> Iterator[Reading]:
    """What is read on the large tables."""
    noted = Reading(large)
    event.listen(large, "before_cursor_execute", noted.note)
    yield noted
    event.remove(large, "before_cursor_execute", noted.note)


def test_no_combination_of_filters_reads_a_table(large: Engine, reading: Reading) -> None:
    """Each page reads what an index leads to, or its part; also one that finds nothing."""
    since = datetime.now(UTC) - timedelta(days=1)
    deliveries = {
        **DELIVERIES,
        "recipient": ["+90530100", "90530100"], "client_ref": "r100", "provider_key": "k200", "parent_key": "p50",
        "status": "rejected", "since": since, "until": since + timedelta(hours=1),
    }  # fmt: skip
    tracked = {**TRACKED, "value": "v200", "recipient": "+90530100", "client_ref": "r100", "kind": "number"}
    asked: Sequence[tuple[Callable[..., Page], Mapping[str, Any]]] = (
        (find_deliveries, deliveries), (find_tracked, tracked),
    )  # fmt: skip
    for find, filters in asked:
        for given in combinations(filters):
            for after in (0, ROWS // 2):
                with large.connect() as connection:
                    find(connection, **given, limit=50, after_id=after)
                assert reading.rows() <= READ, (find, given)


def test_a_rare_status_is_found_by_the_first_page(large: Engine) -> None:
    """However many rows are before and behind it, and with a plan that was made without knowing the status."""
    count = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'delivery_status'"
    with transaction(large) as connection:
        connection.execute(text("SET LOCAL plan_cache_mode = force_generic_plan"))
        page = find_deliveries(connection, status="rejected", limit=50)
        none = find_deliveries(connection, status="expired", limit=50)
        read = connection.execute(text(count)).scalar_one()
    assert ([row["provider_key"] for row in page.rows], page.next_after) == (["k29990"], None)
    assert (none.rows, none.next_after) == ([], None)
    assert read <= 10


def test_no_look_up_and_no_summary_reads_a_table(large: Engine, reading: Reading) -> None:
    """As many rows as there are about what is asked, or in the period."""
    words = {Identifier.CLIENT_REF: "r{}", Identifier.PROVIDER_KEY: "k{}", Identifier.RECIPIENT: "+90530{}"}
    for by, word in words.items():
        asked = [[word.format(number), f"none{number}"] for number in range(100, 200)]
        with large.connect() as connection:
            assert all(look_up(connection, by, asked, most=5))
            waiting_for(connection, by, asked)
        # Each names up to two rows; both a look-up and what is still open read them more than once.
        assert reading.rows() <= 2500, by
    with large.connect() as connection:
        open_tracked(connection, client_ref="r100")
        now = datetime.now(UTC)
        found = summarise(connection, now - timedelta(hours=2), now)
    assert sum(each.total for each in found.values()) in {119, 120, 121}
    assert reading.rows() <= READ


def test_no_figure_counts_the_table(large: Engine, reading: Reading) -> None:
    """Neither accounts and metrics nor statistics read more than there are groups."""
    with large.connect() as connection:
        shown = overview(connection)
        assert [each.final_deliveries for each in shown] == [ROWS // 2, ROWS // 2]
        told = [each.value for each in read_deliveries(connection) if each.figure == "deliveries"]
        assert sum(told) == ROWS
        day = datetime.now(UTC).date() - timedelta(days=2)
        [counted] = count_days(connection, day, day + timedelta(days=1))
        assert counted.figures.delivered == 24 * 60
        assert len(count_days(connection, day, day + timedelta(days=1), by=list(By))) == 48
    assert reading.rows() <= READ


def test_the_open_ids_of_a_name_are_found_in_their_indexes(large: Engine, reading: Reading) -> None:
    """By value, reference and number, however many others are open."""
    with transaction(large) as connection:
        opened = "UPDATE tracked_ids SET closed_at = NULL, close_reason = NULL, next_check_at = now()"
        connection.execute(text(opened))
        connection.execute(text("ANALYZE tracked_ids"))
    reading.statements.clear()
    with large.connect() as connection:
        found = open_by(connection, "v200", kinds=["number"], values=["v200"], recipients=["+9053050"])
        found = [*found, *open_by(connection, "r50", kinds=["number"], values=["r50"], recipients=[])]
    assert sorted(each.value for each in found) == ["v100", "v100", "v101", "v101", "v200"]
    assert reading.rows() <= READ
