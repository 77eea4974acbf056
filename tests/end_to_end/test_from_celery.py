"""`docs/how-to/poll-from-celery.md`, run: programs that know nothing but the broker start polls, and find them."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from database_fixtures import add_account
from task_api import Api, api
from worker_fleet import ROOT, Fleet, until

from ulak.models.database import transaction

__all__ = ["api"]

pytestmark = [pytest.mark.long, pytest.mark.timeout(200)]

PAGE = (ROOT / "docs" / "how-to" / "poll-from-celery.md").read_text(encoding="utf-8")
ALONE, INSTALLED = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
[CALL] = re.findall(r"^celery (.*)$", PAGE, re.MULTILINE)


@pytest.fixture
def fleet(api: Api, redis_url: str, tmp_path: Path) -> Iterator[Fleet]:
    """One worker, no beat, and the account that the page names."""
    with transaction(api.engine) as connection:
        add_account(connection, "marka-sms")
    running = Fleet(api.engine, redis_url, tmp_path)
    running.start("worker-1")
    yield running
    running.end()


def printed(fleet: Fleet, *words: str) -> str:
    """The id that a program prints, which has the broker's address."""
    env = {**fleet.env, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, *words], env=env, cwd=fleet.folder, capture_output=True, timeout=60, check=True
    )
    return done.stdout.decode().split()[-1]


def test_every_program_of_the_page_starts_a_poll_and_finds_it(fleet: Fleet, api: Api) -> None:
    """By Celery alone, `celery call` and `.delay`, each with a positional account; the keyword form is the API's."""
    fleet.wait_ready("worker-1")
    assert "ulak" not in re.sub(r"ULAK_REDIS_URL|\bulak\.|ulak = |Ulak|\"ulak:\"", "", ALONE)
    ids = [
        printed(fleet, "-c", ALONE),
        printed(fleet, "-m", "celery", *shlex.split(CALL)),
        printed(fleet, "-c", INSTALLED),
        printed(fleet, "-c", ALONE.replace('args=["marka-sms"]', 'kwargs={"account_id": "marka-sms"}')),
    ]

    def polls(task: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = api.get("/v1/polls", task=task)["polls"]
        return found

    for task in ids:
        until(lambda task=task: polls(task), seconds=60, what="the poll")  # type: ignore[misc]
    assert [(found["account"], found["trigger"]) for task in ids for found in polls(task)] == [
        ("marka-sms", "task")
    ] * len(ids)
