"""`ulak status`: the state of every account."""

import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from ulak.cli.output import console_for, counted, draw_table, duration, moment, write_json, write_line, write_table
from ulak.cli.session import Session, report, session
from ulak.core import clock
from ulak.core.redaction import redact_text
from ulak.models.account import PausedBy, UnknownAccountError
from ulak.models.overview import AccountOverview, overview
from ulak.models.rejections import Rejected
from ulak.models.retention import Removal
from ulak.providers.errors import as_sentence

WATCH_SECONDS = 2.0
SHARE_OF_TIME = 10.0
"""Watching pauses so many times as long as its look took, so that it is never more than a small load."""
HEADERS = (
    "account",
    "state",
    "open",
    "final",
    "ids",
    "oldest",
    "fresh",
    "objective",
    "calls",
    "limit",
    "ready",
    "polls",
    "dead",
    "quarantine",
    "trouble",
)


def register(app: typer.Typer) -> None:
    """Add `status`."""
    app.command()(status)


def status(
    context: typer.Context,
    account: Annotated[str | None, typer.Argument(metavar="ACCOUNT", help="Only this account.")] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON; with --watch, one document per line.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until interrupted.")] = False,
) -> None:
    """Show the state of each account.

    State, deliveries, what is late, use of the rate limit, last error.
    """
    run = session(context)
    if watch:
        _watch(run, account, as_json=as_json)
        return
    accounts = _look(run, account)
    if as_json:
        write_json({"accounts": [document(each) for each in accounts]})
        return
    write_table(HEADERS, [cells(each) for each in accounts])
    for each in accounts:
        if each.reason:
            report(f"{each.id} is {each.state}: {redact_text(as_sentence(each.reason))}{_until(each)}")
        for burning in each.objective.burning if each.objective is not None else ():
            report(f"{each.id} misses its objective: {burning.late_percent:.1f} % late within {burning.window}")
        if each.removal is not None:
            report(_removal(each.id, each.removal, each.keep_days))
        for rejected in each.rejected:
            report(f"{each.id} rejected {_times(rejected)}, last {_age(each, rejected)} ago: {rejected.sentence}")
    report(f"Generated secrets are in {run.settings.home / 'secrets'}; `ulak secrets show` prints them.")


def _removal(account: str, removal: Removal, keep_days: int | None) -> str:
    """What is going to be removed, and when."""
    return (
        f"{account} removes about {counted(removal.deliveries, 'row')} sent before {moment(removal.before)}, from"
        f" {moment(removal.starts_at)} on (keep_days = {keep_days})."
    )


def _look(run: Session, account: str | None) -> list[AccountOverview]:
    with run.engine.connect() as connection:
        accounts = overview(connection, account)
    if account is not None and not accounts:
        raise UnknownAccountError(account)
    return accounts


def _watch(run: Session, account: str | None, *, as_json: bool) -> None:
    """Look again and again, on a terminal in place."""
    first = draw_table(HEADERS, map(cells, _look(run, account)))
    with Live(console=console_for(first), auto_refresh=False) as live:
        while True:
            began = clock.boot()
            accounts = _look(run, account)
            took = clock.boot() - began
            if as_json:
                write_json({"accounts": [document(each) for each in accounts]}, indent=None)
            elif sys.stdout.isatty():
                table = draw_table(HEADERS, map(cells, accounts))
                live.update(Group(table, Text(moment(clock.now()), style="dim")), refresh=True)
            else:
                write_table(HEADERS, [cells(each) for each in accounts])
                write_line()
            clock.sleep(max(WATCH_SECONDS, took * SHARE_OF_TIME))


def _until(account: AccountOverview) -> str:
    """Who paused it, and when polling resumes."""
    until = moment(account.until) if account.until else None
    if account.paused_by == PausedBy.AUTOMATIC:
        return f" (paused automatically, next attempt at {until})"
    if account.paused_by is not None:
        return f" (paused by an operator until {until or 'it is resumed'})"
    return f" (until {until})" if until else ""


def document(account: AccountOverview) -> dict[str, Any]:
    """One account as `--json` shows it; its names are a promise."""
    rejected = [asdict(each) | {"kind": str(each.kind), "sentence": each.sentence} for each in account.rejected]
    return asdict(account) | {"state": str(account.state), "rejected": rejected}


def cells(account: AccountOverview) -> tuple[Any, ...]:
    """One account as a row of `HEADERS`."""
    oldest = account.oldest_unanswered
    return (
        account.id,
        str(account.state),
        account.open_deliveries,
        account.final_deliveries,
        account.open_tracked,
        duration((account.as_of - oldest).total_seconds()) if oldest else "",
        duration(account.freshness_seconds),
        _objective(account),
        account.calls_last_minute,
        f"{account.busy_slots}/{account.limit_requests}",
        account.ready_fetches + account.sending_fetches,
        account.running_polls,
        account.dead_fetches,
        account.quarantined,
        _trouble(account),
    )


def _objective(account: AccountOverview) -> str:
    """What was reached within three days, beside what is wanted."""
    objective = account.objective
    if objective is None:
        return ""
    reached = "none yet" if objective.good_percent is None else f"{objective.good_percent:.1f} %"
    return f"{reached} ({objective.text})"


def _trouble(account: AccountOverview) -> str:
    parts = [f"{_times(each)} rejected ({_age(account, each)} ago)" for each in account.rejected[:1]]
    if account.last_trouble is not None and account.last_trouble_at is not None:
        age = (account.as_of - account.last_trouble_at).total_seconds()
        parts.insert(0, f"{as_sentence(account.last_trouble)} ({duration(age)} ago)")
    return "; ".join(parts)


def _times(rejected: Rejected) -> str:
    return counted(rejected.times, "request")


def _age(account: AccountOverview, rejected: Rejected) -> str:
    return duration(max(0.0, (account.as_of - rejected.last_at).total_seconds()))
