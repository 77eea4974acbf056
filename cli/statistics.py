"""`ulak statistics`: messages counted over days."""

from datetime import timedelta
from typing import Annotated, Final

import typer

from ulak.cli.deliveries import DELIMITERS, FORMATS, GRANULARITIES
from ulak.cli.output import write_csv, write_json, write_table
from ulak.cli.polling import day_of
from ulak.cli.session import UsageError, check_account, report, session
from ulak.models.statistics import By, count_days
from ulak.models.vocabulary import Granularity
from ulak.workers.message_counts import FIGURES, credits_of, days_of, group_of

WORDS: Final = tuple(by.value for by in By)


def register(app: typer.Typer) -> None:
    """Add `statistics`."""
    app.command()(statistics)


def statistics(
    context: typer.Context,
    account: Annotated[str | None, typer.Argument(metavar="ACCOUNT", help="Only this account.")] = None,
    *,
    first: Annotated[str | None, typer.Option("--from", help="First local day; six days before the last.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last local day, inclusive; today.")] = None,
    by: Annotated[str, typer.Option(help=f"What to group by, with commas: {', '.join(WORDS)}.")] = "account,day",
    granularity: Annotated[str, typer.Option(help="message, order or conversation.")] = "message",
    form: Annotated[str, typer.Option("--format", help="table, json or csv.")] = "table",
    delimiter: Annotated[str, typer.Option(help="Column separator of csv: a comma, `;`, `|` or tab.")] = ",",
) -> None:
    """Count messages by day, status or reason.

    Exact and quick, however many messages are stored. Days are those of each account's time zone.
    """
    if form not in FORMATS:
        raise UsageError(f"--format must be one of: {', '.join(FORMATS)}.")
    if DELIMITERS.get(delimiter) is None or (delimiter != "," and form != "csv"):
        raise UsageError("--delimiter must be one of , ; | tab, and goes with --format csv.")
    if granularity not in GRANULARITIES:
        raise UsageError(f"--granularity must be one of: {', '.join(GRANULARITIES)}.")
    names = [name.strip() for name in by.split(",") if name.strip()]
    if wrong := [name for name in names if name not in WORDS]:
        raise UsageError(f"--by must be of {', '.join(WORDS)}; {wrong[0]!r} is none of them.")
    asked = [each for each in By if each.value in names]
    start, end = day_of("--from", first), day_of("--to", last)
    run = session(context)
    with run.engine.connect() as connection:
        check_account(connection, account)
        accounts = None if account is None else [account]
        start, end = days_of(connection, start, end)
        if start > end:
            raise UsageError("--from must be a day up to --to.")
        groups = count_days(
            connection,
            start,
            end + timedelta(days=1),
            by=asked,
            accounts=accounts,
            granularity=Granularity(granularity),
        )
        priced = credits_of(connection, accounts)
    columns = (*(each.value for each in asked), *FIGURES)
    rows = [{name: row[name] for name in columns} for row in (group_of(each, priced) for each in groups)]
    if form == "json":
        write_json({"from": start, "to": end, "groups": rows, "credits_mean": dict(priced.meanings)})
    elif form == "csv":
        write_csv(columns, rows, delimiter=delimiter)
    else:
        write_table([name.replace("_", " ") for name in columns], [list(row.values()) for row in rows])
    for provider, meaning in priced.meanings.items():
        report(f"Credits of {provider}: {meaning}")
