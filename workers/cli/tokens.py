"""`ulak tokens`: who may use the task API, beside the bearer of `ULAK_API_TOKEN`."""

from typing import Annotated

import typer

from models.database import transaction
from models.tokens import TokenNameError, create_token, list_tokens, revoke_token
from workers.cli.output import write_json, write_line, write_table
from workers.cli.session import UsageError, session, tell

tokens = typer.Typer(name="tokens", help="Create, list and revoke tokens of the HTTP API.", no_args_is_help=True)
TokenName = Annotated[str, typer.Argument(metavar="NAME", help="Who holds it; stands in the log.")]


def register(app: typer.Typer) -> None:
    """Add `tokens`."""
    app.add_typer(tokens)


@tokens.command("create")
def create_one(context: typer.Context, name: TokenName) -> None:
    """Create a token and print it once.

    Only its SHA-256 is stored.
    """
    try:
        with transaction(session(context).engine) as connection:
            token = create_token(connection, name)
    except TokenNameError as error:
        raise UsageError(str(error)) from error
    write_line(token)
    tell("Keep it now: it is not shown again.")


@tokens.command("list")
def list_all(
    context: typer.Context, *, as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False
) -> None:
    """List tokens with the hour of their last use."""
    with session(context).engine.connect() as connection:
        records = list_tokens(connection)
    if as_json:
        write_json(records)
        return
    cells = [(each.name, each.created_at, each.last_used_at, each.revoked_at) for each in records]
    write_table(("name", "created", "last used", "revoked"), cells)


@tokens.command("revoke")
def revoke_one(context: typer.Context, name: TokenName) -> None:
    """Revoke a token.

    Its name cannot be used again.
    """
    with transaction(session(context).engine) as connection:
        changed = revoke_token(connection, name)
    tell(f"{name} is revoked." if changed else f"{name} was revoked already.")
