"""`ulak events` and `ulak sessions`: who did, saw or erased what; and whose log-ins are over."""

from typing import Annotated, Any

import typer
from sqlalchemy import Row

from ulak.cli.deliveries import moment_of
from ulak.cli.output import moment, write_json, write_table
from ulak.cli.session import CommandError, UsageError, check_account, refuse_empty, report, session
from ulak.models.database import transaction
from ulak.models.events import Action, list_events, record
from ulak.models.ledger.ending import database_now
from ulak.models.lookups import deliveries_about
from ulak.models.sessions import end_sessions_of

ACTIONS = tuple(action.value for action in Action)
_FIGURES = ("poll", "fetch", "entry", "entries", "deliveries", "ids")
_DETAILS = ("reason", "until", "name", "role", "accounts", *_FIGURES, "whom")

sessions = typer.Typer(name="sessions", help="End log-ins at the status page.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add `events` and `sessions`."""
    app.command("events")(show_events)
    app.add_typer(sessions)


def show_events(
    context: typer.Context,
    *,
    account: Annotated[str | None, typer.Option(help="Only for this account.")] = None,
    actor: Annotated[str | None, typer.Option(help="Only by this token, person or user.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this action, such as number.revealed.")] = None,
    recipient: Annotated[
        str | None, typer.Option(help="Only about this number or id of a person, erased or not.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="Since a day, a time, or 90m, 24h, 7d ago (UTC).")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of rows.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List who did, saw or erased what, the newest first.

    No event holds a number: --recipient finds its hash.
    """
    if action is not None and action not in ACTIONS:
        raise UsageError(f"--action must be one of: {', '.join(ACTIONS)}.")
    refuse_empty({"--actor": actor, "--recipient": recipient})
    run = session(context)
    marks = None if recipient is None else run.recorder.every_mark(recipient)
    with run.engine.connect() as connection:
        check_account(connection, account)
        about = () if recipient is None else deliveries_about(connection, run.recorder.spellings(recipient))
        rows = list_events(
            connection,
            accounts=None if account is None else [account],
            actions=None if action is None else [Action(action)],
            actor=actor,
            people=marks,
            deliveries=about,
            since=moment_of(since, database_now(connection)),
            limit=limit,
        )
    if as_json:
        write_json([_document(row) for row in rows])
        return
    headers = ("id", "when", "who", "kind", "via", "action", "account", "delivery", "details")
    write_table(headers, [_cells(row) for row in rows])
    if recipient is not None:
        report("Callers who read numbers in bulk may have seen this one too: --action deliveries.read lists them.")


def _document(row: Row[Any]) -> dict[str, Any]:
    """Without the keyed hash, which is of no use to a reader."""
    return {name: value for name, value in row._asdict().items() if name != "person"}


def _cells(row: Row[Any]) -> tuple[Any, ...]:
    who = f"{row.actor_label} ({row.actor})" if row.actor_label else row.actor
    details = ", ".join(f"{name} {row.details[name]}" for name in _DETAILS if row.details.get(name) is not None)
    names = (row.action, row.account_id, row.delivery_id)
    return (row.id, moment(row.at), who, row.actor_kind, row.via, *names, details)


@sessions.command("end")
def end_sessions(
    context: typer.Context,
    person: Annotated[str, typer.Argument(metavar="PERSON", help="Subject or name, as `ulak events` shows it.")],
) -> None:
    """End the log-ins of a person.

    Every one by single sign-on, at every process. To keep the person out, take the groups away too.
    """
    run = session(context)
    with transaction(run.engine) as connection:
        rows = list_events(connection, actor=person, actions=[Action.SESSION_OPENED], limit=1000)
        subjects = sorted({row.actor for row in rows if row.actor_kind == "person"})
        for subject in subjects:
            end_sessions_of(connection, subject)
            record(connection, run.event(Action.SESSIONS_ENDED, details={"whom": subject}))
    if not subjects:
        raise CommandError("Nobody of that name ever logged in: `ulak events --action session.opened` shows who did.")
    report(f"Every log-in of {', '.join(subjects)} until now is over.")
