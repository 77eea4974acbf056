"""The only maker of time zones.

The rules come from the pinned `tzdata` package. Python would prefer the host's files, and a host whose files are older
than Turkey's change of 2016 puts every winter time one hour off.
"""

from datetime import UTC, datetime
from functools import lru_cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from zoneinfo import TZPATH, ZoneInfo, ZoneInfoNotFoundError

_PACKAGE = "tzdata"


@lru_cache(maxsize=1)
def zone_names() -> frozenset[str]:
    """The names of all time zones."""
    return frozenset(resources.files(_PACKAGE).joinpath("zones").read_text(encoding="utf-8").split())


@lru_cache(maxsize=1024)
def time_zone(name: str) -> ZoneInfo:
    """The time zone of this name, the same object each time; `ZoneInfoNotFoundError` (a `KeyError`) for no zone."""
    if name not in zone_names():
        raise ZoneInfoNotFoundError(name)
    with resources.files(_PACKAGE).joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


def zone_rules() -> str:
    """The package's version, for people."""
    return version(_PACKAGE)


def host_differs(name: str) -> bool:
    """Whether the host's own files, which are not used, put any month of 1990 to 2049 elsewhere."""
    for folder in TZPATH:
        file = Path(folder, *name.split("/"))
        try:
            with file.open("rb") as content:
                theirs = ZoneInfo.from_file(content, key=name)
        except (OSError, ValueError):
            continue
        months = (datetime(year, month, 1, tzinfo=UTC) for year in range(1990, 2050) for month in range(1, 13))
        return any(
            each.astimezone(theirs).utcoffset() != each.astimezone(time_zone(name)).utcoffset() for each in months
        )
    return False
