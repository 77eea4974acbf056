"""The way of a program that uses Ulak from outside: register, ask, watch, follow the feed; and what a person sees."""

import http.cookiejar
import json
import re
import signal
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from running import RunningUlak, ask, is_command, running
from sqlalchemy import text
from truth import differences, stored_rows

from ulak.core.settings import Settings

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

SENDS = 25
THREADS = Settings.model_fields["worker_threads"].default


class Program:
    """A program with a token, and its own copy of the table, kept by the feed of changes."""

    def __init__(self, url: str, token: str) -> None:
        """`url`: of the API."""
        self.url, self.token = url, token
        self.cursor: str | None = None
        self.copy: dict[int, Mapping[str, Any]] = {}
        self.positions: list[tuple[int, int]] = []

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None, **headers: str) -> Any:
        """One request, answered with JSON."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "authorization": f"Bearer {self.token}",
                "content-type": "application/json",
                **{name.replace("_", "-"): value for name, value in headers.items()},
            },
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def follow(self) -> bool:
        """Read the feed to its present end; False while nobody answers."""
        while True:
            query = urllib.parse.urlencode({"limit": 500} | ({"cursor": self.cursor} if self.cursor else {}))
            try:
                page = self.call("GET", f"/v1/changes?{query}")
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                return False
            for change in page["changes"]:
                self.positions.append((change["version"], change["id"]))
                self.copy[change["id"]] = change["delivery"]
            self.cursor = page["cursor"]
            if not page["changes"]:
                return True


def test_a_program_registers_asks_watches_and_follows_while_the_api_is_killed(tmp_path: Path) -> None:
    """Nothing is lost, the feed's fold is the table, and the page shows the same."""
    with running(tmp_path, "--no-flower") as ulak:
        ulak.wait_ready()
        control = ulak.address("Sandbox")
        token = (ulak.home / "secrets" / "api_token").read_text(encoding="utf-8").strip()
        program = Program(ulak.address("Page"), token)
        ulak.until(program.follow, seconds=90, what="the first page of the feed")
        register_and_ask(ulak, program, control)
        kill_api_while_it_is_pushed_to(ulak, program, control)
        ulak.until(lambda: program.follow() and is_truth(ulak, control), seconds=240, what="the truth in the table")
        ulak.until(lambda: program.follow() and is_copy(ulak, program), seconds=90, what="the copy by the feed")
        assert len(program.positions) == len(set(program.positions))
        assert program.positions == sorted(program.positions)
        see_the_page(program, ulak)
        see_the_threads(ulak)
    assert ulak.survivors() == []


def register_and_ask(ulak: RunningUlak, program: Program, control: str) -> None:
    """New sends, registered over HTTP, asked for by a poll whose key is used twice, watched to its end."""
    sends = ask(f"{control}/sends/vairo", body={"count": SENDS})["sends"]
    ids = [{name: send[name] for name in ("kind", "value", "client_ref", "sent_at")} for send in sends]
    told = program.call("POST", "/v1/tracked", {"account": "demo-vairo", "ids": ids})
    assert {each["result"] if "result" in each else each["status"] for each in told["results"]} == {"registered"}
    wanted = {"account": "demo-vairo", "ids": [{"kind": each["kind"], "value": each["value"]} for each in ids]}
    first = program.call("POST", "/v1/polls", wanted, idempotency_key="faces-1")
    again = program.call("POST", "/v1/polls", wanted, idempotency_key="faces-1")
    assert again["id"] == first["id"]

    def ended() -> str | None:
        state: str = program.call("GET", f"/v1/polls/{first['id']}")["state"]
        return state if state != "running" else None

    assert ulak.until(ended, seconds=120, what="the end of the poll") == "complete"


def kill_api_while_it_is_pushed_to(ulak: RunningUlak, program: Program, control: str) -> None:
    """More sends of the provider that pushes; the API process is killed in the middle and comes back.

    What the sender got as a reply to its send it hands over by itself.
    """
    replies = ask(f"{control}/sends/bip", body={"count": 30})["replies"]
    for _ in range(2):
        (api,) = ulak.until(
            lambda: [child for child in ulak.children() if is_command(child, "api")], seconds=90, what="the API"
        )
        api.send_signal(signal.SIGKILL)
        psutil.wait_procs([api], timeout=10)
        ulak.until(lambda: answers(ulak), seconds=90, what="the API after the crash")
    for reply in replies:
        program.call("POST", f"/v1/reports/{reply['account']}", reply["body"])


def answers(ulak: RunningUlak) -> bool:
    """Whether the API answers."""
    try:
        return bool(ask(f"{ulak.address('Page')}/healthz"))
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def is_truth(ulak: RunningUlak, control: str) -> bool:
    """Whether the stand-ins came to rest and the table equals what they say (their own word on what was sent)."""
    settled = ask(f"{control}/truth/settled")
    if not settled["settled"] or settled["pushes_waiting"]:
        return False
    told = ask(f"{control}/truth")
    with ulak.engine().connect() as connection:
        return not differences(stored_rows(connection), told["rows"] if isinstance(told, dict) else told)


def is_copy(ulak: RunningUlak, program: Program) -> bool:
    """Whether the program's copy is the table."""
    query = text("SELECT id, status, provider_key, is_final, recipient, conflict FROM delivery_status ORDER BY id")
    with ulak.engine().connect() as connection:
        table = [dict(row) for row in connection.execute(query).mappings()]
    names = list(table[0])
    return table == [{name: program.copy[key][name] for name in names} for key in sorted(program.copy)]


def see_the_page(program: Program, ulak: RunningUlak) -> None:
    """A person who logs in sees the same figures as the table holds."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    form = browser.open(f"{program.url}/", timeout=30).read().decode()
    mark = re.search(r'name="form_mark" value="([^"]+)"', form)
    assert mark is not None
    data = urllib.parse.urlencode({"form_mark": mark.group(1), "token": program.token, "next": "/"}).encode()
    browser.open(f"{program.url}/login", data=data, timeout=30)
    with ulak.engine().connect() as connection:
        final = connection.execute(
            text("SELECT count(*) FROM delivery_status WHERE is_final AND account_id = 'demo-vairo'")
        ).scalar_one()

    def shows_it() -> bool:
        page = browser.open(f"{program.url}/", timeout=30).read().decode()
        return "demo-vairo" in page and f">{final}<" in page

    # The page looks at the table every few seconds at most, however many people watch.
    ulak.until(shows_it, seconds=60, what=f"a page that shows {final} final deliveries")


def see_the_threads(ulak: RunningUlak) -> None:
    """The worker lets the ledger know how many calls it can make at once."""
    told = urllib.request.urlopen(f"{ulak.address('Page')}/metrics", timeout=30).read().decode()
    assert re.findall(r"^ulak_worker_threads (\S+)$", told, re.MULTILINE) == [f"{THREADS}.0"]
