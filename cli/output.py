"""How data is written to stdout: a table or lines for people, JSON and CSV for programs.

The only place of the command line that prints: what providers and callers wrote cannot act on the terminal.
"""

import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ulak.core.plain_text import csv_cell, escaped_json, one_line

STYLES = {
    "ok": "green",
    "delivered": "green",
    "read": "green",
    "paused": "yellow",
    "throttled": "yellow",
    "breaker open": "red",
    "disabled": "dim",
    "unknown": "red",
    "undeliverable": "red",
    "rejected": "red",
    "expired": "red",
}
"""How a telling word looks on a terminal."""
LAST_COLUMN = 20
"""The least width of a table's last column."""


def write_line(text: Any = "") -> None:
    """One line, whatever the text holds."""
    print(one_line(str(text)), flush=True)


def write_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A drawn table on a terminal; otherwise plain columns, one line a row, no colour."""
    cells = [[_cell(value) for value in row] for row in rows]
    if sys.stdout.isatty():
        table = draw_table(headers, cells)
        console_for(table).print(table)
        return
    lines = [list(headers), *cells]
    widths = [max(len(line[place]) for line in lines) for place in range(len(headers))]
    for line in lines:
        write_line("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def draw_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table for a terminal; only its last column may be broken into lines, no value is ever cut."""
    cells = [[_cell(value) for value in row] for row in rows]
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    for place, header in enumerate(headers):
        is_last = place == len(headers) - 1
        widest = max((len(row[place]) for row in cells), default=0)
        table.add_column(header, no_wrap=not is_last, min_width=None if is_last else max(widest, len(header)))
    for row in cells:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    return table


def console_for(table: Table) -> Console:
    """A console on stdout that is as wide as the table needs: a narrow terminal wraps lines, it cuts no number."""
    console = Console()
    needed = sum(1 + (column.min_width or LAST_COLUMN) for column in table.columns)
    return Console(width=max(console.width, needed))


def write_json(value: Any, *, indent: int | None = 2) -> None:
    """One JSON document; without `indent` on one line."""
    print(_json(value, indent=indent), flush=True)


def write_json_array(rows: Iterable[Mapping[str, Any]]) -> int:
    """A JSON array, an object a line, written as the rows come; returns how many there were."""
    many = 0
    print("[", end="")
    for row in rows:
        print(",\n" if many else "\n", _json(row), sep="", end="")
        many += 1
    print("\n]")
    return many


class _UnixLines:
    """Takes rows that a csv writer ends with CRLF: it quotes its own line ends only, and a bare CR ends a row too."""

    def write(self, line: str) -> int:
        """One row, ended as lines end here."""
        return sys.stdout.write(line.removesuffix("\r\n") + "\n")


def write_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, delimiter: str = ",") -> int:
    """CSV with a header, written as the rows come; `extra` and the like as JSON. Returns how many there were."""
    writer = csv.writer(_UnixLines(), delimiter=delimiter, lineterminator="\r\n")
    writer.writerow(columns)
    many = 0
    for row in rows:
        writer.writerow([_csv_value(plain(row.get(column))) for column in columns])
        many += 1
    return many


def _json(value: Any, *, indent: int | None = None) -> str:
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


def moment(value: datetime | None) -> str:
    """A time for people: to the second, UTC."""
    return "" if value is None else f"{value:%Y-%m-%d %H:%M:%SZ}"


def duration(seconds: float | None) -> str:
    """A duration for people, in its largest unit, rounded down."""
    if seconds is None:
        return ""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def counted(many: int, noun: str) -> str:
    """`1 account`, `3 accounts`."""
    return f"{many} {noun}{'' if many == 1 else 's'}"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return one_line(str(value))


def _csv_value(value: Any) -> Any:
    if isinstance(value, dict | list):
        return csv_cell(_json(value))
    return csv_cell(value) if isinstance(value, str) else value
