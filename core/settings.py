"""The settings of a process: every `ULAK_*` variable, parsed once into a frozen record.

A bad value stops the process with one sentence that says what to do and never shows a secret. The settings themselves
are in `ulak.core.setting_groups` and `ulak.core.api_settings`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from ulak.core.addresses import is_loopback, networks
from ulak.core.api_settings import Api, Flower, Notifications, SignOn
from ulak.core.environment import PREFIX, inherited_environment, is_foreign, variables_without_use
from ulak.core.redaction import register_secret
from ulak.core.setting_groups import Access, Broker, Database, Embedded, Files, Keys, Load, Logs, Supervised
from ulak.core.setting_types import SERVICE_PORT

_TRUSTED_PROXIES_BEFORE: Final = "FORWARDED_ALLOW_IPS"
_SERVICE_VARIABLE: Final = re.compile(
    r".+_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)

_BARE: Final = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|TERM|TZ|TZDIR|TMPDIR|LANG|LANGUAGE|LC_[A-Z]+|NO_COLOR|FORCE_COLOR|COLUMNS"
    r"|PYTHON[A-Z]+|VIRTUAL_ENV|LD_[A-Z_]+|FAKETIME[A-Z_]*|SSL_CERT_(FILE|DIR)|COVERAGE_[A-Z_]+"
)
"""What a program needs of its surroundings, and no secret."""
SECRETS_OF: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "worker": frozenset({"database_url", "redis_url", "seal_key_file", "person_key_file"}),
        "api": frozenset(
            {
                "database_url",
                "redis_url",
                "seal_key_file",
                "page_secret_file",
                "api_token",
                "person_key_file",
                "oidc_client_secret",
                "notify_webhook_url_file",
                "notify_webhook_secret_file",
                "notify_slack_url_file",
                "notify_smtp_url_file",
            }
        ),
        "beat": frozenset({"redis_url"}),
        "flower": frozenset({"redis_url", "flower_auth"}),
        "migrate": frozenset({"database_url"}),
        "accounts": frozenset({"database_url", "person_key_file"}),
    }
)
"""The settings that hold a secret, or say where one is, by who needs them. `ulak up` and `deploy/` give no others."""
NEED_CREDENTIALS: Final = frozenset({"worker", "api"})
"""Who needs what `accounts.toml` refers to."""
_SECRETS: Final = frozenset().union(*SECRETS_OF.values())


class SettingsError(Exception):
    """A setting is wrong; the text is one sentence that says what to do."""


# The fields of the last class come first.
class Settings(
    Supervised, Flower, Notifications, SignOn, Api, Keys, Broker, Database, Embedded, Load, Access, Logs, Files
):
    """Everything that can be set from outside. Unset URLs mean embedded servers."""

    @property
    def is_https(self) -> bool:
        """Whether browsers reach the status page over https only, as `public_url` says."""
        return self.public_url is not None and self.public_url.startswith("https:")

    @property
    def listens_on_loopback(self) -> bool:
        """Whether only this host reaches API and Flower."""
        return is_loopback(self.bind)

    def accounts_path(self) -> Path | None:
        """The accounts file: the configured one, else `accounts.toml` here when it is present."""
        if self.accounts is not None:
            return self.accounts
        default = Path("accounts.toml").absolute()
        return default if default.is_file() else None


REMEDIES: Final[Mapping[str, str]] = MappingProxyType(
    {name: cast("Any", field.json_schema_extra)["remedy"] for name, field in Settings.model_fields.items()}
)
"""What to do about a bad value, by field: pydantic's own words speak of types, not of remedies."""


def load_settings() -> Settings:
    """The settings of this process.

    Raises `SettingsError` with one sentence naming every bad variable and what to do about it.
    The secrets among the settings are made known to the redaction of logs.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        fields = dict.fromkeys(str(each["loc"][0]) for each in error.errors(include_input=False))
        advice = "; ".join(f"{PREFIX}{name.upper()} is wrong: {REMEDIES[name]}" for name in fields)
        # The chain is cut: pydantic's error keeps the bad value, which may be a password.
        raise SettingsError(advice) from None
    _register_secrets_of(settings)
    return settings


def environment_of(process: str) -> dict[str, str]:
    """This process's environment as a process of ours needs it (`SECRETS_OF`): no secret of another.

    Credentials of providers may have any name. Who needs none gets only what it is known to need.
    """
    kept = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields.keys() - (_SECRETS - SECRETS_OF[process])}
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    needs_credentials = process in NEED_CREDENTIALS
    return {
        name: value
        for name, value in inherited_environment().items()
        if name.upper() in kept or (name.upper() not in known and (needs_credentials or _BARE.fullmatch(name)))
    }


def ignored_variables() -> dict[str, str]:
    """Variables that look like settings and have no effect: name to reason, without values."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    found = dict.fromkeys(variables_without_use(), "of libpq, while the embedded PostgreSQL is used")
    for name, value in sorted(inherited_environment().items()):
        if is_foreign(name) and not (name == _TRUSTED_PROXIES_BEFORE and trusted_proxies_before()):
            found[name] = "of another program"
        elif not name.upper().startswith(PREFIX):
            continue
        elif _SERVICE_VARIABLE.fullmatch(name) or (name.endswith("_PORT") and SERVICE_PORT.match(value.strip())):
            found[name] = "of a Kubernetes Service"
        elif name.upper() not in known:
            found[name] = "no setting of this version"
    return found


def trusted_proxies_before() -> str | None:
    """What `FORWARDED_ALLOW_IPS` says, the name of `ULAK_TRUSTED_PROXIES` until 0.1; None where it says nothing valid.

    To be removed with the next version.
    """
    try:
        return networks(inherited_environment()[_TRUSTED_PROXIES_BEFORE])
    except (KeyError, ValueError):
        return None


def _register_secrets_of(settings: Settings) -> None:
    for url in (settings.database_url, settings.redis_url):
        password = urlsplit(url.get_secret_value()).password if url else None
        if password:
            register_secret(password)
            register_secret(unquote(password))
    if settings.api_token:
        register_secret(settings.api_token.get_secret_value())
    if settings.oidc_client_secret:
        register_secret(settings.oidc_client_secret.get_secret_value())
    if settings.flower_auth:
        register_secret(settings.flower_auth.get_secret_value().partition(":")[2])
