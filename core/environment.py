"""The only reader of the environment, whose variables of other programs it keeps from configuring the libraries."""

import os
import pwd
import re
from typing import Final

PREFIX: Final = "ULAK_"
LIFELINE_VARIABLE: Final = "ULAK_LIFELINE_FD"
READY_VARIABLE: Final = "ULAK_READY_FD"

# Libraries that we run would be configured by these variables of other programs, past our settings. Those without a
# prefix are read by Celery, except uvicorn's WEB_CONCURRENCY and FORWARDED_ALLOW_IPS, billiard's REMAP_SIGTERM and
# kombu's DISABLE_TRACEBACKS and PICKLE_PROTOCOL. PGTZ, PGDATESTYLE and PGGEQO would beat what our sessions begin with.
_FOREIGN: Final = re.compile(
    r"(CELERY|FLOWER_|KOMBU_|UVICORN_|PROMETHEUS_|prometheus_).*"
    r"|C_(BENCH|BENCH_EVERY|FAKEFORK|FORCE_ROOT|IMPDEBUG|REMDEBUG|STRICT_APP|WARN_APP|WNOCONF)"
    r"|APP|AUTOSCALE_KEEPALIVE|BROKER_URL|CONFIG_MODULE|DISABLE_TRACEBACKS|DJANGO_SETTINGS_MODULE|EVENTLET_NOBLOCK"
    r"|FORKED_BY_MULTIPROCESSING|FORWARDED_ALLOW_IPS|LOADER|MP_LOG|MP_MAIN_FILE|NOSETPS|PICKLE_PROTOCOL|REMAP_SIGTERM"
    r"|RESULT_BACKEND|SKIP_CHECKS|TIMER_DEBUG|USE_FAST_LOCALS|WEB_CONCURRENCY|PG(TZ|DATESTYLE|GEQO)"
)

_LIBPQ: Final = re.compile(r"PG[A-Z]+")
"""Variables of libpq: https://www.postgresql.org/docs/current/libpq-envars.html"""

_set_aside: dict[str, str] = {}
_without_use: dict[str, str] = {}
"""Variables of libpq that were removed since they are meant for another server."""


def lifeline_descriptor() -> int | None:
    """The file descriptor of the supervisor's pipe; None when nothing supervises this process."""
    return _descriptor(LIFELINE_VARIABLE)


def ready_descriptor() -> int | None:
    """The file descriptor at which a supervisor waits for this process to be ready; None where none waits."""
    return _descriptor(READY_VARIABLE)


def _descriptor(variable: str) -> int | None:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else None


def inherited_environment() -> dict[str, str]:
    """A copy of this process's environment, for a child that shall see the same settings and credentials."""
    return {**_set_aside, **os.environ}


def set_foreign_variables_aside() -> None:
    """Remove from this process what would configure Celery, Flower or uvicorn past our settings.

    To be called before they are imported. Credential references still find the values.
    """
    for name in [name for name in os.environ if _FOREIGN.fullmatch(name)]:
        _set_aside[name] = os.environ.pop(name)


def remove_libpq_variables() -> None:
    """Remove libpq's variables from this process and from what its children inherit: the database is embedded.

    They are meant for another server; `PGSSLMODE=require` or `PGHOSTADDR` would lead past ours.
    """
    for name in [name for name in os.environ if _LIBPQ.fullmatch(name)]:
        _without_use[name] = os.environ.pop(name)


def is_foreign(name: str) -> bool:
    """Whether a variable would configure one of the libraries that we run."""
    return _FOREIGN.fullmatch(name) is not None


def variables_without_use() -> list[str]:
    """The variables of libpq that were removed since they are meant for another server."""
    return sorted(_without_use)


def invoking_user() -> str:
    """The user of this host who runs this process; of `sudo`, the one who called it. For the record, not for rights."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    sudo = os.environ.get("SUDO_USER", "") if os.geteuid() == 0 else ""
    return sudo if re.fullmatch(r"[A-Za-z0-9._@\\-]{1,64}", sudo) else name


def libpq_options() -> str | None:
    """`PGOPTIONS`: libpq itself would not read it, since our sessions begin with options of their own."""
    return os.environ.get("PGOPTIONS")


def search_path() -> str | None:
    """Where the system looks for programs (`PATH`)."""
    return os.environ.get("PATH")
