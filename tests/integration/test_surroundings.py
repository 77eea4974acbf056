"""Faults of the surroundings are told as what they are: one sentence, exit code 1, and never "a bug in Ulak"."""

import json
import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from database_fixtures import add_account
from free_ports import reserve_port
from sqlalchemy import Engine, make_url, text
from test_callbacks import ACCOUNTS, LOGIN, apply_accounts, notice

from ulak.core import clock
from ulak.core.environment import PREFIX
from ulak.models.database import make_engine, transaction
from ulak.models.deliveries import upsert
from ulak.models.report import DeliveryReport
from ulak.models.vocabulary import Granularity, Status

Ran = subprocess.CompletedProcess[bytes]
Ulak = Callable[..., Ran]


def address(engine: Engine) -> str:
    """The URL of the engine's database."""
    return engine.url.set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.fixture
def ulak(tmp_path: Path) -> Ulak:
    """`ulak("check", database=url, NAME="value")` runs a command as a process of its own."""

    def run(*words: str | bytes, database: str, **env: str) -> Ran:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        return subprocess.run(
            [sys.executable, "-P", "-m", "ulak.cli.main", *words],
            cwd=tmp_path,
            env={**kept, "ULAK_DATABASE_URL": database, "ULAK_HOME": str(tmp_path), **env},
            capture_output=True,
            check=False,
            timeout=240,
        )

    return run


@pytest.fixture
def foreign_database(postgres_url: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database with the encoding of the test's parameter."""
    name = f"encoded_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        locale = "LC_COLLATE 'C' LC_CTYPE 'C'"
        connection.execute(f"CREATE DATABASE {name} ENCODING '{request.param}' {locale} TEMPLATE template0".encode())
    yield make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def is_told(ran: Ran, *words: str) -> bool:
    """Whether it ended with 1 and a sentence that has these words, without a traceback or a bug of ours."""
    said = (ran.stdout + ran.stderr).decode()
    assert (ran.returncode, "Traceback" in said, "bug in Ulak" in said) == (1, False, False), said
    assert [word for word in words if word not in said] == [], said
    return True


@pytest.mark.parametrize(
    ("foreign_database", "encoding"),
    [("SQL_ASCII", "SQL_ASCII"), ("LATIN5", "LATIN5"), ("LATIN1", "LATIN1")],
    indirect=["foreign_database"],
)
def test_a_database_that_cannot_store_every_letter_is_refused(ulak: Ulak, foreign_database: str, encoding: str) -> None:
    """By the same sentence of both commands, and no schema is made there."""
    sentence = f"The database's encoding is {encoding}, and Ulak needs UTF8: create another one with"
    assert is_told(ulak("check", database=foreign_database), f"PostgreSQL: {sentence}")
    migrated = ulak("migrate", database=foreign_database)
    assert is_told(migrated, sentence)
    assert len(migrated.stderr.splitlines()) == 1
    with psycopg.connect(foreign_database, client_encoding="utf8") as connection:
        made = connection.execute("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace")
        assert made.fetchone() == (0,)


def test_a_newer_schema_is_told_as_one(ulak: Ulak, migrated_database: Engine) -> None:
    """Running `ulak migrate` with this version cannot help, so nobody is sent there."""
    with transaction(migrated_database) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999_of_tomorrow'"))
    for command in ("check", "migrate"):
        assert is_told(ulak(command, database=address(migrated_database)), "The schema is newer than this program")


def test_a_database_that_takes_no_writes_is_told(ulak: Ulak, migrated_database: Engine) -> None:
    """`check` tells it before anything fails; a command that writes ends with the same advice."""
    with transaction(migrated_database) as connection:
        add_account(connection, "kampanya")
    url = address(migrated_database) + "?options=-c%20default_transaction_read_only%3Don"
    advice = "let ULAK_DATABASE_URL lead to the primary"
    assert is_told(ulak("check", database=url), "PostgreSQL: it takes no writes", advice)
    assert is_told(ulak("accounts", "pause", "kampanya", database=url), "takes no writes", advice)


def test_a_statement_that_takes_too_long_is_told(ulak: Ulak, migrated_database: Engine) -> None:
    """It is no outage: nobody is told to look whether the server runs."""
    with migrated_database.connect() as other, other.begin():
        other.execute(text("LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE"))
        url = address(migrated_database) + "?options=-c%20statement_timeout%3D300"
        ran = ulak("accounts", "list", database=url)
    assert is_told(ran, "took too long (SQLSTATE 57014): try again")
    assert b"cannot be reached" not in ran.stderr


def test_a_role_without_rights_is_told(ulak: Ulak, fresh_database: str) -> None:
    """Since PostgreSQL 15 a role may not create tables in `public` of a database that another one owns."""
    role = f"guest_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
    with psycopg.connect(fresh_database, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'guest'".encode())
    try:
        url = make_url(fresh_database).set(username=role, password="guest").render_as_string(hide_password=False)
        assert is_told(ulak("migrate", database=url), "refuses this to the role", "let it own the database")
    finally:
        with psycopg.connect(fresh_database, autocommit=True) as connection:
            connection.execute(f"DROP ROLE {role}".encode())


def test_libpq_s_own_variables_keep_working(ulak: Ulak, migrated_database: Engine) -> None:
    """What the address leaves open comes from PG*; PGOPTIONS is added to ours; the zone stays UTC."""
    url = migrated_database.url
    env = {
        "PGHOST": str(url.host),
        "PGPORT": str(url.port),
        "PGUSER": str(url.username),
        "PGPASSWORD": str(url.password),
        "PGDATABASE": str(url.database),
        "PGTZ": "Europe/Istanbul",
        "PGDATESTYLE": "German",
        "PGOPTIONS": "-c statement_timeout=7s",
        "PGCLIENTENCODING": "LATIN5",
    }
    said = ulak("check", database="postgresql://", **env).stdout.decode()
    assert "\nPostgreSQL: ok" in said
    assert "\ndatabase session: ok (UTC, statements end after 7s)\n" in said
    assert "PGTZ (of another program)" in said


@pytest.fixture
def turkish(migrated_database: Engine) -> Engine:
    """A delivery whose reference has letters that no ASCII terminal can show, and one beyond the first plane."""
    with transaction(migrated_database) as connection:
        account = add_account(connection, "kampanya")
        report = DeliveryReport(
            granularity=Granularity.MESSAGE,
            provider_key="m-1",
            status=Status.DELIVERED,
            provider_status="1",
            client_ref="müşteri-ığ-😀",
        )
        upsert(connection, account, "vairo", [report], asked_at=clock.now())
    return migrated_database


ASCII, POSIX = {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.mark.parametrize(
    ("env", "codec", "form"),
    [
        (ASCII, "ascii", "table"),
        (ASCII, "ascii", "csv"),
        (ASCII, "ascii", "json"),
        (POSIX, "ascii", "json"),
        ({"PYTHONIOENCODING": "iso-8859-9"}, "iso-8859-9", "table"),
        ({"PYTHONIOENCODING": "utf-8"}, "utf-8", "json"),
    ],
)
def test_a_terminal_that_lacks_a_letter_is_no_reason_to_fail(
    ulak: Ulak, turkish: Engine, env: dict[str, str], codec: str, form: str
) -> None:
    """What cannot be shown is escaped as in JSON, so that JSON means the same everywhere."""
    ran = ulak("deliveries", "--account", "kampanya", "--format", form, database=address(turkish), **env)
    assert (ran.returncode, b"Traceback" in ran.stderr) == (0, False), ran.stderr
    shown = ran.stdout.decode(codec)
    if form == "json":
        assert [row["client_ref"] for row in json.loads(shown)] == ["müşteri-ığ-😀"]
    elif codec == "ascii":
        assert r"m\u00fc\u015fteri-\u0131\u011f-\ud83d\ude00" in shown
    else:
        assert "müşteri-ığ" in shown


def test_an_argument_is_read_though_the_locale_cannot(ulak: Ulak, turkish: Engine) -> None:
    """LANG=C makes no difference to what is searched; what is no text at all is wrong usage."""
    words = ("deliveries", "--format", "json", "--ref")
    ran = ulak(*words, "müşteri-ığ-😀".encode(), database=address(turkish), **POSIX)
    assert (ran.returncode, len(json.loads(ran.stdout))) == (0, 1)
    for env in ({}, POSIX):
        wrong = ulak(*words, b"m\xfc", database=address(turkish), **env)
        assert (wrong.returncode, wrong.stderr.startswith(b"An argument is no UTF-8 text")) == (2, True)


def test_a_full_disk_behind_stdout_is_told(ulak: Ulak, turkish: Engine) -> None:
    """The system's own sentence."""
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run(
            [sys.executable, "-P", "-m", "ulak.cli.main", "deliveries", "--account", "kampanya", "--format", "json"],
            env={**os.environ, "ULAK_DATABASE_URL": address(turkish)},
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=240,
        )
    assert (ran.returncode, ran.stderr.decode().strip()) == (
        1,
        "The operating system refuses: No space left on device.",
    )


def test_a_connection_speaks_utf8_whatever_the_environment_says(
    migrated_database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PGCLIENTENCODING of another program must not change what is stored."""
    monkeypatch.setenv("PGCLIENTENCODING", "SQL_ASCII")
    engine = make_engine(address(migrated_database), pool_size=1)
    with engine.connect() as connection:
        assert connection.execute(text("SHOW client_encoding")).scalar_one() == "UTF8"
        assert connection.execute(text("SELECT 'ş'")).scalar_one() == "ş"
    engine.dispose()


@pytest.mark.parametrize(
    ("env", "status"),
    [
        ({}, 200),
        ({"ULAK_TRUSTED_PROXIES": "10.0.0.1,127.0.0.0/8"}, 200),
        ({"ULAK_TRUSTED_PROXIES": "10.0.0.1", "FORWARDED_ALLOW_IPS": "*"}, 401),
        ({"FORWARDED_ALLOW_IPS": "10.0.0.1"}, 401),
    ],
)
def test_only_trusted_proxies_say_who_calls(
    migrated_database: Engine, tmp_path: Path, env: dict[str, str], status: int
) -> None:
    """`X-Forwarded-For` of anybody else is nothing; the old name is read with a warning, and the new one beats it."""
    other = '[[account]]\nid = "toplu"'
    option = '[account.options]\nallowed_ips = ["192.0.2.0/24"]\n'
    apply_accounts(migrated_database, ACCOUNTS.replace(other, option + other))
    port = reserve_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    ours = {
        "ULAK_DATABASE_URL": address(migrated_database),
        "ULAK_REDIS_URL": "redis://127.0.0.1:1/0",
        "ULAK_HOME": str(tmp_path),
        "ULAK_API_PORT": str(port),
        "BIP_USER": "ulak",
        "BIP_PASSWORD": "şifre:1",
        "WEB_CONCURRENCY": "4",
    }
    log = tmp_path / "api.log"
    with log.open("wb") as output:
        command = [sys.executable, "-P", "-m", "ulak.cli.main", "api"]
        process = subprocess.Popen(command, env=kept | ours | env, stdout=output, stderr=output)
    try:
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        while not _answers(client):
            assert process.poll() is None, log.read_text(encoding="utf-8")
            clock.sleep(0.05)
        headers = {"X-Forwarded-For": "192.0.2.7", "Authorization": f"Basic {b64encode(LOGIN.encode()).decode()}"}
        answer = client.post("/callbacks/bip/bip-1", json=notice(), headers=headers)
        client.close()
    finally:
        process.terminate()
        process.wait(60)
    assert answer.status_code == status
    is_warned = "settings.renamed" in log.read_text(encoding="utf-8")
    assert is_warned == (set(env) == {"FORWARDED_ALLOW_IPS"})


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").is_success
    except httpx.TransportError:
        return False
