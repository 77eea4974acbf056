"""Laws of the one writer: what the table holds is the fold of all that was said, however it was brought."""

from collections import defaultdict
from datetime import datetime
from typing import Any

from database_fixtures import add_account
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_strategies import NOON, batches_of_restatements, granularities, reports
from sqlalchemy import Connection, Engine, text
from stored_rows import stored_rows

from ulak.models.database import transaction
from ulak.models.deliveries import Key, UpsertResult, upsert
from ulak.models.merge import Observation, Row, fold, merge_history, observe
from ulak.models.rebuild import RebuildResult, rebuild
from ulak.models.report import DeliveryReport
from ulak.models.vocabulary import Granularity

_keys = st.sampled_from(["a", "b", "c"])
_batch = st.lists(granularities.flatmap(lambda word: reports(word, _keys)), min_size=1, max_size=6)
_batches = batches_of_restatements(_keys)
_on_real_postgresql = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
Batches = list[tuple[list[DeliveryReport], datetime]]


def histories(batches: Batches) -> dict[Key, dict[bytes, Observation]]:
    """All that these batches say, by delivery."""
    seen = defaultdict(list)
    for batch, asked_at in batches:
        for report in batch:
            seen[report.granularity, report.provider_key].append(observe(report, asked_at=asked_at))
    return {key: merge_history(made) for key, made in seen.items()}


def stored_times(connection: Connection, account: str) -> dict[tuple[str, str, bytes], tuple[datetime, datetime]]:
    """When each stored statement of an account was made, first and last."""
    query = text(
        "SELECT granularity, provider_key, content_hash, as_of, as_of_last FROM observations"
        " JOIN delivery_status d ON d.id = delivery_id WHERE account_id = :account"
    )
    return {(row[0], row[1], row[2]): (row[3], row[4]) for row in connection.execute(query, {"account": account})}


@given(_batches, st.data())
@_on_real_postgresql
def test_the_table_is_the_fold_of_the_history(shared_database: Engine, batches: Batches, data: st.DataObject) -> None:
    """Batch by batch in any order, each in a transaction of its own, ends in the fold; a rebuild finds it so."""
    with transaction(shared_database) as connection:
        account = add_account(connection)
    before: dict[Key, Row] = {}
    for batch, asked_at in data.draw(st.permutations(batches)):
        with transaction(shared_database) as connection:
            result = upsert(connection, account, "vairo", batch, asked_at=asked_at)
            after = stored_rows(connection, account)
        named = {(report.granularity, report.provider_key) for report in batch}
        new = after.keys() - before.keys()
        advanced = {key for key, row in before.items() if after[key] != row}
        assert result == UpsertResult(
            new=len(new),
            advanced=len(advanced),
            unchanged=len(named) - len(new) - len(advanced),
            changed=frozenset(new | advanced),
        )
        before = after
    said = histories(batches)
    assert before == {key: fold(key[0], history.values()) for key, history in said.items()}
    with transaction(shared_database) as connection:
        assert stored_times(connection, account) == {
            (*key, digest): (seen.as_of, seen.as_of_last)
            for key, history in said.items()
            for digest, seen in history.items()
        }
        assert rebuild(connection, account) == RebuildResult(deliveries=len(before), differed=0)


def written(connection: Connection) -> dict[str, Any]:
    """Tuples that this session has written, and whether this transaction needed an id (a row lock needs one, too)."""
    found = connection.execute(
        text(
            "SELECT pg_current_xact_id_if_assigned() IS NOT NULL AS has_id,"
            " (SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::int FROM pg_stat_xact_user_tables) AS tuples"
        )
    )
    return dict(found.mappings().one())


@given(_batches)
@_on_real_postgresql
def test_a_second_time_writes_nothing(shared_database: Engine, batches: Batches) -> None:
    """What was said before costs nothing when said again: no tuple, no row lock, no transaction id, so no WAL."""
    with transaction(shared_database) as connection:
        account = add_account(connection)
        for batch, asked_at in batches:
            upsert(connection, account, "vairo", batch, asked_at=asked_at)
    with transaction(shared_database) as connection:
        # The counters of this session may still hold what the transaction before wrote.
        before = written(connection)
        for batch, asked_at in batches:
            result = upsert(connection, account, "vairo", batch, asked_at=asked_at)
            named = {(report.granularity, report.provider_key) for report in batch}
            assert result == UpsertResult(unchanged=len(named))
        assert written(connection) == before == {"has_id": False, "tuples": before["tuples"]}


@given(_batch, st.data())
@_on_real_postgresql
def test_a_rebuild_repairs_any_row(shared_database: Engine, batch: list[DeliveryReport], data: st.DataObject) -> None:
    """Rows that were tampered with become what their history says, row for row; the others are not written."""
    with transaction(shared_database) as connection:
        account = add_account(connection)
        upsert(connection, account, "vairo", batch, asked_at=NOON)
        sound = stored_rows(connection, account)
        spoilt = data.draw(st.sets(st.sampled_from(sorted(sound))))
        for granularity, key in spoilt:
            connection.execute(
                text(
                    "UPDATE delivery_status SET provider_status = 'spoilt', extra = '{\"z\": 0}', recipient = 'nobody'"
                    " WHERE account_id = :account AND granularity = :granularity AND provider_key = :key"
                ),
                {"account": account, "granularity": granularity, "key": key},
            )
        # Where the row stands for the facts of its only statement, the raw item proves what they were.
        alone = {key: is_raw for key, is_raw in said_by_rows(connection, account).items() if key in spoilt}
        mended, proven = len(spoilt) - len(alone), sum(alone.values())
        assert rebuild(connection, account) == RebuildResult(
            deliveries=len(sound), differed=mended, doubtful=len(alone)
        )
        reports_of = {(report.granularity, report.provider_key): report for report in batch}
        result = rebuild(
            connection,
            account,
            restate_of=lambda _: lambda kept: reports_of[kept.granularity, kept.provider_key],
        )
        assert result == RebuildResult(deliveries=len(sound), differed=proven, doubtful=len(alone) - proven)
        lost = {key for key, is_raw in alone.items() if not is_raw}
        after = stored_rows(connection, account)
        assert {key: row for key, row in after.items() if key not in lost} == {
            key: row for key, row in sound.items() if key not in lost
        }


def said_by_rows(connection: Connection, account: str) -> dict[Key, bool]:
    """The deliveries whose only statement keeps no facts, and whether it has a raw item that a provider gave."""
    query = text(
        "SELECT granularity, provider_key, source <> 'ours' AND statement <> '{}' FROM observations"
        " JOIN delivery_status d ON d.id = delivery_id WHERE account_id = :account AND facts IS NULL"
    )
    found = connection.execute(query, {"account": account})
    return {(Granularity(granularity), key): is_raw for granularity, key, is_raw in found}
