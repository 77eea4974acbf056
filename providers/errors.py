"""The one error tree of talking to a provider, named by what to do next.

    ProviderError
    ├── TryAgainSoon        the network, a 5xx, a time-out: ask again after a back-off
    ├── TryAgainAt          the provider named a moment (an order that is scheduled for later)
    ├── SlowDown            429, "too many at once": the whole account waits; not a failed attempt
    ├── PauseAccount        wrong key, missing right, wrong IP: a person must act; never hammer with a wrong key
    ├── RequestIsWrong      this request can never succeed: dead, the account goes on
    ├── AnswerNotUnderstood the body is not what the documents say: quarantined, asked again
    └── OurBug              our own code failed on this fetch

The text of an error never holds a URL, a key, a number or a body: codes and our own words only.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from providers.adapter import FetchSpec


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


class TryAgainSoon(ProviderError):
    """A passing fault (network, server error, time-out): ask again after a back-off."""


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
    """The account's credentials, rights or address are refused: pause it and tell a person why."""


class RequestIsWrong(ProviderError):
    """This one request can never succeed; repeating it is useless. The account goes on."""


class AnswerNotUnderstood(ProviderError):
    """The answer is not what the documents describe. `raw` goes to quarantine, the fetch is asked again."""

    def __init__(
        self, message: str, *, raw: bytes = b"", code: str | None = None, restart: FetchSpec | None = None
    ) -> None:
        """`raw`: the bytes to keep; never shown. `restart`: the first page, where the pages are wrong only together.

        With `restart` that page is asked next, in a new round; each round that ends so counts as one attempt.
        """
        super().__init__(message, code=code)
        self.raw = raw
        self.restart = restart


class OurBug(ProviderError):
    """Our own code failed; the text names the exception's class only."""
