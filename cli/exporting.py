"""`ulak export`: a month of an account as a file."""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from sqlalchemy import RowMapping

from ulak.cli.output import counted, moment
from ulak.cli.session import CommandError, UsageError, report, session
from ulak.core.time_zones import time_zone
from ulak.models.account import load
from ulak.models.database import transaction
from ulak.models.events import Action, record
from ulak.models.ledger.ending import database_now
from ulak.models.months import COLUMNS, month_bounds, read_range
from ulak.workers.csv_rows import csv_lines
from ulak.workers.parquet_rows import ParquetMissingError, load_pyarrow, write_parquet

FORMATS = {".parquet": "parquet", ".csv": "csv"}


def register(app: typer.Typer) -> None:
    """Add `export`."""
    app.command()(export)


def export(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file: FILE.parquet or FILE.csv.")],
    *,
    account: Annotated[str, typer.Option(help="Of this account.")],
    month: Annotated[str, typer.Option(help="A month that is over, such as 2026-05, in the account's time zone.")],
) -> None:
    """Export the deliveries of a month to a Parquet or CSV file.

    Orders and conversation-days included, numbers as they are stored. The file appears when it is complete.
    """
    form = FORMATS.get(file.suffix.lower())
    if form is None:
        raise UsageError(f"FILE must end with {' or '.join(FORMATS)}.")
    if file.exists():
        raise CommandError(f"{file} exists already: name a new file.")
    run = session(context)
    with run.engine.connect() as connection:
        found, now = load(connection, account), database_now(connection)
    try:
        since, until = month_bounds(month, time_zone(found.timezone))
    except ValueError:
        raise UsageError("--month must be a month such as 2026-05.") from None
    if until > now:
        raise CommandError(f"{month} is not over yet: it ends at {moment(until)} for {account}.")
    if form == "parquet":
        try:
            load_pyarrow()
        except ParquetMissingError as error:
            raise CommandError(str(error)) from None
    with _complete_or_absent(file) as target:
        with transaction(run.engine) as connection:
            # Before the first number is read: an export that fails may have read some.
            details = {"month": month, "form": form}
            record(connection, run.event(Action.DELIVERIES_EXPORTED, account=account, details=details))
        chunks = read_range(run.engine, account, since, until)
        many = _write(target, form, chunks, {"account": account, "month": month, "timezone": found.timezone})
    if found.kept_from is not None and found.kept_from > since:
        report(f"What was sent before {moment(found.kept_from)} had been removed (keep_days = {found.keep_days}).")
    report(f"{counted(many, 'row')} written to {file}.")


def _write(target: BinaryIO, form: str, chunks: Iterator[Sequence[RowMapping]], about: Mapping[str, str]) -> int:
    if form == "parquet":
        return write_parquet(target, COLUMNS, chunks, about={f"ulak.{name}": each for name, each in about.items()})
    many = -1
    rows: Iterator[Mapping[Any, Any]] = chain.from_iterable(chunks)
    for line in csv_lines([column.name for column in COLUMNS], rows):
        target.write(line.encode())
        many += 1
    return many


@contextmanager
def _complete_or_absent(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name when the block ends well; readable by its owner alone, since it holds numbers."""
    try:
        number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise CommandError(f"{path} cannot be written ({error.strerror}).") from None
    try:
        with os.fdopen(number, "wb") as target:
            yield target
        Path(name).rename(path)
    finally:
        Path(name).unlink(missing_ok=True)
