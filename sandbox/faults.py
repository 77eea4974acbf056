"""Trouble on order: what a provider does wrong, for so many times or so long, at what rate."""

import time
from dataclasses import dataclass, field
from random import Random
from typing import Any

KINDS = (
    "http_500",
    "http_429",
    "reset",
    "hang",
    "drip",
    "truncate",
    "html_200",
    "unauthorized",
    "empty",
    "slow",
    "garbage",
)


@dataclass(slots=True)
class Fault:
    """One ordered trouble."""

    provider: str
    kind: str
    times: int | None
    until: float | None
    rate: float
    hits: int = 0


@dataclass
class Faults:
    """All ordered troubles; the first that still holds and wins its dice strikes."""

    rng: Random
    orders: list[Fault] = field(default_factory=list)

    def order(self, provider: str, kind: str, values: dict[str, Any]) -> Fault:
        """Adds one; without `times` or `for_seconds` it holds until it is taken back."""
        if kind not in KINDS:
            raise ValueError(f"there is no fault {kind}; known: {', '.join(KINDS)}")
        seconds = values.get("for_seconds")
        fault = Fault(
            provider,
            kind,
            values.get("times"),
            None if seconds is None else time.monotonic() + float(seconds),
            float(values.get("rate", 1.0)),
        )
        self.orders.append(fault)
        return fault

    def strike(self, provider: str) -> str | None:
        """The kind of trouble for this request, or None."""
        now = time.monotonic()
        self.orders = [
            fault for fault in self.orders if fault.times != 0 and (fault.until is None or now < fault.until)
        ]
        for fault in self.orders:
            if fault.provider == provider and self.rng.random() < fault.rate:
                fault.hits += 1
                if fault.times is not None:
                    fault.times -= 1
                return fault.kind
        return None
