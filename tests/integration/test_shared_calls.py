"""On-demand and scheduled work share an account's calls: by turns where both wait, all where only one does."""

from collections.abc import Iterator
from typing import Any

import pytest
from driving import Driver, make_runtime, scalar
from ledger_acts import (
    Held,
    add_account,
    add_ids,
    add_poll,
    execute,
    fetch,
    fetches_of,
    plan,
    row,
    take,
    take_next,
    vairo_body,
)
from sqlalchemy import Engine
from test_planning import list_body
from tiny_provider import Request, TinyProvider, vairo_reply

from ulak.models.ledger.opening import PRIORITY_ON_DEMAND, rank_of_next_page
from ulak.models.ledger.taking import Taken
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.ondemand import open_on_demand
from ulak.tasks.steps.planning import plan_poll


@pytest.fixture
def runtime(shared_database: Engine) -> Runtime:
    """A runtime whose credentials are always found."""
    return make_runtime(shared_database, resolve=lambda _: "secret")


def number(send: int) -> str:
    """A tracked number of a send of its own."""
    return f"{send}:+9053212{send:05}"


def on_demand(runtime: Runtime, account_id: str) -> int:
    """A planned poll over everything that is open."""
    poll_id = open_on_demand(runtime, account_id, trigger="api")
    plan_poll(runtime, account_id, poll_id)
    return poll_id


def calls_in_turn(runtime: Runtime, account_id: str) -> Iterator[tuple[str, Held]]:
    """The calls that a worker would make, one after the other: (`on demand` or `scheduled`, the call)."""
    while isinstance(found := take_next(runtime.engine, account_id), Taken):
        held = Held(runtime, found)
        yield "on demand" if held.taken.priority <= PRIORITY_ON_DEMAND else "scheduled", held


def answer(held: Held, word: str = "WAITING") -> None:
    """A report about the number that the call asks for."""
    value = next(iter(held.prepared.tracked)).value
    held.answer(vairo_body(value, word, key=int(value.partition(":")[0])))


def fewest_scheduled(kinds: list[str], window: int) -> int:
    """In any so many successive calls: how many are scheduled ones, at least."""
    return min(kinds[start : start + window].count("scheduled") for start in range(len(kinds) - window + 1))


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("concurrency", [1, 7])
def test_a_poll_of_ten_thousand_ids_leaves_half_of_the_calls_to_what_is_due(runtime: Runtime, concurrency: int) -> None:
    """In any window of calls, whatever falls due meanwhile; what waits on demand goes on as well."""
    engine = runtime.engine
    account_id = add_account(engine, concurrency=concurrency)
    add_ids(engine, account_id, [number(send) for send in range(10_000)])
    execute(
        engine, "UPDATE tracked_ids SET next_check_at = now() + interval '1 hour' WHERE account_id = :a", a=account_id
    )
    on_demand(runtime, account_id)
    add_ids(engine, account_id, [number(send) for send in range(20_000, 20_100)])
    assert len([each for each in plan(runtime, account_id) if is_scheduled(engine, each)]) == 100
    kinds = []
    for kind, held in calls_in_turn(runtime, account_id):
        kinds.append(kind)
        answer(held)
        if len(kinds) == 60:
            break
    assert [fewest_scheduled(kinds, window) >= window // 2 for window in range(2, 41)] == [True] * 39
    assert kinds.count("on demand") >= 25


def is_scheduled(engine: Engine, fetch_id: int) -> bool:
    """Whether the fetch is scheduled work."""
    return bool(row(engine, "fetches", fetch_id)["priority"] > PRIORITY_ON_DEMAND)


def test_without_scheduled_work_on_demand_has_every_call_and_the_reverse(runtime: Runtime) -> None:
    """And whoever had them all gives the next one away at once when the other comes."""
    engine = runtime.engine
    found = {}
    for name, mine, other in (("on demand", 10, 60), ("scheduled", 60, 10)):
        account_id = add_account(engine, concurrency=1)
        add_poll(engine, account_id, [fetch(n, priority=mine, send=str(n)) for n in range(6)])
        order = [priority for _, priority in zip(range(3), ranks(engine, account_id), strict=False)]
        add_poll(engine, account_id, [fetch(n, priority=other, send=str(n)) for n in range(10, 13)])
        found[name] = [*order, *ranks(engine, account_id)]
    assert found == {
        "on demand": [10, 10, 10, 60, 10, 60, 10, 60, 10],
        "scheduled": [60, 60, 60, 10, 60, 10, 60, 10, 60],
    }


def ranks(engine: Engine, account_id: str) -> Iterator[int]:
    """The ranks of the fetches in the order in which they may be made, each one made at once."""
    while isinstance(found := take_next(engine, account_id), Taken):
        done = "UPDATE calls SET answered_at = asked_at, released_at = asked_at, outcome = 'ok' WHERE fetch_id = :f"
        execute(engine, done, f=found.fetch_id)
        yield found.priority


def test_several_calls_at_once_take_turns(runtime: Runtime) -> None:
    """What a wide limit allows at once is shared out as well, whichever fetch a message names."""
    engine = runtime.engine
    account_id = add_account(engine, concurrency=13)
    add_poll(engine, account_id, [fetch(n, priority=10) for n in range(20)])
    found = [take_next(engine, account_id) for _ in range(5)]
    _, ids = add_poll(engine, account_id, [fetch(n, priority=30) for n in range(30, 50)])
    found += [take(engine, ids[-1]) for _ in range(8)]
    assert [each.priority for each in found if isinstance(each, Taken)] == [10] * 5 + [30, 10] * 4
    # The one that was named goes first among its own kind.
    assert isinstance(found[5], Taken)
    assert found[5].fetch_id == ids[-1]


def test_a_list_that_an_on_demand_poll_reads_is_read_on_before_its_ids(runtime: Runtime) -> None:
    """Its further pages do not wait behind thousands of orders that were planned with page one."""
    engine = runtime.engine
    account_id = add_account(engine, provider="iletimerkezi", concurrency=1, options={"details": False})
    add_ids(engine, account_id, [str(n) for n in range(1, 50)], kind="order")
    on_demand(runtime, account_id)
    labels = []
    for _, held in calls_in_turn(runtime, account_id):
        labels.append("list" if "window" in held.taken.params else "order")
        if "window" not in held.taken.params:
            break
        page, is_today = held.taken.params["page"], held.taken.params["window"][0] == held.taken.params["window"][1]
        orders = list(range(1000, 1000 + 65))[::-1][30 * (page - 1) : 30 * page] if is_today else []
        held.answer(list_body(orders, 65 if is_today else 0))
    assert labels == ["list"] * 4 + ["order"]


@pytest.mark.parametrize(("rank", "next_rank"), [(10, 1), (1, 1), (20, 11), (30, 21), (21, 21), (60, 51)])
def test_a_next_page_goes_before_its_own_rank_and_behind_every_better_one(rank: int, next_rank: int) -> None:
    """On-demand work stays on demand, scheduled work scheduled."""
    assert rank_of_next_page(rank) == next_rank


@pytest.mark.timeout(120)
def test_scheduled_checks_stay_timely_while_an_on_demand_poll_runs(migrated_database: Engine) -> None:
    """Over real HTTP: messages sent meanwhile get their final report though a thousand ids wait on demand."""
    runtime = make_runtime(migrated_database, resolve=lambda _: "secret")
    engine = runtime.engine
    old = {number(send) for send in range(1000)}

    def reply(request: Request) -> Any:
        send = request.path.rsplit("/", 1)[1]
        return vairo_reply(request, "WAITING" if number(int(send)) in old else "DELIVERED")

    with TinyProvider(reply) as tiny:
        account_id = add_account(engine, base_url=tiny.address("a"), requests=20, concurrency=2,
                                 options={"deadline_seconds": 20.0})  # fmt: skip
        add_ids(engine, account_id, sorted(old))
        later = "UPDATE tracked_ids SET next_check_at = now() + interval '1 hour' WHERE account_id = :a"
        execute(engine, later, a=account_id)
        poll_id = on_demand(runtime, account_id)
        with Driver(runtime).running() as driver:
            assert driver.until(lambda: len(tiny.requests("a")) > 10, seconds=30)
            add_ids(engine, account_id, [number(send) for send in range(2000, 2040)])
            delivered = "SELECT count(*) FROM delivery_status WHERE account_id = :a AND status = 'delivered'"
            assert driver.until(lambda: scalar(engine, delivered, a=account_id) == 40, seconds=60)
            poll = row(engine, "polls", poll_id)
            assert (poll["state"], len(fetches_of(engine, account_id, "ready")) > 500) == ("running", True)
