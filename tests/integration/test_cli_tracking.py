"""`ulak track`: right lines are registered, wrong ones are named."""

import json
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from command_line import Ulak, ulak
from database_fixtures import add_account
from sqlalchemy import Engine, text

from ulak.cli.idfiles import HEADER, BadLine, GoodLine, read_ids
from ulak.models.database import transaction

__all__ = ["ulak"]

WRONG_HEADER = f"The first line must be the csv header: {HEADER}."
NO_IDS = f"The file holds no ids: right would be one a line, as JSON or as csv below {HEADER}.\n"


@pytest.fixture(autouse=True)
def account(migrated_database: Engine) -> str:
    """An account of a provider that takes registered ids."""
    with transaction(migrated_database) as connection:
        account = add_account(connection, "kampanya", provider="vairo")
        connection.execute(text("UPDATE accounts SET timezone = 'Europe/Istanbul'"))
        return account


def tracked(engine: Engine) -> list[tuple[object, ...]]:
    """What is registered."""
    with engine.connect() as connection:
        found = connection.execute(
            text("SELECT id_kind, value, client_ref, recipient, expected, sent_at::text FROM tracked_ids ORDER BY id")
        )
        return [tuple(row) for row in found]


def test_ids_of_the_command_line_are_registered_once(ulak: Ulak, migrated_database: Engine) -> None:
    """The second time changes nothing and says so."""
    first = ulak("track", "kampanya", "number=771:+905301234567", "number=771:+905301234568")
    again = ulak("track", "kampanya", "number=771:+905301234567")
    assert (first.code, first.out) == (0, "2 registered, 2 of them new\n")
    assert (again.code, again.out) == (0, "1 registered, 0 of them new\n")
    assert [row[1] for row in tracked(migrated_database)] == ["771:+905301234567", "771:+905301234568"]


def test_a_wrong_id_of_the_command_line_is_wrong_usage_and_registers_nothing(
    ulak: Ulak, migrated_database: Engine
) -> None:
    """The right id before it is not registered either, and neither id is repeated."""
    result = ulak("track", "kampanya", "number=771:+905301234567", "letter=771:+905301234567")
    assert (result.code, result.out) == (2, "")
    assert result.err == "Id 2 of the command line: kind must be one of: number, order, message.\n"
    assert tracked(migrated_database) == []


def test_a_csv_file_registers_its_right_lines_and_names_the_wrong_ones(
    ulak: Ulak, migrated_database: Engine, tmp_path: Path
) -> None:
    """Bare times are of the account's zone; a wrong line says its number and what would be right, never its values."""
    path = tmp_path / "ids.csv"
    path.write_text(
        "\ufeffkind,value,client_ref,recipient,expected,sent_at\n"
        "number,771:+905301234567,siparis-1,0530 123 45 67,1,2026-05-01T12:30:00\n"
        "number,771:+905301234568,,,zero,\n"
        "\n"
        "sms,771:+905301234569,,,,\n"
        'number,"771:+905301234570",,,,yesterday\n'
        "number,5301234571,,,,\n"
        "number,771:+905301234572,,,,2026-05-01T12:30:00+02:00\n",
        encoding="utf-8",
    )
    result = ulak("track", "kampanya", "--file", str(path))
    assert (result.code, result.out) == (1, "2 registered, 2 of them new\n")
    assert result.err.splitlines() == [
        "line 3: expected must be a whole number from 1",
        "line 5: kind must be one of: number, order, message",
        "line 6: sent_at must be a time such as 2026-05-01T12:30:00+03:00",
        "line 7: The tracked id is not <send id>:<number>.",
        "4 lines were not registered; put them right and register them again.",
    ]
    assert tracked(migrated_database) == [
        ("number", "771:+905301234567", "siparis-1", "+905301234567", 1, "2026-05-01 09:30:00+00"),
        ("number", "771:+905301234572", None, "+905301234572", None, "2026-05-01 10:30:00+00"),
    ]


def test_a_value_that_is_no_text_or_no_count_is_a_wrong_line() -> None:
    """Bytes that are not UTF-8 would become another id, and a send of no message is none."""
    lines = [
        b"kind,value,expected\n",
        b"number,1:\xff5301234567,\n",
        b"number,1:5301234567,0\n",
        b"number,1:5301234567,1\n",
    ]
    assert list(read_ids(lines, ZoneInfo("UTC"))) == [
        BadLine(line=2, why="value must be a printable text (UTF-8) of at most 400 characters"),
        BadLine(line=3, why="expected must be a whole number from 1"),
        GoodLine(line=4, item={"kind": "number", "value": "1:5301234567", "expected": 1}),
    ]


def test_jsonl_is_told_by_its_first_byte(ulak: Ulak, migrated_database: Engine) -> None:
    """From stdin too; a line that is no object or has a strange key is named."""
    lines = (
        b'\n {"kind": "number", "value": "771:+905301234567", "client_ref": "a,b"}\n'
        b"[1]\n"
        b'{"kind": "number", "value": "771:+905301234568", "color": "red"}\n'
        b'{"kind": "number", "value": "771:\\u0000"}\n'
        b'{"kind": "number", "value": "'
    )
    result = ulak("track", "kampanya", "--file", "-", stdin=lines)
    assert (result.code, result.out) == (1, "1 registered, 1 of them new\n")
    right = 'right would be {"kind": …, "value": …} on one line'
    assert result.err.splitlines() == [
        f"line 3: this is not a JSON object; {right}",
        "line 4: 'color' is not known; the keys are kind, value, client_ref, recipient, expected, sent_at, valid_until",
        "line 5: value must be a printable text (UTF-8) of at most 400 characters",
        f"line 6: this is not a JSON object; {right}",
        "4 lines were not registered; put them right and register them again.",
    ]
    assert [row[2] for row in tracked(migrated_database)] == ["a,b"]


@pytest.mark.parametrize(
    ("content", "code", "out", "err"),
    [
        *((nothing, 2, "", NO_IDS) for nothing in (b"", b" \r\n\n", b"kind,value\n", b"kind,value\n,\n\n")),
        (
            b"number,771:+905301234567\n",
            1,
            "",
            (
                f"{WRONG_HEADER} Line 1, its columns separated by a comma, has: number,"
                " (no name). Kind, value are missing; number, (no name) are not known.\n"
            ),
        ),
    ],
)
def test_a_file_without_ids_or_without_a_header_is_refused(
    ulak: Ulak, content: bytes, code: int, out: str, err: str
) -> None:
    """Wrong usage where nothing stands in it; a header is the one thing that a csv file cannot do without."""
    result = ulak("track", "kampanya", "--file", "-", stdin=content)
    assert (result.code, result.out, result.err) == (code, out, err)


def test_many_lines_go_in_batches(ulak: Ulak, migrated_database: Engine) -> None:
    """More lines than one transaction takes, some of them twice."""
    lines = [f"number,771:+90530{number % 5500:07d}" for number in range(6000)]
    result = ulak("track", "kampanya", "--file", "-", stdin="\n".join(["kind,value", *lines]).encode())
    assert (result.code, result.out, result.err) == (0, "6000 registered, 5500 of them new\n", "")


def test_an_unknown_account_and_a_missing_file_are_one_sentence_each(ulak: Ulak) -> None:
    """Exit code 1, nothing on stdout, no traceback."""
    unknown, missing = ulak("track", "nobody", "number=1:2"), ulak("track", "kampanya", "--file", "none.csv")
    nothing = ulak("track", "kampanya")
    assert (unknown.code, unknown.out, len(unknown.err.splitlines())) == (1, "", 1)
    assert (missing.code, missing.out, missing.err) == (
        1,
        "",
        "none.csv cannot be read or written: No such file or directory.\n",
    )
    assert (nothing.code, nothing.out) == (2, "")


@pytest.mark.parametrize("by", ["argument", "csv", "jsonl"])
def test_a_pasted_id_is_registered_as_it_is_seen(ulak: Ulak, migrated_database: Engine, by: str) -> None:
    """Every door takes the same marks away, and stores the same id."""
    value, recipient = "\u202a0771:+90 530 123\u201145\u201167\u202c", "\u2068\uff0b905301234567\u2069"
    if by == "argument":
        result = ulak("track", "kampanya", f"number={value}")
    else:
        item = {"kind": "number", "value": value, "client_ref": "\u200eson\u200e ", "recipient": recipient}
        lines = "kind,value,client_ref,recipient\n" + ",".join(item.values()) if by == "csv" else json.dumps(item)
        result = ulak("track", "kampanya", "--file", "-", stdin=lines.encode())
    assert (result.code, result.err) == (0, "")
    [row] = tracked(migrated_database)
    assert row[:4] == ("number", "771:+905301234567", None if by == "argument" else "son", "+905301234567")


SHEET = "kind,value,client_ref,sent_at\nnumber,771:+905301234567,şiparış-1,26.11.2026 12:30\n"
JSON_LINE = '{"kind": "number", "value": "771:+905301234567", "client_ref": "şiparış-1", "sent_at": "2026-11-26T12:30"}'
ROW = ("number", "771:+905301234567", "şiparış-1", "+905301234567", None, "2026-11-26 09:30:00+00")


@pytest.mark.parametrize(
    "content",
    [
        SHEET.encode("utf-8-sig"),
        SHEET.replace("\n", "\r\n").encode(),
        SHEET.replace("\n", "\r").encode(),
        SHEET.replace(",", ";").encode(),
        SHEET.replace(",", "\t").encode(),
        SHEET.replace(",", "|").encode(),
        b"sep=;\r\n" + SHEET.replace(",", ";").encode(),
        b"\xef\xbb\xbfSEP=,\r\n\r\n" + SHEET.encode(),
        b"sep=\t\n" + SHEET.replace(",", "\t").encode(),
        SHEET.replace(",", "\t").replace("\n", "\r\n").encode("utf-16"),
        SHEET.encode("utf-16-le").join([b"\xff\xfe", b""]),
        SHEET.encode("utf-16-be").join([b"\xfe\xff", b""]),
        SHEET.replace("\n", "\r").encode("utf-16"),
        SHEET.encode("utf-32"),
        SHEET.replace("kind,value", "Kind , VALUE").encode(),
        SHEET.replace("şiparış-1", '"şiparış-1"').encode(),
        SHEET.replace("26.11.2026 12:30", "26.11.2026 12:30:00").encode(),
        JSON_LINE.encode("utf-16"),
    ],
)
def test_a_sheet_is_read_however_it_was_saved(ulak: Ulak, migrated_database: Engine, content: bytes) -> None:
    """Separators, ends of lines and encodings of spreadsheets in Turkey and elsewhere; times with dots, day first."""
    result = ulak("track", "kampanya", "--file", "-", stdin=content)
    assert (result.code, result.out, result.err) == (0, "1 registered, 1 of them new\n", "")
    assert tracked(migrated_database) == [ROW]


def test_a_file_that_is_not_utf_8_is_said_once_and_how_to_save_it(ulak: Ulak, migrated_database: Engine) -> None:
    """Which letters were meant cannot be known; what is plain is registered all the same, with its line numbers."""
    lines = ["kind;value;client_ref", "number;771:+905301234567;a", *(f"number;772:{n};ş" for n in range(3))]
    result = ulak("track", "kampanya", "--file", "-", stdin="\n".join(lines).encode("windows-1254"))
    assert (result.code, result.out) == (1, "1 registered, 1 of them new\n")
    assert result.err.splitlines()[:2] == [
        (
            'The file is not UTF-8, as line 3 shows: save it as UTF-8 (in Excel: "CSV UTF-8 (Comma delimited)") and'
            " register it again."
        ),
        "line 3: client_ref must be a printable text (UTF-8) of at most 400 characters",
    ]
    assert result.err.count("The file is not UTF-8") == 1
    assert [row[1] for row in tracked(migrated_database)] == ["771:+905301234567"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            SHEET.encode("utf-16-le"),
            (
                "The file is UTF-16 without a byte order mark, or no text: save it as UTF-8 (in Excel: "
                '"CSV UTF-8 (Comma delimited)") and register it again.'
            ),
        ),
        (
            b"\n\nkind;deger;tarih\nnumber;1;2\n",
            (
                f"{WRONG_HEADER} Line 3, its columns separated by a semicolon, has: kind,"
                " deger, tarih. Value is missing; deger, tarih are not known."
            ),
        ),
        (
            b"sep=;\nkind,value\n",
            (
                f"{WRONG_HEADER} Line 2, its columns separated by a semicolon, has:"
                " (no name). Kind, value are missing; (no name) is not known."
            ),
        ),
        (
            b"kind,value,value\n",
            (
                f"{WRONG_HEADER} Line 1, its columns separated by a comma, has: kind,"
                " value, value. Value is there twice."
            ),
        ),
        (
            b"905301234567\t+905301234568\n",
            (
                f"{WRONG_HEADER} Line 1, its columns separated by a tab, has: (no name),"
                " (no name). Kind, value are missing; (no name), (no name) are not known."
            ),
        ),
    ],
)
def test_a_wrong_header_says_what_was_found_and_what_is_missing(ulak: Ulak, content: bytes, sentence: str) -> None:
    """With its line; a number that stands where a name should be is not repeated."""
    result = ulak("track", "kampanya", "--file", "-", stdin=content)
    assert (result.code, result.out, result.err) == (1, "", f"{sentence}\n")


@pytest.mark.parametrize("value", ["9.05321E+11", "9,05321E+11", "771:9.05E+11", "9E+11", "4e+15"])
def test_a_number_that_a_spreadsheet_has_shortened_is_refused(ulak: Ulak, value: str) -> None:
    """Its digits are lost: another number would be asked for."""
    result = ulak("track", "kampanya", "--file", "-", stdin=f'kind;value\nnumber;"{value}"\n'.encode())
    assert (result.code, result.out) == (1, "0 registered, 0 of them new\n")
    assert result.err.splitlines()[0] == (
        "line 2: value was shortened by a spreadsheet, so digits of it are lost (as in 9.05E+11): let the column be"
        " text before the numbers are put in, and save again"
    )


@pytest.mark.parametrize("moment", ["31.02.2026 12:30", "11/26/2026 12:30", "26.11.26 12:30", "26.11.2026 25:00"])
def test_a_time_that_is_none_or_could_be_two_is_refused(ulak: Ulak, moment: str) -> None:
    """Which of two numbers between slashes is the day is not guessed."""
    content = f"kind;value;sent_at\nnumber;771:+905301234567;{moment}\n".encode()
    result = ulak("track", "kampanya", "--file", "-", stdin=content)
    assert result.err.splitlines()[0] == "line 2: sent_at must be a time such as 2026-05-01T12:30:00+03:00"
