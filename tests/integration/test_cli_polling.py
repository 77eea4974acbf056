"""`ulak poll`, `polls` and `dead`: asking now, looking at it, asking again."""

import json
import threading
import time
from collections.abc import Iterator

import pytest
from command_line import Ulak, ulak
from database_fixtures import add_account
from driving import scalar
from sqlalchemy import Engine, text

from ulak.core.redis import connect
from ulak.core.settings import load_settings
from ulak.models.database import transaction
from ulak.models.ledger.opening import cancel
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.ondemand import open_on_demand
from ulak.tasks.steps.planning import plan_poll
from ulak.workers.connections import runtime_for

__all__ = ["ulak"]


@pytest.fixture(autouse=True)
def account(migrated_database: Engine) -> str:
    """An account without anything to ask for."""
    with transaction(migrated_database) as connection:
        add_account(connection, "listeli", provider="iletimerkezi")
        add_account(connection, "bildirim", provider="bip")
        return add_account(connection, "kampanya")


@pytest.fixture
def runtime(ulak: Ulak) -> Iterator[Runtime]:
    """The runtime of a worker on the test's database."""
    runtime = runtime_for(load_settings())
    yield runtime
    runtime.engine.dispose()
    runtime.door.close()


def polls(ulak: Ulak) -> list[tuple[object, ...]]:
    """Polls as `--json` lists them, the newest first."""
    rows = json.loads(ulak("polls", "list", "--json").out)
    return [(row["id"], row["trigger"], row["state"], row["window_from"], row["window_to"]) for row in rows]


def test_a_poll_is_a_row_and_a_message(ulak: Ulak, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its id stands alone on stdout; the message waits in the queue of the planners."""
    monkeypatch.setenv("ULAK_REDIS_URL", redis_url)
    result = ulak("poll", "listeli", "--from", "2026-05-01", "--to", "2026-05-02")
    assert (result.code, result.out, result.err) == (0, "1\n", "")
    assert polls(ulak) == [(1, "cli", "running", "2026-05-01", "2026-05-02")]
    with connect(redis_url) as client:
        assert client.llen("ulak:control") == 1


def test_without_redis_the_poll_is_there_all_the_same(ulak: Ulak, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reconciler plans what nobody was told of; the exit code is 0, stderr says so."""
    unknown = ulak("poll", "kampanya")
    monkeypatch.setenv("ULAK_REDIS_URL", "redis://127.0.0.1:1/0")
    away = ulak("poll", "kampanya")
    assert (unknown.code, unknown.out, unknown.err) == (
        0,
        "1\n",
        "No Redis is known, so the workers find this by themselves within seconds.\n",
    )
    assert (away.code, away.out, away.err) == (
        0,
        "2\n",
        "Redis cannot be reached now; the workers find this by themselves once they run.\n",
    )


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["nobody"], 1, "There is no account 'nobody': `ulak accounts list` shows the known ones.\n"),
        (["kampanya", "--from", "yesterday"], 2, "--from must be a day such as 2026-05-01.\n"),
        (
            ["listeli", "--to", "2026-05-01"],
            2,
            "--from is missing: give the first day as well as the last.\n",
        ),
        (["listeli", "--from", "2026-05-02", "--to", "2026-05-01"], 2, "--to lies before from.\n"),
        (
            ["listeli", "--from", "2020-01-01", "--to", "2026-05-01"],
            2,
            "--to lies too far from the first day: at most 366 days at once.\n",
        ),
        (["listeli", "--from", "2200-01-01"], 2, "--from lies in the future.\n"),
        (
            ["kampanya", "--from", "2026-05-01"],
            2,
            "--from cannot be asked for: Vairo SMS has no list of days; ask without days for every open id.\n",
        ),
        (["bildirim"], 2, "BiP pushes its reports: there is nothing that could be asked for.\n"),
    ],
)
def test_a_poll_that_cannot_be_is_refused(ulak: Ulak, words: list[str], code: int, sentence: str) -> None:
    """Nothing is inserted and nothing stands on stdout."""
    result = ulak("poll", *words)
    assert (result.code, result.out, result.err) == (code, "", sentence)
    assert polls(ulak) == []


def test_whoever_polls_a_paused_account_is_told_and_does_not_wait_for_ever(ulak: Ulak) -> None:
    """Until when and why; the poll is opened all the same. A pause that has ended is none."""
    ulak("accounts", "pause", "kampanya", "--why", "new key on Monday")
    forever = "kampanya is paused until it is resumed (new key on Monday): the poll waits for that.\n"
    told = ulak("poll", "kampanya")
    assert (told.code, told.out, told.err.splitlines(keepends=True)[-1]) == (0, "1\n", forever)
    waited = ulak("poll", "kampanya", "--wait")
    assert (waited.code, waited.out, waited.err.splitlines(keepends=True)[-1]) == (1, "2\n", forever)
    assert [row[2] for row in polls(ulak)] == ["running", "running"]


def test_a_pause_that_ends_by_itself_is_told_with_its_end(ulak: Ulak, migrated_database: Engine) -> None:
    """The end as the tables show times; a pause that has ended already is none."""
    until = "UPDATE accounts SET pause_reason = 'key refused', paused_until = CAST(:until AS timestamptz)"
    for end, told in (("2200-05-01T10:00Z", True), ("2020-05-01T10:00Z", False)):
        with transaction(migrated_database) as connection:
            connection.execute(text(until), {"until": end})
        sentence = "kampanya is paused until 2200-05-01 10:00:00Z (key refused): the poll waits for that.\n"
        assert (sentence in ulak("poll", "kampanya").err) is told


def test_waiting_ends_with_the_poll(ulak: Ulak, runtime: Runtime) -> None:
    """A worker plans the poll while the command waits; there is nothing to ask, so it is complete."""

    def plan_once_it_is_there() -> None:
        while scalar(runtime.engine, "SELECT count(*) FROM polls") == 0:
            time.sleep(0.05)
        time.sleep(0.5)
        plan_poll(runtime, "kampanya", 1)

    worker = threading.Thread(target=plan_once_it_is_there)
    worker.start()
    result = ulak("poll", "kampanya", "--wait")
    worker.join()
    assert (result.code, result.out) == (0, "1\n")
    assert "Poll 1 is complete: 0 calls, 0 reports, 0 new, 0 advanced, 0 unchanged, 0 dead.\n" in result.err


def test_waiting_ends_with_3_after_the_time_out(ulak: Ulak) -> None:
    """The poll goes on."""
    result = ulak("poll", "kampanya", "--wait", "--timeout", "0.3")
    assert (result.code, result.out) == (3, "1\n")
    assert [row[2] for row in polls(ulak)] == ["running"]


def test_a_poll_is_cancelled_once(ulak: Ulak) -> None:
    """A second time, and a poll that is not there, are failures with a sentence."""
    ulak("poll", "kampanya")
    first, again, missing = (ulak("polls", "cancel", number) for number in ("1", "1", "99"))
    assert (first.code, first.err) == (0, "Poll 1 is cancelled; 0 fetches will not be made.\n")
    assert (again.code, again.err) == (1, "Poll 1 is cancelled already.\n")
    assert (missing.code, missing.err) == (1, "There is no poll 99: `ulak polls list` shows the known ones.\n")


def bury(engine: Engine, params: str) -> None:
    """A fetch that was given up, and what it asked for."""
    with transaction(engine) as connection:
        connection.execute(
            text(
                "INSERT INTO polls (account_id, kind, trigger, planned_at, state, dead, finished_at)"
                " VALUES ('kampanya', 'plan', 'schedule', now(), 'complete_with_errors', 1, now())"
            )
        )
        connection.execute(
            text(
                "INSERT INTO fetches (poll_id, account_id, kind, params, params_hash, label, state, attempts,"
                " last_error, finished_at) SELECT id, 'kampanya', 'batch', CAST(:params AS jsonb), 'h', 'send 771',"
                " 'dead', 8, 'TryAgainSoon: the provider did not answer', now() FROM polls"
            ),
            {"params": params},
        )


def test_a_dead_fetch_is_asked_again_by_its_open_ids(ulak: Ulak, migrated_database: Engine) -> None:
    """The new poll asks for the one id that is meant; the dead one leaves the list; a second time there is none."""
    ulak("track", "kampanya", "number=771:+905301234567", "number=771:+905301234568", "number=772:+905301234567")
    bury(migrated_database, '{"call": "NumaraRaporu", "send": "771", "number": "+905301234567"}')
    listed = ulak("dead", "list")
    assert "the provider did not answer" in listed.out
    assert "TryAgainSoon" not in listed.out
    assert "905301234567" not in listed.out
    result = ulak("dead", "retry", "1")
    assert (result.code, result.out) == (0, "1: poll 2\n")
    with migrated_database.connect() as connection:
        asked = connection.execute(
            text(
                "SELECT t.value, f.poll_id, f.state, f.priority FROM tracked_ids t JOIN fetches f ON f.id = t.fetch_id"
            )
        ).all()
        buried = connection.execute(text("SELECT state, last_error FROM fetches WHERE id = 1")).one()
    assert [tuple(row) for row in asked] == [("771:+905301234567", 2, "ready", 10)]
    assert tuple(buried) == (
        "cancelled",
        "asked again by poll 2; before: TryAgainSoon: the provider did not answer",
    )
    assert json.loads(ulak("dead", "list", "--json").out) == []
    again = ulak("dead", "retry", "1")
    assert (again.code, again.out) == (1, "")


def test_a_dead_page_is_asked_again_with_its_whole_window(ulak: Ulak, migrated_database: Engine) -> None:
    """One page alone could not be judged complete; --all takes every dead fetch."""
    bury(migrated_database, '{"window": ["2026-05-01", "2026-05-03"], "page": 7}')
    result = ulak("dead", "retry", "--all")
    assert (result.code, result.out) == (0, "1: poll 2\n")
    assert polls(ulak)[0] == (2, "cli", "running", "2026-05-01", "2026-05-03")


def test_a_dead_fetch_whose_ids_are_closed_is_only_put_away(ulak: Ulak, migrated_database: Engine) -> None:
    """No call is made for what nobody waits for any more."""
    ulak("track", "kampanya", "number=771:+905301234567")
    with transaction(migrated_database) as connection:
        closed = "UPDATE tracked_ids SET closed_at = now(), close_reason = 'final', next_check_at = NULL"
        connection.execute(text(closed))
    bury(migrated_database, '{"call": "NumaraRaporu", "send": "771", "number": "+905301234567"}')
    result = ulak("dead", "retry", "--all")
    assert (result.code, result.out) == (0, "1: nothing is left to ask\n")
    assert [row[0] for row in polls(ulak)] == [1]


def test_a_poll_that_was_taken_over_says_so_and_whoever_waits_follows(
    ulak: Ulak, migrated_database: Engine, runtime: Runtime
) -> None:
    """A later poll on the same ids takes what was not asked yet: the earlier one is complete, but not all is asked."""
    assert ulak("track", "kampanya", "number=1:+905301234567").code == 0

    def take_over() -> None:
        while not scalar(migrated_database, "SELECT count(*) FROM polls"):
            time.sleep(0.05)
        plan_poll(runtime, "kampanya", 1)
        second = open_on_demand(runtime, "kampanya", trigger="api")
        plan_poll(runtime, "kampanya", second)
        with transaction(migrated_database) as connection:
            cancel(connection, second)

    other = threading.Thread(target=take_over)
    other.start()
    waited = ulak("poll", "kampanya", "--wait", "--timeout", "20")
    other.join()
    told = [line.partition(":")[0] for line in waited.err.splitlines()[-3:]]
    assert (waited.code, told) == (
        1,
        [
            "Poll 1 is complete",
            "Poll 2 has superseded the rest of it and is followed now.",
            "Poll 2 is cancelled",
        ],
    )
    listed = json.loads(ulak("polls", "list", "--json").out)
    assert [(row["id"], row["state"], row["taken_over_by"]) for row in listed] == [
        (2, "cancelled", None),
        (1, "complete", 2),
    ]


def test_a_preview_shows_the_calls_and_makes_none(ulak: Ulak, migrated_database: Engine) -> None:
    """The calls of a real poll of the same moment, with no poll, fetch or message left behind."""
    lines = "kind,value\n" + "".join(f"number,{n}:+905301234{n}\n" for n in range(100, 125))
    assert ulak("track", "kampanya", "--file", "-", stdin=lines.encode()).code == 0
    shown = ulak("poll", "kampanya", "--preview")
    assert shown.code == 0
    assert "25 calls for 25 ids, in 24 s at least by the limit. Nothing was asked or stored." in shown.err
    counts = "SELECT (SELECT count(*) FROM polls) + (SELECT count(*) FROM fetches) + (SELECT count(*) FROM calls)"
    assert scalar(migrated_database, counts) == 0
    assert scalar(migrated_database, "SELECT count(*) FROM tracked_ids WHERE fetch_id IS NOT NULL") == 0


def test_a_preview_refuses_what_a_poll_refuses(ulak: Ulak, migrated_database: Engine) -> None:
    """Days of a provider without a list, days in the wrong order, a disabled account: the same sentence and code."""
    for days in (("--from", "2026-05-01"), ("--from", "2026-05-20", "--to", "2026-05-01")):
        account = "kampanya" if len(days) == 2 else "listeli"
        real, shown = ulak("poll", account, *days), ulak("poll", account, *days, "--preview")
        assert (shown.code, shown.err) == (real.code, real.err)
        assert shown.code != 0
    with migrated_database.begin() as connection:
        connection.execute(text("UPDATE accounts SET enabled = false"))
    real, shown = ulak("poll", "kampanya"), ulak("poll", "kampanya", "--preview")
    assert (shown.code, shown.err) == (real.code, real.err)
    assert "disabled" in shown.err


def test_a_preview_of_lists_names_their_windows(ulak: Ulak) -> None:
    """Twenty closed days are two windows of ten, and no list has been read."""
    shown = ulak("poll", "listeli", "--from", "2026-05-01", "--to", "2026-05-20", "--preview")
    assert shown.err.startswith("2 calls, in ")
    assert polls(ulak) == []
