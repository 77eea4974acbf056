"""The environment is parsed once; a wrong value is answered with a sentence that helps."""

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from ulak.core.credentials import CredentialError, generated_secret, resolve_reference
from ulak.core.environment import lifeline_descriptor
from ulak.core.redaction import redact_text
from ulak.core.settings import REMEDIES, Settings, SettingsError, load_settings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No ULAK_ variable is set, and the working folder is empty."""
    for name in list(os.environ):
        if name.startswith("ULAK_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_nothing_set_means_embedded_servers_and_defaults(tmp_path: Path) -> None:
    """The defaults are those the contract names."""
    settings = load_settings()
    assert (settings.database_url, settings.redis_url, settings.accounts_path()) == (None,) * 3
    assert (settings.home, settings.bind, settings.log) == (tmp_path / ".ulak", "127.0.0.1", None)
    assert (settings.api_port, settings.flower_port) == (None, None)


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ULAK_DATABASE_URL=` in an env file means embedded, not a broken URL."""
    monkeypatch.setenv("ULAK_DATABASE_URL", "")
    monkeypatch.setenv("ULAK_API_PORT", "")
    assert (load_settings().database_url, load_settings().api_port) == (None, None)


def test_an_accounts_file_here_is_found_and_a_configured_one_wins(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """`accounts.toml` counts when it is present; `ULAK_ACCOUNTS` counts in any case."""
    (tmp_path / "accounts.toml").touch()
    assert load_settings().accounts_path() == tmp_path / "accounts.toml"
    monkeypatch.setenv("ULAK_ACCOUNTS", "other.toml")
    assert load_settings().accounts_path() == tmp_path / "other.toml"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ULAK_DATABASE_URL", "mysql://u:hunter2pw@h/db"),
        ("ULAK_DATABASE_URL", "postgresql://u:top@hunter2pw@h:1/db"),
        ("ULAK_DATABASE_URL", "postgresql://u:top/hunter2pw@h/db"),
        ("ULAK_DATABASE_URL", "postgresql://u:12/hunter2pw@h/db"),
        ("ULAK_DATABASE_URL", "postgresql://u:12?hunter2pw@h/db"),
        ("ULAK_DATABASE_URL", "postgresql://u:#hunter2pw@h/db"),
        ("ULAK_REDIS_URL", "redis://:top@hunter2pw@h:6379/0"),
        ("ULAK_REDIS_URL", "rediss://:12/hunter2pw@h:6379/0"),
        ("ULAK_REDIS_URL", "redis://h:hunter2pw/0"),
        ("ULAK_REDIS_URL", "hunter2pw"),
        ("ULAK_REDIS_URL", "http://[hunter2pw"),
        ("ULAK_LOG", "hunter2pw"),
        ("ULAK_API_PORT", "0"),
        ("ULAK_API_PORT", "hunter2pw"),
        ("ULAK_FLOWER_AUTH", "hunter2pw"),
        ("ULAK_FLOWER_AUTH", ":hunter2pw"),
        ("ULAK_API_TOKEN", "hunter"),
        ("ULAK_FLOWER_URL", "hunter2pw"),
        ("ULAK_FLOWER_URL", "https://user:hunter2pw@flower.example"),
        ("ULAK_FLOWER_URL", "https://:hunter2pw@flower.example"),
        ("ULAK_FLOWER_URL", "https:///hunter2pw"),
        ("ULAK_FLOWER_URL", "javascript:hunter2pw"),
    ],
)
def test_a_wrong_value_says_what_to_do_and_not_what_it_was(
    name: str,
    value: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One sentence, the variable's name, the remedy; never the value, not even in the chain."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    remedy = REMEDIES[name.removeprefix("ULAK_").lower()]
    assert str(caught.value) == f"{name} is wrong: {remedy}"
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ulak:top%40hunter2pw@127.0.0.1:5432/ulak",
        "postgres://ulak:a:b@[::1]:5432/ulak",
        "postgresql:///ulak?host=/run/postgresql",
        "postgresql://ulak@h/ulak",
    ],
)
def test_an_address_that_can_be_parted_one_way_only_is_taken(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoded passwords, colons in them, IPv6 and sockets stay possible."""
    monkeypatch.setenv("ULAK_DATABASE_URL", url)
    known = load_settings().database_url
    assert known is not None
    assert known.get_secret_value() == url


def test_a_wrong_address_says_how_to_write_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all that may be wrong with an address this is what people do not think of."""
    monkeypatch.setenv("ULAK_DATABASE_URL", "postgresql://ulak:top@hunter2pw@127.0.0.1:1/ulak")
    with pytest.raises(SettingsError, match=r"percent-encode the password's special characters \(@ is %40\)"):
        load_settings()


def test_every_wrong_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to start twice to learn of a second mistake."""
    monkeypatch.setenv("ULAK_API_PORT", "x")
    monkeypatch.setenv("ULAK_LOG", "x")
    with pytest.raises(SettingsError, match=r"ULAK_LOG is wrong.*; ULAK_API_PORT is wrong"):
        load_settings()


def test_every_setting_has_a_remedy() -> None:
    """It is the end of the sentence that a wrong value is answered with."""
    assert set(REMEDIES) == set(Settings.model_fields)
    assert [name for name, remedy in REMEDIES.items() if not remedy or remedy.endswith(".")] == []


def test_secrets_do_not_show_in_the_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    """A settings object may end up in an error message; its secrets do not, nor in a log."""
    monkeypatch.setenv("ULAK_DATABASE_URL", "postgresql://u:hunter2%40pw@h/db")
    monkeypatch.setenv("ULAK_API_TOKEN", "hunter2token")
    monkeypatch.setenv("ULAK_FLOWER_AUTH", "admin:hunter2flower")
    assert "hunter2" not in repr(load_settings())
    said = redact_text("hunter2@pw hunter2%40pw hunter2token hunter2flower admin")
    assert said == "*** *** *** *** admin"


def test_a_reference_is_resolved_and_becomes_known_as_a_secret(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Both kinds lose the whitespace at their ends and are masked from then on."""
    monkeypatch.setenv("SOME_KEY", " value-of-variable\n")
    (tmp_path / "key").write_text("value-of-file\n")
    assert resolve_reference("env:SOME_KEY") == "value-of-variable"
    assert resolve_reference(f"file:{tmp_path}/key") == "value-of-file"
    assert redact_text("<value-of-variable> <value-of-file>") == "<***> <***>"
    monkeypatch.setenv("SOME_USER", "name-of-user")
    assert resolve_reference("env:SOME_USER", secret=False) == "name-of-user"
    assert redact_text("<name-of-user>") == "<name-of-user>"


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("5ecret-value", "A credential must be a reference, env:NAME or file:PATH, and not"),
        ("vault:5ecret-value", "A credential must be a reference"),
        ("env:", "A credential must be a reference"),
        ("env:NOT_THERE", "The credential env:NOT_THERE is missing: set the environment"),
        ("env:BLANK", "The credential env:BLANK is empty"),
        ("file:not/there", "The credential file:not/there cannot be read (No such file"),
        ("file:large", "The credential file:large is too large"),
        ("file:binary", "The credential file:binary is not UTF-8 text."),
    ],
)
def test_a_reference_that_leads_nowhere_is_explained(
    reference: str,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sentence names the place and repeats neither a literal nor a content."""
    monkeypatch.setenv("BLANK", "  ")
    Path("large").write_bytes(b"x" * 70_000)
    Path("binary").write_bytes(b"5ecret-value\xff")
    with pytest.raises(CredentialError) as caught:
        resolve_reference(reference)
    assert str(caught.value).startswith(sentence)
    assert "5ecret" not in str(caught.value)


def test_a_secret_is_made_once(tmp_path: Path) -> None:
    """Of many that ask at the same moment all get one value; only its owner may read it."""
    numbers = count()
    home = tmp_path / "home"

    def ask(_: int) -> str:
        return generated_secret(home, "token", lambda: f"secret-{next(numbers)}")

    with ThreadPoolExecutor(16) as pool:
        values = set(pool.map(ask, range(200)))
    folder = home / "secrets"
    assert len(values) == 1
    assert redact_text(f"<{values.pop()}>") == "<***>"
    assert [path.name for path in folder.iterdir()] == ["token"]
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "token")]
    assert modes == [0o700, 0o600]


@pytest.mark.parametrize(("text", "descriptor"), [("7", 7), ("", None), ("x", None), ("-1", None)])
def test_the_lifeline_is_a_number_or_nothing(
    text: str,
    descriptor: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that nobody supervises has none."""
    monkeypatch.setenv("ULAK_LIFELINE_FD", text)
    assert lifeline_descriptor() == descriptor


def test_core_knows_nothing_of_the_business() -> None:
    """Importing all of core brings in neither the database layer nor Celery nor the HTTP door."""
    script = (
        "import sys; from ulak.core import settings, clock, logging, redaction, redis, task_names;"
        "print([m for m in ('sqlalchemy', 'celery', 'httpx', 'psycopg') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
