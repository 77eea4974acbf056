"""The settings, each described once: type, default, meaning, example, and what to do about a wrong value.

`deploy/env.example` and `docs/reference/configuration.md` are written from these fields and `ulak.core.api_settings`
(`ulak.providers.handbook`). A group's docstring is a heading there, and the note below it. The first paragraph of a
description goes into a table, so it has at most 25 words; the others follow below. Links start in `docs/reference/`.
"""

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, SecretStr

from ulak.core.addresses import networks, origin, server_address, web_address
from ulak.core.setting_types import GENERATED, GIVE_SECRET_FILE, AbsolutePath, Group, Port, setting

_ENCODE: Final = "percent-encode the password's special characters (@ is %40)"
_GIVE_PORT: Final = "give a port number from 1 to 65535"


class Files(Group):
    """Files."""

    home: AbsolutePath = setting(
        "Embedded data, logs of `ulak up`, generated secrets.", default=Path(".ulak"), remedy="give a folder path"
    )
    accounts: AbsolutePath | None = setting(
        "The accounts file that `ulak up` applies. Unset: `accounts.toml` where it is present.",
        remedy="give the path of an accounts.toml",
        example="/etc/ulak/accounts.toml",
    )


class Logs(Group):
    """Logs."""

    log: Literal["console", "json"] | None = setting(
        "`console` for people, `json` for machines. Unset: `console` at a terminal, else `json`.",
        remedy="write console or json, or unset it",
        example="json",
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "`debug`, `info`, `warning` or `error`.", default="info", remedy="write debug, info, warning or error"
    )


class Access(Group):
    """Addresses and ports."""

    public_url: Annotated[str, AfterValidator(origin)] | None = setting(
        "How browsers reach the status page. `https`: its cookies are Secure, and browsers use only https from then on."
        "\n\nWith `https` the cookies are bound to this host alone (`__Host-`) and responses carry HSTS. Unset: as "
        "each request arrives, which behind a proxy only `ULAK_TRUSTED_PROXIES` can reveal.",
        remedy="write the address at which browsers reach the status page, such as https://ulak.example.com, "
        "without a user, a path or a query, or unset it",
        example="https://ulak.example.com",
    )
    trusted_proxies: Annotated[str, AfterValidator(networks)] | None = setting(
        "Addresses or networks of your proxies, separated by commas. Unset: this host alone."
        "\n\nOnly their `X-Forwarded-*` headers count: they decide which caller `allowed_ips` of an account and the "
        "log see. `*` trusts everybody who reaches the port. `FORWARDED_ALLOW_IPS`, the name until 0.1, is still read, "
        "with a warning.",
        remedy="give the addresses or networks of your proxies, separated by commas, such as "
        "10.0.0.5,192.168.7.0/24 (no host names, no bits beyond the prefix), or unset it to trust this host",
        example="10.0.0.5,192.168.7.0/24",
    )
    bind: str = setting(
        "The address that API and Flower listen at.",
        default="127.0.0.1",
        remedy="give an address such as 127.0.0.1 or 0.0.0.0",
    )
    api_port: Port = setting("The API's port. Unset: 8000, or the next free one.", remedy=_GIVE_PORT, example="8000")
    flower_port: Port = setting("Flower's port. Unset: 5555, or the next free one.", remedy=_GIVE_PORT, example="5555")
    flower_url: Annotated[str, AfterValidator(web_address)] | None = setting(
        "Where people reach Flower, for the status page's link to it. Unset: the page's host at `ULAK_FLOWER_PORT`.",
        remedy="write the address at which people reach Flower, http or https, without a user or password, "
        "or unset it to let the status page name its own host and ULAK_FLOWER_PORT",
        example="https://flower.internal.example/",
    )
    flower_read_only: bool = setting(
        "`true`: Flower only shows: its pages and API cannot call or revoke tasks, or shut down workers.",
        default=False,
        remedy="write true or false",
    )
    metrics_port: Port = setting(
        "Where a worker serves its own `/metrics`. Unset: nowhere."
        "\n\nEach worker needs a port of its own; `ulak up` counts upwards from this one. The API serves its own "
        "figures and those of the whole system at its `/metrics`.",
        remedy=f"{_GIVE_PORT} that no other process has",
        example="9600",
    )
    sandbox_port: Port = setting(
        "The control port of the sandbox that `ulak up` starts without accounts. Unset: 9400, or the next free one."
        "\n\nThe ports of the five simulated providers follow it.",
        remedy="give the first of six port numbers that are free, or unset it",
        example="9400",
    )


class Load(Group):
    """Load."""

    worker_threads: Annotated[int, Field(ge=1, le=64)] = setting(
        "Threads of one worker process, 1 to 64: the number of concurrent requests to providers.",
        default=16,
        remedy="give a number of threads from 1 to 64",
    )
    tick_seconds: Annotated[float, Field(ge=0.1, le=60)] = setting(
        "How often beat makes workers look for due work.",
        default=5.0,
        remedy="give the seconds between two searches for due work, from 0.1 to 60",
    )
    lease_margin_seconds: Annotated[float, Field(gt=0, le=600)] = setting(
        "How long a worker has after a request's deadline to store the response, before another worker may take over.",
        default=15.0,
        remedy="give the seconds for storing a response after the deadline, above 0, up to 600",
    )
    database_prepare: bool = setting(
        "Whether workers keep prepared statements, which saves PostgreSQL up to half of its work for them."
        "\n\n`false`: behind a pooler that lends one session to several clients and yet passes on the settings with "
        "which a session begins. Most do not, and workers notice that.",
        default=True,
        remedy="write true, or false where a pooler lends one session to several clients",
    )


class Embedded(Group):
    """Embedded servers.

    Programs to run in place of those from the `embedded` extra.
    """

    postgres_bin: AbsolutePath | None = setting(
        "The folder that holds `postgres` and `initdb`.",
        remedy="give the folder that holds the programs postgres and initdb",
        example="/usr/lib/postgresql/15/bin",
    )
    valkey_bin: AbsolutePath | None = setting(
        "`valkey-server` or `redis-server`.",
        remedy="give the path of the program valkey-server or redis-server",
        example="/usr/bin/redis-server",
    )


class Database(Group):
    """PostgreSQL.

    Unset means an embedded server, which `ulak up` starts (not in production).
    """

    file = "database.env"
    database_url: Annotated[SecretStr, AfterValidator(server_address("postgresql", "postgres"))] | None = setting(
        "PostgreSQL 15 to 18. User and password percent-encoded: `@` is `%40`, `/` `%2F`, `#` `%23`, `?` `%3F`."
        "\n\n`%` itself is `%25`. What the address leaves open, libpq's variables decide: `PGPASSFILE`, `PGSSLMODE` … "
        "([connect to PostgreSQL](../how-to/connect-to-postgresql.md)). To another host use `sslmode=verify-full`: "
        "otherwise numbers and the password may be readable on the way, or reach an impostor of the server.",
        remedy="write it as postgresql://user:password@host:5432/database and "
        f"{_ENCODE}, or unset it to use the embedded PostgreSQL",
        example="postgresql://ulak:password@postgres:5432/ulak?sslmode=verify-full&sslrootcert=/etc/ssl/company-ca.pem",
    )


class Broker(Group):
    """Redis or Valkey.

    Unset means an embedded server, which `ulak up` starts (not in production).
    """

    file = "redis.env"
    redis_url: Annotated[SecretStr, AfterValidator(server_address("redis", "rediss"))] | None = setting(
        "Redis or Valkey with `noeviction`, its own instance or database; `rediss://` for TLS. User and password "
        "percent-encoded."
        "\n\nThe system's authorities are trusted, or those of a file: "
        "`rediss://redis.example:6379/0?ssl_ca_certs=/etc/ssl/company-ca.pem` (`ssl_certfile` and `ssl_keyfile` for a "
        "client's certificate).",
        remedy="write it as redis://user:password@host:6379/0 or rediss://host:6379/0 and "
        f"{_ENCODE}, or unset it to use the embedded Valkey",
        example="redis://:password@valkey:6379/0",
    )


class Keys(Group):
    """Keys.

    The variables that `accounts.toml` refers to (`env:NAME`) belong in this file, too.
    """

    file = "providers.env"
    seal_key_file: AbsolutePath | None = setting(
        f"The key that seals quarantined bytes: the same file for every worker and API. {GENERATED}"
        "\n\nOne Fernet key a line while it is rotated, else one ([rotate secrets](../how-to/rotate-secrets.md)): "
        "`python -c 'import base64, os; print(base64.urlsafe_b64encode(os.urandom(32)).decode())'`.",
        remedy=GIVE_SECRET_FILE,
        example="/run/secrets/ulak_seal_key",
    )
    person_key_file: AbsolutePath | None = setting(
        f"The key of pseudonyms in the audit record, and of the list of erased people. {GENERATED}"
        "\n\nOne file for every API process and worker and for the user who runs `ulak erase`, `ingest`, `rebuild`, "
        "`events` or `accounts apply`; never changed ([rotate secrets](../how-to/rotate-secrets.md)). At least 32 "
        "characters: `openssl rand -base64 32`.",
        remedy=GIVE_SECRET_FILE,
        example="/run/secrets/ulak_person_key",
    )


class Supervised(Group):
    """What the supervisor sets for its children."""

    file = ""
    lifeline_fd: Annotated[int, Field(ge=3)] | None = setting(
        "The file descriptor of the supervisor's pipe.",
        remedy="leave it alone: the supervisor sets it for its children",
    )
    ready_fd: Annotated[int, Field(ge=3)] | None = setting(
        "The file descriptor at which the supervisor waits for the process to be ready.",
        remedy="leave it alone: the supervisor sets it for its children",
    )
