"""How secrets are compared: every door in constant time, none by `==`, which ends at the first wrong letter.

The times themselves are measured by `make bench BENCH=wrong_secrets`.
"""

import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine
from task_api import TOKEN, running, runtime_on
from test_callbacks import apply_accounts
from test_hostile_requests import ACCOUNTS
from test_pages import Browser

from ulak.api.app import make_api
from ulak.api.pages.routes import add_pages
from ulak.core.settings import load_settings
from ulak.models.tokens import digest
from ulak.tasks.runtime import CredentialCache, Runtime

HOOK = "s" * 40
KNOWN = {
    "env:BIP_USER": "kullanici",
    "env:BIP_PASSWORD": "the-password-of-bip",
    "env:K": "k" * 30,
    "env:H": "h" * 30,
    "env:HOOK": HOOK,
}
GUESS = "a-guess-of-a-stranger"


def bearer(page: Browser) -> int:
    """At the task API."""
    return page.client.get("/v1/accounts", headers={"Authorization": f"Bearer {GUESS}"}).status_code


def log_in(page: Browser) -> int:
    """At the status page."""
    page.get("/")
    return page.post("/login", token=GUESS).status_code


def basic(page: Browser) -> int:
    """At a callback with a password."""
    return page.client.post("/callbacks/bip/bip-1", content=b"{}", auth=("kullanici", GUESS)).status_code


def path(page: Browser) -> int:
    """At a callback whose address is the secret."""
    return page.client.post(f"/callbacks/iletimerkezi/toplu/{GUESS}", content=b"{}").status_code


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the page makes its secret."""
    monkeypatch.setenv("ULAK_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(
    ("door", "refusal", "compared"),
    [
        (bearer, 401, (digest(GUESS), digest(TOKEN))),
        (log_in, 401, (digest(GUESS), digest(TOKEN))),
        (basic, 401, (f"kullanici:{GUESS}".encode(), b"kullanici:the-password-of-bip")),
        (path, 404, (GUESS.encode(), HOOK.encode())),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_a_guess_is_compared_whole_with_the_secret_at_every_door(
    migrated_database: Engine,
    monkeypatch: pytest.MonkeyPatch,
    door: Callable[[Browser], int],
    refusal: int,
    compared: tuple[bytes, bytes],
) -> None:
    """`hmac.compare_digest` gets both, so how much of a guess is right cannot be measured."""
    apply_accounts(migrated_database, ACCOUNTS)
    on = runtime_on(migrated_database)
    credentials = CredentialCache(resolve=KNOWN.__getitem__)
    runtime = Runtime(engine=on.engine, door=on.door, seal_key=on.seal_key, credentials=credentials)
    settings = load_settings().model_copy(update={"api_token": SecretStr(TOKEN)})
    app = make_api(runtime, token=TOKEN, settings=settings)
    add_pages(app, runtime, settings)
    seen: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def watched(one: Any, other: Any) -> bool:
        seen.append((bytes(one), bytes(other)))
        return compare(one, other)

    with running(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        monkeypatch.setattr(hmac, "compare_digest", watched)
        assert door(Browser(client, [])) == refusal
    runtime.door.close()
    assert compared in seen or compared[::-1] in seen
