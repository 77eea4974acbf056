"""Which database and which Redis the commands of this process talk to."""

import os

from pydantic import SecretStr
from sqlalchemy import Engine

from ulak.core.settings import Settings
from ulak.local.embedded.postgres import PostgresServer
from ulak.local.embedded.valkey import ValkeyServer
from ulak.models.database import make_engine
from ulak.models.overview import ProviderPace
from ulak.providers.registry import ADAPTERS
from ulak.tasks.runtime import Runtime
from ulak.workers.runtime_factory import build_runtime


class NothingRunningError(Exception):
    """No server is running; the text says what to do."""


def database_url(settings: Settings) -> str:
    """`ULAK_DATABASE_URL`, or the embedded server that runs in the home; else `NothingRunningError`."""
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    return _running(settings, PostgresServer(settings.home).running_url(), "ULAK_DATABASE_URL")


def redis_url(settings: Settings) -> str:
    """`ULAK_REDIS_URL`, or the embedded server that runs in the home; else `NothingRunningError`."""
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    return _running(settings, ValkeyServer(settings.home).running_url(), "ULAK_REDIS_URL")


def _running(settings: Settings, url: str | None, variable: str) -> str:
    if url is None:
        secrets = settings.home / "secrets"
        if secrets.is_dir() and not os.access(secrets, os.R_OK | os.X_OK):
            raise NothingRunningError(f"Only its owner may read {secrets}: be that user, or set {variable}.")
        raise NothingRunningError(f"Nothing is running in {settings.home}: start `ulak up`, or set {variable}.")
    return url


def engine_for(settings: Settings, *, application_name: str = "ulak-cli") -> Engine:
    """A small engine for a command; connects when it is first used."""
    return make_engine(database_url(settings), pool_size=2, application_name=application_name)


def runtime_for(settings: Settings, *, threads: int = 1, application_name: str = "ulak-cli") -> Runtime:
    """A runtime for this process's steps, on the database that `database_url` finds."""
    known = settings.model_copy(update={"database_url": SecretStr(database_url(settings))})
    return build_runtime(known, threads=threads, application_name=application_name)


def paces() -> dict[str, ProviderPace]:
    """What `ulak.models.overview.unsettled` needs to know of each provider."""
    return {
        name: ProviderPace(
            every_seconds=adapter.record.every_seconds, sweeps=adapter.record.sweep_window_days is not None
        )
        for name, adapter in ADAPTERS.items()
    }
