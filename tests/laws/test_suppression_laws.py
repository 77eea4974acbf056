"""Laws of the list of erased people: with the list held fixed, the table does not depend on how reports come."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta

from database_fixtures import add_account
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from report_strategies import NOON, reports
from sqlalchemy import Engine, text
from stored_rows import stored_rows

from ulak.models.database import transaction
from ulak.models.deliveries import Key, upsert
from ulak.models.merge import Row, fold, observe
from ulak.models.rebuild import RebuildResult, rebuild
from ulak.models.report import DeliveryReport
from ulak.models.suppression import Suppressions, suppress
from ulak.models.vocabulary import Granularity, Source

KEY = b"k" * 32
ERASED, OTHER = "+905301234567", "+905309999999"
ERASED_AT = NOON + timedelta(hours=30)
ORDERS = {"old": NOON, "new": NOON + timedelta(hours=48)}
"""When each order was sent. A report of an order's message, or its question, comes after that."""
PARENTS = {"a": "old", "b": "new", f"old:{ERASED}:1": "old", f"o:{ERASED}:1": None, f"new:{OTHER}:1": "new"}
"""The order of each message; a report may not name it."""
Batch = tuple[list[DeliveryReport], datetime]


@st.composite
def _messages(draw: st.DrawFn) -> DeliveryReport:
    said = draw(reports(Granularity.MESSAGE, st.sampled_from(sorted(PARENTS))))
    parent = PARENTS[said.provider_key] if draw(st.booleans()) else None
    return replace(
        said,
        parent_key=parent,
        recipient=draw(st.sampled_from([None, ERASED, OTHER])),
        source=Source.POLL if said.source is Source.OURS else said.source,
        as_of=None if PARENTS[said.provider_key] == "new" else said.as_of,
    )


@st.composite
def _orders(draw: st.DrawFn) -> DeliveryReport:
    said = draw(reports(Granularity.ORDER, st.sampled_from(sorted(ORDERS))))
    at = ORDERS[said.provider_key] if draw(st.booleans()) else None
    return replace(said, recipient=None, parent_key=None, sent_at=at, source=Source.POLL)


_batches = st.lists(
    st.tuples(st.lists(_messages() | _orders(), min_size=1, max_size=6), st.just(NOON + timedelta(hours=96))),
    min_size=1,
    max_size=4,
)


def allowed(batches: Sequence[Batch]) -> dict[Key, Row]:
    """The rows that the rule leaves, told from all reports at once."""
    told = [(report, asked_at) for batch, asked_at in batches for report in batch]
    dated = {each.provider_key for each, _ in told if each.granularity is Granularity.ORDER and each.sent_at}
    kept = defaultdict(list)
    for report, asked_at in told:
        names = report.recipient == ERASED or (report.recipient is None and ERASED in report.provider_key)
        of_order = ORDERS[report.parent_key] if report.parent_key in dated else None
        made = report.as_of or (asked_at if report.source is Source.POLL else None)
        sent_at = report.sent_at or of_order or made
        if report.granularity is Granularity.MESSAGE and names and sent_at is not None and sent_at < ERASED_AT:
            continue
        kept[report.granularity, report.provider_key].append(observe(report, asked_at=asked_at))
    return {key: fold(key[0], seen) for key, seen in kept.items()}


@given(_batches, st.data())
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_with_the_list_held_fixed_order_grouping_and_repetition_do_not_matter(
    migrated_database: Engine, batches: list[Batch], data: st.DataObject
) -> None:
    """In any order, grouped otherwise and told twice: the rows are those that the rule leaves, and a rebuild agrees."""
    suppressions = Suppressions(lambda: KEY)
    with transaction(migrated_database) as connection:
        suppress(connection, KEY, [ERASED])
        connection.execute(text("UPDATE suppressions SET erased_at = :at"), {"at": ERASED_AT})
    expected = allowed(batches)
    regrouped = [([report], asked_at) for batch, asked_at in batches for report in batch]
    for way in (batches, data.draw(st.permutations([*regrouped, *regrouped[:3]]))):
        with transaction(migrated_database) as connection:
            account = add_account(connection)
        for batch, asked_at in way:
            with transaction(migrated_database) as connection:
                upsert(connection, account, "vairo", batch, asked_at=asked_at, suppressions=suppressions)
        with transaction(migrated_database) as connection:
            assert stored_rows(connection, account) == expected
            assert rebuild(connection, account) == RebuildResult(deliveries=len(expected), differed=0)
