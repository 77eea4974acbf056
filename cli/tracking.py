"""`ulak track` and `ulak untrack`: register ids so that they are polled, and end that."""

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from ulak.cli.idfiles import HEADER, BadLine, GoodLine, UnusableFileError, read_ids
from ulak.cli.output import write_line
from ulak.cli.session import Bar, CommandError, Session, UsageError, progress, refuse_empty, report, session
from ulak.core.time_zones import time_zone
from ulak.models.account import StoredAccount, load
from ulak.models.database import retry_transaction
from ulak.models.events import Action
from ulak.providers.phone_numbers import plain, trimmed
from ulak.tasks.steps.idcheck import IdCheck
from ulak.tasks.steps.tracking import MAX_AT_ONCE, track, untrack

MAX_REPORTED = 50


def register(app: typer.Typer) -> None:
    """Add `track` and `untrack`."""
    app.command("track")(track_ids)
    app.command("untrack")(untrack_ids)


def track_ids(
    context: typer.Context,
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's id.")],
    ids: Annotated[list[str] | None, typer.Argument(help="Ids, each as KIND=VALUE.", metavar="KIND=VALUE")] = None,
    *,
    file: Annotated[Path | None, typer.Option(help="A csv or jsonl file; - reads stdin.")] = None,
    ref: Annotated[str | None, typer.Option(help="Your own reference for each KIND=VALUE.")] = None,
) -> None:
    """Register ids of what was sent, so that they are polled.

    Registering an id again changes nothing.

    The kinds `order`, `message` and `conversation` name deliveries by the provider's key and are not polled: only the
    reference is kept, and attached to the deliveries, including those that are stored already.

    Every line that is right is registered; each wrong one is named with its line, and the exit code is then 1.
    """
    if not ids and file is None:
        raise UsageError("Name ids as KIND=VALUE, or a file with --file.")
    refuse_empty({"--ref": ref})
    if ref is not None and not ids:
        raise UsageError("--ref goes with KIND=VALUE; a file has a column client_ref for it.")
    run = session(context)
    with run.runtime.engine.connect() as connection:
        stored = load(connection, account)
    run.recorder.add(run.event(Action.IDS_REGISTERED, account=account))
    registration = Registration(run, stored)
    registration.take_all(_given(ids or [], ref, IdCheck(stored)))
    if file is not None:
        registration.take_file(file)
    if not registration.taken + registration.bad:
        raise UsageError(f"The file holds no ids: right would be one a line, as JSON or as csv below {HEADER}.")
    write_line(f"{registration.taken} registered, {registration.done} of them new")
    if registration.bad:
        raise CommandError(f"{registration.bad} lines were not registered; put them right and register them again.")


def untrack_ids(
    context: typer.Context,
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's id.")],
    ids: Annotated[list[str] | None, typer.Argument(help="Ids, each as KIND=VALUE.", metavar="KIND=VALUE")] = None,
    *,
    file: Annotated[Path | None, typer.Option(help="A csv or jsonl file as of `ulak track`; - reads stdin.")] = None,
) -> None:
    """Stop polling registered ids.

    What is stored about them stays, and so do their references. Registering an id again polls it again.
    """
    if not ids and file is None:
        raise UsageError("Name ids as KIND=VALUE, or a file with --file.")
    run = session(context)
    with run.runtime.engine.connect() as connection:
        stored = load(connection, account)
    ending = Ending(run, stored)
    ending.take_all(_given(ids or [], None, IdCheck(stored)))
    if file is not None:
        ending.take_file(file)
    write_line(f"{ending.done} untracked, {ending.taken - ending.done} were not open")
    if ending.bad:
        raise CommandError(f"{ending.bad} lines were not read; put them right and give them again.")


def _given(words: Iterable[str], ref: str | None, check: IdCheck) -> Iterator[GoodLine | BadLine]:
    """The ids of the command line; a wrong one is wrong usage, before anything is registered."""
    items: list[GoodLine] = []
    for word in words:
        kind, equals, value = word.partition("=")
        item = {"kind": plain(kind), "value": trimmed(value), **({} if ref is None else {"client_ref": trimmed(ref)})}
        why = check.why_not(item) if equals and item["value"] else "right would be KIND=VALUE"
        if why is not None:
            raise UsageError(f"Id {len(items) + 1} of the command line: {why.removesuffix('.')}.")
        items.append(GoodLine(line=len(items) + 1, item=item))
    yield from items


class Registration:
    """Registers lines in batches, and reports each invalid one."""

    def __init__(self, run: Session, stored: StoredAccount) -> None:
        """`stored`: the account."""
        self._run = run
        self._stored = stored
        self._check = IdCheck(stored)
        self.taken = self.done = self.bad = 0

    def take_file(self, file: Path) -> None:
        """Register what the file holds, with a progress bar on a terminal."""
        with _opened(file) as (source, size), progress("registering", total=size) as bar:
            try:
                self.take_all(read_ids(_counted(source, bar, size), time_zone(self._stored.timezone), report))
            except UnusableFileError as error:
                raise CommandError(str(error)) from None

    def take_all(self, lines: Iterable[GoodLine | BadLine]) -> None:
        """Register the valid lines in batches, in the order of the file; report the invalid ones."""
        judged = map(self._judged, lines)
        items = (line.item for line in judged if isinstance(line, GoodLine))
        while batch := list(islice(items, MAX_AT_ONCE)):
            self.done += self._take(batch)
            self.taken += len(batch)

    def _take(self, items: Sequence[Mapping[str, Any]]) -> int:
        return track(self._run.runtime, self._stored.id, items)

    def _judged(self, line: GoodLine | BadLine) -> GoodLine | BadLine:
        if isinstance(line, GoodLine) and (why := self._check.why_not(line.item)) is not None:
            line = BadLine(line=line.line, why=why)
        if isinstance(line, BadLine):
            self.bad += 1
            if self.bad <= MAX_REPORTED:
                report(f"line {line.line}: {line.why}")
            elif self.bad == MAX_REPORTED + 1:
                report("further wrong lines are only counted")
        return line


class Ending(Registration):
    """Ends the polling of what the lines name."""

    def _take(self, items: Sequence[Mapping[str, Any]]) -> int:
        account = self._stored.id
        event = self._run.event(Action.IDS_UNTRACKED, account=account)
        runtime = self._run.runtime
        done = retry_transaction(runtime.engine, lambda c: untrack(c, runtime, account, items, event))
        return sum(each.was_open for each in done)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[tuple[BinaryIO, int | None]]:
    """The bytes of the file, and how many there are where that is known."""
    if str(file) == "-":
        yield sys.stdin.buffer, None
        return
    with file.open("rb") as source:
        yield source, file.stat().st_size


def _counted(source: Iterable[bytes], bar: Bar, size: int | None) -> Iterator[bytes]:
    done = 0
    for number, line in enumerate(source, 1):
        done += len(line)
        if number % 1000 == 0:
            bar.show(done, size, f"registering, line {number}")
        yield line
