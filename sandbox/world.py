"""The five stand-ins together: one seed, one start, every send made so far."""

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from ulak.sandbox.bip import Bip
from ulak.sandbox.diyalog import Diyalog
from ulak.sandbox.faults import Faults
from ulak.sandbox.http_types import Event
from ulak.sandbox.iletimerkezi import Iletimerkezi
from ulak.sandbox.ledger import Ledger
from ulak.sandbox.organik import Organik
from ulak.sandbox.provider_times import iso
from ulak.sandbox.settings import PROVIDERS, SIZES, Limit, Settings
from ulak.sandbox.standin import Batch, StandIn
from ulak.sandbox.truth import Row
from ulak.sandbox.vairo import Vairo

MAX_AT_ONCE = 5_000


@dataclass(frozen=True, slots=True)
class Order:
    """`POST /sends/{provider}` as it is remembered: with the start all that lives follow from."""

    provider: str
    at: float
    count: int
    outcome: str | None
    recipients: tuple[str, ...]


class World:
    """Everything the stand-ins know. Made again from the state file, it lives on unchanged."""

    def __init__(
        self,
        *,
        seed: int,
        scale: str,
        speed: float,
        state: Path | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.seed, self.scale, self.speed, self.state = seed, scale, speed, state
        self.start = float(int(time.time()))
        self.orders: list[Order] = []
        self.callbacks: dict[str, dict[str, str]] = {}
        self.given = settings or {}
        self.settings = self._first_settings()
        self.urls: dict[str, str] = {}
        if state is not None and state.exists():
            self._recall(json.loads(state.read_text()))
        self.ledger = Ledger()
        self.faults = Faults(Random(f"{self.seed}/faults"))
        self._build()
        self.remember()

    def _first_settings(self) -> Settings:
        settings = Settings()
        settings.change(dict(self.given))
        return settings

    def _build(self) -> None:
        self.bip = Bip(self.settings)
        made: tuple[StandIn, ...] = (
            Iletimerkezi(self.settings),
            Vairo(self.settings),
            Organik(self.settings),
            Diyalog(self.settings),
            self.bip,
        )
        self.standins = {one.name: one for one in made}
        size = SIZES[self.scale]
        for one in made:
            validity = self.settings.validity_seconds
            one.add(Batch(0, self.start, self.seed, self.speed, size=size, validity_seconds=validity))
        for number, order in enumerate(self.orders, 1):
            self._carry_out(number, order)

    def _carry_out(self, number: int, order: Order) -> None:
        self.standins[order.provider].add(
            Batch(
                number,
                order.at,
                self.seed,
                self.speed,
                count=order.count,
                outcome=order.outcome,
                recipients=order.recipients,
                validity_seconds=self.settings.validity_seconds,
            )
        )

    # The state file -----------------------------------------------------------------------

    def _recall(self, kept: dict[str, Any]) -> None:
        self.seed, self.start = kept["seed"], kept["start"]
        self.scale, self.speed = kept["scale"], kept["speed"]
        self.callbacks = kept["callbacks"]
        self.orders = [Order(**{**one, "recipients": tuple(one["recipients"])}) for one in kept["orders"]]

    def remember(self) -> None:
        """Writes the state file whole, readable by its owner only."""
        if self.state is None:
            return
        kept = {
            "seed": self.seed,
            "start": self.start,
            "scale": self.scale,
            "speed": self.speed,
            "callbacks": self.callbacks,
            "orders": [asdict(order) for order in self.orders],
        }
        fresh = self.state.with_name(self.state.name + ".new")
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            json.dump(kept, file)
        fresh.replace(self.state)

    # What can be done to it ---------------------------------------------------------------

    def reset(self) -> None:
        """A new life from this second on: same seed, no orders, faults, log or changed limits."""
        self.start = float(int(time.time()))
        self.orders = []
        fresh = self._first_settings()
        for name in Settings.__slots__:
            setattr(self.settings, name, getattr(fresh, name))
        self.ledger.clear()
        self.faults.calm()
        self.faults.served.clear()
        self._build()
        self.remember()

    def send(
        self, provider: str, count: int, outcome: str | None, recipients: Iterable[str]
    ) -> tuple[int, list[Event]]:
        """Sends now; returns the number of the batch and the events the provider will push for it."""
        numbers = tuple(recipients)
        order = Order(provider, time.time(), min(count, MAX_AT_ONCE), outcome, numbers)
        if provider == "vairo" or numbers:
            # Whole seconds, as the bodies say them.
            order = Order(provider, float(int(order.at)), order.count, outcome, numbers)
        self.orders.append(order)
        known = len(self.standins[provider].events)
        self._carry_out(len(self.orders), order)
        self.remember()
        return len(self.orders), self.standins[provider].events[known:]

    # What can be asked --------------------------------------------------------------------

    def limit(self, provider: str) -> Limit:
        """The limit that is enforced."""
        return self.settings.limits[provider]

    def accounts(self) -> list[dict[str, Any]]:
        """Ready account records with literal credentials."""
        return [self._account(self.standins[name]) for name in PROVIDERS]

    def _account(self, one: StandIn) -> dict[str, Any]:
        limit = {k: v for k, v in asdict(self.limit(one.name)).items() if v is not None}
        return {
            "id": f"demo-{one.name}",
            "provider": one.name,
            "base_url": self.urls[one.name],
            "timezone": "Europe/Istanbul",
            "credentials": one.credentials(),
            "limit": limit,
            **one.record(),
        }

    def sends(self, provider: str | None = None, since_batch: int = 0) -> list[dict[str, Any]]:
        """What the sender would register, times as ISO text."""
        now = time.time()
        rows = [
            row
            for name, one in self.standins.items()
            if provider in (None, name)
            for row in one.sends(now, since_batch)
        ]
        for row in rows:
            for name in ("sent_at", "valid_until"):
                row[name] = None if row[name] is None else iso(row[name])
        return rows

    def truth(self, provider: str | None = None, now: float | None = None) -> list[Row]:
        """Rows as of now."""
        at = time.time() if now is None else now
        return [
            row
            for name, one in self.standins.items()
            if provider in (None, name)
            for row in one.truth(at, self.settings)
        ]

    def settles_at(self) -> float:
        """When the last life that has an end reaches it."""
        return max(one.settles_at() for one in self.standins.values())

    def canaries(self) -> list[str]:
        """What must never be seen in a log, a broker message, a metric or an error."""
        return [text for one in self.standins.values() for text in one.canaries()]
