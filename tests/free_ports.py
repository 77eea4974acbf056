"""Ports for processes that listen seconds later: none that the system deals out, and none twice within a run."""

import os
import random
from contextlib import suppress
from pathlib import Path

from ulak.local.ports import is_free

FIRST, LAST = 20_000, 32_000
"""Below the ports that Linux deals out to whoever names none."""
STEP = 10
"""Who is given a port may use the nine after it, too."""


def reserve_port() -> int:
    """A port of 127.0.0.1 with nine free ones after it, which no other test of this run is given."""
    reserved = Path(os.environ["ULAK_TEST_RUN"]) / "ports"
    reserved.mkdir(exist_ok=True)
    for port in random.sample(range(FIRST, LAST, STEP), (LAST - FIRST) // STEP):
        with suppress(FileExistsError):
            (reserved / str(port)).touch(exist_ok=False)
            if all(is_free(each, "127.0.0.1") for each in range(port, port + STEP)):
                return port
    raise AssertionError("every port is reserved")
