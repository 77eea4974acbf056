"""The BiP stand-in pushes everything, in disorder and more than once, until it is taken."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sandbox.server import Sandbox

LOGIN = {"user": "taker", "password": "word"}


class Taker(ThreadingHTTPServer):
    """A tiny receiver: keeps what it took; answers 503 to the first `refusing` requests."""

    daemon_threads = True

    def __init__(self, refusing: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.taken: list[tuple[str, dict[str, Any]]] = []
        self.logins: set[str] = set()
        self.refusing = refusing
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/callbacks/bip/demo-bip"


class Handler(BaseHTTPRequestHandler):
    """Takes a POST."""

    server: Taker

    def do_POST(self) -> None:
        """Keeps the body, or is not ready yet."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.logins.add(self.headers["Authorization"])
            ready = self.server.refusing <= 0
            self.server.refusing -= 1
            if ready:
                self.server.taken.append((self.path, body))
        self.send_response(200 if ready else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Says nothing."""


@pytest.fixture
def taker() -> Iterator[Taker]:
    """A receiver that is not ready for its first ten requests."""
    server = Taker(refusing=10)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def settle(sandbox: Sandbox) -> None:
    """Waits until every push has been taken."""
    for _ in range(1200):
        if sandbox.control("GET", "/truth/settled")["settled"]:
            return
        time.sleep(0.05)
    pytest.fail("it did not settle")


def fold(sandbox: Sandbox, taken: list[tuple[str, dict[str, Any]]]) -> dict[str, tuple[Any, ...]]:
    """Key → (status, parent, sendtime shown) of replies and pushes, read in the plainest way."""
    replies = sandbox.control("GET", "/sends?provider=bip")["replies"]
    reports = [one["body"] for one in replies]
    reports += [body for path, body in taken if path.endswith("/report")]
    rows: dict[str, tuple[Any, ...]] = {}
    parents: dict[str, str] = {}
    for report in reports:
        txnid = report["txnid"]
        if int(report["resultcode"]) != 0:
            rows[txnid] = ("rejected", txnid)
        for item in report.get("list", ()):
            if item["reportid"] is None:
                plus = "+" if item["receiver"].isdigit() else ""
                receiver = plus + item["receiver"].replace("%", "%25").replace(":", "%3A")
                rows[f"{txnid}:{receiver}:{item['totalnumberofmessage']}"] = ("rejected", txnid)
            else:
                parents[item["reportid"]] = txnid
    best: dict[str, int] = dict.fromkeys(parents, -1)
    for _, body in taken:
        if body.get("type") == "R":
            report = body["report"]
            best[report["reportid"]] = max(best[report["reportid"]], report["reporttype"])
    words = {-1: "enroute", 0: "delivered", 1: "read"}
    return rows | {key: (words[kind], parents[key]) for key, kind in best.items()}


def test_everything_is_pushed_in_the_end(taker: Taker) -> None:
    """What was pushed and replied, folded plainly, is the truth; nothing is lost to 503."""
    with Sandbox(seed=4, speed=300, scale="demo") as sandbox:
        sandbox.control("POST", "/bip/callback", {"url": taker.url, **LOGIN})
        settle(sandbox)
        truth = {r["provider_key"]: (r["status"], r["parent_key"]) for r in sandbox.truth("bip")}
        pushes = sandbox.control("GET", "/bip/pushes")
        assert fold(sandbox, taker.taken) == truth
    assert len(truth) > 150
    assert {pushes["planned"], pushes["acknowledged"]} == {len(taker.taken)}
    assert pushes["attempts"] == len(taker.taken) + 10
    assert taker.logins == {"Basic " + base64.b64encode(b"taker:word").decode()}


def test_pushes_are_repeated_and_in_disorder(taker: Taker) -> None:
    """Duplicates, a notice before its report, read before delivered, hashes, M and E all occur."""
    with Sandbox(seed=4, speed=300, scale="demo") as sandbox:
        sandbox.control("POST", "/bip/callback", {"url": taker.url, **LOGIN})
        settle(sandbox)
        synchronous = {
            item["reportid"]
            for one in sandbox.control("GET", "/sends?provider=bip")["replies"]
            for item in one["body"].get("list", ())
        }
    taken = taker.taken
    texts = [json.dumps(body) for _, body in taken]
    assert len(set(texts)) < len(texts)
    assert {body.get("type") for _, body in taken} == {None, "R", "M", "E"}
    assert all(path.endswith("/report") == ("type" not in body) for path, body in taken)
    known, early = set(synchronous), 0
    kinds: dict[str, list[int]] = {}
    for _, body in taken:
        known |= {item["reportid"] for item in body.get("list", ())}
        if body.get("type") == "R":
            early += body["report"]["reportid"] not in known
            kinds.setdefault(body["report"]["reportid"], []).append(body["report"]["reporttype"])
    assert early > 0
    assert any(order[:2] == [1, 0] for order in kinds.values())
    receivers = {item["receiver"] for _, body in taken for item in body.get("list", ())}
    assert any(not one.isdigit() for one in receivers)


def test_forms_are_those_of_the_pages(taker: Taker) -> None:
    """A report item, a refused one, a notice; a failed send has no list."""
    with Sandbox(seed=4, speed=2000, scale="demo") as sandbox:
        sandbox.control("POST", "/bip/callback", {"url": taker.url, **LOGIN})
        settle(sandbox)
    reports = [body for path, body in taker.taken if path.endswith("/report")]
    notices = [body for _, body in taker.taken if body.get("type") == "R"]
    items = [item for body in reports for item in body.get("list", ())]
    assert {tuple(item) for item in items} == {
        ("receiver", "resultcode", "reportid", "numberofmessage", "totalnumberofmessage")
    }
    refused = {(item["reportid"], item["numberofmessage"]) for item in items if item["resultcode"]}
    assert refused == {(None, None)}
    assert {tuple(body) for body in notices} == {("sender", "type", "msgid", "sendtime", "txnid", "report")}
    assert all(body["sendtime"].endswith(" +0300") for body in notices)
    failed = [body for body in reports if int(body["resultcode"])]
    assert failed
    assert not any("list" in body for body in failed)


def test_there_is_nothing_to_pull() -> None:
    """Any request to BiP's port is a 404, and it is logged."""
    import httpx

    with Sandbox(seed=1) as sandbox:
        assert httpx.get(sandbox.urls["bip"] + "/reports", trust_env=False).status_code == 404
        assert [(one["provider"], one["status"]) for one in sandbox.log()] == [("bip", 404)]
