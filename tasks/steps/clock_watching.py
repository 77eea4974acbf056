"""Looking after the database's clock: a step is noted once, and the stored times are moved with it."""

from socket import gethostname

from ulak.core.logging import get_logger
from ulak.models.account import list_accounts
from ulak.models.database import retry_transaction, transaction
from ulak.models.ledger import clocksteps
from ulak.models.ledger.recovery import COOLDOWN_SECONDS
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.failures import ease_seconds

log = get_logger(__name__)


def look(runtime: Runtime) -> None:
    """Compare the database's clock with this machine's, and deal with a step; cheap where there was none."""
    with transaction(runtime.engine) as connection:
        is_step, is_unfinished = clocksteps.look(connection, runtime.watch)
    if is_step:
        settle(runtime)
    elif is_unfinished:
        _move_rest(runtime)


def settle(runtime: Runtime) -> None:
    """Deal with a step that a look or a take has found: afterwards calls may be made again."""
    done = retry_transaction(runtime.engine, lambda c: clocksteps.settle(c, runtime.watch, noticed_by=gethostname()))
    runtime.watch.adopt(done.reading, done.step_id, done.behind)
    with transaction(runtime.engine) as connection:
        runtime.watch.keep(connection)
    if done.step is not None:
        log.warning("clock.stepped", seconds=round(done.step.seconds, 3), evidence=done.step.evidence)
    _move_rest(runtime)


def _move_rest(runtime: Runtime) -> None:
    """Finish what a step back has left to do, whoever noted it."""
    with runtime.engine.connect() as connection:
        accounts = list_accounts(connection)
    waits = {stored.id: max(ease_seconds(stored), COOLDOWN_SECONDS * stored.time_factor) for stored in accounts}
    clocksteps.move_rest_back(runtime.engine, waits)
