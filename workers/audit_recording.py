"""How a process records who did, saw or erased what; `ulak.models.events` defines what is stored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Final

from sqlalchemy import Engine, RowMapping
from sqlalchemy.exc import SQLAlchemyError

from ulak.core import clock
from ulak.core.credentials import CredentialError
from ulak.core.logging import get_logger, origin
from ulak.models.database import transaction
from ulak.models.events import Event, person_mark, record
from ulak.models.keys import join_key, split_key
from ulak.models.pseudonyms import pseudonym
from ulak.models.vocabulary import Granularity
from ulak.providers.phone_numbers import e164, lookup_form, person, same_number_spellings

log = get_logger(__name__)

HOUR_SECONDS: Final = 3600.0
MAX_REMEMBERED: Final = 10_000
_MAX_PARTS: Final = 4
"""Of a key that names a person."""


Row = Mapping[str, Any] | RowMapping


def people_of(row: Row) -> list[str]:
    """Whom the row is about: its recipient; of a conversation both sides, which its key names too."""
    people = [row["recipient"]]
    if row.get("granularity") == Granularity.CONVERSATION.value:
        people += [row["parent_key"], *split_key(row["provider_key"])[:2]]
    return list(dict.fromkeys(each for each in people if each))


def people_in(*words: str | None) -> list[str]:
    """The numbers within keys and references: a search by such a word is a search for a person.

    A key of several parts begins with an id of the provider, so digits alone are a foreign number only in a later part;
    a word that is one whole number cannot be distinguished from an id.
    """
    parts = ((place, part) for word in words if word for place, part in enumerate(split_key(word)))
    numbers = (
        lookup_form(part) if place and part.isascii() and part.isdigit() else e164(part) for place, part in parts
    )
    return list(dict.fromkeys(number for number in numbers if number is not None))


def forms_of(recorder: "Recorder", ident: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Other forms of what may be a person or a key, as `ulak.models.lookups.find_by_any` takes them.

    Of a number only E.164, since digits alone may be any id.
    """
    named = (ident, *filter(None, (lookup_form(ident),)))
    return (*named, *(form for each in named for form in recorder.pseudonyms(each))), recorder.key_forms(ident)


@dataclass(slots=True)
class Recorder:
    """Of one process. For any number of threads."""

    engine: Engine
    key: Callable[[], bytes] = field(repr=False)
    _noted: dict[tuple[str, ...], float] = field(default_factory=dict, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def mark(self, whom: str | None) -> bytes | None:
        """The identifier of this person; None for an empty value, and without a key, which is logged."""
        if not whom:
            return None
        try:
            return self.require_mark(whom)
        except CredentialError as error:
            log.warning("event.person_unknown", why=str(error))
            return None

    def marks(self, people: Sequence[str]) -> list[bytes | None]:
        """The identifiers of these people; one None if there is none."""
        return list(dict.fromkeys(self.mark(each) for each in people)) or [None]

    def spellings(self, *people: str) -> tuple[str, ...]:
        """All forms under which these people may be stored: numbers and ids, and the pseudonyms of all of them."""
        clear = tuple(dict.fromkeys(form for each in people for form in same_number_spellings(each)))
        return tuple(dict.fromkeys((*clear, *self.pseudonyms(*clear))))

    def pseudonyms(self, *people: str) -> tuple[str, ...]:
        """What replaces each of these in accounts with hashed recipients; nothing where there is no person key."""
        try:
            key = self.key()
        except CredentialError as error:
            log.warning("search.pseudonyms_unknown", why=str(error))
            return ()
        return tuple(pseudonym(key, each) for each in people)

    def key_forms(self, *keys: str) -> tuple[str, ...]:
        """These keys of deliveries or values of ids, as they are and with pseudonyms for people in their parts."""
        found = dict.fromkeys(keys)
        for each in keys:
            parts = split_key(each)
            if not 1 < len(parts) <= _MAX_PARTS:
                continue
            hidden = self.pseudonyms(*parts[:2])
            if not hidden:
                continue
            for named in ((0,), (1,), (0, 1)):
                found[join_key(*(hidden[i] if i in named else part for i, part in enumerate(parts)))] = None
        return tuple(found)

    def every_mark(self, whom: str) -> list[bytes]:
        """The identifiers of this person, also under its pseudonyms; `CredentialError` where there is no key."""
        return list(dict.fromkeys(person_mark(self.key(), form) for form in (person(whom), *self.spellings(whom))))

    def require_mark(self, whom: str) -> bytes:
        """The same; `CredentialError` where there is no key."""
        return person_mark(self.key(), person(whom))

    def add(self, *happened: Event) -> None:
        """Record these, now. Raises the database's errors: what must be recorded first is not done then."""
        with transaction(self.engine) as connection:
            record(connection, *happened)

    def try_add(self, *happened: Event) -> bool:
        """Record all of these where that is possible; False, and a line in the log for each, where no write is taken.

        For bulk reads by programs, which continue while PostgreSQL is read-only.
        """
        try:
            self.add(*happened)
        except SQLAlchemyError as error:
            for event in happened:
                log.warning(
                    "event.not_recorded",
                    action=event.action.value,
                    actor=event.actor.caller,
                    account=event.account,
                    delivery=event.delivery_id,
                    error=origin(error),
                )
            return False
        return True

    def add_hourly(self, event: Event) -> None:
        """The same, once an hour for each actor, action and account: for what programs do all the time."""
        key, now = (event.actor.kind, event.actor.name, event.action, event.account or ""), clock.boot()
        with self._lock:
            last = self._noted.get(key)
            if last is not None and now - last < HOUR_SECONDS:
                return
        if not self.try_add(event):
            return
        with self._lock:
            if len(self._noted) >= MAX_REMEMBERED:
                self._noted.clear()
            self._noted[key] = now
