"""What is done once a minute: a step that fails keeps no other from its turn, and no step costs more with age."""

from datetime import timedelta

import pytest
from driving import make_runtime, scalar
from ledger_acts import add_account, execute
from sqlalchemy import Engine, text

from ulak.core import clock
from ulak.models import sweep_intervals
from ulak.models.deliveries import upsert
from ulak.models.report import DeliveryReport
from ulak.models.suppression import suppress
from ulak.models.vocabulary import Granularity, Source, Status
from ulak.tasks.steps.upkeep import every_minute

OVERDUE = DeliveryReport(
    granularity=Granularity.MESSAGE,
    provider_key="m",
    recipient="+905301234567",
    status=Status.ENROUTE,
    provider_status="1",
    source=Source.CALLBACK,
    sent_at=clock.now() - timedelta(days=30),
)
SWEPT = """
    WITH p AS (INSERT INTO polls (account_id, trigger, scheduled_for, state, planned_at, started_at, finished_at)
        SELECT :a, 'schedule', at, 'complete', at, at, at
        FROM generate_series(1, :many) n, LATERAL (SELECT now() - n * interval '1 minute' AS at) t RETURNING id)
    INSERT INTO fetches (poll_id, account_id, kind, params, params_hash, state, finished_at)
    SELECT id, :a, 'page', '{"window": ["2026-01-01", "2026-01-01"], "page": 1}', id::text, 'done', now() FROM p
"""


def done(engine: Engine) -> set[str]:
    """The steps whose traces there are."""
    traces = {
        "fold": "SELECT count(*) = 0 FROM statistics_deltas",
        "expire": "SELECT count(*) > 0 FROM delivery_status WHERE status = 'unreported'",
        "freshness": "SELECT count(*) > 0 FROM freshness_read",
        "pacing": "SELECT count(*) > 0 FROM accounts WHERE sweep_seconds IS NOT NULL",
    }
    return {name for name, query in traces.items() if scalar(engine, query)}


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        ("fold", "ALTER TABLE statistics_totals RENAME TO elsewhere"),
        ("expire", None),
        ("freshness", "ALTER TABLE freshness_read ADD CHECK (false) NOT VALID"),
        ("pacing", "ALTER TABLE accounts ADD CHECK (sweep_seconds IS NULL)"),
    ],
)
def test_a_step_that_fails_keeps_no_other_from_its_turn(
    migrated_database: Engine, broken: str, fault: str | None
) -> None:
    """Expiry fails for want of the person key; the others for a fault of the database."""
    engine = migrated_database
    runtime = make_runtime(engine)
    pushed = add_account(engine, provider="bip")
    swept = add_account(engine, provider="iletimerkezi")
    execute(engine, SWEPT, a=swept, many=5)
    with engine.begin() as connection:
        upsert(connection, pushed, "bip", [OVERDUE], asked_at=None)
    if fault is not None:
        execute(engine, fault)
    else:
        with engine.begin() as connection:
            suppress(connection, b"the person key of somebody else.", ["+905309999999"])
    every_minute(runtime)
    # What expiry writes is counted, and folded a minute later.
    every_minute(runtime)
    assert done(engine) == {"fold", "expire", "freshness", "pacing"} - {broken}


def test_the_latest_sweeps_are_found_in_their_index(migrated_database: Engine) -> None:
    """However many polls there are, of this account and of others."""
    engine = migrated_database
    for _ in range(3):
        execute(engine, SWEPT, a=add_account(engine, provider="iletimerkezi"), many=2000)
    with engine.begin() as connection:
        connection.execute(text("ANALYZE polls, fetches, accounts"))
        given = {
            "providers": ["iletimerkezi"],
            "seconds": sweep_intervals.LOOK_BACK_SECONDS,
            "many": sweep_intervals.MAX_SWEEPS,
        }
        plan = "\n".join(connection.execute(text(f"EXPLAIN {sweep_intervals._SWEPT.text}"), given).scalars())
        assert len(sweep_intervals.last_sweeps(connection, ["iletimerkezi"])) == 3 * 29
    assert "uq_polls_tick" in plan
