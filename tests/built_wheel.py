"""The wheel as `pip install .` makes it, from this checkout."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
OFFLINE = ("--no-deps", "--no-index", "-q")


def build_wheel(folder: Path) -> Path:
    """Build it in this folder, from a copy of the sources: a build leaves files beside them."""
    source = folder / "source"
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "tests", "docs")
    shutil.copytree(ROOT, source, ignore=ignored)
    subprocess.run([*PIP, "wheel", *OFFLINE, "--no-build-isolation", "-w", folder, source], check=True)
    [wheel] = folder.glob("ulak-*.whl")
    return wheel
