"""`ulak tokens`: who may use the task API, beside the bearer of `ULAK_API_TOKEN`."""

from typing import Annotated

import typer

from ulak.cli.output import write_json, write_line, write_table
from ulak.cli.session import UsageError, report, session
from ulak.models.access import Role
from ulak.models.account import load
from ulak.models.database import transaction
from ulak.models.events import Action, record
from ulak.models.tokens import TokenNameError, create_token, list_tokens, revoke_token

tokens = typer.Typer(name="tokens", help="Create, list and revoke tokens of the HTTP API.", no_args_is_help=True)
_MAY = {
    Role.READ: "sees the state of everything, numbers masked",
    Role.SUPPORT: "may look for people and see one number at a time, which is recorded",
    Role.OPERATE: "may poll, pause, register and hand over, and reads numbers in full",
    Role.ADMIN: "may do everything",
}
TokenName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the token; appears in logs and events.")]


def register(app: typer.Typer) -> None:
    """Add `tokens`."""
    app.add_typer(tokens)


@tokens.command("create")
def create_one(
    context: typer.Context,
    name: TokenName,
    role: Annotated[Role, typer.Option(help="What it may do; each role includes those before it.")] = Role.READ,
    account: Annotated[list[str] | None, typer.Option(help="Limit to this account; repeatable.")] = None,
) -> None:
    """Create a token and print it once.

    Only its SHA-256 is stored.
    """
    run = session(context)
    try:
        with transaction(run.engine) as connection:
            for each in account or ():
                load(connection, each)
            token = create_token(connection, name, role=role, accounts=account or None)
            details = {"name": name, "role": role.value, "accounts": account or None}
            record(connection, run.event(Action.TOKEN_CREATED, details=details))
    except TokenNameError as error:
        raise UsageError(str(error)) from error
    write_line(token)
    limited = f", only of {', '.join(account)}" if account else ""
    report(f"Keep it now: it is not shown again. It {_MAY[role]}{limited}.")


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
    cells = [
        (each.name, each.role, ", ".join(each.accounts or ["all"]), each.created_at, each.last_used_at, each.revoked_at)
        for each in records
    ]
    write_table(("name", "role", "accounts", "created", "last used", "revoked"), cells)


@tokens.command("revoke")
def revoke_one(context: typer.Context, name: TokenName) -> None:
    """Revoke a token.

    Its name cannot be used again.
    """
    run = session(context)
    with transaction(run.engine) as connection:
        changed = revoke_token(connection, name)
        if changed:
            record(connection, run.event(Action.TOKEN_REVOKED, details={"name": name}))
    report(f"{name} is revoked." if changed else f"{name} was revoked already.")
