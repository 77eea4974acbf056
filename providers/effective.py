"""The settings of an account that are in force: its own where it has any, else those of its provider.

The one place that fills in a provider's defaults; what needs no provider is a property of `AccountSettings`.
"""

from datetime import timedelta

from ulak.models import sweep_intervals
from ulak.models.account import AccountSettings, StoredAccount
from ulak.providers.adapter import Adapter, ProviderRecord
from ulak.providers.options import ProviderOptions
from ulak.providers.registry import adapter_for


def adapter_of(account: AccountSettings) -> Adapter:
    """The adapter of the account's provider."""
    return adapter_for(account.provider)


def record_of(account: AccountSettings) -> ProviderRecord:
    """What is known of the account's provider."""
    return adapter_of(account).record


def every_seconds(account: StoredAccount) -> float:
    """How often the account's lists are read."""
    return sweep_intervals.every_seconds(account, record_of(account).every_seconds)


def configured_every_seconds(account: AccountSettings) -> float:
    """The interval without what follows from the lists' rate of change."""
    return float(account.every_seconds or record_of(account).every_seconds)


def lookback_days(account: AccountSettings) -> int:
    """How many days back lists are read."""
    return int(account.poll.get("lookback_days", record_of(account).lookback_days))


def first_check_seconds(account: AccountSettings) -> float:
    """The wait before an id's first check, before `time_factor`."""
    first = account.first_check_seconds
    return float(record_of(account).poll.steps_seconds[0] if first is None else first)


def max_check_seconds(account: AccountSettings) -> float:
    """The longest wait between two checks of an id, before `time_factor`."""
    longest = account.max_check_seconds
    return float(record_of(account).poll.max_seconds if longest is None else longest)


def validity(account: AccountSettings) -> timedelta:
    """How long the account's messages may take."""
    return timedelta(hours=options(account).validity_hours)


def options(account: AccountSettings) -> ProviderOptions:
    """All options of the provider, with the account's values."""
    return record_of(account).options.from_stored(account.options)
