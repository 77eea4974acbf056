"""All connections that PostgreSQL gives the API's role are taken by others."""

from collections.abc import Iterator

import httpx
import pytest
from database_fixtures import add_account
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import NullPool
from task_api import TOKEN, running, runtime_on

from ulak.api.app import make_api
from ulak.api.pages.routes import add_pages
from ulak.core import clock
from ulak.core.settings import load_settings
from ulak.models.database import make_engine, transaction

ROLE, MOST = "ulak_with_few_connections", 2


@pytest.fixture
def few(migrated_database: Engine) -> Iterator[str]:
    """The address of the database for a role that gets no more than a few connections."""
    with transaction(migrated_database) as connection:
        add_account(connection, "kampanya")
        connection.execute(text(f"CREATE ROLE {ROLE} LOGIN PASSWORD 'few' CONNECTION LIMIT {MOST}"))
        connection.execute(text(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE}"))
    yield migrated_database.url.set(username=ROLE, password="few").render_as_string(hide_password=False)
    with transaction(migrated_database) as connection:
        connection.execute(text(f"DROP OWNED BY {ROLE}"))
        connection.execute(text(f"DROP ROLE {ROLE}"))


def test_it_says_503_and_is_well_again_when_one_is_free(few: str) -> None:
    """Everything that needs the database is 503, what does not is answered; nothing has to be restarted."""
    taken = create_engine(few, poolclass=NullPool)
    runtime = runtime_on(make_engine(few))
    settings = load_settings()
    app = make_api(runtime, token=TOKEN, settings=settings)
    add_pages(app, runtime, settings)
    headers = {"authorization": f"Bearer {TOKEN}"}
    with running(app) as url, httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        others = [taken.connect() for _ in range(MOST)]
        ids = {"account": "kampanya", "ids": [{"kind": "number", "value": "1:5301234567"}]}
        refused = [
            client.get("/v1/accounts"),
            client.get("/v1/deliveries"),
            client.get("/v1/changes"),
            client.post("/v1/tracked", json=ids),
            client.post("/v1/accounts/kampanya/pause", json={}),
            client.post("/callbacks/bip/kampanya", content=b"{}"),
            client.get("/readyz"),
        ]
        assert [answer.status_code for answer in refused] == [503] * len(refused)
        assert (client.get("/healthz").status_code, client.get("/").status_code) == (200, 200)
        for other in others:
            other.close()
        end = clock.boot() + 60
        while client.get("/v1/accounts").status_code != 200 and clock.boot() < end:
            clock.sleep(0.1)
        assert client.get("/v1/accounts").json()
        assert client.post("/v1/tracked", json=ids).status_code == 200
    runtime.engine.dispose()
    runtime.door.close()
    taken.dispose()
