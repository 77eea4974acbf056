"""Automatic pauses and those of operators: who paused, when the next call is made, and that it is one call."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from driving import Driver, make_runtime, scalar
from ledger_acts import Held, add_account, add_ids, deliveries, execute, plan, row, take, vairo_body, woken
from sqlalchemy import Engine
from tiny_provider import Reply, Request, TinyProvider, vairo_reply

from ulak.core import clock
from ulak.core.credentials import CredentialError
from ulak.models.account import AccountSettings, load
from ulak.models.accounts import apply, pause, resume
from ulak.models.ledger import taking
from ulak.models.overview import overview
from ulak.providers.errors import AnswerNotUnderstood, PauseAccount, TryAgainSoon
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.draining import drain

REFUSED = PauseAccount("Vairo refuses the api_key.", code="401")
IDS = [f"s{n}:+9053212345{n:02}" for n in range(12)]


@pytest.fixture
def runtime(shared_database: Engine) -> Runtime:
    """A runtime whose credentials are always found."""
    return make_runtime(shared_database, resolve=lambda _: "secret")


def held_calls(runtime: Runtime, many: int) -> tuple[str, list[Held]]:
    """An account with so many calls on their way."""
    account_id = add_account(runtime.engine)
    add_ids(runtime.engine, account_id, IDS[:many])
    return account_id, [Held(runtime, fetch_id) for fetch_id in plan(runtime, account_id)]


def paused(engine: Engine, account_id: str) -> tuple[str | None, int, float | None]:
    """(who paused the account, refusals in a row, seconds of the pause, rounded)."""
    found = row(engine, "accounts", account_id)
    if found["paused_until"] is None:
        return found["paused_by"], found["refusals"], None
    return found["paused_by"], found["refusals"], (found["paused_until"] - found["pause_changed_at"]).total_seconds()


def pass_time(engine: Engine, account_id: str) -> None:
    """The pause is over."""
    execute(engine, "UPDATE accounts SET paused_until = clock_timestamp() WHERE id = :a", a=account_id)


def may_call(engine: Engine, account_id: str) -> bool:
    """Whether a call may be made now."""
    found = woken(engine, account_id)
    return found is not None and found.delay_seconds == 0


def answer(held: Held, word: str = "DELIVERED") -> None:
    """A report about the number that the call asks for."""
    held.answer(vairo_body(next(iter(held.prepared.tracked)).value, word))


def test_a_refused_account_is_probed_after_a_minute_then_ever_more_rarely(runtime: Runtime) -> None:
    """One call each time, 1, 2, 4 … 30 minutes apart; a success ends the pause, and the next begins anew."""
    engine = runtime.engine
    account_id, [held] = held_calls(runtime, 1)
    minutes = []
    for _ in range(7):
        held.answer(REFUSED)
        minutes.append((paused(engine, account_id)[2] or 0) / 60)
        assert isinstance(take(engine, held.taken.fetch_id), taking.NotYet)
        pass_time(engine, account_id)
        held = Held(runtime, held.taken.fetch_id)
    assert minutes == [1, 2, 4, 8, 16, 30, 30]
    answer(held)
    assert paused(engine, account_id) == (None, 0, None)
    add_ids(engine, account_id, IDS[1:2])
    [again] = plan(runtime, account_id)
    Held(runtime, again).answer(REFUSED)
    assert paused(engine, account_id) == ("automatic", 1, 60.0)


def test_after_an_automatic_pause_one_call_is_made_and_no_second_before_its_answer(runtime: Runtime) -> None:
    """No message, however late, lets a second call through."""
    engine = runtime.engine
    account_id, [first, second, *others] = held_calls(runtime, 6)
    for held in (first, second, *others):
        held.answer(REFUSED)
    pass_time(engine, account_id)
    assert may_call(engine, account_id)
    probe = Held(runtime, first.taken.fetch_id)
    assert [type(take(engine, held.taken.fetch_id)) for held in (second, *others)] == [taking.NotYet] * 5
    answer(probe)
    assert all(isinstance(take(engine, held.taken.fetch_id), taking.Taken) for held in (second, *others))


def test_of_many_calls_that_are_refused_at_once_one_pauses_the_account(runtime: Runtime) -> None:
    """The others were on their way already: the pause stays a minute long."""
    account_id, helds = held_calls(runtime, 8)
    for held in helds:
        held.answer(REFUSED)
    assert paused(runtime.engine, account_id) == ("automatic", 1, 60.0)
    assert {row(runtime.engine, "fetches", held.taken.fetch_id)["state"] for held in helds} == {"ready"}


def test_a_late_success_of_an_older_call_does_not_end_an_automatic_pause(runtime: Runtime) -> None:
    """It was asked before the refusal, and to end the pause would let every waiting call go at once."""
    account_id, [first, late] = held_calls(runtime, 2)
    first.answer(REFUSED)
    answer(late)
    assert paused(runtime.engine, account_id) == ("automatic", 1, 60.0)
    assert len(deliveries(runtime.engine, account_id)) == 1


def test_a_late_refusal_does_not_undo_a_resume(runtime: Runtime) -> None:
    """It answers a call that was made before; its fetch is asked again and says what is true now."""
    engine = runtime.engine
    account_id, [first, late] = held_calls(runtime, 2)
    first.answer(REFUSED)
    with engine.begin() as connection:
        resume(connection, account_id)
    late.answer(REFUSED)
    assert paused(engine, account_id) == (None, 0, None)
    Held(runtime, late.taken.fetch_id).answer(REFUSED)
    assert paused(engine, account_id) == ("automatic", 1, 60.0)


@pytest.mark.parametrize("word", ["DELIVERED", None])
def test_an_operators_pause_stays_whatever_a_probe_on_its_way_is_told(runtime: Runtime, word: str | None) -> None:
    """Neither a success nor a refusal shortens it; at its end one call is made."""
    engine = runtime.engine
    account_id, [first, second] = held_calls(runtime, 2)
    for held in (first, second):
        held.answer(REFUSED)
    pass_time(engine, account_id)
    probe = Held(runtime, first.taken.fetch_id)
    until = (clock.now() + timedelta(minutes=5)).replace(microsecond=0)
    with engine.begin() as connection:
        assert pause(connection, account_id, until, "A person says so.")
    probe.answer(REFUSED) if word is None else answer(probe, word)
    found = row(engine, "accounts", account_id)
    assert (found["paused_until"], found["paused_by"], found["pause_reason"]) == (
        until,
        "operator",
        "A person says so.",
    )
    assert isinstance(take(engine, second.taken.fetch_id), taking.NotYet)
    pass_time(engine, account_id)
    assert isinstance(take(engine, second.taken.fetch_id), taking.Taken)


def test_an_operators_pause_takes_the_place_of_an_automatic_one(runtime: Runtime) -> None:
    """Even a shorter one: the person knows."""
    engine = runtime.engine
    account_id, [held] = held_calls(runtime, 1)
    held.answer(REFUSED)
    until = (clock.now() + timedelta(seconds=20)).replace(microsecond=0)
    with engine.begin() as connection:
        assert pause(connection, account_id, until, "a short one")
    found = row(engine, "accounts", account_id)
    assert (found["paused_until"], found["paused_by"]) == (until, "operator")


@pytest.mark.parametrize("error", [TryAgainSoon("No answer."), AnswerNotUnderstood("No JSON.")])
def test_only_a_successful_response_ends_an_automatic_pause(runtime: Runtime, error: Exception) -> None:
    """Another failure leaves the account probed by one call at a time."""
    engine = runtime.engine
    account_id, [first, second] = held_calls(runtime, 2)
    for held in (first, second):
        held.answer(REFUSED)
    pass_time(engine, account_id)
    Held(runtime, first.taken.fetch_id).answer(error)  # type: ignore[arg-type]
    assert paused(engine, account_id)[:2] == ("automatic", 1)
    execute(engine, "UPDATE accounts SET breaker_until = now() WHERE id = :a", a=account_id)
    probe = Held(runtime, second.taken.fetch_id)
    assert not may_call(engine, account_id)
    answer(probe)
    assert paused(engine, account_id) == (None, 0, None)


def test_missing_credentials_pause_likewise(shared_database: Engine) -> None:
    """Looked for again after a minute, then ever more rarely; no call is made meanwhile."""

    def nothing_there(reference: str) -> str:
        raise CredentialError(f"{reference} is not set.")

    missing = make_runtime(shared_database, resolve=nothing_there)
    whole = make_runtime(shared_database, resolve=lambda _: "secret")
    account_id = add_account(shared_database)
    add_ids(shared_database, account_id, IDS[:1])
    [fetch_id] = plan(whole, account_id)
    found = []
    looks: list[Callable[[], object]] = [
        lambda: list(drain(missing, fetch_id)),
        lambda: plan(missing, account_id),
    ]
    for look in looks:
        for _ in range(2):
            look()
            found.append(paused(shared_database, account_id))
        pass_time(shared_database, account_id)
    assert found == [("automatic", 1, 60.0)] * 2 + [("automatic", 2, 120.0)] * 2
    answer(Held(whole, fetch_id))
    assert paused(shared_database, account_id) == (None, 0, None)


def test_new_credentials_end_an_automatic_pause_and_no_operators(migrated_database: Engine) -> None:
    """What an operator ordered ends by its time or by a resume."""
    runtime = make_runtime(migrated_database, resolve=lambda _: "secret")
    account_id, [held] = held_calls(runtime, 1)
    found: list[tuple[str | None, str]] = []
    acts: list[Callable[[], None]] = [lambda: held.answer(REFUSED), lambda: order(migrated_database, account_id)]
    for act in acts:
        act()
        with migrated_database.begin() as connection:
            old = load(connection, account_id)
            names = AccountSettings.__dataclass_fields__
            spec = AccountSettings(
                **{name: getattr(old, name) for name in names} | {"credentials_hash": str(len(found))}
            )
            apply(connection, [spec], prune=False)
            new = load(connection, account_id)
        found.append((new.paused_by, new.breaker_state))
    assert found == [(None, "closed"), ("operator", "closed")]


def order(engine: Engine, account_id: str) -> None:
    """An operator pauses for an hour."""
    with engine.begin() as connection:
        pause(connection, account_id, clock.now() + timedelta(hours=1), "maintenance")


def test_people_see_who_paused_and_when_the_next_attempt_is(runtime: Runtime) -> None:
    """An automatic pause names its next attempt; an operator's without an end names none."""
    engine = runtime.engine
    account_id, [held] = held_calls(runtime, 1)
    seen: list[Callable[[], object]] = [
        lambda: None,
        lambda: held.answer(REFUSED),
        lambda: for_ever(engine, account_id),
    ]
    found = []
    for act in seen:
        act()
        with engine.connect() as connection:
            [shown] = overview(connection, account_id)
        found.append((shown.state, shown.paused_by, shown.until is not None))
    assert found == [("ok", None, False), ("paused", "automatic", True), ("paused", "operator", False)]


def for_ever(engine: Engine, account_id: str) -> None:
    """An operator pauses until somebody resumes."""
    with engine.begin() as connection:
        pause(connection, account_id, None, "maintenance")


@pytest.mark.timeout(100)
def test_a_refused_account_with_many_calls_to_make_is_asked_once_a_pause(migrated_database: Engine) -> None:
    """Over real HTTP, with workers that have room for twelve; let in again, all is asked."""
    runtime = make_runtime(migrated_database, resolve=lambda _: "secret")
    engine = runtime.engine
    is_refused = True

    def reply(request: Request) -> Reply:
        body = b'{"durum": false, "aciklama": "G\\u00f6nderilen api_key bilgisi hatal\\u0131"}'
        return Reply(body, status=401) if is_refused else vairo_reply(request, "DELIVERED")

    with TinyProvider(reply) as tiny:
        account_id = add_account(engine, base_url=tiny.address("a"), options={"deadline_seconds": 20.0})
        add_ids(engine, account_id, IDS)
        open_calls = "SELECT count(*) FROM calls WHERE account_id = :a AND answered_at IS NULL"

        def refusals() -> int:
            return int(row(engine, "accounts", account_id)["refusals"])

        with Driver(runtime).running() as driver:
            assert driver.until(lambda: refusals() == 1, seconds=30)
            for _ in range(3):
                assert driver.until(lambda: scalar(engine, open_calls, a=account_id) == 0, seconds=30)
                asked, before = len(tiny.requests("a")), refusals()
                pass_time(engine, account_id)
                assert driver.until(lambda before=before: refusals() > before, seconds=30)  # type: ignore[misc]
                assert (len(tiny.requests("a")) - asked, refusals() - before) == (1, 1)
            is_refused = False
            pass_time(engine, account_id)
            assert driver.until(lambda: len(deliveries(engine, account_id)) == len(IDS), seconds=40)
    assert paused(engine, account_id) == (None, 0, None)
