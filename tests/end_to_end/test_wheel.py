"""The wheel in an environment of its own, started in a folder that has modules called as our folders are."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import psycopg
import pytest
from built_wheel import OFFLINE, PIP, build_wheel
from free_ports import reserve_port
from running import MODULES, STRANGERS

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel; what Ulak needs comes from the environment of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    folder.chmod(0o755)
    wheel = build_wheel(folder)
    made = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", made], check=True)
    subprocess.run([*PIP, "--python", made / "bin" / "python", "install", *OFFLINE, wheel], check=True)
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
    # Where a database is named, libpq's variables count.
    strangers = {name: value for name, value in STRANGERS.items() if "ULAK_DATABASE_URL" not in env or name[:2] != "PG"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ULAK_", "PYTHON"))}
    ports = {f"ULAK_{what}_PORT": str(reserve_port()) for what in ("API", "FLOWER", "SANDBOX")}
    return subprocess.run(
        [environment / "bin" / "ulak", *words],
        cwd=folder,
        env={**kept, **strangers, **ports, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )


def test_everything_works_beside_strangers_of_the_same_names(
    environment: Path, tmp_path: Path, fresh_database: str
) -> None:
    """The version, a migration, and everything under one supervisor: no child dies, and all is settled."""
    tmp_path.chmod(0o755)
    shown = ulak(environment, tmp_path, "--version")
    assert (shown.returncode, shown.stdout.split()[:1], shown.stderr) == (0, ["ulak"], "")
    migrated = ulak(environment, tmp_path, "migrate", ULAK_DATABASE_URL=fresh_database)
    assert (migrated.returncode, "Traceback" in migrated.stderr) == (0, False), migrated.stderr
    with psycopg.connect(fresh_database) as connection:
        assert connection.execute("SELECT count(*) FROM delivery_status").fetchone() == (0,)
    done = ulak(environment, tmp_path, "up", "--sandbox", "--until-settled", "--timeout", "300")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert "child.died" not in done.stderr


def test_nothing_is_installed_beside_ulak(environment: Path) -> None:
    """So no other distribution can overwrite a part of it, nor it a part of another."""
    ours = {path.name for path in packages(environment).iterdir()} - {"needed.pth"}
    assert {name.partition("-")[0] for name in ours} == {"ulak"}


def test_children_that_never_get_ready_end_the_command(environment: Path, tmp_path: Path) -> None:
    """With exit code 1 and the last lines of the first of them, in place of restarts forever."""
    tmp_path.chmod(0o755)
    path = packages(environment) / "ulak" / "tasks" / "upkeep.py"
    whole = path.read_text(encoding="utf-8")
    path.write_text("raise RuntimeError('overwritten')\n", encoding="utf-8")
    try:
        done = ulak(environment, tmp_path, "up", "--no-flower")
    finally:
        path.write_text(whole, encoding="utf-8")
    assert (done.returncode, "Ready " in done.stderr) == (1, False), done.stderr
    assert " ended 5 times before it was ever ready (exit code 1); " in done.stderr
    assert "RuntimeError" in done.stderr[done.stderr.index("before it was ever ready") :]
