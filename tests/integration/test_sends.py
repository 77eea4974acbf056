"""Sends of many numbers: each number is polled itself, the send once they are closed or validity has ended."""

import threading
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from driving import make_runtime, scalar
from ledger_acts import Held, add_account, deliveries, execute, fetches_of, plan, row, vairo_body
from sqlalchemy import Engine, text

from ulak.core import clock
from ulak.models.ledger import opening
from ulak.models.overview import overview
from ulak.models.tracked import close_answered
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.planning import plan_poll
from ulak.tasks.steps.tracking import track

pytestmark = pytest.mark.timeout(200)


@pytest.fixture
def runtime(migrated_database: Engine) -> Runtime:
    """A runtime whose credentials are always found."""
    return make_runtime(migrated_database, resolve=lambda _: "secret")


def number(place: int, send: str = "187") -> str:
    """A tracked id of a send."""
    return f"{send}:+9053999999{place:02}"


def register(runtime: Runtime, account_id: str, many: int, send: str = "187", **given: Any) -> None:
    """Register the numbers of a send that was sent a minute ago, all due now."""
    sent_at = clock.now() - timedelta(minutes=1)
    items = [{"kind": "number", "value": number(place, send), "sent_at": sent_at, **given} for place in range(many)]
    assert track(runtime, account_id, items) == many


def make_due(runtime: Runtime, kind: str = "number") -> None:
    """Let every open id of the kind be due, unless a fetch holds it."""
    execute(
        runtime.engine,
        "UPDATE tracked_ids SET next_check_at = now() WHERE id_kind = :kind AND closed_at IS NULL",
        kind=kind,
    )


def calls(runtime: Runtime, fetch_ids: list[int]) -> dict[int, tuple[str, str, str | None]]:
    """(call, send, number) of each fetch."""
    params = {each: row(runtime.engine, "fetches", each)["params"] for each in fetch_ids}
    return {each: (found["call"], found["send"], found.get("number")) for each, found in params.items()}


def answer_numbers(runtime: Runtime, fetch_ids: list[int], words: dict[str, str]) -> None:
    """Answer each poll of a number by its word, DELIVERED where it has none."""
    for fetch_id, (call, send, digits) in calls(runtime, fetch_ids).items():
        assert call == "NumaraRaporu"
        value = f"{send}:{digits}"
        Held(runtime, fetch_id).answer(
            vairo_body(value, words.get(value, "DELIVERED"), key=int(str(digits)[-4:]) + int(send))
        )


def send_body(state: int, send: int = 187, **fields: Any) -> bytes:
    """What Vairo says about a send."""
    info = {"id": send, "sms_baslik": "BASLIK", "numara_toplam": 6, "kredi_toplam": 7, "paket_durum": state, **fields}
    return msgspec.json.encode({"durum": True, "aciklama": info})


def send_row(engine: Engine, value: str = "187") -> dict[str, Any]:
    """The tracked send."""
    with engine.connect() as connection:
        query = (
            "SELECT *, next_check_at <= clock_timestamp() AS is_due FROM tracked_ids"
            " WHERE id_kind = 'send' AND value = :v"
        )
        return dict(connection.execute(text(query), {"v": value}).mappings().one())


@pytest.mark.parametrize("many", [2, 6, 40])
def test_one_open_number_hides_no_finished_one(runtime: Runtime, many: int) -> None:
    """Each number is polled itself, however many are due, and while one is open nobody asks about the send."""
    engine = runtime.engine
    account_id = add_account(engine, requests=100)
    register(runtime, account_id, many)
    for _ in range(3):
        answer_numbers(runtime, plan(runtime, account_id), {number(0): "WAITING"})
        make_due(runtime)
    found = deliveries(engine, account_id)
    assert sorted(status for _, status in found) == ["delivered"] * (many - 1) + ["enroute"]
    assert not send_row(engine)["is_due"]
    asked = "SELECT count(*) FROM fetches WHERE params ->> 'call' = 'GonderimBilgisi'"
    assert scalar(engine, asked) == 0


@pytest.mark.parametrize(("state", "status", "sent"), [(1, "sent", True), (-1, "rejected", False)])
def test_the_send_is_read_once_when_its_last_number_closes(
    runtime: Runtime, state: int, status: str, sent: bool
) -> None:
    """Its `order` row has credits, title and cause; afterwards nothing is left to ask."""
    engine = runtime.engine
    account_id = add_account(engine)
    register(runtime, account_id, 6)
    answer_numbers(runtime, plan(runtime, account_id), {})
    [gate] = plan(runtime, account_id)
    assert calls(runtime, [gate])[gate] == ("GonderimBilgisi", "187", None)
    Held(runtime, gate).answer(
        send_body(state, created_at="2026-11-27 00:00:00", log={"hata": "SEND_ERROR", "metin": "Ayşe"})
    )
    with engine.connect() as connection:
        query = "SELECT * FROM delivery_status WHERE granularity = 'order'"
        order = connection.execute(text(query)).mappings().one()
    stored = (order["provider_key"], order["status"], order["is_final"], order["total"], order["credits"])
    assert stored == ("187", status, True, 6, 7.0)
    assert order["extra"] == {"sender": "BASLIK"}
    assert order["provider_error"] == (None if sent else "SEND_ERROR")
    assert (order["sent_at"] is not None) == sent
    assert "Ayşe" not in str(scalar(engine, "SELECT string_agg(facts::text || statement::text, ' ') FROM observations"))
    assert send_row(engine)["close_reason"] == "final"
    make_due(runtime)
    make_due(runtime, "send")
    assert plan(runtime, account_id) == []


def test_two_numbers_that_close_at_the_same_moment_make_their_send_due(runtime: Runtime) -> None:
    """Neither transaction sees the other's closing before it commits; the later one looks again, under a lock."""
    engine = runtime.engine
    account_id = add_account(engine)
    register(runtime, account_id, 2)
    answer_numbers(runtime, plan(runtime, account_id), {number(0): "WAITING", number(1): "WAITING"})
    with engine.connect() as connection:
        query = "SELECT id FROM tracked_ids WHERE id_kind = 'number' ORDER BY id"
        first, second = connection.execute(text(query)).scalars()

    def close_second() -> None:
        with engine.begin() as connection:
            assert close_answered(connection, [second], clock.now()) == 1

    later = threading.Thread(target=close_second)
    waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with engine.begin() as connection:
        assert close_answered(connection, [first], clock.now()) == 1
        later.start()
        while later.is_alive() and not scalar(engine, waits):
            later.join(0.02)
    later.join(60)
    assert send_row(engine)["is_due"]


def test_a_send_that_still_runs_is_read_again_right_after_validity_only(runtime: Runtime) -> None:
    """At a running send only the end of validity can change anything; then our word stands until Vairo says its own."""
    engine = runtime.engine
    account_id = add_account(engine)
    register(runtime, account_id, 1)
    answer_numbers(runtime, plan(runtime, account_id), {})
    [gate] = plan(runtime, account_id)
    Held(runtime, gate).answer(send_body(0))
    assert dict(deliveries(engine, account_id))["187"] == "enroute"
    tracked = send_row(engine)
    assert tracked["next_check_at"] == tracked["valid_until"] + timedelta(seconds=1)
    execute(
        engine,
        "UPDATE tracked_ids SET valid_until = now() - interval '1 second', next_check_at = now()"
        " WHERE closed_at IS NULL",
    )
    [again] = plan(runtime, account_id)
    Held(runtime, again).answer(send_body(0))
    assert dict(deliveries(engine, account_id))["187"] == "unreported"
    make_due(runtime, "send")
    [last] = plan(runtime, account_id)
    Held(runtime, last).answer(send_body(1))
    assert dict(deliveries(engine, account_id))["187"] == "sent"
    assert send_row(engine)["close_reason"] == "final"


def test_a_send_whose_own_validity_is_longer_is_not_called_unreported(runtime: Runtime) -> None:
    """A send that was planned for later runs longer than the sender's program said."""
    engine = runtime.engine
    account_id = add_account(engine)
    register(runtime, account_id, 1, valid_until=clock.now() - timedelta(seconds=5))
    answer_numbers(runtime, plan(runtime, account_id), {})
    [gate] = plan(runtime, account_id)
    tomorrow = (clock.now() + timedelta(days=1)).strftime("%Y-%m-%d %H:%M:%S")
    Held(runtime, gate).answer(send_body(0, ileri_tarih=tomorrow, gecerlilik_suresi="24:00:00"))
    assert dict(deliveries(engine, account_id))["187"] == "enroute"
    assert send_row(engine)["closed_at"] is None


def test_a_send_that_vairo_does_not_know_is_given_up_after_validity(runtime: Runtime) -> None:
    """It would be asked for daily otherwise, for nothing; its numbers are polled as before, none counts as found."""
    engine = runtime.engine
    account_id = add_account(engine, requests=100)
    register(runtime, account_id, 7)
    refused = b'{"durum": false, "aciklama": "yok"}'
    for each in plan(runtime, account_id):
        Held(runtime, each).answer(refused)
    execute(engine, "UPDATE tracked_ids SET valid_until = now() - interval '1 second', next_check_at = now()")
    ready = plan(runtime, account_id)
    asked = [call for call, _, _ in calls(runtime, ready).values()]
    assert sorted(asked) == ["GonderimBilgisi"] + ["NumaraRaporu"] * 7
    for each in ready:
        Held(runtime, each).answer(refused)
    # One such answer is not enough.
    assert send_row(engine)["close_reason"] is None
    make_due(runtime, "send")
    [gate] = plan(runtime, account_id)
    Held(runtime, gate).answer(refused)
    assert send_row(engine)["close_reason"] == "forgotten"
    assert scalar(engine, "SELECT count(*) FROM tracked_ids WHERE closed_at IS NULL AND last_found_at IS NULL") == 7
    assert deliveries(engine, account_id) == []


def test_an_answer_about_a_failed_send_finds_none_of_its_numbers(runtime: Runtime) -> None:
    """Only what is said about a number itself counts as an answer about it: the numbers stay open and unanswered."""
    engine = runtime.engine
    account_id = add_account(engine, requests=100)
    register(runtime, account_id, 6)
    for each in plan(runtime, account_id):
        Held(runtime, each).answer(b'{"durum": false, "aciklama": "yok"}')
    make_due(runtime, "send")
    [gate] = [each for each, call in calls(runtime, plan(runtime, account_id)).items() if call[0] == "GonderimBilgisi"]
    Held(runtime, gate).answer(send_body(-1))
    assert deliveries(engine, account_id) == [("187", "rejected")]
    unanswered = (
        "SELECT count(*) FROM tracked_ids WHERE id_kind = 'number' AND closed_at IS NULL AND last_found_at IS NULL"
    )
    assert scalar(engine, unanswered) == 6


def test_a_poll_on_demand_asks_about_numbers_and_not_about_a_running_send(runtime: Runtime) -> None:
    """The same at once as on schedule: six calls for six open numbers."""
    engine = runtime.engine
    account_id = add_account(engine, requests=100)
    register(runtime, account_id, 6)
    answer_numbers(runtime, plan(runtime, account_id), {number(place): "WAITING" for place in range(6)})
    with engine.begin() as connection:
        poll_id, _ = opening.open_poll(connection, opening.NewPoll(account_id=account_id, trigger="api"))
    assert poll_id is not None
    plan_poll(runtime, account_id, poll_id)
    found = calls(runtime, fetches_of(engine, account_id, "ready"))
    assert sorted(call for call, _, _ in found.values()) == ["NumaraRaporu"] * 6


def test_a_waiting_send_does_not_make_an_account_look_late(runtime: Runtime) -> None:
    """It waits for the end of validity, not for the provider: the oldest unanswered id is a number, or none."""
    engine = runtime.engine
    account_id = add_account(engine)
    register(runtime, account_id, 1)
    answer_numbers(runtime, plan(runtime, account_id), {})
    [gate] = plan(runtime, account_id)
    Held(runtime, gate).answer(send_body(0))
    with engine.connect() as connection:
        [found] = overview(connection, account_id)
    assert (found.open_tracked, found.oldest_unanswered) == (1, None)


def test_a_big_send_starves_no_other(runtime: Runtime) -> None:
    """At 20 calls a minute: forty numbers that never end and a later send of one number, which has its turn."""
    engine = runtime.engine
    account_id = add_account(engine, requests=20, per_seconds=60, concurrency=2)
    register(runtime, account_id, 40)
    register(runtime, account_id, 1, "188")
    asked: list[str] = []
    while "188" not in asked:
        execute(engine, "DELETE FROM calls WHERE answered_at IS NOT NULL")
        ready = plan(runtime, account_id)
        asked += [send for _, send, _ in calls(runtime, ready).values()]
        answer_numbers(runtime, ready, {number(place): "WAITING" for place in range(40)})
        assert len(asked) <= 41 + 4
