"""Laws of retention: with `kept_from` fixed, order does not matter, and a copy folded from the feed is the table."""

from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta

from database_fixtures import add_account
from feed_copy import Reader, table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from report_strategies import NOON, reports
from sqlalchemy import Connection, Engine, text
from stored_rows import stored_rows

from ulak.models.database import transaction
from ulak.models.deliveries import Key, upsert
from ulak.models.merge import Row, fold, observe
from ulak.models.rebuild import RebuildResult, rebuild
from ulak.models.report import DeliveryReport
from ulak.models.retention import remove_some
from ulak.models.vocabulary import Granularity, Source

ASKED_AT = NOON + timedelta(hours=200)
REGISTERED = {"a": NOON, "o": NOON + timedelta(hours=96)}
"""When ids were sent that were registered under these values."""
KEPT_FROM = [NOON + timedelta(hours=hours) for hours in (-24, 1, 48, 73)]
_settings = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def _messages(draw: st.DrawFn) -> DeliveryReport:
    said = draw(reports(Granularity.MESSAGE, st.sampled_from(["a", "b"])))
    # Most say little about when they were sent: then the reports beside them matter.
    timed = draw(st.integers(0, 3)) == 0
    return replace(
        said,
        parent_key=draw(st.sampled_from(["o", None])),
        sent_at=said.sent_at if timed else None,
        done_at=draw(st.sampled_from(KEPT_FROM)) if timed else None,
        as_of=said.as_of if timed else None,
    )


_orders = reports(Granularity.ORDER, st.just("o")).map(lambda said: replace(said, parent_key=None))
_others = reports(Granularity.CONVERSATION, st.just("c")).map(lambda said: replace(said, parent_key=None))
_batches = st.lists(_messages() | _orders | _messages() | _orders | _others, min_size=1, max_size=6)


def is_old(said: DeliveryReport, kept_from: datetime) -> bool:
    """The rule, said of one report alone."""
    own = said.sent_at
    if own is None and said.day is not None:
        own = datetime.combine(said.day, time(), UTC)
    if own is not None:
        return own < kept_from
    moments = [said.done_at, said.provider_time, said.as_of or (ASKED_AT if said.source is Source.POLL else None)]
    moments += [REGISTERED.get(key or "") for key in (said.provider_key, said.parent_key)]
    return any(at is not None and at < kept_from for at in moments)


@given(
    st.lists(_batches, min_size=1, max_size=4),
    st.sampled_from(KEPT_FROM),
    st.data(),
)
@_settings
def test_with_kept_from_held_fixed_order_grouping_and_repetition_do_not_matter(
    shared_database: Engine, batches: list[list[DeliveryReport]], kept_from: datetime, data: st.DataObject
) -> None:
    """In any order, regrouped and stored twice: the rows are those that the rule leaves, and a rebuild agrees."""
    kept = defaultdict(list)
    every = [said for batch in batches for said in batch]
    for said in every:
        if not is_old(said, kept_from):
            kept[said.granularity, said.provider_key].append(observe(said, asked_at=ASKED_AT))
    expected: dict[Key, Row] = {key: fold(key[0], seen) for key, seen in kept.items()}
    for way in (batches, data.draw(st.permutations([[said] for said in (*every, *every[:3])]))):
        with transaction(shared_database) as connection:
            account = _account(connection, kept_from)
        for batch in way:
            with transaction(shared_database) as connection:
                upsert(connection, account, "vairo", batch, asked_at=ASKED_AT)
        with transaction(shared_database) as connection:
            assert stored_rows(connection, account) == expected
            assert rebuild(connection, account) == RebuildResult(deliveries=len(expected), differed=0)
            # Nothing that may be stored is removed for the same reason.
            assert remove_some(connection, account, kept_from, 100).removed == 0


def _account(connection: Connection, kept_from: datetime) -> str:
    account = add_account(connection)
    connection.execute(
        text("UPDATE accounts SET kept_from = :at WHERE id = :account"), {"at": kept_from, "account": account}
    )
    for value, sent_at in REGISTERED.items():
        connection.execute(
            text(
                "INSERT INTO tracked_ids (account_id, id_kind, value, origin, sent_at, valid_until, next_check_at)"
                " VALUES (:account, 'message', :value, 'sender', :at, :at, :at)"
            ),
            {"account": account, "value": value, "at": sent_at},
        )
    return account


Act = Callable[[Engine, str], None]


def _store(batch: list[DeliveryReport]) -> Act:
    def act(engine: Engine, account: str) -> None:
        with transaction(engine) as connection:
            upsert(connection, account, "vairo", batch, asked_at=ASKED_AT)

    return act


def _remove(before: datetime, many: int) -> Act:
    def act(engine: Engine, account: str) -> None:
        with transaction(engine) as connection:
            remove_some(connection, account, before, many)

    return act


_acts = st.lists(
    st.builds(_store, _batches)
    | st.builds(_store, _batches)
    | st.builds(_remove, st.sampled_from(KEPT_FROM), st.sampled_from([1, 2, 100])),
    min_size=3,
    max_size=10,
)


@given(_acts, st.data())
@settings(_settings, max_examples=30)
def test_a_copy_that_folds_the_feed_equals_the_table(
    migrated_database: Engine, acts: list[Act], data: st.DataObject
) -> None:
    """Beside removals of any size and bound: a copy never lacks a row, and has none too many when all is removed."""
    with transaction(migrated_database) as connection:
        account = add_account(connection)
    readers = [Reader(migrated_database, limit=limit) for limit in (2, 100)]
    for act in (*acts, _remove(KEPT_FROM[-1], 1000)):
        act(migrated_database, account)
        readers[0].read_all()
        for row in table(migrated_database).items():
            assert row in readers[0].rows.items()
        if data.draw(st.booleans()):
            readers[1].read_all()
    for reader in readers:
        assert reader.read_all().rows == table(migrated_database)
