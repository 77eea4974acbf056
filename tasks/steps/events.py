"""Log events of a transaction, written once it is committed: nothing is logged that was rolled back or repeated."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from core.logging import get_logger
from models.database import retry_transaction

log = get_logger(__name__)

_Result = TypeVar("_Result")


class Events:
    """What a transaction has to say, in order."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._events: list[tuple[int, str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        """A line of level info, after the commit."""
        self._events.append((logging.INFO, event, fields))

    def warning(self, event: str, **fields: Any) -> None:
        """A line of level warning, after the commit."""
        self._events.append((logging.WARNING, event, fields))

    def emit(self) -> None:
        """Write them."""
        for level, event, fields in self._events:
            log.log(level, event, **fields)


def commit(engine: Engine, run: Callable[[Connection, Events], _Result]) -> _Result:
    """`retry_transaction` with the events of the attempt that was committed."""
    events = Events()

    def attempt(connection: Connection) -> _Result:
        nonlocal events
        events = Events()
        return run(connection, events)

    result = retry_transaction(engine, attempt)
    events.emit()
    return result
