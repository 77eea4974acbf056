"""What readers see in SQL: comments, views, the six queries of the page, and a role that may do nothing else."""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from command_line import Ulak, ulak
from database_fixtures import add_account
from sqlalchemy import Engine, text

from ulak.models import handbook
from ulak.models.database import transaction
from ulak.models.deliveries import upsert
from ulak.models.example_queries import QUERIES
from ulak.models.meanings import COLUMNS, GRANULARITIES, OUTCOMES, REASONS, SOURCES, STATUSES, TIME_SOURCES
from ulak.models.reader_roles import READABLE
from ulak.models.report import DeliveryReport
from ulak.models.statistics_upkeep import fold_some
from ulak.models.tables import delivery_status
from ulak.models.views import VIEW_SQL, comments, fingerprint
from ulak.models.vocabulary import Granularity, Reason, Source, Status

__all__ = ["ulak"]

NOW = datetime.now(UTC).replace(microsecond=0)
BEFORE = NOW - timedelta(hours=30)


def test_every_column_and_word_has_one_meaning() -> None:
    """None is missing, none is left over, each is a sentence."""
    assert set(COLUMNS) == set(delivery_status.c.keys())
    assert (set(STATUSES), set(REASONS), set(GRANULARITIES), set(SOURCES)) == tuple(
        map(set, (Status, Reason, Granularity, Source))
    )
    meanings = [*COLUMNS.values(), *comments().values()]
    for words in (STATUSES, REASONS, GRANULARITIES, SOURCES, OUTCOMES, TIME_SOURCES):
        meanings += words.values()
    assert [text for text in meanings if not re.fullmatch(r"[A-Z'a-z_].*\.", text)] == []


def test_the_comments_of_the_database_are_the_definitions_of_the_code(migrated_database: Engine) -> None:
    """A text that was changed without a migration is noticed, and so is a column of a view without one."""
    query = """
        SELECT c.relname, a.attname, col_description(c.oid, a.attnum) FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE c.relname = ANY(:relations)
        UNION ALL SELECT relname, NULL, obj_description(oid, 'pg_class') FROM pg_class WHERE relname = ANY(:relations)
    """
    with migrated_database.connect() as connection:
        rows = connection.execute(text(query), {"relations": list(READABLE)}).all()
    assert {(relation, column): comment for relation, column, comment in rows} == comments()


def test_changed_views_and_comments_need_a_migration() -> None:
    """Only a fresh database would have them otherwise. The newest migration that makes them names what it makes."""
    versions = sorted((handbook.ROOT / "models" / "migrations" / "versions").glob("*.py"))
    sources = [path.read_text(encoding="utf-8") for path in versions]
    named = [
        found[1] for source in sources if (found := re.search(r'^VIEWS_AND_COMMENTS = "(\w+)"', source, re.MULTILINE))
    ]
    assert named[-1] == fingerprint()
    assert sum("write_comments(op" in source for source in sources) == 1
    assert sum("create_views(op" in source for source in sources) == 1


def test_the_page_and_the_dbt_file_are_what_the_handbook_writes() -> None:
    """Otherwise: `python -m ulak.models.handbook`."""
    assert handbook.PAGE.read_text(encoding="utf-8") == handbook.page()
    assert handbook.DBT.read_text(encoding="utf-8") == handbook.dbt()


# ------------------------------------------------------------------------------------------------ views and queries


def said(granularity: Granularity, key: str, status: Status, **fields: Any) -> DeliveryReport:
    """One report."""
    values = {"provider_status": status.value} | fields
    return DeliveryReport(granularity=granularity, provider_key=key, status=status, **values)


def message(key: str, status: Status, **fields: Any) -> DeliveryReport:
    """A report about a message."""
    return said(Granularity.MESSAGE, key, status, **fields)


@pytest.fixture
def filled(migrated_database: Engine) -> Engine:
    """Two accounts: one whose messages have the time of their order alone, one with times of its own."""
    late = datetime.combine(BEFORE.date(), datetime.min.time(), UTC) + timedelta(hours=22)
    with transaction(migrated_database) as connection:
        add_account(connection, "shop", provider="iletimerkezi")
        add_account(connection, "alarm", provider="organik")
        connection.execute(text("UPDATE accounts SET timezone = 'Europe/Istanbul' WHERE id = 'shop'"))
        upsert(
            connection,
            "shop",
            "iletimerkezi",
            [
                said(Granularity.ORDER, "77", Status.ENROUTE, sent_at=late, total=4, delivered=2, undelivered=1),
                message("77:a:1", Status.DELIVERED, parent_key="77", client_ref="invoice-1"),
                message("77:b:1", Status.DELIVERED, parent_key="77", client_ref="invoice-1"),
                message("77:c:1", Status.UNDELIVERABLE, parent_key="77", provider_status="112", client_ref="invoice-2"),
                message("77:d:1", Status.ENROUTE, parent_key="77"),
                said(
                    Granularity.CONVERSATION,
                    "1:2:0:2026-03-01",
                    Status.SENT,
                    parent_key="1",
                    recipient="2",
                    total=9,
                    day=date(2026, 3, 1),
                    extra={"day": "2026-03-01"},
                ),
            ],
            asked_at=NOW,
        )  # fmt: skip
        fast, slow = ({"sent_at": BEFORE, "done_at": BEFORE + timedelta(seconds=n)} for n in (4, 10))
        upsert(
            connection,
            "alarm",
            "organik",
            [
                message("1", Status.DELIVERED, **fast),
                message("2", Status.READ, **slow),
                message("3", Status.REJECTED, reason=Reason.OPTED_OUT, provider_error="23", sent_at=BEFORE),
                message("4", Status.EXPIRED, reason=Reason.EXPIRED, provider_status="4", sent_at=BEFORE),
                message("5", Status.EXPIRED, reason=Reason.EXPIRED, provider_status="4", sent_at=BEFORE),
                message("6", Status.UNREPORTED, sent_at=BEFORE),
                message("7", Status.ENROUTE, sent_at=BEFORE),
                message("8", Status.DELIVERED, sent_at=NOW - timedelta(days=40), done_at=NOW),
            ],
            asked_at=NOW,
        )
    return migrated_database


def answer(engine: Engine, name: str) -> list[tuple[Any, ...]]:
    """What a ready query gives."""
    [query] = [each for each in QUERIES if each.name == name]
    assert query.sql in handbook.page()
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query.sql))]


def order_day() -> date:
    """The day of the order in Istanbul: 22:00 UTC is the next day there."""
    return BEFORE.date() + timedelta(days=1)


def test_the_page_has_six_queries(filled: Engine) -> None:
    """Each with an answer on this data."""
    assert len(QUERIES) == 6
    assert [query.name for query in QUERIES if not answer(filled, query.name)] == []


def test_the_delivery_rate_counts_messages_on_their_local_day(filled: Engine) -> None:
    """Neither orders nor conversations count, what has no outcome lowers no rate, and orders lend their time."""
    assert answer(filled, "delivery_rate") == [
        ("alarm", BEFORE.date(), 2, 3, 2, Decimal("40.0")),
        ("shop", order_day(), 2, 1, 1, Decimal("66.7")),
    ]


def test_failures_are_counted_by_cause(filled: Engine) -> None:
    """With the provider's own codes beside our reason."""
    assert answer(filled, "failures") == [
        ("alarm", "expired", "4", None, 2, Decimal("66.7")),
        ("alarm", "opted_out", "rejected", "23", 1, Decimal("33.3")),
        ("shop", "not reported", "112", None, 1, Decimal("100.0")),
    ]


def test_the_time_to_delivery_is_measured_where_the_provider_reports_it(filled: Engine) -> None:
    """Not for messages that only have the time of their order."""
    assert answer(filled, "time_to_delivery") == [("alarm", 2, 7.0, pytest.approx(9.7))]


def test_references_join_messages(filled: Engine) -> None:
    """One reference has two messages, one has one, one has none."""
    assert [row[:3] for row in answer(filled, "join_references")] == [
        ("invoice-1", "delivered", "delivered"),
        ("invoice-1", "delivered", "delivered"),
        ("invoice-2", "failed", "undeliverable"),
        ("invoice-3", "not reported", None),
    ]


def test_orders_stand_beside_their_messages(filled: Engine) -> None:
    """The provider's counts and what was reported one by one."""
    assert answer(filled, "orders_and_messages") == [("shop", "77", 4, 2, 1, 1, 4, 2, 1)]


def test_what_waits_for_long_is_found(filled: Engine) -> None:
    """Only what is still expected to change."""
    [alarm] = [row for row in answer(filled, "waiting") if row[0] == "alarm"]
    assert alarm == ("alarm", "enroute", 1, BEFORE)


def test_conversations_have_their_day(filled: Engine) -> None:
    """By the provider's count, not by when it was seen."""
    with filled.connect() as connection:
        rows = connection.execute(text("SELECT sender, receiver, day, messages FROM conversations")).all()
    assert [tuple(row) for row in rows] == [("1", "2", date(2026, 3, 1), 9)]


RANGES = {"account": "account_id = 'shop' AND message_time >= now() - interval '2 days'"}
RANGES["all"] = "message_time >= now() - interval '1 day'"


@pytest.mark.parametrize("where", RANGES.values(), ids=RANGES)
def test_a_range_of_time_reads_an_index(filled: Engine, where: str) -> None:
    """Of one account, and of all; for these PostgreSQL 18 may skip from account to account in the same index."""
    fill = """
        INSERT INTO delivery_status (account_id, provider, granularity, provider_key, status, is_final, provider_status,
          sent_at, recipient)
        SELECT CASE WHEN n % 20 = 0 THEN 'shop' ELSE 'alarm' END, 'x', 'message', 'old' || n, 'delivered', true, '2',
          now() - (200000 - n) * interval '2 minutes', '+90530' || n FROM generate_series(1, 200000) n
    """
    with transaction(filled) as connection:
        connection.execute(text(fill))
        connection.execute(text("ANALYZE delivery_status"))
        plan = connection.execute(
            text(f"EXPLAIN SELECT outcome, count(*) FROM messages WHERE {where} GROUP BY outcome")
        )
        shown = "\n".join(plan.scalars())
    assert re.search("ix_delivery_status_(newest|time)", shown)
    assert "Seq Scan on delivery_status" not in shown


# ------------------------------------------------------------------------------------------------ the role


@pytest.fixture
def role(migrated_database: Engine) -> Iterator[str]:
    """A role that may log in and nothing else."""
    name = f"Reader-{uuid4().hex[:8]}"
    with transaction(migrated_database) as connection:
        connection.exec_driver_sql(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'reader'")
    yield name
    with transaction(migrated_database) as connection:
        connection.exec_driver_sql(f'DROP OWNED BY "{name}"')
        connection.exec_driver_sql(f'DROP ROLE "{name}"')


@pytest.fixture
def reader(filled: Engine, role: str, ulak: Ulak) -> Iterator[psycopg.Connection[Any]]:
    """A session of that role, once it is a reader."""
    assert ulak("grant-reader", role).code == 0
    url = filled.url.set(drivername="postgresql", username=role, password="reader")
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
        yield connection


def test_a_reader_reads_the_table_and_the_views(reader: psycopg.Connection[Any]) -> None:
    """All rows of all accounts, by the six queries too."""
    counted = {name: reader.execute(f"SELECT count(*) FROM {name}").fetchall() for name in READABLE}
    [(groups,)] = counted.pop("statistics")
    assert groups > 1
    assert counted == {"messages": [(12,)], "orders": [(1,)], "conversations": [(1,)], "delivery_status": [(14,)]}
    for query in QUERIES:
        assert reader.execute(query.sql).fetchall()


def test_a_reader_reads_and_writes_nothing_else(reader: psycopg.Connection[Any]) -> None:
    """No credential, no raw report, no quarantine; no write, not even through a view or into the schema."""
    tables = reader.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    others = {name for (name,) in tables} - set(READABLE)
    assert {"accounts", "observations", "quarantine", "tracked_ids", "api_tokens"} <= others
    attempts = [f"SELECT count(*) FROM {name}" for name in others]
    for name in (*READABLE, "accounts"):
        attempts += [f"DELETE FROM {name}"]
        column = "id" if name == "accounts" else "account_id"
        attempts += [f"INSERT INTO {name} ({column}) VALUES (NULL)", f"UPDATE {name} SET {column} = NULL"]
    attempts += ["CREATE TABLE public.mine (n int)", "TRUNCATE delivery_status", "CREATE ROLE another"]
    allowed = []
    for statement in attempts:
        try:
            reader.execute(statement)
        except psycopg.errors.InsufficientPrivilege:
            continue
        except psycopg.errors.ObjectNotInPrerequisiteState:
            # A view of two tables cannot be written by anybody.
            continue
        allowed.append(statement)
    assert allowed == []


def test_the_grants_are_printed_and_may_be_repeated(ulak: Ulak, role: str) -> None:
    """With --print nothing is run; what is printed is what is run."""
    printed = ulak("grant-reader", role, "--print")
    first, again = ulak("grant-reader", role), ulak("grant-reader", role)
    assert (printed.code, first.code, again.code) == (0, 0, 0)
    assert printed.out == first.out == again.out
    assert (
        "GRANT SELECT ON public.messages, public.orders, public.conversations, public.statistics,"
        f' public.delivery_status TO "{role}";' in printed.out.splitlines()
    )


def test_a_role_that_may_do_more_is_refused(ulak: Ulak, role: str, migrated_database: Engine) -> None:
    """And is granted nothing; a role that is not there is named, too."""
    with transaction(migrated_database) as connection:
        connection.exec_driver_sql(f'GRANT UPDATE (status) ON delivery_status TO "{role}"')
        connection.exec_driver_sql(f'GRANT SELECT ON accounts TO "{role}"')
        superuser = connection.execute(text("SELECT current_user")).scalar_one()
    refused = ulak("grant-reader", role)
    assert (refused.code, refused.out) == (1, "")
    assert "may do more than read: SELECT on accounts, UPDATE on delivery_status." in refused.err
    assert "is a superuser" in ulak("grant-reader", superuser).err
    assert "There is no role nobody-there" in ulak("grant-reader", "nobody-there").err
    with migrated_database.connect() as connection:
        may_read = text("SELECT has_table_privilege(:role, 'messages', 'SELECT')")
        assert connection.execute(may_read, {"role": role}).scalar_one() is False


def test_a_view_shows_only_its_own_rows(filled: Engine) -> None:
    """Each row of the table is in exactly one view."""
    with filled.connect() as connection:
        views = VIEW_SQL.keys() - {"statistics"}
        ids = [connection.execute(text(f"SELECT id FROM {view}")).scalars().all() for view in views]
        every = connection.execute(text("SELECT id FROM delivery_status")).scalars().all()
    assert sorted(each for some in ids for each in some) == sorted(every)


_GROUPED = """
    SELECT account_id, provider, local_day, outcome, status, reason, sum({messages}), sum({segments}), sum({credits}),
      sum({timed}), sum({seconds}) FROM {view} GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6
"""


def test_the_statistics_are_the_messages_counted(filled: Engine) -> None:
    """Also after a fold, and less what was erased."""
    names = {"messages": "messages", "segments": "segments", "credits": "credits", "timed": "timed"}
    counted = _GROUPED.format(view="statistics", seconds="seconds_to_done", **names)
    timed = "CASE WHEN seconds_to_done IS NOT NULL AND outcome = 'delivered' THEN {} ELSE 0 END"
    names = {"messages": "1", "segments": "coalesce(segments, 0)", "credits": "coalesce(credits, 0)"}
    grouped = _GROUPED.format(view="messages", timed=timed.format(1), seconds=timed.format("seconds_to_done"), **names)
    with filled.begin() as connection:
        rows = connection.execute(text(grouped)).all()
        assert len(rows) > 1
        assert connection.execute(text(counted)).all() == rows
        fold_some(connection)
        assert connection.execute(text(counted)).all() == rows
        connection.execute(text("DELETE FROM delivery_status"))
        assert connection.execute(text(counted)).all() == rows
        assert connection.execute(text("SELECT DISTINCT messages - erased FROM statistics")).all() == [(0,)]
