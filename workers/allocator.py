"""How the process's C library keeps freed memory: it gives large pieces back at once, and keeps few arenas.

By its own rules glibc learns from one large body to take the next ones from the heap of the thread that reads it, and
keeps those heaps: sixteen threads that had each read an answer of some megabytes held 400 MiB afterwards.
"""

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_LARGE_BYTES: Final = 256 * 1024
"""From here on an allocation is a mapping of its own; setting it ends the learning."""
_KEPT_BYTES: Final = 1024 * 1024
_ARENAS: Final = 2
"""Nearly all that allocates holds the interpreter's lock, so more arenas would save no waiting."""


def give_memory_back() -> None:
    """Set it for this process, before its threads start; without effect where the C library is another one."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    mallopt(_M_ARENA_MAX, _ARENAS)
