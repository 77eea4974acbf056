"""Providers' pushes through the real HTTP process into a real PostgreSQL."""

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from api_server import Said, Server, serving
from sqlalchemy import Engine, text
from stored_rows import stored_rows

from ulak.api.app import make_api
from ulak.core import clock
from ulak.local.embedded.postgres import PostgresServer
from ulak.models.accounts import apply
from ulak.models.database import make_engine, transaction
from ulak.models.deliveries import upsert
from ulak.models.ledger.ending import discover
from ulak.models.quarantine import new_key
from ulak.models.report import DeliveryReport, NewId
from ulak.models.schema import migrate
from ulak.models.vocabulary import Granularity, Status
from ulak.providers.accounts import parse_accounts
from ulak.providers.http import HttpDoor
from ulak.tasks.runtime import CredentialCache, Runtime

FIXTURES = Path(__file__).parents[1] / "fixtures" / "bip"
LOGIN = "ulak:şifre:1"
SECRET = "5a0c7cc2f1e94d0b8f7f3a52"
TEXT = "Sayın Ayşe, kodunuz 4711"
SECRETS = {"env:BIP_USER": "ulak", "env:BIP_PASSWORD": "şifre:1", "env:HOOK": SECRET, "env:K": "k-1", "env:H": "h-1"}
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
"""


def runtime_on(engine: Engine) -> Runtime:
    """A runtime whose references lead to this test's secrets."""
    door = HttpDoor(max_connections=1, boot=clock.boot)
    cache = CredentialCache(resolve=SECRETS.__getitem__)
    return Runtime(engine=engine, door=door, seal_key=new_key(), credentials=cache)


def apply_accounts(engine: Engine, told: str = ACCOUNTS) -> None:
    """Make these the accounts."""
    with transaction(engine) as connection:
        apply(connection, parse_accounts(told), prune=True)


@pytest.fixture
def runtime(migrated_database: Engine) -> Runtime:
    """The runtime of the HTTP process, with both accounts applied."""
    apply_accounts(migrated_database)
    return runtime_on(migrated_database)


@pytest.fixture
def server(runtime: Runtime) -> Iterator[Server]:
    """The real application behind a real server."""
    with serving(make_api(runtime)) as server:
        yield server


def notice(reporttype: int = 0, reportid: str = "r-1", second: int = 0) -> dict[str, Any]:
    """A delivered (0) or read (1) notice."""
    told: dict[str, Any] = json.loads((FIXTURES / "notice.json").read_bytes())
    sendtime = f"18.05.2018 16:11:{second:02}.000 +0300"
    return told | {"sendtime": sendtime, "report": {"reportid": reportid, "reporttype": reporttype}}


def send_report(*reportids: str) -> dict[str, Any]:
    """The report of an asynchronous send to one receiver for each id."""
    receivers = [
        {"receiver": f"90530000000{place}", "resultcode": 0, "reportid": reportid, "numberofmessage": 1}
        for place, reportid in enumerate(reportids)
    ]
    return {"reqid": 1, "txnid": "t-1", "resultcode": 0, "list": receivers}


def bip(server: Server, body: Any, tail: str = "", auth: str | None = LOGIN) -> Said:
    """BiP pushes."""
    return server.ask("POST", f"/callbacks/bip/bip-1{tail}", body, auth=auth)


def hook(server: Server, status: Any = "delivered", *, to: str = "+905301234567", secret: str = SECRET) -> Said:
    """A push of the webhook, with the text of the message as it has it."""
    report = {"id": 9, "packet_id": 501, "status": status, "to": to, "body": TEXT}
    return server.ask("POST", f"/callbacks/iletimerkezi/toplu/{secret}", {"report": report})


def statuses(engine: Engine, account: str = "bip-1") -> dict[str, str]:
    """The table, by provider_key."""
    with engine.connect() as connection:
        return {key: row.status for (_, key), row in stored_rows(connection, account).items()}


def count(engine: Engine, table: str) -> int:
    """How many rows a table has."""
    with engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


# ------------------------------------------------------------------------------------------------- BiP


def test_a_notice_is_in_the_table_when_the_answer_comes(server: Server, migrated_database: Engine) -> None:
    """200 only after the commit."""
    assert (bip(server, notice()).status, statuses(migrated_database)) == (200, {"r-1": "delivered"})


@pytest.mark.parametrize("kind", ["M", "E"])
def test_messages_and_follow_events_are_answered_and_not_kept(
    server: Server, migrated_database: Engine, kind: str
) -> None:
    """They come to the same address; a refusal would make BiP stop."""
    body = {"sender": "905300000000", "type": kind, "event": "S", "content": "merhaba", "msgid": 1}
    assert bip(server, body).status == 200
    assert [count(migrated_database, table) for table in ("delivery_status", "observations", "quarantine")] == [0, 0, 0]


def test_any_order_and_any_repetition_gives_the_same_table(server: Server, migrated_database: Engine) -> None:
    """A read before its delivery, a notice before its send report, each thing three times."""
    said = [(send_report("r-1", "r-2"), "/report"), (notice(0, "r-1", 1), ""), (notice(1, "r-1", 2), "")]
    tables = []
    for order in itertools.permutations(said):
        pushes = [*order, *order, *order]
        random.Random(7).shuffle(pushes)
        assert {bip(server, body, tail).status for body, tail in pushes} == {200}
        with migrated_database.connect() as connection:
            tables.append(stored_rows(connection, "bip-1"))
        with transaction(migrated_database) as connection:
            connection.execute(text("DELETE FROM delivery_status"))
    assert all(table == tables[0] for table in tables)
    assert {key: row.status for (_, key), row in tables[0].items()} == {"r-1": "read", "r-2": "enroute"}


@pytest.mark.parametrize("auth", [None, "ulak:wrong", "ulak:", ":", "other:şifre:1"])
def test_without_the_accounts_login_nothing_is_taken(
    server: Server, migrated_database: Engine, auth: str | None
) -> None:
    """401, and the body is not read."""
    said = bip(server, notice(), auth=auth)
    assert (said.status, said.headers["content-type"]) == (401, "application/problem+json")
    assert said.headers["www-authenticate"] == 'Basic realm="ulak"'
    assert statuses(migrated_database) == {}


@pytest.mark.parametrize(
    "path", ["bip/none", "bip/toplu", "none/bip-1", "bip/bip-1/other", "vairo/bip-1", "iletimerkezi/toplu"]
)
def test_only_addresses_that_exist_are_there(server: Server, path: str) -> None:
    """404, whatever the login."""
    assert server.ask("POST", f"/callbacks/{path}", notice(), auth=LOGIN).status == 404


def test_only_listed_addresses_may_push(server: Server, migrated_database: Engine) -> None:
    """`allowed_ips`: the right login from elsewhere is refused."""
    option = '\n[account.options]\nallowed_ips = ["{}"]\n[[account]]\nid = "toplu"'
    for network, status in (("192.0.2.0/24", 401), ("127.0.0.0/8", 200)):
        apply_accounts(migrated_database, ACCOUNTS.replace('\n[[account]]\nid = "toplu"', option.format(network)))
        assert bip(server, notice()).status == status


def test_what_is_not_understood_is_kept_and_answered(server: Server, migrated_database: Engine) -> None:
    """Pushing it again would not help, so it counts as received; once, however often it comes."""
    for _ in range(3):
        assert bip(server, b"<html>").status == 200
        assert bip(server, {"type": "Z"}).status == 200
    with migrated_database.connect() as connection:
        kept = connection.execute(text("SELECT origin, times FROM quarantine")).all()
    assert [tuple(row) for row in kept] == [("callback:", 3), ("callback:", 3)]


def test_a_flood_is_refused(server: Server) -> None:
    """A body beyond the cap is not read to its end."""
    assert bip(server, b" " * (9 * 1024 * 1024)).status == 413


def test_what_could_not_be_stored_is_answered_with_503_and_taken_when_it_comes_again(tmp_path: Path) -> None:
    """PostgreSQL stops and comes back: nothing is said to be stored that is not."""
    tmp_path.chmod(0o755)
    database = PostgresServer(tmp_path / "home", order=("wheel", "system"), durable=True)
    engine = make_engine(database.start(), pool_size=4)
    try:
        migrate(engine)
        apply_accounts(engine)
        with serving(make_api(runtime_on(engine))) as server:
            assert bip(server, notice(0, "r-1")).status == 200
            database.stop()
            away = bip(server, notice(0, "r-2"))
            ready = server.ask("GET", "/readyz")
            database = PostgresServer(tmp_path / "home", order=("wheel", "system"), durable=True)
            database.start()
            assert (away.status, away.headers["content-type"]) == (503, "application/problem+json")
            assert (ready.status, server.ask("GET", "/healthz").status) == (503, 200)
            assert bip(server, notice(0, "r-2")).status == 200
        assert statuses(engine) == {"r-1": "delivered", "r-2": "delivered"}
    finally:
        engine.dispose()
        database.stop()


# --------------------------------------------------------------------------------------- iletimerkezi


def read_details(engine: Engine, *keys: str, whole: bool = True) -> None:
    """The order 501 as a poll leaves it: these recipients read, closed for now."""
    reports = [
        DeliveryReport(
            granularity=Granularity.MESSAGE,
            provider_key=key,
            parent_key="501",
            recipient=key.split(":")[1],
            status=Status.ENROUTE,
            provider_status="110",
        )
        for key in keys
    ]
    now = clock.now()
    with transaction(engine) as connection:
        upsert(connection, "toplu", "iletimerkezi", reports, asked_at=now)
        row = NewId(id_kind="order", value="501", sent_at=now, valid_until=now, next_check_at=now)
        discover(connection, "toplu", now, [row], [])
        connection.execute(
            text(
                "UPDATE tracked_ids SET next_check_at = NULL, closed_at = now(), close_reason = 'final',"
                " last_found_at = CASE WHEN :whole THEN now() END"
            ),
            {"whole": whole},
        )


def is_due(engine: Engine) -> list[bool]:
    """Of every tracked id whether it is open, due, and safe from an answer that was asked for before."""
    with engine.connect() as connection:
        return list(
            connection.execute(
                text(
                    "SELECT closed_at IS NULL AND next_check_at <= now() AND fetch_id IS NULL"
                    " AND (origin <> 'discovered' OR changed_as_of IS NOT NULL) FROM tracked_ids ORDER BY id"
                )
            ).scalars()
        )


def test_a_push_writes_where_the_order_holds_the_number_once(server: Server, migrated_database: Engine) -> None:
    """No poll is needed then; in any spelling of the number, and a late `accepted` takes nothing back."""
    read_details(migrated_database, "501:+905301234567:1", "501:+905301234568:1")
    assert [hook(server).status, hook(server, "accepted").status, hook(server, to="5301234567").status] == [200] * 3
    assert statuses(migrated_database, "toplu") == {
        "501:+905301234567:1": "delivered",
        "501:+905301234568:1": "enroute",
    }
    assert is_due(migrated_database) == [False]


@pytest.mark.parametrize(
    ("keys", "whole"),
    [
        (("501:+905301234567:1", "501:+905301234567:2"), True),
        (("501:+905301234567:1",), False),
        (("501:+905301234568:1",), True),
        ((), False),
    ],
    ids=["twice", "not read whole", "not there", "nothing read"],
)
def test_otherwise_nothing_is_guessed_and_the_order_is_due(
    server: Server, migrated_database: Engine, keys: tuple[str, ...], whole: bool
) -> None:
    """A closed order is open again, and asked for now."""
    read_details(migrated_database, *keys, whole=whole)
    assert hook(server, "undelivered").status == 200
    assert statuses(migrated_database, "toplu") == dict.fromkeys(keys, "enroute")
    assert is_due(migrated_database) == [True]


def test_an_order_that_nobody_knew_is_asked_for(server: Server, migrated_database: Engine) -> None:
    """The push came before the list was swept."""
    assert hook(server).status == 200
    assert (statuses(migrated_database, "toplu"), is_due(migrated_database)) == ({}, [True])


def test_push_before_or_after_the_poll_ends_in_the_same_row(
    server: Server, runtime: Runtime, migrated_database: Engine
) -> None:
    """Whatever comes first, the row is the same; a push adds the message's id; a poll that says otherwise is newer."""
    key, now = "501:+905301234567:1", clock.now()
    read_details(migrated_database, key)
    polled = DeliveryReport(
        granularity=Granularity.MESSAGE,
        provider_key=key,
        parent_key="501",
        recipient="+905301234567",
        status=Status.DELIVERED,
        provider_status="111",
    )
    rows = []
    for steps in (("push", "poll"), ("poll", "push"), ("push",), ("poll",)):
        for step in steps:
            if step == "push":
                hook(server)
            else:
                with transaction(migrated_database) as connection:
                    upsert(connection, "toplu", "iletimerkezi", [polled], asked_at=now)
        with transaction(migrated_database) as connection:
            rows.append(stored_rows(connection, "toplu"))
            connection.execute(text("DELETE FROM observations WHERE facts ->> 'status' = 'delivered'"))
            connection.execute(text("UPDATE delivery_status SET status = 'enroute', is_final = false"))
    assert [row[Granularity.MESSAGE, key].extra for row in rows] == [{"message_id": "9"}] * 3 + [{}]
    bare = [msgspec.structs.replace(row[Granularity.MESSAGE, key], extra={}) for row in rows]
    assert all(row == bare[0] for row in bare)
    hook(server)
    with transaction(migrated_database) as connection:
        failed = msgspec.structs.replace(polled, status=Status.UNDELIVERABLE, provider_status="112")
        upsert(connection, "toplu", "iletimerkezi", [failed], asked_at=now)
        [(status, conflict)] = connection.execute(text("SELECT status, conflict FROM delivery_status")).all()
    assert (status, conflict) == ("undeliverable", True)


@pytest.mark.parametrize("secret", ["", "/", "wrong", SECRET[:-1], SECRET + "/x", SECRET.upper(), "%73" + SECRET])
def test_a_wrong_secret_is_an_address_that_does_not_exist(
    server: Server, migrated_database: Engine, secret: str
) -> None:
    """404, as for an account that does not exist."""
    assert hook(server, secret=secret).status == 404
    assert count(migrated_database, "tracked_ids") == 0


def test_neither_text_nor_secret_nor_number_goes_where_it_should_not(
    server: Server, runtime: Runtime, migrated_database: Engine
) -> None:
    """The text is nowhere, not even sealed; the secret stands in no row and no line; a number in no line."""
    read_details(migrated_database, "501:+905301234567:1")
    with structlog.testing.capture_logs() as lines:
        hook(server)
        hook(server, "bounced")
        hook(server, secret=SECRET[1:])
        wrong = json.dumps({"report": {"packet_id": 501, "body": TEXT, "status": ""}}).encode()
        for body in (wrong, wrong[:-9], b"\xff" + TEXT.encode()):
            assert server.ask("POST", f"/callbacks/iletimerkezi/toplu/{SECRET}", body).status == 200
    from cryptography.fernet import Fernet

    box = Fernet(runtime.seal_key)
    with migrated_database.connect() as connection:
        sealed = [
            box.decrypt(raw).decode() for raw in connection.execute(text("SELECT sealed FROM quarantine")).scalars()
        ]
        tables = ("delivery_status", "observations", "quarantine", "tracked_ids", "accounts")
        rows = [str(connection.execute(text(f"SELECT t::text FROM {table} t")).all()) for table in tables]
    assert len(sealed) == 3
    assert {"callback.stored", "callback.wrong_address"} <= {line["event"] for line in lines}
    assert [word for word in ("Ayşe", "4711", "Ay\\u015f") if word in " ".join([*sealed, *rows, str(lines)])] == []
    assert SECRET[1:] not in " ".join([*sealed, *rows, str(lines)])
    assert "5301234567" not in str(lines)
