"""What learning must never do: neglect an id, break a configured wait, or read the whole table once a minute."""

import json
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from driving import make_runtime, scalar
from ledger_acts import add_account, add_ids, execute
from sqlalchemy import Engine
from teaching import HOUR_AGO, begin, close_ids, give_waiting_plan, plan_of, teach

from ulak.core import clock
from ulak.models.account import find
from ulak.models.backlog import read_backlog
from ulak.models.tracked import close_answered
from ulak.schedules.plans import times_of
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.latency_learning import learn_all
from ulak.tasks.steps.planning import plan_due
from ulak.tasks.steps.tracking import learned_times


@pytest.fixture
def runtime(migrated_database: Engine) -> Runtime:
    """A runtime whose credentials are always found."""
    return make_runtime(migrated_database, resolve=lambda _: "secret", tick_seconds=0.01)


def _in_force(runtime: Runtime, account_id: str) -> Any:
    with runtime.engine.connect() as connection:
        row = find(connection, account_id)
    assert row is not None
    return learned_times(row, "number", None)


@pytest.mark.parametrize(
    "change",
    [
        "poll = poll || '{\"max_check_seconds\": 60.0}'",
        "poll = poll || '{\"first_check_seconds\": 2.0}'",
        "options = options || '{\"validity_hours\": 72.0}'",
    ],
)
def test_a_plan_holds_only_for_the_settings_for_which_it_was_made(runtime: Runtime, change: str) -> None:
    """A wait that is configured later binds at once, not with the next look; the fixed schedule keeps it."""
    account_id = begin(runtime)
    teach(runtime, account_id)
    assert _in_force(runtime, account_id) is not None
    execute(runtime.engine, f"UPDATE accounts SET {change} WHERE id = :a", a=account_id)
    assert _in_force(runtime, account_id) is None
    close_ids(runtime.engine, account_id, 100, 0, 5)
    execute(runtime.engine, HOUR_AGO, a=account_id)
    learn_all(runtime)
    assert _in_force(runtime, account_id) is not None


def test_a_schedule_of_other_settings_is_not_kept_for_kinds_without_news(runtime: Runtime) -> None:
    """The plan is made anew for one kind; what another kind had under other settings goes."""
    account_id = begin(runtime)
    teach(runtime, account_id)
    old = plan_of(runtime.engine, account_id)
    old["kinds"]["other"] = {"ages": [5000.0], "every": None}
    change = "UPDATE accounts SET poll_plan = CAST(:p AS jsonb), poll = poll || '{\"max_check_seconds\": 60.0}'"
    execute(runtime.engine, f"{change} WHERE id = :a", p=json.dumps(old), a=account_id)
    close_ids(runtime.engine, account_id, 100, 0, 5)
    execute(runtime.engine, HOUR_AGO, a=account_id)
    learn_all(runtime)
    assert set(plan_of(runtime.engine, account_id)["kinds"]) == {"number"}


def test_the_first_check_keeps_the_longest_wait_too(runtime: Runtime) -> None:
    """As in the fixed schedule, where the longest wait is shorter than the wait before the first check."""
    account_id = begin(runtime, first_check_seconds=600.0, max_check_seconds=60.0)
    teach(runtime, account_id)
    times = times_of(plan_of(runtime.engine, account_id), "number")
    assert times is not None
    assert max(right - left for left, right in pairwise([0.0, *times.all_before(86400.0)])) <= 60.01


def test_a_campaign_does_not_price_the_quiet_days_after_it(runtime: Runtime) -> None:
    """Thousands of messages within minutes are no stream: the limit has a day to make their calls."""
    account_id = begin(runtime)
    limit = "UPDATE accounts SET limit_requests = 20, limit_per_seconds = 60 WHERE id = :a"
    execute(runtime.engine, limit, a=account_id)
    teach(runtime, account_id)
    minute = "UPDATE latencies SET learned = jsonb_set(learned, '{fresh_since}', to_jsonb(now() - interval '70 s'))"
    execute(runtime.engine, f"{minute} WHERE account_id = :a", a=account_id)
    sent = clock.now() - timedelta(seconds=60)
    values = [f"s{number}:+905321234567" for number in range(3000)]
    add_ids(runtime.engine, account_id, values, sent_at=sent, next_check_at=clock.now() + timedelta(hours=1))
    close_ids(runtime.engine, account_id, 100, 0, 5)
    execute(runtime.engine, HOUR_AGO, a=account_id)
    learn_all(runtime)
    times = times_of(plan_of(runtime.engine, account_id), "number")
    assert times is not None
    assert times.ages[0] < 120


def _organik(runtime: Runtime, kind: str) -> str:
    """An account with room for one call of two ids, whose ids of this kind wait as long as they may."""
    account_id = add_account(
        runtime.engine, provider="organik", options={"batch_size": 2}, requests=1, per_seconds=10.0
    )
    give_waiting_plan(runtime.engine, account_id, kind)
    return account_id


def test_ids_that_wait_for_a_batch_hide_no_others(runtime: Runtime) -> None:
    """As many as a plan holds are due and not worth a call; the last check of another must not wait behind them."""
    account_id = _organik(runtime, "gsm_track")
    now = clock.now()
    add_ids(
        runtime.engine,
        account_id,
        ["1", "2"],
        kind="gsm_track",
        sent_at=now - timedelta(hours=3),
        next_check_at=now - timedelta(hours=2),
    )
    [last] = add_ids(
        runtime.engine,
        account_id,
        ["3"],
        kind="gsm_track",
        sent_at=now - timedelta(days=1),
        valid_until=now - timedelta(minutes=2),
        next_check_at=now - timedelta(minutes=1),
    )
    for _ in range(2):
        list(plan_due(runtime, "organik"))
        execute(
            runtime.engine, "UPDATE fetches SET state = 'done', finished_at = now() WHERE account_id = :a", a=account_id
        )
    assert scalar(runtime.engine, "SELECT fetch_id FROM tracked_ids WHERE id = :id", id=last) is not None


def test_an_id_of_unknown_many_messages_is_late_when_it_is_due(runtime: Runtime) -> None:
    """It keeps the fixed schedule and waits for no batch, though others of its kind do."""
    account_id = _organik(runtime, "transaction")
    due = clock.now() - timedelta(hours=1)
    add_ids(runtime.engine, account_id, ["7"], kind="transaction", sent_at=due, next_check_at=due)
    with runtime.engine.connect() as connection:
        since = read_backlog(connection)[account_id].work.due_since
    assert since == due
    execute(runtime.engine, "UPDATE tracked_ids SET expected = 1 WHERE account_id = :a", a=account_id)
    with runtime.engine.connect() as connection:
        since = read_backlog(connection)[account_id].work.due_since
    assert since is None or since > due + timedelta(hours=2)


def test_an_id_that_was_closed_without_a_check_teaches_nothing(runtime: Runtime) -> None:
    """An answer that was understood late closes it; between its last two checks it did not become final."""
    account_id = add_account(runtime.engine)
    [tracked] = add_ids(runtime.engine, account_id, ["s1:+905321234567"])
    checked = "UPDATE tracked_ids SET checked_before_at = sent_at, last_checked_at = sent_at + interval '5 s'"
    execute(runtime.engine, f"{checked} WHERE id = :id", id=tracked)
    with runtime.engine.begin() as connection:
        assert close_answered(connection, [tracked], clock.now()) == 1
    assert scalar(runtime.engine, "SELECT checked_before_at FROM tracked_ids WHERE id = :id", id=tracked) is None


def test_closings_are_read_once(runtime: Runtime) -> None:
    """What was read stays counted, however little: or a rare kind has all others' rows read each minute."""
    account_id = begin(runtime)
    teach(runtime, account_id)
    execute(runtime.engine, HOUR_AGO, a=account_id)
    few = "DELETE FROM tracked_ids WHERE account_id = :a AND id NOT IN (SELECT max(id) FROM tracked_ids)"
    execute(runtime.engine, few, a=account_id)
    learn_all(runtime)
    behind = scalar(
        runtime.engine,
        "SELECT extract(epoch FROM now() - min(read_through))::float8 FROM latencies WHERE account_id = :a",
        a=account_id,
    )
    assert isinstance(behind, float)
    assert behind < 60


def test_an_account_of_orders_alone_is_not_read_again_each_minute(runtime: Runtime) -> None:
    """Ids of several messages teach nothing; that is known after one look."""
    account_id = add_account(runtime.engine, provider="iletimerkezi")
    close_ids(runtime.engine, account_id, 50, 0, 5, kind="order")
    learn_all(runtime)
    assert scalar(runtime.engine, "SELECT count(*) FROM latencies WHERE account_id = :a", a=account_id) == 1


def test_few_closings_add_up(runtime: Runtime) -> None:
    """Each look brings less than is worth a new plan; together they do."""
    account_id = begin(runtime)
    teach(runtime, account_id)
    before = scalar(runtime.engine, "SELECT poll_plan ->> 'at' FROM accounts WHERE id = :a", a=account_id)
    for _ in range(5):
        execute(runtime.engine, "DELETE FROM tracked_ids WHERE account_id = :a", a=account_id)
        close_ids(runtime.engine, account_id, 4, 0, 5)
        execute(runtime.engine, HOUR_AGO, a=account_id)
        learn_all(runtime)
    assert scalar(runtime.engine, "SELECT poll_plan ->> 'at' FROM accounts WHERE id = :a", a=account_id) != before


def test_a_plan_of_another_version_is_not_read(runtime: Runtime) -> None:
    """Its form may be any; the account keeps the fixed schedule, and is planned."""
    account_id = _organik(runtime, "gsm_track")
    other = "jsonb_set(jsonb_set(poll_plan, '{settings,form}', '2'), '{kinds,gsm_track}', '7')"
    execute(runtime.engine, f"UPDATE accounts SET poll_plan = {other} WHERE id = :a", a=account_id)
    [tracked] = add_ids(runtime.engine, account_id, ["1"], kind="gsm_track")
    list(plan_due(runtime, "organik"))
    assert scalar(runtime.engine, "SELECT fetch_id FROM tracked_ids WHERE id = :id", id=tracked) is not None
