"""Rows as CSV, for the command line and the status page: what providers and callers wrote acts in no spreadsheet."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from ulak.core.plain_text import csv_cell, escaped_json


class _Line:
    """Keeps what a csv writer wrote last, ended as lines end here.

    The writer ends rows with CRLF: it quotes its own line ends only, and a bare CR ends a row too.
    """

    text = ""

    def write(self, line: str) -> int:
        """One row."""
        self.text = line.removesuffix("\r\n") + "\n"
        return len(line)


def csv_lines(columns: Sequence[str], rows: Iterable[Mapping[Any, Any]], *, delimiter: str = ",") -> Iterator[str]:
    """A header, then a line for each row as it comes; `extra` and the like as JSON."""
    line = _Line()
    writer = csv.writer(line, delimiter=delimiter, lineterminator="\r\n")
    writer.writerow(columns)
    yield line.text
    for row in rows:
        writer.writerow([_csv_value(plain(row.get(column))) for column in columns])
        yield line.text


def json_text(value: Any, *, indent: int | None = None) -> str:
    """The value as JSON in which everything that does not print is escaped."""
    return escaped_json(json.dumps(plain(value), ensure_ascii=False, indent=indent))


def plain(value: Any) -> Any:
    """The value as JSON knows it: times as ISO 8601 in UTC with `Z`, records as objects."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    return value


def _csv_value(value: Any) -> Any:
    """Other values as JSON text."""
    if isinstance(value, list | dict):
        return csv_cell(json_text(value))
    return csv_cell(value) if isinstance(value, str) else value
