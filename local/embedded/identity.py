"""Which user an embedded PostgreSQL runs as: it refuses to run as root."""

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NOBODY: Final = 65_534


@dataclass(frozen=True)
class ServiceUser:
    """The unprivileged user that replaces root."""

    uid: int
    gid: int


def service_user() -> ServiceUser | None:
    """`nobody` when this process is root; None for all others, who run it as themselves."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return ServiceUser(NOBODY, NOBODY)
    return ServiceUser(entry.pw_uid, entry.pw_gid)


def has_name(uid: int) -> bool:
    """Whether the system knows the user: initdb refuses to run as a bare number."""
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def run_as(user: ServiceUser | None, *argv: str | Path) -> "subprocess.CompletedProcess[str]":
    """Runs a short command as that user, with no other rights and a bare environment.

    Raises `OSError` when the program cannot be reached by the user, or the user not be taken on.
    """
    return subprocess.run(  # noqa: S603  our own command lines
        [str(word) for word in argv],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        cwd="/",
        env=bare_environment(),
        user=user.uid if user else None,
        group=user.gid if user else None,
        extra_groups=[] if user else None,
    )


def bare_environment() -> dict[str, str]:
    """What a server binary needs to know, and none of our secrets."""
    return {"PATH": "/usr/bin:/bin", "LANG": "C", "LC_ALL": "C", "TZ": "UTC", "HOME": "/"}


def can_write(folder: Path, user: ServiceUser | None) -> bool:
    """Whether that user reaches the folder and may write into it."""
    found = run_as(user, "/bin/sh", "-c", 'test -w "$1" && test -x "$1"', "sh", folder)
    return found.returncode == 0
