"""Ids from a file: csv as spreadsheets write it, or jsonl, known by the first byte; read line by line."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, islice
from typing import Any
from zoneinfo import ZoneInfo

from ulak.cli.textlines import NoTextError, text_lines
from ulak.providers.phone_numbers import plain, trimmed

COLUMNS = ("kind", "value", "client_ref", "recipient", "expected", "sent_at", "valid_until")
_TEXTS = ("kind", "value", "client_ref", "recipient")
_TIMES = ("sent_at", "valid_until")
_MAX_VALUE_LENGTH = 400
_NOT_PRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffd]")
_MAX_EXPECTED = 2**31 - 1
_SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}
_SEP_LINE = re.compile(r"sep=(.)\s*", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d]+(?:[ _-][^\W\d]+)*")
_MAX_SHOWN = 10
# Excel's way to show a long number, of which it writes no more than the digits that can be seen.
_SHORTENED = re.compile(r"[0-9](?:[.,][0-9]+)?E\+[0-9]+", re.IGNORECASE)
_DOTTED = re.compile(r"([0-9]{1,2})\.([0-9]{1,2})\.([0-9]{4})(?:[ T]+([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?)?")
HEADER = "kind,value[,client_ref][,recipient][,expected][,sent_at][,valid_until]"


class UnusableFileError(Exception):
    """The file is unusable; the text names the expected form."""


class _WrongValueError(Exception):
    """A value of a line is invalid; the text names the expected form, never the value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodLine:
    """An id to register, in the form that `ulak.tasks.steps.tracking.track` takes."""

    line: int
    item: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line that was not taken, and what would be right."""

    line: int
    why: str


def read_ids(
    lines: Iterable[bytes], zone: ZoneInfo, tell: Callable[[str], None] = lambda _: None
) -> Iterator[GoodLine | BadLine]:
    """Each line as an id or as a mistake, in order, without holding more than one; bare times are of `zone`.

    A first byte `{` means one JSON object a line, anything else csv with a header. `tell` gets a sentence about the
    file as a whole. Raises `UnusableFileError` where there is no such header, or no text.
    """
    try:
        yield from _read(text_lines(lines, tell), zone)
    except NoTextError as error:
        raise UnusableFileError(str(error)) from None


def _read(numbered: Iterator[tuple[int, str]], zone: ZoneInfo) -> Iterator[GoodLine | BadLine]:
    first = next(((number, line) for number, line in numbered if line.strip()), None)
    if first is None:
        return
    start = first[1].lstrip(" \r\n")
    rest = chain([(first[0], start)], numbered)
    reader = _json_lines(rest) if start.startswith("{") else _csv_lines(rest)
    for number, values in reader:
        if isinstance(values, str):
            yield BadLine(line=number, why=values)
            continue
        try:
            yield GoodLine(line=number, item=_item(values, zone))
        except _WrongValueError as error:
            yield BadLine(line=number, why=str(error))


def _json_lines(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """(line number, its values or what is wrong) of a file of JSON objects."""
    for number, line in lines:
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        unknown = sorted(set(values) - set(COLUMNS)) if isinstance(values, dict) else []
        if not isinstance(values, dict):
            yield number, 'this is not a JSON object; right would be {"kind": …, "value": …} on one line'
        elif unknown:
            yield number, f"{unknown[0][:40]!r} is not known; the keys are {', '.join(COLUMNS)}"
        else:
            yield number, values


def _csv_lines(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """(line number, its values or what is wrong) of a csv file with a header."""
    at, first = next(lines)
    named = _SEP_LINE.fullmatch(first)
    if named is not None:
        at, first = next(((number, line) for number, line in lines if line.strip()), (at, ""))
    separator = named[1] if named is not None else _separator(first)

    def texts() -> Iterator[str]:
        nonlocal at
        for number, line in chain([(at, first)], lines):
            at = number
            yield line

    reader = csv.reader(texts(), strict=True, delimiter=separator)
    header: list[str] | None = None
    while True:
        try:
            cells = next(reader, None)
        except csv.Error:
            yield at, "this is not csv; right would be quotes that close, doubled inside a quoted value"
            continue
        if cells is None:
            return
        if header is None:
            header = _header(cells, at, separator)
        elif len(cells) > len(header):
            what = _SEPARATORS.get(separator, f"{separator!r}")
            yield at, f"there are {len(cells)} values for {len(header)} columns; quote a value that holds {what}"
        elif any(cell.strip() for cell in cells):
            yield at, dict(zip(header, cells, strict=False))


def _separator(header: str) -> str:
    """The column separator: spreadsheets write `;` where the comma is the decimal sign, or a tab."""
    return max(_SEPARATORS, key=header.count)


def _header(cells: list[str], line: int, separator: str) -> list[str]:
    names = [plain(cell).lower() for cell in cells]
    faults = {
        "missing": [name for name in ("kind", "value") if name not in names],
        "not known": [_shown(name) for name in names if name not in COLUMNS],
        "there twice": sorted({name for name in names if names.count(name) > 1 and name in COLUMNS}),
    }
    told = "; ".join(f"{_some(found)} {_are(found)} {what}" for what, found in faults.items() if found)
    if told:
        between = _SEPARATORS.get(separator, f"{separator!r}")
        raise UnusableFileError(
            f"The first line must be the csv header: {HEADER}. Line {line}, its columns separated by {between}, has:"
            f" {_some(map(_shown, names))}. {told[0].upper()}{told[1:]}."
        )
    return names


def _some(words: Iterable[str]) -> str:
    return ", ".join(islice(words, _MAX_SHOWN))


def _are(found: list[str]) -> str:
    return "is" if len(found) == 1 else "are"


def _shown(name: str) -> str:
    """A column's name, if it is one: the first line of a file without a header may contain a phone number."""
    return name if _WORD.fullmatch(name) else "(no name)"


def _item(values: Mapping[str, Any], zone: ZoneInfo) -> dict[str, Any]:
    """The values of one line, each checked; what is empty is left out."""
    readers: list[tuple[tuple[str, ...], Callable[[str, Any], Any]]] = [
        (_TEXTS, _text),
        (("expected",), _number),
        (_TIMES, lambda name, value: _time(name, _undotted(value), zone)),
    ]
    for name in _TEXTS:
        if any(_SHORTENED.fullmatch(part.strip()) for part in str(values.get(name)).split(":")):
            raise _WrongValueError(
                f"{name} was shortened by a spreadsheet, so digits of it are lost (as in 9.05E+11): let the column be"
                " text before the numbers are put in, and save again"
            )
    item = {
        name: read(name, values[name])
        for names, read in readers
        for name in names
        if values.get(name) is not None and values[name] != ""
    }
    missing = [name for name in ("kind", "value") if not item.get(name)]
    if missing:
        raise _WrongValueError(f"{missing[0]} is missing")
    return item


def _text(name: str, value: Any) -> str:
    given = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    # Ids and numbers are pasted: invisible marks do not count. A reference is kept as the sender wrote it.
    text = trimmed(given) if name == "client_ref" else plain(given)
    if not text or len(text) > _MAX_VALUE_LENGTH or _NOT_PRINTABLE.search(text):
        raise _WrongValueError(f"{name} must be a printable text (UTF-8) of at most {_MAX_VALUE_LENGTH} characters")
    return text


def _number(name: str, value: Any) -> int:
    text = plain(str(value))
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= _MAX_EXPECTED:
        raise _WrongValueError(f"{name} must be a whole number from 1")
    return int(text)


def _undotted(value: Any) -> str:
    """A time as spreadsheets write it, day first (`26.11.2026 12:30`), in the ISO form; any other as it is."""
    text = str(value).strip()
    parts = _DOTTED.fullmatch(text)
    if parts is None:
        return text
    day, month, year, hour, minute, second = (int(part or 0) for part in parts.groups())
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}"


def _time(name: str, value: Any, zone: ZoneInfo) -> datetime:
    try:
        moment = datetime.fromisoformat(plain(str(value)))
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
    except ValueError:
        raise _WrongValueError(f"{name} must be a time such as 2026-05-01T12:30:00+03:00") from None
