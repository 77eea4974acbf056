"""`ulak migrate`, `ingest`, `rebuild`, `erase`, `secrets`, `dead`, `quarantine`: what operators do by hand."""

import sys
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Annotated

import typer

from core.logging import get_logger
from core.redaction import NUMBER_MASK, redact_text
from models.database import retry_transaction, transaction
from models.erasure import check_person, erase, is_number
from models.ledger.deadletters import list_dead
from models.quarantine import list_quarantine, resolve
from models.rebuild import rebuild
from models.schema import migrate
from providers.adapter import Callback
from providers.errors import as_sentence
from providers.numbers import person as read_person
from tasks.runtime import adapter_of
from tasks.steps.callbacks import ingest
from tasks.steps.deadletters import retry_dead
from tasks.steps.quarantine import reread
from tasks.steps.rereading import reread_statements
from tasks.steps.tracking import account_row
from workers import secrets
from workers.cli.output import write_json, write_table
from workers.cli.session import CommandError, Session, UsageError, check_account, progress, session, tell
from workers.connections import NothingRunningError, database_url, redis_url

log = get_logger(__name__)

SEND_REPLY = "send_reply"
PAGE = 500

dead = typer.Typer(name="dead", help="Fetches that were given up.", no_args_is_help=True)
quarantine = typer.Typer(name="quarantine", help="What could not be understood.", no_args_is_help=True)
secrets_group = typer.Typer(name="secrets", help="Secrets that were generated.", no_args_is_help=True)
AccountOption = Annotated[str | None, typer.Option("--account", help="Only of this account.")]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]
Ids = Annotated[list[int] | None, typer.Argument(metavar="ID", help="Which.")]
All = Annotated[bool, typer.Option("--all", help="All there are (of --account, where given).")]


def register(app: typer.Typer) -> None:
    """Add the commands of upkeep."""
    app.command("migrate")(migrate_schema)
    app.command("ingest")(ingest_file)
    app.command("rebuild")(rebuild_table)
    app.command("erase")(erase_recipient)
    for group in (dead, quarantine, secrets_group):
        app.add_typer(group)


def migrate_schema(context: typer.Context) -> None:
    """Bring the database's schema to the newest revision; does nothing where it is there already."""
    migrate(session(context).engine)
    tell("The schema is at its newest revision.")


def ingest_file(
    context: typer.Context,
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's id.")],
    file: Annotated[Path, typer.Argument(help="The body as it came; - reads stdin.")],
    tail: Annotated[str, typer.Option(help="Which callback it was; the bare one is ''.")] = SEND_REPLY,
) -> None:
    """Store a callback's body, or a send reply that the sender kept."""
    run = session(context)
    with run.runtime.engine.connect() as connection:
        row = account_row(connection, account)
    record = adapter_of(row).record
    known = (*(("",) if record.callback_secret else record.callback_tails or ()), SEND_REPLY)
    if tail not in known:
        raise UsageError(f"--tail must be one of: {', '.join(repr(name) for name in known)}.")
    body = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    if not body.strip():
        raise UsageError("There is nothing to store: give the body byte for byte as the provider gave it.")
    done = ingest(run.runtime, row, Callback(tail=tail, body=body))
    print(f"{done.reports} reports: {done.new} new, {done.advanced} advanced, {done.unchanged} unchanged")
    if done.registered:
        print(f"{done.registered} ids registered, to be polled from now on")
    if done.quarantined:
        raise CommandError(f"{done.quarantined} parts were not understood: `ulak quarantine list` says why.")


def rebuild_table(
    context: typer.Context,
    account: Annotated[str | None, typer.Argument(metavar="ACCOUNT", help="Only of this account.")] = None,
    *,
    reread: Annotated[
        bool, typer.Option("--reread", help="First derive all facts again from the stored raw items.")
    ] = False,
) -> None:
    """Recompute the shared table from its history; afterwards each row is what its statements say.

    After an update that reads providers' statements better than before, --reread applies it to what is stored already,
    in batches next to running workers. It makes no request to a provider.
    """
    engine = session(context).engine
    with engine.connect() as connection:
        check_account(connection, account, "ACCOUNT")
    if reread:
        with progress("reading statements again") as bar:
            again = reread_statements(engine, account, on_progress=bar.show)
        print(
            f"{again.deliveries} deliveries read again: the facts of {again.differed} differed,"
            f" {again.written} rows changed"
        )
        if again.removed:
            print(f"{again.removed} messages beyond the recipients of their order were removed; the orders are due now")
    with progress("rebuilding") as bar, transaction(engine) as connection:
        done = rebuild(connection, account, on_progress=bar.show)
    print(f"{done.deliveries} deliveries recomputed, {done.differed} of them differed and were written")


def erase_recipient(
    context: typer.Context,
    recipient: Annotated[str, typer.Argument(help="A number in any usual spelling, or a provider's id of a person.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; needed where nobody can be asked.")] = False,
) -> None:
    """Remove a recipient from everything that is stored. This cannot be undone."""
    person = read_person(recipient)
    check_person(person)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("Erasing cannot be undone, and nobody is there to be asked: say --yes if it is meant.")
        typer.confirm("Remove everything that is stored about this recipient?", abort=True, err=True)
    gone = retry_transaction(session(context).engine, lambda connection: erase(connection, person))
    if not any(astuple(gone)):
        raise CommandError(_nothing_found(person))
    # How much, never whose: see `models.erasure.Erased`.
    log.warning("recipient.erased", **asdict(gone))
    print(f"{gone.deliveries} deliveries, {gone.observations} statements, {gone.tracked_ids} registered ids,")
    asked = f"what {gone.fetches} fetches and {gone.polls} polls asked for"
    print(f"{gone.quarantined} quarantine entries and {asked} are removed")
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
        shown, tried = redact_text(person), "no number can be read in it, so it was looked for as it stands"
    return f"Nothing was found of {shown}, so nothing was removed; {tried}."


# ------------------------------------------------------------------------------------------------- dead


@dead.command("list")
def list_dead_fetches(context: typer.Context, *, account: AccountOption = None, as_json: JsonOption = False) -> None:
    """Dead letters, the newest first: one for each cause, with how often it struck and the error."""
    with session(context).engine.connect() as connection:
        check_account(connection, account)
        rows = list_dead(connection, account=account, limit=PAGE)
    if as_json:
        write_json(rows)
        return
    names = ("id", "account_id", "poll_id", "label", "attempts", "times", "subjects", "last_error", "finished_at")
    told = [{**row, "last_error": as_sentence(row["last_error"])} for row in rows]
    write_table([name.replace("_", " ") for name in names], [[shown[name] for name in names] for shown in told])
    _tell_if_full(len(rows))


@dead.command("retry")
def retry_dead_fetches(
    context: typer.Context, ids: Ids = None, *, account: AccountOption = None, every: All = False
) -> None:
    """Ask again by a new poll for what dead fetches asked for, and take them off the list."""
    run = session(context)
    if not ids and every:
        with run.engine.connect() as connection:
            check_account(connection, account)
            ids = [row["id"] for row in list_dead(connection, account=account, limit=PAGE)]
        if not ids:
            tell(f"There are no dead fetches{_of(account)}, so nothing is asked again.")
            return
    retried = [retry_dead(run.runtime, fetch_id, trigger="cli") for fetch_id in _named(ids, every=every)]
    for fetch_id, result in zip(ids or [], retried, strict=True):
        if result is None:
            tell(f"{fetch_id} is no dead fetch.")
        else:
            told = "nothing is left to ask" if result.poll_id is None else f"poll {result.poll_id}"
            print(f"{fetch_id}: {told}")
    run.publish(*(message for result in retried if result is not None for message in result.messages))
    if None in retried:
        raise CommandError("Not all of them are dead fetches: `ulak dead list` shows the dead ones.")


# ------------------------------------------------------------------------------------------- quarantine


@quarantine.command("list")
def list_entries(context: typer.Context, *, account: AccountOption = None, as_json: JsonOption = False) -> None:
    """What could not be understood: when, where and why, never what."""
    with session(context).engine.connect() as connection:
        check_account(connection, account)
        rows = list_quarantine(connection, account=account, limit=PAGE)
    if as_json:
        write_json(rows)
        return
    names = ("id", "account_id", "origin", "reason", "times", "first_seen_at", "last_seen_at")
    write_table([name.replace("_", " ") for name in names], [[row[name] for name in names] for row in rows])
    _tell_if_full(len(rows))


@quarantine.command("retry")
def retry_entries(
    context: typer.Context, ids: Ids = None, *, account: AccountOption = None, every: All = False
) -> None:
    """Read entries again with the code as it is today; what is understood is stored and leaves the list."""
    run = session(context)
    failed = 0
    for entry_id in _chosen_entries(run, ids, account, every=every, done="read again"):
        result = reread(run.runtime, entry_id)
        told = "is not in quarantine" if result is None else result.why
        failed += result is None or not result.understood
        print(f"{entry_id}: {told}")
    if failed:
        raise CommandError(
            f"{failed} were not understood; they stay until an update understands them, 14 days at most."
            " `ulak quarantine discard` gives up what none ever will."
        )


@quarantine.command("discard")
def discard_entries(
    context: typer.Context,
    ids: Ids = None,
    *,
    account: AccountOption = None,
    every: All = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; needed where nobody can be asked.")] = False,
) -> None:
    """Give entries up without reading them; what they held is gone. This cannot be undone."""
    run = session(context)
    wanted = _chosen_entries(run, ids, account, every=every, done="discarded")
    if wanted and not yes:
        if not sys.stdin.isatty():
            raise UsageError("Discarding cannot be undone, and nobody is there to be asked: say --yes if it is meant.")
        typer.confirm(f"Entries to be discarded without being read: {len(wanted)}. Go on?", abort=True, err=True)
    missing = 0
    for entry_id in wanted:
        # Each by itself: a fetch that ends well may resolve any of them at this moment.
        with transaction(run.engine) as connection:
            is_done = resolve(connection, entry_id)
        missing += not is_done
        print(f"{entry_id}: {'discarded' if is_done else 'is not in quarantine'}")
    if missing and not every:
        raise CommandError("Not all of them were in quarantine: `ulak quarantine list` shows what is.")


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
        tell(f"Nothing{_of(account)} is in quarantine, so nothing is {done}.")
    return found


def _of(account: str | None) -> str:
    return "" if account is None else f" of {account}"


def _named(ids: list[int] | None, *, every: bool) -> list[int]:
    if not ids and not every:
        raise UsageError("Name the ids, or --all.")
    return ids or []


def _tell_if_full(shown: int) -> None:
    if shown == PAGE:
        tell(f"Only {PAGE} are shown.")


# ---------------------------------------------------------------------------------------------- secrets


@secrets_group.command("show")
def show_secrets(context: typer.Context) -> None:
    """Print what programs need to come in: on stdout, one NAME=value a line."""
    settings = session(context).settings
    for name, find in (("ULAK_DATABASE_URL", database_url), ("ULAK_REDIS_URL", redis_url)):
        try:
            print(f"{name}={find(settings)}")
        except NothingRunningError:
            tell(f"{name}: no embedded server runs in {settings.home}.")
    print(f"ULAK_API_TOKEN={secrets.api_token(settings)}")
    print(f"ULAK_FLOWER_AUTH={secrets.flower_auth(settings)}")
    tell(f"Generated secrets lie in {settings.home / 'secrets'}.")
