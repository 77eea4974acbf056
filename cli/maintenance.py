"""`ulak migrate`, `ingest`, `rebuild`, `erase`, `secrets`: what operators do by hand."""

import sys
from contextlib import suppress
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Connection

from ulak.cli.output import write_line
from ulak.cli.session import CommandError, UsageError, check_account, progress, report, session
from ulak.core.redaction import NUMBER_MASK, redact_text
from ulak.models.account import load
from ulak.models.database import transaction
from ulak.models.erasure import Erased, check_person, erase_person, is_number
from ulak.models.events import Action, record
from ulak.models.rebuild import rebuild
from ulak.models.schema import migrate
from ulak.providers.adapter import Callback
from ulak.providers.effective import record_of
from ulak.providers.phone_numbers import person as read_person
from ulak.tasks.steps.callbacks import ingest
from ulak.tasks.steps.rereading import reread_statements, restate_of
from ulak.workers import generated_secrets
from ulak.workers.connections import NothingRunningError, database_url, redis_url

SEND_REPLY = "send_reply"

secrets_group = typer.Typer(name="secrets", help="Show the generated secrets.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands of upkeep."""
    app.command("migrate")(migrate_schema)
    app.command("ingest")(ingest_file)
    app.command("rebuild")(rebuild_table)
    app.command("erase")(erase_recipient)
    app.add_typer(secrets_group)


def migrate_schema(context: typer.Context) -> None:
    """Upgrade the database schema.

    Does nothing if the schema is at the newest revision.
    """
    migrate(session(context).engine)
    report("The schema is at its newest revision.")


def ingest_file(
    context: typer.Context,
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's id.")],
    file: Annotated[Path, typer.Argument(help="The body exactly as received; - reads stdin.")],
    tail: Annotated[str, typer.Option(help="Path after the account in the callback's address.")] = SEND_REPLY,
) -> None:
    """Store a send reply or a callback body from a file.

    No request is made, and no credential is needed.
    """
    run = session(context)
    with run.runtime.engine.connect() as connection:
        stored = load(connection, account)
    record = record_of(stored)
    known = (*(("",) if record.callback_secret else record.callback_paths or ()), SEND_REPLY)
    if tail not in known:
        raise UsageError(f"--tail must be one of: {', '.join(repr(name) for name in known)}.")
    body = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    if not body.strip():
        raise UsageError("There is nothing to store: give the body byte for byte as the provider gave it.")
    run.recorder.add(run.event(Action.REPORTS_HANDED_OVER, account=account))
    done = ingest(run.runtime, stored, Callback(tail=tail, body=body))
    write_line(f"{done.reports} reports: {done.new} new, {done.advanced} advanced, {done.unchanged} unchanged")
    if done.registered:
        write_line(f"{done.registered} ids registered, to be polled from now on")
    if done.quarantined:
        raise CommandError(f"{done.quarantined} parts could not be parsed: `ulak quarantine list` shows why.")


def rebuild_table(
    context: typer.Context,
    account: Annotated[str | None, typer.Argument(metavar="ACCOUNT", help="Only for this account.")] = None,
    *,
    reread: Annotated[bool, typer.Option("--reread", help="First parse all stored raw items again.")] = False,
) -> None:
    """Recompute the delivery table from its history.

    After an update that reads providers' statements better than before, --reread applies it to what is stored already,
    in batches next to running workers. It makes no request to a provider.
    """
    run = session(context)
    engine = run.engine
    with engine.connect() as connection:
        check_account(connection, account, "ACCOUNT")
    run.recorder.add(run.event(Action.TABLE_REBUILT, account=account))
    if reread:
        with progress("reading statements again") as bar:
            again = reread_statements(engine, run.runtime.suppressions, account, on_progress=bar.show)
        write_line(
            f"{again.deliveries} deliveries read again: the facts of {again.differed} differed,"
            f" {again.written} rows changed"
        )
        if again.removed:
            write_line(
                f"{again.removed} messages beyond the recipients of their order were removed; the orders are due now"
            )
    with progress("rebuilding") as bar, transaction(engine) as connection:
        done = rebuild(connection, account, on_progress=bar.show, restate_of=restate_of(connection))
    write_line(f"{done.deliveries} deliveries recomputed, {done.differed} of them differed and were written")
    if done.doubtful:
        write_line(
            f"{done.doubtful} rows are not what was reported and were left as they are, because the raw item read today"
            " gives something else than when it came: `ulak rebuild --reread` takes what it gives today"
        )


def erase_recipient(
    context: typer.Context,
    recipient: Annotated[str, typer.Argument(help="A number in any usual spelling, or a provider's id of a person.")],
    yes: Annotated[bool, typer.Option("--yes", help="Skip the confirmation; required without a terminal.")] = False,
) -> None:
    """Remove a recipient from everything that is stored.

    What was sent to it until now is not stored again either. This cannot be undone.
    """
    person = read_person(recipient)
    check_person(person)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("Erasing cannot be undone, and there is no terminal to confirm on: pass --yes to proceed.")
        typer.confirm("Remove everything that is stored about this recipient?", abort=True, err=True)
    run = session(context)
    mark = run.recorder.require_mark(person)

    def note(connection: Connection, gone: Erased) -> None:
        # How much, never whose: see `ulak.models.erasure.Erased`.
        record(connection, run.event(Action.PERSON_ERASED, person=mark, details=asdict(gone)))

    gone = erase_person(run.engine, run.recorder.key(), person, note)
    if not any(astuple(gone)):
        raise CommandError(_nothing_found(person))
    write_line(f"{gone.deliveries} deliveries, {gone.observations} statements, {gone.tracked_ids} registered ids,")
    asked = f"what {gone.fetches} fetches and {gone.polls} polls asked for"
    write_line(f"{gone.quarantined} quarantine entries and {asked} are removed")
    if gone.open_fetches:
        raise CommandError(
            f"{gone.open_fetches} fetches or polls that are still open ask for it: erase again when they have ended."
        )


def _nothing_found(person: str) -> str:
    """One sentence that does not repeat a number."""
    if is_number(person):
        shown, tried = (
            f"{NUMBER_MASK}{person[-2:]}",
            "the number was looked for with and without country code, 0 and 00",
        )
    else:
        shown, tried = redact_text(person), "it is not a number, so it was searched literally"
    return (
        f"Nothing was found of {shown}, so nothing was removed; {tried}."
        " It is on the list of erased people now: what was sent to it before is not stored."
    )


# ---------------------------------------------------------------------------------------------- secrets


@secrets_group.command("show")
def show_secrets(context: typer.Context) -> None:
    """Print addresses and generated secrets as NAME=value."""
    run = session(context)
    settings = run.settings
    for name, find in (("ULAK_DATABASE_URL", database_url), ("ULAK_REDIS_URL", redis_url)):
        try:
            write_line(f"{name}={find(settings)}")
        except NothingRunningError:
            report(f"{name}: no embedded server runs in {settings.home}.")
    write_line(f"ULAK_API_TOKEN={generated_secrets.api_token(settings)}")
    write_line(f"ULAK_FLOWER_AUTH={generated_secrets.flower_auth(settings)}")
    report(f"Generated secrets are in {settings.home / 'secrets'}.")
    # Last: the secrets are needed most when the database cannot be reached.
    with suppress(NothingRunningError):
        run.saw(run.event(Action.SECRETS_SHOWN))
