"""What this process logs, as JSON lines."""

import io
import logging
from collections.abc import Iterator

import pytest
import structlog

from ulak.core.logging import configure_logging


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """The log of this process from now on; how it was set up before comes back at the end."""
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure_logging("api", "json", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
