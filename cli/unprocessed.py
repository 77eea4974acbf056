"""`ulak dead` and `ulak quarantine`: what was given up and what could not be understood."""

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError

from ulak.cli.output import write_json, write_line, write_table
from ulak.cli.session import CommandError, Session, UsageError, check_account, progress, report, session
from ulak.models.database import retry_transaction, transaction
from ulak.models.events import Action, record
from ulak.models.ledger.deadletters import list_dead
from ulak.models.quarantine import Resealed, list_quarantine, reseal, resolve
from ulak.providers.errors import as_sentence
from ulak.tasks.steps.quarantine_retry import reread
from ulak.tasks.steps.retrying import Retried, retry_dead

PAGE = 500
RESEAL_ATTEMPTS = 5

dead = typer.Typer(name="dead", help="List dead letters, or retry them.", no_args_is_help=True)
quarantine = typer.Typer(
    name="quarantine", help="List, retry or discard what could not be parsed.", no_args_is_help=True
)
AccountOption = Annotated[str | None, typer.Option("--account", help="Only for this account.")]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]
Ids = Annotated[list[int] | None, typer.Argument(metavar="ID", help="Entry ids.")]
All = Annotated[bool, typer.Option("--all", help="All entries (of --account, if given).")]


def register(app: typer.Typer) -> None:
    """Add `dead` and `quarantine`."""
    for group in (dead, quarantine):
        app.add_typer(group)


# ------------------------------------------------------------------------------------------------- dead


@dead.command("list")
def list_dead_fetches(context: typer.Context, *, account: AccountOption = None, as_json: JsonOption = False) -> None:
    """List dead letters, the newest first.

    One for each cause, with its error and how often it occurred.
    """
    with session(context).engine.connect() as connection:
        check_account(connection, account)
        rows = list_dead(connection, account=account, limit=PAGE)
    names = ("id", "account_id", "poll_id", "label", "attempts", "times", "subjects", "last_error", "finished_at")
    shown = rows if as_json else [{**row, "last_error": as_sentence(row["last_error"])} for row in rows]
    _write_rows(shown, names, as_json=as_json)


@dead.command("retry")
def retry_dead_fetches(
    context: typer.Context, ids: Ids = None, *, account: AccountOption = None, every: All = False
) -> None:
    """Request again what dead letters asked for.

    A new poll makes the requests; the dead letters leave the list.
    """
    run = session(context)
    if not ids and every:
        with run.engine.connect() as connection:
            check_account(connection, account)
            ids = [row["id"] for row in list_dead(connection, account=account, limit=PAGE)]
        if not ids:
            report(f"There are no dead fetches{_of(account)}, so nothing is retried.")
            return

    def also(connection: Connection, of: str, retried: Retried) -> None:
        details = {"fetch": retried.fetch_id, "poll": retried.poll_id}
        record(connection, run.event(Action.DEAD_RETRIED, account=of, details=details))

    retried = [retry_dead(run.runtime, fetch_id, trigger="cli", also=also) for fetch_id in _named(ids, every=every)]
    for fetch_id, result in zip(ids or [], retried, strict=True):
        if result is None:
            report(f"{fetch_id} is no dead fetch.")
        else:
            outcome = "nothing is left to ask" if result.poll_id is None else f"poll {result.poll_id}"
            write_line(f"{fetch_id}: {outcome}")
    run.publish(*(message for result in retried if result is not None for message in result.messages))
    if None in retried:
        raise CommandError("Not all of them are dead fetches: `ulak dead list` shows the dead ones.")


# ------------------------------------------------------------------------------------------- quarantine


@quarantine.command("list")
def list_entries(context: typer.Context, *, account: AccountOption = None, as_json: JsonOption = False) -> None:
    """List what could not be parsed: when, where and why."""
    with session(context).engine.connect() as connection:
        check_account(connection, account)
        rows = list_quarantine(connection, account=account, limit=PAGE)
    names = ("id", "account_id", "origin", "reason", "times", "first_seen_at", "last_seen_at")
    _write_rows(rows, names, as_json=as_json)


@quarantine.command("retry")
def retry_entries(
    context: typer.Context, ids: Ids = None, *, account: AccountOption = None, every: All = False
) -> None:
    """Parse entries again with the installed version.

    What is understood is stored and leaves the list. No request is made, and no credential is needed.
    """
    run = session(context)
    failed = 0
    wanted = _chosen_entries(run, ids, account, every=every, done="read again")
    if wanted:
        details = {"entries": len(wanted)}
        run.recorder.add(run.event(Action.QUARANTINE_RETRIED, account=account, details=details))
    for entry_id in wanted:
        result = reread(run.runtime, entry_id)
        outcome = "is not in quarantine" if result is None else result.why
        failed += result is None or not result.understood
        write_line(f"{entry_id}: {outcome}")
    if failed:
        raise CommandError(
            f"{failed} were not understood; they stay until an update understands them, 14 days at most."
            " `ulak quarantine discard` deletes entries that none ever will."
        )


@quarantine.command("discard")
def discard_entries(
    context: typer.Context,
    ids: Ids = None,
    *,
    account: AccountOption = None,
    every: All = False,
    yes: Annotated[bool, typer.Option("--yes", help="Skip the confirmation; required without a terminal.")] = False,
) -> None:
    """Delete entries without parsing them. This cannot be undone."""
    run = session(context)
    wanted = _chosen_entries(run, ids, account, every=every, done="discarded")
    if wanted and not yes:
        if not sys.stdin.isatty():
            raise UsageError(
                "Discarding cannot be undone, and there is no terminal to confirm on: pass --yes to proceed."
            )
        typer.confirm(f"Entries to be discarded without being read: {len(wanted)}. Go on?", abort=True, err=True)
    missing = 0
    for entry_id in wanted:
        # One by one: a successful fetch may resolve any of them concurrently.
        with transaction(run.engine) as connection:
            is_done = resolve(connection, entry_id)
            if is_done:
                details = {"entry": entry_id}
                record(connection, run.event(Action.QUARANTINE_DISCARDED, account=account, details=details))
        missing += not is_done
        write_line(f"{entry_id}: {'discarded' if is_done else 'is not in quarantine'}")
    if missing and not every:
        raise CommandError("Not all of them were in quarantine: `ulak quarantine list` shows what is.")


@quarantine.command("reseal")
def reseal_entries(context: typer.Context) -> None:
    """Encrypt entries with the first key of the seal key file.

    Afterwards the other keys can be removed from the file. Safe twice, and beside running workers;
    docs/how-to/rotate-secrets.md has the whole procedure.
    """
    run = session(context)
    key, engine = run.runtime.seal_key, run.engine
    total, place = Resealed(), 0
    with progress("sealing again") as bar:
        while True:
            part = _reseal_part(engine, key, place)
            total = Resealed(
                done=total.done + part.done,
                already=total.already + part.already,
                not_opened=total.not_opened + part.not_opened,
            )
            bar.show(total.done + total.already + total.not_opened)
            if part.last_id is None:
                break
            place = part.last_id
    run.recorder.add(run.event(Action.QUARANTINE_RESEALED, details={"entries": total.done}))
    write_line(f"{total.done} entries sealed with the first key, {total.already} were already")
    if total.not_opened:
        raise CommandError(f"{total.not_opened} cannot be opened with any key of the file: add the one that can.")


def _reseal_part(engine: Engine, key: bytes, place: int) -> Resealed:
    """The next entries; repeated if the same bytes are sealed concurrently."""
    for _ in range(RESEAL_ATTEMPTS):
        try:
            return retry_transaction(engine, lambda connection: reseal(connection, key, after_id=place))
        except IntegrityError:
            continue
    return retry_transaction(engine, lambda connection: reseal(connection, key, after_id=place))


def _chosen_entries(run: Session, ids: list[int] | None, account: str | None, *, every: bool, done: str) -> list[int]:
    """The entries that are named, or all; with a sentence where there are none, so that nothing is `done`."""
    if ids or not every:
        return _named(ids, every=every)
    found: list[int] = []
    with run.engine.connect() as connection:
        check_account(connection, account)
        while page := list_quarantine(connection, account=account, limit=PAGE, after_id=found[-1] if found else 0):
            found += (row["id"] for row in page)
    if not found:
        report(f"Nothing{_of(account)} is in quarantine, so nothing is {done}.")
    return found


def _of(account: str | None) -> str:
    return "" if account is None else f" of {account}"


def _named(ids: list[int] | None, *, every: bool) -> list[int]:
    if not ids and not every:
        raise UsageError("Name the ids, or --all.")
    return ids or []


def _write_rows(rows: Sequence[Mapping[Any, Any]], names: Sequence[str], *, as_json: bool) -> None:
    """The rows as JSON, or these columns as a table, with a word where there may be more."""
    if as_json:
        write_json(rows)
        return
    write_table([name.replace("_", " ") for name in names], [[row[name] for name in names] for row in rows])
    if len(rows) == PAGE:
        report(f"Only {PAGE} are shown.")
