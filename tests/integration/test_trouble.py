"""Trouble of one account is its own: it rests, is seen, and comes back, while all others go on."""

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from command_line import Ulak, ulak
from driving import Driver, make_runtime, miscounted_polls, scalar
from ledger_acts import add_account, add_ids, deliveries, execute, fetches_of, row
from sqlalchemy import Engine, text
from tiny_provider import Reply, Request, TinyProvider, vairo_reply

from ulak.models.accounts import resume
from ulak.models.overview import AccountOverview, overview
from ulak.tasks.messages import dispatch_account
from ulak.tasks.runtime import Runtime

__all__ = ["ulak"]

pytestmark = pytest.mark.timeout(200)

REFUSED = msgspec.json.encode({"durum": False, "aciklama": "Gönderilen api_key bilgisi hatalı, lütfen kontrol edin."})
QUICK = {"base_seconds": 0.05, "cap_seconds": 0.2}


@pytest.fixture
def runtime(migrated_database: Engine) -> Runtime:
    """A runtime whose credentials are always found."""
    return make_runtime(migrated_database, resolve=lambda _: "secret")


def account_of(runtime: Runtime, tiny: TinyProvider, who: str, many: int, **given: Any) -> str:
    """A Vairo account at the tiny provider, with so many numbers to be asked for; eager enough for a test."""
    values = {"requests": 50, "concurrency": 2, "retry": QUICK, "poll": {"time_factor": 0.02}, **given}
    account_id = add_account(runtime.engine, base_url=tiny.address(who), **values)
    add_ids(runtime.engine, account_id, [f"{who}{n}:+9053212345{n:02}" for n in range(many)])
    return account_id


def shown(engine: Engine, account_id: str) -> AccountOverview:
    """What people see of the account."""
    with engine.connect() as connection:
        [found] = overview(connection, account_id)
    return found


def statuses(engine: Engine, account_id: str) -> list[str]:
    """The statuses of the account's rows."""
    return [status for _, status in deliveries(engine, account_id)]


def all_final(engine: Engine, account_id: str, many: int) -> Callable[[], bool]:
    """Whether so many of its messages are delivered."""
    return lambda: statuses(engine, account_id) == ["delivered"] * many


def answering(**by_account: Callable[[Request], Reply]) -> Callable[[Request], Reply]:
    """Each account has its own answers; one that is not named is told `DELIVERED`."""

    def answer(request: Request) -> Reply:
        own = by_account.get(request.who)
        return vairo_reply(request, "DELIVERED") if own is None else own(request)

    return answer


# ------------------------------------------------------------------------------------------ refused
def test_a_key_that_is_refused_midway_pauses_its_account_until_it_is_resumed(runtime: Runtime) -> None:
    """What was said stands, the reason is shown, nothing more is asked; a resume goes on where it stopped."""
    engine = runtime.engine
    is_let_in = False

    def sick(request: Request) -> Reply:
        is_refused = len(tiny.requests("sick")) > 4 and not is_let_in
        return Reply(REFUSED, status=401) if is_refused else vairo_reply(request, "DELIVERED")

    with TinyProvider(answering(sick=sick)) as tiny:
        patient = {"deadline_seconds": 30.0}
        account_id = account_of(runtime, tiny, "sick", 12, requests=4, concurrency=1, options=patient)
        healthy = account_of(runtime, tiny, "well", 20)
        with Driver(runtime).running() as driver:
            assert driver.until(lambda: shown(engine, account_id).state == "paused", seconds=30)
            before, asked = statuses(engine, account_id), len(tiny.requests("sick"))
            assert before == ["delivered"] * 4
            assert driver.until(all_final(engine, healthy, 20), seconds=40)
            driver.until(lambda: False, seconds=1.5)
            seen = shown(engine, account_id)
            assert (seen.state, seen.reason) == ("paused", "Vairo refuses the api_key. [401]")
            assert seen.until is not None
            assert 50 < (seen.until - seen.as_of).total_seconds() <= 60
            assert (statuses(engine, account_id), len(tiny.requests("sick"))) == (before, asked)
            is_let_in = True
            with engine.begin() as connection:
                resume(connection, account_id)
            driver.send([dispatch_account(account_id)])
            assert driver.until(all_final(engine, account_id, 12), seconds=40)
            assert driver.until(lambda: not fetches_of(engine, account_id, "ready", "sending"), seconds=20)
        assert [
            row(engine, "fetches", fetch_id)["attempts"] for fetch_id in fetches_of(engine, account_id, "dead")
        ] == []
        assert miscounted_polls(engine) == []


def test_a_refused_account_comes_back_by_itself_with_a_few_tries_an_hour(runtime: Runtime) -> None:
    """Each time its pause ends it asks with no more than its concurrency; once it is let in again, all goes on."""
    engine = runtime.engine
    is_refused = True

    def sick(request: Request) -> Reply:
        return Reply(REFUSED, status=401) if is_refused else vairo_reply(request, "DELIVERED")

    with TinyProvider(answering(sick=sick)) as tiny:
        account_id = account_of(runtime, tiny, "sick", 12)
        paused = lambda: shown(engine, account_id).state == "paused"  # noqa: E731
        tries = []
        with Driver(runtime).running() as driver:
            asked = 0
            for _ in range(4):
                assert driver.until(paused, seconds=30)
                driver.until(lambda: False, seconds=0.8)
                before, asked = asked, len(tiny.requests("sick"))
                tries.append(asked - before)
                # Half an hour passes.
                execute(engine, "UPDATE accounts SET paused_until = now()")
            is_refused = False
            assert driver.until(all_final(engine, account_id, 12), seconds=50)
        assert all(1 <= each <= 2 for each in tries), tries


# ------------------------------------------------------------------------------------------ throttled
def test_the_waiting_time_that_a_provider_names_is_kept_to_the_full(runtime: Runtime) -> None:
    """After a 429 with `Retry-After: 2` no request of that account arrives for two seconds; others ask meanwhile."""
    engine = runtime.engine
    throttled: list[float] = []

    def sick(request: Request) -> Reply:
        if not throttled:
            throttled.append(request.at)
            return Reply(b"Too Many Requests", status=429, headers={"Retry-After": "2"})
        return vairo_reply(request, "DELIVERED")

    with TinyProvider(answering(sick=sick)) as tiny:
        account_id = account_of(runtime, tiny, "sick", 6, concurrency=1)
        healthy = account_of(runtime, tiny, "well", 40, requests=10)
        with Driver(runtime).running() as driver:
            assert driver.until(lambda: shown(engine, account_id).state == "throttled", seconds=30)
            assert driver.until(all_final(engine, account_id, 6), seconds=40)
            assert driver.until(all_final(engine, healthy, 40), seconds=40)
        [refused, second, *_] = tiny.requests("sick")
        meanwhile = [each for each in tiny.requests("well") if refused.at < each.at < second.at]
        assert second.at - refused.at >= 2.0
        assert len(meanwhile) >= 5
        attempts = "SELECT max(attempts) FROM fetches WHERE account_id = :a"
        assert scalar(engine, attempts, a=account_id) in {0, 1}
        assert scalar(engine, "SELECT throttles FROM accounts WHERE id = :a", a=account_id) == 0


def test_being_throttled_again_and_again_slows_down_and_kills_nothing(runtime: Runtime) -> None:
    """Without a named time the account's waits double up to its cap; no try counts, so no fetch is given up."""
    engine = runtime.engine

    def sick(request: Request) -> Reply:
        if len(tiny.requests("sick")) <= 7:
            return Reply(b"", status=429)
        return vairo_reply(request, "DELIVERED")

    with TinyProvider(answering(sick=sick)) as tiny:
        retry = {"base_seconds": 0.1, "cap_seconds": 0.8, "max_attempts": 2}
        account_id = account_of(runtime, tiny, "sick", 2, concurrency=1, retry=retry)
        with Driver(runtime).running() as driver:
            assert driver.until(all_final(engine, account_id, 2), seconds=60)
        times = [each.at for each in tiny.requests("sick")]
        gaps = [after - before for before, after in pairwise(times)]
        assert gaps[5] >= 0.4
        assert min(gaps[:7]) >= 0.05
        assert fetches_of(engine, account_id, "dead") == []


# ------------------------------------------------------------------------------------------ one bad id
def organik_answer(request: Request) -> Reply:
    """Organik as it is when one id among many is wrong: error 96 for the whole call."""
    ids = request.body["data"]["gsm_track_ids"]
    if "13" in ids:
        return Reply(msgspec.json.encode({"response": {"result": False, "error": {"number": 96, "code": 96}}}))
    rows = [
        {"gsm": "5301234567", "transaction_id": 1, "gsm_track_id": int(each), "status": 2, "errorcode": 0}
        for each in ids
    ]
    return Reply(msgspec.json.encode({"response": {"result": True, "data": rows}}))


def test_one_bad_id_never_sinks_its_batch(runtime: Runtime) -> None:
    """The batch is halved until the bad one stands alone: it dies, fifteen others are delivered, in few calls."""
    engine = runtime.engine
    with TinyProvider(organik_answer) as tiny:
        account_id = add_account(
            engine,
            provider="organik",
            base_url=tiny.address("o"),
            retry=QUICK,
            options={"batch_size": 100, "deadline_seconds": 30.0},
        )
        add_ids(engine, account_id, [str(number) for number in range(16)], kind="gsm_track")
        with Driver(runtime).running() as driver:
            assert driver.until(lambda: fetches_of(engine, account_id, "dead"), seconds=40)
            assert driver.until(all_final(engine, account_id, 15), seconds=40)
        keys = {key for key, _ in deliveries(engine, account_id)}
        assert keys == {str(number) for number in range(16)} - {"13"}
        assert len(tiny.requests("o")) <= 9
        [dead] = fetches_of(engine, account_id, "dead")
        assert row(engine, "fetches", dead)["params"]["ids"] == ["13"]
        with engine.connect() as connection:
            open_ids = connection.execute(text("SELECT value FROM tracked_ids WHERE closed_at IS NULL")).scalars().all()
        assert list(open_ids) == ["13"]
        assert miscounted_polls(engine) == []


# ------------------------------------------------------------------------------------------ hanging
def test_a_concurrency_that_one_worker_never_uses_is_told_and_is_no_failure(
    ulak: Ulak, migrated_database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quarter of the threads is left to the others: `ulak check` names what would be right beside its ok."""
    monkeypatch.setenv("TEST_KEY", "secret")
    monkeypatch.setenv("ULAK_WORKER_THREADS", "16")
    crowding, modest = (add_account(migrated_database, concurrency=many) for many in (13, 12))
    lines = {line.partition(":")[0]: line for line in ulak("check").out.splitlines()}
    assert lines[f"account {modest}"] == f"account {modest}: ok (credentials found)"
    assert lines[f"account {crowding}"] == (
        f"account {crowding}: ok (credentials found; but one worker of 16 threads never makes more than 12 calls of an"
        " account at once, and its concurrency is 13: start more workers, or give them more threads, to use it whole)"
    )


def test_a_hanging_account_holds_the_threads_for_one_deadline_at_most(runtime: Runtime) -> None:
    """Even with a concurrency that takes every thread: after five time-outs it is probed by one call at a time."""
    engine = runtime.engine
    hang = lambda request: vairo_reply(request, "DELIVERED", after_seconds=30.0)  # noqa: E731
    with TinyProvider(answering(sick=hang, ill=hang)) as tiny:
        for who in ("sick", "ill"):
            account_of(runtime, tiny, who, 40, concurrency=20)
        healthy = account_of(runtime, tiny, "well", 40, concurrency=2)
        with Driver(runtime, threads=8).running() as driver:
            began = time.monotonic()
            assert driver.until(all_final(engine, healthy, 40), seconds=60)
            took = time.monotonic() - began
        # It takes two seconds. The deadline is a second: without the breaker the two would hold all threads forever.
        assert took < 20
        assert len(tiny.requests("sick")) + len(tiny.requests("ill")) <= 2 * 20 + 4
