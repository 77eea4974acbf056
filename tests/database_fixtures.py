"""Databases for tests: an Engine on a fresh, migrated database, and reports to write into it.

The schema is migrated once per session into a template; each test gets a copy, which takes some tens of milliseconds.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, make_url, text

from ulak.models.database import make_engine
from ulak.models.schema import migrate

_numbers = count(1)


@pytest.fixture(scope="session")
def migrated_template(make_database: Callable[..., str]) -> str:
    """The name of a database that stands at the newest revision and that nobody is connected to."""
    url = make_database()
    engine = make_engine(url, pool_size=1)
    migrate(engine)
    engine.dispose()
    return str(make_url(url).database)


@contextmanager
def _engine(url: str) -> Iterator[Engine]:
    engine = make_engine(url, pool_size=16, statement_timeout_seconds=120, prepares=True)
    yield engine
    engine.dispose()


@pytest.fixture
def migrated_database(
    make_database: Callable[..., str], drop_database: Callable[[str], None], migrated_template: str
) -> Iterator[Engine]:
    """An Engine (16 connections) on a fresh database at the newest revision, of this test alone."""
    url = make_database(migrated_template)
    with _engine(url) as engine:
        yield engine
    drop_database(url)


@pytest.fixture(scope="session")
def shared_database(make_database: Callable[..., str], migrated_template: str) -> Iterator[Engine]:
    """An Engine on one migrated database for the whole session; every example brings its own account."""
    with _engine(make_database(migrated_template)) as engine:
        yield engine


def add_account(connection: Connection, account_id: str | None = None, *, provider: str = "vairo") -> str:
    """An account that nothing else uses; returns its id."""
    account_id = account_id or f"account-{next(_numbers)}-{uuid4().hex[:8]}"
    connection.execute(
        text(
            "INSERT INTO accounts (id, provider, base_url, timezone, credentials, credentials_hash, limit_requests,"
            " limit_per_seconds, limit_concurrency)"
            " VALUES (:id, :provider, 'http://127.0.0.1', 'UTC', '{}', :id, 1, 1, 1)"
        ),
        {"id": account_id, "provider": provider},
    )
    return account_id
