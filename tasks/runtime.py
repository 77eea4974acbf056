"""What a step needs to reach the world: the database, the HTTP door, resolved credentials.

One runtime per process, shared by its threads; built when it is first used, because the threads pool of Celery
announces no start of a worker process.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from threading import Lock

from sqlalchemy import Engine, RowMapping

from core import clock
from core.budgets import Budget
from core.redaction import register_secret
from core.settings import Settings, generated_secret, resolve_reference
from core.zones import time_zone
from models.ledger.clockwatch import ClockWatch
from models.quarantine import new_key
from providers.adapter import Account, Adapter
from providers.http import HttpDoor
from providers.registry import adapter_for
from providers.way_out import WayOut, resolved
from tasks.rejections import RejectionLog

CREDENTIALS_LAST_SECONDS = 60.0
LARGE_BODIES_BYTES = 16 * 1024 * 1024


@dataclass(slots=True)
class CredentialCache:
    """Credentials behind references, read again after a minute at most, so that a rotated key needs no restart."""

    resolve: Callable[[str], str] = resolve_reference
    _values: dict[str, tuple[float, str]] = field(default_factory=dict, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def get(self, reference: str) -> str:
        """The value behind `reference`; `core.settings.CredentialError` where there is none."""
        with self._lock:
            found = self._values.get(reference)
        if found is not None and clock.boot() - found[0] < CREDENTIALS_LAST_SECONDS:
            return found[1]
        value = self.resolve(reference)
        with self._lock:
            self._values[reference] = (clock.boot(), value)
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The means of one process."""

    engine: Engine
    door: HttpDoor
    seal_key: bytes = field(repr=False)
    credentials: CredentialCache = field(default_factory=CredentialCache)
    lease_margin_seconds: float = 15.0
    tick_seconds: float = 5.0
    roll: Callable[[], float] = random.random
    rejections: RejectionLog = field(default_factory=RejectionLog)
    watch: ClockWatch = field(default_factory=ClockWatch, repr=False)
    room: Budget = field(default_factory=lambda: Budget(LARGE_BODIES_BYTES), repr=False)
    """Of large bodies that were pushed or handed over, while they are read and stored."""

    def account(self, row: RowMapping) -> Account:
        """The account as its adapter sees it; `CredentialError` where a reference leads nowhere."""
        credentials = {name: self.credentials.get(reference) for name, reference in row["credentials"].items()}
        account = replace(account_without_credentials(row), credentials=credentials)
        derived = adapter_for(row["provider"]).record.derived_secret
        if derived is not None:
            register_secret(derived(credentials))
        return account

    def way_out(self, row: RowMapping) -> WayOut:
        """How the account's requests leave, made ready; `CredentialError` where its `ca_file` or `proxy` is of no use.

        Only for who asks the provider: a process that receives its callbacks need not see either.
        """
        way_out = WayOut(ca_file=row["ca_file"], proxy=resolved(row["proxy"], self.credentials.get))
        self.door.prepare(way_out)
        return way_out


def account_without_credentials(row: RowMapping) -> Account:
    """The account of a row for what makes no request: reading again what is stored."""
    record = adapter_for(row["provider"]).record
    return Account(
        id=row["id"],
        provider=row["provider"],
        base_url=row["base_url"],
        timezone=time_zone(row["timezone"]),
        credentials={},
        options={option.name: option.default for option in record.options} | row["options"],
        lookback_days=int(row["poll"].get("lookback_days", record.lookback_days)),
        validity_hours=float(row["options"].get("validity_hours", record.validity_hours)),
        learned=row["learned"],
    )


def adapter_of(row: RowMapping) -> Adapter:
    """The adapter of an account's row."""
    return adapter_for(row["provider"])


def seal_key(settings: Settings) -> bytes:
    """The key that seals the quarantine: of the configured file, or generated in the home."""
    if settings.seal_key_file is not None:
        return resolve_reference(f"file:{settings.seal_key_file}").encode()
    return generated_secret(settings.home, "seal_key", lambda: new_key().decode()).encode()
