"""Which settings of an account are in force: its own, else those of its provider."""

from datetime import timedelta
from typing import Any

import pytest
from made_accounts import made_account

from ulak.models.account import StoredAccount
from ulak.providers import effective
from ulak.providers.registry import ADAPTERS

RECORD = ADAPTERS["vairo"].record
OWN: dict[str, Any] = {
    "poll": {"every_seconds": 7.5, "lookback_days": 9, "first_check_seconds": 0.5, "max_check_seconds": 99.0},
    "options": {"validity_hours": 1.5, "deadline_seconds": 3.0},
}


def settings_of(account: StoredAccount) -> dict[str, Any]:
    """All that a provider has a default for."""
    return {
        "every": effective.configured_every_seconds(account),
        "lookback": effective.lookback_days(account),
        "first": effective.first_check_seconds(account),
        "longest": effective.max_check_seconds(account),
        "validity": effective.validity(account),
    }


def test_a_setting_that_is_configured_is_in_force_and_the_providers_elsewhere() -> None:
    """Each separately: none is forgotten, none is read under another's name."""
    assert settings_of(made_account(**OWN)) == {
        "every": 7.5, "lookback": 9, "first": 0.5, "longest": 99.0, "validity": timedelta(minutes=90),
    }  # fmt: skip
    assert settings_of(made_account()) == {
        "every": RECORD.every_seconds,
        "lookback": RECORD.lookback_days,
        "first": RECORD.poll.steps_seconds[0],
        "longest": RECORD.poll.max_seconds,
        "validity": timedelta(hours=RECORD.options().validity_hours),
    }


@pytest.mark.parametrize(
    ("poll", "sweep_seconds", "every"),
    [
        ({}, None, RECORD.every_seconds),
        ({}, 300.0, 300.0),
        ({"adaptive": False}, 300.0, RECORD.every_seconds),
        ({"every_seconds": 7.5}, 300.0, 7.5),
    ],
)
def test_lists_are_read_at_the_configured_interval_or_the_learned_one(
    poll: dict[str, Any], sweep_seconds: float | None, every: float
) -> None:
    """What was learned counts only where nothing is configured and the account is adaptive."""
    assert effective.every_seconds(made_account(poll=poll, sweep_seconds=sweep_seconds)) == every


@pytest.mark.parametrize(("given", "seconds"), [(3.0, 3.0), (None, 30.0), (1000.0, 75.0)])
def test_no_request_lasts_longer_than_any_may(given: float | None, seconds: float) -> None:
    """Whatever an earlier version accepted."""
    assert made_account(options={"deadline_seconds": given}).deadline_seconds == seconds


def test_every_option_of_the_provider_has_a_value() -> None:
    """The account's own where it has one."""
    for name, adapter in ADAPTERS.items():
        options = effective.options(made_account(name, options={"validity_hours": 7.0}))
        defaults = adapter.record.options()
        assert options == defaults.model_copy(update={"validity_hours": 7.0})
