"""Erased people stay erased: whatever way their old messages are reported again, and whoever stores at that moment."""

import threading
import time
from datetime import date

import pytest
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
    order,
    process,
    said,
    wait_until,
)
from sqlalchemy import event, text

from ulak.models.changes import read_changes
from ulak.models.database import transaction
from ulak.models.deliveries import UpsertResult
from ulak.models.erasure import Erased, erase_person
from ulak.models.rebuild import reread_chunk
from ulak.models.report import DeliveryReport, KeptStatement, TrackedKey
from ulak.models.suppression import OtherPersonKeyError, Suppressions, suppress
from ulak.models.vocabulary import Granularity, Source, Status

__all__ = ["process"]


def test_what_was_sent_before_is_not_stored_again_and_what_is_sent_later_is(process: Process) -> None:
    """In a process that knew of nobody; it counts as received, and others' messages are stored beside it."""
    old = said("a", sent_at=BEFORE)
    assert process.store(old, said("b", OTHER, sent_at=BEFORE)).new == 2
    assert erase_now(process.engine).deliveries == 1
    other = Process(process.engine, process.account)
    for each in (process, other):
        assert each.store(old, said("c", OTHER), said("d", MINE, sent_at=BEFORE)).unchanged >= 2
        assert each.store(old) == UpsertResult(unchanged=1)
    assert process.stored() == ["b", "c"]
    assert process.store(said("e", sent_at=LATER)).new == 1
    assert process.stored() == ["b", "c", "e"]


@pytest.mark.parametrize(
    "report",
    [
        said("a", parent_key="o-1"),
        said(f"o-1:{MINE}:1", None, parent_key="o-1"),
        said("a", tracked=TrackedKey(id_kind="transaction", value="t-1")),
        said("a", parent_key="t-1", source=Source.CALLBACK),
        said("a", source=Source.CALLBACK, as_of=BEFORE),
        said("a", done_at=BEFORE),
        said("a", recipient="05301234567", sent_at=BEFORE),
        said(
            f"45186:905301234567:0:{NOW.date()}",
            None,
            granularity=Granularity.CONVERSATION,
            day=date(NOW.year, NOW.month, NOW.day),
            as_of=LATER,
        ),
    ],
    ids=["order", "key", "id", "pushed", "event", "done", "spelling", "conversation"],
)
def test_a_report_without_a_time_of_its_own_is_judged_by_the_next_best(
    process: Process, report: DeliveryReport
) -> None:
    """Its order's time, its registered id's, its event's, its day's; whatever spelling or part of the key names it."""
    with transaction(process.engine) as connection:
        connection.execute(
            text(
                "INSERT INTO tracked_ids (account_id, id_kind, value, recipient, origin, sent_at, valid_until,"
                " next_check_at) VALUES (:account, 'transaction', 't-1', :mine, 'sender', :at, :at, :at)"
            ),
            {"account": process.account, "mine": MINE, "at": BEFORE},
        )
    process.store(order("o-1", BEFORE), order("o-2", LATER))
    erase_now(process.engine)
    assert process.store(report) == UpsertResult(unchanged=1)
    assert process.store(said("later", parent_key="o-2")).new == 1
    assert process.stored() == ["later", "o-1", "o-2"]


def test_a_message_goes_when_its_order_turns_out_to_be_old(process: Process) -> None:
    """It was stored while nobody knew when it was sent; the feed says that it is gone. Its order stays, with counts."""
    erase_now(process.engine)
    process.store(said("a", parent_key="o-1"), said("b", OTHER, parent_key="o-1"))
    assert process.stored() == ["a", "b"]
    process.store(order("o-1", BEFORE))
    assert process.stored() == ["b", "o-1"]
    with process.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM delivery_erasures")).scalar_one() == 1
        [total] = connection.execute(text("SELECT delivered FROM delivery_status WHERE total = 2")).scalars()
    assert total == 2


def test_our_own_words_about_a_message_go_with_it(process: Process) -> None:
    """That its validity has ended names nobody, but its key may."""
    erase_now(process.engine)
    ours = said("a", None, status=Status.UNREPORTED, source=Source.OURS, as_of=LATER)
    process.store(said("a", parent_key="o-1", status=Status.ENROUTE), ours)
    process.store(order("o-1", BEFORE))
    assert process.stored() == ["o-1"]


def test_a_statement_goes_also_where_the_row_names_somebody_else(process: Process) -> None:
    """Of two recipients the row has that of the greater statement; the other one is in the history alone."""
    erase_now(process.engine)
    process.store(said("a", OTHER), said("a", status=Status.ENROUTE, parent_key="o-1"))
    process.store(order("o-1", BEFORE))
    with process.engine.connect() as connection:
        query = text("SELECT recipient, parent_key FROM delivery_status WHERE granularity = 'message'")
        assert [tuple(row) for row in connection.execute(query)] == [(OTHER, None)]
        history = text("SELECT count(*) FROM observations WHERE facts::text LIKE '%' || :mine || '%'")
        assert connection.execute(history, {"mine": MINE}).scalar_one() == 0


def test_a_known_message_does_not_learn_an_erased_recipient(process: Process) -> None:
    """A row that names nobody exists; the process that now hears whom it is about does not know of the erasure yet."""
    process.store(said("a", None, status=Status.ENROUTE))
    erase_now(process.engine)
    assert process.store(said("a", sent_at=BEFORE)) == UpsertResult(unchanged=1)
    with process.engine.connect() as connection:
        assert list(connection.execute(text("SELECT recipient FROM delivery_status")).scalars()) == [None]
        assert connection.execute(text("SELECT count(*) FROM observations")).scalar_one() == 1


def test_a_store_under_way_is_waited_for_and_its_rows_are_erased(process: Process) -> None:
    """Its transaction has judged and written before the person came on the list, and commits afterwards."""
    gone: list[Erased] = []
    with transaction(process.engine) as connection:
        process.write(connection, said("a", sent_at=BEFORE), said("b", OTHER))
        eraser = threading.Thread(target=lambda: gone.append(erase_now(process.engine)))
        eraser.start()
        wait_until(lambda: is_waiting(process.engine))
    eraser.join(60)
    assert [each.deliveries for each in gone] == [1]
    assert process.stored() == ["b"]


def test_a_store_that_begins_while_somebody_comes_on_the_list_knows_of_it(process: Process) -> None:
    """It waits for that commit before it writes, and judges again."""
    done: list[UpsertResult] = []
    with transaction(process.engine) as connection:
        suppress(connection, KEY, [MINE])
        storing = threading.Thread(target=lambda: done.append(process.store(said("a", sent_at=BEFORE))))
        storing.start()
        wait_until(lambda: is_waiting(process.engine))
    storing.join(60)
    assert (done, process.stored()) == ([UpsertResult(unchanged=1)], [])


def test_many_stores_beside_an_erasure_leave_nothing(process: Process) -> None:
    """Eight threads name the person all the time, while two people are erased."""
    stopping = threading.Event()
    failures: list[BaseException] = []

    def go_on(number: int) -> None:
        mine = Process(process.engine, process.account)
        try:
            for turn in range(10**6):
                if stopping.is_set():
                    return
                batch = [
                    said(f"{who}-{(number + turn + n) % 40}", who, sent_at=BEFORE)
                    for n in range(6)
                    for who in (MINE, OTHER, "+905308888888")
                ]
                mine.store(*batch)
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)

    threads = [threading.Thread(target=go_on, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    try:
        for person in (MINE, OTHER):
            wait_until(lambda person=person: any(person in key for key in process.stored()) or bool(failures))  # type: ignore[misc]
            erase_now(process.engine, person)
            assert [key for key in process.stored() if person in key] == []
        time.sleep(0.5)
    finally:
        stopping.set()
        for thread in threads:
            thread.join(60)
    assert failures == []
    assert {key.partition("-")[0] for key in process.stored()} == {"+905308888888"}


def test_nothing_is_stored_where_erased_people_would_not_be_recognised(process: Process) -> None:
    """A process with another key, or without one, fails; nobody comes on the list by another key either."""
    erase_now(process.engine)
    for stranger in (Process(process.engine, process.account, b"another"), Process(process.engine, process.account)):
        if stranger.suppressions.key() == KEY:
            stranger.suppressions = Suppressions()
        with pytest.raises(OtherPersonKeyError):
            stranger.store(said("a", OTHER))
    with pytest.raises(OtherPersonKeyError):
        erase_person(process.engine, b"another", OTHER, lambda _connection, _gone: None)
    assert process.stored() == []


def test_an_empty_list_costs_no_statement(process: Process) -> None:
    """New rows take two statements, rows that advance three more, as before there was a list."""
    statements: list[str] = []
    event.listen(
        process.engine, "before_cursor_execute", lambda _c, _cursor, statement, *_: statements.append(statement)
    )
    process.store(said("a", sent_at=BEFORE))
    assert len(statements) == 2
    process.store(said("a", sent_at=BEFORE, status=Status.READ))
    assert len(statements) == 2 + 4
    process.store(said("a", sent_at=BEFORE, status=Status.READ))
    assert len(statements) == 2 + 4 + 1


def test_reading_statements_again_does_not_bring_an_erased_person_back(process: Process) -> None:
    """An adapter that reads today whom a stored statement names: what was sent before goes, the rest is completed."""
    process.store(
        said("a", None, sent_at=BEFORE, statement={"to": MINE}), said("b", None, sent_at=LATER, statement={"to": MINE})
    )
    erase_now(process.engine)

    def restate(kept: KeptStatement) -> DeliveryReport:
        at = BEFORE if kept.provider_key == "a" else LATER
        return said(kept.provider_key, kept.statement["to"], sent_at=at)

    with transaction(process.engine) as connection:
        reread_chunk(connection, process.account, restate, process.suppressions)
    assert process.stored() == ["b"]
    with process.engine.connect() as connection:
        assert list(connection.execute(text("SELECT recipient FROM delivery_status")).scalars()) == [MINE]


def test_the_feed_of_changes_has_nothing_more_to_say_of_the_person(process: Process) -> None:
    """It tells once that the row is gone, and reports that are discarded are no changes."""
    process.store(said("a", sent_at=BEFORE))
    erase_now(process.engine)
    for _ in range(3):
        process.store(said("a", sent_at=BEFORE))

    def told() -> list[bool]:
        with process.engine.connect() as connection:
            return [change.delivery is None for change in read_changes(connection, None)[0]]

    wait_until(lambda: told() == [True])
