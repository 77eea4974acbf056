"""The one error tree of talking to a provider, named by what to do next.

    ProviderError
    ├── TryAgainSoon        the network, a 5xx, a time-out: ask again after a back-off
    ├── TryAgainAt          the provider named a moment (an order that is scheduled for later)
    ├── SlowDown            429, "too many at once": the whole account waits; not a failed attempt
    ├── PauseAccount        wrong key, missing right, wrong IP: a person must act; never hammer with a wrong key
    ├── RequestIsWrong      this request can never succeed: dead; the account continues
    ├── AnswerNotUnderstood the body is not what the documents say: quarantined, asked again
    └── OurBug              our own code failed on this fetch

The message of an error never holds a URL, a key, a number or a body: codes and our own words only. What the provider
itself reported is kept beside it, as `detail`, after it went through `readable_detail`.
"""

import re
import unicodedata
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from ulak.core.redaction import MASK, redact_text
from ulak.providers.adapter import FetchSpec

DETAIL_LIMIT: Final = 300
"""Characters of a provider's own words that are kept."""
SAYS: Final = " The provider says: "
"""Stands between our sentence and the provider's own words."""
_READ_AT_MOST: Final = 4000
_ADDRESS: Final = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s/?#\"'<>]+)[/?#][^\s\"'<>]*")
_MAILBOX: Final = re.compile(r"[^\s@<>\"'(),;:]+@(?=[^\s@]+\.)")


def readable_detail(text: str | None) -> str | None:
    """A provider's words as operators may see them, on one line; None where nothing is left.

    Masked: credentials, phone numbers, the paths and queries of URLs, the names of mailboxes. Cut to `DETAIL_LIMIT`.
    """
    if text is None:
        return None
    if len(text) > _READ_AT_MOST:
        # Half a number would not be known as one.
        text = text[:_READ_AT_MOST].rpartition(" ")[0]
    visible = (
        " " if (kind := unicodedata.category(character)) in {"Cc", "Zl", "Zp"} else "" if kind[0] == "C" else character
        for character in text
    )
    line = redact_text(" ".join("".join(visible).split()))
    line = _MAILBOX.sub(f"{MASK}@", _ADDRESS.sub(rf"\1/{MASK}", line))
    return (line if len(line) <= DETAIL_LIMIT else f"{line[: DETAIL_LIMIT - 1]}…") or None


class ProviderError(Exception):
    """A fetch did not get its answer. `code` is the provider's own code where there is one.

    `learned` is what the refusal taught about the account (Diyalog's clock offset), to be kept in the account's row.
    """

    def __init__(self, message: str, *, code: str | None = None, learned: Mapping[str, Any] | None = None) -> None:
        """`message`: our own sentence, safe to log and to store."""
        super().__init__(message)
        self.message = message
        self.code = code
        self.learned: Mapping[str, Any] = learned or {}
        self.detail: str | None = None

    def quote(self, text: str | None) -> None:
        """Keep the provider's own message, cleaned by `readable_detail`."""
        self.detail = readable_detail(text)

    @property
    def explained(self) -> str:
        """The message, and the provider's words where it has any: what operators are shown."""
        return f'{self.message}{SAYS}"{self.detail}"' if self.detail else self.message


class TryAgainSoon(ProviderError):
    """A passing fault (network, server error, time-out): ask again after a back-off."""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        learned: Mapping[str, Any] | None = None,
        is_outage: bool = True,
    ) -> None:
        """`is_outage`: whether it counts for the account's breaker; False for an error about this one request."""
        super().__init__(message, code=code, learned=learned)
        self.is_outage = is_outage


class TryAgainAt(ProviderError):
    """The answer will be there at `at`, which the provider named; not a failed attempt."""

    def __init__(
        self,
        message: str,
        *,
        at: datetime | None = None,
        after_seconds: float | None = None,
        code: str | None = None,
    ) -> None:
        """`at`: an aware time, or `after_seconds` from now."""
        super().__init__(message, code=code)
        self.at = at
        self.after_seconds = after_seconds


class SlowDown(ProviderError):
    """The provider throttles the account. `retry_after_seconds` from its header, or None."""

    def __init__(self, message: str, *, retry_after_seconds: float | None = None, code: str | None = None) -> None:
        """`retry_after_seconds`: what the provider asked for; None leaves it to the account's back-off."""
        super().__init__(message, code=code)
        self.retry_after_seconds = retry_after_seconds


class PauseAccount(ProviderError):
    """The account's credentials, rights or address are refused: pause it and report the reason to operators."""


class RequestIsWrong(ProviderError):
    """This one request can never succeed; repeating it is useless. The account continues."""


class AnswerNotUnderstood(ProviderError):
    """The answer is not what the documents describe. `raw` goes to quarantine, the fetch is retried."""

    def __init__(
        self, message: str, *, raw: bytes = b"", code: str | None = None, restart: FetchSpec | None = None
    ) -> None:
        """`raw`: the bytes to keep; never shown. `restart`: the first page, where the pages are wrong only together.

        With `restart` that page is requested next, in a new round; each round that ends so counts as one attempt.
        """
        super().__init__(message, code=code)
        self.raw = raw
        self.restart = restart


class OurBug(ProviderError):
    """Our own code failed; the text names the exception's class only."""


_CLASSES: Final = "|".join(("LeaseExpired", *(kind.__name__ for kind in ProviderError.__subclasses__())))
_CLASS_NAME: Final = re.compile(rf"\b(?:{_CLASSES}): ")


def as_sentence(text: str | None) -> str:
    """A stored error for people: its sentence, without the class that determines how Ulak handles it."""
    return _CLASS_NAME.sub("", text or "")
