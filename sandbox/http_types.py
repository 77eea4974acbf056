"""A request as a stand-in sees it, its answer, and a push; nothing here knows any provider."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from urllib.parse import parse_qs


@dataclass(frozen=True)
class Call:
    """One request that arrived, body read whole. Header names are lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    now: float
    clock: float = 0.0
    """How many seconds the server's clock is wrong (see the fault `clock`)."""
    shift: int = 0
    """By how many rows a paged list is displaced (see the fault `moved`)."""

    @cached_property
    def json(self) -> Any:
        """The body as JSON, or None where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @cached_property
    def parameters(self) -> dict[str, str]:
        """Query parameters, the last of equal names."""
        return {name: values[-1] for name, values in parse_qs(self.query).items()}

    def rewritten(self, change: Callable[[Any], object]) -> "Call":
        """The same call with `change` made to a copy of its JSON body."""
        body = json.loads(self.body)
        change(body)
        return replace(self, body=json.dumps(body).encode())

    def dig(self, *names: str) -> Any:
        """A value deep inside the JSON body, or None where the way does not exist."""
        value = self.json
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return value


@dataclass(eq=False, slots=True)
class Event:
    """One POST to a callback URL: due at a moment, to the URL or to the path `tail` below it.

    `lost` events were swallowed by a fault: they were never delivered, so they are not part of the truth.
    """

    due: float
    tail: str
    body: dict[str, Any]
    lost: bool = False

    def reached(self, now: float) -> bool:
        """Whether a receiver may have it by now."""
        return self.due <= now and not self.lost


@dataclass(frozen=True)
class Answer:
    """What goes back."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


def answer_json(status: int, value: Any, *, ascii_only: bool = False) -> Answer:
    """A JSON answer; `ascii_only` escapes Turkish letters the way PHP does."""
    text = json.dumps(value, ensure_ascii=ascii_only, separators=(",", ":"))
    return Answer(status, text.encode())


def answer_text(status: int, text: str) -> Answer:
    """A plain text answer."""
    return Answer(status, text.encode(), "text/plain; charset=utf-8")


def read_integer(value: Any) -> int | None:
    """An int, or text that spells one, or None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal():
        return int(value)
    return None
