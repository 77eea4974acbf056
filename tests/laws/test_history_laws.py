"""Laws of the lighter history: it says the same with facts left out as with facts stored, whoever wrote what."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from database_fixtures import add_account
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from previous_history import migrate_previous, previous_histories, previous_upsert
from report_strategies import NOON, batches_of_restatements
from sqlalchemy import Connection, Engine, text
from stored_rows import stored_rows

from ulak.models.database import make_engine, transaction
from ulak.models.deliveries import Key, load_histories, upsert
from ulak.models.history import holds
from ulak.models.lookups import explain
from ulak.models.merge import Observation, fold, merge_history, observe
from ulak.models.rebuild import RebuildResult, rebuild
from ulak.models.report import DeliveryReport
from ulak.models.schema import migrate
from ulak.models.vocabulary import Granularity

_keys = st.sampled_from(["a", "b", "c"])
_batches = batches_of_restatements(_keys)
_on_real_postgresql = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
Batches = list[tuple[list[DeliveryReport], datetime]]
Said = dict[Key, dict[bytes, Observation]]


@pytest.fixture(scope="session")
def upgraded_database(make_database: Callable[..., str]) -> Iterator[Engine]:
    """An Engine on a database that the previous version made and this one migrated: both versions may run on it."""
    engine = make_engine(make_database(), pool_size=4, prepares=True)
    migrate_previous(engine)
    migrate(engine)
    yield engine
    engine.dispose()


def said(batches: Batches) -> Said:
    """All that these batches say, by delivery."""
    seen: dict[Key, list[Observation]] = {}
    for batch, asked_at in batches:
        for report in batch:
            seen.setdefault((report.granularity, report.provider_key), []).append(observe(report, asked_at=asked_at))
    return {key: merge_history(made) for key, made in seen.items()}


def places(connection: Connection, account: str) -> dict[Key, int]:
    """The account's deliveries."""
    query = text("SELECT granularity, provider_key, id FROM delivery_status WHERE account_id = :account")
    return {(Granularity(word), key): place for word, key, place in connection.execute(query, {"account": account})}


def history_of(connection: Connection, account: str, read: Callable[..., Any] = load_histories) -> Said:
    """The account's history as a version reads it, without raw items (the law of those is in `test_upsert_laws`)."""
    ids = places(connection, account)
    histories = read(connection, list(ids.values()))
    return {key: histories[place] for key, place in ids.items()}


def bare(history: Said) -> dict[Key, dict[bytes, tuple[Any, ...]]]:
    """What each statement says and when it was made."""
    return {
        key: {digest: (seen.facts, seen.as_of, seen.as_of_last) for digest, seen in made.items()}
        for key, made in history.items()
    }


def explained(connection: Connection, account: str) -> dict[Key, Any]:
    """What people are told about each delivery."""
    found = {}
    for key, place in places(connection, account).items():
        told = explain(connection, place)
        assert told is not None
        found[key] = [(one.observation.facts, one.key, one.lost_by, one.gave) for one in told.statements]
    return found


@given(_batches, st.booleans())
@_on_real_postgresql
def test_a_history_says_the_same_with_facts_left_out_as_with_facts_stored(
    shared_database: Engine, upgraded_database: Engine, batches: Batches, speak_again: bool
) -> None:
    """Both are what was said, fact for fact, to the merge and to people; facts that a row says have the stored hash."""
    if speak_again:
        # What was said once is spoken of again, so that rows say something else than the first statement.
        batches = [*batches, ([replace(each, provider_status="3") for batch, _ in batches for each in batch], NOON)]
    read = []
    for engine in (shared_database, upgraded_database):
        with transaction(engine) as connection:
            account = add_account(connection)
            for batch, asked_at in batches:
                upsert(connection, account, "vairo", batch, asked_at=asked_at)
            read.append((history_of(connection, account), explained(connection, account)))
    (left_out, told), (stored, told_stored) = read
    assert bare(left_out) == bare(stored) == bare(said(batches))
    assert told == told_stored
    assert all(holds(seen) for made in left_out.values() for seen in made.values() if len(made) == 1)


@given(_batches)
@_on_real_postgresql
def test_only_the_one_final_statement_of_a_delivery_keeps_no_facts(shared_database: Engine, batches: Batches) -> None:
    """As soon as there are two, both have theirs; so null facts can never be read from a row that says otherwise."""
    with transaction(shared_database) as connection:
        account = add_account(connection)
        for batch, asked_at in batches:
            upsert(connection, account, "vairo", batch, asked_at=asked_at)
        query = text(
            "SELECT granularity, provider_key, (SELECT count(*) FROM observations WHERE delivery_id = d.id), is_final"
            " FROM observations JOIN delivery_status d ON d.id = delivery_id WHERE account_id = :a AND facts IS NULL"
        )
        without = connection.execute(query, {"a": account}).all()
        # Within one batch or one statement after the other: what was said once and finally needs no facts of its own.
        once = {
            key
            for key, history in said(batches).items()
            if len(history) == 1 and key[0] is not Granularity.CONVERSATION
            for seen in history.values()
            if fold(key[0], [seen]).is_final and all(each != [1.5] for each in (seen.facts.extra or {}).values())
        }
    assert {row[2:] for row in without} <= {(1, True)}
    assert {(row.granularity, row.provider_key) for row in without} <= once
    if len(batches) == 1:
        assert {(row.granularity, row.provider_key) for row in without} == once


@given(_batches, st.data())
@_on_real_postgresql
def test_both_versions_may_write_and_read_beside_each_other(
    upgraded_database: Engine, batches: Batches, data: st.DataObject
) -> None:
    """Whoever of them writes which batch, the table is the fold of all, and either reads the whole history."""
    with transaction(upgraded_database) as connection:
        account = add_account(connection)
    for batch, asked_at in batches:
        with transaction(upgraded_database) as connection:
            if data.draw(st.booleans(), label="by the previous version"):
                previous_upsert(connection, account, batch, asked_at=asked_at)
            else:
                upsert(connection, account, "vairo", batch, asked_at=asked_at)
    check(upgraded_database, account, batches, previous_histories)


@given(_batches, st.data())
@_on_real_postgresql
def test_what_the_previous_version_left_is_read_rightly(
    shared_database: Engine, batches: Batches, data: st.DataObject
) -> None:
    """Rows whose facts it stored, beside rows whose facts are left out, in the form that no previous version sees."""
    with transaction(shared_database) as connection:
        account = add_account(connection)
    cut = data.draw(st.integers(0, len(batches)), label="batches of the previous version")
    for place, (batch, asked_at) in enumerate(batches):
        with transaction(shared_database) as connection:
            if place < cut:
                previous_upsert(connection, account, batch, asked_at=asked_at)
            else:
                upsert(connection, account, "vairo", batch, asked_at=asked_at)
    check(shared_database, account, batches)


_UNTIMED = text("""
    SELECT count(*) FROM delivery_status m JOIN delivery_status o
      ON o.account_id = m.account_id AND o.granularity = 'order' AND o.provider_key = m.parent_key
    WHERE m.account_id = :account AND m.granularity = 'message' AND NOT m.is_final AND m.sent_at IS NULL
      AND m.message_time_source = 'first_seen' AND o.sent_at IS NOT NULL
""")


def check(engine: Engine, account: str, batches: Batches, *readers: Callable[..., Any]) -> None:
    """The table and the history are what the batches say, and a rebuild finds it so."""
    wanted = said(batches)
    with transaction(engine) as connection:
        assert stored_rows(connection, account) == {
            key: fold(key[0], history.values()) for key, history in wanted.items()
        }
        for read in (load_histories, *readers):
            assert bare(history_of(connection, account, read)) == bare(wanted)
        # The previous version gives a message whose order it learns of later, or in the same batch, no time of that
        # order: the message's next report does, or a rebuild.
        untimed = connection.execute(_UNTIMED, {"account": account}).scalar_one()
        assert rebuild(connection, account) == RebuildResult(deliveries=len(wanted), differed=untimed)
        assert rebuild(connection, account) == RebuildResult(deliveries=len(wanted), differed=0)
