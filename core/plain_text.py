"""Text of others, made safe to look at: on a terminal, in a page and in a spreadsheet.

Escape sequences move the cursor and change what is on the screen already, line breaks add lines that look like ours,
and bidi controls show text in another order than it is stored in (CWE-150, CVE-2021-42574).
"""

import re
import unicodedata
from typing import Final

REPLACEMENT: Final = "\ufffd"
# https://www.unicode.org/reports/tr9/#Directional_Formatting_Characters
_BIDI: Final = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_CONTROLS: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029]")
_NUMBER: Final = re.compile(r"\+\d{7,15}")
_FORMULA: Final = ("=", "+", "-", "@")
# Spreadsheets of many languages (Turkish among them) split at semicolons, and some at tabs and line breaks.
# A run of blanks is read once, whatever comes after it: from each of its blanks anew it would cost the square.
_LATER_CELL: Final = re.compile(r"([;\t\n\r][^\S\n]*+)([=+\-@＝＋－＠﹢﹣﹦﹫])?")


def one_line(text: str) -> str:
    """The text on one line, a blank in place of each character that does not print."""
    return text if text.isprintable() else "".join(each if each.isprintable() else " " for each in text)


def without_bidi(text: str) -> str:
    """The text without characters that change its order; each is shown as U+FFFD."""
    return text if text.isascii() else _BIDI.sub(REPLACEMENT, text)


def escaped_json(text: str) -> str:
    r"""A JSON document whose strings hold `\u` escapes in place of whatever does not print: the same value."""
    return "\n".join(line if line.isprintable() else "".join(map(_escaped, line)) for line in text.split("\n"))


def csv_cell(text: str) -> str:
    """The text as a cell that no spreadsheet takes for a formula and no terminal for a command.

    A phone number with its plus is left as it is; what begins a cell, here or where a semicolon, a tab or a line break
    may be taken for the end of one, gets an apostrophe before it. Controls are replaced by U+FFFD.
    """
    if _NUMBER.fullmatch(text):
        return text
    text = _BIDI.sub(REPLACEMENT, _CONTROLS.sub(REPLACEMENT, text))
    text = _LATER_CELL.sub(lambda found: f"{found[1]}'{found[2]}" if found[2] else found[0], text)
    return f"'{text}" if text.startswith(("\t", "\r", "\n")) or _first_sign(text) in _FORMULA else text


def _first_sign(text: str) -> str:
    """The first character that is seen, in its plain form: `＝` is an equals sign, too."""
    for each in text:
        if each != REPLACEMENT and not each.isspace() and unicodedata.category(each) not in {"Cc", "Cf", "Mn"}:
            return unicodedata.normalize("NFKC", each)[:1]
    return ""


def _escaped(letter: str) -> str:
    if letter.isprintable():
        return letter
    units = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[place : place + 2].hex()}" for place in range(0, len(units), 2))
