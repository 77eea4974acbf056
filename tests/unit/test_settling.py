"""When `ulak up --until-settled` may end."""

from datetime import UTC, datetime

from ulak.cli.up import SETTLED_LOOKS, Settling
from ulak.models.account import AccountState
from ulak.models.overview import AccountOverview


def seen(final: int) -> list[AccountOverview]:
    """An account with so many final deliveries, and nothing else."""
    return [
        AccountOverview(
            id="kampanya",
            provider="vairo",
            enabled=True,
            state=AccountState.OK,
            reason=None,
            until=None,
            paused_by=None,
            as_of=datetime(2026, 1, 1, tzinfo=UTC),
            open_deliveries=0,
            final_deliveries=final,
            open_tracked=0,
            oldest_unanswered=None,
            freshness_seconds=None,
            calls_last_minute=0,
            calls_last_hour=0,
            limit_requests=1,
            limit_per_seconds=1.0,
            limit_concurrency=1,
            busy_slots=0,
            ready_fetches=0,
            sending_fetches=0,
            dead_fetches=0,
            running_polls=0,
            quarantined=0,
            last_trouble=None,
            last_trouble_at=None,
        )
    ]


def test_a_sweep_that_is_open_at_every_second_look_does_not_keep_it_from_settling() -> None:
    """Sweeps of accounts come every few seconds, and may stay in step with the looks."""
    settling = Settling()
    found = [settling.see(seen(7), is_settled=look % 2 == 0) for look in range(2 * SETTLED_LOOKS - 1)]
    assert found == [False] * (2 * SETTLED_LOOKS - 2) + [True]


def test_a_row_that_comes_between_two_looks_begins_the_count_anew() -> None:
    """It may have been pushed, which no open poll shows."""
    settling = Settling()
    assert not any(settling.see(seen(final), is_settled=True) for final in range(2 * SETTLED_LOOKS))
    assert [settling.see(seen(99), is_settled=True) for _ in range(SETTLED_LOOKS)][-1]


def test_nothing_settles_without_a_look_that_finds_it_so() -> None:
    """However long nothing changes."""
    settling = Settling()
    assert not any(settling.see(seen(7), is_settled=False) for _ in range(9))
