"""Ids from a file or from the command line: csv or jsonl, told by the first byte, read line by line."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any
from zoneinfo import ZoneInfo

from providers.numbers import plain, trimmed

COLUMNS = ("kind", "value", "client_ref", "recipient", "expected", "sent_at", "valid_until")
_TEXTS = ("kind", "value", "client_ref", "recipient")
_TIMES = ("sent_at", "valid_until")
_LONGEST = 400
_NOT_PRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffd]")
_MOST_EXPECTED = 2**31 - 1
HEADER = "kind,value[,client_ref][,recipient][,expected][,sent_at][,valid_until]"


class UnusableFileError(Exception):
    """Nothing of the file can be read; the text says what would be right."""


class _WrongValueError(Exception):
    """A value of a line is wrong; the text says what would be right, and never the value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodLine:
    """An id to register, in the form that `tasks.steps.tracking.track` takes."""

    line: int
    item: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line that was not taken, and what would be right."""

    line: int
    why: str


def read_ids(lines: Iterable[bytes], zone: ZoneInfo) -> Iterator[GoodLine | BadLine]:
    """Each line as an id or as a mistake, in order, without holding more than one; bare times are of `zone`.

    A first byte `{` means one JSON object a line, anything else csv with a header. Raises `UnusableFileError` where
    there is no such header.
    """
    numbered = enumerate(lines, 1)
    first = next(((number, line) for number, line in numbered if line.strip(b" \t\r\n\xef\xbb\xbf")), None)
    if first is None:
        return
    start = first[1].removeprefix(b"\xef\xbb\xbf").lstrip()
    rest = chain([(first[0], start)], numbered)
    reader = _json_lines(rest) if start.startswith(b"{") else _csv_lines(rest)
    for number, values in reader:
        if isinstance(values, str):
            yield BadLine(line=number, why=values)
            continue
        try:
            yield GoodLine(line=number, item=_item(values, zone))
        except _WrongValueError as error:
            yield BadLine(line=number, why=str(error))


def _json_lines(lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
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


def _csv_lines(lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """(line number, its values or what is wrong) of a csv file with a header."""
    at = 0

    def texts() -> Iterator[str]:
        nonlocal at
        for number, line in lines:
            at = number
            yield line.decode("utf-8", "replace")

    reader = csv.reader(texts(), strict=True)
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
            header = _header(cells)
        elif len(cells) > len(header):
            yield at, f"there are {len(cells)} values for {len(header)} columns; quote a value that holds a comma"
        elif any(cell.strip() for cell in cells):
            yield at, dict(zip(header, cells, strict=False))


def _header(cells: list[str]) -> list[str]:
    names = [plain(cell).lower() for cell in cells]
    if not {"kind", "value"} <= set(names) or set(names) - set(COLUMNS) or len(set(names)) < len(names):
        raise UnusableFileError(f"The first line must be the csv header: {HEADER}.")
    return names


def _item(values: Mapping[str, Any], zone: ZoneInfo) -> dict[str, Any]:
    """The values of one line, each checked; what is empty is left out."""
    readers: list[tuple[tuple[str, ...], Callable[[str, Any], Any]]] = [
        (_TEXTS, _text),
        (("expected",), _number),
        (_TIMES, lambda name, value: _time(name, value, zone)),
    ]
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
    # Ids and numbers are pasted: invisible marks do not count. A reference is the sender's own, whatever stands in it.
    text = trimmed(given) if name == "client_ref" else plain(given)
    if not text or len(text) > _LONGEST or _NOT_PRINTABLE.search(text):
        raise _WrongValueError(f"{name} must be a printable text (UTF-8) of at most {_LONGEST} characters")
    return text


def _number(name: str, value: Any) -> int:
    text = plain(str(value))
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= _MOST_EXPECTED:
        raise _WrongValueError(f"{name} must be a whole number from 1")
    return int(text)


def _time(name: str, value: Any, zone: ZoneInfo) -> datetime:
    try:
        moment = datetime.fromisoformat(plain(str(value)))
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
    except ValueError:
        raise _WrongValueError(f"{name} must be a time such as 2026-05-01T12:30:00+03:00") from None
