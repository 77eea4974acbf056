"""Which of the secrets that we choose are too short, and what then: refused, or reported for one version more."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from ulak.core.credentials import CredentialError, resolve_reference
from ulak.core.secret_strength import ADVICE, is_example, is_short, takes_short_secrets
from ulak.core.settings import Settings, SettingsError
from ulak.providers.registry import adapter_for

REPORTED: Final = "shorter than 24 characters, which the next version refuses"


class HasCredentials(Protocol):
    """An account, as its file or the database has it."""

    @property
    def id(self) -> str:
        """Its slug."""

    @property
    def provider(self) -> str:
        """Whose it is."""

    @property
    def credentials(self) -> Mapping[str, str]:
        """References by name."""


def short_settings(settings: Settings) -> list[str]:
    """The variables whose secrets are too short."""
    token = settings.api_token.get_secret_value() if settings.api_token else None
    auth = settings.flower_auth.get_secret_value().partition(":")[2] if settings.flower_auth else None
    given = {"ULAK_API_TOKEN": token, "ULAK_FLOWER_AUTH": auth}
    return [name for name, secret in given.items() if secret is not None and is_short(secret)]


def require_strong(settings: Settings) -> None:
    """Raise `SettingsError` where a data folder that takes no short secrets is used with one."""
    if (short := short_settings(settings)) and not takes_short_secrets(settings.home):
        raise SettingsError("; ".join(f"{name} is too short: {ADVICE}" for name in short))


def short_path_secrets(
    accounts: Iterable[HasCredentials], resolve: Callable[[str], str] = resolve_reference
) -> list[str]:
    """The accounts whose secret of the callback address is short or an example; what cannot be read is no matter."""
    return [
        account.id
        for account in accounts
        if (secret := _path_secret(account, resolve)) is not None and (is_short(secret) or is_example(secret))
    ]


def require_strong_paths(settings: Settings, accounts: Iterable[HasCredentials]) -> list[str]:
    """The accounts that are to be warned about; `SettingsError` where they are refused."""
    accounts = list(accounts)
    named = {account.id: adapter_for(account.provider).record.callback_secret for account in accounts}
    short = short_path_secrets(accounts)
    refused = [account for account in accounts if account.id in short and _is_refused(settings, account)]
    if refused:
        listed = "; ".join(f"{named[account.id]} of {account.id}" for account in refused)
        raise SettingsError(f"These secrets are examples or too short ({listed}): {ADVICE}")
    return short


def has_example_path(account: HasCredentials) -> bool:
    """Whether the secret of the callback address is an example: its callbacks are refused."""
    return is_example(_path_secret(account) or "")


def has_short_password(account: HasCredentials) -> bool:
    """Whether the password that the provider presents to us is short. Some panels take no longer one."""
    password = _credential(account, adapter_for(account.provider).record.callback_password, resolve_reference)
    return password is not None and is_short(password)


def _is_refused(settings: Settings, account: HasCredentials) -> bool:
    return has_example_path(account) or not takes_short_secrets(settings.home)


def _path_secret(account: HasCredentials, resolve: Callable[[str], str] = resolve_reference) -> str | None:
    return _credential(account, adapter_for(account.provider).record.callback_secret, resolve)


def _credential(account: HasCredentials, name: str | None, resolve: Callable[[str], str]) -> str | None:
    if name is None or name not in account.credentials:
        return None
    try:
        return resolve(account.credentials[name])
    except CredentialError:
        return None
