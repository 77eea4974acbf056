"""`ulak deliveries --file` and its further filters, and `ulak untrack`."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from command_line import Ulak, ulak
from database_fixtures import add_account
from driving import make_runtime, scalar
from ledger_acts import Held, execute, plan, vairo_body
from sqlalchemy import Engine, text

from ulak.models.database import transaction
from ulak.models.deliveries import upsert
from ulak.models.report import DeliveryReport
from ulak.models.vocabulary import Granularity, Status

__all__ = ["ulak"]

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
NUMBER = "+905301234567"


@pytest.fixture(autouse=True)
def account(ulak: Ulak, migrated_database: Engine) -> None:
    """An order with two messages, and an id without a report."""
    with transaction(migrated_database) as connection:
        add_account(connection, "kampanya")
        connection.execute(text("""UPDATE accounts SET credentials = '{"api_key": "env:NONE"}'"""))
        reports = [
            DeliveryReport(
                granularity=granularity, provider_key=key, parent_key=parent, client_ref=ref, recipient=recipient,
                status=Status.DELIVERED, provider_status="x",
            )
            for granularity, key, parent, ref, recipient in (
                (Granularity.ORDER, "s1", None, "inv-1", None),
                (Granularity.MESSAGE, "m1", "s1", "inv-1", NUMBER),
                (Granularity.MESSAGE, "m2", "s1", "inv-2", "+905301234568"),
            )
        ]  # fmt: skip
        upsert(connection, "kampanya", "vairo", reports, asked_at=NOON)
    assert ulak("track", "kampanya", f"number=771:{NUMBER}", "--ref", "inv-3").code == 0


def found(ulak: Ulak, *words: str, stdin: bytes = b"") -> list[str]:
    """What `--format json` gives: keys, or tracked ids."""
    result = ulak("deliveries", "--format", "json", *words, stdin=stdin)
    assert result.code == 0, result
    return [row["provider_key"] or row["tracked"] for row in json.loads(result.out)]


WAITING = f"number=771:{NUMBER}"


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (["--parent-key", "s1"], ["m1", "m2"]),
        (["--provider-key", " s1 "], ["s1"]),
        (["--granularity", "order"], ["s1"]),
        (["--ref", "inv-1", "--granularity", "message"], ["m1"]),
        (["--until", "2000-01-01"], []),
        (["--since", "1h", "--until", "2099-01-01"], ["m1", "m2", "s1", WAITING]),
        (["--until", "1h"], []),
    ],
)
def test_each_filter_narrows_the_search(ulak: Ulak, words: list[str], rows: list[str]) -> None:
    """As over HTTP. Of an id without a report neither a key nor a granularity is known."""
    assert found(ulak, *words) == rows


def test_a_file_of_references_keys_or_numbers_is_looked_up(ulak: Ulak, tmp_path: Path) -> None:
    """In the order of the lines; what is unknown is told by its line and not by its text."""
    file = tmp_path / "refs.txt"
    file.write_bytes("\ufeffinv-2\r\n\r\ninv-3\r\nnobody's\r\ninv-1\r\n".encode())
    result = ulak("deliveries", "--file", str(file), "--format", "json")
    keys = [row["provider_key"] or row["tracked"] for row in json.loads(result.out)]
    assert (result.code, keys, result.err) == (0, ["m2", WAITING, "s1", "m1"], "line 4: nothing is known by it\n")
    assert found(ulak, "--file", "-", "--by", "key", stdin=b"s1\nm2") == ["s1", "m2"]
    assert found(ulak, "--file", "-", "--by", "recipient", stdin=b"0530 123 45 67\n5301234568") == ["m1", WAITING, "m2"]
    assert found(ulak, "--file", "-", "--limit", "1", stdin=b"inv-1") == ["s1"]
    many = b"\n".join(b"none%d" % number for number in range(2500)) + b"\ninv-2\n"
    told = ulak("deliveries", "--file", "-", "--format", "csv", stdin=many)
    assert (told.code, len(told.out.splitlines())) == (0, 2)
    assert told.err.splitlines()[-1] == "Nothing is known by 2500 lines."


@pytest.mark.parametrize(
    "words",
    [
        ["--granularity", "letter"],
        ["--parent-key", ""],
        ["--until", "soon"],
        ["--file", "-", "--by", "name"],
        ["--file", "-", "--ref", "x"],
        ["--file", "-"],
    ],
)
def test_wrong_usage_gives_nothing(ulak: Ulak, words: list[str]) -> None:
    """Exit code 2; an empty file names nothing."""
    result = ulak("deliveries", *words)
    assert (result.code, result.out) == (2, "")


def test_an_id_is_untracked_and_polled_no_more(ulak: Ulak, migrated_database: Engine) -> None:
    """From the command line or a file; twice is once; registered again it is polled again."""
    done = ulak("untrack", "kampanya", f"number=771:{NUMBER}")
    assert (done.code, done.out) == (0, "1 untracked, 0 were not open\n")
    runtime = make_runtime(migrated_database, resolve=lambda _: "secret")
    assert plan(runtime, "kampanya") == []
    assert found(ulak, "--ref", "inv-3", "--status", "unanswered") == [WAITING]
    line = json.dumps({"kind": "number", "value": f"771:{NUMBER}"}).encode()
    again = ulak("untrack", "kampanya", "--file", "-", stdin=line + b"\n{}\n")
    assert (again.code, again.out) == (1, "0 untracked, 1 were not open\n")
    assert "line 2: kind is missing" in again.err
    assert ulak("untrack", "kampanya").code == 2
    assert ulak("track", "kampanya", f"number=771:{NUMBER}").out == "1 registered, 0 of them new\n"
    execute(migrated_database, "UPDATE tracked_ids SET next_check_at = now() WHERE closed_at IS NULL")
    assert len(plan(runtime, "kampanya")) == 1
    assert scalar(migrated_database, "SELECT client_ref FROM tracked_ids") == "inv-3"


def test_an_answer_that_is_on_its_way_is_stored_and_opens_nothing(ulak: Ulak, migrated_database: Engine) -> None:
    """The id is let go while its request is made: the report counts, the id stays closed."""
    runtime = make_runtime(migrated_database, resolve=lambda _: "secret")
    execute(migrated_database, "UPDATE tracked_ids SET next_check_at = now()")
    [fetch_id] = plan(runtime, "kampanya")
    held = Held(runtime, fetch_id)
    assert ulak("untrack", "kampanya", f"number=771:{NUMBER}").out == "1 untracked, 0 were not open\n"
    held.answer(vairo_body(f"771:{NUMBER}", "WAITING", key=9))
    assert scalar(migrated_database, "SELECT status FROM delivery_status WHERE provider_key = '9'") == "enroute"
    state = "SELECT close_reason || coalesce(fetch_id, 0) FROM tracked_ids WHERE id_kind = 'number'"
    assert scalar(migrated_database, state) == "untracked0"
    assert scalar(migrated_database, "SELECT count(*) FROM fetches WHERE state IN ('ready', 'sending')") == 0
