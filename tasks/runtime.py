"""What a step needs to reach the world: the database, the HTTP door, resolved credentials.

One runtime per process, shared by its threads; built when it is first used, because the threads pool of Celery
announces no start of a worker process.
"""

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from secrets import token_urlsafe
from threading import Event, Lock

from sqlalchemy import Engine

from ulak.core import clock
from ulak.core.credentials import CredentialError, generated_secret, resolve_reference
from ulak.core.memory_budget import Budget
from ulak.core.redaction import register_secret
from ulak.core.secret_strength import is_example
from ulak.core.settings import Settings
from ulak.core.time_zones import time_zone
from ulak.models.account import StoredAccount
from ulak.models.ledger.clockwatch import ClockWatch
from ulak.models.ledger.taking import LeaseHolder
from ulak.models.pseudonyms import check_key as check_person_key
from ulak.models.pseudonyms import pseudonym
from ulak.models.quarantine import check_key, new_key
from ulak.models.report import Report
from ulak.models.suppression import Suppressions
from ulak.models.vocabulary import Recipients
from ulak.providers import effective
from ulak.providers.adapter import Account
from ulak.providers.credential_echoes import secrets_of, without_echoes
from ulak.providers.effective import record_of
from ulak.providers.egress import Egress, resolved
from ulak.providers.http import HttpDoor
from ulak.providers.pseudonymiser import Pseudonymiser
from ulak.tasks.rejections import RejectionLog

CREDENTIALS_TTL_SECONDS = 60.0
SEAL_KEY = "seal_key"
"""The name of a file in the home."""
PERSON_KEY = "person_key"
"""Likewise."""
MIN_PERSON_KEY_LENGTH = 32
LARGE_BODIES_BYTES = 16 * 1024 * 1024


@dataclass(slots=True)
class CredentialCache:
    """Credentials behind references, read again after a minute at most, so that a rotated key needs no restart."""

    resolve: Callable[[str], str] = resolve_reference
    _values: dict[str, tuple[float, str]] = field(default_factory=dict, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def get(self, reference: str) -> str:
        """The value behind `reference`; `ulak.core.credentials.CredentialError` where there is none."""
        with self._lock:
            found = self._values.get(reference)
        if found is not None and clock.boot() - found[0] < CREDENTIALS_TTL_SECONDS:
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
    suppressions: Suppressions = field(default_factory=Suppressions)
    """The erased people, of whom nothing old is stored."""
    rejections: RejectionLog = field(default_factory=RejectionLog)
    watch: ClockWatch = field(default_factory=ClockWatch, repr=False)
    stopping: Event = field(default_factory=Event, repr=False)
    """Set when the process is stopping: a drain ends with the call that it makes."""

    room: Budget = field(default_factory=lambda: Budget(LARGE_BODIES_BYTES), repr=False)
    """Of large bodies that were pushed or handed over, while they are read and stored."""

    @property
    def holder(self) -> LeaseHolder:
        """This process as one that takes fetches."""
        return LeaseHolder(watch=self.watch, lease_margin_seconds=self.lease_margin_seconds)

    def account(self, stored: StoredAccount) -> Account:
        """The account as its adapter sees it.

        `CredentialError` where a reference leads nowhere, or what is to be hashed cannot be (`hidden_people`).
        """
        self.pseudonymiser_of(stored)
        credentials = {name: self.credentials.get(reference) for name, reference in stored.credentials.items()}
        account = replace(account_without_credentials(stored), credentials=credentials)
        derived = record_of(stored).derived_secret
        if derived is not None:
            register_secret(derived(credentials))
        return account

    def without_echoes(self, stored: StoredAccount, reports: Sequence[Report]) -> Sequence[Report]:
        """The reports as they may be stored: the account's own credentials in them are masked.

        A credential that cannot be resolved here was not in any request of this process.
        """
        credentials: dict[str, str] = {}
        for name, reference in stored.credentials.items():
            with suppress(CredentialError):
                credentials[name] = self.credentials.get(reference)
        return without_echoes(reports, secrets_of(record_of(stored), credentials))

    def pseudonymiser_of(self, stored: StoredAccount) -> Pseudonymiser | None:
        """What replaces people in all that is stored of the account; None where its recipients are clear.

        `CredentialError` where there is no person key, or another one than the account's pseudonyms were made with.
        """
        if stored.recipients != Recipients.HASHED:
            return None
        key = self.suppressions.key()
        check_person_key(key, stored.recipients_key or b"")
        return Pseudonymiser(record_of(stored), partial(pseudonym, key))

    def egress(self, stored: StoredAccount) -> Egress:
        """How the account's requests leave, made ready; `CredentialError` where its `ca_file` or `proxy` is of no use.

        Only for who asks the provider: a process that receives its callbacks need not see either.
        """
        egress = Egress(ca_file=stored.ca_file, proxy=resolved(stored.proxy, self.credentials.get))
        self.door.prepare(egress)
        return egress


def account_without_credentials(stored: StoredAccount) -> Account:
    """The account for what makes no request: reading again what is stored."""
    return Account(
        id=stored.id,
        provider=stored.provider,
        base_url=stored.base_url,
        timezone=time_zone(stored.timezone),
        credentials={},
        options=effective.options(stored),
        lookback_days=effective.lookback_days(stored),
        learned=stored.learned,
    )


def seal_key(settings: Settings) -> bytes:
    """What seals the quarantine, in the form of `ulak.models.quarantine`: the configured file, else the home's own.

    `CredentialError` where the file holds anything else than keys.
    """
    place = settings.seal_key_file or settings.home / "secrets" / SEAL_KEY
    if settings.seal_key_file is not None:
        text = resolve_reference(f"file:{place}")
    else:
        text = generated_secret(settings.home, SEAL_KEY, lambda: new_key().decode())
    for each in text.split():
        register_secret(each)
    try:
        check_key(text.encode())
    except ValueError:
        raise CredentialError(
            f"The seal key in {place} is none: write one Fernet key a line, the one that seals first "
            "(deploy/env.example says how one is made)."
        ) from None
    return text.encode()


def person_key(settings: Settings) -> bytes:
    """What makes people in `events` and `suppressions` unreadable: of the configured file, or generated in the home.

    `CredentialError` where there is none: the file holds no secret, or the home cannot be written.
    """
    if settings.person_key_file is None:
        try:
            return generated_secret(settings.home, PERSON_KEY, lambda: token_urlsafe(32)).encode()
        except OSError as error:
            raise CredentialError(
                f"No person key can be kept in {settings.home} ({error.strerror}): set ULAK_PERSON_KEY_FILE."
            ) from None
    secret = resolve_reference(f"file:{settings.person_key_file}")
    if len(secret) < MIN_PERSON_KEY_LENGTH or is_example(secret):
        fault = "an example" if is_example(secret) else "too short"
        raise CredentialError(
            f"The secret in {settings.person_key_file} is {fault}: give at least {MIN_PERSON_KEY_LENGTH} characters."
        )
    return secret.encode()
