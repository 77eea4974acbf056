"""Flower as `ulak up` starts it: closed to strangers, readable, and a way to call for a poll."""

import json
import os
import re
import subprocess
import sys
import urllib.error
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
from free_ports import reserve_port
from running import RunningUlak, ask, running
from sqlalchemy import text

from ulak.local.embedded.postgres import PostgresServer
from ulak.local.embedded.valkey import ValkeyServer
from ulak.workers.auth_attempts import MAX_FAILURES

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

OPEN = ("/healthcheck", "/metrics")
CLOSED = ("/", "/workers", "/tasks", "/broker", "/api/workers", "/api/tasks", "/api/task/types", "/api/queues/length")


def test_flower_is_closed_readable_and_calls_for_polls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run: the password, the names, what a task shows, its memory's bound, and three ways to call for a poll."""
    monkeypatch.setenv("SOME_PROVIDERS_KEY", "canary-of-a-provider")
    with running(tmp_path) as ulak:
        ulak.wait_ready()
        url, auth = ulak.address("Flower"), (ulak.home / "secrets" / "flower_auth").read_text().strip()
        ulak.until(lambda: names_of_workers(url, auth), seconds=90, what="a worker in Flower")
        assert {path: status(url + path) for path in (*OPEN, *CLOSED)} == {
            **dict.fromkeys(OPEN, 200),
            **dict.fromkeys(CLOSED, 401),
        }
        assert status(f"{url}/api/task/async-apply/poll.account", body={"kwargs": {}}) == 401
        assert [name.partition("@")[0] for name in names_of_workers(url, auth)] == ["worker-1"]
        # Every tick has been worked off by beat, broker and worker together.
        ulak.until(lambda: status(f"{ulak.address('Page')}/readyz") == 200, seconds=90, what="`/readyz`")
        account = account_of(ulak)
        assert_poll_of_task(ulak, call_through_flower(url, auth, account), account)
        assert_poll_of_task(ulak, call_through_celery(ulak, account), account)
        assert_poll_of_task(ulak, call_from_python(ulak, account), account)
        shown = ulak.until(lambda: shown_tasks(url, auth), seconds=90, what="tasks of every kind in Flower")
        assert_readable(shown, ulak)
        assert_list_names_accounts(url, auth)
        flower = next(each for each in ulak.children() if "flower" in each.cmdline())
        assert auth.partition(":")[2] not in " ".join(flower.cmdline())
        assert_no_secret_of_others(ulak)
        assert_shut_to_other_pages(url, auth)
        with read_only_flower(ulak) as other:
            ulak.until(lambda: names_of_workers(other, auth), seconds=90, what="a worker in the second Flower")
            for path in ("task/async-apply/poll.account", "worker/shutdown/worker-1", "worker/pool/grow/worker-1"):
                assert status(f"{other}/api/{path}", body={}, auth=auth) == 403
        guesses = [status(f"{url}/api/task/types", auth=f"ulak:guess-{n}") for n in range(MAX_FAILURES + 2)]
        # Wrong passwords from before may count as well.
        assert (guesses, set(guesses), guesses[-2:]) == (sorted(guesses), {401, 429}, [429] * 2)
        assert status(f"{url}/api/task/types", auth=auth) == 200


def names_of_workers(url: str, auth: str) -> list[str]:
    """Workers as Flower lists them; none while it starts."""
    try:
        return sorted(ask(f"{url}/api/workers?status=1", auth=auth))
    except ConnectionError:
        return []
    except urllib.error.URLError as error:
        if isinstance(error.reason, ConnectionError):
            return []
        raise


def assert_no_secret_of_others(ulak: RunningUlak) -> None:
    """Beat and Flower, read from the kernel: no database, no token, no key; workers and API no login of Flower."""
    secrets = ulak.home / "secrets"
    values = {path.name: path.read_text().strip() for path in secrets.iterdir()}
    database, redis = PostgresServer(ulak.home).running_url() or "", ValkeyServer(ulak.home).running_url() or ""
    found: dict[str, dict[str, str]] = {}
    lines = []
    for child in ulak.children():
        lines.append(" ".join(child.cmdline()))
        name = next((word for word in ("beat", "flower", "api", "worker") if word in child.cmdline()), "")
        if name and "ulak.cli.main" in child.cmdline():
            found[name] = child.environ()
    assert found.keys() == {"beat", "flower", "api", "worker"}
    for name in ("beat", "flower"):
        given = found[name].values()
        assert "ULAK_DATABASE_URL" not in found[name]
        hidden = (values["api_token"], values["seal_key"], database, "canary-of-a-provider")
        assert [secret for secret in hidden if any(secret in value for value in given)] == []
    for name in ("api", "worker"):
        assert not [value for value in found[name].values() if values["flower_auth"] in value]
        assert "canary-of-a-provider" in found[name].values()
    # No secret stands in the list of processes or in a log, and only their owner reads the files.
    keys = [path.read_text().strip() for path in (ulak.home / "sandbox" / "credentials").iterdir()]
    passwords = [urlsplit(url).password or "" for url in (database, redis)]
    logs = [path.read_text("utf-8", "replace") for path in (ulak.home / "logs").iterdir()]
    assert len(logs) >= 6
    everything = "\n".join([*lines, *logs])
    every = [*values.values(), values["flower_auth"].partition(":")[2], *keys, *passwords]
    assert [secret for secret in every if len(secret) >= 8 and secret in everything] == []
    modes = {path.stat().st_mode & 0o777 for path in (secrets, ulak.home / "logs")}
    assert (modes, {path.stat().st_mode & 0o777 for path in secrets.iterdir()}) == ({0o700}, {0o600})


def assert_shut_to_other_pages(url: str, auth: str) -> None:
    """No page of it can be framed, no foreign page can press its buttons, and what fails tells a stranger nothing."""
    for path in (*CLOSED, *OPEN, "/nothing", "/task/none"):
        for login in (auth, None):
            answer = asked(url + path, auth=login)
            assert (answer.headers["X-Frame-Options"], answer.headers["Cache-Control"]) == ("DENY", "no-store"), path
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"], path
            assert answer.status < 500, path
    shutdown = f"{url}/api/worker/shutdown/worker-1"
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"}):
        assert asked(shutdown, auth=auth, body={}, **headers).status == 403
    assert asked(f"{url}/workers", auth=auth, Referer="https://evil.example/").status == 200
    assert asked(f"{url}/api/task/types", auth=auth, Referer="https://evil.example/").status == 200
    assert asked(f"{url}/tasks/datatable", auth=auth, Referer="https://evil.example/").status < 500
    for login in ("ğ:x", ":", "x" * 9000, "u:p", auth.upper(), f"{auth}x", auth[:-1]):
        answer = asked(f"{url}/workers", auth=login)
        assert (answer.status, "Traceback" in answer.text) == (401, False), login
    # Whatever still fails: no traceback and no settings, with the password or without.
    failed = asked(f"{url}/tasks/datatable?draw=x&start=x&length=x", auth=auth)
    assert "Traceback" not in failed.text
    assert "redis" not in failed.text


def status(url: str, *, body: Any = None, auth: str | None = None) -> int:
    """The status of an answer; without `auth` to a stranger."""
    return asked(url, body=body, auth=auth).status


@dataclass(frozen=True)
class Heard:
    """An answer."""

    status: int
    headers: Any
    text: str


def asked(url: str, *, body: Any = None, auth: str | None = None, **headers: str) -> Heard:
    """One answer, whatever its status."""
    data = None if body is None else json.dumps(body).encode()
    sent = {} if auth is None else {"Authorization": f"Basic {b64encode(auth.encode()).decode()}"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urlopen(Request(url, data=data, headers=sent), timeout=20) as answer:
            return Heard(int(answer.status), answer.headers, answer.read().decode("utf-8", "replace"))
    except urllib.error.HTTPError as error:
        with error:
            return Heard(error.code, error.headers, error.read().decode("utf-8", "replace"))


def account_of(ulak: RunningUlak) -> str:
    """An account that has something to ask for."""
    with ulak.engine().connect() as connection:
        return str(connection.execute(text("SELECT account_id FROM tracked_ids ORDER BY id LIMIT 1")).scalar_one())


def call_through_flower(url: str, auth: str, account: str) -> str:
    """The id of the task that a person started in Flower."""
    body = {"kwargs": {"account_id": account}}
    return str(ask(f"{url}/api/task/async-apply/poll.account", auth=auth, body=body)["task-id"])


def call_through_celery(ulak: RunningUlak, account: str) -> str:
    """The id that `celery call` prints."""
    kwargs = json.dumps({"account_id": account})
    return run(ulak, "-m", "celery", "-A", "ulak.workers.app", "call", "poll.account", "--kwargs", kwargs)


def call_from_python(ulak: RunningUlak, account: str) -> str:
    """The id of a `.delay(...)`."""
    code = (
        "import sys, ulak.workers.app\nfrom ulak.tasks.polls import poll_account\n"
        "print(poll_account.delay(account_id=sys.argv[1]).id)"
    )
    return run(ulak, "-c", code, account)


@contextmanager
def read_only_flower(ulak: RunningUlak) -> Iterator[str]:
    """The address of a second Flower beside the run's, with `ULAK_FLOWER_READ_ONLY`."""
    port = reserve_port()
    env = {**environment(ulak), "ULAK_FLOWER_PORT": str(port), "ULAK_FLOWER_READ_ONLY": "true"}
    command = [sys.executable, "-m", "ulak.cli.main", "flower"]
    with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def environment(ulak: RunningUlak) -> dict[str, str]:
    """The environment as the run's own processes have it."""
    servers = {
        "ULAK_REDIS_URL": ValkeyServer(ulak.home).running_url() or "",
        "ULAK_DATABASE_URL": PostgresServer(ulak.home).running_url() or "",
    }
    return {**os.environ, **servers, "ULAK_HOME": str(ulak.home)}


def run(ulak: RunningUlak, *words: str) -> str:
    """The last line that Python prints in such an environment."""
    program, env = [sys.executable, *words], environment(ulak)
    done = subprocess.run(program, env=env, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip().splitlines()[-1]


def assert_poll_of_task(ulak: RunningUlak, task_id: str, account: str) -> None:
    """The task has made one poll under its own id, planned."""

    def found() -> list[tuple[Any, ...]]:
        with ulak.engine().connect() as connection:
            query = text(
                "SELECT account_id, trigger, kind FROM polls WHERE idempotency_key = :key AND planned_at IS NOT NULL"
            )
            return [tuple(row) for row in connection.execute(query, {"key": f"task:{task_id}"})]

    assert ulak.until(found, seconds=90, what=f"the poll of task {task_id}") == [(account, "task", "on_demand")]


def shown_tasks(url: str, auth: str) -> dict[str, set[str]]:
    """What Flower shows of tasks' arguments, by the task's name; empty until there is one of each kind."""
    shown: dict[str, set[str]] = {}
    for task in ask(f"{url}/api/tasks?limit=5000", auth=auth).values():
        shown.setdefault(task["name"] or "", set()).add(f"{task['args'] or ''}|{task['kwargs'] or ''}")
    wanted = {"poll.provider", "poll.account", "fetch.page", "fetch.batch"}
    return shown if wanted <= set(shown) else {}


def assert_list_names_accounts(url: str, auth: str) -> None:
    """The task list has a column for what a task is about, and the true duration of each listed poll."""
    columns = re.findall(r"<th[^>]*>([^<]*)</th>", asked(f"{url}/tasks", auth=auth).text)
    assert columns[:2] == ["Name", "kwargs"]
    tasks = ask(f"{url}/api/tasks?limit=5000&state=SUCCESS", auth=auth).values()
    durations = [task["runtime"] for task in tasks if task["name"] == "poll.provider"]
    assert durations
    assert min(durations) > 0


def assert_readable(shown: dict[str, set[str]], ulak: RunningUlak) -> None:
    """Accounts and pages by their names, no number and no key."""
    everything = " ".join(text for texts in shown.values() for text in texts)
    with ulak.engine().connect() as connection:
        accounts = set(connection.execute(text("SELECT id FROM accounts")).scalars())
        # A label names the send, which is no person.
        values = connection.execute(
            text(
                "SELECT value FROM tracked_ids WHERE whole IS DISTINCT FROM value"
                " UNION SELECT recipient FROM tracked_ids"
            )
        )
        private = {value for value in values.scalars() if value and len(value) > 5}
    keys = {path.read_text().strip() for path in (ulak.home / "sandbox" / "credentials").iterdir()}
    assert [word for word in private | keys if word in everything] == []
    # Every row of the list names the account: a tick that found nothing due, or woke or healed nothing, is no row.
    assert not {"dispatch.account", "upkeep.reconcile", "upkeep.expire"} & set(shown)
    rows = shown["fetch.page"] | shown["fetch.batch"] | shown["poll.provider"]
    assert {text for text in rows if not any(f"|{account} " in text for account in accounts)} == set()
    assert all(" poll " in text for text in shown["poll.provider"])
