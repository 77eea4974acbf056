"""Retention: announced a day before, removed in small batches, never stored again, shown by the feed as one range."""

import threading
from datetime import date, timedelta
from typing import Any

import pytest
from counting import miscounted
from feed_copy import Reader, table
from retaining import KEEP_DAYS, NOW, OLD, YOUNG, World, order, said
from sqlalchemy import Engine, text

from ulak.models.database import transaction
from ulak.models.deliveries import UpsertResult
from ulak.models.overview import overview
from ulak.models.rebuild import rebuild
from ulak.models.report import DeliveryReport, TrackedKey
from ulak.models.retention import Batch, remove_some
from ulak.models.statistics import count_days, stored
from ulak.models.vocabulary import Granularity, Source, Status


@pytest.fixture
def world(migrated_database: Engine) -> World:
    """An account that keeps its deliveries for 30 days."""
    return World(migrated_database)


def test_the_first_removal_is_announced_and_begins_a_day_later(world: World) -> None:
    """Old deliveries go with their history, figures of their days stay, and people are notified before."""
    world.store(order("o-old", OLD), said("m-old", parent_key="o-old"), said("a-old", sent_at=OLD))
    world.store(said("young", sent_at=YOUNG), order("o-young", YOUNG))
    before = len(world.stored())
    assert world.upkeep() == ["retention.announced"]
    assert world.upkeep() == []
    assert len(world.stored()) == before
    with world.engine.connect() as connection:
        [account] = overview(connection)
        counted = count_days(connection, OLD.date() - timedelta(days=1), NOW.date() + timedelta(days=1))
    assert account.removal is not None
    assert (account.keep_days, account.kept_from, account.removal.deliveries) == (KEEP_DAYS, None, 3)
    assert [action for action, _ in world.events()] == ["retention.announced"]

    world.a_day_later()
    assert world.upkeep() == ["retention.started", "retention.removed"]
    assert world.stored() == ["o-young", "young"]
    assert world.rows("SELECT count(DISTINCT delivery_id) FROM observations") == [(2,)]
    with transaction(world.engine) as connection:
        assert miscounted(connection) == {}
        assert count_days(connection, OLD.date() - timedelta(days=1), NOW.date() + timedelta(days=1)) == counted
        assert sum(each.rows for each in stored(connection)) == 2
        [account] = overview(connection)
    assert account.removal is None
    assert account.kept_from is not None
    action, details = world.events()[-1]
    assert (action, details["deliveries"]) == ("deliveries.removed", 3)
    assert world.upkeep() == []


def test_without_keep_days_nothing_is_ever_removed_or_refused(migrated_database: Engine) -> None:
    """As in every version before; unset again, it cancels what was announced and refuses nothing more."""
    world = World(migrated_database, keep_days=None)
    assert world.store(said("a", sent_at=OLD)).new == 1
    assert world.upkeep() == []
    world.configure(KEEP_DAYS)
    assert world.upkeep() == ["retention.announced"]
    world.configure(None)
    assert world.upkeep() == ["retention.cancelled"]
    world.a_day_later()
    assert world.upkeep() == []
    assert world.stored() == ["a"]
    world.configure(KEEP_DAYS)
    world.begin()
    assert world.stored() == []
    world.configure(None)
    world.upkeep()
    assert world.store(said("a", sent_at=OLD)).new == 1


def _register(world: World, kind: str, value: str, at: Any = OLD) -> None:
    world.execute(
        "INSERT INTO tracked_ids (account_id, id_kind, value, origin, sent_at, valid_until, next_check_at)"
        " VALUES (:account, :kind, :value, 'sender', :at, :at, :at)",
        kind=kind,
        value=value,
        at=at,
    )


@pytest.mark.parametrize(
    "report",
    [
        said("a", sent_at=OLD),
        said("a", done_at=OLD),
        said("a", source=Source.CALLBACK, as_of=OLD),
        said("a", parent_key="o-1", tracked=TrackedKey(id_kind="order", value="o-1")),
        said("a", parent_key="o-1", source=Source.CALLBACK),
        said("registered", source=Source.CALLBACK),
        order("o-1", OLD),
        said(
            f"1:2:0:{OLD.date()}",
            granularity=Granularity.CONVERSATION,
            recipient=None,
            status=Status.SENT,
            total=1,
            day=date(OLD.year, OLD.month, OLD.day),
            as_of=NOW,
        ),
    ],
    ids=["own", "done", "event", "id", "pushed-order", "pushed-id", "order", "conversation"],
)
def test_a_late_report_about_what_was_removed_is_counted_and_not_stored(world: World, report: DeliveryReport) -> None:
    """By its own time, else by what else says when its subject was sent; what is younger is stored beside it."""
    _register(world, "order", "o-1")
    _register(world, "message", "registered")
    world.store(order("o-1", OLD), said("a", parent_key="o-1"))
    world.begin()
    assert world.stored() == []
    young = said("young", sent_at=YOUNG)
    assert world.store(report, young) == UpsertResult(
        new=1, unchanged=1, changed=frozenset({(Granularity.MESSAGE, "young")})
    )
    assert world.store(report, young) == UpsertResult(unchanged=2)
    assert world.stored() == ["young"]


def test_an_old_order_that_still_stands_dates_its_late_messages(world: World) -> None:
    """Between the moment at which it became too old and its removal."""
    world.store(order("o-1", OLD))
    world.upkeep()
    world.execute(
        "UPDATE accounts SET kept_from = :at, keep_days_in_force = keep_days WHERE id = :account",
        at=NOW - timedelta(days=KEEP_DAYS),
    )
    assert world.store(said("late", parent_key="o-1")) == UpsertResult(unchanged=1)
    assert world.stored() == ["o-1"]


def test_a_young_delivery_of_which_one_report_is_old_keeps_the_others(world: World) -> None:
    """Each report is judged separately."""
    world.begin()
    both = [said("a", sent_at=OLD, provider_status="2"), said("a", sent_at=YOUNG)]
    assert world.store(*both).new == 1
    assert world.rows("SELECT count(*) FROM observations") == [(1,)]
    assert world.rows("SELECT sent_at FROM delivery_status") == [(YOUNG,)]


def test_the_feed_tells_a_removal_as_one_range(world: World) -> None:
    """A reader that knows the rows removes them; one that begins later receives the range, too, without harm."""
    world.store(*(said(f"old-{n:03}", sent_at=OLD) for n in range(400)), said("young", sent_at=YOUNG))
    early = Reader(world.engine).read_all()
    assert len(early.rows) == 401
    world.begin()
    before = len(early.places)
    early.read_all()
    late = Reader(world.engine, limit=1).read_all()
    assert early.rows == late.rows == table(world.engine)
    assert len(early.places) - before == 1
    assert world.rows("SELECT count(*) FROM delivery_erasures") == [(0,)]


def test_a_copy_that_was_fed_another_time_of_the_row_loses_it_too(world: World) -> None:
    """A message was fed as young, then its order's time came, and it was removed before the reader looked again."""
    world.store(said("m", parent_key="o-1", status=Status.ENROUTE))
    reader = Reader(world.engine).read_all()
    assert len(reader.rows) == 1
    world.store(order("o-1", OLD))
    world.begin()
    assert reader.read_all().rows == table(world.engine) == {}


def test_a_copy_never_loses_a_row_that_still_stands(world: World) -> None:
    """A range reaches as far as everything before it is gone: half a removal, or one that left a row that was held."""
    world.store(*(said(f"old-{n}", sent_at=OLD + timedelta(hours=n)) for n in range(6)))
    reader = Reader(world.engine).read_all()
    before = NOW - timedelta(days=KEEP_DAYS)
    with transaction(world.engine) as connection:
        remove_some(connection, world.account, before, 2)
    assert table(world.engine).items() <= reader.read_all().rows.items()
    with transaction(world.engine) as holder:
        holder.execute(text("SELECT FROM delivery_status WHERE provider_key = 'old-3' FOR NO KEY UPDATE"))
        with transaction(world.engine) as connection:
            batch = remove_some(connection, world.account, before, 100)
    assert batch == Batch(removed=3, before=OLD + timedelta(hours=3), is_last=True)
    assert world.stored() == ["old-3"]
    assert table(world.engine).items() <= reader.read_all().rows.items()
    with transaction(world.engine) as connection:
        remove_some(connection, world.account, before, 100)
    assert reader.read_all().rows == table(world.engine) == {}


def test_what_a_store_under_way_brought_in_is_removed_the_next_minute(world: World) -> None:
    """It judged before the removal began, or is of a version that knows of none; the feed reports it again."""
    world.begin()
    world.execute("UPDATE accounts SET kept_from = NULL WHERE id = :account")
    world.store(said("late", sent_at=OLD))
    reader = Reader(world.engine).read_all()
    assert world.upkeep() == ["retention.removed"]
    assert world.stored() == []
    assert reader.read_all().rows == {}


def test_a_removal_waits_for_nobody_and_leaves_what_somebody_holds(world: World) -> None:
    """Neither for rows nor for the account's row, which the limiter holds; the next run removes what is left."""
    world.store(*(said(f"old-{n}", sent_at=OLD) for n in range(5)), said("x", sent_at=YOUNG))
    before = NOW - timedelta(days=KEEP_DAYS)
    with transaction(world.engine) as connection:
        connection.execute(text("SELECT FROM delivery_status WHERE provider_key = 'old-2' FOR NO KEY UPDATE"))
        connection.execute(text("SELECT FROM accounts FOR UPDATE"))
        removed: list[int] = []

        def remove() -> None:
            with transaction(world.engine) as other:
                other.execute(text("SET LOCAL lock_timeout = '10s'"))
                removed.append(remove_some(other, world.account, before, 100).removed)

        thread = threading.Thread(target=remove)
        thread.start()
        thread.join(60)
    assert removed == [4]
    assert world.stored() == ["old-2", "x"]
    world.begin()
    assert world.stored() == ["x"]


def test_a_removal_takes_few_rows_at_a_time_and_of_all_accounts_in_turns(world: World) -> None:
    """Each batch is a transaction; a batch continues after the one before."""
    other = World(world.engine, "other")
    for each in (world, other):
        each.store(*(said(f"old-{n:02}", sent_at=OLD + timedelta(seconds=n)) for n in range(10)))
    before = NOW - timedelta(days=KEEP_DAYS)
    with transaction(world.engine) as connection:
        first = remove_some(connection, world.account, before, 4)
    assert first == Batch(removed=4, before=OLD + timedelta(seconds=3), is_last=False)
    assert world.stored() == [f"old-{n:02}" for n in range(4, 10)]
    with transaction(world.engine) as connection:
        rest = remove_some(connection, world.account, before, 100, since=first.before)
        assert rest == Batch(removed=6, before=before, is_last=True)
    assert len(other.stored()) == 10


def test_an_account_that_fails_keeps_no_other_from_its_turn(world: World) -> None:
    """As every step of upkeep."""
    other = World(world.engine, "other")
    for each in (world, other):
        each.store(said("old", sent_at=OLD))
    world.upkeep()
    for each in (world, other):
        each.a_day_later()
    world.execute("ALTER TABLE delivery_removals ADD CHECK (account_id <> 'brand')")
    other.upkeep()
    assert (world.stored(), other.stored()) == (["old"], [])


def test_a_rebuild_after_a_removal_finds_nothing_to_correct(world: World) -> None:
    """Neither rows nor counts; messages keep the time that they had from an order that is gone."""
    world.store(order("o-1", OLD), said("a", sent_at=OLD), said("b", sent_at=YOUNG))
    world.begin()
    with transaction(world.engine) as connection:
        found = rebuild(connection)
    assert (found.differed, found.miscounted) == (0, 0)


def test_accounts_without_keep_days_lose_nothing_beside_one_with_it(world: World) -> None:
    """The range names the account."""
    forever = World(world.engine, "keeper", keep_days=None)
    forever.store(said("old", sent_at=OLD))
    world.store(said("old", sent_at=OLD))
    reader = Reader(world.engine).read_all()
    world.begin()
    assert (world.stored(), forever.stored()) == ([], ["old"])
    assert reader.read_all().rows == table(world.engine)


def test_a_copy_loses_what_a_cancelled_removal_has_taken(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run ends between two moments, so that its range covers every row that is gone, though nothing goes on."""
    world.store(
        *(said(f"old-{n:03}", sent_at=OLD) for n in range(400)), said("later", sent_at=OLD + timedelta(hours=1))
    )
    reader = Reader(world.engine).read_all()
    monkeypatch.setattr("ulak.tasks.steps.retention.RUN_SECONDS", 0.0)
    world.begin()
    world.configure(None)
    assert world.upkeep() == ["retention.cancelled"]
    assert world.stored() == ["later"]
    assert reader.read_all().rows == table(world.engine)


def test_a_copy_loses_what_is_younger_than_a_row_that_was_held(world: World) -> None:
    """The range ends before the held row; what is gone behind it is announced by id: the removal may be cancelled."""
    world.store(*(said(f"old-{n}", sent_at=OLD + timedelta(hours=n // 2)) for n in range(6)))
    reader = Reader(world.engine).read_all()
    with transaction(world.engine) as holder:
        holder.execute(text("SELECT FROM delivery_status WHERE provider_key = 'old-3' FOR NO KEY UPDATE"))
        with transaction(world.engine) as connection:
            remove_some(connection, world.account, NOW - timedelta(days=KEEP_DAYS), 100)
    assert world.stored() == ["old-3"]
    assert reader.read_all().rows == table(world.engine)


def test_a_range_that_replaces_a_later_one_is_told_again(world: World) -> None:
    """It reaches further, but a reader may have passed its place before the later one came."""
    for act in range(2):
        world.store(said(f"old-{act}", sent_at=OLD))
        reader = Reader(world.engine).read_all()
        with transaction(world.engine) as connection:
            remove_some(connection, world.account, (NOW, YOUNG)[act], 100)
    with transaction(world.engine) as connection:
        remove_some(connection, world.account, NOW, 100)
    assert reader.read_all().rows == table(world.engine) == {}
