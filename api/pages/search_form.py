"""A search of the deliveries: its fields, its form and its address.

A search may hold people's numbers, so it travels in the address only sealed: no history, log or referrer can reveal
them. Filters that identify no person appear in plain text in the address, so that they can be bookmarked.
"""

import re
import zlib
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Final
from urllib.parse import urlencode

import msgspec
from cryptography.fernet import Fernet, InvalidToken

from ulak.models.access import Role
from ulak.models.meanings import Outcome
from ulak.models.vocabulary import Granularity, Reason, Status
from ulak.providers.phone_numbers import lookup_form, person, trimmed
from ulak.workers.audit_recording import people_in

SEALED_TTL_SECONDS: Final = 12 * 3600
MAX_WORD_LENGTH: Final = 200
MAX_LISTED: Final = 200
"""So many numbers, or references, may be looked for at once."""
MAX_SEALED_LENGTH: Final = 16_000
MAX_OPENED_BYTES: Final = 64 * 1024
STATUSES: Final = tuple(word.value for word in Status)
REASONS: Final = tuple(word.value for word in Reason)
OUTCOMES: Final = tuple(word.value for word in Outcome)
KINDS: Final = tuple(word.value for word in Granularity)
NONE: Final = "none"
"""As a reason: rows without one."""
_BETWEEN: Final = re.compile(r"[\r\n;,]+")
_LINES: Final = re.compile(r"[\r\n]+")
_RANGE: Final = re.compile(r"\+[0-9]{1,6}|none")


class Search(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that is given must match."""

    recipient: str = ""
    """One number in any usual spelling, or several, one a line or between commas."""
    client_ref: str = ""
    """One reference, or several, one a line."""
    id: str = ""
    """A row id or a provider's key."""
    status: str = ""
    outcome: str = ""
    reason: str = ""
    range: str = ""
    """The first digits of the number, as `ulak.models.statistics` counts them."""
    kind: str = ""
    account: str = ""
    since: str = ""
    until: str = ""
    """Days, both inclusive."""

    @property
    def recipients(self) -> Sequence[str]:
        """The numbers, as they were given."""
        return _listed(_BETWEEN, self.recipient)

    @property
    def references(self) -> Sequence[str]:
        """The references."""
        return _listed(_LINES, self.client_ref)

    @property
    def is_named(self) -> bool:
        """Whether it names deliveries, not only kinds of them."""
        return bool(self.recipients or self.references or self.id)

    @property
    def query(self) -> str:
        """The filters as a query, without what names deliveries."""
        given = msgspec.structs.asdict(self)
        return urlencode({name: given[name] for name in _FILTERS if given[name]})


_FILTERS: Final = ("account", "since", "until", "outcome", "status", "reason", "range", "kind")
_WORDS: Final[Mapping[str, Sequence[str]]] = {
    "status": STATUSES,
    "outcome": OUTCOMES,
    "reason": (*REASONS, NONE),
    "kind": KINDS,
}


def _listed(between: re.Pattern[str], text: str) -> Sequence[str]:
    words = (trimmed(word)[:MAX_WORD_LENGTH] for word in between.split(text))
    return list(dict.fromkeys(word for word in words if word))[:MAX_LISTED]


def search_of(fields: Mapping[str, str]) -> Search:
    """The search that a form or an address asks for; what cannot be is left out."""
    # PostgreSQL knows no text with a zero in it.
    given = {name: fields.get(name, "").replace("\x00", "") for name in Search.__struct_fields__}
    words = {name: trimmed(word)[:MAX_WORD_LENGTH] for name, word in given.items()}
    words |= {name: given[name].strip() for name in ("recipient", "client_ref")}
    for name, known in _WORDS.items():
        words[name] = words[name] if words[name] in known else ""
    words["range"] = words["range"] if _RANGE.fullmatch(words["range"]) else ""
    words |= {name: words[name] if day_of(words[name]) else "" for name in ("since", "until")}
    return Search(**words)


def day_of(text: str) -> date | None:
    """A day as forms write it; None for anything else."""
    try:
        found = date.fromisoformat(text)
    except ValueError:
        return None
    # Days whose neighbours PostgreSQL and Python know, in every zone.
    return found if date.min.replace(year=1970) <= found < date.max.replace(year=9000) else None


class Seal:
    """Seals searches for the address."""

    def __init__(self, box: Fernet) -> None:
        """`box`: for this purpose alone."""
        self._fernet = box

    def close(self, search: Search) -> str:
        """The search, unreadable."""
        return self._fernet.encrypt(zlib.compress(msgspec.json.encode(search))).decode()

    def open(self, sealed: str) -> Search | None:
        """The search; None where it is too old or not ours."""
        if len(sealed) > MAX_SEALED_LENGTH:
            return None
        try:
            packed = self._fernet.decrypt(sealed.encode(), ttl=SEALED_TTL_SECONDS)
            return msgspec.json.decode(zlib.decompressobj().decompress(packed, MAX_OPENED_BYTES), type=Search)
        except (InvalidToken, ValueError, zlib.error, msgspec.MsgspecError):
            return None


def people_sought(search: Search) -> list[str]:
    """Whom the search is for: recipients, and the numbers that references or the id are or hold."""
    named = [*map(person, search.recipients), lookup_form(search.id), *people_in(*search.references, search.id)]
    return list(dict.fromkeys(each for each in named if each))


def needed_role(search: Search) -> Role:
    """The role that the search takes. By id everybody may search: what each may find is decided row by row.

    A range of numbers beside a masked number is more of it than the mask leaves.
    """
    is_ranged = search.range not in {"", NONE}
    return Role.SUPPORT if search.recipients or is_ranged or people_in(*search.references) else Role.READ
