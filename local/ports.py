"""Choosing TCP ports."""

import errno
import random
import socket
from typing import Final

TRIES: Final = 200
MAX_PORT: Final = 65_535
QUIET_PORTS: Final = range(20_000, 32_000)
"""Below the ephemeral ports of usual systems, and above most well-known ports."""


class PortBusyError(Exception):
    """The port that was asked for is in use; the text says what to do."""


def choose_port(wanted: int | None, default: int, bind: str) -> int:
    """`wanted` if it is free, else `PortBusyError`; unset: `default` or the next free port.

    Free at the time of asking: another program may still take it before it is used. An address
    this machine does not have raises `PortBusyError` too, with what to do about it.
    """
    if wanted is not None:
        if not is_free(wanted, bind):
            raise PortBusyError(
                f"Port {wanted} on {bind} is in use: stop what listens there or set another port.",
            )
        return wanted
    for port in range(default, min(default + TRIES, MAX_PORT)):
        if is_free(port, bind):
            return port
    raise PortBusyError(f"No free port from {default} on at {bind}: set one.")


def free_loopback_port() -> int:
    """Some free port on 127.0.0.1, for a server that starts a moment later and keeps the port over its restarts.

    Nobody else is dealt it by chance while its server is not up.
    """
    for port in random.sample(QUIET_PORTS, TRIES):
        if is_free(port, "127.0.0.1"):
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        dealt: int = probe.getsockname()[1]
        return dealt


def is_free(port: int, bind: str) -> bool:
    """Whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    with socket.socket(family) as probe:
        # Servers set this too: without it a port stays "in use" for a minute after its server.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind, port))
            probe.listen(1)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise PortBusyError(
                f"{bind} is no address of this machine: set ULAK_BIND to 127.0.0.1 or 0.0.0.0.",
            ) from error
    return True
