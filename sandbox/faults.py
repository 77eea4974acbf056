"""Injected faults: what a provider does wrong, how many times or how long, at what rate, or all faults together."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from ulak.sandbox.settings import PROVIDERS

TRANSPORT = (
    "http_500",
    "http_502",
    "http_503",
    "http_503_later",
    "http_429",
    "http_429_bare",
    "unauthorized",
    "reset",
    "hang",
    "drip",
    "slow",
    "truncate",
    "html_200",
    "empty",
    "garbage",
    "bomb",
    "trailing",
    "gzip_members",
    "gzip_trailing",
    "charset",
    "clock",
)
"""What goes wrong on the way or before the answer is made: any provider that is asked."""
CONTENT = (
    "duplicated",
    "dropped",
    "null_rows",
    "no_rows",
    "foreign",
    "text_numbers",
    "wrong_count",
    "inserted",
    "moved",
    "repeated_page",
)
"""What is wrong inside a good answer: where its form has such a thing."""
PUSHED = ("push_duplicated", "push_late", "push_shuffled", "push_dropped")
"""What becomes of a push."""
KINDS = TRANSPORT + CONTENT + PUSHED
EVERYTHING = "everything"
RARE = {"hang": 0.1, "unauthorized": 0.1, "drip": 0.2, "slow": 0.4}
"""Weights in a storm of what costs its victim many seconds; the others weigh 1."""
ASKED = ("iletimerkezi", "vairo", "organik", "diyalog")
PUSHING = ("iletimerkezi", "bip")

Applies = Callable[[str], bool]


@dataclass(slots=True)
class Fault:
    """One ordered trouble; `kind` `everything` is a storm, whose hits are counted by kind as well."""

    provider: str
    kind: str
    times: int | None
    until: float | None
    rate: float
    seed: int | None = None
    hits: int = 0
    hits_by_kind: dict[str, int] = field(default_factory=dict)

    def holds(self, now: float) -> bool:
        """Whether it may still strike."""
        return self.times != 0 and (self.until is None or now < self.until)


@dataclass
class Faults:
    """All ordered troubles; the first that still holds, fits the request and wins its dice strikes."""

    rng: Random
    orders: list[Fault] = field(default_factory=list)
    served: set[tuple[str, ...]] = field(default_factory=set)
    """Wrong multisets of rows that were served already, by subject (see `spoiling`): none is ever served again."""
    _dice: dict[int, Random] = field(default_factory=dict)
    _last_dice: dict[str, Random] = field(default_factory=dict)

    def order(self, provider: str, kind: str, values: dict[str, Any]) -> list[Fault]:
        """Adds one per provider; without `times` or `for_seconds` it holds until it is taken back (`calm`)."""
        seconds = values.get("for_seconds")
        made = [
            Fault(
                name,
                kind,
                values.get("times"),
                None if seconds is None else time.monotonic() + float(seconds),
                float(values.get("rate", 1.0)),
                values.get("seed"),
            )
            for name in victims(provider, kind)
        ]
        self.orders += made
        return made

    def calm(self) -> None:
        """Takes everything back. What a push suffered stays as it is."""
        self.orders = []
        self._dice.clear()

    def strike(self, provider: str, applies: Applies) -> str | None:
        """The kind of trouble for this request, or None; only what `applies` is drawn and counted."""
        return self._strike(provider, TRANSPORT + CONTENT, applies)

    def strike_push(self, provider: str) -> str | None:
        """The kind of trouble for this push, or None."""
        return self._strike(provider, PUSHED, lambda _: True)

    def _strike(self, provider: str, kinds: Iterable[str], applies: Applies) -> str | None:
        now = time.monotonic()
        self.orders = [fault for fault in self.orders if fault.holds(now)]
        for fault in self.orders:
            if fault.provider != provider:
                continue
            wanted = [kind for kind in kinds if fault.kind in (kind, EVERYTHING)]
            dice = self._dice_of(fault)
            if not wanted or dice.random() >= fault.rate:
                continue
            fitting = [kind for kind in wanted if applies(kind)]
            if not fitting:
                continue
            kind = dice.choices(fitting, [RARE.get(name, 1.0) for name in fitting])[0]
            self._last_dice[provider] = dice
            fault.hits += 1
            fault.hits_by_kind[kind] = fault.hits_by_kind.get(kind, 0) + 1
            if fault.times is not None:
                fault.times -= 1
            return kind
        return None

    def details(self, provider: str) -> Random:
        """Dice for the details of the fault that struck this provider last: they follow from its seed as well."""
        return Random(self._last_dice.get(provider, self.rng).random())

    def _dice_of(self, fault: Fault) -> Random:
        if fault.seed is None:
            return self.rng
        return self._dice.setdefault(id(fault), Random(f"{fault.seed}/{fault.provider}"))


def victims(provider: str, kind: str) -> list[str]:
    """The providers that an order means; raises ValueError with the reason if invalid."""
    if kind not in (*KINDS, EVERYTHING):
        raise ValueError(f"there is no fault {kind}; known: {', '.join(KINDS)}, {EVERYTHING}")
    if provider not in (*PROVIDERS, "all"):
        raise ValueError(f"there is no provider {provider}; known: {', '.join(PROVIDERS)}, all")
    can = PROVIDERS if kind == EVERYTHING else PUSHING if kind in PUSHED else ASKED
    if provider == "all":
        return list(can)
    if provider not in can:
        raise ValueError(
            f"nobody asks {provider} anything, so it cannot answer wrongly"
            if kind not in PUSHED
            else f"{provider} pushes nothing"
        )
    return [provider]
