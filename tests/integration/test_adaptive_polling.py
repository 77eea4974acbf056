"""An account learns from its checks when to make them: in the database, from registration to the next check."""

from datetime import timedelta
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from driving import make_runtime, scalar
from ledger_acts import add_account, add_ids, add_poll, execute, fetch, fetches_of
from sqlalchemy import Engine, text
from teaching import HOUR_AGO, begin, close_ids, give_waiting_plan, plan_of, teach

from ulak.core import clock
from ulak.models import latencies
from ulak.models.backlog import read_backlog
from ulak.models.ledger.ending import update_tracked
from ulak.models.metric_queries import read_work
from ulak.models.overview import ProviderPace, unsettled
from ulak.providers.registry import ADAPTERS
from ulak.schedules.beat import entries
from ulak.schedules.latency import EDGES, END, ENOUGH, PER_DECADE, edge
from ulak.schedules.plans import times_of
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.latency_learning import learn_all
from ulak.tasks.steps.planning import plan_due
from ulak.tasks.steps.tracking import track
from ulak.tasks.steps.upkeep import every_minute


@pytest.fixture
def runtime(migrated_database: Engine) -> Runtime:
    """A runtime whose credentials are always found."""
    return make_runtime(migrated_database, resolve=lambda _: "secret", tick_seconds=0.01)


def test_an_account_that_has_seen_enough_checks_at_learned_times(runtime: Runtime) -> None:
    """A new id is due at the learned first age; the fixed schedule would have asked for it at five seconds."""
    account_id = begin(runtime)
    teach(runtime, account_id)
    times = times_of(plan_of(runtime.engine, account_id), "number")
    assert times is not None
    assert 6 < times.ages[0] < 15
    track(runtime, account_id, [{"kind": "number", "value": "s1:+905321234567"}])
    due = scalar(
        runtime.engine,
        "SELECT extract(epoch FROM next_check_at - sent_at)::float8 FROM tracked_ids"
        " WHERE account_id = :a AND closed_at IS NULL",
        a=account_id,
    )
    assert due == pytest.approx(times.ages[0], abs=0.01)


def test_too_few_messages_teach_nothing(runtime: Runtime) -> None:
    """The fixed schedule holds below the least number."""
    account_id = begin(runtime)
    close_ids(runtime.engine, account_id, ENOUGH - 20, 0, 5)
    learn_all(runtime)
    assert plan_of(runtime.engine, account_id)["kinds"] == {}


def test_an_account_that_must_not_adapt_learns_nothing(runtime: Runtime) -> None:
    """`adaptive = false`: neither read nor planned; and a plan of before is left unused."""
    account_id = add_account(runtime.engine, poll={"adaptive": False})
    close_ids(runtime.engine, account_id, 400, 0, 5)
    learn_all(runtime)
    assert scalar(runtime.engine, "SELECT count(*) FROM latencies WHERE account_id = :a", a=account_id) == 0
    plan = '{"kinds": {"number": {"ages": [77.0], "every": null}}}'
    execute(runtime.engine, "UPDATE accounts SET poll_plan = CAST(:p AS jsonb) WHERE id = :a", p=plan, a=account_id)
    track(runtime, account_id, [{"kind": "number", "value": "s2:+905321234567"}])
    query = "SELECT extract(epoch FROM next_check_at - sent_at)::float8 FROM tracked_ids WHERE account_id = :a AND"
    assert scalar(runtime.engine, f"{query} closed_at IS NULL", a=account_id) == pytest.approx(5.0)


def test_configured_waits_bound_what_was_learned(runtime: Runtime) -> None:
    """The first check stays where it was put, and none waits longer than the longest."""
    account_id = begin(runtime, first_check_seconds=3.0, max_check_seconds=600.0)
    teach(runtime, account_id)
    times = times_of(plan_of(runtime.engine, account_id), "number")
    assert times is not None
    ages = [0.0, *times.all_before(86400.0)]
    assert ages[1] == 3.0
    assert max(right - left for left, right in pairwise(ages)) <= 600.01


def test_ages_are_kept_in_uncompressed_time(runtime: Runtime) -> None:
    """A twentieth of the time teaches the same schedule."""
    account_id = begin(runtime, time_factor=0.05)
    teach(runtime, account_id, factor=0.05)
    times = times_of(plan_of(runtime.engine, account_id), "number")
    assert times is not None
    assert 6 < times.ages[0] < 15


def test_ids_of_several_messages_keep_the_fixed_schedule(runtime: Runtime) -> None:
    """Such an id is final with the last of its messages, but each check covers every one; `expected = 1` means one."""
    account_id = add_account(runtime.engine, provider="organik")
    close_ids(runtime.engine, account_id, 400, 0, 5, kind="transaction")
    _learn_again(runtime, account_id)
    assert "transaction" not in plan_of(runtime.engine, account_id).get("kinds", {})
    execute(runtime.engine, "UPDATE tracked_ids SET expected = 1 WHERE account_id = :a", a=account_id)
    _learn_again(runtime, account_id)
    assert "transaction" in plan_of(runtime.engine, account_id)["kinds"]


def _learn_again(runtime: Runtime, account_id: str) -> None:
    """A kind is learned from its first look on, so that one is put three hours back."""
    learn_all(runtime)
    execute(runtime.engine, HOUR_AGO, a=account_id)
    learn_all(runtime)


def test_closings_of_an_earlier_version_are_left_out(runtime: Runtime) -> None:
    """It did not note the check before; such an id says too little."""
    account_id = begin(runtime)
    close_ids(runtime.engine, account_id, 400, 0, 5)
    execute(runtime.engine, "UPDATE tracked_ids SET checked_before_at = NULL WHERE account_id = :a", a=account_id)
    learn_all(runtime)
    assert (
        scalar(runtime.engine, "SELECT learned -> 'fresh' FROM latencies WHERE account_id = :a", a=account_id) is None
    )


def test_a_shift_brings_the_fixed_schedule_back(runtime: Runtime) -> None:
    """Messages that suddenly take half an hour: what was learned is forgotten until enough is known anew."""
    account_id = begin(runtime)
    close_ids(runtime.engine, account_id, 600, 5, 8)
    learn_all(runtime)
    assert times_of(plan_of(runtime.engine, account_id), "number") is not None
    later = (
        "UPDATE latencies SET read_through = now() - interval '3 hours', learned = jsonb_set(learned, '{fresh_since}'"
    )
    execute(runtime.engine, f"{later}, to_jsonb(now() - interval '2 hours')) WHERE account_id = :a", a=account_id)
    execute(runtime.engine, "DELETE FROM tracked_ids WHERE account_id = :a", a=account_id)
    close_ids(runtime.engine, account_id, 120, 1500, 2100)
    learn_all(runtime)
    assert times_of(plan_of(runtime.engine, account_id), "number") is None


def test_nothing_is_settled_while_ids_are_open_at_learned_times(runtime: Runtime) -> None:
    """A learned wait may be longer than the interval by which rest is judged."""
    account_id = begin(runtime)
    teach(runtime, account_id)
    paces = {"vairo": ProviderPace(every_seconds=5.0, sweeps=False)}
    later = clock.now() + timedelta(hours=1)
    add_ids(runtime.engine, account_id, ["s9:+905321234567"], next_check_at=later)
    with runtime.engine.connect() as connection:
        assert unsettled(connection, paces) == [f"{account_id} has 1 open id, checked at learned times."]


def test_the_database_finds_the_same_edges(migrated_database: Engine) -> None:
    """`ulak.schedules.latency.edge` in SQL."""
    rng = Random(4)
    ages = [0.0, 0.49, 0.5, 1.0, 40 * 86400.0, *EDGES, *(10 ** rng.uniform(-1, 6.5) for _ in range(2000))]
    statement = (
        f"SELECT {latencies._edge('age')} FROM unnest(CAST(:ages AS float8[])) WITH ORDINALITY AS g(age, n) ORDER BY n"
    )
    with migrated_database.connect() as connection:
        given = {"ages": ages, "longest": END - 1, "per_decade": PER_DECADE}
        found = list(connection.execute(text(statement), given).scalars())
    assert found == [edge(age) for age in ages]


def test_each_answer_notes_the_check_before_it(runtime: Runtime) -> None:
    """The sending before the first check, then each check: between the last two the id became final."""
    engine = runtime.engine
    account_id = add_account(engine)
    [tracked] = add_ids(engine, account_id, ["s1:+905321234567"])
    noted = "SELECT (checked_before_at = sent_at, last_checked_at)::text FROM tracked_ids WHERE id = :id"
    _, [first] = add_poll(engine, account_id, [fetch(1, ids=[tracked])])
    _answer(engine, first, tracked, close_reason=None)
    before = scalar(engine, "SELECT last_checked_at FROM tracked_ids WHERE id = :id", id=tracked)
    assert str(scalar(engine, noted, id=tracked)).startswith("(t,")
    _, [second] = add_poll(engine, account_id, [fetch(2, ids=[tracked])])
    _answer(engine, second, tracked, close_reason="final")
    assert scalar(engine, "SELECT checked_before_at FROM tracked_ids WHERE id = :id", id=tracked) == before


def _answer(engine: Engine, fetch_id: int, tracked: int, *, close_reason: str | None) -> None:
    """What the finishing transaction writes for the id."""
    now = clock.now()
    row = {
        "id": tracked,
        "next_check_at": None if close_reason else (now + timedelta(hours=1)).isoformat(),
        "found": True,
        "close_reason": close_reason,
        "is_incomplete": False,
        "fingerprint": None,
    }
    with engine.begin() as connection:
        update_tracked(connection, fetch_id, [row], asked_at=now, as_of=now)


def _due(engine: Engine, account_id: str, many: int, seconds: float, **given: Any) -> None:
    """So many open ids that were sent some seconds ago and are due."""
    sent = clock.now() - timedelta(seconds=seconds)
    values = [str(100 * int(seconds) + number) for number in range(many)]
    add_ids(engine, account_id, values, kind="gsm_track", sent_at=sent, next_check_at=sent, **given)


@pytest.mark.parametrize("options", [{"batch_size": 100}, {}], ids=["configured", "default"])
def test_a_batch_waits_until_its_ids_have_waited_for_the_price_of_a_call(
    runtime: Runtime, options: dict[str, Any]
) -> None:
    """Three ids of two seconds are no call; with forty more of half a minute, all of them go in one."""
    engine = runtime.engine
    account_id = add_account(engine, provider="organik", options=options)
    close_ids(engine, account_id, 1, 0, 5, kind="gsm_track")
    learn_all(runtime)
    execute(engine, HOUR_AGO, a=account_id)
    close_ids(engine, account_id, 400, 5, 8, kind="gsm_track")
    learn_all(runtime)
    assert "masses" in plan_of(engine, account_id)["kinds"]["gsm_track"]
    _due(engine, account_id, 3, 2)
    list(plan_due(runtime, "organik"))
    assert fetches_of(engine, account_id, "ready") == []
    _due(engine, account_id, 40, 30)
    list(plan_due(runtime, "organik"))
    assert len(fetches_of(engine, account_id, "ready")) == 1
    assert scalar(engine, "SELECT count(*) FROM tracked_ids WHERE account_id = :a AND fetch_id > 0", a=account_id) == 43


def _waiting_batch(engine: Engine, *, poll: dict[str, Any] | None = None, **given: Any) -> str:
    """An account of which one id is due for an hour, and no call worth its price."""
    account_id = add_account(engine, provider="organik", options={"batch_size": 100}, poll=poll or {})
    give_waiting_plan(engine, account_id, "gsm_track")
    _due(engine, account_id, 1, 3600, **given)
    return account_id


def _late_seconds(engine: Engine, account_id: str) -> float:
    """For how long something should have been asked for: by the status page, and by the metric of the alert."""
    with engine.connect() as connection:
        since = read_backlog(connection)[account_id].work.due_since
        now = connection.execute(text("SELECT now()")).scalar_one()
        [overdue] = [
            sample.value
            for sample in read_work(connection)
            if sample.figure == "tracked_overdue_seconds" and sample.labels["account"] == account_id
        ]
    page = 0.0 if since is None else max(0.0, (now - since).total_seconds())
    assert page == pytest.approx(float(overdue), abs=60)
    return page


def test_a_batch_that_waits_for_its_price_is_not_late(runtime: Runtime) -> None:
    """No alarm follows from a wait that the policy wants; past a configured wait or the validity, one does."""
    engine, over = runtime.engine, clock.now() - timedelta(seconds=900)
    assert _late_seconds(engine, _waiting_batch(engine)) == 0
    assert _late_seconds(engine, _waiting_batch(engine, valid_until=over)) == pytest.approx(900, abs=60)
    bound = _waiting_batch(engine, poll={"max_check_seconds": 600.0})
    assert _late_seconds(engine, bound) == pytest.approx(3000, abs=60)
    assert _late_seconds(engine, _waiting_batch(engine, poll={"adaptive": False})) == pytest.approx(3600, abs=60)
    first = _waiting_batch(engine, poll={"first_check_seconds": 1.0})
    assert _late_seconds(engine, first) == pytest.approx(3600, abs=60)


def test_upkeep_learns_within_a_task_that_workers_of_the_previous_version_know(runtime: Runtime) -> None:
    """They would reject a name of its own; theirs only writes what is unreported."""
    account_id = begin(runtime)
    close_ids(runtime.engine, account_id, 400, 0, 5)
    every_minute(runtime)
    assert times_of(plan_of(runtime.engine, account_id), "number") is not None
    sent = {entry.task for entry in entries(ADAPTERS, tick_seconds=5.0)}
    assert sent == {"poll.provider", "upkeep.reconcile", "upkeep.expire", "upkeep.prune"}


def test_a_batch_never_waits_past_a_configured_wait_or_the_validity(runtime: Runtime) -> None:
    """One id whose longest wait is over is a call of its own."""
    engine = runtime.engine
    for poll, given, calls in (
        ({}, {}, 0),
        ({"max_check_seconds": 2.0}, {}, 1),
        ({"first_check_seconds": 1.0}, {}, 1),
        ({"adaptive": False}, {}, 1),
        ({}, {"valid_until": clock.now() - timedelta(seconds=1)}, 1),
    ):
        account_id = add_account(engine, provider="organik", options={"batch_size": 100}, poll=poll)
        give_waiting_plan(engine, account_id, "gsm_track")
        _due(engine, account_id, 1, 3, **given)
        list(plan_due(runtime, "organik"))
        assert len(fetches_of(engine, account_id, "ready")) == calls, (poll, given)


def _burst(runtime: Runtime, seconds: float, **given: Any) -> str:
    """An account with room for one call of two ids, and fifty messages that were sent so long ago, all due."""
    engine = runtime.engine
    account_id = add_account(
        engine, provider="organik", options={"batch_size": 2}, requests=1, per_seconds=10.0, poll=given
    )
    close_ids(engine, account_id, 1, 5, 8, kind="gsm_track")
    learn_all(runtime)
    execute(engine, HOUR_AGO, a=account_id)
    close_ids(engine, account_id, 400, 100, 120, kind="gsm_track")
    learn_all(runtime)
    _due(engine, account_id, 50, seconds)
    return account_id


def test_a_burst_is_not_asked_for_before_half_of_it_can_be_done(runtime: Runtime) -> None:
    """Messages that take some two minutes: more are due than the limit has calls for, and none is asked for early."""
    for seconds, calls in ((20, 0), (80, 0), (130, 1)):
        account_id = _burst(runtime, seconds)
        list(plan_due(runtime, "organik"))
        assert len(fetches_of(runtime.engine, account_id, "ready")) == calls, seconds
    configured = _burst(runtime, 20, first_check_seconds=10.0)
    list(plan_due(runtime, "organik"))
    assert len(fetches_of(runtime.engine, configured, "ready")) == 1


def test_a_burst_hides_no_id_that_was_checked_before(runtime: Runtime) -> None:
    """What waits behind the burst is asked for, though the burst comes first among the due."""
    account_id = _burst(runtime, 20)
    sent = clock.now() - timedelta(hours=2)
    [late] = add_ids(runtime.engine, account_id, ["7"], kind="gsm_track", sent_at=sent, next_check_at=sent)
    checked = "UPDATE tracked_ids SET last_checked_at = sent_at + interval '30 s' WHERE id = :id"
    execute(runtime.engine, checked, id=late)
    list(plan_due(runtime, "organik"))
    assert scalar(runtime.engine, "SELECT fetch_id IS NOT NULL FROM tracked_ids WHERE id = :id", id=late)


def test_a_batch_is_filled_with_those_that_have_waited_longest(runtime: Runtime) -> None:
    """Not with those that are due next: one that may well be final goes before one that was sent just now."""
    engine = runtime.engine
    account_id = add_account(engine, provider="organik", options={"batch_size": 2})
    close_ids(engine, account_id, 1, 5, 8, kind="gsm_track")
    learn_all(runtime)
    execute(engine, HOUR_AGO, a=account_id)
    close_ids(engine, account_id, 400, 5, 8, kind="gsm_track")
    learn_all(runtime)
    now = clock.now()
    _due(engine, account_id, 1, 60)
    young = {"sent_at": now, "next_check_at": now + timedelta(seconds=60)}
    old = {"sent_at": now - timedelta(seconds=30), "next_check_at": now + timedelta(seconds=90)}
    [first] = add_ids(engine, account_id, ["1"], kind="gsm_track", **young)
    [second] = add_ids(engine, account_id, ["2"], kind="gsm_track", **old)
    list(plan_due(runtime, "organik"))
    held = "SELECT fetch_id IS NOT NULL FROM tracked_ids WHERE id = :id"
    assert (scalar(engine, held, id=first), scalar(engine, held, id=second)) == (False, True)
