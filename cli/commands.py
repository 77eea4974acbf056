"""The command line as a whole: every command of `ulak`, its place in the help, and how any of them fails."""

from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from ulak.cli import (
    accounts,
    audit,
    checking,
    deliveries,
    explaining,
    exporting,
    maintenance,
    notifying,
    polling,
    processes,
    reader_grants,
    statistics,
    status,
    tokens,
    tracking,
    unprocessed,
    up,
)
from ulak.cli.error_messages import sentence_of
from ulak.cli.examples import EXAMPLES, epilog
from ulak.cli.output import write_line
from ulak.cli.session import FAILED, Session, report
from ulak.core.logging import configure_logging, get_logger

log = get_logger(__name__)

GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "Run it": ("up", "worker", "beat", "api", "flower"),
    "Accounts and polls": ("accounts", "status", "poll", "polls"),
    "Deliveries": ("track", "untrack", "deliveries", "statistics", "explain", "export", "ingest"),
    "Upkeep": ("migrate", "check", "notify", "dead", "quarantine", "rebuild", "erase"),
    "Access and records": ("tokens", "sessions", "events", "grant-reader", "secrets"),
}
"""The sections of `ulak --help`; each command is in one of them."""


class Commands(TyperGroup):
    """The root group: an error becomes one sentence on stderr and its exit code."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - Typer's signature
        """The commands by group, each with its summary on one line."""
        summaries = {name: self.commands[name].get_short_help_str(formatter.width) for name in self.commands}
        widest = max(map(len, summaries))
        for group, members in GROUPS.items():
            with formatter.section(group):
                formatter.write_dl([(name.ljust(widest), summaries[name]) for name in members])

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a bug is logged with its traceback, masked like every line of ours."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, TyperException, BrokenPipeError):
            raise  # Typer reports these itself: wrong usage with the usage line and exit code 2.
        except Exception as error:
            known = sentence_of(error, ctx.obj)
            if known is None:
                configure_logging("cli", level="warning")
                log.exception("command.failed", command=ctx.invoked_subcommand)
                report(f"This is a bug in Ulak ({type(error).__name__}); the lines above say where.")
                raise typer.Exit(FAILED) from error
            for line in known[0].split("\n"):
                report(line)
            raise typer.Exit(known[1]) from error


app = typer.Typer(
    name="ulak",
    cls=Commands,
    help="Collects delivery reports from messaging providers into one truthful delivery-status table.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    # Commands of groups inherit it.
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        try:
            write_line(f"ulak {version('ulak')}")
        except PackageNotFoundError:
            write_line("ulak, run from a source tree that is not installed")
        raise typer.Exit


@app.callback()
def begin(
    context: typer.Context,
    *,
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
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
    statistics,
    explaining,
    exporting,
    unprocessed,
    maintenance,
    reader_grants,
    tokens,
    audit,
    notifying,
):
    module.register(app)


def _with_examples(group: typer.Typer, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Give each command of the group, and of those within it, the examples of `EXAMPLES`; their names as typed."""
    for command in group.registered_commands:
        name = " ".join((*path, command.name or command.callback.__name__))  # type: ignore[union-attr]
        command.epilog = epilog(EXAMPLES[name]) if name in EXAMPLES else None
        yield name
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            yield from _with_examples(inner.typer_instance, (*path, str(inner.typer_instance.info.name)))


COMMANDS: Final = tuple(_with_examples(app))
"""Every command as it is typed, without `ulak`."""
