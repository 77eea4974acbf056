"""The workers' threads are shared out among the accounts, on the real ledger: calls, waiting, slow accounts."""

import time

import pytest
from driving import make_runtime, scalar
from ledger_acts import add_account, add_poll, execute, fetch, row, take_next
from sqlalchemy import Engine

from ulak.models.ledger import sharing, taking
from ulak.workers.worker_heartbeat import WorkerHeartbeat

THREADS = 8
"""Two are left free by whoever has more than one call, and the slow have four."""


@pytest.fixture
def engine(migrated_database: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """A database with two workers of four threads each; what is a matter of seconds takes longer than any test."""
    for name, seconds in (("PATIENCE", 60.0), ("YIELD", 30.0), ("ANNOUNCED_TTL", 300.0)):
        monkeypatch.setattr(sharing, f"{name}_SECONDS", seconds)
    with migrated_database.begin() as connection:
        sharing.announce(connection, "one@host", 1)
        sharing.announce(connection, "one@host", THREADS // 2)
        sharing.announce(connection, "two@host", THREADS // 2)
    return migrated_database


def account_with_work(engine: Engine, many: int = 16) -> str:
    """An account with so many ready fetches, that could make 16 calls at once."""
    account_id = add_account(engine, concurrency=16, options={"deadline_seconds": 75.0})
    add_poll(engine, account_id, [fetch(number) for number in range(many)])
    return account_id


def take_some(engine: Engine, account_id: str, many: int) -> list[str]:
    """Take one after the other: what became of each."""
    found = [take_next(engine, account_id) for _ in range(many)]
    return [each.why if isinstance(each, taking.NotYet) else type(each).__name__ for each in found]


def take_all(engine: Engine, account_id: str) -> int:
    """Take as many as may be taken; how many that are."""
    many = 0
    while isinstance(take_next(engine, account_id), taking.Taken):
        many += 1
    return many


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
    """Six calls of eight threads; one too many is not made but waits; another account's first call is made at once."""
    greedy = account_with_work(engine)
    assert take_some(engine, greedy, 5) == ["Taken"] * 5
    assert not waits(engine, greedy)
    sixth = take_next(engine, greedy)
    assert isinstance(sixth, taking.Taken)
    assert (sixth.wake_up, waits(engine, greedy)) == (None, True)
    assert take_some(engine, greedy, 1) == ["threads used"]
    other = account_with_work(engine, 2)
    assert take_some(engine, other, 2) == ["Taken", "threads used"]


def test_who_has_more_than_an_even_part_gives_way_to_who_waits(engine: Engine) -> None:
    """The first holds six; while the second waits, the first replaces no answered call until both have three."""
    greedy, late = account_with_work(engine), account_with_work(engine)
    take_all(engine, greedy)
    take_all(engine, late)
    for _ in range(3):
        answer_one(engine, greedy)
        assert take_all(engine, greedy) == 0
        take_all(engine, late)
    held = "SELECT count(*) FROM calls WHERE account_id = :a AND answered_at IS NULL"
    assert [scalar(engine, held, a=each) for each in (greedy, late)] == [3, 3]
    answer_one(engine, greedy)
    assert take_all(engine, greedy) == 1
    # Nobody else has work: all that is open is the first's again.
    cancel = "UPDATE fetches SET state = 'cancelled', finished_at = now() WHERE account_id = :a AND state = 'ready'"
    execute(engine, cancel, a=late)
    assert take_all(engine, late) == 0
    assert not waits(engine, late)
    answer_one(engine, late)
    answer_one(engine, late)
    assert take_all(engine, greedy) == 2


@pytest.mark.parametrize("told_by", ["a call that hangs", "the last answer"])
def test_slow_accounts_have_half_of_the_threads_together(engine: Engine, told_by: str) -> None:
    """An account is slow by a call that is out for long, or by its last answer; a quick one still has its part."""
    first, second, quick = (account_with_work(engine) for _ in range(3))
    take_some(engine, first, 3)
    let_hang(engine, first)
    take_some(engine, second, 1)
    if told_by == "the last answer":
        answer_one(engine, second, after_seconds=sharing.PATIENCE_SECONDS + 1)
    else:
        let_hang(engine, second)
    # Three of the four are taken, and where the second has one already, all.
    assert take_some(engine, second, 2) == (
        ["Taken", "threads used"] if told_by == "the last answer" else ["threads used"] * 2
    )
    assert take_some(engine, quick, 3) == ["Taken"] * 2 + ["threads used"]


def test_a_slow_account_without_a_thread_looks_again_soon(engine: Engine) -> None:
    """Where the slow hold all that is open, a slow account makes no call, and a timer wakes it, for no answer will."""
    for _ in range(6):
        hanging = account_with_work(engine)
        take_some(engine, hanging, 1)
        let_hang(engine, hanging)
    slow = account_with_work(engine)
    execute(
        engine,
        "INSERT INTO calls (account_id, asked_at, gives_up_at, answered_at, released_at, outcome) SELECT :a,"
        " t - interval '90 seconds', t, t, t, 'ok' FROM (SELECT clock_timestamp() - interval '1 minute' AS t) x",
        a=slow,
    )
    assert looks_again_soon(engine, slow)


def looks_again_soon(engine: Engine, account_id: str) -> bool:
    """Whether the account may make no call for want of threads, and a timer wakes it."""
    found = take_next(engine, account_id)
    assert isinstance(found, taking.NotYet)
    assert (found.why, found.wake_up is None) == ("threads used", False)
    return found.wake_up is not None and found.wake_up.delay_seconds == pytest.approx(
        sharing.SLOW_RECHECK_SECONDS, abs=0.1
    )


def test_a_slow_account_gives_way_to_one_that_has_no_thread(engine: Engine) -> None:
    """Who has just been answered looks at once and would always be first; it lets the one that waits make its call."""
    slow = [account_with_work(engine) for _ in range(7)]
    for account_id in slow:
        take_some(engine, account_id, 1)
        answer_one(engine, account_id, after_seconds=sharing.PATIENCE_SECONDS + 1)
    execute(
        engine,
        "UPDATE calls SET (asked_at, gives_up_at, released_at) = (asked_at - i, gives_up_at - i, released_at - i)"
        " FROM (SELECT interval '1 minute' AS i) x",
    )
    for account_id in slow[:6]:
        take_some(engine, account_id, 1)
        let_hang(engine, account_id)
    waiting, first = slow[6], slow[0]
    assert take_some(engine, waiting, 1) == ["threads used"]
    answer_one(engine, first)
    # Its own message of before is not on its way any more.
    execute(engine, "UPDATE accounts SET wake_at = NULL")
    assert looks_again_soon(engine, first)
    assert take_some(engine, waiting, 1) == ["Taken"]
    # Nobody waits any more who has none, and one of those that hang is answered: the first is free to go on.
    answer_one(engine, slow[1])
    assert take_some(engine, first, 1) == ["Taken"]


def test_a_worker_counts_until_it_says_so_or_falls_silent(engine: Engine) -> None:
    """One leaves, the other is killed: four threads, then none known and nothing shared."""
    account_id = account_with_work(engine)
    with engine.begin() as connection:
        sharing.withdraw(connection, "one@host")
    assert take_all(engine, account_id) == 3
    execute(
        engine,
        "UPDATE workers SET seen_at = seen_at - make_interval(secs => :seconds)",
        seconds=sharing.ANNOUNCED_TTL_SECONDS,
    )
    assert take_all(engine, account_id) == 13
    execute(engine, "UPDATE workers SET seen_at = seen_at - interval '2 hours'")
    with engine.begin() as connection:
        sharing.announce(connection, "three@host", 2)
    assert scalar(engine, "SELECT string_agg(name, ',') FROM workers") == "three@host"


def test_a_worker_process_announces_itself_and_takes_its_word_back(migrated_database: Engine) -> None:
    """At once both times, though it says its word every few seconds only."""
    heartbeat = WorkerHeartbeat(make_runtime(migrated_database), "four@host", 7)
    heartbeat.start()
    wait_for_workers(migrated_database, ["four@host 7"])
    heartbeat.stop()
    wait_for_workers(migrated_database, [])


def wait_for_workers(engine: Engine, wanted: list[str]) -> None:
    """Return when the table holds these, as `name threads`."""
    end = time.monotonic() + sharing.ANNOUNCE_SECONDS - 1
    query = "SELECT coalesce(array_agg(name || ' ' || threads), '{}') FROM workers"
    while (found := scalar(engine, query)) != wanted and time.monotonic() < end:
        time.sleep(0.02)
    assert found == wanted
