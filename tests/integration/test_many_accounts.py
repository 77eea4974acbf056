"""A thousand accounts at once: page, figures and list read them with as many statements as a few, and show all."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from ledger_acts import add_account, execute
from pydantic import SecretStr
from sqlalchemy import Engine, event
from task_api import running, runtime_on
from test_idle_accounts import COPY
from test_pages import TOKEN, Browser

from ulak.api.app import make_api
from ulak.api.pages.routes import add_pages
from ulak.core.settings import load_settings

MANY = 1000

pytestmark = pytest.mark.timeout(600)


@contextmanager
def new_process(engine: Engine) -> Iterator[Browser]:
    """A browser in front of an API that has read nothing yet."""
    settings = load_settings().model_copy(update={"api_token": SecretStr(TOKEN)})
    runtime = runtime_on(engine)
    app = make_api(runtime, token=TOKEN, settings=settings)
    add_pages(app, runtime, settings)
    with running(app) as url, httpx.Client(base_url=url, timeout=120) as client:
        yield Browser(client, [])
    runtime.door.close()


@contextmanager
def counted() -> Iterator[list[str]]:
    """The statements of this process while the block runs, of all engines; those around transactions left out."""
    seen: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def looked_at(engine: Engine) -> tuple[dict[str, int], dict[str, httpx.Response]]:
    """How many statements each of three readers needs in a new process, and what it is answered."""
    statements, answers = {}, {}
    with new_process(engine) as page:
        page.log_in()
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        for path in ("/", "/metrics", "/v1/accounts"):
            with counted() as seen:
                answers[path] = page.client.get(path, headers=bearer)
            assert answers[path].status_code == 200, answers[path].text[:500]
            statements[path] = len(seen)
    return statements, answers


def test_a_thousand_accounts_need_no_more_statements_than_a_few(
    migrated_database: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Each is in the figures, the list and the page; a tick over twice as many is tested with the idle ones."""
    monkeypatch.setenv("ULAK_HOME", str(tmp_path / "home"))
    first = add_account(migrated_database, provider="vairo")
    few, _ = looked_at(migrated_database)
    execute(migrated_database, COPY, a=first, many=MANY)
    execute(migrated_database, "ANALYZE")
    many, answers = looked_at(migrated_database)
    assert many == few
    names = {first, *(f"{first}-{n}" for n in range(1, MANY + 1))}
    assert {each["id"] for each in answers["/v1/accounts"].json()["accounts"]} == names
    assert {name for name in names if f'ulak_account_paused{{account="{name}",' in answers["/metrics"].text} == names
    assert {name for name in names if f'/accounts/{name}"' in answers["/"].text} == names
