"""Text of others on a terminal, in JSON and in a spreadsheet."""

import csv
import io
import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ulak.core.plain_text import csv_cell, escaped_json, one_line, without_bidi

EXAMPLES = settings(max_examples=300, deadline=None)
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
EVIL = "<img>\x1b[31m\x1b]0;title\x07\r\nFAKE\x9b31m\u202e\u2028\x7f\x00"

FORMULAS = [
    "=1+1", "-1+1", "+1+1", "@SUM(A1)", "+1+cmd|' /C calc'!A0", "=cmd|' /C calc'!A0", '=HYPERLINK("http://e","x")',
    "\t=1", "\r=1", "\n=1", " =1", "\u00a0=1", "\ufeff=1", "\u200b=1", "\u2060-1", "＝1+1", "＋1+1", "－1", "＠x",
    "﹢1", "\x00=1", "\x1b=1", "\u202e=1", " \t\u200b+1", "+905", "+90 530 1234567", "+9053012345678901", "+90530x",
]  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_begins_like_a_formula(text: str) -> None:
    """However its first sign is hidden: spreadsheets skip blanks, and some read full-width forms."""
    assert csv_cell(text).startswith("'")


@pytest.mark.parametrize("text", ["a;=1", "a; +1", "a\t@x", "a\n=1", "a\r\n-1", "a;\u00a0＝1"])
def test_no_cell_begins_like_a_formula_where_it_is_split(text: str) -> None:
    """Turkish spreadsheets split a line at semicolons, whatever the quotes say."""
    shown = csv_cell(text)
    assert [part for part in shown.replace("\t", ";").replace("\n", ";").replace("\r", ";").split(";")
            if part.strip()[:1] in tuple("=+-@＝＋－＠")] == []  # fmt: skip


@pytest.mark.parametrize(
    "text", ["+905301234567", "+12125550100", "siparis-1", "a=b", "x@y", "1-2", "771:+905301234569", "İletildi", "",
             'one, "two"', "line\nline", "a;b", "'=1"]
)  # fmt: skip
def test_what_is_harmless_stays_as_it_is(text: str) -> None:
    """A phone number keeps its plus: programs join on it."""
    assert csv_cell(text) == text


@EXAMPLES
@given(st.text() | st.lists(st.sampled_from([*FORMULAS, EVIL, *BIDI, "a", ";", "\n"])).map("".join))
def test_a_cell_holds_no_control_and_no_formula(text: str) -> None:
    """Law: for any text at all; it stays one cell of one row."""
    shown = csv_cell(text)
    assert not [each for each in shown if each in BIDI or (unicodedata.category(each) == "Cc" and each not in "\t\r\n")]
    seen = [each for each in shown if not each.isspace() and unicodedata.category(each) != "Cf"]
    assert not seen or (seen[0] not in "=-@＝－＠" and (seen[0] not in "+＋" or shown[1:].isdecimal()))
    file = io.StringIO(newline="")
    csv.writer(file).writerow([shown, "x"])
    assert list(csv.reader(io.StringIO(file.getvalue(), newline=""))) == [[shown, "x"]]


@EXAMPLES
@given(st.text() | st.lists(st.sampled_from([EVIL, *BIDI, "a"])).map("".join))
def test_a_line_is_one_line_and_prints(text: str) -> None:
    """Law: nothing in it moves the cursor, turns the text around or begins a line."""
    assert one_line(text).isprintable()
    assert len(one_line(text)) == len(text)
    assert not set(without_bidi(text)) & set(BIDI)


@EXAMPLES
@given(
    st.recursive(st.none() | st.integers() | st.text() | st.sampled_from([EVIL, "\ud800", "😀"]),
                 lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8),
    st.sampled_from([None, 2]),
)  # fmt: skip
def test_json_says_the_same_with_escapes(value: object, indent: int | None) -> None:
    """Law: every reader gets the value that was stored, and every terminal only what prints."""
    shown = escaped_json(json.dumps(value, ensure_ascii=False, indent=indent))
    assert json.loads(shown) == value
    assert all(line.isprintable() for line in shown.split("\n"))
