"""What is installed: in the checkout every folder is importable, so only the wheel itself shows what it lacks."""

import shutil
import subprocess
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest
from built_wheel import ROOT, build_wheel

GIT_REFUSES = 128
TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
FOLDERS: dict[str, str] = TOOLS["setuptools"]["package-dir"]
"""The folder of each package."""


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="needs git and a clone")
def test_the_wheel_has_every_file_of_the_packages_and_no_other(tmp_path: Path) -> None:
    """Sub-packages, templates, static files and migrations, all below `ulak/`."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *FOLDERS.values()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == GIT_REFUSES:
        pytest.skip("git does not trust this folder")
    ours = {f"ulak/{path}" for path in done.stdout.splitlines() if (ROOT / path).exists()}
    with ZipFile(build_wheel(tmp_path)) as wheel:
        packed = {name for name in wheel.namelist() if not name.startswith("ulak-")}
    assert (sorted(ours - packed), sorted(packed - ours)) == ([], [])


def test_every_package_is_named_after_its_folder() -> None:
    """`ulak.core` is `core/`; the lint rules, the links for mypy and the import contracts name the same ones."""
    folders = sorted(FOLDERS.values())
    found = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
    assert (folders, FOLDERS) == (found, {f"ulak.{folder}": folder for folder in folders})
    assert sorted(TOOLS["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]) == folders
    assert sorted(TOOLS["importlinter"]["root_packages"]) == sorted(FOLDERS)


def test_the_image_has_the_packages_of_the_wheel() -> None:
    """What Docker does not copy, the build cannot install."""
    copied = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied - set(FOLDERS.values()) == {"requirements", "pyproject.toml", "README.md", "LICENSE"}
    assert set(FOLDERS.values()) <= copied
