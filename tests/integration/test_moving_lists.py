"""Lists that move while they are swept: a provider over real HTTP, the whole pipeline, PostgreSQL."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from driving import Driver, make_runtime, miscounted_polls, scalar
from ledger_acts import add_account, deliveries, execute, row
from provider_list import ProviderList
from sqlalchemy import Engine
from tiny_provider import Reply, Request, TinyProvider

from ulak.core import clock
from ulak.models.report import WalkedPage
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.ondemand import open_on_demand
from ulak.tasks.steps.planning import plan_poll

pytestmark = pytest.mark.timeout(120)

PAGE = 30


@pytest.fixture
def runtime(migrated_database: Engine) -> Runtime:
    """A runtime whose credentials are always found."""
    return make_runtime(migrated_database, resolve=lambda _: "secret")


class MovingList:
    """The provider's list of orders; `move(n)` changes it after its nth answer."""

    def __init__(self, many: int, *, newest_first: bool, move: Callable[[ProviderList, int], None]) -> None:
        keys = [str(key) for key in range(1000, 1000 + many)]
        self.list = ProviderList(keys[::-1] if newest_first else keys, PAGE, newest_first)
        self.there = set(keys)
        self.asked: list[int] = []
        self._move = move

    def answer(self, request: Request) -> Reply:
        """One page, its count as text."""
        number = request.body["request"]["filter"]["page"]
        page = self.list.page(number, 1)
        self.asked.append(number)
        self._move(self.list, len(self.asked))
        return Reply(page_body(page))


def page_body(page: WalkedPage) -> bytes:
    """A page of get-reports; new orders have the highest ids."""
    items = [{"id": key.replace("new-", "9000"), "status": "114", "total": 1, "delivered": 1, "undelivered": 0,
              "waiting": 0, "submitAt": "2026-01-01 10:00:00", "sendAt": "2026-01-01 10:00:00"}
             for key in page.seen]  # fmt: skip
    said = {"status": {"code": "200", "message": "ok"}, "count": str(page.count), "orders": items}
    return msgspec.json.encode({"response": said})


def swept(runtime: Runtime, moving: MovingList, *, days_ago: int) -> tuple[str, set[str]]:
    """(how the poll over one day ended, the orders that are stored)."""
    engine = runtime.engine
    day = clock.now().date() - timedelta(days=days_ago)
    with TinyProvider(moving.answer) as tiny:
        account_id = add_account(engine, provider="iletimerkezi", base_url=tiny.address("list"), concurrency=1,
                                 options={"details": False, "deadline_seconds": 30.0})  # fmt: skip
        poll_id = open_on_demand(runtime, account_id, trigger="api", window=(day, day))
        with Driver(runtime, plans=False).running() as driver:
            driver.emit([plan_poll(runtime, account_id, poll_id)])
            state = "SELECT state FROM polls WHERE id = :id"
            assert driver.until(lambda: scalar(engine, state, id=poll_id) != "running", seconds=60)
    assert miscounted_polls(engine, account_id) == []
    return str(scalar(engine, state, id=poll_id)), {key for key, _ in deliveries(engine, account_id)}


def _leave_and_arrive(orders: ProviderList, asked: int) -> None:
    if asked == 1:
        orders.leave(4)
        orders.arrive(len(orders.orders))


def _insert_within_page_two(orders: ProviderList, asked: int) -> None:
    if asked == 1:
        orders.arrive(PAGE + 5)


def _grow(orders: ProviderList, asked: int) -> None:
    if asked % 3 == 0:
        orders.arrive_at_the_end()


def _shrink(orders: ProviderList, asked: int) -> None:
    if asked == 2:
        orders.leave(0)


@pytest.mark.parametrize("days_ago", [0, 2])
@pytest.mark.parametrize(
    ("many", "newest_first", "move"),
    [
        (2 * PAGE, False, _insert_within_page_two),
        (2 * PAGE, True, _insert_within_page_two),
        (2 * PAGE, False, _leave_and_arrive),
        (8 * PAGE - 3, False, _grow),
        (8 * PAGE - 3, True, _grow),
        (8 * PAGE, False, _shrink),
        (8 * PAGE, True, _shrink),
    ],
)
def test_a_complete_sweep_has_seen_every_order_that_was_there_all_the_time(
    runtime: Runtime, many: int, newest_first: bool, move: Any, days_ago: int
) -> None:
    """Today and closed days alike; the movement costs half of an undisturbed reading at most, or two requests."""
    moving = MovingList(many, newest_first=newest_first, move=move)
    state, stored = swept(runtime, moving, days_ago=days_ago)
    pages = -(-many // PAGE)
    assert state == "complete"
    assert moving.there - moving.list.removed - stored == set()
    assert len(moving.asked) <= max(pages + 2, pages * 3 // 2)


@pytest.mark.parametrize(("newest_first", "asked"), [(True, [1, 2, 3]), (False, [1, 3, 2, 1])])
def test_a_list_that_rests_is_read_in_the_direction_in_which_it_grows(
    runtime: Runtime, newest_first: bool, asked: list[int]
) -> None:
    """Upwards where the newest come first, else downwards and page one once more."""
    moving = MovingList(2 * PAGE + 1, newest_first=newest_first, move=lambda *_: None)
    assert (swept(runtime, moving, days_ago=1)[0], moving.asked) == ("complete", asked)


def test_a_list_that_never_rests_ends_with_errors_and_moves_no_watermark(runtime: Runtime) -> None:
    """Orders leave between any two requests: the poll ends drifting, and the days are swept again."""
    engine = runtime.engine
    moving = MovingList(9 * PAGE, newest_first=True, move=lambda orders, _: orders.leave(0))
    assert swept(runtime, moving, days_ago=1)[0] == "complete_with_errors"
    assert len(moving.asked) <= 9 * 3 // 2
    poll = row(engine, "polls", scalar(engine, "SELECT max(id) FROM polls"))
    assert (poll["drifting"], poll["dead"]) == (True, 0)


def test_a_poll_that_the_previous_version_began_is_ended_by_this_one(runtime: Runtime) -> None:
    """Its stored pages tell neither a page's size nor the list's direction."""
    engine = runtime.engine

    def forget(orders: ProviderList, asked: int) -> None:
        if asked == 2:
            orders.arrive(PAGE + 5)
        execute(engine, "UPDATE fetches SET page = page - 'size' - 'newest_first' WHERE page IS NOT NULL")

    moving = MovingList(2 * PAGE + 1, newest_first=True, move=forget)
    state, stored = swept(runtime, moving, days_ago=1)
    assert (state, moving.there - stored) == ("complete", set())
