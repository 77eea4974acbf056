"""Long texts of others cost what their length costs, and not its square: one of them must not hold up a process.

Each of these takes some tenths of a second; where the time grows with the square, it takes minutes, and the test ends
at its limit. The interpreter's lock is held meanwhile, so no other thread of the process would move.
"""

import itertools
from collections.abc import Callable

import pytest

from ulak.api.validation_messages import mistake_of
from ulak.core.plain_text import csv_cell, escaped_json, one_line, without_bidi
from ulak.core.redaction import redact_text

LENGTH = 100_000
UNITS = (
    "+", "+a", "+1", "+1 (", "1", "1 ", "1.", "1-", "1%20", "(1", "5301234567 ", "0", "2020-01-01T", "aaaaaaaa-aaaa-",
    "a1", "/", "/a1", "http://", "://", "a@", "/?", "&", "=", "#", "a+",
    "<key>", "key=", "key ", "key:\\", "\\", '\\"', "ulak_", "authorization:", "authorization ", "bearer ", "cookie:",
    "token", " ", "\t", "\t ", ";", "; ", "\r", "\n\t", "\u202e", "\u200b", "=1", "'",
)  # fmt: skip
TELLING = " /key 5301234567 "
"""With it every form is looked for."""


@pytest.mark.timeout(40)
@pytest.mark.parametrize("unit", UNITS, ids=ascii)
def test_a_long_text_is_masked_and_made_plain_in_time(unit: str) -> None:
    """Of one piece again and again, alone and beside what gives a number and a secret away."""
    text = unit * (LENGTH // len(unit))
    for each in (text, TELLING + text + TELLING):
        for make_harmless in (redact_text, csv_cell):
            assert isinstance(make_harmless(each), str)


@pytest.mark.timeout(40)
@pytest.mark.parametrize("make_harmless", [one_line, without_bidi, escaped_json, redact_text, csv_cell])
@pytest.mark.parametrize(
    "text",
    [
        "authorization:" + " " * LENGTH,
        "key" + " " * LENGTH,
        "cookie=" + " " * LENGTH,
        "a" * LENGTH + "://u:p@h",
        "1" + "a" * LENGTH,
    ],
    ids=["header", "key", "cookie", "scheme", "word"],
)
def test_one_long_run_ends_as_well(make_harmless: Callable[[str], str], text: str) -> None:
    """Blanks before a value that never comes, and words without an end."""
    assert isinstance(make_harmless(text), str)


def test_a_password_is_masked_after_a_scheme_of_any_length() -> None:
    """Only so many letters before the colon are searched, and those suffice."""
    for many in (1, 30, 31, 32, 500):
        assert "gizli" not in redact_text("a" * many + "://ali:gizli@host/yol")


def test_a_run_of_blanks_hides_no_later_formula() -> None:
    """It is read once, and the apostrophe is right before the sign."""
    for separator, blanks, sign in itertools.product(";\t\n", ["", " ", "\t", " \t ", "\u00a0"], "=+-@"):
        assert csv_cell(f"a{separator}{blanks}{sign}1") == f"a{separator}{blanks}'{sign}1"


@pytest.mark.timeout(40)
def test_a_field_that_a_caller_made_up_is_named_shortly_and_masked() -> None:
    """A refusal names what was sent: neither a number in it, nor a megabyte."""
    for name in ("+905301234567", "x" * 1_000_000, "+a" * 500_000):
        said, _ = mistake_of({"loc": ("body", name), "type": "extra_forbidden"}, ["account"])
        assert (len(said) <= 200, said.startswith("body."), "5301234" in said) == (True, True, False)
