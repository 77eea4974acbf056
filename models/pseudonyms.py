"""What replaces a person in an account with `recipients = "hashed"`: a keyed hash of the number.

A pseudonym is `h<prefix>-<32 letters>`: for a Turkish number the country and the operator's prefix (`h90532-…`, which
is what statistics need), for anybody else none (`h-…`), and the keyed hash by which erased people are known, too
(`ulak.models.suppression`). So an erasure covers what is reported under the pseudonym, also one made before the account
was. The same text has the same pseudonym forever; without the person key, which no row of the database reveals, nobody
can try out numbers. It holds no run of digits that is a number in any spelling, and no `:` or `%`, so keys hold it
as it is.
"""

import hmac
import re
from typing import Final

from ulak.core.credentials import CredentialError
from ulak.models.sanitize import clean_key

_MARK: Final = b"ulak erased: person\0"
MARK_BYTES: Final = 16
_LETTERS: Final = "abcdefghijklmnop"
_FORM: Final = rf"h(?:90[0-9]{{3}})?-[a-p]{{{2 * MARK_BYTES}}}"
_PSEUDONYM: Final = re.compile(_FORM)
_TURKISH: Final = re.compile(r"\+(90[0-9]{3})[0-9]{7}")
_HASHED_PREFIX: Final = re.compile(r"h(90[0-9]{3})-[a-p]+")
_CHECK: Final = b"ulak recipients: key\0"

HAS_PSEUDONYM: Final = f"(^|:){_FORM.replace('?:', '')}(:|$)"
"""A regular expression for PostgreSQL: whether a part of this key is a pseudonym."""


def operator_prefix(recipient: str | None) -> str | None:
    """The country and the operator's prefix of a Turkish number (`90532`), clear or hashed; None for anybody else."""
    found = _TURKISH.fullmatch(recipient or "") or _HASHED_PREFIX.fullmatch(recipient or "")
    return found[1] if found else None


def mark(key: bytes, person: str) -> bytes:
    """The keyed hash of one spelling of a person, or the one within a pseudonym."""
    if is_pseudonym(person):
        letters = [_LETTERS.index(each) for each in person.rpartition("-")[2]]
        return bytes(high << 4 | low for high, low in zip(letters[::2], letters[1::2], strict=True))
    return hmac.digest(key, _MARK + clean_key(person).encode("utf-8", "surrogatepass"), "sha256")[:MARK_BYTES]


def is_pseudonym(text: str) -> bool:
    """Whether the text has the form of a pseudonym."""
    return _PSEUDONYM.fullmatch(text) is not None


def holds_pseudonym(key: str) -> bool:
    """Whether a part of this key has the form of a pseudonym."""
    return any(map(is_pseudonym, key.split(":")))


def pseudonym(key: bytes, person: str) -> str:
    """What replaces this person; a pseudonym is returned unchanged. The text is taken as it is, not as a number."""
    if is_pseudonym(person):
        return person
    hashed = "".join(_LETTERS[each >> 4] + _LETTERS[each & 15] for each in mark(key, person))
    return f"h{operator_prefix(person) or ''}-{hashed}"


def key_check(key: bytes) -> bytes:
    """What an account keeps of the key with which its pseudonyms are made."""
    return hmac.digest(key, _CHECK, "sha256")[:16]


class WrongPersonKeyError(CredentialError):
    """The account's pseudonyms were made with another key: nobody would be recognised, so nothing is stored."""

    def __init__(self) -> None:
        """Say what to do."""
        super().__init__(
            "The account's recipients were hashed with another person key: give every process the same"
            " ULAK_PERSON_KEY_FILE. Until then nothing of this account is polled or stored."
        )


def check_key(key: bytes, kept: bytes) -> None:
    """`WrongPersonKeyError` where an account with this check has pseudonyms that were made with another key."""
    if not hmac.compare_digest(key_check(key), kept):
        raise WrongPersonKeyError
