"""`make sbom`: the bill of materials names what the image holds, and nothing of the machine that made it."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HOME = Path(__file__).parents[2]
LOCK = HOME / "requirements" / "runtime.txt"

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    """What the verb writes."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "--no-print-directory", "sbom"], cwd=HOME, env=bare, capture_output=True, text=True, check=False,
        timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((HOME / "build" / "sbom.json").read_text(encoding="utf-8"))
    return found


def test_the_bill_names_every_locked_package_of_the_image_and_no_other(bill: dict[str, Any]) -> None:
    """With the locked version and a licence; Ulak itself is what is described."""
    lines = re.findall(r"^(\S+==[^\\\n]+?) *\\?$", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    locked = {
        f"pkg:pypi/{canonicalize_name(each.name)}@{str(each.specifier).removeprefix('==')}"
        for each in map(Requirement, lines)
        if each.marker is None or each.marker.evaluate()
    }
    assert len(locked) > 50
    assert {each["purl"] for each in bill["components"]} == locked
    assert [each["name"] for each in bill["components"] if not each.get("licenses")] == []
    described = bill["metadata"]["component"]
    assert (bill["bomFormat"], described["name"], described["licenses"][0]["license"]["id"]) == (
        "CycloneDX",
        "ulak",
        "Apache-2.0",
    )


def test_the_bill_says_what_needs_what_and_nothing_of_this_machine(bill: dict[str, Any]) -> None:
    """Each package is reached from Ulak by dependencies, and it contains no path or index of the machine."""
    needs = {each["ref"]: each.get("dependsOn", []) for each in bill["dependencies"]}
    reached, waiting = set(), [bill["metadata"]["component"]["bom-ref"]]
    while waiting:
        if (name := waiting.pop()) not in reached:
            reached.add(name)
            waiting += needs[name]
    assert reached == needs.keys()
    text = json.dumps(bill)
    assert [word for word in (str(HOME), str(Path.home()), "file:", "/simple/") if word in text] == []
