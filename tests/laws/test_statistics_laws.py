"""Laws of the statistics: whatever happens, they are the stored rows, counted, and what was erased."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from counting import miscounted
from database_fixtures import add_account
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from ulak.models.database import transaction
from ulak.models.deliveries import upsert
from ulak.models.erasure import erase
from ulak.models.rebuild import rebuild
from ulak.models.report import DeliveryReport
from ulak.models.retention import remove_some
from ulak.models.statistics_upkeep import fold_some, recount, retract_deleted
from ulak.models.vocabulary import Granularity, Reason, Source, Status
from ulak.models.withdrawals import withdraw_unreported

NOW = datetime.now(UTC)
# Beside each other, about midnight in another zone, and beyond what is kept by the hour.
_times = st.sampled_from([NOW - timedelta(hours=hours) for hours in (0, 1, 2, 9, 30, 14 * 24 + 12, 16 * 24, 17 * 24)])
_took = st.none() | st.sampled_from([timedelta(milliseconds=ms) for ms in (-5, 0, 1000, 1001, 59_999, 90_000_000)])
_recipients = st.none() | st.sampled_from(
    ["+905321112233", "+905551112233", "+902121112233", "+493012345678", "+12025550100", "user-1"]
)
_STATUSES = [status for status in Status if status is not Status.PARTIALLY_DELIVERED]
_ORDERS = st.sampled_from(["o1", "o2"])


@st.composite
def _messages(draw: st.DrawFn) -> DeliveryReport:
    sent, took = draw(st.none() | _times), draw(_took)
    source = draw(st.sampled_from([Source.POLL, Source.OURS]))
    return DeliveryReport(
        granularity=Granularity.MESSAGE,
        provider_key=draw(st.sampled_from(["a", "b", "c", "d"])),
        parent_key=draw(st.none() | _ORDERS),
        recipient=draw(_recipients),
        status=Status.UNREPORTED if source is Source.OURS else draw(st.sampled_from(_STATUSES)),
        provider_status=draw(st.sampled_from(["1", "2"])),
        reason=draw(st.none() | st.sampled_from([Reason.ABSENT, Reason.OTHER])),
        segments=draw(st.none() | st.integers(0, 3)),
        credits=draw(st.none() | st.sampled_from([0.1, 0.5, 2])),
        sent_at=sent,
        done_at=None if sent is None or took is None else sent + took,
        source=source,
        # Ours may come from a clock that was ahead, and is withdrawn then.
        as_of=draw(st.sampled_from([NOW + timedelta(hours=1), NOW])) if source is Source.OURS else None,
    )


@st.composite
def _others(draw: st.DrawFn) -> DeliveryReport:
    if draw(st.booleans()):
        return DeliveryReport(
            granularity=Granularity.ORDER,
            provider_key=draw(_ORDERS),
            status=draw(st.sampled_from([Status.ENROUTE, Status.DELIVERED, Status.PARTIALLY_DELIVERED])),
            provider_status="113",
            total=2,
            delivered=draw(st.integers(0, 2)),
            sent_at=draw(st.none() | _times),
            source=Source.POLL,
        )
    day = draw(_times)
    return DeliveryReport(
        granularity=Granularity.CONVERSATION,
        provider_key=f"1:2:0:{day.date()}",
        status=Status.SENT,
        provider_status="counted",
        total=draw(st.integers(1, 3)),
        day=day.date(),
        as_of=draw(st.sampled_from([NOW, day + timedelta(days=4)])),
        source=Source.POLL,
    )


_reports = st.lists(_messages() | _messages() | _others(), min_size=1, max_size=6)
Act = Callable[[Engine, str], None]


def _in_transaction(run: Callable[[Connection, str], Any]) -> Act:
    def act(engine: Engine, account: str) -> None:
        with transaction(engine) as connection:
            run(connection, account)

    return act


def _upsert(batch: list[DeliveryReport], minutes: int) -> Act:
    return _in_transaction(
        lambda connection, account: upsert(
            connection, account, "vairo", batch, asked_at=NOW - timedelta(minutes=minutes)
        )
    )


def _withdraw(connection: Connection, _: str) -> None:
    after: int | None = 0
    while after is not None:
        after = withdraw_unreported(connection, after_id=after)


def _by_hand(statement: str) -> Act:
    return _in_transaction(
        lambda connection, account: connection.execute(text(f"{statement} account_id = :account"), {"account": account})
    )


def _retract(connection: Connection, account: str) -> None:
    retract_deleted(connection, retracts=True)
    connection.execute(
        text("DELETE FROM delivery_status WHERE account_id = :account AND provider_key = 'a'"), {"account": account}
    )
    retract_deleted(connection, retracts=False)


def _remove(days: int, many: int) -> Act:
    return _in_transaction(
        lambda connection, account: remove_some(connection, account, NOW - timedelta(days=days), many)
    )


_acts = st.one_of(
    st.builds(_upsert, _reports, st.integers(0, 3)),
    st.builds(_upsert, _reports, st.integers(0, 3)),
    st.builds(_upsert, _reports, st.integers(0, 3)),
    st.just(_in_transaction(lambda connection, _: fold_some(connection))),
    st.sampled_from(["+905321112233", "+493012345678"]).map(
        lambda person: _in_transaction(lambda connection, _: erase(connection, person))
    ),
    st.just(_in_transaction(_withdraw)),
    st.just(_in_transaction(rebuild)),
    st.just(_in_transaction(_retract)),
    st.builds(_remove, st.sampled_from([0, 10, 15, 20]), st.sampled_from([1, 3, 100])),
    st.sampled_from(
        [
            "UPDATE delivery_status SET recipient = '+3551', segments = 9, is_final = false WHERE",
            "UPDATE delivery_status SET status = 'read', done_at = sent_at, reason = NULL WHERE",
            "UPDATE delivery_status SET message_time = message_time - interval '1 day' WHERE",
            "DELETE FROM delivery_status WHERE provider_key < 'c' AND",
        ]
    ).map(_by_hand),
)


@given(st.lists(_acts, min_size=1, max_size=8), st.sampled_from(["UTC", "Europe/Istanbul", "Asia/Kathmandu"]))
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_the_counts_are_the_rows_and_what_was_erased(shared_database: Engine, acts: list[Act], zone: str) -> None:
    """After each of any sequence of reports, erasures, rebuilds, withdrawals, removals, changes by hand and folds."""
    with transaction(shared_database) as connection:
        account = add_account(connection)
        connection.execute(
            text("UPDATE accounts SET timezone = :zone WHERE id = :account"), {"account": account, "zone": zone}
        )
    for act in acts:
        act(shared_database, account)
        with transaction(shared_database) as connection:
            assert miscounted(connection, [account]) == {}
    with transaction(shared_database) as connection:
        # Nothing was left to a correction.
        assert recount(connection, [account]) == 0
        while fold_some(connection):
            pass
        assert miscounted(connection, [account]) == {}
