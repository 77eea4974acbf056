"""The wheel in an environment of its own, started in a folder that has modules called as ours are."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from free_ports import reserve_port
from running import MODULES, ROOT, STRANGERS

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel; what Ulak needs comes from the environment of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    folder.chmod(0o755)
    source = folder / "source"
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(ROOT, source, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "-q"]
    subprocess.run([*pip, "wheel", *offline, "-w", folder, source], check=True)
    [wheel] = folder.glob("ulak-*.whl")
    made = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", made], check=True)
    subprocess.run([*pip, "--python", made / "bin" / "python", "install", *offline[:2], "-q", wheel], check=True)
    # Lines of a .pth file come after the environment's own packages, and bring no editable installation along.
    (packages(made) / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return made


def packages(environment: Path) -> Path:
    """Where the environment has its packages."""
    [found] = (environment / "lib").glob("python*/site-packages")
    return found


def ulak(environment: Path, folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`ulak …` of the environment, in a folder full of strangers."""
    for name in MODULES:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text("raise RuntimeError('a stranger')", encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ULAK_", "PYTHON"))}
    ports = {f"ULAK_{what}_PORT": str(reserve_port()) for what in ("API", "FLOWER", "SANDBOX")}
    return subprocess.run(
        [environment / "bin" / "ulak", *words],
        cwd=folder,
        env={**kept, **STRANGERS, **ports, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )


def test_everything_works_beside_strangers_of_the_same_names(environment: Path, tmp_path: Path) -> None:
    """No child dies, and all is settled."""
    tmp_path.chmod(0o755)
    done = ulak(environment, tmp_path, "up", "--until-settled", "--timeout", "300")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert "child.died" not in done.stderr


def test_a_package_that_hides_ours_is_named_at_the_start(environment: Path, tmp_path: Path) -> None:
    """`PYTHONPATH` comes before the environment's own packages."""
    shadow = tmp_path / "elsewhere" / "core" / "__init__.py"
    shadow.parent.mkdir(parents=True)
    shadow.touch()
    done = ulak(environment, tmp_path / "here", "status", PYTHONPATH=str(tmp_path / "elsewhere"))
    assert done.returncode == 1
    assert f"The package core of Ulak in {packages(environment)} is hidden by another one ({shadow})" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def broken(environment: Path, module: str) -> Path:
    """A file of Ulak as another distribution may have left it."""
    path = packages(environment) / module
    path.rename(path.with_suffix(".kept"))
    path.write_text("NAME = 'a stranger'\n", encoding="utf-8")
    return path


def restore(path: Path) -> None:
    """The file as it was."""
    path.with_suffix(".kept").rename(path)


def test_files_that_another_distribution_has_overwritten_are_told(environment: Path, tmp_path: Path) -> None:
    """One sentence in place of a traceback."""
    path = broken(environment, "core/settings.py")
    try:
        done = ulak(environment, tmp_path, "status")
    finally:
        restore(path)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "are not whole (cannot import name" in done.stderr
    assert "Install Ulak into an environment of its own." in done.stderr


def test_children_that_never_get_ready_end_the_command(environment: Path, tmp_path: Path) -> None:
    """With exit code 1 and the last lines of the first of them, in place of restarts for ever."""
    tmp_path.chmod(0o755)
    path = broken(environment, "tasks/upkeep.py")
    path.write_text("raise RuntimeError('overwritten')\n", encoding="utf-8")
    try:
        done = ulak(environment, tmp_path, "up", "--no-flower")
    finally:
        restore(path)
    assert (done.returncode, "Ready " in done.stderr) == (1, False), done.stderr
    assert " ended 5 times before it was ever ready (exit code 1); " in done.stderr
    assert "RuntimeError" in done.stderr[done.stderr.index("before it was ever ready") :]
