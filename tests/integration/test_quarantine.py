"""What could not be understood: sealed, kept once, shown to nobody, gone in time."""

import pytest
from database_fixtures import add_account
from sqlalchemy import Engine, text

from models.database import transaction
from models.quarantine import (
    FULL,
    Opened,
    WrongQuarantineKeyError,
    list_quarantine,
    new_key,
    open_sealed,
    prune,
    resolve,
    seal,
)
from models.report import Unreadable

KEY = new_key()
RAW = b'{"durum": "YEN\xc4\xb0", "numara": "5301234567"}\x00\xff'


@pytest.fixture
def account(migrated_database: Engine) -> str:
    """An account of the test's own database."""
    with transaction(migrated_database) as connection:
        return add_account(connection, "marka-sms")


def keep(engine: Engine, account: str, *raws: bytes, key: bytes = KEY) -> int:
    """Seal these items of one answer in a transaction of their own."""
    items = [Unreadable(reason="unknown status word\0", raw=raw, provider_key="m-1") for raw in raws]
    with transaction(engine) as connection:
        return seal(
            connection, key, account_id=account, origin="poll:batch", unreadable=items, context={"params": {"ids": [7]}}
        )


def test_the_same_bytes_are_kept_once_and_counted(migrated_database: Engine, account: str) -> None:
    """Repetitions within an answer and between answers make one entry, which is as old as it was seen last."""
    assert keep(migrated_database, account, RAW, b"other", RAW) == 2
    with transaction(migrated_database) as connection:
        connection.execute(text("UPDATE quarantine SET last_seen_at = now() - interval '15 days'"))
    assert keep(migrated_database, account, RAW) == 0
    with transaction(migrated_database) as connection:
        entries = list_quarantine(connection, account=account)
        assert sorted(entry["times"] for entry in entries) == [1, 2]
        prune(connection)
        assert [entry["times"] for entry in list_quarantine(connection)] == [2]


def test_the_content_is_shown_only_to_whoever_has_the_key(migrated_database: Engine, account: str) -> None:
    """A list shows when, where and why; the table itself holds no readable byte; another key opens nothing."""
    keep(migrated_database, account, RAW)
    with transaction(migrated_database) as connection:
        (entry,) = list_quarantine(connection)
        assert set(entry) == {
            "id", "account_id", "origin", "reason", "times", "first_seen_at", "last_seen_at", "fetch_id"
        }  # fmt: skip
        stored = connection.execute(text("SELECT sealed, fingerprint FROM quarantine")).one()
        assert not any(b"5301234567" in bytes(column) for column in stored)
        opened = open_sealed(connection, KEY, entry["id"])
        with pytest.raises(WrongQuarantineKeyError):
            open_sealed(connection, new_key(), entry["id"])
    assert opened == Opened(
        id=entry["id"],
        account_id=account,
        origin="poll:batch",
        context={"params": {"ids": [7]}},
        raw=RAW,
        reason="unknown status word\ufffd",
        provider_key="m-1",
    )
    assert "5301234567" not in repr(opened)


def test_a_resolved_entry_loses_its_bytes_at_once_and_returns_when_seen_again(
    migrated_database: Engine, account: str
) -> None:
    """Understood entries are neither listed nor opened, nor is it kept what was asked; seen again, they are open."""
    keep(migrated_database, account, RAW)
    with transaction(migrated_database) as connection:
        (entry,) = list_quarantine(connection)
        assert [resolve(connection, entry["id"]), resolve(connection, entry["id"])] == [True, False]
        assert list_quarantine(connection) == []
        assert open_sealed(connection, KEY, entry["id"]) is None
        kept = connection.execute(text("SELECT sealed, context FROM quarantine")).one()
        assert tuple(kept) == (None, {})
    assert keep(migrated_database, account, RAW) == 0
    with transaction(migrated_database) as connection:
        again = open_sealed(connection, KEY, entry["id"])
    assert again is not None
    assert (again.raw, again.context) == (RAW, {"params": {"ids": [7]}})


def test_entries_are_gone_after_fourteen_days(migrated_database: Engine, account: str) -> None:
    """Counted from when they were last seen."""
    keep(migrated_database, account, b"old", b"young")
    with transaction(migrated_database) as connection:
        connection.execute(
            text(
                "UPDATE quarantine SET last_seen_at = now() - interval '15 days'"
                " WHERE id = (SELECT min(id) FROM quarantine)"
            )
        )
        assert [prune(connection), prune(connection)] == [1, 0]
        assert len(list_quarantine(connection)) == 1


def test_a_full_quarantine_counts_and_keeps_no_more(
    migrated_database: Engine, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept already is counted as before; discarding it makes room. Another account is not concerned."""
    monkeypatch.setattr("models.quarantine.MOST_ENTRIES", 4)
    with transaction(migrated_database) as connection:
        other = add_account(connection, "other")
    assert keep(migrated_database, account, *(b"%d" % n for n in range(7))) == 5
    assert keep(migrated_database, account, b"7", b"0") == 0
    assert keep(migrated_database, other, b"7") == 1
    with transaction(migrated_database) as connection:
        entries = {entry["reason"]: entry for entry in list_quarantine(connection, account=account)}
        kept = [entry for entry in list_quarantine(connection, account=account) if entry["reason"] != FULL]
        assert (len(kept), entries[FULL]["times"]) == (4, 4)
        for entry in kept[:2]:
            resolve(connection, entry["id"])
    assert keep(migrated_database, account, b"8") == 1


def test_a_quarantine_is_full_by_its_bytes_as_well(
    migrated_database: Engine, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody has to look at leaves half of it to what somebody should see, and is missed by nobody."""
    monkeypatch.setattr("models.quarantine.MOST_BYTES", 20_000)
    closed = [Unreadable(reason="a push", raw=b"%d" % n * 3000, is_open=False) for n in range(4)]
    with transaction(migrated_database) as connection:
        for item in closed:
            seal(connection, KEY, account_id=account, origin="callback:", unreadable=[item], context={})
        assert connection.execute(text("SELECT count(*) FROM quarantine")).scalar_one() == 2
        assert list_quarantine(connection) == []
    assert keep(migrated_database, account, b"a" * 3000, b"b" * 3000, b"c" * 30_000) == 3
    with transaction(migrated_database) as connection:
        assert sorted(entry["reason"] == FULL for entry in list_quarantine(connection)) == [False, False, True]
