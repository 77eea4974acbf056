"""The ledger as a machine of states: whatever happens to fetches and polls, they stay counted and nothing is lost."""

from contextlib import suppress
from dataclasses import replace

import pytest
from driving import make_runtime, miscounted_polls
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from ledger_acts import Held, add_account, add_ids, execute, expire_lease, take
from sqlalchemy import Engine, text

from ulak.models.ledger import ending as ledger
from ulak.models.ledger import opening
from ulak.models.ledger.taking import Taken
from ulak.models.report import IdAnswer
from ulak.providers.adapter import FetchSpec, Parsed
from ulak.providers.errors import PauseAccount, RequestIsWrong, SlowDown, TryAgainSoon
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps import upkeep
from ulak.tasks.steps.failures import return_unsent
from ulak.tasks.steps.ondemand import open_on_demand
from ulak.tasks.steps.planning import _plan_scheduled, plan_poll

ERRORS = (
    TryAgainSoon("The connection broke."),
    SlowDown("Too many at once."),
    PauseAccount("The key is refused."),
    RequestIsWrong("There is no such number."),
)
IDS = [f"s{number}:+9053212345{number:02}" for number in range(6)]


class LedgerMachine(RuleBasedStateMachine):
    """One account with six ids, its workers, its reconciler and the people who poll and cancel."""

    runtime: Runtime

    def __init__(self) -> None:
        super().__init__()
        self.engine: Engine = self.runtime.engine
        self.account_id = add_account(self.engine, retry={"base_seconds": 0.0001, "cap_seconds": 0.0001})
        self.ids = add_ids(self.engine, self.account_id, IDS)
        self.held: list[Held] = []
        self.children = 0
        self.ended: dict[int, str] = {}
        self.plan()

    @rule()
    def plan(self) -> None:
        """Beat ticks; the ticks before lie behind us, and every open id is due."""
        past = "UPDATE polls SET scheduled_for = to_timestamp(id) WHERE account_id = :a AND trigger = 'schedule'"
        execute(self.engine, past, a=self.account_id)
        due = "UPDATE tracked_ids SET next_check_at = now() WHERE account_id = :a AND closed_at IS NULL"
        execute(self.engine, due, a=self.account_id)
        _plan_scheduled(self.runtime, self.account_id)

    @rule(named=st.booleans())
    def poll_on_demand(self, named: bool) -> None:
        """Somebody asks for a poll, of all ids or of one."""
        ids = [{"kind": "number", "value": IDS[0]}] if named else None
        poll_id = open_on_demand(self.runtime, self.account_id, trigger="api", ids=ids)
        plan_poll(self.runtime, self.account_id, poll_id)

    @rule(which=st.integers(0, 20))
    def take(self, which: int) -> None:
        """A worker takes a ready fetch, once whatever rests the account is over."""
        awake = (
            "UPDATE accounts SET paused_until = NULL, not_before = NULL, breaker_state = 'closed',"
            " breaker_failures = 0, breaker_trips = 0, breaker_until = NULL WHERE id = :a"
        )
        execute(self.engine, awake, a=self.account_id)
        execute(self.engine, "UPDATE fetches SET available_at = now() WHERE account_id = :a", a=self.account_id)
        ready = self.fetches("ready")
        if ready:
            # The one that is named goes first among its own kind, on demand or scheduled, which take turns.
            taken = take(self.engine, ready[which % len(ready)], self.runtime.watch)
            assert isinstance(taken, Taken)
            self.held.append(Held(self.runtime, taken))

    @rule(which=st.integers(0, 20), settled=st.booleans(), children=st.integers(0, 3))
    @precondition(lambda self: self.held)
    def answer(self, which: int, settled: bool, children: int) -> None:
        """A worker finishes with an answer, maybe late: then it is fenced."""
        held = self.held.pop(which % len(self.held))
        keys = tuple(held.prepared.tracked)
        parsed = Parsed(answers=tuple(IdAnswer(key=key, found=True, settled=settled) for key in keys))
        if children:
            self.children += 1
            parsed = replace(parsed, answers=(), children=tuple(self.child(held, n) for n in range(children)))
        self.try_finishing(lambda: held.finish(parsed))

    def child(self, held: Held, number: int) -> FetchSpec:
        """A fetch that goes on with the ids."""
        params = {"call": "NumaraRaporu", "send": f"c{self.children}", "number": str(number)}
        return FetchSpec(kind="batch", params=params, ids=tuple(held.prepared.tracked))

    @rule(which=st.integers(0, 20), error=st.sampled_from(ERRORS))
    @precondition(lambda self: self.held)
    def fail(self, which: int, error: TryAgainSoon) -> None:
        """A worker finishes with trouble."""
        held = self.held.pop(which % len(self.held))
        self.try_finishing(lambda: held.answer(error))

    @rule(which=st.integers(0, 20))
    @precondition(lambda self: self.held)
    def give_back_unsent(self, which: int) -> None:
        """A worker was too slow to send."""
        held = self.held.pop(which % len(self.held))
        self.try_finishing(lambda: return_unsent(self.runtime, held.taken))

    @rule(which=st.integers(0, 20), forgotten=st.booleans())
    @precondition(lambda self: self.held)
    def expire(self, which: int, forgotten: bool) -> None:
        """A lease runs out and the reconciler comes by; its worker is dead, or will come back late."""
        index = which % len(self.held)
        held = self.held.pop(index) if forgotten else self.held[index]
        expire_lease(self.engine, held.taken.fetch_id)
        upkeep.reconcile(self.runtime)

    @rule(which=st.integers(0, 20))
    def cancel(self, which: int) -> None:
        """Somebody cancels a running poll."""
        with self.engine.begin() as connection:
            query = text("SELECT id FROM polls WHERE account_id = :a AND state = 'running' ORDER BY id")
            running = connection.execute(query, {"a": self.account_id}).scalars().all()
            if running:
                opening.cancel(connection, running[which % len(running)])

    def try_finishing(self, finish: object) -> None:
        """Finish; a fence is a legal end of it."""
        assert callable(finish)
        with suppress(ledger.FencedError):
            finish()

    def fetches(self, state: str) -> list[int]:
        """The account's fetches in a state."""
        with self.engine.connect() as connection:
            query = text("SELECT id FROM fetches WHERE account_id = :a AND state = :state ORDER BY id")
            return list(connection.execute(query, {"a": self.account_id, "state": state}).scalars())

    @invariant()
    def polls_are_counted(self) -> None:
        """`open_fetches` is the number of open fetches; a planned poll runs exactly while it has some."""
        assert miscounted_polls(self.engine) == []

    @invariant()
    def polls_end_once(self) -> None:
        """An ended poll never changes its state."""
        with self.engine.connect() as connection:
            query = text("SELECT id, state FROM polls WHERE account_id = :a AND state <> 'running'")
            now = {row.id: row.state for row in connection.execute(query, {"a": self.account_id})}
        assert {poll: now.get(poll) for poll in self.ended} == self.ended
        self.ended = now

    @invariant()
    def ids_are_held_by_open_fetches(self) -> None:
        """No id is held by a fetch that has ended."""
        with self.engine.connect() as connection:
            query = text(
                "SELECT t.id FROM tracked_ids t LEFT JOIN fetches f ON f.id = t.fetch_id AND f.state IN"
                " ('ready', 'sending') WHERE t.account_id = :a AND t.fetch_id IS NOT NULL AND f.id IS NULL"
            )
            assert connection.execute(query, {"a": self.account_id}).all() == []

    @invariant()
    def nothing_ready_is_left_in_an_ended_poll(self) -> None:
        """What stands ready belongs to a running poll."""
        with self.engine.connect() as connection:
            query = text(
                "SELECT f.id FROM fetches f JOIN polls p ON p.id = f.poll_id WHERE f.account_id = :a"
                " AND f.state = 'ready' AND p.state <> 'running'"
            )
            assert connection.execute(query, {"a": self.account_id}).all() == []

    def teardown(self) -> None:
        """Once everybody has finished, every poll ends and every open id is free: nothing hangs."""
        for held in self.held:
            self.try_finishing(lambda held=held: held.finish(Parsed()))
        for _ in range(8):
            for fetch_id in self.fetches("sending"):
                expire_lease(self.engine, fetch_id)
            upkeep.reconcile(self.runtime)
            while self.fetches("ready"):
                self.take(0)
                self.held[-1].finish(Parsed())
        with self.engine.connect() as connection:
            query = text(
                "SELECT (SELECT count(*) FROM polls WHERE account_id = :a AND state = 'running'),"
                " (SELECT count(*) FROM tracked_ids WHERE account_id = :a AND fetch_id IS NOT NULL)"
            )
            assert tuple(connection.execute(query, {"a": self.account_id}).one()) == (0, 0)


@pytest.mark.timeout(400)
def test_polls_stay_counted_whatever_happens(migrated_database: Engine) -> None:
    """Random acts of workers, reconciler and people: the invariants hold after each, and in the end all is ended."""

    class Machine(LedgerMachine):
        runtime = make_runtime(migrated_database, resolve=lambda _: "secret")

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=14,
            stateful_step_count=25,
            deadline=None,
            phases=[Phase.reuse, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
