"""What could not be understood: sealed, kept once, shown to nobody, gone in time."""

import itertools
import re
import threading
from pathlib import Path

import pytest
from command_line import Ulak, ulak
from database_fixtures import add_account
from sqlalchemy import Engine, text

from ulak.core.credentials import CredentialError
from ulak.core.settings import load_settings
from ulak.models.database import transaction
from ulak.models.quarantine import (
    FULL,
    Opened,
    WrongQuarantineKeyError,
    list_quarantine,
    new_key,
    open_sealed,
    prune,
    reseal,
    resolve,
    seal,
)
from ulak.models.report import Unreadable
from ulak.tasks.runtime import seal_key

__all__ = ["ulak"]

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
    monkeypatch.setattr("ulak.models.quarantine.MAX_ENTRIES", 4)
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
    monkeypatch.setattr("ulak.models.quarantine.MAX_BYTES", 20_000)
    closed = [Unreadable(reason="a push", raw=b"%d" % n * 3000, is_open=False) for n in range(4)]
    with transaction(migrated_database) as connection:
        for item in closed:
            seal(connection, KEY, account_id=account, origin="callback:", unreadable=[item], context={})
        assert connection.execute(text("SELECT count(*) FROM quarantine")).scalar_one() == 2
        assert list_quarantine(connection) == []
    assert keep(migrated_database, account, b"a" * 3000, b"b" * 3000, b"c" * 30_000) == 3
    with transaction(migrated_database) as connection:
        assert sorted(entry["reason"] == FULL for entry in list_quarantine(connection)) == [False, False, True]


# ------------------------------------------------------------------------------------------ rotating the key

OLD, NEW = new_key(), new_key()


def contents(engine: Engine, key: bytes) -> list[tuple[bytes, int, str | None]]:
    """What this key opens: bytes, how often they came, and whose they are."""
    with transaction(engine) as connection:
        rows = connection.execute(text("SELECT id, times FROM quarantine WHERE sealed IS NOT NULL ORDER BY id")).all()
        opened = [(open_sealed(connection, key, row.id), row.times) for row in rows]
    return [(entry.raw, times, entry.provider_key) for entry, times in opened if entry is not None]


def reseal_all(engine: Engine, key: bytes, many: int = 2) -> tuple[int, int, int]:
    """Everything, in small parts: sealed again, already well, not to be opened."""
    counts, place = [0, 0, 0], 0
    while True:
        with transaction(engine) as connection:
            part = reseal(connection, key, after_id=place, many=many)
        counts = [a + b for a, b in zip(counts, (part.done, part.already, part.not_opened), strict=True)]
        if part.last_id is None:
            return counts[0], counts[1], counts[2]
        place = part.last_id


def test_every_stage_of_a_rotation_opens_what_every_other_has_sealed(migrated_database: Engine, account: str) -> None:
    """Processes get the new file one after the other: old, old and new, new and old, new."""
    before, both, turned = OLD, OLD + b"\n" + NEW, NEW + b"\n" + OLD + b"\n"
    for place, key in enumerate((before, both, turned)):
        keep(migrated_database, account, b"%d" % place, key=key)
    assert [raw for raw, _, _ in contents(migrated_database, both)] == [b"0", b"1", b"2"]
    assert contents(migrated_database, turned) == contents(migrated_database, both)
    assert reseal_all(migrated_database, turned) == (2, 1, 0)
    assert reseal_all(migrated_database, turned) == (0, 3, 0)
    assert [raw for raw, _, _ in contents(migrated_database, NEW)] == [b"0", b"1", b"2"]
    with transaction(migrated_database) as connection, pytest.raises(WrongQuarantineKeyError):
        open_sealed(connection, OLD, list_quarantine(connection)[0]["id"])


def test_the_same_bytes_under_both_keys_become_one_entry_again(migrated_database: Engine, account: str) -> None:
    """Counted together, as old as the older one, open if either was; afterwards they are kept once as ever."""
    keep(migrated_database, account, RAW, b"other", key=OLD)
    keep(migrated_database, account, RAW, key=OLD)
    with transaction(migrated_database) as connection:
        connection.execute(text("UPDATE quarantine SET first_seen_at = now() - interval '3 days'"))
    turned = NEW + b"\n" + OLD
    keep(migrated_database, account, RAW, key=turned)
    with transaction(migrated_database) as connection:
        twin = connection.execute(text("SELECT max(id) FROM quarantine")).scalar_one()
        assert resolve(connection, twin)
    assert reseal_all(migrated_database, turned) == (2, 1, 0)  # the joined entry comes by a second time
    assert sorted(contents(migrated_database, NEW)) == sorted([(RAW, 3, "m-1"), (b"other", 1, "m-1")])
    with transaction(migrated_database) as connection:
        oldest = (
            "SELECT count(*) FROM quarantine WHERE first_seen_at < now() - interval '2 days' AND resolved_at IS NULL"
        )
        assert connection.execute(text(oldest)).scalar_one() == 2
    assert keep(migrated_database, account, RAW, b"other", key=NEW) == 0


def test_what_is_kept_once_stays_so_over_a_rotation(migrated_database: Engine, account: str) -> None:
    """Its fingerprint is of its reason alone."""

    def note(raw: bytes, key: bytes) -> int:
        item = Unreadable(reason="a code that we do not know", raw=raw, once=True)
        with transaction(migrated_database) as connection:
            return seal(connection, key, account_id=account, origin="poll:page", unreadable=[item], context={})

    assert note(b"first", OLD) == 1
    assert reseal_all(migrated_database, NEW + b" " + OLD) == (1, 0, 0)
    assert note(b"second", NEW) == 0


def test_an_entry_of_a_lost_key_is_counted_and_left_alone(migrated_database: Engine, account: str) -> None:
    """Resealing the others must not end at it."""
    keep(migrated_database, account, b"lost", key=new_key())
    keep(migrated_database, account, b"1", b"2", b"3", key=OLD)
    assert reseal_all(migrated_database, NEW + b"\n" + OLD) == (3, 0, 1)
    with transaction(migrated_database) as connection:
        assert len(list_quarantine(connection)) == 4


def test_the_command_seals_again_beside_those_who_seal(
    migrated_database: Engine, account: str, ulak: Ulak, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than one part of entries, while workers with the new file keep sealing the same bytes."""
    raws = [b"%d" % number for number in range(250)]
    keep(migrated_database, account, *raws, key=OLD)
    file = tmp_path / "seal_key"
    file.write_bytes(NEW + b"\n" + OLD + b"\n")
    monkeypatch.setenv("ULAK_SEAL_KEY_FILE", str(file))
    stop = threading.Event()

    def keep_sealing() -> None:
        for raw in itertools.cycle(raws):
            if stop.is_set():
                return
            keep(migrated_database, account, raw, key=file.read_bytes())

    thread = threading.Thread(target=keep_sealing)
    thread.start()
    try:
        first = ulak("quarantine", "reseal")
    finally:
        stop.set()
        thread.join()
    assert (first.code, first.err) == (0, "")
    assert re.fullmatch(r"\d+ entries sealed with the first key, \d+ were already\n", first.out)
    again = ulak("quarantine", "reseal")
    assert again.out == "0 entries sealed with the first key, 250 were already\n"
    assert sorted(raw for raw, _, _ in contents(migrated_database, NEW)) == sorted(raws)
    file.write_bytes(new_key())
    third = ulak("quarantine", "reseal")
    assert (third.code, "250 cannot be opened with any key of the file" in third.err) == (1, True)


@pytest.mark.parametrize("content", ["change-me", "x" * 44, "NEW\nchange-me", ""])
def test_a_seal_key_that_is_none_is_told_before_anything_is_to_be_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    """With the file's place and without its content."""
    (tmp_path / "seal_key").write_text(content.replace("NEW", NEW.decode()))
    monkeypatch.setenv("ULAK_SEAL_KEY_FILE", str(tmp_path / "seal_key"))
    with pytest.raises(CredentialError, match=r"seal_key (is none|is empty)") as caught:
        seal_key(load_settings())
    assert NEW.decode() not in str(caught.value)
