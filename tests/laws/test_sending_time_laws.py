"""Laws of `message_time`: it follows from what was reported, in whatever order that came, until the row is final."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta

from database_fixtures import add_account
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_strategies import NOON, batches_of_restatements, granularities, reports
from sqlalchemy import Connection, Engine, text

from ulak.models.database import transaction
from ulak.models.deliveries import Key, upsert
from ulak.models.meanings import TimeSource
from ulak.models.merge import Observation, Row, fold, observe
from ulak.models.rebuild import RebuildResult, rebuild
from ulak.models.report import DeliveryReport
from ulak.models.sanitize import iso_time
from ulak.models.vocabulary import Granularity, is_final

_keys = st.sampled_from(["a", "b", "c"])
_batches = batches_of_restatements(_keys)
_open = granularities.flatmap(lambda word: reports(word, _keys)).filter(lambda told: not is_final(told.status))
_open_batches = st.lists(
    st.tuples(st.lists(_open, min_size=1, max_size=6), st.just(NOON)), min_size=1, max_size=5
)  # fmt: skip
_on_real_postgresql = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
Batch = tuple[list[DeliveryReport], datetime]
Time = tuple[str | None, TimeSource]
"""When, as ISO 8601, and where it comes from; None for the moment at which the row was first seen."""


class Expected:
    """What the rule says of batches that come one after the other."""

    def __init__(self) -> None:
        self.said: dict[Key, list[Observation]] = defaultdict(list)
        self.rows: dict[Key, Row] = {}
        self.times: dict[Key, Time] = {}

    def add(self, batch: Sequence[DeliveryReport], asked_at: datetime) -> None:
        """One more batch, in a transaction of its own."""
        fixed = {key for key, row in self.rows.items() if row.is_final}
        for report in batch:
            self.said[report.granularity, report.provider_key].append(observe(report, asked_at=asked_at))
        self.rows = {key: fold(key[0], seen) for key, seen in self.said.items()}
        for key in self.rows.keys() - fixed:
            self.times[key] = self._time(key)

    def _time(self, key: Key) -> Time:
        row = self.rows[key]
        order = self.rows.get((Granularity.ORDER, row.parent_key or "")) if key[0] is Granularity.MESSAGE else None
        if row.sent_at is not None:
            return row.sent_at, TimeSource.OWN
        if order is not None and order.sent_at is not None:
            return order.sent_at, TimeSource.ORDER
        return None, TimeSource.FIRST_SEEN


def stored_times(connection: Connection, account: str) -> dict[Key, Time]:
    """The times of an account's rows."""
    query = text(
        "SELECT granularity, provider_key, message_time, message_time_source, message_time = first_seen_at AS is_first"
        " FROM delivery_status WHERE account_id = :account"
    )
    found: dict[Key, Time] = {}
    for granularity, key, at, source, is_first in connection.execute(query, {"account": account}):
        assert source != TimeSource.FIRST_SEEN or is_first
        shown = None if source == TimeSource.FIRST_SEEN else iso_time(at)
        found[Granularity(granularity), key] = shown, TimeSource(source)
    return found


def write(engine: Engine, account: str, batches: Sequence[Batch]) -> dict[Key, Time]:
    """Write each batch in a transaction of its own; the times afterwards."""
    for batch, asked_at in batches:
        with transaction(engine) as connection:
            upsert(connection, account, "vairo", batch, asked_at=asked_at)
    with transaction(engine) as connection:
        return stored_times(connection, account)


def new_account(engine: Engine) -> str:
    """An account without rows."""
    with transaction(engine) as connection:
        return add_account(connection)


@given(_batches)
@_on_real_postgresql
def test_the_time_is_what_was_reported_until_the_row_was_final(shared_database: Engine, batches: list[Batch]) -> None:
    """After each batch the times are those of the rule; a rebuild and a repetition of everything change nothing."""
    account, expected = new_account(shared_database), Expected()
    for batch, asked_at in batches:
        expected.add(batch, asked_at)
        assert write(shared_database, account, [(batch, asked_at)]) == expected.times
    assert write(shared_database, account, batches) == expected.times
    with transaction(shared_database) as connection:
        assert rebuild(connection, account) == RebuildResult(deliveries=len(expected.times), differed=0)


@given(_open_batches, st.data())
@_on_real_postgresql
def test_the_times_of_open_rows_do_not_depend_on_order_or_grouping(
    shared_database: Engine, batches: list[Batch], data: st.DataObject
) -> None:
    """The same reports in another order, regrouped and repeated, end in the same times."""
    every = [report for batch, _ in batches for report in batch]
    shuffled = data.draw(st.permutations(every + data.draw(st.lists(st.sampled_from(every), max_size=4))))
    cut = data.draw(st.integers(0, len(shuffled)))
    one = write(shared_database, new_account(shared_database), batches)
    parts = [(part, NOON) for part in (shuffled[:cut], shuffled[cut:]) if part]
    assert write(shared_database, new_account(shared_database), parts) == one


@given(_batches, st.sets(st.sampled_from(["a", "b", "c"])))
@_on_real_postgresql
def test_a_rebuild_recomputes_the_times_of_open_rows_and_those_that_are_missing(
    shared_database: Engine, batches: list[Batch], spoilt: set[str]
) -> None:
    """Rows whose time was spoilt or is missing get the one that follows from what is stored."""
    account, expected = new_account(shared_database), Expected()
    for batch, asked_at in batches:
        expected.add(batch, asked_at)
    write(shared_database, account, batches)
    with transaction(shared_database) as connection:
        connection.execute(
            text(
                "UPDATE delivery_status SET message_time = CASE WHEN is_final THEN NULL ELSE :at END,"
                " message_time_source = CASE WHEN is_final THEN NULL ELSE 'first_seen' END"
                " WHERE account_id = :account AND provider_key = ANY(:keys)"
            ),
            {"account": account, "keys": list(spoilt), "at": NOON + timedelta(days=400)},
        )
    now = Expected()
    for batch, asked_at in batches:
        for report in batch:
            now.said[report.granularity, report.provider_key].append(observe(report, asked_at=asked_at))
    now.add([], NOON)
    with transaction(shared_database) as connection:
        rebuild(connection, account)
        found = stored_times(connection, account)
    assert found == {
        key: now.times[key] if key[1] in spoilt or not now.rows[key].is_final else time
        for key, time in expected.times.items()
    }
