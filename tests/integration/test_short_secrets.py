"""Secrets that could be guessed, as `ulak check`, `ulak accounts apply` and the status page tell of them."""

from pathlib import Path

import pytest
from command_line import Ulak, ulak
from sqlalchemy import Engine
from task_api import runtime_on

from ulak.api.app import make_api
from ulak.api.pages.routes import add_pages
from ulak.core.secret_strength import MIN_LENGTH, create_home
from ulak.core.settings import load_settings
from ulak.workers.weak_secrets import REPORTED

__all__ = ["ulak"]  # a fixture

SHORT = "k" * (MIN_LENGTH - 1)
ACCOUNTS = """
[[account]]
id = "toplu"
provider = "iletimerkezi"
credentials = { key = "env:K", hash = "env:H", webhook_secret = "env:HOOK" }
[[account]]
id = "bip-1"
provider = "bip"
credentials = { callback_user = "env:U", callback_password = "env:P" }
"""


@pytest.fixture
def accounts_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Accounts whose secrets are all short; those that a provider chose too."""
    for name in ("K", "H", "U", "P"):
        monkeypatch.setenv(name, "k1")
    monkeypatch.setenv("HOOK", SHORT)
    path = tmp_path / "accounts.toml"
    path.write_text(ACCOUNTS, encoding="utf-8")
    return str(path)


def test_check_reports_ours_and_never_judges_a_providers(
    ulak: Ulak, accounts_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As warnings: all of it works in this version. Credentials of providers are not judged."""
    monkeypatch.setenv("ULAK_API_TOKEN", SHORT)
    monkeypatch.setenv("ULAK_FLOWER_AUTH", f"ulak:{SHORT}")
    told = ulak("accounts", "apply", accounts_file)
    assert (told.code, "which the next version refuses: toplu" in told.err) == (0, True)
    lines = [line.partition(";")[0] for line in ulak("check").out.splitlines()]
    assert f"secrets: warning: ULAK_API_TOKEN and ULAK_FLOWER_AUTH: {REPORTED}" in lines
    assert f"account toplu: warning: the secret of its callback address is {REPORTED}" in lines
    warning = "its callback password has fewer than 24 characters: choose a longer one if the panel takes it"
    about_bip = [line for line in lines if line.startswith("account bip-1")]
    assert about_bip == [f"account bip-1: warning: {warning}", "account bip-1: ok (credentials found)"]


def test_check_fails_an_account_whose_callbacks_are_refused(
    ulak: Ulak, accounts_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An example for a secret is no warning: nothing comes in under such an address."""
    assert ulak("accounts", "apply", accounts_file).code == 0
    monkeypatch.setenv("HOOK", "change-me-change-me-change-me")
    checked = ulak("check")
    assert checked.code == 1
    assert (
        "account toplu: the secret of its callback address is an example, and its callbacks are refused" in checked.out
    )


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("secret", [SHORT, "change-me-change-me-change-me"])
def test_an_account_file_with_such_a_secret_is_refused_whole(
    ulak: Ulak, accounts_file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, secret: str, *, is_new: bool
) -> None:
    """An example always, a short one in a data folder that this version made."""
    monkeypatch.setenv("HOOK", secret)
    if is_new:
        create_home(tmp_path / "home")
    done = ulak("accounts", "apply", accounts_file)
    assert done.code == (1 if is_new or secret != SHORT else 0)
    assert ("webhook_secret of toplu" in done.err) == bool(done.code)
    assert secret not in done.out + done.err
    assert ("toplu" in ulak("accounts", "list").out) == (not done.code)


def test_the_status_page_names_them(
    ulak: Ulak, accounts_file: str, migrated_database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until somebody has replaced them."""
    monkeypatch.setenv("ULAK_API_TOKEN", SHORT)
    assert ulak("accounts", "apply", accounts_file).code == 0
    runtime = runtime_on(migrated_database)
    app = make_api(runtime, token=SHORT)
    add_pages(app, runtime, load_settings())
    [alarm] = [each for each in app.state.pages.overviews.look().alarms if each.kind == "short_secrets"]
    assert (alarm.severity, alarm.values) == ("warn", {"names": "ULAK_API_TOKEN, toplu"})
    monkeypatch.setenv("ULAK_API_TOKEN", "k9" * MIN_LENGTH)
    monkeypatch.setenv("HOOK", "h9" * MIN_LENGTH)
    runtime = runtime_on(migrated_database)
    app = make_api(runtime, token=SHORT)
    add_pages(app, runtime, load_settings())
    assert [each for each in app.state.pages.overviews.look().alarms if each.kind == "short_secrets"] == []
