"""What every stand-in offers to the world and to the gate before it."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from ulak.sandbox.http_types import Answer, Call, Event
from ulak.sandbox.settings import Settings, Size
from ulak.sandbox.truth import Row


@dataclass(frozen=True, slots=True)
class Batch:
    """Sends that were ordered together: the world's own (number 0) or by `POST /sends`.

    Everything in it follows from the seed and these fields, so a restart makes it again.
    """

    number: int
    at: float
    seed: int
    speed: float
    count: int | None = None
    size: Size | None = None
    outcome: str | None = None
    recipients: tuple[str, ...] = ()
    validity_seconds: float = 0.0
    """How long after the batch every send of it is valid; 0: the simulated provider's default."""

    def rng(self, provider: str) -> Random:
        """Dice of this batch."""
        return Random(f"{self.seed}/{provider}/{self.number}")


class StandIn(ABC):
    """One provider."""

    name: str
    root: str
    pushes = False
    """Whether it POSTs `events` to a callback URL."""
    has_count = False
    """Whether its lists say how many rows they have in all."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    # What faults need to know; a push-only provider keeps these.

    def rows_at(self, call: Call) -> tuple[str, ...] | None:
        """Where the rows stand in the JSON answer to this call; None where the answer has no rows."""
        del call
        return None

    def content(self, call: Call) -> Answer:
        """The answer to a call whose login was found good already: its body may have been changed since."""
        return self.answer(call)

    def is_list(self, call: Call) -> bool:
        """Whether the answer is a page of a list that has further pages."""
        del call
        return False

    def hide_one(self, rng: Random, now: float) -> None:
        """Hides a row from lists for a moment, as if it came between two pages."""
        del rng, now

    def another(self, call: Call, rng: Random) -> Call | None:
        """The same question about another subject; None where there is none."""
        del call, rng
        return None

    def another_page(self, call: Call, rng: Random) -> Call | None:
        """The same question for the page before; None where there is none."""
        del call, rng
        return None

    @abstractmethod
    def add(self, batch: Batch) -> None:
        """Makes the sends of a batch."""

    @abstractmethod
    def credentials(self) -> dict[str, str]:
        """Literal credentials by the names of `accounts.toml`."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """`poll`, `options` and the other fields of the account record."""

    @abstractmethod
    def identify(self, call: Call) -> bool:
        """Whether the request names this provider's demo account, right or wrong otherwise."""

    @abstractmethod
    def endpoint(self, call: Call) -> str:
        """A short name of what was asked, without secrets."""

    @abstractmethod
    def answer(self, call: Call) -> Answer:
        """The provider's answer."""

    @abstractmethod
    def throttled(self, call: Call, n: int, why: str) -> Answer:
        """The provider's answer beyond the limit."""

    @abstractmethod
    def unauthorized(self, call: Call) -> Answer:
        """The provider's refusal of a login."""

    @abstractmethod
    def sends(self, now: float, since_batch: int = 0) -> list[dict[str, Any]]:
        """What the sender would register."""

    @abstractmethod
    def truth(self, now: float, settings: Settings) -> list[Row]:
        """The rows that a client must have that polls everything now."""

    @abstractmethod
    def settles_at(self) -> float:
        """When the last life that has an end reaches it."""

    @abstractmethod
    def canaries(self) -> Sequence[str]:
        """Texts that must never be seen outside: secrets, message texts, names, links."""


def make_secret(name: str, length: int) -> str:
    """A made-up secret: the same in every run, so accounts stay valid; hexadecimal."""
    return hashlib.sha512(f"sandbox secret {name}".encode()).hexdigest()[:length]


def throttle(body: Answer, n: int) -> Answer:
    """HTTP 429, every second time with `Retry-After`."""
    headers = {"Retry-After": "1"} if n % 2 else {}
    return Answer(429, body.body, body.content_type, headers)


def poll_record() -> dict[str, Any]:
    """Poll numbers of the demo accounts: `time_factor` 0.05 makes every wait a twentieth."""
    return {"every_seconds": 3, "lookback_days": 14, "time_factor": 0.05, "max_check_seconds": 400}
