"""What import-linter cannot see: no provider's name outside its room, empty `__init__.py`, every queue consumed."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ulak.cli.processes import worker
from ulak.core import names
from ulak.providers.registry import ADAPTERS

HOME = Path(__file__).parents[2]
ROOMS = ("workers", "tasks", "schedules", "providers", "models", "core", "sandbox")
ROOMS_WITHOUT_PROVIDERS = ("workers", "tasks", "schedules", "models", "core")
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


def test_init_files_stay_empty() -> None:
    """Importing a package runs nothing, so import order can never matter."""
    assert [path for path in sources(*ROOMS) if path.name == "__init__.py" and path.stat().st_size] == []


def test_every_folder_of_code_is_a_package() -> None:
    """A folder without `__init__.py` would be left out of the wheel."""
    folders = {path.parent for path in sources(*ROOMS)}
    scripts = {HOME / "models/migrations", HOME / "models/migrations/versions"}  # Alembic runs these as files
    assert {folder for folder in folders if not (folder / "__init__.py").exists()} - scripts == set()


def test_every_queue_is_consumed_by_the_worker_command() -> None:
    """A queue that no deployed process reads would fill for ever."""
    consumed = inspect.signature(worker).parameters["queues"].default
    assert set(consumed.split(",")) == set(names.QUEUES) == set(names.QUEUE_OF_TASK.values())
