"""`ulak deliveries`, `explain`, `ingest`, `quarantine`, `rebuild`, `erase`: the shared table, looked up and mended."""

import contextlib
import csv
import io
import json
import os
import pty
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from command_line import Ulak, ulak
from database_fixtures import add_account
from sqlalchemy import Engine, text

from ulak.core import clock
from ulak.core.settings import load_settings
from ulak.models import latencies
from ulak.models.account import list_accounts
from ulak.models.database import transaction
from ulak.models.deliveries import upsert
from ulak.models.quarantine import seal
from ulak.models.report import DeliveryReport, Unreadable
from ulak.models.vocabulary import Granularity, Reason, Status
from ulak.tasks.runtime import seal_key

__all__ = ["ulak"]

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
NUMBER = "+905301234567"


def report(key: str, status: Status, **fields: object) -> DeliveryReport:
    """One statement about a message."""
    values = {"provider_status": status.value, "recipient": NUMBER, "client_ref": "siparis-1"} | fields
    return DeliveryReport(granularity=Granularity.MESSAGE, provider_key=key, status=status, **values)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def account(ulak: Ulak, migrated_database: Engine) -> None:
    """Three deliveries of one account, and an id that was never answered."""
    with transaction(migrated_database) as connection:
        add_account(connection, "kampanya")
        upsert(connection, "kampanya", "vairo", [report("m-1", Status.ENROUTE)], asked_at=NOON)
        later = NOON + timedelta(minutes=1)
        reports = [
            report("m-1", Status.DELIVERED, done_at=NOON),
            report("m-2", Status.UNDELIVERABLE, reason=Reason.ABSENT, client_ref=None),
            report("m-3", Status.ENROUTE, recipient="+905301234568", client_ref="=1+1"),
        ]
        upsert(connection, "kampanya", "vairo", reports, asked_at=later)
    line = json.dumps({"kind": "number", "value": "771:+905301234569", "recipient": "05301234569", "client_ref": "son"})
    assert ulak("track", "kampanya", "--file", "-", stdin=line.encode()).code == 0


def found(ulak: Ulak, *words: str) -> list[tuple[object, ...]]:
    """What `--format json` gives: key or tracked id, recipient, status."""
    result = ulak("deliveries", "--format", "json", *words)
    assert (result.code, result.err) == (0, "")
    return [(row["provider_key"] or row["tracked"], row["recipient"], row["status"]) for row in json.loads(result.out)]


ONE = ("m-1", NUMBER, "delivered")
TWO = ("m-2", NUMBER, "undeliverable")
THREE = ("m-3", "+905301234568", "enroute")
WAITING = ("number=771:+905301234569", "+905301234569", "open")


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        ([], [ONE, TWO, THREE, WAITING]),
        (["--account", "kampanya", "--status", "undeliverable"], [TWO]),
        (["--status", "open"], [THREE, WAITING]),
        (["--recipient", "0530 123 45 67"], [ONE, TWO]),
        (["--recipient", "5301234569"], [WAITING]),
        (["--ref", "siparis-1"], [ONE]),
        (["--ref", "son"], [WAITING]),
        (["--since", "1h"], [ONE, TWO, THREE, WAITING]),
        (["--since", "2999-01-01"], []),
    ],
)
def test_deliveries_match_everything_given(ulak: Ulak, words: list[str], rows: list[tuple[object, ...]]) -> None:
    """By account, status, number in any usual spelling, reference, change; the unanswered show as open."""
    assert found(ulak, *words) == rows


def test_an_account_narrows_what_was_never_answered_too(ulak: Ulak, migrated_database: Engine) -> None:
    """Support staff of one account read nothing of another, and what nobody asks for any more is told apart."""
    with transaction(migrated_database) as connection:
        add_account(connection, "bildirim")
        upsert(connection, "bildirim", "vairo", [report("b-1", Status.UNREPORTED)], asked_at=NOON)
        upsert(connection, "bildirim", "vairo", [report("b-2", Status.UNKNOWN)], asked_at=NOON)
    assert ulak("track", "bildirim", "number=5:5301234567").code == 0
    with transaction(migrated_database) as connection:
        closing = "UPDATE tracked_ids SET closed_at = now(), close_reason = 'expired', next_check_at = NULL"
        connection.execute(text(f"{closing} WHERE account_id = 'bildirim'"))
    closed = ("number=5:5301234567", NUMBER, "unanswered")
    one, two = ("b-1", NUMBER, "unreported"), ("b-2", NUMBER, "unknown")
    assert found(ulak, "--account", "kampanya") == [ONE, TWO, THREE, WAITING]
    assert found(ulak, "--account", "bildirim") == [one, two, closed]
    assert found(ulak, "--account", "bildirim", "--status", "unanswered") == [closed]
    assert found(ulak, "--account", "bildirim", "--status", "open") == [two]
    assert found(ulak, "--status", "open") == [THREE, two, WAITING]


@pytest.mark.parametrize(("hours", "many"), [(-1, 4), (1, 0)])
def test_a_bare_time_is_of_the_accounts_zone(ulak: Ulak, migrated_database: Engine, hours: int, many: int) -> None:
    """An hour ago on a clock in Istanbul is not two hours from now."""
    with transaction(migrated_database) as connection:
        connection.execute(text("UPDATE accounts SET timezone = 'Europe/Istanbul'"))
    local = (clock.now().astimezone(ZoneInfo("Europe/Istanbul")) + timedelta(hours=hours)).replace(tzinfo=None)
    since = local.isoformat(timespec="seconds")
    assert len(found(ulak, "--account", "kampanya", "--since", since)) == many


def test_every_form_keeps_to_its_limit(ulak: Ulak) -> None:
    """So many rows and no more, whatever they are written as."""
    assert found(ulak, "--limit", "2") == [ONE, TWO]
    assert len(list(csv.DictReader(io.StringIO(ulak("deliveries", "--format", "csv", "--limit", "2").out)))) == 2
    assert len(ulak("deliveries", "--limit", "2").out.splitlines()) == 3


def test_json_has_every_column_of_the_shared_table(ulak: Ulak) -> None:
    """Times in UTC, and `tracked` for what was never answered."""
    (row,) = json.loads(ulak("deliveries", "--ref", "siparis-1", "--format", "json").out)
    assert row["message_time"] == row["first_seen_at"]
    for name in ("id", "first_seen_at", "changed_at", "message_time"):
        assert row.pop(name)
    assert row == {
        "account_id": "kampanya", "provider": "vairo", "granularity": "message", "provider_key": "m-1",
        "parent_key": None, "client_ref": "siparis-1", "recipient": NUMBER, "status": "delivered", "is_final": True,
        "reason": None, "provider_status": "delivered", "provider_error": None, "conflict": False, "total": None,
        "delivered": None, "undelivered": None, "waiting": None, "segments": None, "credits": None, "sent_at": None,
        "done_at": "2026-05-01T12:00:00Z", "valid_until": None, "extra": {}, "tracked": None,
        "message_time_source": "first_seen", "provider_status_meaning": None, "provider_error_meaning": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ref", "shown"),
    [
        ("-1+1", "'-1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1+1", "'\t'=1+1"),
        ("\r=1+1", "'\r'=1+1"),
        ("ref\r=1+1", "ref\r'=1+1"),  # one cell: a bare carriage return must not begin a row
        ("ref\n=1+1", "ref\n'=1+1"),
        ('one, "two"', 'one, "two"'),
        ("+1", "'+1"),
        ("+905301234567", "+905301234567"),
    ],
)
def test_no_reference_becomes_a_formula_or_a_row_of_its_own(
    ulak: Ulak, migrated_database: Engine, ref: str, shown: str
) -> None:
    """A sender's own id may hold anything: in csv it is one cell, and nothing that a spreadsheet would run."""
    with transaction(migrated_database) as connection:
        upsert(connection, "kampanya", "vairo", [report("odd", Status.DELIVERED, client_ref=ref)], asked_at=NOON)
    told = ulak("deliveries", "--format", "csv").out
    rows = list(csv.DictReader(io.StringIO(told, newline="")))
    assert [row["provider_key"] for row in rows] == ["m-1", "m-2", "m-3", "odd", ""]
    assert rows[3]["client_ref"] == shown
    assert "\r\n" not in told


@pytest.mark.parametrize(("delimiter", "sign"), [(";", ";"), ("|", "|"), ("tab", "\t")])
def test_csv_may_have_the_delimiter_that_a_spreadsheet_expects(
    ulak: Ulak, migrated_database: Engine, delimiter: str, sign: str
) -> None:
    """The same cells; a value that holds the sign is quoted."""
    ref = f'one{sign}"two",three'
    with transaction(migrated_database) as connection:
        upsert(connection, "kampanya", "vairo", [report("odd", Status.DELIVERED, client_ref=ref)], asked_at=NOON)
    plain, other = (ulak("deliveries", "--format", "csv", *words).out for words in ([], ["--delimiter", delimiter]))
    assert other.startswith(f"id{sign}account_id{sign}")
    rows = list(csv.reader(io.StringIO(other, newline=""), delimiter=sign))
    assert rows == list(csv.reader(io.StringIO(plain, newline="")))
    assert ref in rows[4]


def test_csv_is_safe_to_open_and_a_table_is_plain(ulak: Ulak) -> None:
    """What would run as a formula is quoted, a number keeps its plus; a table that is cut says so on stderr."""
    rows = list(csv.DictReader(io.StringIO(ulak("deliveries", "--format", "csv").out)))
    assert [(row["client_ref"], row["recipient"]) for row in rows][2] == ("'=1+1", "+905301234568")
    table = ulak("deliveries", "--limit", "2")
    assert [line.split()[3] for line in table.out.splitlines()[1:]] == ["delivered", "undeliverable"]
    assert table.err == "There are more than 2: narrow the search, raise --limit, or use --format csv.\n"
    assert "\x1b" not in table.out


@pytest.mark.parametrize(
    "words",
    [
        ["--format", "xml"],
        ["--status", "gone"],
        ["--since", "soon"],
        ["--format", "csv", "--delimiter", "x"],
        ["--format", "csv", "--delimiter", ""],
        ["--format", "json", "--delimiter", ";"],
    ],
)
def test_wrong_usage_is_told_with_what_would_be_right(ulak: Ulak, words: list[str]) -> None:
    """Exit code 2 and nothing on stdout."""
    result = ulak("deliveries", *words)
    assert (result.code, result.out) == (2, "")
    assert "must be" in result.err


@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_option_does_not_show_everybody(ulak: Ulak, value: str) -> None:
    """What an unset variable leaves is wrong usage, not a search without bounds."""
    for option in ("--account", "--recipient", "--ref"):
        result = ulak("deliveries", option, value)
        assert (result.code, result.out, result.err) == (
            2,
            "",
            f"{option} is empty: give it a value, or leave it out.\n",
        )


def test_a_recipient_that_is_no_number_and_matches_nothing_is_told(ulak: Ulak, migrated_database: Engine) -> None:
    """A digit short is not the same as nothing sent; an id that matches, and a number that does not, are plain."""
    with transaction(migrated_database) as connection:
        upsert(connection, "kampanya", "vairo", [report("m-4", Status.SENT, recipient="hash-1")], asked_at=NOON)
    short, known, number = (
        ulak("deliveries", "--format", "json", "--recipient", text)
        for text in ("0530 123 45 6", "hash-1", "05309999998")
    )
    told = (
        "--recipient could not be read as a phone number, so it was searched literally"
        " (a provider's own id of a person): nothing matches.\n"
    )
    assert (short.code, json.loads(short.out), short.err) == (0, [], told)
    assert ([row["provider_key"] for row in json.loads(known.out)], known.err) == (["m-4"], "")
    assert (json.loads(number.out), number.err) == ([], "")


@pytest.mark.parametrize(
    "words",
    [
        ("deliveries", "--account", "nix"),
        ("polls", "list", "nix"),
        ("dead", "list", "--account", "nix"),
        ("dead", "retry", "--all", "--account", "nix"),
        ("quarantine", "list", "--account", "nix"),
        ("quarantine", "retry", "--all", "--account", "nix"),
        ("rebuild", "nix"),
    ],
)
def test_an_account_that_is_not_there_is_told_by_every_command(ulak: Ulak, words: tuple[str, ...]) -> None:
    """As `ulak status` does: an empty list would say that the account is well. Without a name it is wrong usage."""
    status, result = ulak("status", "nix"), ulak(*words)
    assert (result.code, result.out, result.err) == (status.code, "", status.err)
    assert status.err == "There is no account 'nix': `ulak accounts list` shows the known ones.\n"
    empty = ulak(*words[:-1], "")
    assert (empty.code, empty.out) == (2, "")
    assert empty.err.endswith(" is empty: give it a value, or leave it out.\n")


@pytest.mark.parametrize("account_given", [(), ("--account", "kampanya")])
def test_with_nothing_to_retry_all_says_so(ulak: Ulak, account_given: tuple[str, ...]) -> None:
    """One line, and it is no failure."""
    of = " of kampanya" if account_given else ""
    dead, quarantine = (ulak(group, "retry", "--all", *account_given) for group in ("dead", "quarantine"))
    assert (dead.code, dead.out, dead.err) == (
        0,
        "",
        f"There are no dead fetches{of}, so nothing is retried.\n",
    )
    assert (quarantine.code, quarantine.out, quarantine.err) == (
        0,
        "",
        f"Nothing{of} is in quarantine, so nothing is read again.\n",
    )


@pytest.mark.parametrize("ident", ["m-1", "siparis-1"])
def test_an_explanation_says_what_won_and_why(ulak: Ulak, ident: str) -> None:
    """Both statements of the message stand there, the winner first."""
    (told,) = json.loads(ulak("explain", ident, "--json").out)["deliveries"]
    assert [(each["status"], each["won"], each["lost_by"]) for each in told["statements"]] == [
        ("delivered", True, None),
        ("enroute", False, "class"),
    ]
    shown = ulak("explain", ident)
    assert (shown.code, shown.err) == (0, "")
    assert "decides the status" in shown.out
    assert "superseded: class" in shown.out
    assert "reason:" not in shown.out


def test_codes_statuses_and_reasons_are_explained_where_people_see_them(ulak: Ulak, migrated_database: Engine) -> None:
    """From the adapter's table, beside the code; a code that no document knows stands alone."""
    with transaction(migrated_database) as connection:
        add_account(connection, "marka", provider="organik")
        fields = {"provider_status": "3", "provider_error": "23", "reason": Reason.OPTED_OUT, "client_ref": "coded"}
        strange = report("o-2", Status.UNKNOWN, provider_status="7", client_ref="strange")
        upsert(connection, "marka", "organik", [report("o-1", Status.REJECTED, **fields), strange], asked_at=NOON)
    explained = ulak("explain", "coded").out
    for line in (
        "status: rejected: The provider or operator refused the message; it was never handed over. Final.",
        "reason: opted_out: The person does not accept such messages",
        "provider status: 3: wrong number",
        "provider error: 23: the number has refused consent (İYS)",
    ):
        assert f"  {line}" in explained
    (told,) = json.loads(ulak("explain", "coded", "--json").out)["deliveries"]
    meanings = {
        "provider_status_meaning": "wrong number",
        "provider_error_meaning": "the number has refused consent (İYS)",
    }
    assert meanings.items() <= told["delivery"].items()
    assert ({"provider_status": "3", "provider_error": "23"} | meanings).items() <= told["statements"][0].items()
    assert "3: wrong number; 23: the number has refused consent (İYS)" in ulak("deliveries", "--ref", "coded").out
    (row,) = csv.DictReader(io.StringIO(ulak("deliveries", "--ref", "coded", "--format", "csv").out))
    assert meanings.items() <= row.items()
    (row,) = json.loads(ulak("deliveries", "--ref", "strange", "--format", "json").out)
    assert (row["provider_status"], row["provider_status_meaning"]) == ("7", None)


@pytest.mark.parametrize("ident", ["14094857", "0014094857", " 14094857\u200b", "1409\u200b4857", "١٤٠٩٤٨٥٧"])
def test_an_id_is_explained_in_any_form_in_which_it_is_pasted(
    ulak: Ulak, migrated_database: Engine, ident: str
) -> None:
    """Ids are stored in one form, so a look-up must not need it."""
    with transaction(migrated_database) as connection:
        upsert(connection, "kampanya", "vairo", [report("14094857", Status.DELIVERED)], asked_at=clock.now())
    (explained,) = json.loads(ulak("explain", ident, "--json").out)["deliveries"]
    assert explained["delivery"]["provider_key"] == "14094857"


def test_a_number_explains_all_its_deliveries_and_what_was_never_answered(ulak: Ulak) -> None:
    """In any usual spelling; an id that nobody knows is a failure that does not repeat it."""
    assert len(json.loads(ulak("explain", "0530 123 45 67", "--json").out)["deliveries"]) == 2
    waiting = ulak("explain", "0(530) 123 45 69")
    assert waiting.code == 0
    assert waiting.out.startswith("kampanya number=771:+905301234569: open. Registered ")
    nothing = ulak("explain", "05309999999")
    assert (nothing.code, nothing.out, nothing.err) == (1, "", "Nothing is known by that id.\n")


REPLY: dict[str, Any] = {
    "txnid": "T-1",
    "resultcode": 0,
    "list": [{"resultcode": 0, "receiver": "905301234570", "reportid": "r-1"}],
}


def test_a_send_reply_is_stored_from_a_file(ulak: Ulak, migrated_database: Engine, tmp_path: Path) -> None:
    """Twice is once; what is not understood is kept and told; a strange tail is wrong usage.

    The shell need not have the account's credentials.
    """
    missing = '{"callback_user": "env:NO_SUCH_VARIABLE", "callback_password": "env:NO_SUCH_VARIABLE"}'
    with transaction(migrated_database) as connection:
        add_account(connection, "bildirim", provider="bip")
        connection.execute(text("UPDATE accounts SET credentials = CAST(:missing AS jsonb)"), {"missing": missing})
    path = tmp_path / "reply.json"
    path.write_text(json.dumps(REPLY), encoding="utf-8")
    first, again = ulak("ingest", "bildirim", str(path)), ulak("ingest", "bildirim", str(path))
    assert (first.code, first.out) == (0, "1 reports: 1 new, 0 advanced, 0 unchanged\n")
    assert (again.code, again.out) == (0, "1 reports: 0 new, 0 advanced, 1 unchanged\n")
    broken = ulak("ingest", "bildirim", "-", "--tail", "report", stdin=b"<html>")
    assert (broken.code, broken.out) == (1, "0 reports: 0 new, 0 advanced, 0 unchanged\n")
    assert ulak("ingest", "bildirim", str(path), "--tail", "x").code == 2


def test_an_empty_file_is_no_reply_and_leaves_nothing_behind(ulak: Ulak, migrated_database: Engine) -> None:
    """Nothing, or nothing but blanks, is wrong usage: there is nothing that could be kept for a later reading."""
    with transaction(migrated_database) as connection:
        add_account(connection, "bildirim", provider="bip")
    for body in (b"", b" \r\n"):
        empty = ulak("ingest", "bildirim", "-", stdin=body)
        assert (empty.code, empty.out, empty.err) == (
            2,
            "",
            "There is nothing to store: give the body byte for byte as the provider gave it.\n",
        )
    assert json.loads(ulak("quarantine", "list", "--json").out) == []


def test_what_nobody_will_understand_is_discarded_and_its_reason_stays(ulak: Ulak, migrated_database: Engine) -> None:
    """By id, by account or all; the bytes are gone, the row stays. It is asked for, or said with `--yes`."""
    key = seal_key(load_settings())
    with transaction(migrated_database) as connection:
        add_account(connection, "bildirim", provider="bip")
        for account, many in (("kampanya", 2), ("bildirim", 3)):
            items = [Unreadable(reason="not JSON", raw=b"<html>%d" % number) for number in range(many)]
            seal(connection, key, account_id=account, origin="poll:batch", unreadable=items, context={})

    def held() -> list[tuple[int, str]]:
        return [(row["id"], row["account_id"]) for row in json.loads(ulak("quarantine", "list", "--json").out)]

    assert [ulak("quarantine", "discard", *words).code for words in ([], ["--account", "kampanya"])] == [2, 2]
    unasked = ulak("quarantine", "discard", "--all", stdin=b"y\n")
    assert (unasked.code, unasked.out, unasked.err) == (
        2,
        "",
        "Discarding cannot be undone, and there is no terminal to confirm on: pass --yes to proceed.\n",
    )
    nobody = ulak("quarantine", "discard", "--all", "--account", "nobody", "--yes")
    assert (nobody.code, nobody.out) == (1, "")
    assert len(held()) == 5
    header, line = ulak("status", "bildirim").out.splitlines()
    assert line[header.index("quarantine") :].split() == ["3"]
    [first, second] = [entry for entry, account in held() if account == "kampanya"]
    one = ulak("quarantine", "discard", str(first), "9999", "--yes")
    assert (one.code, one.out, one.err) == (
        1,
        f"{first}: discarded\n9999: is not in quarantine\n",
        "Not all of them were in quarantine: `ulak quarantine list` shows what is.\n",
    )
    own = ulak("quarantine", "discard", "--all", "--account", "bildirim", "--yes")
    assert (own.code, len(own.out.splitlines()), held()) == (0, 3, [(second, "kampanya")])
    refused, said = at_a_terminal(b"n\n", "quarantine", "discard", "--all")
    assert (refused, "Entries to be discarded without being read: 1. Go on?" in said, len(held())) == (1, True, 1)
    agreed, said = at_a_terminal(b"y\n", "quarantine", "discard", "--all")
    assert (agreed, f"{second}: discarded" in said, held()) == (0, True, [])
    assert ulak("quarantine", "discard", "--all", "--yes").code == 0
    with transaction(migrated_database) as connection:
        query = "SELECT DISTINCT reason, sealed, resolved_at IS NULL FROM quarantine"
        assert [tuple(each) for each in connection.execute(text(query))] == [("not JSON", None, False)]


def test_quarantine_is_read_again_and_leaves_the_list_when_it_is_understood(
    ulak: Ulak, migrated_database: Engine
) -> None:
    """A body that today's code understands is stored; one that it does not stays, with the reason."""
    with transaction(migrated_database) as connection:
        add_account(connection, "bildirim", provider="bip")
        half = REPLY | {"list": [*REPLY["list"], {"receiver": "905301234571"}]}
        bodies = {"old code": json.dumps(REPLY), "old": "<html>", "half": json.dumps(half)}
        items = [Unreadable(reason=reason, raw=body.encode()) for reason, body in bodies.items()]
        seal(
            connection,
            seal_key(load_settings()),
            account_id="bildirim",
            origin="callback:report",
            unreadable=items,
            context={},
        )
        entries = {row.reason: row.id for row in connection.execute(text("SELECT reason, id FROM quarantine"))}
    assert "905301234570" not in ulak("quarantine", "list").out
    result = ulak("quarantine", "retry", "--all")
    assert result.code == 1
    assert f"{entries['old code']}: understood and stored\n" in result.out
    assert found(ulak, "--account", "bildirim") == [("r-1", "+905301234570", "enroute")]
    assert [row["id"] for row in json.loads(ulak("quarantine", "list", "--json").out)] == sorted(
        [entries["old"], entries["half"]]
    )
    gone = ulak("quarantine", "retry", str(entries["old code"]))
    assert (gone.code, gone.out) == (1, f"{entries['old code']}: is not in quarantine\n")


def test_an_entry_leaves_when_its_delivery_is_known_since(ulak: Ulak, migrated_database: Engine) -> None:
    """An item cut out of its answer cannot be read alone, but a later answer has told the status."""
    with transaction(migrated_database) as connection:
        items = [Unreadable(reason="unknown word", raw=b"{}", provider_key="m-1")]
        seal(
            connection,
            seal_key(load_settings()),
            account_id="kampanya",
            origin="poll:batch",
            unreadable=items,
            context={"params": {"call": "NumaraRaporu", "send": "771", "number": NUMBER}},
        )
    result = ulak("quarantine", "retry", "--all")
    assert (result.code, result.out) == (0, "1: its delivery has got a known status since\n")


def test_a_rebuild_mends_a_row_that_somebody_changed(ulak: Ulak, migrated_database: Engine) -> None:
    """Afterwards the table is what its history says."""
    with transaction(migrated_database) as connection:
        connection.execute(text("UPDATE delivery_status SET status = 'rejected' WHERE provider_key = 'm-1'"))
    result = ulak("rebuild")
    assert (result.code, result.out) == (0, "3 deliveries recomputed, 1 of them differed and were written\n")
    assert found(ulak, "--ref", "siparis-1") == [ONE]


def test_an_erased_number_is_nowhere_any_more(ulak: Ulak) -> None:
    """In any usual spelling, deliveries and registered ids alike; the number is not repeated."""
    result = ulak("erase", "0530 123 45 67", "--yes")
    assert (result.code, result.out.splitlines()[0]) == (0, "2 deliveries, 3 statements, 0 registered ids,")
    assert result.err == ""
    (event,) = json.loads(ulak("events", "--recipient", "+905301234567", "--action", "person.erased", "--json").out)
    assert (event["details"]["deliveries"], event["details"]["observations"]) == (2, 3)
    assert ulak("erase", "05301234569", "--yes").out.startswith("0 deliveries, 0 statements, 1 registered ids,\n")
    assert found(ulak) == [THREE]
    assert "5301234567" not in result.out + result.err


def test_who_is_nobody_cannot_be_erased(ulak: Ulak) -> None:
    """An empty variable is wrong usage, said before anybody is asked for a yes."""
    nobody = "Nobody is named: give a number or a provider's id of a person.\n"
    assert [(ran.code, ran.out, ran.err) for ran in (ulak("erase", ""), ulak("erase", " ", "--yes"))] == [
        (2, "", nobody)
    ] * 2
    assert [ulak("erase", word, "--yes").code for word in ("0", "+1", "+9", "number")] == [2] * 4
    assert found(ulak) == [ONE, TWO, THREE, WAITING]


@pytest.mark.parametrize(
    ("person", "said"),
    [
        (
            "0530 999 99 98",
            "*******98, so nothing was removed; the number was looked for with and without country code",
        ),
        ("45186", "45186, so nothing was removed; it is not a number, so it was searched literally."),
    ],
)
def test_an_erasure_that_finds_nothing_says_so(ulak: Ulak, person: str, said: str) -> None:
    """A mistyped number must not pass for a person who was forgotten; the number is not repeated."""
    result = ulak("erase", person, "--yes")
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
    assert result.err.startswith(f"Nothing was found of {said}")


def test_nothing_is_erased_before_somebody_has_said_yes(ulak: Ulak) -> None:
    """At a terminal a person is asked; elsewhere `--yes` is needed, and its lack is wrong usage."""
    unasked = ulak("erase", NUMBER, stdin=b"y\n")
    assert (unasked.code, unasked.out, unasked.err) == (
        2,
        "",
        "Erasing cannot be undone, and there is no terminal to confirm on: pass --yes to proceed.\n",
    )
    assert len(found(ulak, "--recipient", NUMBER)) == 2
    refused, said = at_a_terminal(b"n\n", "erase", NUMBER)
    assert (refused, "Remove everything that is stored about this recipient?" in said) == (1, True)
    assert len(found(ulak, "--recipient", NUMBER)) == 2
    agreed, said = at_a_terminal(b"y\n", "erase", NUMBER)
    assert (agreed, "2 deliveries, 3 statements, 0 registered ids," in said) == (0, True)
    assert found(ulak, "--recipient", NUMBER) == []


def at_a_terminal(answer: bytes, *words: str) -> tuple[int, str]:
    """The exit code of `ulak` with these words in a terminal in which a person answers so, and what it showed."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "ulak.cli.main", *words]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        os.write(ours, answer)
        said = b""
        # Linux tells with an error that the other side has gone.
        with contextlib.suppress(OSError):
            while part := os.read(ours, 4096):
                said += part
        os.close(ours)
        return process.wait(30), said.decode()


PASTED = [
    "\u202a+90 530 123 45 67\u202c",
    "\u2068+905301234567\u2069",
    "\u200e+90\u2011530\u2011123\u201145\u201167",
    "\ufeff0530\u00a0123\u202f45\u200967",
    "\uff0b\uff19\uff10\uff15\uff13\uff10\uff11\uff12\uff13\uff14\uff15\uff16\uff17",
    "+\u0669\u0660\u0665\u0663\u0660\u0661\u0662\u0663\u0664\u0665\u0666\u0667",
]


@pytest.mark.parametrize("number", PASTED)
def test_a_pasted_number_is_found_explained_and_erased(ulak: Ulak, number: str) -> None:
    """What nobody can see in it, and the script of its digits, do not count at any command."""
    assert found(ulak, "--recipient", number) == [ONE, TWO]
    explained = ulak("explain", number, "--json")
    assert [each["delivery"]["provider_key"] for each in json.loads(explained.out)["deliveries"]] == ["m-1", "m-2"]
    assert found(ulak, "--ref", "\u200esiparis-1 ") == [ONE]
    gone = ulak("erase", number, "--yes")
    assert (gone.code, found(ulak, "--recipient", NUMBER)) == (0, [])


def test_marks_alone_are_nobody(ulak: Ulak) -> None:
    """An erasure of what is empty to the eye erases nobody."""
    assert ulak("erase", "\u202a\u202c", "--yes").code == 2


def _give_plan(engine: Engine, kinds: dict[str, Any]) -> None:
    """A learned plan in force for every account."""
    with engine.begin() as connection:
        for stored in list_accounts(connection):
            latencies.plan(connection, stored.id, {"kinds": kinds, "settings": latencies.settings(stored)})


def test_what_explain_shows_of_open_ids_is_recorded(ulak: Ulak, migrated_database: Engine) -> None:
    """By whatever it was found: the number stands in the id."""
    viewed = text("SELECT count(*) FROM events WHERE action = 'delivery.viewed' AND person IS NOT NULL")
    for given, wanted in ((("son",), 1), (("son", "--next"), 2)):
        assert "1234569" in ulak("explain", *given).out
        with migrated_database.connect() as connection:
            assert connection.execute(viewed).scalar_one() == wanted


def test_explain_next_names_the_coming_checks(ulak: Ulak, migrated_database: Engine) -> None:
    """By the fixed schedule at first, by the learned one where there is a plan; the last is right after validity."""
    sent = "SELECT sent_at FROM tracked_ids WHERE client_ref = 'son'"
    with migrated_database.begin() as connection:
        began = connection.execute(text(sent)).scalar_one()
    [fixed] = json.loads(ulak("explain", "son", "--next", "--json").out)
    ages = [(datetime.fromisoformat(each) - began).total_seconds() for each in fixed["checks"]]
    assert ages[:3] == pytest.approx([5, 25, 85], abs=0.01)
    assert fixed["learned"] is None
    times = {"ages": [9.0, 40.0, 900.0], "every": None, "until": 86400.0}
    _give_plan(migrated_database, {"number": times})
    [learned] = json.loads(ulak("explain", "05301234569", "--next", "--json").out)
    ages = [(datetime.fromisoformat(each) - began).total_seconds() for each in learned["checks"]]
    assert ages[:5] == pytest.approx([5, 9, 40, 900, 86401], abs=0.01)
    shown = ulak("explain", "771:+905301234569", "--next")
    assert "times learned from earlier messages." in shown.out
    _give_plan(migrated_database, {"number": {**times, "masses": [1.0]}})
    assert "or later, when its batch is worth a call." in ulak("explain", "son", "--next").out
    assert ulak("explain", "m-1", "--next").code == 1
    with migrated_database.connect() as connection:
        searches = connection.execute(text("SELECT count(*) FROM events WHERE action = 'person.searched'")).scalar_one()
    assert searches == 1


# --------------------------------------------------------------------------------------------------------- statistics


def test_statistics_are_counted_on_the_command_line(ulak: Ulak, migrated_database: Engine) -> None:
    """By what --by names, as a table, JSON or csv; the days are inclusive, and credits are explained."""
    with transaction(migrated_database) as connection:
        add_account(connection, "toplu", provider="organik")
        told = [report("o-1", Status.DELIVERED, sent_at=NOON, done_at=NOON + timedelta(seconds=9), credits=2)]
        upsert(connection, "toplu", "organik", told, asked_at=NOON)
    days = ("--from", "2026-05-01", "--to", "2026-05-01")
    shown = ulak("statistics", *days, "--by", "status,account", "--format", "json")
    assert (shown.code, json.loads(shown.out)["from"]) == (0, "2026-05-01")
    [only] = json.loads(shown.out)["groups"]
    names = ("account", "status", "messages", "delivery_rate", "credits", "mean_seconds")
    assert tuple(only[name] for name in names) == ("toplu", "delivered", 1, 1.0, 2.0, 9.0)
    assert "Credits of organik: Credits calculated for each message, not what was spent" in shown.err
    # The others were first seen today: their provider says no sending time.
    today = list(csv.DictReader(io.StringIO(ulak("statistics", "kampanya", "--by", "reason", "--format", "csv").out)))
    assert [(row["reason"], row["messages"], row["credits"]) for row in today] == [
        ("absent", "1", "0.0"),
        ("", "2", "0.0"),
    ]
    assert "kampanya" in ulak("statistics").out
    wrong = ("--by", "colour"), ("--from", "2026-05-02", "--to", "2026-05-01"), ("--from", "x"), ("--format", "xml")
    assert [ulak("statistics", *each).code for each in wrong] == [2, 2, 2, 2]
    assert ulak("statistics", "nobody").code == 1
