"""`ulak accounts`: check and apply a file, list, pause, resume."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy import Connection, Engine

from ulak.cli.output import counted, write_json, write_line, write_table
from ulak.cli.session import event_of, report, session
from ulak.core.redaction import redact_text
from ulak.models.account import AccountSettings, AccountState, StoredAccount, list_accounts, load
from ulak.models.accounts import Applied, apply, pause, resume
from ulak.models.database import retry_transaction, transaction
from ulak.models.events import Action, record
from ulak.models.statistics_upkeep import recount_rezoned
from ulak.providers.accounts import read_accounts
from ulak.workers.weak_secrets import REPORTED, require_strong_paths

commands = typer.Typer(name="accounts", help="Check, apply, list, pause and resume accounts.", no_args_is_help=True)
AccountId = Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's id.")]


def register(app: typer.Typer) -> None:
    """Add `accounts`."""
    app.add_typer(commands)


FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="An accounts.toml.")]


@commands.command("check")
def check_file(file: FileArgument) -> None:
    """Check an accounts file, without a database.

    Lists every mistake as FILE:LINE: sentence. The credentials it refers to are not resolved.
    """
    write_line(f"ok: {counted(len(read_accounts(file)), 'account')}")


@commands.command("apply")
def apply_file(
    context: typer.Context,
    file: FileArgument,
    prune: Annotated[bool, typer.Option("--prune", help="Disable accounts that are missing from the file.")] = False,
) -> None:
    """Apply an accounts file.

    A file with a mistake changes nothing; every mistake is listed as FILE:LINE: sentence.
    """
    specs = read_accounts(file)
    short = require_strong_paths(session(context).settings, specs)
    run = session(context)
    done = apply_recorded(run.engine, specs, prune=prune, person_key=run.recorder.key)
    names = {"created": done.created, "changed": done.changed, "unchanged": done.unchanged, "disabled": done.disabled}
    for word, ids in names.items():
        for account_id in ids:
            write_line(f"{word} {account_id}")
    if done.missing:
        report(f"Not in the file, still running (--prune disables them): {', '.join(done.missing)}")
    if short:
        report(f"The secret of the callback address is {REPORTED}: {', '.join(short)}")


def apply_recorded(
    engine: Engine, specs: Sequence[AccountSettings], *, prune: bool, person_key: Callable[[], bytes]
) -> Applied:
    """Apply the file (`ulak.models.accounts.apply`), and record for each account what became of it."""
    done = retry_transaction(engine, lambda c: _apply_recorded(c, specs, prune=prune, person_key=person_key))
    recount_rezoned(engine, done.rezoned)
    return done


def _apply_recorded(
    connection: Connection, specs: Sequence[AccountSettings], *, prune: bool, person_key: Callable[[], bytes]
) -> Applied:
    done = apply(connection, specs, prune=prune, person_key=person_key)
    changes = (
        (Action.ACCOUNT_CREATED, done.created),
        (Action.ACCOUNT_CHANGED, done.changed),
        (Action.ACCOUNT_DISABLED, done.disabled),
    )
    for action, ids in changes:
        for account_id in ids:
            record(connection, event_of(action, account=account_id))
    return done


@commands.command("list")
def list_all(
    context: typer.Context, *, as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False
) -> None:
    """List the accounts with their limits and states."""
    with session(context).engine.connect() as connection:
        records = list_accounts(connection)
    rows = [_row(record) for record in records]
    if as_json:
        write_json(rows)
        return
    headers = (
        "account",
        "provider",
        "state",
        "paused by",
        "until",
        "limit",
        "concurrency",
        "objective",
        "keep",
        "base url",
    )
    write_table(
        headers,
        [
            (
                record.id,
                record.provider,
                row["state"],
                row["paused_by"],
                row["until"],
                f"{record.limit_requests} per {record.limit_per_seconds:g} s",
                record.limit_concurrency,
                record.objective,
                "" if record.keep_days is None else f"{record.keep_days} d",
                record.base_url,
            )
            for row, record in zip(rows, records, strict=True)
        ],
    )


def _row(record: StoredAccount) -> dict[str, Any]:
    """One account as `--json` shows it: no reference to a credential."""
    state, reason, until = record.standing
    return {
        "id": record.id,
        "provider": record.provider,
        "enabled": record.enabled,
        "state": str(state),
        "reason": reason,
        "until": until,
        "paused_by": record.pauser if state is AccountState.PAUSED else None,
        "limit": {
            "requests": record.limit_requests,
            "per_seconds": record.limit_per_seconds,
            "concurrency": record.limit_concurrency,
        },
        "objective": record.objective,
        "keep_days": record.keep_days,
        "kept_from": record.kept_from,
        "removal_starts_at": record.removal_starts_at,
        "base_url": record.base_url,
        "timezone": record.timezone,
        "swept_through": record.swept_through,
    }


@commands.command("pause")
def pause_one(
    context: typer.Context,
    account: AccountId,
    why: Annotated[str, typer.Option(help="Reason shown to operators.")] = "paused by hand",
) -> None:
    """Make no requests for an account until it is resumed."""
    run = session(context)
    with transaction(run.engine) as connection:
        changed = pause(connection, account, None, why)
        if changed:
            event = run.event(Action.ACCOUNT_PAUSED, account=account, details={"reason": redact_text(why)})
            record(connection, event)
    report(f"{account} is paused." if changed else f"{account} was paused already.")


@commands.command("resume")
def resume_one(context: typer.Context, account: AccountId) -> None:
    """Make requests for an account again.

    Ends a pause, an open circuit breaker and throttling.
    """
    run = session(context)
    with transaction(run.engine) as connection:
        resume(connection, account)
        enabled = load(connection, account).enabled
        record(connection, run.event(Action.ACCOUNT_RESUMED, account=account))
    report(f"{account} is resumed." if enabled else f"{account} is resumed but still disabled in the accounts file.")
