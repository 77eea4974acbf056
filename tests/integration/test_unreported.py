"""`unreported`, the one status that is ours: who gets it, who does not, and who overrules it."""

from datetime import timedelta

import pytest
from driving import make_runtime
from ledger_acts import Held, add_account, deliveries, execute, held_fetch, plan, vairo_body
from sqlalchemy import Engine

from ulak.core import clock
from ulak.models.deliveries import upsert
from ulak.models.report import DeliveryReport
from ulak.models.vocabulary import Granularity, Source, Status
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.upkeep import expire

HOURS = 2.0


@pytest.fixture
def runtime(shared_database: Engine) -> Runtime:
    """A runtime whose credentials are always found."""
    return make_runtime(shared_database, resolve=lambda _: "secret")


def push(runtime: Runtime, account_id: str, key: str, status: Status, *, hours_ago: float) -> None:
    """A notice of a message that was sent so long ago."""
    moment = clock.now() - timedelta(hours=hours_ago)
    report = DeliveryReport(
        granularity=Granularity.MESSAGE,
        provider_key=key,
        status=status,
        provider_status=status.value,
        source=Source.CALLBACK,
        as_of=moment,
        sent_at=moment,
    )
    with runtime.engine.begin() as connection:
        upsert(connection, account_id, "bip", [report], asked_at=None)


def test_a_pushed_message_without_a_final_notice_becomes_unreported_after_its_validity(runtime: Runtime) -> None:
    """Young ones wait, finals and unknown words are left alone, twice is once, and a late notice wins."""
    account_id = add_account(runtime.engine, provider="bip", options={"validity_hours": HOURS})
    push(runtime, account_id, "final", Status.DELIVERED, hours_ago=3)
    push(runtime, account_id, "lost", Status.ENROUTE, hours_ago=3)
    push(runtime, account_id, "strange", Status.UNKNOWN, hours_ago=3)
    push(runtime, account_id, "young", Status.ENROUTE, hours_ago=1)
    expire(runtime)
    found = [("final", "delivered"), ("lost", "unreported"), ("strange", "unknown"), ("young", "enroute")]
    assert deliveries(runtime.engine, account_id) == found
    expire(runtime)
    push(runtime, account_id, "lost", Status.READ, hours_ago=0)
    assert deliveries(runtime.engine, account_id) == [found[0], ("lost", "read"), *found[2:]]


def test_an_account_that_is_asked_gets_ours_from_the_asking_alone(runtime: Runtime) -> None:
    """The provider is asked once more after validity has ended, so time alone says nothing."""
    account_id = add_account(runtime.engine, options={"validity_hours": HOURS})
    push(runtime, account_id, "lost", Status.ENROUTE, hours_ago=3)
    expire(runtime)
    assert deliveries(runtime.engine, account_id) == [("lost", "enroute")]


def test_an_unknown_word_never_becomes_unreported(runtime: Runtime) -> None:
    """Validity has ended, but the provider did say something: we only do not know what."""
    account_id, tracked_id, held = held_fetch(runtime)
    held.answer(vairo_body("s1:+905321234567", "NO_SUCH_WORD"))
    ended = "UPDATE tracked_ids SET valid_until = now() - interval '1 hour', next_check_at = now() WHERE id = :id"
    execute(runtime.engine, ended, id=tracked_id)
    [fetch_id] = plan(runtime, account_id)
    Held(runtime, fetch_id).answer(vairo_body("s1:+905321234567", "NO_SUCH_WORD"))
    assert deliveries(runtime.engine, account_id) == [("1", "unknown")]
