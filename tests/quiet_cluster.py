"""Waiting until nobody in this PostgreSQL holds the feed of changes back: tests that run beside share the cluster."""

from sqlalchemy import Engine, text

from ulak.core import clock
from ulak.models.database import transaction

PATIENCE_SECONDS = 120.0


def wait_for_the_feed(engine: Engine) -> None:
    """Return when the feed serves all that is committed now: no transaction is open that began before this moment."""
    with transaction(engine) as connection:
        mine = connection.execute(text("SELECT pg_current_xact_id()::text::bigint")).scalar_one()
    end = clock.boot() + PATIENCE_SECONDS
    while clock.boot() < end:
        with engine.connect() as connection:
            oldest = connection.execute(text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"))
            if oldest.scalar_one() > mine:
                return
        clock.sleep(0.05)
    raise AssertionError(f"a transaction stayed open for {PATIENCE_SECONDS:g} s")
