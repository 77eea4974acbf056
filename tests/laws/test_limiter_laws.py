"""The limit as a law: whatever workers do, no window holds more arrivals, no more are unanswered at once.

Judged by the moments at which requests arrive at a provider, which may lie anywhere between the call's `asked_at` and
its answer or its deadline; never by our own counters.
"""

import multiprocessing
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from driving import make_runtime
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ledger_acts import add_account, add_poll, execute, fetch, take
from shifted_clock import ShiftedClock
from sqlalchemy import Engine, text

from ulak.core import clock
from ulak.models.database import make_engine
from ulak.models.ledger import clocksteps, deciding, taking
from ulak.models.ledger import ending as ledger
from ulak.models.ledger.clockwatch import ClockWatch
from ulak.sandbox.server import Sandbox
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps import clock_watching, upkeep
from ulak.tasks.steps.draining import drain

DEADLINE = 5.0


@dataclass
class Call:
    """One request as the provider saw it; times in seconds of the example's own time."""

    asked: float
    arrival: float
    ended: float
    limit: tuple[int, float, int]


def violations(calls: list[Call]) -> list[str]:
    """What breaks the limit that held when a call was allowed; `calls` in the order in which they were allowed.

    The last call of a window sees all others of it, so a limit that never changed is broken by no window at all.
    """
    found = []
    for number, call in enumerate(calls):
        requests, per_seconds, concurrency = call.limit
        before = calls[: number + 1]
        near = sum(abs(other.arrival - call.arrival) < per_seconds - 1e-9 for other in before)
        at_once = sum(other.ended > call.asked + 1e-9 for other in before)
        if near > requests:
            found.append(f"call {number}: {near} arrivals within {per_seconds} s, {requests} allowed")
        if at_once > concurrency:
            found.append(f"call {number}: {at_once} unanswered at once, {concurrency} allowed")
    return found


@dataclass
class World:
    """One account whose time is moved by moving its rows into the past: seconds pass without being waited for."""

    engine: Engine
    limit: tuple[int, float, int]
    account_id: str = ""
    passed: float = 0.0
    start: datetime | None = None
    ready: list[int] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    in_the_air: list[tuple[Call, taking.Taken, float]] = field(default_factory=list)
    stepped: float = 0.0
    """By how much the database's clock was set, in all: true time goes on without it."""
    workers: list[Runtime] = field(default_factory=list)

    def __post_init__(self) -> None:
        requests, per_seconds, concurrency = self.limit
        self.account_id = add_account(
            self.engine,
            requests=requests,
            per_seconds=per_seconds,
            concurrency=concurrency,
            options={"deadline_seconds": DEADLINE},
        )
        _, self.ready = add_poll(self.engine, self.account_id, [fetch(number) for number in range(40)])
        self.workers = [make_runtime(self.engine) for _ in range(2)]
        for worker in self.workers:
            clock_watching.look(worker)

    def ask(self, where: float, which: int = 0) -> None:
        """A worker takes a fetch; its request arrives at the part `where` of its time in the air."""
        taken = take(self.engine, self.ready[0], self.workers[which].watch)
        if isinstance(taken, taking.Stepped):
            clock_watching.settle(self.workers[which])
        self.note(taken, where)

    def note(self, taken: taking.TakeResult, where: float) -> None:
        """Note the call that was taken, if one was."""
        if not isinstance(taken, taking.Taken):
            return
        self.ready.append(self.ready.pop(0))
        self.start = self.start or taken.asked_at
        asked = self.true_time(taken.asked_at)
        # Until it is answered, it may be on its way up to its deadline.
        call = Call(asked=asked, arrival=asked + where * DEADLINE, ended=asked + DEADLINE, limit=self.limit)
        self.calls.append(call)
        self.in_the_air.append((call, taken, where))

    def true_time(self, moment: datetime) -> float:
        """A moment of the database's clock, just read, in seconds of true time."""
        assert self.start is not None
        return (moment - self.start).total_seconds() + self.passed - self.stepped

    def answer(self, which: int, late: float, then: tuple[float, int] | None = None) -> None:
        """A worker writes the end of its call: `late` seconds after the answer came, but not after its deadline.

        `then`: it takes the next call in the same transaction, which arrives at this part; by which worker.
        """
        if not self.in_the_air:
            return
        call, taken, where = self.in_the_air.pop(which % len(self.in_the_air))
        with self.engine.begin() as connection:
            moment = self.true_time(connection.execute(text("SELECT clock_timestamp()")).scalar_one())
            call.ended = min(max(call.asked, moment - late), call.asked + DEADLINE)
            call.arrival = call.asked + where * (call.ended - call.asked)
            end = ledger.CallEnd(
                call_id=taken.permit.call_id,
                outcome="ok",
                http_status=200,
                duration_seconds=call.ended - call.asked,
                seconds_since=max(0.0, moment - call.ended),
            )
            with suppress(ledger.FencedError):  # healed meanwhile: nobody writes when it was answered
                ledger.close_call(connection, taken.fetch_id, taken.lease_token, end)
            again = (
                "UPDATE fetches SET state = 'ready', lease_token = NULL, lease_until = NULL"
                " WHERE id = :id AND lease_token = :token"
            )
            connection.execute(text(again), {"id": taken.fetch_id, "token": taken.lease_token})
            found: taking.TakeResult = taking.Gone()
            if then is not None:
                holder = self.workers[then[1]].holder
                found = taking.take(connection, holder, account_id=self.account_id, may_wait=False)
        if then is not None:
            self.note(found, then[0])

    def crash(self, which: int) -> None:
        """A worker dies: nobody ever writes the end of its call, which may arrive up to its deadline."""
        if self.in_the_air:
            self.in_the_air.pop(which % len(self.in_the_air))

    def heal(self, which: int = 0) -> None:
        """The reconciler comes by."""
        upkeep.reconcile(self.workers[which])

    def step(self, seconds: float) -> None:
        """Somebody sets the database's clock; no worker has looked yet."""
        execute(self.engine, "UPDATE shifted.by SET seconds = seconds + :seconds", seconds=seconds)
        self.stepped += seconds

    def look(self, which: int) -> None:
        """A worker looks at the clock, as it does every few seconds."""
        clock_watching.look(self.workers[which])

    def restart(self, which: int) -> None:
        """A worker is started anew, on the same machine."""
        self.workers[which] = make_runtime(self.engine)

    def is_taken_up_again(self) -> bool:
        """Whether a call is allowed once a step is noticed and every window of before has passed."""
        for worker in self.workers:
            clock_watching.look(worker)
        self.pass_time(DEADLINE + self.limit[1] + 0.5)
        _, [fetch_id] = add_poll(self.engine, self.account_id, [fetch(1000)])
        for worker in self.workers * 2:
            taken = take(self.engine, fetch_id, worker.watch)
            if isinstance(taken, taking.Stepped):
                clock_watching.settle(worker)
            if isinstance(taken, taking.Taken):
                return True
        return False

    def change(self, limit: tuple[int, float, int]) -> None:
        """Somebody applies another limit while everything runs."""
        self.limit = limit
        execute(
            self.engine,
            "UPDATE accounts SET limit_requests = :r, limit_per_seconds = :p, limit_concurrency = :c WHERE id = :a",
            r=limit[0],
            p=limit[1],
            c=limit[2],
            a=self.account_id,
        )

    def pass_time(self, seconds: float) -> None:
        """Let so much time go by."""
        self.passed += seconds
        span = timedelta(seconds=seconds)
        values = {"a": self.account_id, "span": span}
        execute(
            self.engine,
            "UPDATE calls SET asked_at = asked_at - :span, gives_up_at = gives_up_at - :span,"
            " answered_at = answered_at - :span, released_at = released_at - :span WHERE account_id = :a",
            **values,
        )
        execute(self.engine, "UPDATE accounts SET last_asked_at = last_asked_at - :span WHERE id = :a", **values)
        execute(self.engine, "UPDATE fetches SET lease_until = lease_until - :span WHERE account_id = :a", **values)


PARTS = st.sampled_from([0.0, 0.01, 0.5, 0.99, 1.0])
WORKERS = st.integers(0, 1)
NEXT = st.none() | st.tuples(PARTS, WORKERS)
LIMITS = st.tuples(st.integers(1, 4), st.sampled_from([1.0, 3.0, 10.0]), st.integers(1, 4))
ACTS = st.one_of(
    st.tuples(st.just("ask"), PARTS),
    st.tuples(st.just("ask"), PARTS),
    st.tuples(st.just("answer"), st.integers(0, 3), st.sampled_from([0.0, 0.5, 20.0]), NEXT),
    st.tuples(st.just("crash"), st.integers(0, 3)),
    st.tuples(st.just("heal")),
    st.tuples(st.just("change"), LIMITS),
    st.tuples(st.just("pass_time"), st.sampled_from([0.1, 0.9, 1.0, 2.5, DEADLINE, 9.95, 30.0])),
)
SLOW_THEN_AT_ONCE: list[tuple[object, ...]] = [
    ("ask", 1.0),
    ("pass_time", 0.9),
    ("answer", 0, 0.0),
    ("pass_time", 0.2),
    ("ask", 0.0),
]


def live(world: World, acts: list[tuple[object, ...]]) -> list[Call]:
    """Do all acts; the calls as the provider saw them."""
    for name, *values in acts:
        getattr(world, str(name))(*values)
    return world.calls


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(limit=LIMITS, acts=st.lists(ACTS, min_size=5, max_size=25))
@example(limit=(1, 1.0, 4), acts=SLOW_THEN_AT_ONCE)
def test_no_interleaving_breaks_the_limit(
    shared_database: Engine, limit: tuple[int, float, int], acts: list[tuple[object, ...]]
) -> None:
    """Slow and late answers, crashes, healing and changed limits, in any order: no window and no moment holds more."""
    assert violations(live(World(shared_database, limit), acts)) == []


STEPS = st.sampled_from([-40 * 86400.0, -3600.0, -30.0, -3.0, -1.5, 1.5, 3.0, 30.0, 3600.0, 40 * 86400.0])
STEPPING_ACTS = st.one_of(
    st.tuples(st.just("ask"), PARTS, WORKERS),
    st.tuples(st.just("ask"), PARTS, WORKERS),
    st.tuples(st.just("answer"), st.integers(0, 3), st.sampled_from([0.0, 0.5, 20.0]), NEXT),
    st.tuples(st.just("crash"), st.integers(0, 3)),
    st.tuples(st.just("heal"), WORKERS),
    st.tuples(st.just("change"), LIMITS),
    st.tuples(st.just("pass_time"), st.sampled_from([0.1, 0.9, 1.0, 2.5, DEADLINE, 9.95, 30.0])),
    st.tuples(st.just("step"), STEPS),
    st.tuples(st.just("look"), WORKERS),
    st.tuples(st.just("restart"), WORKERS),
)
ASKED_THEN_FORWARD: list[tuple[object, ...]] = [("ask", 1.0), ("step", 3600.0), ("ask", 0.0), ("ask", 0.0)]


@pytest.fixture(scope="module")
def shifted_database(
    make_database: Callable[..., str], drop_database: Callable[[str], None], migrated_template: str
) -> Iterator[Engine]:
    """A database whose clock may be set, for this module; every example brings its own account."""
    url = make_database(migrated_template)
    plain = make_engine(url, pool_size=1)
    clock_of = ShiftedClock(plain)
    plain.dispose()
    yield clock_of.engine
    clock_of.engine.dispose()
    drop_database(url)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(limit=LIMITS, acts=st.lists(STEPPING_ACTS, min_size=5, max_size=25))
@example(limit=(1, 10.0, 4), acts=ASKED_THEN_FORWARD)
@example(limit=(1, 10.0, 4), acts=[("ask", 1.0), ("step", -3600.0), ("answer", 0, 0.0), ("look", 1), ("ask", 0.0, 1)])
@example(
    limit=(1, 3.0, 4),
    acts=[
        ("ask", 1.0),
        ("step", -1.5),
        ("pass_time", 1.0),
        ("answer", 0, 0.0),
        ("look", 0),
        ("pass_time", 2.5),
        ("ask", 0.0),
    ],
)
@example(
    limit=(1, 3.0, 4),
    acts=[
        ("ask", 1.0),
        ("pass_time", 2.5),
        ("step", 3600.0),
        ("answer", 0, 0.0),
        ("step", 3600.0),
        ("pass_time", 0.9),
        ("ask", 0.0),
        ("ask", 0.0),
    ],
)
@example(
    limit=(1, 3.0, 4),
    acts=[
        ("ask", 1.0),
        ("step", -3600.0),
        ("pass_time", 2.5),
        ("answer", 0, 0.0),
        ("step", 3600.0),
        ("pass_time", 0.9),
        ("ask", 0.0),
    ],
)
@example(limit=(1, 10.0, 4), acts=[("ask", 1.0), ("step", 3600.0), ("restart", 0), ("ask", 0.0), ("ask", 0.0)])
def test_no_step_of_the_clock_breaks_the_limit_or_stops_the_calls(
    shifted_database: Engine, limit: tuple[int, float, int], acts: list[tuple[object, ...]]
) -> None:
    """Two workers, restarts, and a database whose clock is set forward and back: judged by true time.

    No window and no moment holds more; and when every window of before has passed, calls are allowed again.
    """
    execute(shifted_database, "UPDATE accounts SET enabled = false")
    world = World(shifted_database, limit)
    assert violations(live(world, acts)) == []
    assert world.is_taken_up_again()


def _freed_at_sending(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = ledger._CLOSE_CALL.replace(f"released_at = {ledger._ANSWERED}", "released_at = asked_at")
    assert broken != ledger._CLOSE_CALL
    monkeypatch.setattr(ledger, "_CLOSE_CALL", broken)


def _never_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = deciding._LOOK.replace("c.account_id = %(account_id)s", "c.account_id = %(account_id)s || 'x'")
    assert broken != deciding._LOOK
    monkeypatch.setattr(deciding, "_LOOK", broken)


def _steps_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClockWatch, "has_stepped", lambda *_: False)


def _steps_noted_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocksteps, "_move_forward", lambda *_: None)


@pytest.mark.parametrize("spoil", [_steps_unseen, _steps_noted_alone])
def test_the_law_of_steps_sees_a_limiter_that_takes_them_lightly(
    shifted_database: Engine, monkeypatch: pytest.MonkeyPatch, spoil: object
) -> None:
    """A step that nobody sees, or that moves no call, breaks the law."""
    assert callable(spoil)
    spoil(monkeypatch)
    assert violations(live(World(shifted_database, (1, 10.0, 4)), ASKED_THEN_FORWARD)) != []


@pytest.mark.parametrize("spoil", [_freed_at_sending, _never_counted])
def test_the_law_sees_a_broken_limiter(shared_database: Engine, monkeypatch: pytest.MonkeyPatch, spoil: object) -> None:
    """A slot that is freed at sending, or a call that is not counted, breaks the law, so the law has teeth."""
    assert callable(spoil)
    spoil(monkeypatch)
    assert violations(live(World(shared_database, (1, 1.0, 4)), SLOW_THEN_AT_ONCE)) != []


def test_threads_that_hammer_one_account_keep_its_limit(shared_database: Engine) -> None:
    """Eight threads with random answers, time-outs and crashes, 3 per 0.3 s, 2 at once; judged by the arrivals."""
    limit, deadline = (3, 0.3, 2), 0.2
    account_id = add_account(
        shared_database, requests=3, per_seconds=0.3, concurrency=2, options={"deadline_seconds": deadline}
    )
    _, ids = add_poll(shared_database, account_id, [fetch(number) for number in range(200)])
    calls: list[Call] = []
    lock, began = threading.Lock(), time.monotonic()

    def is_over() -> bool:
        """After four seconds; later where the machine is so busy that hardly a call was made."""
        return time.monotonic() > began + (4 if len(calls) > 10 else 40)

    def hammer(seed: int) -> None:
        dice = random.Random(seed)
        while not is_over():
            with lock:
                fetch_id = ids.pop()
            while not isinstance(taken := take(shared_database, fetch_id), taking.Taken):
                time.sleep(dice.uniform(0, 0.01))
                if is_over():
                    return
            # The deadline runs from before the commit, as it does in the HTTP door.
            asked = taken.permit.committed_boot
            time.sleep(dice.uniform(0, 0.05))
            call = Call(asked=asked, arrival=clock.boot(), ended=asked + deadline, limit=limit)
            if call.arrival > call.ended:
                continue  # the door gives up on this one before it leaves: the machine is busy
            with lock:
                calls.append(call)
            if dice.random() < 0.1:
                continue  # it crashed: nobody closes the call
            time.sleep(dice.choice([0.0, 0.01, 0.05, deadline - 0.06]))
            call.ended = min(call.ended, clock.boot())
            with shared_database.begin() as connection:
                end = ledger.CallEnd(
                    call_id=taken.permit.call_id,
                    outcome="ok",
                    http_status=200,
                    duration_seconds=0.0,
                    seconds_since=clock.boot() - call.ended,
                )
                ledger.close_call(connection, taken.fetch_id, taken.lease_token, end)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hammer, range(8)))
    arrivals = sorted(call.arrival for call in calls)
    fullest = max(sum(start <= other < start + 0.3 for other in arrivals) for start in arrivals)
    assert len(calls) > 10
    assert fullest <= 3
    crowded = max(sum(other.arrival <= call.arrival < other.ended for other in calls) for call in calls)
    assert crowded <= 2


# ----------------------------------------------------------------------------------- real processes, real HTTP


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Five stand-ins."""
    with Sandbox(seed=3, speed=24, scale="small") as running:
        yield running


def hammer_in_a_process(url: str, key: str, fetch_ids: list[int], seconds: float, seed: int) -> None:
    """Four threads that make fetches as fast as they are let."""
    engine = make_engine(url, pool_size=6)
    runtime = make_runtime(engine, threads=4, resolve=lambda _: key)
    end = time.monotonic() + seconds

    def hammer(number: int) -> None:
        dice = random.Random(f"{seed}/{number}")
        while time.monotonic() < end:
            list(drain(runtime, dice.choice(fetch_ids)))
            time.sleep(dice.uniform(0, 0.02))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(hammer, range(4)))
    runtime.door.close()
    engine.dispose()


def test_processes_that_hammer_one_account_over_http_break_no_limit(
    migrated_database: Engine, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three processes of four threads, 20 per 2 s and 6 at once: the stand-in's own log shows no violation."""
    seconds, key = 8.0, str(sandbox.control("GET", "/accounts")[1]["credentials"]["api_key"])
    sandbox.control("POST", "/limits", {"provider": "vairo", "requests": 20, "per_seconds": 2.0, "concurrency": 6})
    sandbox.control("POST", "/settings", {"latency_seconds": 0.02})
    account_id = add_account(
        migrated_database,
        requests=20,
        per_seconds=2.0,
        concurrency=6,
        base_url=sandbox.urls["vairo"],
        options={"deadline_seconds": 5.0},
    )
    wanted = [fetch(number, call="NumaraRaporu", send=f"s{number}", number="+905321234567") for number in range(300)]
    _, ids = add_poll(migrated_database, account_id, wanted)
    url = migrated_database.url.render_as_string(hide_password=False)
    context = multiprocessing.get_context("spawn")
    children = [
        context.Process(target=hammer_in_a_process, args=(url, key, ids, seconds, number)) for number in range(3)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    arrivals = sorted(entry["arrived_mono"] for entry in sandbox.log() if entry["provider"] == "vairo")
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert sandbox.control("GET", "/log/violations") == []
    assert len(arrivals) > 40
    # Each slot's next use comes two seconds later at best.
    rounds = [later - earlier for earlier, later in zip(arrivals, arrivals[20:], strict=False)]
    use = 2.0 / (sum(rounds) / len(rounds))
    with capsys.disabled():
        print(f" [{len(arrivals)} calls, {use:.0%} of the limit used]", end="")
