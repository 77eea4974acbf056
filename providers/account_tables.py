"""Every key of `accounts.toml`, described once: type, bounds, default and meaning.

`docs/reference/configuration.md` is written from these fields (`ulak.providers.handbook`). A description is a sentence
or two for a table; what follows an empty line comes below it. A default of None is the provider's, or none.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from ulak.core.time_zones import time_zone, zone_names
from ulak.models.keeping import MAX_DAYS, MIN_DAYS
from ulak.models.objectives import FORM, read_objective
from ulak.models.vocabulary import ACCOUNT_ID, MAX_ACCOUNT_ID_LENGTH, Recipients
from ulak.providers.account_values import nearest
from ulak.providers.base_urls import fault_of
from ulak.providers.egress import EgressError, has_login, proxy_of, trusting
from ulak.providers.options import Table, mistake
from ulak.providers.retry import RetryPolicy
from ulak.providers.statuses import RECORD

KNOWN_ADAPTERS: Final = "adapters"
"""The name under which the context of a validation holds the adapters by provider."""
DEFAULT_TIMEZONE: Final = "Europe/Istanbul"
REFERENCE: Final = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:\S(?:.*\S)?")
_YEAR_SECONDS: Final = 366 * 86400.0
_RETRY: Final = RetryPolicy()


def _slug(given: Any) -> str:
    if not isinstance(given, str) or not re.fullmatch(ACCOUNT_ID, given):
        form = f"a-z, 0-9 and -, beginning with a letter or digit, at most {MAX_ACCOUNT_ID_LENGTH} of them"
        raise mistake("it is no slug", f'id = "marka-sms": {form}')
    return given


def _provider(given: Any, info: ValidationInfo) -> str:
    known = tuple((info.context or {})[KNOWN_ADAPTERS])
    if given not in known:
        raise mistake("it is not known" if given else "it is missing", nearest(given, known))
    return str(given)


def _base_url(given: Any, info: ValidationInfo) -> str:
    """The address without a slash at its end; the provider's public one by default."""
    record = (info.context or {})[RECORD]
    url = given if given is not None or record is None else record.base_url
    if url is None:
        if record is None:
            return ""
        raise mistake("it is missing", "the address of your account at this provider, it has no public one")
    if (fault := fault_of(url, allow_plain_http=info.data.get("allow_plain_http", False))) is not None:
        raise mistake(*fault)
    return str(url).rstrip("/")


def _zone(given: Any) -> str:
    try:
        return time_zone(given).key
    except (OSError, ValueError, TypeError, LookupError):
        raise mistake("there is no such time zone", nearest(given, sorted(zone_names()))) from None


def _ca_file(given: Any) -> str:
    """An absolute path: workers may run in another folder than the command that applies the file."""
    if not isinstance(given, str) or not given.strip():
        raise mistake("it is not a path", 'ca_file = "/etc/ssl/company-ca.pem"')
    path = str(Path(given).expanduser().absolute())
    try:
        trusting(path)
    except EgressError as error:
        raise mistake(error.problem, error.right) from None
    return path


def _proxy(given: Any) -> str:
    """An address; only as a reference where it holds a password."""
    if isinstance(given, str) and REFERENCE.fullmatch(given):
        return given
    if isinstance(given, str) and has_login(given):
        right = 'proxy = "env:NAME" or "file:PATH", with the whole address kept there'
        raise mistake("it holds a user or password, and secrets do not belong into this file", right)
    try:
        proxy_of(given if isinstance(given, str) else "")
    except EgressError as error:
        raise mistake(error.problem, error.right) from None
    return str(given)


def _objective(given: Any) -> str:
    try:
        return str(read_objective(given if isinstance(given, str) else ""))
    except ValueError:
        raise mistake("it is no objective", f"objective = {FORM}") from None


def _reference(given: Any) -> str:
    if not isinstance(given, str) or not REFERENCE.fullmatch(given):
        right = '{key} = "env:NAME" or "file:PATH", with the value kept there'
        raise mistake("it is not a reference, and secrets do not belong into this file", right)
    return given


def _cap(cap: float, info: ValidationInfo) -> float:
    if cap < info.data.get("base_seconds", 0):
        raise mistake("it is less than base_seconds", "a longest wait that is not below the first")
    return cap


class LimitTable(Table):
    """`[account.limit]`."""

    requests: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="At most so many calls in any window of `per_seconds`, by all workers together.",
    )
    per_seconds: float | None = Field(default=None, gt=0, le=_YEAR_SECONDS, description="The length of the window.")
    concurrency: int | None = Field(
        default=None, ge=1, le=1000, description="At most so many calls wait for a response at once."
    )


class RetryTable(Table):
    """`[account.retry]`."""

    max_attempts: int = Field(
        default=_RETRY.max_attempts,
        ge=1,
        le=100,
        description="Attempts in all, the first one included, before a fetch fails.",
    )
    base_seconds: float = Field(
        default=_RETRY.base_seconds, gt=0, le=86400, description="The wait before the first retry."
    )
    cap_seconds: Annotated[float, AfterValidator(_cap)] = Field(
        default=_RETRY.cap_seconds,
        gt=0,
        le=86400,
        validate_default=True,
        description="The longest wait between two attempts.",
    )


class PollTable(Table):
    """`[account.poll]`."""

    every_seconds: float | None = Field(
        default=None,
        gt=0,
        le=86400,
        description="How often today's list is read. Unset: by the rate of change."
        "\n\nUnset, an adaptive account reads quiet lists rarely (every 5 minutes, or as its `objective` needs) "
        "and busy ones often (down to 10 seconds); other accounts use the provider's interval.",
    )
    lookback_days: int | None = Field(
        default=None, ge=0, le=366, description="How many past days every list sweep reads again."
    )
    first_check_seconds: float | None = Field(
        default=None, ge=0, le=_YEAR_SECONDS, description="How long after sending an id is first checked."
    )
    max_check_seconds: float | None = Field(
        default=None,
        gt=0,
        le=_YEAR_SECONDS,
        description="The longest wait between two checks of an open id while it is valid.",
    )
    time_factor: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        description="Multiplies every wait of the poll policy; small for sandboxes and tests.",
    )
    adaptive: bool = Field(
        default=True, description="Whether checks and list sweeps follow what the account's own messages have shown."
    )


class AccountTable(Table):
    """`[[account]]`. Defaults that the provider gives are filled in by the validators or by the reader."""

    id: Annotated[str, BeforeValidator(_slug)] = Field(
        default="",
        validate_default=True,
        description="A slug (a-z, 0-9, `-`, at most 100 characters) that names the account permanently."
        "\n\nNever give it to another provider or another set of messages.",
    )
    provider: Annotated[str, BeforeValidator(_provider)] = Field(
        default="",
        validate_default=True,
        description="Whose API is polled: a name from the table of [defaults](#defaults-of-each-provider).",
    )
    allow_plain_http: bool = Field(
        default=False,
        description="`true`: `base_url` may be `http` beyond this host. Anybody on the way can read the credentials.",
    )
    base_url: Annotated[str, BeforeValidator(_base_url)] = Field(
        default=None,
        validate_default=True,
        description="Where the provider's API is. Unset: its public address."
        "\n\n`http` or `https`, host, optional port and path, in ASCII (an international name in its `xn--` form). No "
        "user, password, query or fragment, and no link-local address. Required where each customer has its own.",
    )
    enabled: bool = Field(default=True, description="`false`: known, but not polled.")
    timezone: Annotated[str, BeforeValidator(_zone)] = Field(
        default=DEFAULT_TIMEZONE,
        description="The zone of the provider's local times, and of days that people name (`--from`)."
        "\n\nIts rules come from the installed `tzdata` package, never from the host's files. `ulak check` names the "
        "version and reports where the host differs.",
    )
    recipients: Recipients = Field(
        default=Recipients.CLEAR,
        strict=False,
        description="`hashed`: a keyed hash replaces every number; else `clear`. Fixed when the account is created."
        "\n\nThe operator's prefix is kept: [what hashing does and does not do]"
        "(../explanation/privacy.md#hashed-recipients).",
    )
    ca_file: Annotated[str | None, BeforeValidator(_ca_file)] = Field(
        default=None,
        description="A PEM file of certificates that this account trusts instead of the public ones."
        "\n\nMeant for a company's own authority; to trust the public ones too, put both into one file. A relative "
        "path starts where `apply` runs, and every worker must be able to read the file. A changed file takes effect "
        "with the next request.",
    )
    proxy: Annotated[str | None, BeforeValidator(_proxy)] = Field(
        default=None,
        description="The HTTP proxy for this account's requests, `http://host:port`. Unset: none."
        "\n\nRequests to https use `CONNECT`, so the proxy sees neither path nor key. A user and password are possible "
        "only as a reference: `env:NAME` or `file:PATH` that holds `http://user:password@host:port`, special "
        "characters percent-encoded. Proxies that speak https or SOCKS themselves are not supported.",
    )
    objective: Annotated[str | None, BeforeValidator(_objective)] = Field(
        default=None,
        description='How fresh deliveries should be: `"95 % within 60 s"`. See [objectives](../how-to/objectives.md).',
    )
    keep_days: int | None = Field(
        default=None,
        ge=MIN_DAYS,
        le=MAX_DAYS,
        description="How many days deliveries are kept, by `message_time`. Unset: forever."
        "\n\nA new or shorter one is announced and removes nothing for a day: [retention](retention.md#keep_days).",
    )
    credentials: dict[str, Annotated[str, BeforeValidator(_reference)]] = Field(
        default_factory=dict, description="References to the provider's credentials."
    )
    limit: LimitTable = Field(default_factory=LimitTable, description="The rate limit.")
    retry: RetryTable = Field(default_factory=RetryTable, description="The retries of a failed fetch.")
    poll: PollTable = Field(default_factory=PollTable, description="When the provider is polled.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the provider.")
