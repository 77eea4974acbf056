"""Answers about the recipients of an order: refused as a whole, incomplete, scheduled, or not to be trusted yet."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from threading import Event
from typing import Any

import msgspec
import pytest
from driving import Driver, make_runtime, scalar
from ledger_acts import Held, add_account, add_ids, deliveries, execute, fetches_of, plan, row
from sqlalchemy import Engine, text
from tiny_provider import Reply, Request, TinyProvider

from ulak.core import clock
from ulak.models.quarantine import list_quarantine
from ulak.providers.errors import TryAgainSoon
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.ondemand import open_on_demand
from ulak.tasks.steps.planning import plan_poll

pytestmark = pytest.mark.timeout(200)

A, B = "+905301234567", "+905301234568"
QUICK = {"base_seconds": 0.05, "cap_seconds": 0.2, "max_attempts": 3}
Rows = Sequence[tuple[str, Any]]


@pytest.fixture
def runtime(migrated_database: Engine) -> Runtime:
    """A runtime whose credentials are always found."""
    return make_runtime(migrated_database, resolve=lambda _: "secret")


def order(rows: Rows | None, *, total: int | None = 2, status: int = 114, **changes: Any) -> dict[str, Any]:
    """Order 7 as get-report states it: 2 recipients, both delivered, unless changed."""
    messages = None if rows is None else [{"number": number, "status": code} for number, code in rows]
    counts = {"delivered": total, "undelivered": 0, "waiting": 0} if total else {}
    return {"id": 7, "status": status, "total": total, **counts, "message": messages, **changes}


def body(content: dict[str, Any] | None = None, *, code: int = 200, **more: Any) -> bytes:
    """An answer with the order, or with a code alone."""
    response = {"status": {"code": code}, **({} if content is None else {"order": content}), **more}
    return msgspec.json.encode({"response": response})


def due_order(runtime: Runtime, **given: Any) -> tuple[str, int]:
    """An account with order 7 due, its sweeps done for a while: (account, tracked id)."""
    account = {name: given.pop(name) for name in ("poll", "retry", "options") if name in given}
    account_id = add_account(runtime.engine, provider="iletimerkezi", **account)
    [tracked_id] = add_ids(runtime.engine, account_id, ["7"], kind="order", **given)
    execute(
        runtime.engine, "UPDATE accounts SET planned_at = now(), closed_swept_at = now() WHERE id = :a", a=account_id
    )
    return account_id, tracked_id


def ask(runtime: Runtime, account_id: str) -> Held:
    """Order 7 falls due and is asked for."""
    execute(runtime.engine, "UPDATE tracked_ids SET next_check_at = now() WHERE account_id = :a", a=account_id)
    [fetch_id] = plan(runtime, account_id)
    return Held(runtime, fetch_id)


def say(runtime: Runtime, account_id: str, content: dict[str, Any]) -> None:
    """Order 7 falls due and the provider answers; a page after an incomplete one is empty."""
    ask(runtime, account_id).answer(body(content))
    while ready := fetches_of(runtime.engine, account_id, "ready"):
        Held(runtime, ready[0]).answer(body({**content, "message": []}))


def tracked(runtime: Runtime, tracked_id: int) -> dict[str, Any]:
    """What is known of the id: closed, how many answers were incomplete, seconds from its last to its next check."""
    found = row(runtime.engine, "tracked_ids", tracked_id)
    times = found["next_check_at"], found["last_checked_at"]
    wait = (times[0] - times[1]).total_seconds() if all(times) else None
    return {"closed": found["close_reason"], "incomplete": found["incomplete_answers"], "wait": wait}


def account_state(engine: Engine, account_id: str) -> dict[str, Any]:
    """What trouble leaves in the account's row."""
    names = ("breaker_state", "breaker_failures", "paused_until", "not_before", "last_trouble")
    found = row(engine, "accounts", account_id)
    return {name: found[name] for name in names}


# ------------------------------------------------------------------------------------------ too many recipients
def test_an_answer_with_too_many_recipients_is_asked_again_and_stores_nothing(runtime: Runtime) -> None:
    """A, A where the order has one recipient: quarantined, and the next answer is taken; no phantom ever appears."""
    engine = runtime.engine
    account_id, tracked_id = due_order(runtime, retry=QUICK)
    ask(runtime, account_id).answer(body(order([(A, 111), (A, 111)], total=1)))
    assert deliveries(engine, account_id) == []
    assert (account_state(engine, account_id)["breaker_failures"], fetches_of(engine, account_id, "dead")) == (0, [])
    with engine.connect() as connection:
        [entry] = list_quarantine(connection)
    assert entry["reason"] == "The answer holds more recipients than the order has."
    [again] = fetches_of(engine, account_id, "ready")
    execute(engine, "UPDATE fetches SET available_at = now() WHERE id = :id", id=again)
    Held(runtime, again).answer(body(order([(A, 111)], total=1)))
    assert deliveries(engine, account_id) == [("7", "delivered"), (f"7:{A}:1", "delivered")]
    assert tracked(runtime, tracked_id)["closed"] == "final"
    with engine.connect() as connection:
        assert list(list_quarantine(connection)) == []


def test_an_order_that_always_shows_too_many_recipients_is_one_dead_letter_of_its_own(runtime: Runtime) -> None:
    """After the account's attempts, over real HTTP; the account itself is not troubled, other orders go on."""
    engine = runtime.engine

    def answer(request: Request) -> Reply:
        asked = request.body["request"]["order"]["id"]
        rows = [(A, 111)] * (2 if asked == 7 else 1)
        return Reply(body({**order(rows, total=1), "id": asked}))

    with TinyProvider(answer) as tiny:
        account_id = add_account(
            engine, provider="iletimerkezi", base_url=tiny.address("im"), retry=QUICK, poll={"every_seconds": 3600}
        )
        execute(engine, "UPDATE accounts SET planned_at = now(), closed_swept_at = now() WHERE id = :a", a=account_id)
        add_ids(engine, account_id, ["7", "8"], kind="order")
        with Driver(runtime).running() as driver:
            assert driver.until(lambda: fetches_of(engine, account_id, "dead"), seconds=60)
            assert driver.until(lambda: len(deliveries(engine, account_id)) == 2, seconds=60)
        asked = [request.body["request"]["order"]["id"] for request in tiny.requests("im")]
    assert (asked.count(7), asked.count(8)) == (3, 1)
    assert {key.partition(":")[0] for key, _ in deliveries(engine, account_id)} == {"8"}
    [dead] = fetches_of(engine, account_id, "dead")
    assert "more recipients than the order has. (tried 3 times)" in row(engine, "fetches", dead)["last_error"]
    state = account_state(engine, account_id)
    assert (state["breaker_state"], state["breaker_failures"], state["paused_until"]) == ("closed", 0, None)


def page_of(first: int, many: int) -> list[dict[str, Any]]:
    """Recipients of a big order."""
    return [{"number": f"+90530{number:07}", "status": 111} for number in range(first, first + many)]


@pytest.mark.parametrize("wrong", [(2, 3), (1, 1000)], ids=["the last page", "the first page"])
def test_a_surplus_over_all_pages_stores_nothing_of_any_page_and_begins_the_walk_again(
    runtime: Runtime, wrong: tuple[int, int]
) -> None:
    """1,002 recipients on two pages, one of which holds too many: both are asked again, and counted as one attempt."""
    engine = runtime.engine
    head = {"id": 7, "status": 114, "total": 1002, "delivered": 1002, "undelivered": 0, "waiting": 0}
    attempts: list[int] = []
    is_looked_at = Event()

    def answer(request: Request) -> Reply:
        page = request.body["request"]["order"]["page"]
        attempts.extend([1] if page == 1 else [])
        if len(attempts) == 3:
            is_looked_at.wait(60)
        rows = page_of(0, 1000) if page == 1 else page_of(1000, 2)
        if wrong[0] == page and len(attempts) <= 2:
            rows = (rows + rows)[: wrong[1]] if page == 2 else [*rows, *page_of(0, 3)]
        return Reply(body({**head, "message": rows}))

    with TinyProvider(answer) as tiny:
        account_id = add_account(
            engine,
            provider="iletimerkezi",
            base_url=tiny.address("im"),
            retry={**QUICK, "max_attempts": 8},
            poll={"every_seconds": 3600},
            options={"deadline_seconds": 60.0},
        )
        execute(engine, "UPDATE accounts SET planned_at = now(), closed_swept_at = now() WHERE id = :a", a=account_id)
        [tracked_id] = add_ids(engine, account_id, ["7"], kind="order")
        with Driver(runtime).running() as driver:
            assert driver.until(lambda: len(attempts) == 3, seconds=60)
            assert deliveries(engine, account_id) == []
            is_looked_at.set()
            assert driver.until(lambda: tracked(runtime, tracked_id)["closed"] == "final", seconds=60)
    assert len(deliveries(engine, account_id)) == 1003
    assert len(attempts) == 3
    assert scalar(engine, "SELECT max(round) FROM fetches") == 3
    assert scalar(engine, "SELECT count(*) FROM delivery_status WHERE right(provider_key, 2) = '\\:2'") == 0


def test_a_walk_that_was_refused_can_be_taken_over_by_a_person(runtime: Runtime) -> None:
    """Asked for on demand while it waits for its retry: it is asked now, in that poll, from its first page."""
    engine = runtime.engine
    account_id, tracked_id = due_order(runtime, retry={"base_seconds": 3600, "cap_seconds": 3600})
    head = {"id": 7, "status": 114, "total": 1001, "delivered": 1001, "undelivered": 0, "waiting": 0}
    ask(runtime, account_id).answer(body({**head, "message": page_of(0, 1000)}))
    [second] = fetches_of(engine, account_id, "ready")
    Held(runtime, second).answer(body({**head, "message": page_of(1000, 2)}))
    plan_poll(runtime, account_id, poll_id := open_on_demand(runtime, account_id, trigger="cli"))
    mine = "SELECT id FROM fetches WHERE poll_id = :p AND params ? 'order'"
    fetch_id = int(str(scalar(engine, mine, p=poll_id)))
    assert (fetch_id, row(engine, "fetches", fetch_id)["params"]["page"]) == (second, 1)
    execute(engine, "UPDATE fetches SET available_at = now() WHERE id = :id", id=fetch_id)
    Held(runtime, fetch_id).answer(body({**head, "message": page_of(0, 1000)}))
    last = "SELECT id FROM fetches WHERE poll_id = :p AND params ? 'order' AND state = 'ready'"
    Held(runtime, int(str(scalar(engine, last, p=poll_id)))).answer(body({**head, "message": page_of(1000, 1)}))
    assert tracked(runtime, tracked_id)["closed"] == "final"


# ------------------------------------------------------------------------------------------ not to be trusted yet
def test_a_second_ordinal_needs_two_equal_answers_with_nothing_between_them(runtime: Runtime) -> None:
    """A, A for A, B: not after a refused answer and not after another one; and the order stays open meanwhile."""
    engine = runtime.engine
    account_id, tracked_id = due_order(runtime, retry=QUICK)
    phantom = order([(A, 111), (A, 111)])
    say(runtime, account_id, phantom)
    refused = ask(runtime, account_id)
    refused.answer(body(order([(A, 111), (A, 111), (B, 111)])))
    [again] = fetches_of(engine, account_id, "ready")
    execute(engine, "UPDATE fetches SET available_at = now() WHERE id = :id", id=again)
    Held(runtime, again).answer(body(phantom))
    say(runtime, account_id, order([(B, 111), (B, 111)]))
    say(runtime, account_id, phantom)
    assert tracked(runtime, tracked_id)["closed"] is None
    rows = [("7", "delivered"), (f"7:{A}:1", "delivered"), (f"7:{B}:1", "delivered")]
    assert deliveries(engine, account_id) == rows
    say(runtime, account_id, order([(B, 111), (A, 111)]))
    assert (deliveries(engine, account_id), tracked(runtime, tracked_id)["closed"]) == (rows, "final")


def test_a_number_that_stands_twice_is_stored_twice_after_the_second_answer(runtime: Runtime) -> None:
    """The second follows soon, since the order has ended; a fault of the network between them does not matter."""
    engine = runtime.engine
    account_id, tracked_id = due_order(runtime, retry=QUICK)
    twice = order([(A, 111), (A, 112)], delivered=1, undelivered=1)
    say(runtime, account_id, twice)
    first = deliveries(engine, account_id)
    assert tracked(runtime, tracked_id) == {"closed": None, "incomplete": 1, "wait": 5.0}
    ask(runtime, account_id).answer(TryAgainSoon("The connection broke."))
    [again] = fetches_of(engine, account_id, "ready")
    execute(engine, "UPDATE fetches SET available_at = now() WHERE id = :id", id=again)
    Held(runtime, again).answer(body(twice))
    assert first == [("7", "partially_delivered"), (f"7:{A}:1", "delivered")]
    assert deliveries(engine, account_id) == [*first, (f"7:{A}:2", "undeliverable")]
    assert tracked(runtime, tracked_id)["closed"] == "final"


@pytest.mark.parametrize("counted", [True, False], ids=["with counts", "without counts"])
def test_one_of_equal_numbers_in_the_place_of_another_never_makes_a_wrong_final(
    runtime: Runtime, counted: bool
) -> None:
    """111, 111 or 112, 112 for 111, 112: each number stands there as often as in truth, only the codes are wrong."""
    engine = runtime.engine
    counts = {"delivered": 1, "undelivered": 1} if counted else {"delivered": None, "undelivered": None}
    right, wrong = ([(A, 111), (A, 112)], ([(A, 111), (A, 111)], [(A, 112), (A, 112)]))
    for each in wrong:
        for said in ([right, each], [each, right]):
            account_id, tracked_id = due_order(runtime, retry=QUICK)
            for rows in (*said, *said, right, right):
                if tracked(runtime, tracked_id)["closed"] is None:
                    say(runtime, account_id, order(rows, **counts))
                    found = dict(deliveries(engine, account_id))
                    assert found.get(f"7:{A}:1", "delivered") == "delivered"
                    assert found.get(f"7:{A}:2", "undeliverable") == "undeliverable"
            assert deliveries(engine, account_id)[-2:] == [(f"7:{A}:1", "delivered"), (f"7:{A}:2", "undeliverable")]
            assert tracked(runtime, tracked_id)["closed"] == "final"


def test_an_order_whose_code_the_account_maps_to_a_final_status_is_settled(runtime: Runtime) -> None:
    """Like the documented codes of an order that has ended."""
    account_id, tracked_id = due_order(runtime, options={"status_map": {"116": "rejected/quota", "113": "delivered"}})
    say(runtime, account_id, order([(A, 112), (B, 112)], status=116))
    assert tracked(runtime, tracked_id)["closed"] == "final"
    assert deliveries(runtime.engine, account_id)[0] == ("7", "rejected")


# ------------------------------------------------------------------------------------------ incomplete
@pytest.mark.parametrize("factor", [1.0, 0.1])
def test_after_an_incomplete_answer_the_pauses_double_up_to_the_age_schedule(runtime: Runtime, factor: float) -> None:
    """5, 10, 20 … seconds though the order is days old; a complete answer ends it, and the count begins anew."""
    sent = clock.now() - timedelta(days=4, hours=7)
    given = {"sent_at": sent, "valid_until": sent + timedelta(days=2)}
    account_id, tracked_id = due_order(runtime, poll={"time_factor": factor}, **given)
    waits: list[float] = []
    for _ in range(14):
        say(runtime, account_id, order(None))
        waits.append(tracked(runtime, tracked_id)["wait"] / factor)
    assert waits[:5] == pytest.approx([5, 10, 20, 40, 80])
    assert all(wait == pytest.approx(min(5 * 2.0**n, wait)) for n, wait in enumerate(waits))
    assert max(waits) <= 86400
    assert tracked(runtime, tracked_id)["incomplete"] == 14
    state = account_state(runtime.engine, account_id)
    assert state == {**state, "breaker_failures": 0, "paused_until": None, "not_before": None, "last_trouble": None}
    assert fetches_of(runtime.engine, account_id, "dead", "ready") == []
    say(runtime, account_id, order([(A, 111), (B, 110)]))
    assert tracked(runtime, tracked_id)["incomplete"] == 0
    say(runtime, account_id, order(None))
    assert tracked(runtime, tracked_id)["wait"] == pytest.approx(5 * factor)


def test_an_incomplete_answer_about_an_order_of_last_year_does_not_close_it_as_forgotten(runtime: Runtime) -> None:
    """A provider that answers has not forgotten; only after some fourteen answers in two days is it given up."""
    sent = clock.now() - timedelta(days=365)
    account_id, tracked_id = due_order(runtime, sent_at=sent, valid_until=sent + timedelta(days=2))
    say(runtime, account_id, order([(A, 111), (A, 111)]))
    assert tracked(runtime, tracked_id) == {"closed": None, "incomplete": 1, "wait": 5.0}
    say(runtime, account_id, order([(A, 111), (A, 111)]))
    assert tracked(runtime, tracked_id)["closed"] == "final"
    old, old_id = due_order(runtime, sent_at=sent, valid_until=sent + timedelta(days=2))
    for _ in range(16):
        if tracked(runtime, old_id)["closed"] is None:
            say(runtime, old, order(None))
    assert tracked(runtime, old_id) == {"closed": "forgotten", "incomplete": 16, "wait": None}


def test_an_answer_with_fewer_recipients_than_the_list_said_is_believed_when_the_next_one_agrees(
    runtime: Runtime,
) -> None:
    """Its own total may be as short as its rows: one such answer must not settle the order without the others."""
    account_id, tracked_id = due_order(runtime, expected=2)
    short = order([(A, 111)], total=1)
    say(runtime, account_id, short)
    assert deliveries(runtime.engine, account_id) == [(f"7:{A}:1", "delivered")]
    assert tracked(runtime, tracked_id) == {"closed": None, "incomplete": 1, "wait": 5.0}
    say(runtime, account_id, order([(A, 111), (B, 111)]))
    assert (len(deliveries(runtime.engine, account_id)), tracked(runtime, tracked_id)["closed"]) == (3, "final")
    other, other_id = due_order(runtime, expected=2)
    say(runtime, other, short)
    say(runtime, other, short)
    assert tracked(runtime, other_id)["closed"] == "final"
    assert deliveries(runtime.engine, other) == [("7", "delivered"), (f"7:{A}:1", "delivered")]


def test_an_order_that_is_not_known_any_more_behind_its_first_page_is_asked_again_soon(runtime: Runtime) -> None:
    """Page one held 1,000 recipients, so the order exists: the walk begins anew instead of tomorrow."""
    sent = clock.now() - timedelta(days=4, hours=7)
    account_id, tracked_id = due_order(runtime, sent_at=sent, valid_until=sent + timedelta(days=2))
    head = {"id": 7, "status": 114, "total": 1001, "delivered": 1001, "undelivered": 0, "waiting": 0}
    for _ in range(2):
        ask(runtime, account_id).answer(body({**head, "message": page_of(0, 1000)}))
        [second] = fetches_of(runtime.engine, account_id, "ready")
        Held(runtime, second).answer(body(code=455), status=455)
    assert tracked(runtime, tracked_id) == {"closed": None, "incomplete": 2, "wait": 10.0}


def test_an_order_that_is_still_being_sent_keeps_to_its_age_schedule(runtime: Runtime) -> None:
    """It may show fewer recipients than it will have, so a missing one is no reason to hurry."""
    sent = clock.now() - timedelta(hours=3)
    account_id, tracked_id = due_order(runtime, sent_at=sent, valid_until=sent + timedelta(days=2))
    say(runtime, account_id, order(None, status=113))
    found = tracked(runtime, tracked_id)
    assert (found["incomplete"], found["closed"], found["wait"] > 60) == (0, None, True)


def test_an_incomplete_answer_is_followed_by_a_complete_one_within_seconds(runtime: Runtime) -> None:
    """Over real HTTP, with an unreadable row: what can be read is stored, the rest is in quarantine meanwhile."""
    engine = runtime.engine
    answers: Iterator[list[Any]] = iter([[{"number": A, "status": 111}, {"number": None}]])
    first_was_seen = Event()

    def answer(request: Request) -> Reply:
        assert request.body["request"]["order"]["id"] == 7
        rows = next(answers, None)
        if rows is None:
            assert first_was_seen.wait(60)
            rows = [{"number": A, "status": 111}, {"number": B, "status": 111}]
        return Reply(body(order([], message=rows)))

    with TinyProvider(answer) as tiny:
        sent = clock.now() - timedelta(days=3)
        account_id = add_account(
            engine,
            provider="iletimerkezi",
            base_url=tiny.address("im"),
            poll={"every_seconds": 3600, "time_factor": 0.2},
        )
        execute(engine, "UPDATE accounts SET planned_at = now(), closed_swept_at = now() WHERE id = :a", a=account_id)
        add_ids(engine, account_id, ["7"], kind="order", sent_at=sent, valid_until=sent + timedelta(days=1))
        with Driver(runtime).running() as driver:
            assert driver.until(lambda: len(deliveries(engine, account_id)) == 2, seconds=30)
            assert scalar(engine, "SELECT count(*) FROM quarantine WHERE account_id = :a", a=account_id) == 1
            first_was_seen.set()
            assert driver.until(lambda: len(deliveries(engine, account_id)) == 3, seconds=30)
        [first, second] = tiny.requests("im")
    assert second.at - first.at < 5


# ------------------------------------------------------------------------------------------ scheduled
def list_body(*orders: dict[str, Any]) -> bytes:
    """A page of the list."""
    return body(count=len(orders), orders=list(orders))


def local(moment: datetime) -> str:
    """A bare time of the account's zone, which is UTC here."""
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def test_an_order_for_tomorrow_is_scheduled_and_not_said_to_be_sent(runtime: Runtime) -> None:
    """The list says 113 with a sending time ahead, get-report says 456: asked again then, never `unreported`."""
    engine, now = runtime.engine, clock.now()
    tomorrow = (now + timedelta(days=1)).replace(microsecond=0)
    listed = {"id": 7, "status": 113, "total": 2, "delivered": 0, "undelivered": 0, "waiting": 2, "sender": "M"}
    listed |= {"submitAt": local(now - timedelta(hours=1)), "sendAt": local(tomorrow)}

    def answer(request: Request) -> Reply:
        return Reply(body(code=456) if "order" in request.body["request"] else list_body(listed))

    with TinyProvider(answer) as tiny:
        account_id = add_account(engine, provider="iletimerkezi", base_url=tiny.address("im"))
        with Driver(runtime).running() as driver:
            asked: Callable[[], Any] = lambda: any("order" in each.body["request"] for each in tiny.requests("im"))  # noqa: E731
            assert driver.until(asked, seconds=40)
            checked = "SELECT count(*) FROM tracked_ids WHERE last_checked_at IS NOT NULL"
            assert driver.until(lambda: scalar(engine, checked), seconds=20)
    with engine.connect() as connection:
        columns = "status, is_final, sent_at, total, waiting, extra ->> 'send_at'"
        [found] = connection.execute(
            text(f"SELECT {columns} FROM delivery_status WHERE account_id = :a"), {"a": account_id}
        )
    assert tuple(found) == ("scheduled", False, None, 2, 2, tomorrow.isoformat())
    assert scalar(engine, "SELECT next_check_at FROM tracked_ids WHERE account_id = :a", a=account_id) == tomorrow


def test_an_order_whose_sending_time_nobody_knows_is_asked_again_after_ten_minutes(runtime: Runtime) -> None:
    """Code 456 alone makes the row, though validity is over by what was registered."""
    engine = runtime.engine
    sent = clock.now() - timedelta(days=3)
    account_id, tracked_id = due_order(runtime, sent_at=sent, valid_until=sent + timedelta(days=1), expected=3)
    ask(runtime, account_id).answer(body(code=456), status=456)
    assert deliveries(engine, account_id) == [("7", "scheduled")]
    assert tracked(runtime, tracked_id)["closed"] is None
    assert tracked(runtime, tracked_id)["wait"] == 600
