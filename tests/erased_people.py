"""What tests about erased people share: a process that stores, and an erasure."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from database_fixtures import add_account
from sqlalchemy import Connection, Engine, text

from ulak.models.database import retry_transaction, transaction
from ulak.models.deliveries import UpsertResult, upsert
from ulak.models.erasure import Erased, erase_person
from ulak.models.report import DeliveryReport
from ulak.models.suppression import Suppressions
from ulak.models.vocabulary import Granularity, Status

KEY = b"the person key of these tests, 32"
MINE, OTHER = "+905301234567", "+905309999999"
NOW = datetime.now(UTC)
BEFORE, LATER = NOW - timedelta(hours=1), NOW + timedelta(days=1)


def said(key: str, recipient: str | None = MINE, **fields: Any) -> DeliveryReport:
    """A statement about one message."""
    values = {"granularity": Granularity.MESSAGE, "status": Status.DELIVERED, "provider_status": "1"}
    return DeliveryReport(**{**values, "provider_key": key, "recipient": recipient, **fields})


def order(key: str, sent_at: datetime | None) -> DeliveryReport:
    """A statement about one order."""
    return said(key, None, granularity=Granularity.ORDER, sent_at=sent_at, total=2, delivered=2)


class Process:
    """One process that stores: it has its own copy of the list."""

    def __init__(self, engine: Engine, account: str, key: bytes = KEY) -> None:
        self.engine, self.account, self.suppressions = engine, account, Suppressions(lambda: key)

    def store(self, *reports: DeliveryReport) -> UpsertResult:
        """In a transaction of its own, asked for now."""
        return retry_transaction(self.engine, lambda connection: self.write(connection, *reports))

    def write(self, connection: Connection, *reports: DeliveryReport) -> UpsertResult:
        """In the caller's transaction."""
        # After every erasure so far, however long ago this module was imported.
        asked_at = datetime.now(UTC) + timedelta(minutes=5)
        return upsert(connection, self.account, "vairo", reports, asked_at=asked_at, suppressions=self.suppressions)

    def stored(self) -> list[str]:
        """What is stored."""
        with self.engine.connect() as connection:
            query = text("SELECT provider_key FROM delivery_status WHERE account_id = :account ORDER BY 1")
            return list(connection.execute(query, {"account": self.account}).scalars())


@pytest.fixture
def process(migrated_database: Engine) -> Process:
    """A process with an account."""
    with transaction(migrated_database) as connection:
        return Process(migrated_database, add_account(connection, "brand"))


def erase_now(engine: Engine, person: str = MINE) -> Erased:
    """As the command does it."""
    return erase_person(engine, KEY, person, lambda _connection, _gone: None)


def wait_until(condition: Callable[[], bool]) -> None:
    """Within a minute."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_waiting(engine: Engine) -> bool:
    """Whether somebody waits for the lock of the list."""
    query = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    with engine.connect() as connection:
        return bool(connection.execute(query).scalar_one())
