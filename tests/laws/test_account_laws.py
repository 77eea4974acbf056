"""What decides whether an account may be polled says the same in SQL and in Python."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from made_accounts import made_account
from sqlalchemy import Engine, text

from ulak.models.account import BLOCKED_UNTIL, FOREVER, IS_ADAPTIVE, TIME_FACTOR, AccountState, PausedBy
from ulak.models.database import json_parameter

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
MOMENTS = st.none() | st.integers(-9, 9).map(lambda seconds: NOW + timedelta(seconds=seconds))
STATES = st.fixed_dictionaries(
    {
        "paused_until": MOMENTS | st.just(FOREVER),
        "not_before": MOMENTS,
        "breaker_state": st.sampled_from(["closed", "open", "probing"]),
        "breaker_until": MOMENTS,
    }
)
POLICIES = st.fixed_dictionaries({}, optional={"adaptive": st.booleans(), "time_factor": st.floats(0.01, 20)})
SAID_BY_SQL = text(f"""
    SELECT {BLOCKED_UNTIL} AS blocked_until, {TIME_FACTOR} AS time_factor, {IS_ADAPTIVE} AS is_adaptive
    FROM (SELECT CAST(:paused_until AS timestamptz) AS paused_until, CAST(:not_before AS timestamptz) AS not_before,
        CAST(:breaker_state AS text) AS breaker_state, CAST(:breaker_until AS timestamptz) AS breaker_until,
        CAST(:poll AS jsonb) AS poll) a
""")


@given(state=STATES, poll=POLICIES)
def test_sql_and_python_say_the_same_of_an_account(
    shared_database: Engine, state: dict[str, Any], poll: dict[str, Any]
) -> None:
    """Until when it is blocked (SQL leaves moments of the past to who asks), and how its waits are to be read."""
    account = made_account(**state, poll=poll, now=NOW)
    with shared_database.connect() as connection:
        row = connection.execute(SAID_BY_SQL, state | {"poll": json_parameter(poll)}).one()
    until = row.blocked_until if row.blocked_until is not None and row.blocked_until > NOW else None
    assert (account.blocked_until(NOW), account.time_factor, account.is_adaptive) == (
        until,
        row.time_factor,
        row.is_adaptive,
    )


@given(state=STATES)
def test_an_account_that_is_blocked_is_never_shown_as_ok(state: dict[str, Any]) -> None:
    """And one that is ok may be polled at once."""
    account = made_account(**state, now=NOW)
    blocked = account.blocked_until(NOW) is not None
    assert (account.standing.state is AccountState.OK) == (not blocked and account.breaker_state == "closed")


@given(
    paused_until=MOMENTS,
    by=st.sampled_from([None, *PausedBy]),
    until=MOMENTS.filter(bool),
    wanted_by=st.sampled_from([*PausedBy]),
)
def test_a_pause_is_never_shortened(
    paused_until: datetime | None, by: PausedBy | None, until: datetime, wanted_by: PausedBy
) -> None:
    """But an operator's takes the place of an automatic one, whichever lasts longer."""
    account = made_account(paused_until=paused_until, paused_by=by, now=NOW)
    changes = account.pause_changes(until, "why", wanted_by)
    ends = changes.get("paused_until", paused_until)
    if account.is_paused and not (by is PausedBy.AUTOMATIC and wanted_by is PausedBy.OPERATOR):
        assert ends is not None
        assert account.paused_until is not None
        assert ends >= account.paused_until
    if wanted_by is PausedBy.AUTOMATIC:
        assert bool(changes) is not account.is_paused
    assert not changes or (changes["paused_by"], changes["pause_changed_at"]) == (wanted_by, NOW)
