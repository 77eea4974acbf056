"""The workers' threads are shared out among the accounts, on the real ledger: hints, calls, waiting, slow accounts."""

import time
from collections.abc import Sequence

import pytest
from driving import make_runtime, scalar
from ledger_acts import add_account, add_poll, execute, fetch, row, take
from sqlalchemy import Engine

from models.ledger import limiter, sharing
from models.ledger.dispatch import Dispatch, dispatch
from workers.presence import Presence

THREADS = 8
"""Two are left free by whoever has more than one call, and the slow have four."""


@pytest.fixture
def engine(migrated_database: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """A database with two workers of four threads each; what is a matter of seconds takes longer than any test."""
    for name, seconds in (("PATIENCE", 60.0), ("GIVES_WAY", 30.0), ("ANNOUNCED_LASTS", 300.0)):
        monkeypatch.setattr(sharing, f"{name}_SECONDS", seconds)
    monkeypatch.setitem(sharing.PRESSURE_PARAMETERS, "announced_lasts", sharing.ANNOUNCED_LASTS_SECONDS)
    with migrated_database.begin() as connection:
        sharing.announce(connection, "one@host", 1)
        sharing.announce(connection, "one@host", THREADS // 2)
        sharing.announce(connection, "two@host", THREADS // 2)
    return migrated_database


def account_with_work(engine: Engine, many: int = 16, *, deadline_seconds: float = 75.0) -> tuple[str, list[int]]:
    """An account that could make that many calls at once, and its ready fetches."""
    account_id = add_account(engine, concurrency=16, options={"deadline_seconds": deadline_seconds})
    return account_id, add_poll(engine, account_id, [fetch(number) for number in range(many)])[1]


def look(engine: Engine, account_id: str) -> Dispatch:
    """One look of the dispatcher."""
    with engine.begin() as connection:
        return dispatch(connection, account_id)


def hinted(engine: Engine, account_id: str) -> list[int]:
    """The fetches that one look hints."""
    return [hint.fetch_id for hint in look(engine, account_id).hints]


def take_all(engine: Engine, fetch_ids: Sequence[int]) -> list[str]:
    """Take one after the other: what became of each."""
    found = [take(engine, fetch_id) for fetch_id in fetch_ids]
    return [each.why if isinstance(each, limiter.NotYet) else type(each).__name__ for each in found]


def answer_one(engine: Engine, account_id: str, *, after_seconds: float = 0.0) -> None:
    """Let one call of the account be answered, as if it had been asked so long ago."""
    execute(
        engine,
        "UPDATE calls SET answered_at = clock_timestamp(), released_at = clock_timestamp(), outcome = 'ok',"
        " asked_at = least(asked_at, clock_timestamp() - make_interval(secs => :seconds))"
        " WHERE id = (SELECT min(id) FROM calls WHERE account_id = :a AND answered_at IS NULL)",
        a=account_id,
        seconds=after_seconds,
    )


def let_hang(engine: Engine, account_id: str) -> None:
    """Let the account's calls be out for longer than patience lasts."""
    seconds = sharing.PATIENCE_SECONDS + 1
    execute(
        engine,
        "UPDATE calls SET asked_at = asked_at - make_interval(secs => :seconds) WHERE account_id = :a",
        a=account_id,
        seconds=seconds,
    )


def waits(engine: Engine, account_id: str) -> bool:
    """Whether the account told the others that it waits."""
    return row(engine, "accounts", account_id)["crowded_at"] is not None


def test_one_account_leaves_a_quarter_of_the_threads_to_the_others(engine: Engine) -> None:
    """Six hints of eight threads; a hint too many is not taken but waits; another account's first call goes at once."""
    greedy, fetches = account_with_work(engine)
    chosen = hinted(engine, greedy)
    assert chosen == fetches[:6]
    assert waits(engine, greedy)
    assert take_all(engine, fetches[:7]) == ["Taken"] * 6 + ["threads used"]
    assert row(engine, "fetches", fetches[6])["state"] == "ready"
    other, [first, second] = account_with_work(engine, 2)
    assert hinted(engine, other) == [first]
    assert take_all(engine, [first, second]) == ["Taken", "threads used"]


def test_who_has_more_than_an_even_part_gives_way_to_who_waits(engine: Engine) -> None:
    """The first holds six; while the second waits, the first replaces no answered call until both have three."""
    greedy, _ = account_with_work(engine)
    take_all(engine, hinted(engine, greedy))
    late, _ = account_with_work(engine)
    take_all(engine, hinted(engine, late))
    for _ in range(3):
        answer_one(engine, greedy)
        assert hinted(engine, greedy) == []
        take_all(engine, hinted(engine, late))
    held = "SELECT count(*) FROM calls WHERE account_id = :a AND answered_at IS NULL"
    assert [scalar(engine, held, a=each) for each in (greedy, late)] == [3, 3]
    answer_one(engine, greedy)
    assert len(hinted(engine, greedy)) == 1
    # Nobody else has work: all that is open is the first's again.
    cancel = "UPDATE fetches SET state = 'cancelled', finished_at = now() WHERE account_id = :a AND state = 'ready'"
    execute(engine, cancel, a=late)
    assert hinted(engine, late) == []
    assert not waits(engine, late)
    answer_one(engine, late)
    answer_one(engine, late)
    assert take_all(engine, hinted(engine, greedy)) == ["Taken"] * 2


@pytest.mark.parametrize("told_by", ["a call that hangs", "the last answer"])
def test_slow_accounts_have_half_of_the_threads_together(engine: Engine, told_by: str) -> None:
    """An account is slow by a call that is out for long, or by its last answer; a quick one still has its part."""
    first, first_fetches = account_with_work(engine)
    take_all(engine, first_fetches[:3])
    let_hang(engine, first)
    second, second_fetches = account_with_work(engine)
    take_all(engine, second_fetches[:1])
    if told_by == "the last answer":
        answer_one(engine, second, after_seconds=sharing.PATIENCE_SECONDS + 1)
    else:
        let_hang(engine, second)
    # Three of the four are taken, and where the second has one already, all.
    assert take_all(engine, second_fetches[1:3]) == (
        ["Taken", "threads used"] if told_by == "the last answer" else ["threads used"] * 2
    )
    quick, quick_fetches = account_with_work(engine)
    assert take_all(engine, quick_fetches[:3]) == ["Taken"] * 2 + ["threads used"]
    assert not waits(engine, quick)


def test_a_slow_account_without_a_thread_looks_again_soon(engine: Engine) -> None:
    """Where the slow hold all that is open, a slow account makes no call, and a timer wakes it, for no answer will."""
    for _ in range(6):
        hanging, fetches = account_with_work(engine)
        take_all(engine, fetches[:1])
        let_hang(engine, hanging)
    slow, fetches = account_with_work(engine)
    execute(
        engine,
        "INSERT INTO calls (account_id, asked_at, gives_up_at, answered_at, released_at, outcome) SELECT :a,"
        " t - interval '90 seconds', t, t, t, 'ok' FROM (SELECT clock_timestamp() - interval '1 minute' AS t) x",
        a=slow,
    )
    decided = look(engine, slow)
    assert decided.hints == ()
    assert decided.wake_in_seconds == pytest.approx(sharing.SLOW_LOOK_SECONDS, abs=0.1)
    assert take_all(engine, fetches[:1]) == ["threads used"]


def test_a_slow_account_gives_way_to_one_that_has_no_thread(engine: Engine) -> None:
    """Who has just been answered looks at once and would always be first; it lets the one that waits make its call."""
    slow = [account_with_work(engine) for _ in range(7)]
    for account_id, fetches in slow:
        take_all(engine, fetches[:1])
        answer_one(engine, account_id, after_seconds=sharing.PATIENCE_SECONDS + 1)
    execute(
        engine,
        "UPDATE calls SET (asked_at, gives_up_at, released_at) = (asked_at - i, gives_up_at - i, released_at - i)"
        " FROM (SELECT interval '1 minute' AS i) x",
    )
    for account_id, fetches in slow[:6]:
        take_all(engine, fetches[1:2])
        let_hang(engine, account_id)
    waiting, first = slow[6][0], slow[0][0]
    assert hinted(engine, waiting) == []
    answer_one(engine, first)
    decided = look(engine, first)
    assert decided.hints == ()
    assert decided.wake_in_seconds == pytest.approx(sharing.SLOW_LOOK_SECONDS, abs=0.1)
    assert take_all(engine, hinted(engine, waiting)) == ["Taken"]
    # Nobody waits any more who has none, and one of those that hang is answered: the first is free to go on.
    answer_one(engine, slow[1][0])
    assert len(hinted(engine, first)) == 1


def test_a_worker_counts_until_it_says_so_or_falls_silent(engine: Engine) -> None:
    """One leaves, the other is killed: four threads, then none known and nothing shared."""
    account_id, _ = account_with_work(engine)
    with engine.begin() as connection:
        sharing.withdraw(connection, "one@host")
    assert len(hinted(engine, account_id)) == 3
    execute(engine, "UPDATE fetches SET hinted_at = NULL")
    execute(
        engine,
        "UPDATE workers SET seen_at = seen_at - make_interval(secs => :seconds)",
        seconds=sharing.ANNOUNCED_LASTS_SECONDS,
    )
    assert len(hinted(engine, account_id)) == 16
    execute(engine, "UPDATE workers SET seen_at = seen_at - interval '2 hours'")
    with engine.begin() as connection:
        sharing.announce(connection, "three@host", 2)
    assert scalar(engine, "SELECT string_agg(name, ',') FROM workers") == "three@host"


def test_a_worker_process_announces_itself_and_takes_its_word_back(migrated_database: Engine) -> None:
    """At once both times, though it says its word every few seconds only."""
    presence = Presence(make_runtime(migrated_database), "four@host", 7)
    presence.start()
    wait_for_workers(migrated_database, ["four@host 7"])
    presence.stop()
    wait_for_workers(migrated_database, [])


def wait_for_workers(engine: Engine, wanted: list[str]) -> None:
    """Return when the table holds these, as `name threads`."""
    end = time.monotonic() + sharing.ANNOUNCE_SECONDS - 1
    query = "SELECT coalesce(array_agg(name || ' ' || threads), '{}') FROM workers"
    while (found := scalar(engine, query)) != wanted and time.monotonic() < end:
        time.sleep(0.02)
    assert found == wanted
