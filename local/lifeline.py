"""The pipe between a supervisor and its children, seen from both ends.

The supervisor keeps the writing end and never writes. Every child holds the reading end: when it
ends, the supervisor is gone, even by kill -9, and the child ends too. This holds where a
parent-death signal would not: that one is lost when the user changes, and unknown outside Linux.
"""

import contextlib
import os
import signal
import threading

from ulak.core import clock
from ulak.core.environment import lifeline_descriptor, ready_descriptor


class Lifeline:
    """The supervisor's end. Closing it, or dying, stops every child that watches it."""

    def __init__(self) -> None:
        self.reading_end, self._writing_end = os.pipe()

    def close(self) -> None:
        """Lets go; may be called twice."""
        if self._writing_end >= 0:
            os.close(self._writing_end)
            os.close(self.reading_end)
            self._writing_end = self.reading_end = -1


def watch(grace_seconds: float = 10.0) -> bool:
    """Begins to watch for the supervisor's end; returns whether there is a supervisor.

    To be called first thing in a Python child. At the end of the pipe the process gets SIGTERM,
    and is ended hard if it still lives after the grace.
    """
    descriptor = lifeline_descriptor()
    if descriptor is None:
        return False
    threading.Thread(
        target=_wait_for_end,
        args=(descriptor, grace_seconds),
        name="lifeline",
        daemon=True,
    ).start()
    return True


def announce_ready() -> None:
    """Tell the supervisor, if there is one, that this process does its work from now on. May be called again."""
    descriptor = ready_descriptor()
    if descriptor is not None:
        # Closed already, or the supervisor is gone.
        with contextlib.suppress(OSError):
            os.write(descriptor, b".")


def _wait_for_end(descriptor: int, grace_seconds: float) -> None:
    try:
        while os.read(descriptor, 1):
            pass
    except OSError:
        # A descriptor that cannot be read is no lifeline: without one, live on as if unsupervised.
        return
    os.kill(os.getpid(), signal.SIGTERM)
    clock.sleep(grace_seconds)
    os._exit(1)
