"""Building the runtime of a process from its settings, without Celery, which most commands need not load."""

from ulak.core import clock
from ulak.core.settings import Settings
from ulak.models.database import IDLE_IN_TRANSACTION_SECONDS, make_engine
from ulak.models.suppression import Suppressions
from ulak.providers.http import HttpDoor
from ulak.tasks.runtime import Runtime, person_key, seal_key

SPARE_CONNECTIONS = 2
"""Beside one database connection for each thread."""


def build_runtime(
    settings: Settings,
    *,
    threads: int,
    application_name: str = "ulak-worker",
    idle_in_transaction_seconds: float = IDLE_IN_TRANSACTION_SECONDS,
    prepares: bool = False,
) -> Runtime:
    """A runtime for one process with so many threads; connects when it is first used. The rest: see `make_engine`."""
    if settings.database_url is None:
        raise LookupError(
            "ULAK_DATABASE_URL is not set: set it to postgresql://user:password@host:5432/database, "
            "or start everything with `ulak up`, which brings a PostgreSQL of its own."
        )
    return Runtime(
        engine=make_engine(
            settings.database_url.get_secret_value(),
            pool_size=threads + SPARE_CONNECTIONS,
            application_name=application_name,
            idle_in_transaction_seconds=idle_in_transaction_seconds,
            prepares=prepares,
        ),
        door=HttpDoor(max_connections=threads + SPARE_CONNECTIONS, boot=clock.boot),
        seal_key=seal_key(settings),
        suppressions=Suppressions(lambda: person_key(settings)),
        lease_margin_seconds=settings.lease_margin_seconds,
        tick_seconds=settings.tick_seconds,
    )
