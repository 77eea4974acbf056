"""Pushes at the edge of what HTTP allows: addresses, codings, lengths, methods, and what people see then."""

import gzip
import json
import socket
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import structlog
from api_server import Server, serving
from command_line import Ulak, ulak
from cryptography.fernet import Fernet
from pydantic import SecretStr
from sqlalchemy import Engine, text
from stored_rows import stored_rows

from ulak.api.app import make_api
from ulak.api.pages.routes import add_pages
from ulak.core import clock
from ulak.core.settings import load_settings
from ulak.models.accounts import apply
from ulak.models.database import transaction
from ulak.models.overview import overview
from ulak.models.quarantine import new_key
from ulak.models.rejections import Rejection
from ulak.providers.accounts import parse_accounts
from ulak.providers.http import HttpDoor
from ulak.tasks.rejections import RejectionLog
from ulak.tasks.runtime import CredentialCache, Runtime
from ulak.tasks.steps.quarantine_retry import reread

__all__ = ["ulak"]

TOKEN = "canary-token-of-the-edges"
LOGIN = "ulak:geheim"
BASIC = {"Authorization": f"Basic {b64encode(LOGIN.encode()).decode()}"}
BEARER = {"Authorization": f"Bearer {TOKEN}"}
SECRET = "geheim/4711"
SECRETS = {"env:U": "ulak", "env:P": "geheim", "env:K": "k", "env:H": "h", "env:HOOK": SECRET, "env:V": "v"}
ACCOUNTS = """
[[account]]
id = "bip-1"
provider = "bip"
credentials = { callback_user = "env:U", callback_password = "env:P" }
[[account]]
id = "toplu"
provider = "iletimerkezi"
credentials = { key = "env:K", hash = "env:H", webhook_secret = "env:HOOK" }
[[account]]
id = "vairo-1"
provider = "vairo"
credentials = { api_key = "env:V" }
"""
NOTICE = {
    "sender": "905301234567",
    "type": "R",
    "sendtime": "18.05.2018 16:11:58.633 +0300",
    "txnid": "t-1",
    "report": {"reportid": "r-1", "reporttype": 0},
}
REPORT = {"txnid": "t-1", "resultcode": 0, "list": [{"receiver": "905301234567", "resultcode": 0, "reportid": "r-1"}]}
HOOK = {"report": {"id": 9, "packet_id": 501, "status": "delivered", "to": "+905301234567", "body": "kodunuz 4711"}}


@pytest.fixture
def runtime(migrated_database: Engine) -> Iterator[Runtime]:
    """The runtime of the HTTP process; a rejection is written at once, further ones when the test says so."""
    with transaction(migrated_database) as connection:
        apply(connection, parse_accounts(ACCOUNTS), prune=True)
    door = HttpDoor(max_connections=1, boot=clock.boot)
    yield Runtime(
        engine=migrated_database,
        door=door,
        seal_key=new_key(),
        credentials=CredentialCache(resolve=SECRETS.__getitem__),
        rejections=RejectionLog(every_seconds=3600),
    )
    door.close()


@pytest.fixture
def server(runtime: Runtime) -> Iterator[Server]:
    """The real application behind a real server."""
    with serving(make_api(runtime, token=TOKEN)) as server:
        yield server


@pytest.fixture
def push(server: Server) -> Callable[..., int]:
    """`push(path, body, **headers)`: the status of a POST with BiP's login."""

    def send(path: str, body: Any, **headers: str) -> int:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return server.client.post(path, content=content, headers={**BASIC, **named}).status_code

    return send


def rejected(engine: Engine, account: str = "bip-1") -> dict[str, int]:
    """What the overview says was rejected, by kind."""
    with engine.connect() as connection:
        [found] = overview(connection, account)
    return {str(each.kind): each.times for each in found.rejected}


def statuses(engine: Engine) -> dict[str, str]:
    """BiP's rows by their key."""
    with engine.connect() as connection:
        return {key: row.status for (_, key), row in stored_rows(connection, "bip-1").items()}


def kept(runtime: Runtime) -> list[tuple[str, bytes]]:
    """Reason and bytes of everything in quarantine."""
    with runtime.engine.connect() as connection:
        rows = connection.execute(text("SELECT reason, sealed FROM quarantine ORDER BY id")).all()
    return [(row.reason, Fernet(runtime.seal_key).decrypt(row.sealed)) for row in rows]


def raw(server: Server, head: str, *parts: bytes, close: bool = False) -> bytes:
    """What the server answers to these bytes; `close` ends our side before it can answer."""
    address = urlsplit(str(server.client.base_url))
    with socket.create_connection((str(address.hostname), address.port or 0), timeout=20) as client:
        login = f"Authorization: {BASIC['Authorization']}\r\nHost: ulak\r\n"
        client.sendall(f"{head}\r\n{login}\r\n".encode())
        heard = b""
        for part in parts:
            if part == b"?":
                heard += client.recv(65536)
            else:
                client.sendall(part)
        if close:
            client.shutdown(socket.SHUT_WR)
        while piece := client.recv(65536):
            heard += piece
        return heard


# ------------------------------------------------------------------------------------------ addresses


@pytest.mark.parametrize("path", ["bip/bip-1/", "bip/bip-1//", "/bip/bip-1", "bip//bip-1", "bip/bip-1/./"], ids=repr)
def test_a_slash_too_many_in_the_address_loses_no_notice(
    push: Callable[..., int], migrated_database: Engine, path: str
) -> None:
    """People write addresses into a provider's panel by hand."""
    assert push(f"/callbacks/{path}".replace("/./", "/"), NOTICE) == 200
    assert statuses(migrated_database) == {"r-1": "delivered"}


@pytest.mark.parametrize(
    "path", ["bip/bip-1//report", "bip/bip-1/report/", "bip//bip-1///report//", "/bip/bip-1/report"]
)
def test_a_slash_too_many_in_the_address_loses_no_send_report(
    push: Callable[..., int], migrated_database: Engine, path: str
) -> None:
    """BiP appends `/report` to the address that it was given, slash or no slash at its end."""
    assert push(f"/callbacks/{path}", REPORT) == 200
    assert statuses(migrated_database) == {"r-1": "enroute"}


@pytest.mark.parametrize(
    "path",
    ["bip/BIP-1", "BiP/Bip-1", "bip/bip-1%20", "bip/%20bip-1/%09", "bip/bip-1/%E2%80%8B", "bip/bip-1%C2%A0/%20/"],
)
@pytest.mark.parametrize("root", ["callbacks", "Callbacks"])
def test_what_a_person_cannot_see_or_means_the_same_loses_no_notice(
    push: Callable[..., int], migrated_database: Engine, root: str, path: str
) -> None:
    """Case, blanks and invisible marks, as they come with a pasted address."""
    assert push(f"/{root}/{path}", NOTICE) == 200
    assert push(f"/{root}/{path}/report%20", REPORT) == 200
    assert statuses(migrated_database) == {"r-1": "delivered"}


def test_a_secret_is_compared_in_its_case(push: Callable[..., int], migrated_database: Engine) -> None:
    """Only blanks around it do not count."""
    path = "/callbacks/IletiMerkezi/Toplu"
    given = ["geheim/4711%20", "GEHEIM/4711", "geheim%20/%204711", "gehe%20im/4711"]
    assert [push(f"{path}/{secret}", HOOK) for secret in given] == [200, 404, 200, 404]
    assert rejected(migrated_database, "toplu") == {"not_authorised": 1}


@pytest.mark.parametrize("secret", ["", "/", "//x"])
def test_a_secret_in_the_address_may_hold_slashes_and_be_followed_by_one(
    push: Callable[..., int], runtime: Runtime, migrated_database: Engine, secret: str
) -> None:
    """Neither the address nor the secret counts its empty parts; any other part still does."""
    runtime.credentials.resolve = {**SECRETS, "env:HOOK": f"/{SECRET}{secret}"}.__getitem__
    path = f"/callbacks/iletimerkezi/toplu/geheim//4711{secret.replace('//', '/')}"
    assert [push(path, HOOK), push(f"{path}/", HOOK), push(f"{path}/more", HOOK)] == [200, 200, 404]
    assert rejected(migrated_database, "toplu") == {"not_authorised": 1}


def test_an_empty_secret_lets_nobody_in(push: Callable[..., int], runtime: Runtime) -> None:
    """Of a secret that is nothing but slashes nothing is left."""
    runtime.credentials.resolve = {**SECRETS, "env:HOOK": "//"}.__getitem__
    assert [push(f"/callbacks/iletimerkezi/toplu{tail}", HOOK) for tail in ("", "/", "//", "///")] == [404] * 4


# ---------------------------------------------------------------------------------- what people see


def test_whatever_is_rejected_for_a_known_account_is_counted(
    push: Callable[..., int], server: Server, migrated_database: Engine
) -> None:
    """Each reason on its own, so that a stranger's requests hide nothing; of unknown accounts nothing is kept."""
    assert push("/callbacks/bip/bip-1/reports", REPORT) == 404
    assert push("/callbacks/vairo/bip-1", REPORT) == 404
    assert push("/callbacks/vairo/vairo-1", REPORT) == 404
    assert push("/callbacks/bip/nobody/report", REPORT) == 404
    assert push("/callbacks/bip/bip-1", NOTICE, Authorization="Basic eDp5") == 401
    assert push("/callbacks/bip/bip-1", b" " * (9 * 1024 * 1024)) == 413
    assert push("/callbacks/bip/bip-1", NOTICE, Content_Encoding="br") == 415
    assert push("/callbacks/bip/bip-1", NOTICE, Content_Encoding="gzip") == 422
    assert push("/callbacks/iletimerkezi/toplu/wrong", HOOK) == 404
    for account, status in (("vairo-1", 422), ("nobody", 404)):
        answer = server.client.post(f"/v1/reports/{account}", content=b"{}", headers=BEARER)
        assert answer.status_code == status
    assert server.client.post("/v1/reports/bip-1", content=b" ", headers=BEARER).status_code == 422
    assert server.client.post("/v1/reports/bip-1", content=b" " * (9 * 1024 * 1024), headers=BEARER).status_code == 413
    server.client.post("/v1/reports/bip-1", content=b" ", headers={"Authorization": "Bearer no"})
    waiting = server.client.get("/callbacks/bip/bip-1").status_code
    assert waiting == 405
    with migrated_database.connect() as connection:
        count = connection.execute(text("SELECT count(DISTINCT account_id) FROM rejections")).scalar_one()
    assert count == 3
    assert set(rejected(migrated_database)) == {
        "no_such_address",
        "not_authorised",
        "too_large",
        "unsupported_coding",
        "not_unpacked",
        "not_taken",
        "wrong_method",
    }
    assert rejected(migrated_database, "vairo-1") == {"no_such_address": 1, "not_taken": 1}
    assert rejected(migrated_database, "toplu") == {"not_authorised": 1}


def test_a_scanner_cannot_make_us_write(push: Callable[..., int], runtime: Runtime, migrated_database: Engine) -> None:
    """The first rejection of a kind is written at once, further ones together; none is forgotten."""
    assert [push("/callbacks/bip/bip-1/scan", b"{}") for _ in range(30)] == [404] * 30
    assert [push(f"/callbacks/bip/nobody-{each}", b"{}") for each in range(5)] == [404] * 5
    assert rejected(migrated_database) == {"no_such_address": 1}
    assert len(runtime.rejections._written) == 1  # names of accounts that do not exist are not kept
    runtime.rejections.flush(migrated_database)
    assert rejected(migrated_database) == {"no_such_address": 30}


def test_what_waits_is_written_without_a_further_request(runtime: Runtime, migrated_database: Engine) -> None:
    """A flood that has ended is counted whole after a while."""
    counting = RejectionLog(every_seconds=0.2)
    for _ in range(7):
        counting.note(migrated_database, "bip-1", Rejection.NOT_AUTHORISED)
    deadline = clock.boot() + 20
    while rejected(migrated_database) != {"not_authorised": 7} and clock.boot() < deadline:
        clock.sleep(0.02)
    assert rejected(migrated_database) == {"not_authorised": 7}


def test_an_old_kind_is_no_longer_shown_and_counts_anew(runtime: Runtime, migrated_database: Engine) -> None:
    """What was put right last month is no news."""
    counting = RejectionLog(every_seconds=0)
    for times in (3, 1):
        for _ in range(times):
            counting.note(migrated_database, "bip-1", Rejection.NOT_AUTHORISED)
        assert rejected(migrated_database) == {"not_authorised": times}
        with transaction(migrated_database) as connection:
            connection.execute(text("UPDATE rejections SET last_at = now() - interval '8 days'"))
        assert rejected(migrated_database) == {}


def test_status_and_the_status_page_show_what_was_rejected(
    runtime: Runtime, migrated_database: Engine, ulak: Ulak
) -> None:
    """Time, reason and count, at the account; nothing of the request."""
    settings = load_settings().model_copy(update={"api_token": SecretStr(TOKEN)})
    app = make_api(runtime, token=TOKEN)
    add_pages(app, runtime, settings)
    sentence = "404: the account has no callback at this address"
    with serving(app) as server, structlog.testing.capture_logs() as lines:
        for _ in range(3):
            assert server.ask("POST", "/callbacks/bip/bip-1/c4n4ry", b"{}", auth=LOGIN).status == 404
        runtime.rejections.flush(migrated_database)
        client = server.client
        mark = client.get("/").text.partition('name="form_mark" value="')[2].partition('"')[0]
        client.post("/login", data={"form_mark": mark, "token": TOKEN, "next": "/"})
        page = client.get("/accounts/bip-1").text
        told = client.get("/v1/accounts", headers=BEARER).json()["accounts"][0]["rejected"]
    ran = ulak("status", "bip-1")
    [document] = json.loads(ulak("status", "bip-1", "--json").out)["accounts"]
    assert f"{sentence} (3 times, last" in page.replace("&#39;", "'")
    assert "3 requests rejected (" in ran.out
    assert f"ago: {sentence}" in ran.err
    assert document["rejected"] == told
    assert [(each["kind"], each["times"], each["sentence"]) for each in told] == [("no_such_address", 3, sentence)]
    assert "callback.rejected" in {line["event"] for line in lines}
    assert "c4n4ry" not in page + ran.out + ran.err + str(told) + str(lines)


def test_a_rejection_leaves_the_accounts_trouble_alone(push: Callable[..., int], migrated_database: Engine) -> None:
    """What a stranger can cause overwrites nothing that an operator needs."""
    with transaction(migrated_database) as connection:
        connection.execute(text("UPDATE accounts SET last_trouble = 'PauseAccount: key', last_trouble_at = now()"))
    assert push("/callbacks/bip/bip-1", NOTICE, Authorization="Basic eDp5") == 401
    with migrated_database.connect() as connection:
        assert overview(connection, "bip-1")[0].last_trouble == "PauseAccount: key"


def test_a_credential_that_the_api_cannot_read_is_seen(
    push: Callable[..., int], runtime: Runtime, migrated_database: Engine
) -> None:
    """Every push fails with 503 then, and BiP repeats none."""
    from ulak.core.credentials import CredentialError

    def missing(reference: str) -> str:
        raise CredentialError(reference)

    runtime.credentials.resolve = missing
    assert push("/callbacks/bip/bip-1", NOTICE) == 503
    assert rejected(migrated_database) == {"credential_missing": 1}


# -------------------------------------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    ("declared", "pack"),
    [
        ("gzip", gzip.compress),
        ("X-GZIP", gzip.compress),
        ("gzip", lambda body: gzip.compress(body[:20]) + gzip.compress(body[20:])),
        ("deflate", zlib.compress),
        ("deflate", lambda body: zlib.compress(body)[2:-4]),
        ("gzip, gzip", lambda body: gzip.compress(gzip.compress(body))),
        ("identity", bytes),
    ],
)
def test_a_packed_push_is_unpacked(
    push: Callable[..., int], migrated_database: Engine, declared: str, pack: Callable[[bytes], bytes]
) -> None:
    """As a proxy or a newer version of the sender may pack it."""
    assert push("/callbacks/bip/bip-1/report", pack(json.dumps(REPORT).encode()), Content_Encoding=declared) == 200
    assert statuses(migrated_database) == {"r-1": "enroute"}


@pytest.mark.parametrize(
    "refused",
    [
        ("br", b"\x0b\x02", 415, "The body is packed as br; only gzip and deflate are supported."),
        ("c4n4ry", b"{}", 415, "The body is packed in an unknown way; only gzip and deflate are supported."),
        ("gzip", b"{}", 422, "The body says that it is packed, but it is not."),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-4], 422, "The packed body broke off."),
        (
            "gzip",
            gzip.compress(b"{}", mtime=0) + b"{}",
            422,
            "The packed body is followed by bytes that do not belong to it.",
        ),
        ("gzip", gzip.compress(bytes(9_000_000), mtime=0), 413, "The body is larger than 8388608 bytes."),
    ],
    ids=["br", "unknown", "not packed", "cut off", "followed", "bomb"],
)
@pytest.mark.parametrize("path", ["/callbacks/bip/bip-1", "/v1/reports/bip-1"])
def test_a_push_that_cannot_be_unpacked_is_refused_and_kept(
    server: Server, runtime: Runtime, path: str, refused: tuple[str, bytes, int, str]
) -> None:
    """BiP does not repeat: what was refused can still be looked into."""
    declared, body, status, reason = refused
    login = BEARER if path.startswith("/v1") else BASIC
    answer = server.client.post(path, content=body, headers={**login, "Content-Encoding": declared})
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["detail"] == reason
    assert answer.headers.get("accept-encoding") == ("gzip, deflate" if status == 415 else None)
    assert kept(runtime) == [(reason, body)]


def test_a_packed_push_with_the_text_of_a_message_keeps_no_text(push: Callable[..., int], runtime: Runtime) -> None:
    """It is dropped on receipt, from a packed body too; of one that cannot be unpacked nothing is kept."""
    packed = gzip.compress(json.dumps(HOOK).encode())
    path = "/callbacks/iletimerkezi/toplu/geheim/4711"
    assert push(path, packed, Content_Encoding="gzip") == 200
    assert push(path, packed[:-8], Content_Encoding="gzip") == 422
    assert kept(runtime) == [("The packed body broke off.", b"")]


def test_what_is_kept_packed_is_read_as_soon_as_it_can_be(
    push: Callable[..., int], runtime: Runtime, migrated_database: Engine
) -> None:
    """The coding is kept with the bytes, so a version that can unpack them reads them."""
    assert push("/callbacks/bip/bip-1/report", json.dumps(REPORT).encode(), Content_Encoding="br") == 415
    with transaction(migrated_database) as connection:
        entry = connection.execute(text("SELECT id FROM quarantine")).scalar_one()
    told = reread(runtime, entry)
    assert told is not None
    assert (told.understood, told.why) == (False, "The body is packed as br; only gzip and deflate are supported.")
    with transaction(migrated_database) as connection:
        sealed = Fernet(runtime.seal_key).encrypt(gzip.compress(json.dumps(REPORT).encode()))
        connection.execute(
            text("UPDATE quarantine SET sealed = :sealed, context = jsonb_set(context, '{headers}', :headers)"),
            {"sealed": sealed, "headers": '{"content-encoding": "gzip"}'},
        )
    told = reread(runtime, entry)
    assert told is not None
    assert told.understood
    assert statuses(migrated_database) == {"r-1": "enroute"}


@pytest.mark.parametrize("path", ["/v1/tracked", "/v1/polls"])
def test_every_packed_body_of_the_api_is_unpacked_or_refused(server: Server, path: str) -> None:
    """The same answers at all addresses, whatever the body is about."""
    ids = [{"kind": "number", "value": "7:905301234567"}]
    wish = {"account": "vairo-1", **({"ids": ids} if path == "/v1/tracked" else {})}
    plain = json.dumps(wish).encode()
    headers = {**BEARER, "Idempotency-Key": "one"}
    answers = [
        server.client.post(path, content=body, headers={**headers, "Content-Encoding": coding}).status_code
        for coding, body in (
            ("gzip", gzip.compress(plain)),
            ("br", plain),
            ("gzip", plain),
            ("gzip", gzip.compress(bytes(40_000_000))),
        )
    ]
    assert answers[0] in {200, 202}
    assert answers[1:] == [415, 422, 413]


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/json; charset=utf-8", ""],
)
def test_the_type_of_a_body_is_not_asked_for(
    push: Callable[..., int], migrated_database: Engine, content_type: str
) -> None:
    """JSON it is, whatever it is called; a byte order mark before it does no harm."""
    body = b"\xef\xbb\xbf" + json.dumps(REPORT).encode()
    assert push("/callbacks/bip/bip-1/report", body, Content_Type=content_type) == 200
    assert statuses(migrated_database) == {"r-1": "enroute"}


def test_a_push_without_a_length_is_taken(server: Server, migrated_database: Engine) -> None:
    """Chunks, as senders that stream have it; those that are too many are refused as they come."""
    parts = [b"%x\r\n%s\r\n" % (len(part), part) for part in (b'{"txnid": "t-1", ', json.dumps(REPORT).encode()[1:])]
    head = "POST /callbacks/bip/bip-1/report HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close"
    assert raw(server, head, *parts, b"0\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    assert statuses(migrated_database) == {"r-1": "enroute"}


def test_a_sender_that_waits_for_leave_gets_it(server: Server, migrated_database: Engine) -> None:
    """`Expect: 100-continue`, as curl has it with every larger body."""
    body = json.dumps(REPORT).encode()
    head = (
        "POST /callbacks/bip/bip-1/report HTTP/1.1\r\nExpect: 100-continue\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}"
    )
    heard = raw(server, head, b"?", body)
    assert heard.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert b"HTTP/1.1 200 " in heard
    assert statuses(migrated_database) == {"r-1": "enroute"}


def test_a_push_that_ends_before_its_length_is_not_taken_and_is_seen(server: Server, migrated_database: Engine) -> None:
    """Half a body may be whole JSON by chance; what was announced and did not come is not guessed."""
    body = json.dumps(REPORT).encode()
    head = f"POST /callbacks/bip/bip-1/report HTTP/1.1\r\nContent-Length: {len(body) + 9}"
    assert raw(server, head, body, close=True) == b""
    deadline = clock.boot() + 20
    while not rejected(migrated_database) and clock.boot() < deadline:
        clock.sleep(0.02)
    assert (rejected(migrated_database), statuses(migrated_database)) == ({"broken_off": 1}, {})


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("tail", ["", "/report", "//report/"])
def test_another_method_is_refused_and_seen(server: Server, migrated_database: Engine, method: str, tail: str) -> None:
    """A panel may be set to send its pushes by GET, or try the address in this way."""
    answer = server.client.request(method, f"/callbacks/bip/bip-1{tail}", headers=BASIC)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert rejected(migrated_database) == {"wrong_method": 1}
