"""Rows as a Parquet file, written a chunk at a time. Needs pyarrow, which the extra `ulak[parquet]` installs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO, Final

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Integer, Numeric
from sqlalchemy.dialects.postgresql import JSONB

from ulak.workers.csv_rows import json_text

MISSING: Final = "Parquet files need pyarrow: install the extra `ulak[parquet]`, or export to a .csv file."


class ParquetMissingError(Exception):
    """There is no pyarrow; the text says what to do."""

    def __init__(self) -> None:
        super().__init__(MISSING)


def load_pyarrow() -> Any:
    """The library; `ParquetMissingError` where it is not installed."""
    try:
        import pyarrow  # noqa: ICN001, PLC0415 - an extra
        import pyarrow.parquet  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise ParquetMissingError from None
    return pyarrow


def write_parquet(
    file: BinaryIO,
    columns: Sequence[Column[Any]],
    chunks: Iterable[Sequence[Mapping[Any, Any]]],
    *,
    about: Mapping[str, str],
) -> int:
    """Write the rows, each chunk as a row group, so that memory does not grow with them; returns how many.

    Times are microseconds UTC, JSON is text, decimals are floats. `about`: metadata of the file.
    `ParquetMissingError`, and nothing is written, without pyarrow.
    """
    pyarrow = load_pyarrow()
    fields = [pyarrow.field(column.name, _type(pyarrow, column), nullable=bool(column.nullable)) for column in columns]
    schema = pyarrow.schema(fields, metadata=dict(about))
    many = 0
    with pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for rows in chunks:
            values = {column.name: [_value(column, row[column.name]) for row in rows] for column in columns}
            writer.write_table(pyarrow.table(values, schema=schema))
            many += len(rows)
    return many


def _type(pyarrow: Any, column: Column[Any]) -> Any:
    match column.type:
        case BigInteger():
            return pyarrow.int64()
        case Integer():
            return pyarrow.int32()
        case Boolean():
            return pyarrow.bool_()
        case Numeric():
            return pyarrow.float64()
        case DateTime():
            return pyarrow.timestamp("us", tz="UTC")
        case _:
            return pyarrow.string()


def _value(column: Column[Any], value: Any) -> Any:
    if value is None:
        return None
    if isinstance(column.type, JSONB):
        return json_text(value)
    return float(value) if isinstance(column.type, Numeric) else value
