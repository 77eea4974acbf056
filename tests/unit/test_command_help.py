"""The help of `ulak`: groups, summaries, examples, version and completion."""

import re
import shlex
from importlib.metadata import version

import pytest
import typer.main
from typer.core import TyperGroup
from typer.testing import CliRunner

from ulak.cli.commands import COMMANDS, GROUPS, app
from ulak.cli.examples import EXAMPLES

ROOT = typer.main.get_command(app)
ENVIRONMENT = {"COLUMNS": "80", "NO_COLOR": "1"}
PREFIX = re.compile(r"(cat \S+ \| )?(ULAK_[A-Z]+=\S+ )?ulak ")


def help_of(*words: str) -> str:
    """What a command says of itself on a terminal of 80 columns."""
    result = CliRunner().invoke(app, [*words, "-h"], env=ENVIRONMENT)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_each_command_is_in_exactly_one_group() -> None:
    """And a group names no other."""
    assert isinstance(ROOT, TyperGroup)
    assert sorted(name for members in GROUPS.values() for name in members) == sorted(ROOT.commands)
    shown = help_of()
    assert [line[:-1] for line in shown.splitlines() if re.fullmatch(r"[A-Z].*:", line)] == ["Options", *GROUPS]


@pytest.mark.parametrize("group", ["", *sorted({name.split()[0] for name in COMMANDS if " " in name})])
def test_every_summary_fits_its_line(group: str) -> None:
    """Each command has one, a sentence that ends with a full stop and is not cut; none goes on in a second line."""
    shown = help_of(*group.split())
    commands = shown.partition("-h, --help  ")[2].splitlines()[1:]
    rows = [line for line in commands if line.startswith("  ")]
    assert len(rows) >= (len(COMMANDS) if not group else 1) / 2
    for row in rows:
        assert re.fullmatch(r"  [a-z-]+ +[A-Z].*\.|  show .*", row), row
        assert "..." not in row


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_that_are_right(name: str) -> None:
    """Each stands in the help as it is and is parsed by the command, which is not run."""
    shown = help_of(*name.split())
    assert "--help" in shown
    for line in EXAMPLES[name]:
        assert f"    {line}\n" in shown
        given = PREFIX.sub("", line, count=1).partition(" > ")[0]
        words = shlex.split(given)
        assert words[: len(name.split())] == name.split()
        command = ROOT
        with typer.Context(ROOT, info_name="ulak") as context:
            for word in name.split():
                assert isinstance(command, TyperGroup)
                command = command.commands[word]
            parsed = command.make_context(name, words[len(name.split()) :], parent=context)
        assert parsed.params.keys() == {each.name for each in command.params} - {"help"}


def test_no_example_is_of_a_command_that_is_not_there() -> None:
    """The table has one entry for each command."""
    assert sorted(EXAMPLES) == sorted(COMMANDS)


def test_the_version_is_the_packages() -> None:
    """On stdout, with 0."""
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"ulak {version('ulak')}\n", "")


@pytest.mark.parametrize(("words", "found"), [("ulak quar", ["quarantine"]), ("ulak accounts ch", ["check"])])
def test_commands_are_completed(words: str, found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As the script that `--show-completion` prints asks for them."""
    # Tests may run without a shell above them that could be detected; Typer takes its name then.
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    script = CliRunner().invoke(app, ["--show-completion", "bash"], prog_name="ulak")
    assert "_ULAK_COMPLETE=complete_bash" in script.stdout
    asked = {"_ULAK_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    completed = CliRunner().invoke(app, [], prog_name="ulak", env=asked)
    assert completed.stdout.split() == found
