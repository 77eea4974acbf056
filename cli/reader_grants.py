"""`ulak grant-reader`: a role of PostgreSQL that may read the delivery table and its views."""

from typing import Annotated

import typer

from ulak.cli.output import write_line
from ulak.cli.session import CommandError, report, session
from ulak.models.database import transaction
from ulak.models.reader_roles import READABLE, ReaderError, grant_reader, grants


def register(app: typer.Typer) -> None:
    """Add `grant-reader`."""
    app.command("grant-reader")(grant)


def grant(
    context: typer.Context,
    role: Annotated[str, typer.Argument(metavar="ROLE", help="An existing role of PostgreSQL.")],
    *,
    only_print: Annotated[
        bool, typer.Option("--print", help="Only print the statements, for an administrator.")
    ] = False,
) -> None:
    """Let a database role read the delivery table and its views.

    It may read nothing else. The SQL that is run is printed. Safe to repeat; do so after an update that brings new
    views. The role must exist already.
    """
    try:
        with transaction(session(context).engine) as connection:
            statements = grants(connection, role)
            if not only_print:
                grant_reader(connection, role)
    except ReaderError as error:
        raise CommandError(str(error)) from error
    for statement in statements:
        write_line(f"{statement};")
    if not only_print:
        report(f"{role} may read {', '.join(READABLE)}, and nothing else of Ulak.")
