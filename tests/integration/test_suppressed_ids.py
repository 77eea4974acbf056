"""Ids and references of erased people: what stays of them, and what may be registered again."""

import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from database_fixtures import add_account
from driving import make_runtime
from erased_people import (
    BEFORE,
    KEY,
    LATER,
    MINE,
    NOW,
    OTHER,
    Process,
    erase_now,
    is_waiting,
    process,
    said,
    wait_until,
)
from sqlalchemy import Engine, text

from ulak.models.database import transaction
from ulak.models.deliveries import UpsertResult
from ulak.models.ledger.ending import discover
from ulak.models.references import upsert_shared
from ulak.models.report import NewId
from ulak.models.suppression import suppress
from ulak.models.tracked import register
from ulak.models.vocabulary import Granularity, Source
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.previewing import coming_checks
from ulak.tasks.steps.tracking import track

__all__ = ["process"]


def test_an_id_that_does_not_contain_the_number_keeps_only_its_times(process: Process) -> None:
    """It is closed, and registering it again fills nothing in; an id with the number goes."""
    row = NewId(
        id_kind="transaction", value="t-1", client_ref="order-7", recipient=MINE,
        sent_at=BEFORE, valid_until=LATER, next_check_at=LATER,
    )  # fmt: skip
    rows = [row, replace(row, id_kind="number", value=f"77:{MINE}")]
    with transaction(process.engine) as connection:
        assert register(connection, process.account, rows) == 2
    assert erase_now(process.engine).tracked_ids == 2
    with transaction(process.engine) as connection:
        assert register(connection, process.account, rows[:1]) == 0
        query = text("SELECT value, recipient, client_ref, close_reason, next_check_at, sent_at FROM tracked_ids")
        kept = [tuple(each) for each in connection.execute(query)]
    assert kept == [("t-1", None, None, "erased", None, BEFORE)]


def close_as_reference(engine: Engine, account: str, value: str) -> None:
    """As `ulak track message=… --ref …` leaves it, registered later than everything else."""
    with transaction(engine) as connection:
        connection.execute(
            text(
                "INSERT INTO tracked_ids (account_id, id_kind, value, client_ref, origin, sent_at, valid_until,"
                " closed_at, close_reason)"
                " VALUES (:account, 'message', :value, 'inv', 'sender', :at, :at, :at, 'reference')"
            ),
            {"account": account, "value": value, "at": LATER},
        )


def test_a_reference_registered_after_the_erasure_does_not_bring_the_message_back(process: Process) -> None:
    """Its time is that of the registration; the event that the report states was before the erasure."""
    erase_now(process.engine)
    close_as_reference(process.engine, process.account, "a")
    kinds = {"message": Granularity.MESSAGE}
    for report in (said("a", done_at=BEFORE), said("a", source=Source.CALLBACK, as_of=BEFORE)):
        with transaction(process.engine) as connection:
            result = upsert_shared(
                connection, process.account, "vairo", [report], kinds, asked_at=NOW, suppressions=process.suppressions
            )
        assert result == UpsertResult(unchanged=1)
    assert process.stored() == []


def test_references_are_filled_in_beside_reports_that_are_discarded(process: Process) -> None:
    """The reports that the list lets through get theirs, also in a process that did not know of the erasure."""
    close_as_reference(process.engine, process.account, "b")
    erase_now(process.engine)
    batch = [said("a", sent_at=BEFORE), said("b", sent_at=LATER), said("c", OTHER, sent_at=BEFORE)]
    with transaction(process.engine) as connection:
        result = upsert_shared(
            connection,
            process.account,
            "vairo",
            batch,
            {"message": Granularity.MESSAGE},
            asked_at=NOW,
            suppressions=process.suppressions,
        )
        query = text("SELECT provider_key, client_ref FROM delivery_status ORDER BY 1")
        assert [tuple(row) for row in connection.execute(query)] == [("b", "inv"), ("c", None)]
    assert (result.new, result.unchanged) == (2, 1)


@pytest.fixture
def runtime(process: Process) -> Runtime:
    """What `ulak track` runs with."""
    made = make_runtime(process.engine, resolve=lambda _: "secret")
    made.suppressions.key = lambda: KEY
    return made


def ids_of(engine: Engine) -> list[str]:
    """All registered ids."""
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT value FROM tracked_ids ORDER BY 1")).scalars())


def test_a_reference_by_a_key_that_holds_the_number_is_not_registered_for_what_was_sent_before(
    process: Process, runtime: Runtime
) -> None:
    """By the time that the sender states, or the day of the conversation; later ones are."""
    with transaction(process.engine) as connection:
        bot = add_account(connection, "bot", provider="diyalog")
    erase_now(process.engine)
    today, later = f"{NOW:%Y-%m-%d}", f"{NOW + timedelta(days=2):%Y-%m-%d}"
    number = MINE.removeprefix("+")
    keys = [f"45186:{number}:0:{today}", f"45186:{number}:0:{later}", f"45186:{OTHER[1:]}:0:{today}"]
    assert track(runtime, bot, [{"kind": "conversation", "value": key, "client_ref": "x"} for key in keys]) == 2
    old = {"kind": "message", "value": f"o-1:{MINE}:1", "client_ref": "x", "sent_at": BEFORE}
    assert track(runtime, process.account, [old, old | {"value": f"o-1:{OTHER}:1"}]) == 1
    assert ids_of(process.engine) == sorted([*keys[1:], f"o-1:{OTHER}:1"])


def test_a_registration_that_begins_while_somebody_comes_on_the_list_knows_of_it(
    process: Process, runtime: Runtime
) -> None:
    """It waits for that commit; one that was there first is waited for, so that the erasure finds its id."""
    old = {"kind": "message", "value": f"o-1:{MINE}:1", "client_ref": "x", "sent_at": BEFORE}
    with transaction(process.engine) as connection:
        suppress(connection, KEY, [MINE])
        registering = threading.Thread(target=lambda: track(runtime, process.account, [old]))
        registering.start()
        wait_until(lambda: is_waiting(process.engine))
    registering.join(60)
    assert ids_of(process.engine) == []


def test_an_id_closed_as_erased_is_not_opened_again_by_a_list(process: Process) -> None:
    """Its order changed, which names nobody; opened, it could be registered with the person again."""
    row = NewId(
        id_kind="transaction", value="t-1", recipient=MINE, sent_at=BEFORE, valid_until=LATER, next_check_at=LATER
    )
    with transaction(process.engine) as connection:
        register(connection, process.account, [row])
    erase_now(process.engine)
    with transaction(process.engine) as connection:
        again = {"id_kind": "transaction", "value": "t-1", "expected": 2}
        discover(connection, process.account, NOW, [], [again])
        [kept] = connection.execute(text("SELECT close_reason, expected FROM tracked_ids")).all()
        assert coming_checks(connection, MINE, recipients=[MINE]) == coming_checks(connection, "t-1") == []
    assert tuple(kept) == ("erased", None)
