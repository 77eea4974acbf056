"""What import-linter cannot see: names in texts, no provider's name outside its room, empty `__init__.py`, queues."""

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from ulak.cli.processes import worker
from ulak.core import task_names
from ulak.providers.registry import ADAPTERS

HOME = Path(__file__).parents[2]
ROOMS = tuple(sorted(path.parent.name for path in HOME.glob("*/__init__.py")))
ROOMS_WITHOUT_PROVIDERS = tuple(room for room in ROOMS if room not in {"providers", "sandbox"})
PROVIDER = re.compile(rf"(?<![a-z])(?:{'|'.join(ADAPTERS)})(?![a-z])", re.IGNORECASE)


def sources(*rooms: str) -> list[Path]:
    """All Python files of these rooms."""
    return sorted(path for room in rooms for path in (HOME / room).rglob("*.py"))


def spoken(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every name and every text that takes part in what the code does: no comment, no docstring."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and id(node) not in prose:
            yield line, node.value if isinstance(node.value, str) else node.value.decode("latin-1")
        for field in ("id", "attr", "name", "module", "arg"):
            word = getattr(node, field, None)
            if isinstance(word, str):
                yield line, word


def mentions(source: str) -> list[tuple[int, str]]:
    """Where the code (not its prose) names a provider."""
    return [(line, text) for line, text in spoken(ast.parse(source)) if PROVIDER.search(text)]


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('"""Vairo is prose."""\nx = 1  # as BiP says', 0),
        ('if provider == "vairo": pass', 1),
        ("from ulak.providers import organik", 1),
        ("import ulak.providers.bip", 1),
        ("diyalog_offset = 3", 1),
        ("b'/callbacks/bip'", 0),
        ("path = b'/callbacks/bip'", 1),
        ("ambipolar = 'bipartite'", 0),
    ],
)
def test_the_search_finds_names_in_code_and_leaves_prose_alone(source: str, count: int) -> None:
    """A search that finds nothing anywhere would prove nothing."""
    assert len(mentions(source)) == count


def test_no_providers_name_appears_outside_its_room() -> None:
    """Adding a sixth provider touches no file above `providers/`, and none below."""
    found = {
        f"{path.relative_to(HOME)}:{line}": text
        for path in sources(*ROOMS_WITHOUT_PROVIDERS)
        for line, text in mentions(path.read_text(encoding="utf-8"))
    }
    assert found == {}


ROOM = "|".join(ROOMS)
DOTTED = re.compile(rf"(?<![\w./-])({ROOM})\.([a-z_]\w*)")
STARTED = re.compile(rf"-m(?:[\"'],)? [\"']?(?:{ROOM})\b(?!\.\w*\()")
OF_THE_PREVIOUS_VERSION = {"tests/chaos/test_previous_version.py", "tests/worker_fleet.py"}
"""They start its processes, whose packages had no common name."""


def texts(source: str) -> Iterator[str]:
    """Comments and strings: an attribute of a variable called `tasks` is no module."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.NAME:
            yield token.string


def bare_names(source: str, *, is_python: bool) -> list[str]:
    """Modules of ours that are named without `ulak.`, and programs that are started so."""
    found = [
        match.group()
        for text in (texts(source) if is_python else [source])
        for match in DOTTED.finditer(text)
        if list((HOME / match[1]).glob(f"{match[2]}.py")) or (HOME / match[1] / match[2] / "__init__.py").exists()
    ]
    return found + STARTED.findall(source)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("'core.settings'", 1),
        ("# see `models.ledger.taking`", 1),
        ("f'providers.http is {x}'", 1),
        ("run('-m', 'sandbox')", 1),
        ("'python -m sandbox'", 1),
        ("'ulak.core.settings, ulak.models.ledger'", 0),
        ("'providers.env, workers.name'", 0),
        ("tasks.base", 0),
        ("run('-m', 'ulak.sandbox')", 0),
    ],
)
def test_the_search_finds_bare_names_in_texts(source: str, count: int) -> None:
    """In code, Ruff's TID251 finds them."""
    assert len(bare_names(source, is_python=True)) == count


def test_every_text_names_our_modules_as_they_are_imported() -> None:
    """Started or patched as `core.…` a module would be a second copy, which only the checkout has."""
    folders = [HOME / name for name in (*ROOMS, "tests", "deploy", "docs", ".ci")]
    paths = [path for folder in folders for path in folder.rglob("*") if path.suffix in {".py", ".md", ".yaml", ".yml"}]
    paths += [path for path in HOME.iterdir() if path.suffix in {".md", ".toml"} and path.name != "CHANGELOG.md"]
    kept = OF_THE_PREVIOUS_VERSION | {str(Path(__file__).relative_to(HOME))}
    found = {
        name: bare
        for path in [*paths, HOME / "Makefile", HOME / "deploy" / "Dockerfile"]
        if (name := str(path.relative_to(HOME))) not in kept
        if (bare := bare_names(path.read_text(encoding="utf-8"), is_python=path.suffix == ".py"))
    }
    assert found == {}


def test_init_files_stay_empty() -> None:
    """Importing a package runs nothing, so import order can never matter."""
    assert [path for path in sources(*ROOMS) if path.name == "__init__.py" and path.stat().st_size] == []


def test_every_folder_of_code_is_a_package() -> None:
    """A folder without `__init__.py` would be left out of the wheel."""
    folders = {path.parent for path in sources(*ROOMS)}
    scripts = {HOME / "models/migrations", HOME / "models/migrations/versions"}  # Alembic runs these as files
    assert {folder for folder in folders if not (folder / "__init__.py").exists()} - scripts == set()


def test_every_queue_is_consumed_by_the_worker_command() -> None:
    """A queue that no deployed process reads would fill forever."""
    consumed = inspect.signature(worker).parameters["queues"].default
    assert set(consumed.split(",")) == set(task_names.QUEUES) == set(task_names.QUEUE_OF_TASK.values())
