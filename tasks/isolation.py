"""One part's trouble keeps no other from its turn."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ulak.core.logging import get_logger, origin
from ulak.models.database_errors import is_unavailable

log = get_logger(__name__)


@contextmanager
def isolated(event: str, **fields: Any) -> Iterator[None]:
    """Log an error of the block as this event instead of raising it; raise it where the database is away."""
    try:
        yield
    except Exception as error:
        if is_unavailable(error):
            raise
        # Its text may hold what people sent.
        log.error(event, **fields, error=origin(error))
