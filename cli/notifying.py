"""`ulak notify`: whether notifications arrive."""

from secrets import token_hex
from typing import Annotated

import typer

from ulak.cli.output import write_json, write_line, write_table
from ulak.cli.session import FAILED, UsageError, report, session
from ulak.core import clock
from ulak.models.notifications import list_notifications

commands = typer.Typer(name="notify", help="Test and list notifications.", no_args_is_help=True)
HEADERS = ("id", "receiver", "message", "created", "attempts", "delivered", "next attempt", "problems", "last error")


def register(app: typer.Typer) -> None:
    """Add `notify`."""
    app.add_typer(commands)


@commands.command("test")
def send_test(
    context: typer.Context,
    receiver: Annotated[str | None, typer.Argument(metavar="RECEIVER", help="webhook, slack or mail.")] = None,
) -> None:
    """Send a test message to each receiver now, or to one.

    Needs the settings of the API process, and no database. The exit code is 1 if a receiver did not take it.
    """
    from ulak.api.notify.message_texts import Message
    from ulak.api.notify.receivers import NotTakenError, receivers_for
    from ulak.api.pages.language import Language

    settings = session(context).settings
    receivers = [each for each in receivers_for(settings) if receiver in {None, each.name}]
    if not receivers:
        raise UsageError(
            "There is no such receiver: see docs/how-to/notifications.md for the settings."
            if receiver
            else "No receiver is configured: see docs/how-to/notifications.md for the settings."
        )
    message = Message(
        id=f"msg_test_{token_hex(8)}",
        items=(),
        created_at=clock.now(),
        language=Language(settings.notify_language),
        page=settings.public_url,
    )
    failed = 0
    for each in receivers:
        try:
            known = each.send(message)
        except NotTakenError as error:
            failed += 1
            write_line(f"{each.name}: {error}")
        else:
            write_line(f"{each.name}: {'ok' if known is None else f'ok, but it {known}'}")
    if failed:
        report(f"{failed} of {len(receivers)} did not take the test message {message.id}.")
        raise typer.Exit(FAILED)


@commands.command("list")
def list_all(
    context: typer.Context,
    *,
    waiting: Annotated[bool, typer.Option("--waiting", help="Only those that were not delivered.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the latest notifications and what became of them."""
    with session(context).engine.connect() as connection:
        rows = list_notifications(connection, waiting_only=waiting)
    if as_json:
        write_json([row._asdict() for row in rows])
        return
    cells = [
        (
            row.id,
            row.receiver,
            row.message_id,
            row.created_at,
            row.attempts,
            row.delivered_at,
            None if row.delivered_at else row.next_attempt_at,
            ", ".join(f"{item['state']} {item['key']}" for item in row.items),
            row.last_error,
        )
        for row in rows
    ]
    write_table(HEADERS, cells)
