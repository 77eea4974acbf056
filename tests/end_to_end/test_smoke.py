"""From an empty folder to one table of five providers, and through crashes, judged by the providers' own truth."""

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from running import RunningUlak, ask, running
from truth import differences, stored_rows

from ulak.core.redis import connect
from ulak.local.embedded.postgres import PostgresServer
from ulak.local.embedded.valkey import ValkeyServer
from ulak.sandbox.server import Sandbox

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

PUSHED = """
    SELECT DISTINCT d.provider FROM observations o JOIN delivery_status d ON d.id = o.delivery_id
    WHERE o.source = 'callback'
"""
OURS = ("worker-1", "beat", "api", "flower")
"""Processes whose logs are ours, line by line."""


def test_a_newcomer_sees_the_table_fill_until_it_equals_the_providers_truth(tmp_path: Path) -> None:
    """`ulak up --until-settled` in an empty folder ends with 0, and the table is the truth row for row."""
    ulak = RunningUlak(tmp_path, "--until-settled", "--timeout", "300")
    ulak.follow(330)
    assert ulak.process.returncode == 0, ulak.output()[-4000:]
    server = PostgresServer(ulak.home)
    server.start()
    try:
        with (
            Sandbox(state=ulak.home / "sandbox" / "state.json", ports=(0,) * 6) as sandbox,
            ulak.engine().connect() as connection,
        ):
            rows = stored_rows(connection)
            told = sandbox.truth()
            canaries = sandbox.control("GET", "/canaries")
            assert differences(rows, told) == []
            pushed = connection.exec_driver_sql(PUSHED).scalars().all()
    finally:
        server.stop()
    assert len(rows) >= 2000
    assert len({row["provider"] for row in rows}) == 5
    assert_large_sends(told)
    assert sorted(pushed) == ["bip", "iletimerkezi"]
    assert_no_leak(ulak, canaries, {row["recipient"] for row in rows})
    assert ulak.survivors() == []


def assert_large_sends(told: list[dict[str, Any]]) -> None:
    """The truth holds Vairo sends of two to forty numbers, of which some never end and keep no other waiting."""
    sends: dict[str, list[dict[str, Any]]] = {}
    for row in told:
        if row["provider"] == "vairo" and row["granularity"] == "message":
            sends.setdefault(row["parent_key"], []).append(row)
    assert {2, 40} <= {len(send) for send in sends.values()}
    endless = [send for send in sends.values() if len(send) > 5 and any(row["settles_at"] is None for row in send)]
    assert all(sum(row["is_final"] for row in send) >= len(send) - 2 for send in endless)
    assert len(endless) >= 3
    # And whole sends that still run though each of their numbers has ended: they tell nothing about these.
    running = {row["provider_key"] for row in told if row["granularity"] == "order" and row["status"] == "enroute"}
    assert any(len(send) > 5 and all(row["is_final"] for row in send) for key, send in sends.items() if key in running)


def test_a_start_says_which_credentials_are_missing_and_nothing_else_that_sounds_wrong(tmp_path: Path) -> None:
    """One line for each such account, and it starts all the same; no process has anything to warn of."""
    (tmp_path / "key").write_text("k" * 20)
    account = '[[account]]\nid = "{}"\nprovider = "vairo"\n[account.credentials]\napi_key = "{}"\n'
    references = {"marka": "env:NO_SUCH_KEY", "kampanya": "file:no/such/key", "bayi": f"file:{tmp_path / 'key'}"}
    (tmp_path / "accounts.toml").write_text("".join(account.format(*each) for each in references.items()))
    with running(tmp_path) as ulak:
        ulak.wait_ready()
        said = [line.removeprefix("Missing    ") for line in ulak.output().splitlines() if line.startswith("Missing")]
        assert [line.removesuffix(" to read it.") for line in said] == [
            f"{account} cannot be asked: The credential {references[account]} {problem}"
            for account, problem in (
                ("kampanya", "cannot be read (No such file or directory): create the file or give this user the right"),
                ("marka", "is missing: set the environment variable NO_SUCH_KEY."),
            )
        ]
        ulak.until(lambda: "Registered tasks" in " ".join(log(ulak, "flower")), seconds=90, what="Flower")
        # Flower asks its questions now; each is given up after three seconds.
        time.sleep(4.5)
        lines = [json.loads(line) for name in OURS for line in log(ulak, name)]
    assert [line for line in lines if line["level"] != "info" or "\n" in line["event"]] == []
    assert sum(line["event"] == "worker.runs_as_root" for line in lines) == (os.geteuid() == 0)


def log(ulak: RunningUlak, process: str) -> list[str]:
    """The lines that a process has written."""
    return (ulak.home / "logs" / f"{process}.log").read_text(encoding="utf-8").splitlines()


def test_killed_workers_and_an_emptied_broker_lose_nothing(tmp_path: Path) -> None:
    """Kill -9 of the worker twice and a flushed Redis in the middle: the polls end and the table equals the truth."""
    env = {"ULAK_LEASE_MARGIN_SECONDS": "2"}
    with running(tmp_path, env=env) as ulak:
        ulak.wait_ready()
        control = sandbox_control(ulak)
        ulak.until(lambda: count(ulak, "SELECT count(*) FROM calls") > 20, seconds=90, what="the first calls")
        for _ in range(2):
            kill_worker(ulak)
            ulak.until(lambda: fresh_calls(ulak), seconds=90, what="calls after the crash")
        with connect(ValkeyServer(ulak.home).running_url() or "") as redis:
            redis.flushall()
        ulak.until(lambda: is_truth(ulak, control), seconds=240, what="the truth in the table")
        ulak.until(
            lambda: not count(ulak, "SELECT count(*) FROM fetches WHERE state = 'sending'"),
            seconds=90,
            what="an end of every lease",
        )
        assert ask(f"{control}/log/violations") == []
        assert_no_live_leak(ulak, control)
    assert ulak.survivors() == []


def test_no_process_outlives_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    """Kill -9 of `ulak up` itself leaves no process behind, and a second start finds all as it was."""
    with running(tmp_path, "--no-flower") as ulak:
        ulak.wait_ready()
        assert "worker" in " ".join(" ".join(child.cmdline()) for child in ulak.children())
        refused = RunningUlak(tmp_path, "--no-flower")
        assert refused.process.wait(90) == 1
        assert "already runs" in refused.output()
        ulak.children()
        ulak.process.send_signal(signal.SIGKILL)
        ulak.process.wait(60)
        assert ulak.survivors(seconds=60) == []


# ------------------------------------------------------------------------------------------------ looks


def sandbox_control(ulak: RunningUlak) -> str:
    """The control address of its sandbox."""
    return ulak.address("Sandbox")


def count(ulak: RunningUlak, query: str) -> int:
    """A number from the database."""
    with ulak.engine().connect() as connection:
        number: int = connection.exec_driver_sql(query).scalar_one()
        return number


def kill_worker(ulak: RunningUlak) -> None:
    """Kill -9 of the one worker."""
    (worker,) = ulak.until(ulak.workers, seconds=90, what="a worker")
    worker.send_signal(signal.SIGKILL)
    psutil.wait_procs([worker], timeout=10)
    ulak.stop_moment = count(ulak, "SELECT coalesce(max(id), 0) FROM calls")  # type: ignore[attr-defined]


def fresh_calls(ulak: RunningUlak) -> bool:
    """Whether calls were made after the last crash."""
    return count(ulak, f"SELECT count(*) FROM calls WHERE id > {ulak.stop_moment}") > 5  # type: ignore[attr-defined]


def is_truth(ulak: RunningUlak, control: str) -> bool:
    """Whether the stand-ins came to rest and the table equals what they say."""
    if not ask(f"{control}/truth/settled")["settled"]:
        return False
    with ulak.engine().connect() as connection:
        return not differences(stored_rows(connection), truth_of(control))


def truth_of(control: str) -> list[dict[str, Any]]:
    """What the stand-ins say."""
    told = ask(f"{control}/truth")
    return list(told["rows"]) if isinstance(told, dict) else list(told)


# ------------------------------------------------------------------------------------------------ leaks


def assert_no_leak(ulak: RunningUlak, canaries: list[str], recipients: set[str | None]) -> None:
    """No credential, message text, name or full number in the output, in a log, or in what the broker has ever held."""
    numbers = {number.removeprefix("+") for number in recipients if number and re.fullmatch(r"\+\d{11,15}", number)}
    places = {"output": ulak.output(), "logs": ulak.logs()}
    for file in (ulak.home / "valkey").rglob("*.aof"):
        places[f"broker {file.name}"] = file.read_bytes().decode("utf-8", errors="replace")
    assert any(place.startswith("broker") for place in places)
    for place, text in places.items():
        assert [canary for canary in canaries if canary in text] == [], place
        assert sorted(set(re.findall(r"\d{10,15}", text)) & (numbers | {n[2:] for n in numbers})) == [], place


def assert_no_live_leak(ulak: RunningUlak, control: str) -> None:
    """Nothing of that in Flower's answers either."""
    auth = (ulak.home / "secrets" / "flower_auth").read_text(encoding="utf-8").strip()
    tasks = str(ask(f"{ulak.address('Flower')}/api/tasks", auth=auth))
    workers = str(ask(f"{ulak.address('Flower')}/api/workers?refresh=1", auth=auth))
    assert "fetch." in tasks
    for canary in ask(f"{control}/canaries"):
        assert canary not in tasks
        assert canary not in workers
    # A task's id may end in as many digits.
    assert re.findall(r"(?<![\w-])90\d{10}(?!\w)", tasks + workers) == []
