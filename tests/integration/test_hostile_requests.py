"""Requests that mean it ill, over raw sockets: what is read of them, how long they are waited for, what they hold."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from api_process import MIB, push_head
from sqlalchemy import Engine, text
from task_api import TOKEN, Api, api, running
from test_callbacks import LOGIN, SECRET, SECRETS, apply_accounts, count, notice

from ulak.api.app import make_api
from ulak.api.callbacks import UNPROVEN_BYTES
from ulak.core import clock
from ulak.core.memory_budget import Budget
from ulak.models.quarantine import new_key
from ulak.providers.http import HttpDoor
from ulak.tasks.runtime import CredentialCache, Runtime
from ulak.workers.auth_attempts import MAX_FAILURES

ACCOUNTS = """
[[account]]
id = "bip-1"
provider = "bip"
[account.credentials]
callback_user = "env:BIP_USER"
callback_password = "env:BIP_PASSWORD"
[[account]]
id = "toplu"
provider = "iletimerkezi"
[account.credentials]
key = "env:K"
hash = "env:H"
webhook_secret = "env:HOOK"
[[account]]
id = "bot"
provider = "diyalog"
base_url = "http://127.0.0.1:9"
[account.credentials]
access_key_id = "env:K"
access_key_secret = "env:H"
requester_userid = "env:K"
app_secret = "env:HOOK"
"""
LENGTH = 8 * MIB - 1

__all__ = ["api"]  # a fixture


class Wire:
    """One connection, its bytes as they are."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=60)
        self._rest = b""

    def send(self, *parts: bytes) -> "Wire":
        """Send these."""
        for part in parts:
            self.socket.sendall(part)
        return self

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer."""
        while b"\r\n\r\n" not in self._rest:
            self._rest += self._read()
        head, _, body = self._rest.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        while len(body) < int(headers.get("content-length", 0)):
            body += self._read()
        self._rest = b""
        return int(first.split()[1]), headers, body

    def is_ended(self) -> bool:
        """Whether the server ends it; waits for that."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        """End it."""
        self.socket.close()

    def _read(self) -> bytes:
        data = self.socket.recv(65536)
        assert data, "the connection ended without an answer"
        return data


@contextmanager
def serving(engine: Engine, **how: Any) -> Iterator[Callable[[], Wire]]:
    """The API over raw connections, all closed at the end."""
    apply_accounts(engine, ACCOUNTS)
    door = HttpDoor(max_connections=1, boot=clock.boot)
    cache = CredentialCache(resolve=SECRETS.__getitem__)
    runtime = Runtime(engine=engine, door=door, seal_key=new_key(), credentials=cache)
    wires: list[Wire] = []

    def wire() -> Wire:
        wires.append(Wire(url))
        return wires[-1]

    with running(make_api(runtime, token=TOKEN, **how)) as url:
        try:
            yield wire
        finally:
            for each in wires:
                each.close()


STRANGERS = {
    "no such account": push_head("/callbacks/bip/nobody", LENGTH, LOGIN),
    "no such provider": push_head("/callbacks/nobody/bip-1", LENGTH, LOGIN),
    "no account's name": push_head("/callbacks/bip/x%00y", LENGTH, LOGIN),
    "another provider's account": push_head("/callbacks/bip/toplu", LENGTH, LOGIN),
    "no such tail": push_head("/callbacks/bip/bip-1/other", LENGTH, LOGIN),
    "no login": push_head("/callbacks/bip/bip-1", LENGTH),
    "wrong login": push_head("/callbacks/bip/bip-1", LENGTH, "ulak:wrong"),
    "wrong secret": push_head("/callbacks/iletimerkezi/toplu/wrong", LENGTH),
    "no signature": push_head("/callbacks/diyalog/bot", LENGTH),
    "no token": push_head("/v1/tracked", LENGTH),
}


def test_nothing_of_a_strangers_body_is_read(migrated_database: Engine) -> None:
    """Each is answered by its head alone, also where its client waits for leave to send the body."""
    with serving(migrated_database) as wire:
        told = {name: wire().send(head).answer()[0] for name, head in STRANGERS.items()}
        waiting = STRANGERS["no login"].replace(b"Host:", b"Expect: 100-continue\r\nHost:")
        assert wire().send(waiting).answer()[0] == 401
    unauthorised = {"no login", "wrong login", "no signature", "no token"}
    assert told == {name: 401 if name in unauthorised else 404 for name in STRANGERS}


def test_a_refused_push_can_be_sent_again_on_its_connection(migrated_database: Engine) -> None:
    """The rest of its body is taken and thrown away, so that its client reads the answer."""
    body = json.dumps(notice()).encode()
    with serving(migrated_database) as wire:
        client = wire().send(push_head("/callbacks/bip/bip-1", len(body)))
        assert client.answer()[0] == 401
        client.send(body, push_head("/callbacks/bip/bip-1", len(body), LOGIN), body)
        assert client.answer()[0] == 200


def test_a_body_that_does_not_come_in_time_is_given_up_and_seen(migrated_database: Engine) -> None:
    """All waits count together, so that a client which drips is not waited for either."""
    with serving(migrated_database, body_seconds=1.0) as wire:
        client = wire().send(push_head("/callbacks/bip/bip-1", 1000, LOGIN))
        status = None
        while status is None:
            client.send(b"{")
            client.socket.settimeout(0.1)
            try:
                status = client.answer()[0]
            except TimeoutError:
                continue
        client.socket.settimeout(60)
        assert (status, client.is_ended()) == (408, True)
        assert wire().send(push_head("/v1/tracked", 9).replace(b"Host", bearer() + b"Host")).answer()[0] == 408
    with migrated_database.connect() as connection:
        assert connection.execute(text("SELECT account_id, kind FROM rejections")).all() == [("bip-1", "broken_off")]


def bearer(token: str = TOKEN) -> bytes:
    """The header that opens the task API."""
    return f"Authorization: Bearer {token}\r\n".encode()


def test_all_bodies_share_one_budget_of_which_pushes_get_the_whole(migrated_database: Engine) -> None:
    """Beyond it 503 with `Retry-After`; whatever has ended gives its room back."""
    room = Budget(4 * MIB)
    with serving(migrated_database, bodies=room) as wire:
        bulk = push_head("/v1/tracked", 3 * MIB).replace(b"Host", bearer() + b"Host")
        status, headers, _ = wire().send(bulk, b"[" * (3 * MIB)).answer()
        assert (status, headers["retry-after"]) == (503, "2")
        held = wire().send(push_head("/callbacks/bip/bip-1", 4 * MIB, LOGIN), b" " * (3 * MIB))
        two = push_head("/callbacks/bip/bip-1", 2 * MIB, LOGIN)
        until(lambda: room.held == 3 * MIB)
        assert wire().send(two, b" " * (2 * MIB)).answer()[0] == 503
        held.close()
        body = json.dumps(notice()).encode()
        until(lambda: wire().send(two, b" " * (2 * MIB - len(body)), body).answer()[0] == 200)


def until(holds: Callable[[], bool]) -> None:
    """Wait for it."""
    end = clock.boot() + 60
    while not holds():
        assert clock.boot() < end
        clock.sleep(0.05)


def test_a_body_that_has_yet_to_prove_itself_has_a_smaller_cap(migrated_database: Engine) -> None:
    """A signature can be judged only when all that it signs is there."""
    head = push_head("/callbacks/diyalog/bot", LENGTH).replace(b"Host", b"X-Signature: 00\r\nHost")
    with serving(migrated_database) as wire:
        assert wire().send(head, b" " * (UNPROVEN_BYTES + 1)).answer()[0] == 413
        small = push_head("/callbacks/diyalog/bot", 2).replace(b"Host", b"X-Signature: 00\r\nHost")
        assert wire().send(small, b"{}").answer()[0] == 401


def not_stored(wire: Wire) -> list[str]:
    """The metrics of authorised pushes that could not be stored, in this process so far."""
    status, _, shown = wire.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").answer()
    assert (status, b"ulak_callback_seconds" in shown) == (200, True)
    return [line for line in shown.decode().splitlines() if 'outcome="not_stored"' in line]


def test_no_stranger_makes_it_look_as_if_pushes_could_not_be_stored(migrated_database: Engine) -> None:
    """Only what PostgreSQL refuses of an authorised push may wake somebody."""
    with serving(migrated_database) as wire:
        before = not_stored(wire())
        for account in ("x%00y", "%ff", "a" * 5000, "bip-1'--", "..", "%2e%2e%2f"):
            assert wire().send(push_head(f"/callbacks/bip/{account}", 2, LOGIN), b"{}").answer()[0] == 404, account
            assert wire().send(f"GET /callbacks/bip/{account} HTTP/1.1\r\nHost: u\r\n\r\n".encode()).answer()[0] == 405
        assert not_stored(wire()) == before


def test_a_push_of_which_nothing_is_understood_has_a_figure_of_its_own(migrated_database: Engine) -> None:
    """It is answered like any other, since a repetition would not help; one good item makes it a push that was read."""

    def figures(wire: Callable[[], Wire]) -> list[float]:
        shown = wire().send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").answer()[2].decode()
        name = 'ulak_callback_seconds_count{outcome="%s",provider="bip"} '
        lines = shown.splitlines()
        return [
            float(next((line.rpartition(" ")[2] for line in lines if line.startswith(name % outcome)), 0))
            for outcome in ("unreadable", "stored")
        ]

    with serving(migrated_database) as wire:
        before = figures(wire)
        for body in (b'[{"a":0},{"a":1}]', b"no JSON", json.dumps(notice()).encode()):
            assert wire().send(push_head("/callbacks/bip/bip-1", len(body), LOGIN), body).answer()[0] == 200
        assert [after - known for after, known in zip(figures(wire), before, strict=True)] == [2, 1]


@pytest.mark.parametrize("kind", ["bearer", "basic", "path"])
def test_wrong_secrets_are_slowed_down_and_a_right_one_never(migrated_database: Engine, kind: str) -> None:
    """The eleventh in a minute is told to wait; the right secret is let in at once, from the same address."""
    body = json.dumps(notice()).encode()
    heads = {
        "bearer": lambda secret: (
            f"GET /v1/polls HTTP/1.1\r\nHost: u\r\nAuthorization: Bearer {secret}\r\n\r\n".encode()
        ),
        "basic": lambda secret: push_head("/callbacks/bip/bip-1", len(body), secret) + body,
        "path": lambda secret: push_head(f"/callbacks/iletimerkezi/toplu/{secret}", len(body)) + body,
    }
    right = {"bearer": TOKEN, "basic": LOGIN, "path": SECRET}[kind]
    usual = 404 if kind == "path" else 401
    with serving(migrated_database) as wire:
        wrong = [wire().send(heads[kind](f"wrong:{n}")).answer() for n in range(MAX_FAILURES + 2)]
        assert [status for status, _, _ in wrong] == [usual] * MAX_FAILURES + [429] * 2
        assert wrong[-1][1]["retry-after"] == "60"
        assert wire().send(heads[kind](right)).answer()[0] == 200


def test_an_example_in_the_address_lets_nobody_in(migrated_database: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever left the document's word there has an address that everybody knows."""
    monkeypatch.setitem(SECRETS, "env:HOOK", "change-me-change-me-change-me")
    with serving(migrated_database) as wire:
        head = push_head("/callbacks/iletimerkezi/toplu/change-me-change-me-change-me", 2)
        assert wire().send(head, b"{}").answer()[0] == 404


@pytest.mark.parametrize("path", ["/healthz", "/readyz?only=callbacks", "/docs", "/metrics", "/openapi.json"])
def test_head_is_answered_like_get_without_the_body(migrated_database: Engine, path: str) -> None:
    """RFC 9110, 9.1: monitors ask so."""
    with serving(migrated_database) as wire:
        client = wire().send(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        said = b""
        while data := client.socket.recv(65536):
            said += data
    head, _, body = said.partition(b"\r\n\r\n")
    assert (head.split()[1], body) == (b"200", b"")


@pytest.mark.parametrize(
    "extra",
    [
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        b"Authorization: Bearer a\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\nContent-Length: 2\r\n",
    ],
    ids=["two lengths", "two authorizations"],
)
def test_a_head_that_can_be_read_in_two_ways_is_refused(migrated_database: Engine, extra: bytes) -> None:
    """And its connection ends: what follows may be somebody else's request."""
    with serving(migrated_database) as wire:
        client = wire().send(b"POST /v1/polls HTTP/1.1\r\nHost: u\r\n" + extra + b"\r\n{}")
        assert (client.answer()[0], client.is_ended()) == (400, True)


def test_a_body_that_holds_too_much_is_kept_whole_and_as_one(migrated_database: Engine) -> None:
    """One sealed body in place of an entry for each of its items, or of none because they are too many."""
    strange = b'{"txnid":"t","resultcode":0,"list":[' + b",".join(b'{"receiver":"%d"}' % n for n in range(5000)) + b"]}"
    flood = b'{"txnid":"t","resultcode":0,"list":[' + b"[]," * 1_000_000 + b"[]]}"
    with serving(migrated_database) as wire:
        for body in (strange, flood):
            head = push_head("/callbacks/bip/bip-1/report", len(body), LOGIN)
            assert wire().send(head, body).answer()[0] == 200
    with migrated_database.connect() as connection:
        kept = connection.execute(text("SELECT reason, octet_length(sealed) FROM quarantine ORDER BY id")).all()
    assert [row[0].partition(",")[0] for row in kept] == [
        "5000 parts of it could not be read",
        "The body holds more than 1000000 values.",
    ]
    assert all(row[1] < 100_000 for row in kept)
    assert count(migrated_database, "delivery_status") == 0


def test_ids_beyond_the_limit_are_refused_before_one_is_decoded(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting them in what was decoded took 1.2 GB."""
    monkeypatch.setattr("ulak.api.registration.msgspec.json.decode", lambda *_, **__: pytest.fail("it was decoded"))
    for item in (b"1", b"[]", b'{"kind":"a","value":"b,c"}'):
        body = b'{"account":"bip-1","ids":[' + (item + b",") * 100_000 + item + b"]}"
        assert api.client.post("/v1/tracked", content=body).status_code == 413


def test_the_largest_request_that_is_allowed_is_still_taken(api: Api) -> None:
    """Commas within texts and between fields are no ids."""
    item = b'{"kind":"transaction","value":"1,2,3","client_ref":"a,b","recipient":"905301234567","expected":1}'
    body = b'{"account":"nobody","ids":[' + (item + b",") * 99_999 + item + b"]}"
    assert api.client.post("/v1/tracked", content=body).status_code == 404
