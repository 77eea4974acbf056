"""The command line as a whole: every command of `ulak`, and how any of them fails."""

from typing import Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from core.logging import configure_logging, get_logger
from workers.cli import (
    accounts,
    audit,
    checking,
    deliveries,
    explaining,
    leftovers,
    polling,
    processes,
    readers,
    status,
    tokens,
    tracking,
    up,
    upkeep,
)
from workers.cli.failures import sentence_of
from workers.cli.session import FAILED, Session, tell

log = get_logger(__name__)


class Commands(TyperGroup):
    """The root group: an error becomes one sentence on stderr and the exit code that it stands for."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a bug is logged with its traceback, masked like every line of ours."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, TyperException, BrokenPipeError):
            raise  # Typer tells these itself: wrong usage with the usage line and exit code 2.
        except Exception as error:
            known = sentence_of(error, ctx.obj)
            if known is None:
                configure_logging("cli", level="warning")
                log.exception("command.failed", command=ctx.invoked_subcommand)
                tell(f"This is a bug in Ulak ({type(error).__name__}); the lines above say where.")
                raise typer.Exit(FAILED) from error
            for line in known[0].split("\n"):
                tell(line)
            raise typer.Exit(known[1]) from error


app = typer.Typer(
    name="ulak",
    cls=Commands,
    help="Collects delivery reports from messaging providers into one truthful delivery-status table.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def begin(context: typer.Context) -> None:
    """Collects delivery reports from messaging providers into one truthful delivery-status table."""
    context.obj = Session()
    context.call_on_close(context.obj.close)


for module in (
    up,
    processes,
    checking,
    accounts,
    tracking,
    polling,
    status,
    deliveries,
    explaining,
    leftovers,
    upkeep,
    readers,
    tokens,
    audit,
):
    module.register(app)
