"""The only reader of the environment, and the only opener of secrets.

`load_settings` parses every `ULAK_*` variable once into a frozen record; a bad value stops the
process with one sentence that says what to do and never shows a secret.
"""

import os
import pwd
import re
import secrets
from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ulak.core.redaction import register_secret
from ulak.core.secret_strength import ADVICE, create_home, is_example

PREFIX: Final = "ULAK_"
LIFELINE_VARIABLE: Final = "ULAK_LIFELINE_FD"
READY_VARIABLE: Final = "ULAK_READY_FD"
MAX_SECRET_BYTES: Final = 65_536


# Libraries that we run would be configured by these variables of other programs, past our settings. Those without a
# prefix are read by Celery, except uvicorn's WEB_CONCURRENCY and FORWARDED_ALLOW_IPS, billiard's REMAP_SIGTERM and
# kombu's DISABLE_TRACEBACKS and PICKLE_PROTOCOL. PGTZ, PGDATESTYLE and PGGEQO would beat what our sessions begin with.
_FOREIGN: Final = re.compile(
    r"(CELERY|FLOWER_|KOMBU_|UVICORN_|PROMETHEUS_|prometheus_).*"
    r"|C_(BENCH|BENCH_EVERY|FAKEFORK|FORCE_ROOT|IMPDEBUG|REMDEBUG|STRICT_APP|WARN_APP|WNOCONF)"
    r"|APP|AUTOSCALE_KEEPALIVE|BROKER_URL|CONFIG_MODULE|DISABLE_TRACEBACKS|DJANGO_SETTINGS_MODULE|EVENTLET_NOBLOCK"
    r"|FORKED_BY_MULTIPROCESSING|FORWARDED_ALLOW_IPS|LOADER|MP_LOG|MP_MAIN_FILE|NOSETPS|PICKLE_PROTOCOL|REMAP_SIGTERM"
    r"|RESULT_BACKEND|SKIP_CHECKS|TIMER_DEBUG|USE_FAST_LOCALS|WEB_CONCURRENCY|PG(TZ|DATESTYLE|GEQO)"
)
_TRUSTED_PROXIES_BEFORE: Final = "FORWARDED_ALLOW_IPS"
# What Kubernetes sets in every pod for a Service: https://kubernetes.io/docs/concepts/services-networking/service/
_SERVICE_PORT: Final = re.compile(r"(?i:tcp|udp|sctp)://")
_SERVICE_VARIABLE: Final = re.compile(
    r".+_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)

_LIBPQ: Final = re.compile(r"PG[A-Z]+")
"""Variables of libpq: https://www.postgresql.org/docs/current/libpq-envars.html"""

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

_set_aside: dict[str, str] = {}
_without_use: dict[str, str] = {}
"""Variables of libpq that were removed since they are meant for another server."""


class SettingsError(Exception):
    """A setting is wrong; the text is one sentence that says what to do."""


class CredentialError(Exception):
    """A credential reference cannot be resolved; the text never contains a value."""


def _needs_address(*schemes: str) -> Callable[[SecretStr], SecretStr]:
    def check(url: SecretStr) -> SecretStr:
        text = url.get_secret_value()
        parts = urlsplit(text)
        # Whoever reads the address parts it elsewhere where a special character stands in the password as it is, and a
        # piece of the password is then taken for the host: told in errors, and asked for in the network's names.
        is_parted = text.count("@") == parts.netloc.count("@") <= 1 and (parts.port is None or parts.port > 0)
        if parts.scheme not in schemes or not is_parted:
            raise ValueError(parts.scheme)
        return url

    return check


def _needs_user_and_password(auth: SecretStr) -> SecretStr:
    user, _, password = auth.get_secret_value().partition(":")
    if not (user and password) or is_example(password):
        raise ValueError(auth)
    return auth


def _needs_no_example(secret: SecretStr) -> SecretStr:
    if is_example(secret.get_secret_value()):
        raise ValueError(secret)
    return secret


def is_loopback(host: str) -> bool:
    """Whether a host name or an address means this host itself."""
    host = host.strip("[]").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _web_address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.password:
        raise ValueError(url)
    return url


def _origin(url: str) -> str:
    """`https://host[:port]` without anything behind it, in lower case."""
    parts = urlsplit(_web_address(url))
    if parts.path not in {"", "/"} or parts.query or parts.fragment or not re.fullmatch(r"[!-~]+", url):
        raise ValueError(url)
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _issuer(url: str) -> str:
    """An OpenID provider's issuer: https, or on this host; without query and fragment (OpenID Connect Core, 2)."""
    parts = urlsplit(_web_address(url))
    is_safe = parts.scheme == "https" or is_loopback(parts.hostname or "")
    if not is_safe or parts.query or parts.fragment or not re.fullmatch(r"[!-~]+", url):
        raise ValueError(url)
    return url


def _scopes(text: str) -> str:
    """Words of OAuth, RFC 6749 section 3.3; `openid` must be among them."""
    words = text.split()
    if "openid" not in words or not all(re.fullmatch(r"[!#-\[\]-~]+", word) for word in words):
        raise ValueError(text)
    return " ".join(words)


def _mail_addresses(text: str) -> str:
    """Bare addresses separated by commas, without the blanks."""
    found = [each.strip() for each in text.split(",")]
    if not all(re.fullmatch(r"[!-~]+@[!-~]+", each) and not set(each) & set('<>",;()') for each in found):
        raise ValueError(text)
    return ",".join(found)


def _mail_address(text: str) -> str:
    found = _mail_addresses(text)
    if "," in found:
        raise ValueError(text)
    return found


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _unless_a_service(port: object) -> object:
    """Kubernetes sets `ULAK_API_PORT=tcp://10.0.0.1:8000` in every pod beside a Service `ulak-api`: no setting."""
    return None if isinstance(port, str) and _SERVICE_PORT.match(port.strip()) else port


def _networks(text: str) -> str:
    """Addresses and networks separated by commas, or `*`, without the blanks."""
    items = [item.strip() for item in text.split(",")]
    for item in items:
        if item != "*":
            ip_network(item)
    return ",".join(items)


Port = Annotated[Annotated[int, Field(ge=1, le=65_535)] | None, BeforeValidator(_unless_a_service)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


class Settings(BaseSettings):
    """Everything that can be set from outside. Unset URLs mean embedded servers."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
    )

    database_url: Annotated[
        SecretStr | None,
        AfterValidator(
            lambda url: url and _needs_address("postgresql", "postgres")(url),
        ),
    ] = None
    database_prepare: bool = True
    redis_url: Annotated[
        SecretStr | None,
        AfterValidator(lambda url: url and _needs_address("redis", "rediss")(url)),
    ] = None
    home: AbsolutePath = Field(default=Path(".ulak"), validate_default=True)
    accounts: AbsolutePath | None = None
    log: Literal["console", "json"] | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    api_token: Annotated[SecretStr, Field(min_length=8), AfterValidator(_needs_no_example)] | None = None
    flower_auth: Annotated[
        SecretStr | None,
        AfterValidator(lambda auth: auth and _needs_user_and_password(auth)),
    ] = None
    api_port: Port = None
    flower_port: Port = None
    flower_read_only: bool = False
    flower_url: Annotated[str | None, AfterValidator(lambda url: url and _web_address(url))] = None
    sandbox_port: Port = None
    metrics_port: Port = None
    bind: str = "127.0.0.1"
    public_url: Annotated[str | None, AfterValidator(lambda url: url and _origin(url))] = None
    trusted_proxies: Annotated[str | None, AfterValidator(lambda text: text and _networks(text))] = None
    seal_key_file: AbsolutePath | None = None
    page_secret_file: AbsolutePath | None = None
    person_key_file: AbsolutePath | None = None
    oidc_issuer: Annotated[str | None, AfterValidator(lambda url: url and _issuer(url))] = None
    oidc_client_id: str | None = None
    oidc_client_secret: Annotated[SecretStr, AfterValidator(_needs_no_example)] | None = None
    oidc_scopes: Annotated[str, AfterValidator(_scopes)] = "openid profile email"
    oidc_claim: Annotated[str, Field(min_length=1)] = "groups"
    oidc_roles: str | None = None
    oidc_ca_file: AbsolutePath | None = None
    notify_webhook_url_file: AbsolutePath | None = None
    notify_webhook_secret_file: AbsolutePath | None = None
    notify_slack_url_file: AbsolutePath | None = None
    notify_smtp_url_file: AbsolutePath | None = None
    notify_mail_from: Annotated[str | None, AfterValidator(lambda text: text and _mail_address(text))] = None
    notify_mail_to: Annotated[str | None, AfterValidator(lambda text: text and _mail_addresses(text))] = None
    notify_ca_file: AbsolutePath | None = None
    notify_language: Literal["en", "tr"] = "en"
    postgres_bin: AbsolutePath | None = None
    valkey_bin: AbsolutePath | None = None
    worker_threads: Annotated[int, Field(ge=1, le=64)] = 16
    lease_margin_seconds: Annotated[float, Field(gt=0, le=600)] = 15.0
    tick_seconds: Annotated[float, Field(ge=0.1, le=60)] = 5.0
    lifeline_fd: Annotated[int, Field(ge=3)] | None = None
    ready_fd: Annotated[int, Field(ge=3)] | None = None

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


_ENCODE: Final = "percent-encode the password's special characters (@ is %40)"
# What to do about a bad value, by field: pydantic's own words speak of types, not of remedies.
REMEDIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "database_url": "write it as postgresql://user:password@host:5432/database and "
        f"{_ENCODE}, or unset it to use the embedded PostgreSQL",
        "database_prepare": "write true, or false where a pooler lends one session to several clients",
        "redis_url": "write it as redis://user:password@host:6379/0 or rediss://host:6379/0 and "
        f"{_ENCODE}, or unset it to use the embedded Valkey",
        "home": "give a folder path",
        "accounts": "give the path of an accounts.toml",
        "log": "write console or json, or unset it",
        "log_level": "write debug, info, warning or error",
        "api_token": f"{ADVICE}, or unset it to have one generated; the examples' values are refused",
        "flower_auth": "write it as user:password, the password no example, or unset it to have one generated",
        "api_port": "give a port number from 1 to 65535",
        "flower_port": "give a port number from 1 to 65535",
        "flower_read_only": "write true or false",
        "flower_url": "write the address at which people reach Flower, http or https, without a user or password, "
        "or unset it to let the status page name its own host and ULAK_FLOWER_PORT",
        "sandbox_port": "give the first of six port numbers that are free, or unset it",
        "metrics_port": "give a port number from 1 to 65535 that no other process has",
        "bind": "give an address such as 127.0.0.1 or 0.0.0.0",
        "public_url": "write the address at which browsers reach the status page, such as https://ulak.example.com, "
        "without a user, a path or a query, or unset it",
        "trusted_proxies": "give the addresses or networks of your proxies, separated by commas, such as "
        "10.0.0.5,192.168.7.0/24 (no host names, no bits beyond the prefix), or unset it to trust this host",
        "seal_key_file": "give the path of a secret file, or unset it to have one generated",
        "page_secret_file": "give the path of a secret file, or unset it to have one generated",
        "person_key_file": "give the path of a secret file, or unset it to have one generated",
        "oidc_issuer": "write the provider's issuer exactly as its /.well-known/openid-configuration says, https (http "
        "on this host only), or unset it to have no single sign-on",
        "oidc_client_id": "give the id under which Ulak is registered at the provider of the sign-on",
        "oidc_client_secret": "give the secret that the provider of the sign-on made, or unset it for a public client",
        "oidc_scopes": "write scopes separated by blanks, openid among them",
        "oidc_claim": "give the name of the claim that says who belongs to which group",
        "oidc_roles": "write GROUP=ROLE or GROUP=ROLE@ACCOUNT,ACCOUNT, separated by semicolons; roles are read, "
        "support, operate, admin",
        "oidc_ca_file": "give the path of a PEM file with certificates, or unset it to trust the system's",
        "notify_webhook_url_file": "give the path of a file with the webhook's address",
        "notify_webhook_secret_file": "give the path of a file with the secret that signs what the webhook gets",
        "notify_slack_url_file": "give the path of a file with the address of an incoming webhook of Slack or alike",
        "notify_smtp_url_file": "give the path of a file with the mail server's address",
        "notify_mail_from": "write one bare address, such as ulak@example.com",
        "notify_mail_to": "write bare addresses separated by commas, such as on-call@example.com",
        "notify_ca_file": "give the path of a PEM file with certificates, or unset it to trust the system's",
        "notify_language": "write en or tr",
        "postgres_bin": "give the folder that holds the programs postgres and initdb",
        "valkey_bin": "give the path of the program valkey-server or redis-server",
        "worker_threads": "give a number of threads from 1 to 64",
        "lease_margin_seconds": "give the seconds for writing an answer after the deadline, up to 600",
        "tick_seconds": "give the seconds between two looks at what is due, from 0.1 to 60",
        "lifeline_fd": "leave it alone: the supervisor sets it for its children",
        "ready_fd": "leave it alone: the supervisor sets it for its children",
    },
)


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


def lifeline_descriptor() -> int | None:
    """The file descriptor of the supervisor's pipe; None when nothing supervises this process."""
    return _descriptor(LIFELINE_VARIABLE)


def ready_descriptor() -> int | None:
    """The file descriptor at which a supervisor waits for this process to be ready; None where none waits."""
    return _descriptor(READY_VARIABLE)


def _descriptor(variable: str) -> int | None:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else None


def inherited_environment() -> dict[str, str]:
    """A copy of this process's environment, for a child that shall see the same settings and credentials."""
    return {**_set_aside, **os.environ}


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


def set_foreign_variables_aside() -> None:
    """Remove from this process what would configure Celery, Flower or uvicorn past our settings.

    To be called before they are imported. Credential references still find the values.
    """
    for name in [name for name in os.environ if _FOREIGN.fullmatch(name)]:
        _set_aside[name] = os.environ.pop(name)


def remove_libpq_variables() -> None:
    """Remove libpq's variables from this process and from what its children inherit: the database is embedded.

    They are meant for a server that somebody set up; `PGSSLMODE=require` or `PGHOSTADDR` would lead past ours.
    """
    for name in [name for name in os.environ if _LIBPQ.fullmatch(name)]:
        _without_use[name] = os.environ.pop(name)


def ignored_variables() -> dict[str, str]:
    """Variables that look like settings and have no effect: name to reason, without values."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    found = dict.fromkeys(sorted(_without_use), "of libpq, while the embedded PostgreSQL is used")
    for name, value in sorted(inherited_environment().items()):
        if _FOREIGN.fullmatch(name) and not (name == _TRUSTED_PROXIES_BEFORE and trusted_proxies_before()):
            found[name] = "of another program"
        elif not name.upper().startswith(PREFIX):
            continue
        elif _SERVICE_VARIABLE.fullmatch(name) or (name.endswith("_PORT") and _SERVICE_PORT.match(value.strip())):
            found[name] = "of a Kubernetes Service"
        elif name.upper() not in known:
            found[name] = "no setting of this version"
    return found


def trusted_proxies_before() -> str | None:
    """What `FORWARDED_ALLOW_IPS` says, the name of `ULAK_TRUSTED_PROXIES` until 0.1; None where it says nothing valid.

    To be removed with the next version.
    """
    try:
        return _networks(inherited_environment()[_TRUSTED_PROXIES_BEFORE])
    except (KeyError, ValueError):
        return None


def invoking_user() -> str:
    """The user of this host who runs this process; of `sudo`, the one who called it. For the record, not for rights."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    sudo = os.environ.get("SUDO_USER", "") if os.geteuid() == 0 else ""
    return sudo if re.fullmatch(r"[A-Za-z0-9._@\\-]{1,64}", sudo) else name


def libpq_options() -> str | None:
    """`PGOPTIONS`: libpq itself would not read it, since our sessions begin with options of their own."""
    return os.environ.get("PGOPTIONS")


def search_path() -> str | None:
    """Where the system looks for programs (`PATH`)."""
    return os.environ.get("PATH")


def is_reference(text: str) -> bool:
    """Whether it has the form that `resolve_reference` takes."""
    kind, colon, place = text.partition(":")
    return bool(colon) and kind in {"env", "file"} and bool(place)


def resolve_reference(reference: str, *, secret: bool = True) -> str:
    """The value behind `env:NAME` or `file:PATH`, whitespace at its ends removed.

    Raises `CredentialError` with a sentence that names the reference's kind and place, never a
    value; a literal in place of a reference is refused without being repeated. The value becomes
    known to the redaction of logs unless `secret` is false (a user name).
    """
    kind, _, place = reference.partition(":")
    if not is_reference(reference):
        raise CredentialError(
            "A credential must be a reference, env:NAME or file:PATH, and not the value itself.",
        )
    value = (_read_variable(place) if kind == "env" else _read_secret_file(Path(place))).strip()
    if not value:
        raise CredentialError(f"The credential {kind}:{place} is empty: give it a value.")
    if secret:
        register_secret(value)
    return value


def generated_secret(home: Path, name: str, make: Callable[[], str]) -> str:
    """The secret kept in `home/secrets/name`; made once, by whoever comes first.

    Of any number of processes that ask at the same moment, all get the same value: the file
    appears whole, under its name, at most once. Mode 0600 in a folder of mode 0700.
    """
    create_home(home)
    folder = home / "secrets"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / name
    if not path.exists():
        _create_once(path, make())
    value = path.read_text(encoding="utf-8").strip()
    register_secret(value)
    return value


def _read_variable(name: str) -> str:
    try:
        return inherited_environment()[name]
    except KeyError:
        raise CredentialError(
            f"The credential env:{name} is missing: set the environment variable {name}.",
        ) from None


def _read_secret_file(path: Path) -> str:
    try:
        with path.expanduser().open("rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise CredentialError(
            f"The credential file:{path} cannot be read ({error.strerror}): "
            "create the file or give this user the right to read it.",
        ) from None
    if len(content) > MAX_SECRET_BYTES:
        raise CredentialError(f"The credential file:{path} is too large to be a secret.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise CredentialError(f"The credential file:{path} is not UTF-8 text.") from None


def _create_once(path: Path, value: str) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(value + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        # A link, unlike a rename, refuses to replace what another process put there meanwhile.
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    except OSError:
        # Some mounted folders know no hard links; there the first start must not be run twice.
        draft.rename(path)
        return
    draft.unlink()


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
