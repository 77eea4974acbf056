"""`ulak accounts`, `status`, `check`, `migrate`, `secrets`: what operators look at first."""

import json
import os
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from command_line import Ulak, ulak
from database_fixtures import add_account
from pydantic import SecretStr
from sqlalchemy import Engine

from ulak.cli.error_messages import database_place
from ulak.cli.session import Session
from ulak.core.environment import invoking_user
from ulak.core.settings import REMEDIES, Settings
from ulak.local.embedded.valkey import ValkeyServer
from ulak.models.database import transaction
from ulak.models.deliveries import upsert
from ulak.models.report import DeliveryReport
from ulak.models.statistics import By, count_days
from ulak.models.vocabulary import Granularity, Status

__all__ = ["ulak"]

ROOT = Path(__file__).parents[2]

FILE = """
[[account]]
id = "kampanya"
provider = "vairo"
base_url = "http://127.0.0.1:9402"
[account.credentials]
api_key = "env:VAIRO_KEY"
"""


@pytest.fixture
def accounts_file(tmp_path: Path) -> str:
    """A right accounts file."""
    path = tmp_path / "accounts.toml"
    path.write_text(FILE, encoding="utf-8")
    return str(path)


def test_a_file_is_applied_and_what_it_does_not_name_is_told(
    ulak: Ulak, migrated_database: Engine, accounts_file: str
) -> None:
    """A second time nothing changes; --prune disables the account that the file does not name."""
    with transaction(migrated_database) as connection:
        add_account(connection, "eski")
    first, again = ulak("accounts", "apply", accounts_file), ulak("accounts", "apply", accounts_file)
    assert (first.code, first.out) == (0, "created kampanya\n")
    assert first.err == "Not in the file, still running (--prune disables them): eski\n"
    assert (again.code, again.out) == (0, "unchanged kampanya\n")
    pruned = ulak("accounts", "apply", accounts_file, "--prune")
    assert (pruned.code, pruned.out, pruned.err) == (0, "unchanged kampanya\ndisabled eski\n", "")
    listed = json.loads(ulak("accounts", "list", "--json").out)
    assert [(row["id"], row["state"]) for row in listed] == [("eski", "disabled"), ("kampanya", "ok")]


def test_a_changed_time_zone_moves_what_is_counted(
    ulak: Ulak, migrated_database: Engine, accounts_file: str, tmp_path: Path
) -> None:
    """To the days of the new zone."""
    assert ulak("accounts", "apply", accounts_file).code == 0
    midnight = datetime(2026, 5, 1, 21, tzinfo=UTC)
    with transaction(migrated_database) as connection:
        report = DeliveryReport(
            granularity=Granularity.MESSAGE,
            provider_key="1",
            status=Status.DELIVERED,
            provider_status="x",
            sent_at=midnight,
        )
        upsert(connection, "kampanya", "vairo", [report], asked_at=midnight)

    def days() -> list[date | None]:
        with migrated_database.connect() as connection:
            return [each.day for each in count_days(connection, date(2026, 1, 1), date(2027, 1, 1), by=[By.DAY])]

    assert days() == [date(2026, 5, 2)]
    moved = tmp_path / "moved.toml"
    moved.write_text(FILE.replace("base_url", 'timezone = "Europe/London"\nbase_url'), encoding="utf-8")
    assert ulak("accounts", "apply", str(moved)).out == "changed kampanya\n"
    assert days() == [date(2026, 5, 1)]


def test_a_wrong_file_is_refused_whole_with_every_mistake(ulak: Ulak, tmp_path: Path) -> None:
    """File, line, account and what would be right; a literal credential is refused without being shown."""
    path = tmp_path / "wrong.toml"
    path.write_text(FILE.replace("env:VAIRO_KEY", "AkhtarSecretKey99").replace('"vairo"', '"virao"'), encoding="utf-8")
    result = ulak("accounts", "apply", str(path))
    assert (result.code, result.out) == (1, "")
    assert [line.split(": ")[:2] for line in result.err.splitlines()] == [
        [f"{path}:4", "kampanya provider"],
        [f"{path}:7", "kampanya credentials.api_key"],
    ]
    assert "AkhtarSecretKey99" not in result.err
    checked = ulak("accounts", "check", str(path))
    assert (checked.code, checked.out, checked.err) == (1, "", result.err)


def test_a_file_is_checked_without_a_database(
    ulak: Ulak, accounts_file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing is configured and no server runs; a file that is not there is a mistake of its first line."""
    monkeypatch.delenv("ULAK_DATABASE_URL")
    checked = ulak("accounts", "check", accounts_file)
    assert (checked.code, checked.out, checked.err) == (0, "ok: 1 account\n", "")
    assert not (tmp_path / "home").exists()
    missing = ulak("accounts", "check", "none.toml")
    assert (missing.code, missing.out) == (1, "")
    assert missing.err.startswith("none.toml:1: the accounts file cannot be read (No such file or directory); ")
    assert ulak("accounts", "check").code == 2


def test_a_pause_is_shown_with_its_reason_until_it_is_resumed(ulak: Ulak, accounts_file: str) -> None:
    """Data on stdout, the reason and where secrets lie on stderr."""
    ulak("accounts", "apply", accounts_file)
    paused = ulak("accounts", "pause", "kampanya", "--why", "new key on Monday")
    assert paused.err == "kampanya is paused.\n"
    assert ulak("accounts", "pause", "kampanya").err == "kampanya was paused already.\n"
    shown = ulak("status")
    assert shown.out.splitlines()[1].split("  ")[:2] == ["kampanya", "paused"]
    assert "kampanya is paused: new key on Monday (paused by an operator until it is resumed)\n" in shown.err
    assert "secrets" in shown.err
    assert ulak("accounts", "resume", "kampanya").err == "kampanya is resumed.\n"
    (account,) = json.loads(ulak("status", "kampanya", "--json").out)["accounts"]
    assert (account["state"], account["until"], account["open_deliveries"]) == ("ok", None, 0)
    unknown = ulak("accounts", "resume", "nobody")
    assert (unknown.code, unknown.out, unknown.err) == (
        1,
        "",
        "There is no account 'nobody': `ulak accounts list` shows the known ones.\n",
    )


def test_a_pause_and_its_end_are_one_sentence_and_one_event_each(ulak: Ulak, accounts_file: str) -> None:
    """Which account, by whom and why, a number in the reason masked; a pause that changes nothing is no event."""
    ulak("accounts", "apply", accounts_file)
    runs = [("pause", "--why", "asked by +905301234567"), ("pause",), ("resume",)]
    said = [ulak("accounts", verb, "kampanya", *words).err for verb, *words in runs]
    assert said == ["kampanya is paused.\n", "kampanya was paused already.\n", "kampanya is resumed.\n"]
    events = json.loads(ulak("events", "--account", "kampanya", "--json").out)
    assert [(each["action"], each["via"], each["actor"]) for each in events] == [
        ("account.resumed", "cli", invoking_user()),
        ("account.paused", "cli", invoking_user()),
        ("account.created", "cli", invoking_user()),
    ]
    assert events[1]["details"]["reason"].startswith("asked by ")
    assert "5301234567" not in json.dumps(events)


def test_check_says_ok_or_what_to_do(
    ulak: Ulak, accounts_file: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A credential that is missing is named by its reference; afterwards all is well."""
    monkeypatch.setenv("ULAK_REDIS_URL", redis_url)
    ulak("accounts", "apply", accounts_file)
    missing = ulak("check")
    assert missing.code == 1
    assert missing.out.splitlines()[-1] == (
        "account kampanya: The credential env:VAIRO_KEY is missing: set the environment variable VAIRO_KEY."
    )
    monkeypatch.setenv("VAIRO_KEY", "k" * 20)
    found = ulak("check")
    assert (found.code, found.err) == (0, "")
    assert [line.partition(": ")[0] for line in found.out.splitlines()] == [
        "settings", "status page", "notifications", "time zones", "PostgreSQL", "database session",
        "database transport", "schema", "clocks", "Redis", "accounts file", "retention",
        "account kampanya",
    ]  # fmt: skip
    assert all(": ok (" in line for line in found.out.splitlines())


def test_check_names_variables_that_have_no_effect(ulak: Ulak, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other programs', Services', misspelt ones, and the one that has got another name; never a value."""
    given = {
        "CELERY_BROKER_URL": "redis://:sehrazat-123@h",
        "ULAK_API_PORT": "tcp://10.0.0.1:8000",
        "ULAK_DATABSE_URL": "postgresql://ulak:sehrazat-123@h/d",
        "FORWARDED_ALLOW_IPS": "10.9.8.7",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    [line] = [line for line in ulak("check").out.splitlines() if line.startswith("settings: ok (home ")]
    assert "; ignored: CELERY_BROKER_URL (of another program), ULAK_API_PORT (of a Kubernetes Service), " in line
    assert "ULAK_DATABSE_URL (no setting of this version)" in line
    assert "; FORWARDED_ALLOW_IPS is called ULAK_TRUSTED_PROXIES now" in line
    assert [value for value in given.values() if value in line] == []


def test_check_finds_an_old_schema_and_a_redis_that_is_away(
    ulak: Ulak, fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is one line; migrating mends the first."""
    monkeypatch.setenv("ULAK_DATABASE_URL", fresh_database)
    monkeypatch.setenv("ULAK_REDIS_URL", "redis://:sehrazat-123@127.0.0.1:1/0")
    result = ulak("check")
    assert result.code == 1
    assert "schema: not the newest: run `ulak migrate`\n" in result.out
    assert "Redis: Redis cannot be reached: see that it runs and that ULAK_REDIS_URL is right.\n" in result.out
    assert "sehrazat-123" not in result.out + result.err
    old = ulak("status")
    assert (old.code, old.err) == (1, "The database's schema is not the newest: run `ulak migrate`.\n")
    assert ulak("migrate").code == 0
    assert "schema: ok (newest)\n" in ulak("check").out


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("ULAK_DATABASE_URL=", "Nothing is running in {home}: start `ulak up`, or set ULAK_DATABASE_URL.\n"),
        (
            "ULAK_DATABASE_URL=postgresql://ulak:sehrazat-123@127.0.0.1:1/ulak",
            "PostgreSQL at 127.0.0.1:1 cannot be reached: see that it runs and that its address is right.\n",
        ),
        (
            "ULAK_DATABASE_URL=postgresql://ulak:top@sehrazat-123@127.0.0.1:1/ulak",
            f"ULAK_DATABASE_URL is wrong: {REMEDIES['database_url']}\n",
        ),
        ("ULAK_API_PORT=x", "ULAK_API_PORT is wrong: give a port number from 1 to 65535\n"),
    ],
)
def test_what_cannot_be_reached_or_read_is_one_sentence(
    ulak: Ulak, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: str, sentence: str
) -> None:
    """Exit code 1, nothing on stdout, no traceback, no password."""
    variable, _, value = setting.partition("=")
    monkeypatch.setenv(variable, value)
    result = ulak("status")
    assert (result.code, result.out, result.err) == (1, "", sentence.format(home=tmp_path / "home"))


@pytest.mark.parametrize(
    ("process", "variable"),
    [
        ("worker", "ULAK_REDIS_URL"),
        ("worker", "ULAK_DATABASE_URL"),
        ("beat", "ULAK_REDIS_URL"),
        ("flower", "ULAK_REDIS_URL"),
    ],
)
def test_a_process_without_a_server_ends_at_once(
    ulak: Ulak, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, process: str, variable: str
) -> None:
    """It neither waits forever nor joins whatever Redis listens at the usual port."""
    monkeypatch.setenv("ULAK_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv(variable, "")
    result = ulak(process)
    sentence = f"Nothing is running in {tmp_path / 'home'}: start `ulak up`, or set {variable}.\n"
    assert (result.code, result.out, result.err) == (1, "", sentence)


def test_celerys_own_command_line_without_a_server_says_what_to_do(tmp_path: Path) -> None:
    """One sentence in place of a traceback that speaks of port 6379."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ULAK_")}
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "ulak.workers.app", "call", "poll.account"],
        cwd=tmp_path,
        env=kept,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    sentence = f"Error: Nothing is running in {tmp_path / '.ulak'}: start `ulak up`, or set ULAK_REDIS_URL.\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", sentence)


def test_the_app_finds_the_redis_that_runs_in_the_home(valkey_server: ValkeyServer) -> None:
    """As every command does: `celery -A ulak.workers.app` needs no address where `ulak up` runs."""
    from ulak.workers.app import make_app

    app = make_app(Settings(home=valkey_server.home, redis_url=None))
    with app.connection_for_write() as connection:
        found = urlsplit(connection.as_uri(include_password=True))
    wanted = urlsplit(valkey_server.url)
    assert (found.port, found.password) == (wanted.port, wanted.password)


def test_the_place_of_the_database_is_never_a_piece_of_its_password() -> None:
    """Should an address pass that holds an @ in its password, nothing before the last one is told."""
    run = Session()
    for url, place in (
        ("postgresql://ulak:top@sehrazat-123@127.0.0.1:1/ulak", "127.0.0.1:1"),
        ("postgresql://ulak:top@127.0.0.1/ulak", "127.0.0.1:5432"),
        ("postgresql:///ulak", "the local socket:5432"),
    ):
        run.settings = Settings.model_construct(database_url=SecretStr(url))
        assert database_place(run) == place


def test_secrets_are_shown_on_stdout_only(ulak: Ulak, tmp_path: Path) -> None:
    """What `status` only says the place of; the files are for their owner alone."""
    result = ulak("secrets", "show")
    names = [line.partition("=")[0] for line in result.out.splitlines()]
    assert (result.code, names) == (0, ["ULAK_DATABASE_URL", "ULAK_API_TOKEN", "ULAK_FLOWER_AUTH"])
    token = result.out.splitlines()[1].partition("=")[2]
    assert token not in result.err
    assert (tmp_path / "home" / "secrets" / "api_token").stat().st_mode & 0o777 == 0o600


def test_the_program_itself_tells_a_wrong_setting_in_one_sentence(tmp_path: Path) -> None:
    """Some modules read the settings when they are imported; that makes no traceback either."""
    wrong = {**os.environ, "ULAK_REDIS_URL": "http://:sehrazat-123@host", "ULAK_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "ulak.cli.main", "status"]
    done = subprocess.run(command, env=wrong, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ULAK_REDIS_URL is wrong: write it as redis://")
    assert len(done.stderr.splitlines()) == 1
