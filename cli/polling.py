"""`ulak poll` and `ulak polls`: ask an account now, look at polls, cancel one."""

from collections import Counter
from dataclasses import asdict
from datetime import date
from typing import Annotated, Any

import typer
from sqlalchemy import Connection

from ulak.cli.output import moment, write_json, write_line, write_table
from ulak.cli.session import (
    FAILED,
    TIMED_OUT,
    CommandError,
    Session,
    UsageError,
    check_account,
    progress,
    report,
    session,
)
from ulak.core import clock
from ulak.core.redaction import redact_text
from ulak.models.account import AccountState, load
from ulak.models.database import retry_transaction
from ulak.models.events import Action, record
from ulak.models.ledger import opening
from ulak.models.ledger.listing import ListedPoll, find_poll, list_polls
from ulak.tasks.messages import poll_account
from ulak.tasks.steps.ondemand import open_on_demand
from ulak.tasks.steps.previewing import Preview, preview_poll

LOOK_SECONDS = 0.25
STATES = ("running", "complete", "complete_with_errors", "cancelled")

polls = typer.Typer(name="polls", help="List polls, or cancel one.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add `poll` and `polls`."""
    app.command()(poll)
    app.add_typer(polls)


def poll(
    context: typer.Context,
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's id.")],
    *,
    first: Annotated[str | None, typer.Option("--from", metavar="DAY", help="First day (YYYY-MM-DD).")] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="DAY", help="Last day, inclusive.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until the poll ends.")] = False,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="With --wait: stop waiting after this many seconds.")
    ] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Only show which calls would be made.")] = False,
) -> None:
    """Poll an account now.

    Prints the poll's id. Without days: its whole lookback and every open id. Days are in the account's time zone.
    With --wait the exit code is 1 if the poll ended with errors or was cancelled or the account is paused, and 3 after
    the time-out (the poll continues in both).
    """
    run = session(context)
    window = (day_of("--from", first), day_of("--to", last))
    if preview:
        _write_preview(preview_poll(run.runtime, account, window))
        return

    def also(connection: Connection, opened: int) -> None:
        record(connection, run.event(Action.POLL_OPENED, account=account, details={"poll": opened}))

    poll_id = open_on_demand(run.runtime, account, trigger="cli", window=window, also=also)
    run.publish(poll_account(account, poll_id))
    write_line(poll_id)
    if wait:
        _wait(run, poll_id, timeout)
    elif (pause := _pause(run, account)) is not None:
        report(pause)


def _write_preview(found: Preview) -> None:
    """The calls, grouped by what they ask for, and how long the limit needs for them."""
    labels = Counter(fetch.label for fetch in found.fetches)
    write_table(("calls", "what"), [(many, label) for label, many in labels.items()])
    ids = f" for {found.ids} ids" if found.ids else ""
    report(
        f"{len(found.fetches)} calls{ids}, in {found.seconds:g} s at least by the limit. Nothing was asked or stored."
    )


def _pause(run: Session, account: str) -> str | None:
    """Until when the account is paused and why, and what that means for a poll; None where it is not paused."""
    with run.engine.connect() as connection:
        state, reason, until = load(connection, account).standing
    if state is not AccountState.PAUSED:
        return None
    ends = "until it is resumed" if until is None else f"until {moment(until)}"
    return f"{account} is paused {ends} ({redact_text(reason or 'no reason was given')}): the poll waits for that."


def day_of(option: str, text: str | None) -> date | None:
    """The day that an option names."""
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option} must be a day such as 2026-05-01.") from None


def _wait(run: Session, poll_id: int, timeout: float | None) -> None:
    """Follow the poll to its end."""
    started = clock.boot()
    with progress(f"poll {poll_id}") as bar:
        while (row := _poll_row(run, poll_id)).state == "running":
            done = row.fetches - row.open_fetches
            bar.show(done, row.fetches or None, "waiting for a worker" if row.planned_at is None else None)
            if (pause := _pause(run, row.account_id)) is not None:
                # It may last indefinitely, which no user would wait for.
                raise CommandError(pause)
            if timeout is not None and clock.boot() - started >= timeout:
                report(
                    f"Poll {poll_id} still runs after {timeout:g} s: {_counts(row)}. It continues in the background."
                )
                raise typer.Exit(TIMED_OUT)
            clock.sleep(LOOK_SECONDS)
    report(f"Poll {poll_id} is {row.state.replace('_', ' ')}: {_counts(row)}.")
    if row.state != "complete":
        raise typer.Exit(FAILED)
    if row.taken_over_by is not None:
        report(f"Poll {row.taken_over_by} has superseded the rest of it and is followed now.")
        _wait(run, row.taken_over_by, None if timeout is None else max(0.0, timeout - (clock.boot() - started)))


def _poll_row(run: Session, poll_id: int) -> ListedPoll:
    with run.engine.connect() as connection:
        row = find_poll(connection, poll_id)
    if row is None:
        raise CommandError(f"There is no poll {poll_id}: `ulak polls list` shows the known ones.")
    return row


def _counts(row: ListedPoll) -> str:
    names = ("calls", "reports", "new", "advanced", "unchanged", "dead")
    return ", ".join(f"{getattr(row, name)} {name}" for name in names)


@polls.command("list")
def list_some(
    context: typer.Context,
    account: Annotated[str | None, typer.Argument(metavar="ACCOUNT", help="Only for this account.")] = None,
    *,
    state: Annotated[str | None, typer.Option(help=f"Only {', '.join(STATES)}.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of rows.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List polls, the newest first."""
    if state is not None and state not in STATES:
        raise UsageError(f"--state must be one of: {', '.join(STATES)}.")
    with session(context).engine.connect() as connection:
        check_account(connection, account, "ACCOUNT")
        rows = list_polls(connection, account=account, state=state, limit=limit)
    if as_json:
        write_json([asdict(row) for row in rows])
        return
    headers = ("poll", "account", "trigger", "days", "state", "fetches", "open", "calls", "new", "advanced", "dead")
    write_table((*headers, "started", "finished"), [_cells(row) for row in rows])


def _cells(row: ListedPoll) -> tuple[Any, ...]:
    days = f"{row.window_from}..{row.window_to}" if row.window_from else ""
    numbers = (getattr(row, name) for name in ("fetches", "open_fetches", "calls", "new", "advanced", "dead"))
    times = (moment(row.started_at), moment(row.finished_at))
    return (row.id, row.account_id, row.trigger, days, row.state, *numbers, *times)


@polls.command()
def cancel(
    context: typer.Context, poll_id: Annotated[int, typer.Argument(metavar="ID", help="The poll's id.")]
) -> None:
    """Cancel a running poll.

    Requests that it has not made yet are not made; answers to those already made are still stored.
    """
    run = session(context)

    def cancel_recorded(connection: Connection) -> int | None:
        cancelled = opening.cancel(connection, poll_id)
        if cancelled is not None:
            row = find_poll(connection, poll_id)
            account = None if row is None else row.account_id
            record(connection, run.event(Action.POLL_CANCELLED, account=account, details={"poll": poll_id}))
        return cancelled

    cancelled = retry_transaction(run.engine, cancel_recorded)
    if cancelled is None:
        raise CommandError(f"Poll {poll_id} is {_poll_row(run, poll_id).state.replace('_', ' ')} already.")
    report(f"Poll {poll_id} is cancelled; {cancelled} fetches will not be made.")
