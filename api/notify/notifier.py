"""The thread of the API process that evaluates what is wrong and notifies receivers, with or without the database.

With it: one process at a time evaluates (`ulak.models.notifications.take_turn`); every process sends what is due, each
message by the process that claims it. Without it each process is on its own: once it has lasted `HOLD_SECONDS` that the
database is away, the process notifies every receiver itself, and records that when the database is back.

What is guaranteed then: every API process that notices notifies each receiver at least once; all of them use one
message id if they had read the same last notification and notice within the same hour, which is the usual case. The
end is reported once, through the outbox.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Event, Thread
from typing import Final

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from ulak.api.notify.message_texts import Message, database_away, not_evaluated, problems_of
from ulak.api.notify.receivers import NotTakenError, Receiver, find_receivers
from ulak.api.pages.language import Language
from ulak.api.pages.overview_cache import OverviewCache, Snapshot
from ulak.api.pages.routes import overviews_for
from ulak.core import clock
from ulak.core.logging import get_logger, origin
from ulak.core.settings import Settings
from ulak.models import notifications as outbox
from ulak.models.database import make_engine, transaction
from ulak.models.database_errors import is_unavailable
from ulak.models.job_runs import NOTIFYING, beat
from ulak.models.ledger.ending import database_now
from ulak.models.problems import (
    DATABASE_AWAY,
    GAP_SECONDS,
    Change,
    Episode,
    Problem,
    State,
    episode_name,
    follow,
    hold_seconds,
    message_id,
)
from ulak.tasks.runtime import Runtime

log = get_logger(__name__)

EVERY_SECONDS: Final = 15.0
SHARE_OF_TIME: Final = 20.0
"""A look that took long is made so many times as seldom: counting a big table is not free."""
MAX_PAUSE_SECONDS: Final = GAP_SECONDS / 3
"""But so often, however long it takes: what is seen less often than every `GAP_SECONDS` never opens."""
MAX_AT_ONCE: Final = 20
"""Messages that one receiver gets in a row."""
STATEMENT_SECONDS: Final = 15.0
CONNECT_SECONDS: Final = 3
STOP_SECONDS: Final = 2.0


@dataclass(slots=True)
class _Direct:
    """What one receiver was sent without the database."""

    attempts: int = 0
    next_at: float = 0.0
    """By the boot clock."""
    is_delivered: bool = False
    error: str | None = None


@dataclass(slots=True)
class _Outage:
    """The database is away, as this process has seen it."""

    began: float
    """By the boot clock."""
    change: Change
    sent: dict[str, _Direct] = field(default_factory=dict)


@dataclass(slots=True)
class Notifier:
    """Evaluates and sends, one `step` after the other."""

    engine: Engine
    overviews: OverviewCache
    receivers: Sequence[Receiver]
    language: Language
    page: str | None = None
    every_seconds: float = EVERY_SECONDS
    _outage: _Outage | None = None
    _last_id: int | None = None
    _look_again: float = 0.0
    _sending: dict[str, Thread] = field(default_factory=dict)

    def step(self) -> None:
        """Evaluate, if it is this process's turn, and send what is due."""
        try:
            self._with_database()
        except SQLAlchemyError as error:
            if not is_unavailable(error):
                log.warning("notify.not_evaluated", error=origin(error))
                return
            self._without_database()

    def wait(self, seconds: float | None = None) -> None:
        """Until what is being sent was sent, or so long."""
        for thread in list(self._sending.values()):
            thread.join(seconds)

    def close(self) -> None:
        """Send nothing more; the next process repeats what is under way."""
        self.engine.dispose()

    # ------------------------------------------------------------------------------------------ with the database

    def _with_database(self) -> None:
        with transaction(self.engine) as connection:
            is_turn = clock.boot() >= self._look_again and outbox.take_turn(
                connection, every_seconds=self.every_seconds * 0.9
            )
            self._last_id = outbox.last_id(connection)
        if self._outage is not None:
            with transaction(self.engine) as connection:
                _record_outage(connection, self._outage)
            log.info("notify.database_back")
            self._outage = None
        try:
            if is_turn:
                self._look()
        finally:
            # What waits is sent though looks fail.
            self._send_due()

    def _look(self) -> None:
        """Look, and follow what was found; where that fails, follow that it does."""
        began = clock.boot()
        try:
            look = self.overviews.look()
        except Exception as error:
            if is_unavailable(error):
                raise
            log.warning("notify.not_evaluated", error=origin(error))
            with transaction(self.engine) as connection:
                self._follow(connection, [not_evaluated(self.language)], only=not_evaluated(self.language).key)
        else:
            with transaction(self.engine) as connection:
                self.evaluate(connection, look)
                beat(connection, NOTIFYING)
        finally:
            took = clock.boot() - began
            self._look_again = clock.boot() + min(took * SHARE_OF_TIME, MAX_PAUSE_SECONDS)

    def _send_due(self) -> None:
        """Let each receiver's thread send, unless it still does."""
        for receiver in self.receivers:
            sending = self._sending.get(receiver.name)
            if sending is None or not sending.is_alive():
                # A daemon: one that hangs at a receiver does not keep the process from ending.
                sending = Thread(target=self._drain, args=(receiver,), name=f"notify-{receiver.name}", daemon=True)
                self._sending[receiver.name] = sending
                sending.start()

    def evaluate(self, connection: Connection, look: Snapshot) -> None:
        """Follow the problems that the look found, and put the messages about them into the outbox."""
        self._follow(connection, problems_of(look.alarms, self.language))

    def _follow(self, connection: Connection, found: Sequence[Problem], *, only: str | None = None) -> None:
        """`only`: the key of the one problem that is known of; all others stay as they are."""
        outbox.lock(connection)
        now = database_now(connection)
        known = {key: each for key, each in outbox.load_episodes(connection).items() if only in {None, key}}
        followed = follow(known, found, now)
        outbox.store_episodes(connection, known, followed.kept)
        outbox.announce(connection, [receiver.name for receiver in self.receivers], followed.changes)
        for change in followed.changes:
            log.info("notify.problem", state=change.state.value, problem=change.episode.problem.key)

    def _drain(self, receiver: Receiver) -> None:
        """Send what is due to one receiver, in order."""
        try:
            for _ in range(MAX_AT_ONCE):
                with transaction(self.engine) as connection:
                    claimed = outbox.claim(connection, receiver.name)
                if claimed is None or not self._send(receiver, claimed):
                    return
        except SQLAlchemyError as error:
            log.warning("notify.not_written", receiver=receiver.name, error=origin(error))
        except Exception as error:  # noqa: BLE001 - a thread's error would be printed past the log
            log.error("notify.failed_inside", receiver=receiver.name, error=origin(error))

    def _send(self, receiver: Receiver, claimed: outbox.Claimed) -> bool:
        """One attempt and its result; whether the receiver took the message."""
        message = Message(
            id=claimed.message_id,
            items=claimed.items,
            created_at=claimed.created_at,
            language=self.language,
            page=self.page,
        )
        is_taken, error = _attempt(receiver, message, claimed.attempts)
        with transaction(self.engine) as connection:
            if is_taken:
                outbox.acknowledge(connection, claimed, error)
            else:
                outbox.postpone(connection, claimed, error or "")
        return is_taken

    # --------------------------------------------------------------------------------------- without the database

    def _without_database(self) -> None:
        now = clock.boot()
        if self._outage is None:
            log.warning("notify.database_away")
            self._outage = _Outage(began=now, change=self._away())
        if now - self._outage.began < hold_seconds(DATABASE_AWAY):
            return
        change = self._outage.change
        items = [change.item()]
        for receiver in self.receivers:
            sent = self._outage.sent.setdefault(receiver.name, _Direct())
            if sent.is_delivered or now < sent.next_at:
                continue
            sent.attempts += 1
            message = Message(
                id=message_id(items),
                items=items,
                created_at=change.episode.first_seen_at,
                language=self.language,
                page=self.page,
            )
            sent.is_delivered, sent.error = _attempt(receiver, message, sent.attempts)
            sent.next_at = clock.boot() + outbox.pause_seconds(sent.attempts)

    def _away(self) -> Change:
        """What receivers are sent; the same in all processes that know the same last notification in the same hour."""
        now = clock.now()
        hour = now.replace(minute=0, second=0, microsecond=0)
        problem = database_away(self.language)
        episode = Episode(
            problem=problem,
            name=f"{episode_name(problem.key, hour)} after {self._last_id}",
            first_seen_at=now,
            seen_at=now,
            opened_at=now + timedelta(seconds=hold_seconds(problem.kind)),
        )
        return Change(state=State.OPEN, episode=episode)


def _attempt(receiver: Receiver, message: Message, attempts: int) -> tuple[bool, str | None]:
    """Whether the receiver took the message, and what went wrong; one log line when it is lost, one when it is back."""
    try:
        error = receiver.send(message)
    except NotTakenError as refusal:
        if attempts == 1:
            log.warning("notify.not_taken", receiver=receiver.name, message=message.id, error=str(refusal))
        return False, str(refusal)
    except Exception as mistake:  # noqa: BLE001 - ours; the message waits like any other, and does not block the thread
        log.error("notify.failed_inside", receiver=receiver.name, error=origin(mistake))
        return False, f"could not be used ({type(mistake).__name__})"
    if error is not None:
        log.warning("notify.taken_in_part", receiver=receiver.name, message=message.id, error=error)
    log.info("notify.sent", receiver=receiver.name, message=message.id, attempts=attempts)
    return True, error


def _record_outage(connection: Connection, outage: _Outage) -> None:
    """Record what receivers were sent; its end is then reported like that of any other problem."""
    if not outage.sent:
        return
    outbox.lock(connection)
    outbox.record_episode(connection, outage.change.episode)
    for receiver, sent in outage.sent.items():
        outbox.record_sent(
            connection,
            receiver,
            outage.change,
            attempts=sent.attempts,
            is_delivered=sent.is_delivered,
            error=sent.error,
        )


@contextmanager
def notifying(settings: Settings, runtime: Runtime) -> Iterator[None]:
    """Run a notifier while the block runs; nothing where there are no receivers.

    What is wrong with the receivers' settings goes into the log, and the status page shows it; callbacks must be taken
    all the same.
    """
    receivers, faults = find_receivers(settings)
    if faults:
        log.error("notify.settings_unusable", why="; ".join(faults))
    if not receivers:
        yield
        return
    notifier, ended = notifier_for(settings, runtime, receivers, faults), Event()
    thread = Thread(target=_run, args=(notifier, ended), name="notifier", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(STOP_SECONDS)
        notifier.close()


def _run(notifier: Notifier, ended: Event) -> None:
    while not ended.wait(notifier.every_seconds):
        try:
            notifier.step()
        except Exception as error:  # noqa: BLE001 - the thread must go on, whatever one evaluation stumbles over
            log.error("notify.failed_inside", error=origin(error))


def notifier_for(
    settings: Settings, runtime: Runtime, receivers: Sequence[Receiver], faults: Sequence[str] = ()
) -> Notifier:
    """A notifier on connections of its own: busy requests never keep it from the database."""
    engine = make_engine(
        runtime.engine.url.render_as_string(hide_password=False),
        pool_size=2 + len(receivers),
        statement_timeout_seconds=STATEMENT_SECONDS,
        connect_timeout_seconds=CONNECT_SECONDS,
        application_name="ulak-notify",
    )
    return Notifier(
        engine=engine,
        overviews=overviews_for(engine, runtime, settings, faults),
        receivers=receivers,
        language=Language(settings.notify_language),
        page=settings.public_url,
    )
