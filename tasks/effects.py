"""What a step wants done outside the database, as values: messages to publish and lines to log, after the commit.

So nothing is published or logged that was rolled back, and nothing twice for a transaction that was repeated.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from ulak.core.logging import get_logger
from ulak.models.database import retry_transaction
from ulak.tasks.messages import Message

log = get_logger(__name__)

_Result = TypeVar("_Result")


@dataclass(slots=True)
class Effects:
    """Messages and log lines, each in order."""

    messages: list[Message] = field(default_factory=list)
    lines: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    """What Flower lists of a task that it lists only where something came of it: account and poll."""

    def info(self, event: str, **fields: Any) -> None:
        """A line of level info."""
        self.line(logging.INFO, event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        """A line of level warning."""
        self.line(logging.WARNING, event, **fields)

    def line(self, level: int, event: str, **fields: Any) -> None:
        """A line of this level."""
        self.lines.append((level, event, fields))

    def send(self, *messages: Message) -> None:
        """Messages to publish."""
        self.messages += messages

    def add(self, others: "Effects") -> None:
        """Those of another transaction, which is committed."""
        self.messages += others.messages
        self.lines += others.lines
        self.shown += others.shown

    def write_log(self) -> None:
        """Log the lines, once."""
        for level, event, fields in self.lines:
            log.log(level, event, **fields)
        self.lines.clear()


def commit(engine: Engine, effects: Effects, run: Callable[[Connection, Effects], _Result]) -> _Result:
    """`retry_transaction` that adds to `effects` those of the attempt that was committed."""
    mine = Effects()

    def attempt(connection: Connection) -> _Result:
        nonlocal mine
        mine = Effects()
        return run(connection, mine)

    result = retry_transaction(engine, attempt)
    effects.add(mine)
    return result
