"""What the commands of one run share: the settings, the connections, and where output goes."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from sqlalchemy import Connection, Engine

from ulak.core.environment import invoking_user
from ulak.core.logging import configure_logging
from ulak.core.plain_text import one_line
from ulak.core.settings import Settings, load_settings
from ulak.models.account import load
from ulak.models.events import Action, Actor, Event, Kind, Via
from ulak.tasks.base import publish
from ulak.tasks.messages import Message
from ulak.tasks.runtime import Runtime, person_key
from ulak.workers.audit_recording import Recorder
from ulak.workers.connections import NothingRunningError, engine_for, runtime_for
from ulak.workers.publishing import app_for

DONE, FAILED, WRONG_USAGE, TIMED_OUT = 0, 1, 2, 3
"""The exit codes of every command."""


class CommandError(Exception):
    """The command failed; the text says what to do."""


class UsageError(Exception):
    """The command was used incorrectly; the text names the expected form."""


@dataclass
class Session:
    """One run of one command. Everything is made when it is first needed."""

    _runtime: Runtime | None = field(default=None, init=False)

    @cached_property
    def settings(self) -> Settings:
        """The settings, read once; logs go to stderr from then on."""
        settings = load_settings()
        configure_logging("cli", settings.log, level="warning")
        return settings

    @cached_property
    def engine(self) -> Engine:
        """The database."""
        return engine_for(self.settings)

    @cached_property
    def recorder(self) -> Recorder:
        """Records who did and saw what."""
        return Recorder(self.engine, lambda: person_key(self.settings))

    def event(self, action: Action, **more: Any) -> Event:
        """What this command does."""
        return event_of(action, **more)

    def saw(self, *events: Event) -> None:
        """Record what the command is about to show. Where nothing can be written, it is shown all the same."""
        if not self.recorder.try_add(*events):
            report("That you look at this could not be recorded.")

    @property
    def runtime(self) -> Runtime:
        """The means of the steps."""
        if self._runtime is None:
            self._runtime = runtime_for(self.settings)
        return self._runtime

    def publish(self, *messages: Message) -> None:
        """Send messages where the broker can be reached; the reconciler finds within seconds what was not sent."""
        try:
            app = app_for(self.settings)
        except NothingRunningError:
            report("No Redis is known, so the workers find this by themselves within seconds.")
            return
        try:
            for message in messages:
                publish(app, message)
        except app.connection_errors():
            report("Redis cannot be reached now; the workers find this by themselves once they run.")
        finally:
            app.close()

    def close(self) -> None:
        """Let go of all connections."""
        if self._runtime is not None:
            self._runtime.engine.dispose()
            self._runtime.door.close()
        if "engine" in self.__dict__:
            self.engine.dispose()


def event_of(action: Action, **more: Any) -> Event:
    """What the user of this host did by a command."""
    return Event(action=action, actor=Actor(kind=Kind.CLI, name=invoking_user()), via=Via.CLI, **more)


def session(context: typer.Context) -> Session:
    """The session of this run."""
    found = context.find_object(Session)
    if found is None:
        raise RuntimeError("the root command made no session")
    return found


def check_account(connection: Connection, account: str | None, option: str = "--account") -> None:
    """Where a command is narrowed to an account, it must be there: `UnknownAccountError`, or `UsageError` if empty."""
    refuse_empty({option: account})
    if account is not None:
        load(connection, account)


def refuse_empty(given: Mapping[str, str | None]) -> None:
    """`UsageError` where an option is given without a value, as an unset variable does: it would narrow nothing."""
    for option, value in given.items():
        if value is not None and not value.strip():
            raise UsageError(f"{option} is empty: give it a value, or leave it out.")


def report(text: str) -> None:
    """Say a sentence to the person, at stderr, on one line. What others wrote goes through `redact_text` first."""
    typer.echo(one_line(text), err=True)


@contextmanager
def progress(what: str, total: float | None = None) -> Iterator["Bar"]:
    """A progress bar on stderr while the block runs, where that is a terminal; nothing otherwise."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    shown = sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as display:
        yield Bar(display=display, task=display.add_task(what, total=total))


@dataclass(frozen=True)
class Bar:
    """A progress bar."""

    display: Progress
    task: "object"

    def show(self, done: float, total: float | None = None, text: str | None = None) -> None:
        """Show the current progress."""
        self.display.update(self.task, completed=done, total=total, description=text)  # type: ignore[arg-type]
