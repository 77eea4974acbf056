"""Deliveries, the newest first: every row once and in order, however little of the table one page reads."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from database_fixtures import add_account
from sqlalchemy import Connection, Engine, text

from ulak.models import newest_deliveries
from ulak.models.database import transaction
from ulak.models.newest_deliveries import Filters, Named, Newest, Place, newest_named, newest_of_accounts
from ulak.models.vocabulary import Status

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
STATUSES = (Status.DELIVERED, Status.DELIVERED, Status.DELIVERED, Status.REJECTED, Status.ENROUTE)
_INSERT = text("""
    INSERT INTO delivery_status (account_id, provider, granularity, provider_key, recipient, client_ref, status,
        is_final, provider_status, message_time, message_time_source)
    VALUES (:account, 'vairo', 'message', :key, :recipient, :ref, :status, true, 'x', :at, 'own')
""")


def fill(connection: Connection, seed: int, accounts: Sequence[str], many: int = 240) -> None:
    """Messages at few distinct times, so that many have the same one."""
    random = Random(seed)
    for number in range(many):
        values = {
            "account": random.choice(accounts),
            "key": f"k-{number}",
            "recipient": f"+90530000000{random.randrange(4)}",
            "ref": f"r-{number % 7}",
            "status": random.choice(STATUSES).value,
            "at": NOON + timedelta(minutes=random.randrange(12)),
        }
        connection.execute(_INSERT, values)


def all_pages(page: Any) -> list[int]:
    """The ids of every page, in order."""
    found: list[int] = []
    before: Place | None = None
    for _ in range(1000):
        got: Newest = page(before)
        found += [row["id"] for row in got.rows]
        before = got.before
        if before is None:
            return found
    raise AssertionError("The pages have no end.")


def ordered(connection: Connection, condition: str, **values: Any) -> list[int]:
    """What one plain statement finds."""
    query = f"SELECT id FROM delivery_status WHERE {condition} ORDER BY message_time DESC, id DESC"
    return list(connection.execute(text(query), values).scalars())


@pytest.mark.parametrize("scanned", [1, 9, 10_000])
@pytest.mark.parametrize("seed", [1, 2])
def test_pages_hold_every_row_once_and_in_order(
    migrated_database: Engine, monkeypatch: pytest.MonkeyPatch, scanned: int, seed: int
) -> None:
    """Also where a page reads so little that it ends amid rows of the same time, or finds none at all."""
    monkeypatch.setattr(newest_deliveries, "MIN_SCANNED", scanned)
    monkeypatch.setattr(newest_deliveries, "SCANNED_ROWS", scanned)
    with transaction(migrated_database) as connection:
        accounts = [add_account(connection) for _ in range(3)]
        fill(connection, seed, accounts)
        rare = Filters(statuses=[Status.REJECTED], since=NOON + timedelta(minutes=2), until=NOON + timedelta(minutes=9))
        for filters, condition in (
            (Filters(), "true"),
            (rare, "status = 'rejected' AND message_time >= :since AND message_time < :until"),
        ):
            expected = ordered(connection, condition, since=rare.since, until=rare.until)
            assert expected
            found = all_pages(
                lambda before, filters=filters: newest_of_accounts(
                    connection, accounts, filters, limit=7, before=before
                )
            )
            assert found == expected
        own = ordered(connection, "account_id = :account", account=accounts[0])
        mine = accounts[:1]
        assert own == all_pages(lambda before: newest_of_accounts(connection, mine, Filters(), limit=50, before=before))


def test_named_rows_are_counted_and_go_page_by_page(migrated_database: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """By numbers and references, each by any of its words and all together; other accounts' rows fill no bound."""
    with transaction(migrated_database) as connection:
        accounts = [add_account(connection) for _ in range(2)]
        fill(connection, 3, accounts)
        people = ["+905300000001", "+905300000002"]
        named = Named(recipients=people, references=["r-1", "r-2", "r-3"])
        condition = "recipient = ANY(:people) AND client_ref = ANY(:refs) AND account_id = :account"
        expected = ordered(connection, condition, people=people, refs=list(named.references), account=accounts[1])

        def pages(before: Place | None) -> Newest:
            return newest_named(connection, named, Filters(), accounts=accounts[1:], limit=5, before=before)

        monkeypatch.setattr(newest_deliveries, "MAX_IDENTIFIERS", len(expected) + 1)
        assert newest_named(connection, named, Filters(), accounts=None, limit=5).is_capped
        assert all_pages(pages) == expected
        assert (pages(None).total, pages(None).is_capped) == (len(expected), False)


def test_a_page_reads_its_rows_from_the_index(migrated_database: Engine) -> None:
    """In the order of time and id, so a page costs the same however large the table is."""
    with transaction(migrated_database) as connection:
        account = add_account(connection)
        fill(connection, 4, [account], many=600)
        connection.execute(text("ANALYZE delivery_status"))
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        query = (
            "EXPLAIN SELECT id FROM delivery_status WHERE account_id = :a AND (message_time, id) < (:t, 500)"
            " ORDER BY message_time DESC, id DESC LIMIT 50"
        )
        plan = "\n".join(connection.execute(text(query), {"a": account, "t": NOON + timedelta(hours=1)}).scalars())
    assert "ix_delivery_status_newest" in plan
    assert "Sort" not in plan
