"""What a provider or a caller wrote, on every terminal, in every file and on every page: shown, and never obeyed."""

import csv
import io
import json
import re
from collections.abc import Iterator

import pytest
from command_line import Ulak, ulak
from database_fixtures import add_account
from rich.console import Console
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from test_cli_deliveries import NOON, NUMBER, report
from test_sessions import _one_secret, api_process, as_header, log_in

from ulak.cli.progress import Progress
from ulak.core.settings import load_settings
from ulak.models.database import transaction
from ulak.models.deliveries import upsert
from ulak.models.overview import overview
from ulak.models.quarantine import seal
from ulak.models.report import Unreadable
from ulak.models.tables import metadata
from ulak.models.tokens import create_token
from ulak.models.vocabulary import Status
from ulak.tasks.runtime import seal_key

__all__ = ["_one_secret", "ulak"]

EVIL = (
    "<img src=x onerror=alert(1)>\x1b[31m\x1b]0;owned\x07\r\nFAKE line\x9b31m\u202egnp.exe\u2066\u2028"
    "[/red][bold]{{7*7}}"
)
BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
IDENTITIES = {
    "accounts.id",
    "accounts.provider",
    "accounts.timezone",
    "api_tokens.name",
    "workers.name",
    "heartbeats.name",
}
"""Columns that only we write, from a short list of forms."""


@pytest.fixture
def poisoned(ulak: Ulak, migrated_database: Engine) -> list[str]:
    """A row of everything that a command lists, with the text in every text column that takes it; which those are."""
    with transaction(migrated_database) as connection:
        add_account(connection, "kampanya")
        first = report("m-1", Status.ENROUTE, extra={"sender": "S"}, provider_error="e", parent_key="p", reason=None)
        upsert(connection, "kampanya", "vairo", [first], asked_at=NOON)
        second = report("m-1", Status.REJECTED, statement={"durum": "x"}, extra={"sender": "S"}, provider_error="e")
        upsert(connection, "kampanya", "vairo", [second, report("m-2", Status.DELIVERED)], asked_at=NOON)
        create_token(connection, "destek")
        poll = connection.execute(
            text(
                "INSERT INTO polls (account_id, kind, trigger, state, planned_at, finished_at)"
                " VALUES ('kampanya', 'plan', 'cli', 'complete', now(), now()) RETURNING id"
            )
        ).scalar_one()
        connection.execute(
            text(
                "INSERT INTO fetches"
                " (poll_id, account_id, kind, params, params_hash, state, finished_at, label, last_error)"
                " VALUES (:poll, 'kampanya', 'batch', '{}', 'x', 'dead', now(), 'batch', 'e')"
            ),
            {"poll": poll},
        )
        broken = Unreadable(reason="odd", raw=b"raw", provider_key="k")
        key = seal_key(load_settings())
        seal(connection, key, account_id="kampanya", origin="callback:report", unreadable=[broken], context={})
        connection.execute(
            text(
                "UPDATE accounts SET paused_until = '9999-12-31', pause_reason = 'r', last_trouble = 't',"
                " last_trouble_at = now(), paused_by = 'operator'"
            )
        )
    assert ulak("track", "kampanya", "number=771:+905301234569", "--ref", "son").code == 0
    return poison(migrated_database)


def poison(engine: Engine) -> list[str]:
    """Append the text to every text column; those that the schema itself protects are left out."""
    done: list[str] = []
    for table in metadata.sorted_tables:
        for column in table.columns:
            name = f"{table.name}.{column.name}"
            kind = str(column.type)
            if kind not in {"TEXT", "JSONB"} or name in IDENTITIES or column.foreign_keys:
                continue
            change = (
                f"{column.name} = {column.name} || :evil"
                if kind == "TEXT"
                else f"{column.name} = {column.name} || jsonb_build_object('note', CAST(:evil AS text))"
            )
            try:
                with transaction(engine) as connection:
                    connection.execute(text(f"UPDATE {table.name} SET {change}"), {"evil": EVIL})
            except (IntegrityError, SQLAlchemyError):
                continue
            done.append(name)
    return done


COMMANDS = [
    ("status",), ("status", "--json"), ("accounts", "list"), ("accounts", "list", "--json"), ("deliveries",),
    ("deliveries", "--format", "json"), ("deliveries", "--format", "csv"), ("explain", "1"), ("explain", "1", "--json"),
    ("explain", "2"), ("explain", NUMBER), ("explain", "5301234569"), ("polls", "list"), ("polls", "list", "--json"),
    ("dead", "list"), ("dead", "list", "--json"), ("quarantine", "list"), ("quarantine", "list", "--json"),
    ("tokens", "list"), ("tokens", "list", "--json"), ("poll", "kampanya"), ("quarantine", "retry", "--all"),
    ("dead", "retry", "--all"), ("check",), ("rebuild",), ("accounts", "pause", "kampanya"), ("rebuild", "--reread"),
]  # fmt: skip


def test_no_command_lets_a_stored_text_act_on_the_terminal(ulak: Ulak, poisoned: list[str]) -> None:
    """Every text column, every command that shows one: no escape, no bidi control, no line that looks like ours."""
    assert {"delivery_status.provider_status", "accounts.last_trouble", "fetches.last_error"} <= set(poisoned)
    assert len(poisoned) >= 25, poisoned
    told = ""
    for words in COMMANDS:
        ran = ulak(*words)
        for line in (ran.out + ran.err).replace("\r\n", "\n").split("\n"):
            assert "csv" in words or line.isprintable(), (words, line)
            assert "csv" in words or not line.lstrip().startswith(("FAKE", "{{7")), (words, line)
        assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", ran.out + ran.err), words
        assert not BIDI.search(ran.out + ran.err), words
        told += ran.out
    assert told.count("owned") > 20


def test_json_gives_programs_the_text_as_it_is_stored(ulak: Ulak, poisoned: list[str]) -> None:
    """Escapes are for terminals; what is parsed is the provider's own text."""
    row = json.loads(ulak("deliveries", "--format", "json").out)[0]
    assert row["provider_status"].endswith(EVIL)
    [statement, *_] = json.loads(ulak("explain", "1", "--json").out)["deliveries"][0]["statements"]
    assert statement["statement"]["note"] == EVIL


def test_csv_keeps_its_rows(ulak: Ulak, poisoned: list[str]) -> None:
    """A delivery a row, whatever stands in its cells."""
    rows = list(csv.DictReader(io.StringIO(ulak("deliveries", "--format", "csv").out, newline="")))
    assert [row["id"] for row in rows] == ["1", "2", ""]
    assert json.loads(rows[0]["extra"])["note"] == EVIL


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_progress_of_up_takes_no_markup(migrated_database: Engine, poisoned: list[str], is_terminal: bool) -> None:
    """Brackets in a provider's words are no colours, and a wrong pair of them ends nothing."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=is_terminal, width=200, color_system=None)
    shown = Progress(console)
    with migrated_database.connect() as connection:
        accounts = overview(connection)
    shown.show(accounts, [EVIL])
    shown.say("Missing", EVIL)
    shown.summary(accounts, 1.0, timed_out=False)
    for line in stream.getvalue().split("\n"):
        plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", line).replace("\r", "") if is_terminal else line
        assert plain.isprintable(), plain
        assert not plain.lstrip().startswith("FAKE")
    assert "\x1b]0" not in stream.getvalue()
    assert "\x1b[31m" not in stream.getvalue()
    assert "[/red]" in stream.getvalue()


@pytest.fixture
def pages(migrated_database: Engine, poisoned: list[str]) -> Iterator[dict[str, str]]:
    """Every page that shows what others wrote."""
    paths = [
        "/", "/?fragment", "/accounts/kampanya", "/accounts/kampanya?fragment", "/polls", "/polls?fragment",
        "/polls?account=kampanya", "/deliveries", "/deliveries?account=kampanya", "/deliveries/1", "/deliveries/2",
        "/nothing", "/deliveries/9",
    ]  # fmt: skip
    with api_process(migrated_database) as client:
        headers = as_header(log_in(client))
        shown = {path: client.get(path, headers=headers) for path in paths}
        page = client.get("/deliveries", headers=headers)
        mark = re.search(r'name="form_mark" value="([^"]+)"', page.text)
        assert mark is not None
        for name, word in (("account", "kampanya"), ("recipient", NUMBER), ("client_ref", EVIL)):
            found = client.post("/deliveries", data={"form_mark": mark[1], name: word}, headers=headers)
            shown[f"search {name}"] = client.get(found.headers["location"], headers=headers)
        yield {path: answer.text for path, answer in shown.items()}


def test_no_page_lets_a_stored_text_act_in_the_browser(pages: dict[str, str]) -> None:
    """16 pages: escaped, not evaluated, and in its own direction."""
    assert len(pages) == 16
    for path, page in pages.items():
        assert "<img src=x" not in page, path
        assert "onerror=alert(1)>" not in page, path
        assert not BIDI.search(page), path
        assert "49" not in re.findall(r"\{\{(.*?)\}\}", page), path
    assert sum("onerror=alert(1)&gt;" in page for page in pages.values()) >= 6
