"""Seeded lives: what becomes of a message, as a pure function of its plan and the time.

The last two digits of a made-up number choose what becomes of a message to it; `docs/reference/sandbox.md`
holds the same table for people.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Generic, TypeVar

State = TypeVar("State")

NUMBER_HEAD = "90555000"
NEVER = float("inf")

OUTCOMES: dict[str, range] = {
    "delivered": range(60),
    "at_once": range(60, 65),
    "late": range(65, 70),
    "absent": range(70, 75),
    "expired": range(75, 80),
    "invalid": range(80, 83),
    "refused": range(83, 85),
    "blacklisted": range(85, 87),
    "sent": range(87, 89),
    "error": range(89, 90),
    "unknown_word": range(90, 91),
    "never": range(91, 92),
    "quota": range(92, 93),
    "opted_out": range(93, 94),
    "handset": range(94, 95),
    "network": range(95, 96),
    "barred": range(96, 97),
    "test": range(97, 98),
    "unread": range(98, 99),
    "read": range(99, 100),
}

_BY_DIGITS = {digit: name for name, digits in OUTCOMES.items() for digit in digits}

COMMON_WEIGHTS = {
    "delivered": 90,
    "at_once": 6,
    "late": 6,
    "absent": 6,
    "expired": 4,
    "invalid": 4,
    "refused": 3,
    "blacklisted": 3,
    "sent": 2,
    "error": 2,
    "quota": 1,
    "opted_out": 2,
    "handset": 1,
    "network": 1,
    "barred": 1,
    "test": 1,
    "unread": 2,
    "read": 2,
}
"""How often each outcome is drawn; `unknown_word` and `never` come only where they are asked for."""


@dataclass(frozen=True, slots=True)
class Life(Generic[State]):
    """A plan of states: `states[i]` holds from `times[i]` (epoch seconds, ascending) on."""

    times: tuple[float, ...]
    states: tuple[State, ...]
    ends: bool = True

    def at(self, now: float) -> State | None:
        """The state at that moment, or None before the first."""
        index = bisect_right(self.times, now)
        return self.states[index - 1] if index else None

    def reached(self, now: float) -> list[tuple[float, State]]:
        """(since, state) of every state up to that moment, in order."""
        return list(zip(self.times, self.states, strict=True))[: bisect_right(self.times, now)]

    def since(self, now: float) -> float:
        """When the state of that moment began; only asked after the first."""
        return self.times[bisect_right(self.times, now) - 1]

    @property
    def settles_at(self) -> float:
        """When the last state is reached; never for a life without an end."""
        return self.times[-1] if self.ends else NEVER


def build_life(steps: Sequence[tuple[float, State]], *, ends: bool = True) -> Life[State]:
    """A life from (time, state) steps that are already in order."""
    return Life(tuple(step[0] for step in steps), tuple(step[1] for step in steps), ends)


def read_outcome(number: str) -> str:
    """The outcome that the last two digits of a number choose; `delivered` where there are none."""
    return _BY_DIGITS[int(number[-2:])] if number[-2:].isdigit() else "delivered"


def draw_outcome(rng: Random, weights: dict[str, int] | None = None) -> str:
    """One outcome by weight."""
    table = weights or COMMON_WEIGHTS
    return rng.choices(list(table), list(table.values()))[0]


def draw_number(rng: Random, outcome: str) -> str:
    """A made-up Turkish number (`90555000nndd`) whose last digits choose the outcome."""
    return f"{NUMBER_HEAD}{rng.randrange(100):02d}{rng.choice(OUTCOMES[outcome]):02d}"


def draw_delay(rng: Random, outcome: str) -> float:
    """Seconds at speed 1 until the last state: some at once, most after a while, some late."""
    if outcome == "at_once":
        return rng.uniform(0, 8)
    if outcome == "late":
        return rng.uniform(430, 590)
    dice = rng.random()
    if dice < 0.15:
        return rng.uniform(0, 10)
    return rng.uniform(40, 320) if dice < 0.85 else rng.uniform(320, 590)
