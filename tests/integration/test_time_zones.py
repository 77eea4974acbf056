"""Whose rules of time zones count: those of the package that was tested with this version, on every host."""

import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path
from zoneinfo import ZoneInfoNotFoundError

import pytest

from ulak.core.time_zones import time_zone, zone_names, zone_rules

PROBE = """
from zoneinfo import ZoneInfo
from ulak.core.time_zones import host_differs, time_zone
from ulak.providers.decoding import local_time
print(*(local_time("2026-11-26 12:30:00", zone("Europe/Istanbul")).hour for zone in (time_zone, ZoneInfo)))
print(host_differs("Europe/Istanbul"), host_differs("Europe/Athens"))
"""


@pytest.fixture
def old_host(tmp_path: Path) -> dict[str, str]:
    """The environment of a host whose files are older than Turkey's change of 2016: Istanbul has Athens's winter."""
    files = resources.files("tzdata.zoneinfo")
    for name in ("Europe/Istanbul", "Europe/Athens"):
        place = tmp_path / "zones" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(files.joinpath("Europe", "Athens").read_bytes())
    return {**os.environ, "PYTHONTZPATH": str(tmp_path / "zones"), "ULAK_HOME": str(tmp_path / "home"), "NO_COLOR": "1"}


def test_the_hosts_old_files_have_no_say(old_host: dict[str, str]) -> None:
    """Half past twelve in a Turkish winter is half past nine in UTC; Python alone would say half past ten."""
    run = subprocess.run(
        [sys.executable, "-c", PROBE], env=old_host, capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.splitlines() == ["9 10", "True False"]


def test_check_says_which_rules_count_and_that_the_hosts_differ(old_host: dict[str, str], tmp_path: Path) -> None:
    """Whoever compares with another program on the host finds the reason."""
    program = [sys.executable, "-c", "from ulak.cli.main import main; main()", "check"]
    told = []
    for path in (old_host["PYTHONTZPATH"], str(tmp_path / "none")):
        env = {**old_host, "PYTHONTZPATH": path, "ULAK_DATABASE_URL": "", "ULAK_REDIS_URL": ""}
        run = subprocess.run(program, env=env, capture_output=True, text=True, check=False, timeout=120)
        told += re.findall(r"^time zones: .*$", run.stdout, re.MULTILINE)
    used = f"time zones: ok (tzdata {zone_rules()}"
    assert told == [f"{used}; this host's own files differ for Europe/Istanbul and are not used)", f"{used})"]


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../../etc/passwd", "/etc/passwd", "Europe", "europe/istanbul"])
def test_a_name_that_is_no_zone_is_none(name: str) -> None:
    """No path leads out of the package."""
    with pytest.raises(ZoneInfoNotFoundError):
        time_zone(name)


def test_every_zone_can_be_made_once() -> None:
    """The same object each time, so that what is remembered by zone is found again."""
    assert all(time_zone(name).key == name for name in zone_names())
    assert time_zone("Europe/Istanbul") is time_zone("Europe/Istanbul")
    assert len(zone_names()) > 400
