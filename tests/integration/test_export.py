"""`ulak export`: a month that is over as a Parquet or CSV file, complete or absent, and recorded."""

import csv
import stat
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from command_line import Ulak, ulak
from database_fixtures import add_account
from sqlalchemy import Engine, text

from ulak.models.database import transaction
from ulak.models.deliveries import upsert
from ulak.models.months import COLUMNS, month_bounds, read_range
from ulak.models.report import DeliveryReport
from ulak.models.vocabulary import Granularity, Status

__all__ = ["ulak"]

ISTANBUL = ZoneInfo("Europe/Istanbul")
BEGIN, END = datetime(2026, 4, 30, 21, tzinfo=UTC), datetime(2026, 5, 31, 21, tzinfo=UTC)
"""May 2026 in Istanbul."""
SENT = {
    "before": BEGIN - timedelta(microseconds=1),
    "first": BEGIN,
    "tie-1": BEGIN + timedelta(days=3),
    "tie-2": BEGIN + timedelta(days=3),
    "tie-3": BEGIN + timedelta(days=3),
    "last": END - timedelta(microseconds=1),
    "after": END,
}
IN_MAY = ["first", "tie-1", "tie-2", "tie-3", "last"]


@pytest.fixture(autouse=True)
def account(migrated_database: Engine) -> None:
    """An account in Istanbul with messages about the edges of May, and another with one in May."""
    with transaction(migrated_database) as connection:
        for name in ("kampanya", "other"):
            add_account(connection, name)
        connection.execute(text("UPDATE accounts SET timezone = 'Europe/Istanbul'"))
        for key, at in SENT.items():
            upsert(connection, "kampanya", "vairo", [_said(key, at)], asked_at=at)
        upsert(connection, "other", "vairo", [_said("theirs", BEGIN)], asked_at=BEGIN)


def _said(key: str, at: datetime) -> DeliveryReport:
    return DeliveryReport(
        granularity=Granularity.MESSAGE,
        provider_key=key,
        status=Status.DELIVERED,
        provider_status="D",
        recipient="+905301234567",
        sent_at=at,
        done_at=at + timedelta(seconds=2),
        segments=2,
        credits=0.1,
        extra={"note": "=1+1", "n": 1},
    )


def _stored(engine: Engine) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        rows = connection.execute(
            text("SELECT * FROM delivery_status WHERE account_id = 'kampanya' ORDER BY message_time, id")
        ).mappings()
        return [dict(row) for row in rows if row["provider_key"] in IN_MAY]


def test_a_month_is_written_to_parquet_as_it_is_stored(ulak: Ulak, migrated_database: Engine, tmp_path: Path) -> None:
    """All columns with their types, by the account's month; only its owner may read the file, and it is recorded."""
    import pyarrow.parquet

    ran = ulak("export", "--account", "kampanya", "--month", "2026-05", "may.parquet")
    assert (ran.code, ran.out) == (0, "")
    assert "5 rows written" in ran.err
    path = tmp_path / "may.parquet"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir() if "may" in each.name] == ["may.parquet"]
    found = pyarrow.parquet.read_table(path)
    expected = [
        {
            name: float(value) if isinstance(value, Decimal) else value
            for name, value in row.items()
            if name not in {"changed_in", "extra"}
        }
        for row in _stored(migrated_database)
    ]
    rows = found.to_pylist()
    assert [{name: value for name, value in row.items() if name != "extra"} for row in rows] == expected
    assert {row["extra"] for row in rows} == {'{"n": 1, "note": "=1+1"}'}
    assert found.schema.metadata[b"ulak.month"] == b"2026-05"
    with migrated_database.connect() as connection:
        events = connection.execute(text("SELECT action, account_id, details FROM events")).all()
    assert [tuple(each) for each in events] == [
        ("deliveries.exported", "kampanya", {"month": "2026-05", "form": "parquet"})
    ]


def test_a_month_is_written_to_csv(ulak: Ulak, tmp_path: Path) -> None:
    """As `ulak deliveries --format csv` writes cells."""
    assert ulak("export", "--account", "kampanya", "--month", "2026-05", "may.csv").code == 0
    with (tmp_path / "may.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["provider_key"] for row in rows] == IN_MAY
    assert list(rows[0]) == [column.name for column in COLUMNS]


def exports(engine: Engine) -> int:
    """How many exports are recorded."""
    with engine.connect() as connection:
        query = text("SELECT count(*) FROM events WHERE action = 'deliveries.exported'")
        return int(connection.execute(query).scalar_one())


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("--account", "kampanya", "--month", "2026-05", "may.xlsx"), 2, "must end with .parquet or .csv"),
        (("--account", "kampanya", "--month", "2026-13", "may.csv"), 2, "a month such as 2026-05"),
        (("--account", "kampanya", "--month", "0001-01", "may.csv"), 2, "a month such as 2026-05"),
        (("--account", "kampanya", "--month", "2199-01", "later.csv"), 1, "is not over yet"),
        (("--account", "nobody", "--month", "2026-05", "may.csv"), 1, "There is no account"),
        (("--account", "kampanya", "--month", "2026-05", "there.csv"), 1, "exists already"),
        (("--account", "kampanya", "--month", "2026-05", "nowhere/may.csv"), 1, "cannot be written"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_leaves_neither_file_nor_event(
    ulak: Ulak, migrated_database: Engine, tmp_path: Path, *, words: tuple[str, ...], code: int, sentence: str
) -> None:
    """A month that is not over, a name that is taken."""
    (tmp_path / "there.csv").write_text("mine")
    ran = ulak("export", *words)
    assert ran.code == code
    assert sentence in ran.err
    assert [each.name for each in tmp_path.glob("*.*")] == ["there.csv"]
    assert exports(migrated_database) == 0


def test_without_pyarrow_the_sentence_says_what_to_install(
    ulak: Ulak, migrated_database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CSV works without it. No number was read, so no export is recorded."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    ran = ulak("export", "--account", "kampanya", "--month", "2026-05", "may.parquet")
    assert ran.code == 1
    assert "install the extra `ulak[parquet]`" in ran.err
    assert list(tmp_path.glob("*may*")) == []
    assert exports(migrated_database) == 0
    assert ulak("export", "--account", "kampanya", "--month", "2026-05", "may.csv").code == 0


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 100])
def test_a_range_is_read_in_chunks_in_order_without_gaps(migrated_database: Engine, chunk: int) -> None:
    """Also where rows of one moment fall into two chunks."""
    chunks = list(read_range(migrated_database, "kampanya", BEGIN, END, chunk=chunk))
    assert max(map(len, chunks)) <= chunk
    assert [row["provider_key"] for row in chain.from_iterable(chunks)] == IN_MAY


def test_months_begin_at_the_midnight_of_the_zone() -> None:
    """December ends with the year."""
    assert month_bounds("2026-05", ISTANBUL) == (BEGIN, END)
    assert month_bounds("2025-12", ISTANBUL)[1] == datetime(2025, 12, 31, 21, tzinfo=UTC)


def test_a_month_that_was_partly_removed_says_so(ulak: Ulak, migrated_database: Engine) -> None:
    """The file holds what was left."""
    with transaction(migrated_database) as connection:
        connection.execute(
            text("UPDATE accounts SET kept_from = :at, keep_days = 180 WHERE id = 'kampanya'"),
            {"at": BEGIN + timedelta(days=1)},
        )
    ran = ulak("export", "--account", "kampanya", "--month", "2026-05", "may.csv")
    assert "had been removed (keep_days = 180)" in ran.err
