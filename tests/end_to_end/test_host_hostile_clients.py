"""The API as a process of its own, under connections and bodies that mean it ill: its memory, its log, its answers."""

import json
import resource
import time
from base64 import b64encode
from collections.abc import Iterator
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest
from api_process import MIB, ApiProcess, HostileClients, api_process, push_head
from sqlalchemy import Engine, text

from ulak.models.accounts import apply
from ulak.models.database import transaction
from ulak.providers.accounts import parse_accounts

pytestmark = [pytest.mark.host, pytest.mark.timeout(400)]

ACCOUNTS = """
[[account]]
id = "bip-1"
provider = "bip"
[account.credentials]
callback_user = "env:BIP_USER"
callback_password = "env:BIP_PASSWORD"
"""
LOGIN = "ulak:a-password-of-the-hostile-tests"
TOKEN = "a-token-of-the-hostile-tests"
ENV = {"BIP_USER": "ulak", "BIP_PASSWORD": LOGIN.partition(":")[2], "ULAK_API_TOKEN": TOKEN}
FLAT_MIB = 64
"""What hostile load may add; one held body took eight before, and sixty of them 500."""


@pytest.fixture
def database(migrated_database: Engine) -> str:
    """The address of a database with the account."""
    with transaction(migrated_database) as connection:
        apply(connection, parse_accounts(ACCOUNTS), prune=True)
    return migrated_database.url.render_as_string(hide_password=False).replace("+psycopg", "")


@pytest.fixture(autouse=True)
def _many_descriptors() -> Iterator[None]:
    """This process holds the other ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard == resource.RLIM_INFINITY else min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def push(api: ApiProcess, reportid: str) -> int:
    """A real push; its status, 0 where there was no answer."""
    notice = {
        "sender": "905300000000",
        "type": "R",
        "msgid": "m-1",
        "txnid": "t-1",
        "sendtime": "18.05.2018 16:11:00.000 +0300",
        "report": {"reportid": reportid, "reporttype": 0},
    }
    connection = HTTPConnection("127.0.0.1", api.port, timeout=60)
    try:
        head = {"Authorization": f"Basic {b64encode(LOGIN.encode()).decode()}"}
        connection.request("POST", "/callbacks/bip/bip-1", json.dumps(notice), head)
        return connection.getresponse().status
    except (OSError, HTTPException):
        return 0
    finally:
        connection.close()


def held_down(hard: int) -> None:
    """Run in the child: so many descriptors and no more."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def test_bodies_of_strangers_hold_no_memory(tmp_path: Path, database: str) -> None:
    """Sixty bodies of eight megabytes, all but their last byte sent, to an account that does not exist."""
    with api_process(tmp_path, database, env=ENV) as api, HostileClients(api.port) as clients:
        assert push(api, "before") == 200
        base = api.mib()
        head = push_head("/callbacks/bip/nobody", 8 * MIB)
        for _ in range(60):
            clients.connect(1, head + b" " * (8 * MIB - 1))
        assert push(api, "during") == 200
        assert api.peak_mib() - base < FLAT_MIB


def test_silent_and_dripping_clients_keep_nobody_out(tmp_path: Path, database: str, migrated_database: Engine) -> None:
    """Of 600, a third says nothing, a third drips a head, a third an authorised body; real pushes are stored."""
    with api_process(tmp_path, database, env=ENV, preexec=partial(held_down, 1024)) as api:
        assert push(api, "before") == 200
        base = api.mib()
        with HostileClients(api.port) as clients:
            clients.connect(200)
            clients.connect(200, b"GET / HTTP/1.1\r\nX-Drip: ")
            clients.connect(200, push_head("/callbacks/bip/bip-1", 100_000, LOGIN) + b"{")
            answers: list[int] = []
            end = time.monotonic() + 120
            while clients.alive() and time.monotonic() < end:
                clients.drip()
                answers.append(push(api, f"during-{len(answers)}"))
                time.sleep(0.5)
            assert (clients.alive(), set(answers)) == (0, {200})
        assert api.peak_mib() - base < FLAT_MIB
    with migrated_database.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM delivery_status")).scalar_one() == len(answers) + 1


def test_used_up_descriptors_neither_stop_it_nor_fill_its_log(tmp_path: Path, database: str) -> None:
    """With 200 descriptors and 400 clients that drip: probes and pushes are answered, and the log stays short."""
    with api_process(tmp_path, database, env=ENV, preexec=partial(held_down, 200)) as api:
        with HostileClients(api.port) as clients:
            clients.connect(400, b"GET / HTTP/1.1\r\nX-Drip: ")
            answers = []
            for n in range(10):
                clients.drip()
                answers.append(push(api, f"during-{n}"))
            assert answers == [200] * 10
            assert api.descriptors() < 200
        lines = api.log.read_text(encoding="utf-8").splitlines()
    assert sum("out_of_descriptors" in line for line in lines) <= 1
    assert [line for line in lines if "Traceback" in line or "out of system resource" in line] == []
    assert len(lines) < 100


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/tracked", b'{"account":"bip-1","ids":[' + b"1," * (16 * MIB - 100) + b"1]}", 413),
        ("/v1/reports/bip-1", b'{"txnid":"t","resultcode":0,"list":[' + b"[]," * (8 * MIB // 3 - 20) + b"[]]}", 200),
    ],
    ids=["ids", "reports"],
)
def test_what_a_body_expands_to_is_bounded(tmp_path: Path, database: str, path: str, body: bytes, status: int) -> None:
    """Of whoever has a token, too: these took 1.2 GB and 0.6 GB."""
    with api_process(tmp_path, database, env=ENV) as api:
        assert push(api, "before") == 200
        base = api.mib()
        connection = HTTPConnection("127.0.0.1", api.port, timeout=120)
        connection.request("POST", path, body, {"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        assert (answer.status, bool(answer.read())) == (status, True)
        connection.close()
        assert api.peak_mib() - base < 3 * len(body) / MIB + FLAT_MIB
