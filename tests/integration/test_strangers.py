"""What a stranger may try at the API: every spelling of an address, forms, hosts, and bytes that are no HTTP.

The counts are those of the security review, or more.
"""

import itertools
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

import httpx
import pytest
from database_fixtures import add_account
from pydantic import SecretStr
from sqlalchemy import Engine, text
from task_api import running, runtime_on
from test_cli_deliveries import NOON, report
from test_sessions import _one_secret, as_header, cookies_of, log_in, mark_in

from ulak.api.app import make_api
from ulak.api.pages.routes import add_pages
from ulak.core.settings import load_settings
from ulak.models.database import transaction
from ulak.models.deliveries import upsert
from ulak.models.tokens import create_token, revoke_token
from ulak.models.vocabulary import Status

__all__ = ["_one_secret"]

pytestmark = pytest.mark.timeout(600)

TOKEN = "canary-token-of-the-page"
NUMBER, REF = "+905301234567", "canary-siparis"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
GUARDED = [
    "/v1", "/v1/", "/v1/accounts", "/v1/accounts/", "//v1/accounts", "/v1//accounts", "/%76%31/accounts",
    "/v1%2faccounts",
    "/v1/accounts%2f", "/V1/accounts", "/v1/./accounts", "/x/../v1/accounts", "/v1/../v1/accounts", "/v1;x/accounts",
    "/v1/accounts;x", "/v1\\accounts", "\\v1\\accounts", "/v1/accounts?x=/docs", "/v1/accounts#x", "/v1/deliveries",
    "/v1/deliveries/1", "/v1/changes", "/v1/polls", "/v1/polls/1", "/v1/tracked", "/v1/reports/kampanya",
    "/v1/accounts/kampanya/pause", "/docs/../v1/accounts", "/static/../v1/accounts", "/healthz/../v1/accounts",
    "/v1/accounts%00", "/deliveries/1", "/deliveries", "/accounts/kampanya", "/polls", "/?fragment",
    "/../../etc/passwd",
    "http://127.0.0.1/v1/accounts", "/v1/accounts/.", "/v1/%2e%2e/v1/accounts", "/callbacks/../v1/accounts",
    "/v1/\u00e7",
]  # fmt: skip


@dataclass
class Site:
    """A running API with pages, and what tells what it holds."""

    url: str
    client: httpx.Client

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = httpx.URL(self.url)
        return parts.host, parts.port or 80

    def raw(self, sent: bytes, *, wait: float = 20.0) -> bytes:
        """What comes back on one connection until it is closed, or says nothing more."""
        with socket.create_connection(self.address, timeout=wait) as connection:
            connection.sendall(sent)
            parts: list[bytes] = []
            try:
                while part := connection.recv(65536):
                    parts.append(part)
            except (TimeoutError, ConnectionResetError):
                pass
        return b"".join(parts)

    def status(self, sent: bytes) -> int:
        """The status of the answer; 0 where the connection was only closed."""
        found = re.match(rb"HTTP/1\.\d (\d{3})", self.raw(sent))
        return int(found[1]) if found else 0


@pytest.fixture
def site(migrated_database: Engine) -> Iterator[Site]:
    """One account with one delivery."""
    with transaction(migrated_database) as connection:
        add_account(connection, "kampanya")
        stored = [report("m-1", Status.DELIVERED, recipient=NUMBER, client_ref=REF)]
        upsert(connection, "kampanya", "vairo", stored, asked_at=NOON)
    settings = load_settings().model_copy(update={"api_token": SecretStr(TOKEN)})
    runtime = runtime_on(migrated_database)
    app = make_api(runtime, token=TOKEN, settings=settings)
    add_pages(app, runtime, settings)
    # Who guesses more often than that is told so with 429, which is tested elsewhere.
    app.state.deps.failed.most = 100_000
    with running(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield Site(url, client)
    runtime.door.close()


def test_no_spelling_of_an_address_shows_a_stranger_anything(site: Site) -> None:
    """8 methods at 42 addresses: whatever is answered with 200 is the form to log in or public, and names nobody."""
    seen: dict[int, int] = {}
    for method, path in itertools.product(METHODS, GUARDED):
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        answer = site.raw(head.encode("utf-8"))
        status = int(answer[9:12]) if answer.startswith(b"HTTP/1.") else 0
        seen[status] = seen.get(status, 0) + 1
        assert status < 500 or status == 501, (method, path, answer[:200])
        for canary in (NUMBER[1:], REF, "m-1"):
            assert canary.encode() not in answer, (method, path)
        assert b"kampanya" not in answer.replace(path.encode(), b"").replace(b'value="/accounts/kampanya"', b""), (
            method,
            path,
        )
        if path.lower().startswith("/v1/") and ".." not in path and status:
            assert status in {400, 401, 404, 405}, (method, path, status)
    assert sum(seen.values()) == 8 * 42


def test_only_a_bearers_own_token_opens_the_api(site: Site, migrated_database: Engine) -> None:
    """Each wrong form is 401; a revoked token at once; the right one in any case of `Bearer`."""
    with transaction(migrated_database) as connection:
        named, revoked = create_token(connection, "destek"), create_token(connection, "eski")
        revoke_token(connection, "eski")
    wrong = [
        "", "Bearer", "Bearer ", f"Basic {TOKEN}", TOKEN, f"Token {TOKEN}", f"Bearer{TOKEN}", f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x", f"Bearer {TOKEN.upper()}", f"Bearer {TOKEN} x", f"Bearer x {TOKEN}", f"Bearer \x00{TOKEN}",
        f"Bearer {revoked}", f"Bearer {named[:-1]}", f"Bearer {named}x", "Bearer ulak_" + "a" * 43, "Bearer null",
        f"Bearer '{TOKEN}'", "Bearer %", "Bearer ' OR 1=1 --", f"Bearer {'a' * 5000}", f"Bearer,{TOKEN}",
    ]  # fmt: skip
    for given in wrong:
        head = f"GET /v1/accounts HTTP/1.1\r\nHost: x\r\nAuthorization: {given}\r\nConnection: close\r\n\r\n"
        assert site.status(head.encode()) in {400, 401}, given
    right = [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER   {TOKEN}", f"Bearer {named}"]
    for given in right:
        assert site.client.get("/v1/accounts", headers={"authorization": given}).status_code == 200, given
    for place in ("?token=", "?access_token=", "?authorization=Bearer%20"):
        assert site.client.get(f"/v1/accounts{place}{TOKEN}").status_code == 401
    assert (
        site.client.get("/v1/accounts", headers={"cookie": f"token={TOKEN}; ulak_session={TOKEN}"}).status_code == 401
    )


HOST = b"Host: x\r\n"
CLOSE = b"Connection: close\r\n\r\n"
ODD = [
    b"\r\n", b"\x00", b"GET", b"GET /\r\n\r\n", b"GET / HTTP/0.9\r\n\r\n", b"GET / HTTP/2.0\r\n" + HOST + CLOSE,
    b"GET / HTTP/9.9\r\n" + HOST + CLOSE, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\n" + HOST + CLOSE, b"GET / HTTP/1.1\r\n" + HOST + HOST + CLOSE,
    b"GET /\x00 HTTP/1.1\r\n" + HOST + CLOSE, b"GET /\x7f\xff HTTP/1.1\r\n" + HOST + CLOSE,
    b"GET  / HTTP/1.1\r\n" + HOST + CLOSE, b"get / HTTP/1.1\r\n" + HOST + CLOSE,
    b"G\x00T / HTTP/1.1\r\n" + HOST + CLOSE,
    b"A" * 5000 + b" / HTTP/1.1\r\n" + HOST + CLOSE, b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n" + HOST + CLOSE,
    b"GET /?" + b"&".join(b"a=%d" % n for n in range(9000)) + b" HTTP/1.1\r\n" + HOST + CLOSE,
    b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 1_000_000 + b"\r\n" + CLOSE,
    b"GET / HTTP/1.1\r\n" + HOST + b"".join(b"X-%d: y\r\n" % n for n in range(10_000)) + CLOSE,
    b"GET / HTTP/1.1\r\n" + HOST + b"X : y\r\n" + CLOSE, b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n" + CLOSE,
    b"GET / HTTP/1.1\r\n" + HOST + b": y\r\n" + CLOSE, b"GET / HTTP/1.1\r\n" + HOST + b"X\x00: y\r\n" + CLOSE,
    b"GET / HTTP/1.1\r\n" + HOST + b"X: \x00\r\n" + CLOSE, b"GET / HTTP/1.1\r\n" + HOST + b"X: \xff\xfe\r\n" + CLOSE,
    *(b"POST /v1/polls HTTP/1.1\r\n" + HOST + line + b"\r\n" + CLOSE + b"{}" for line in (
        b"Content-Length: -1", b"Content-Length: 1e3", b"Content-Length: 0x10", b"Content-Length: +2",
        b"Content-Length: 2\r\nContent-Length: 3", b"Content-Length: 2, 2", b"Content-Length: " + b"9" * 400,
        b"Content-Length: 99999999999999999999", b"Content-Length: ", b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 2", b"Transfer-Encoding: x",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: \x0bchunked", b"Content-Encoding: gzip", b"Expect: 200-ok",
        b"Upgrade: h2c\r\nHTTP2-Settings: x",
        b"Upgrade: websocket\r\nSec-WebSocket-Key: x", b"Range: bytes=0-,9-1,-5", b"Content-Type: \x00",
    )),
    b"POST /v1/polls HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nx",
    b"POST /v1/polls HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nx",
    b"OPTIONS * HTTP/1.1\r\n" + HOST + CLOSE,
    b"CONNECT example.com:443 HTTP/1.1\r\n" + HOST + CLOSE,
    b"GET http://evil.example/v1/accounts HTTP/1.1\r\n" + HOST + CLOSE,
    b"GET /v1/accounts HTTP/1.1\r\n" + HOST + b"X-Original-URL: /docs\r\nX-Rewrite-URL: /docs\r\n" + CLOSE,
]  # fmt: skip


def test_bytes_that_are_no_request_end_in_a_refusal(site: Site) -> None:
    """53 forms: no 5xx of ours, nothing shown, and the API answers the next one."""
    assert len(ODD) >= 50
    for sent in ODD:
        answer = site.raw(sent, wait=1.0)
        assert not re.match(rb"HTTP/1\.\d 5(?!01)", answer), (sent[:120], answer[:200])
        assert b"kampanya" not in answer
        assert b"Traceback" not in answer
        assert site.client.get("/healthz").status_code == 200, sent[:120]


@pytest.mark.parametrize(
    "path",
    [
        "/static/../visits.py", "/static/..%2fvisits.py", "/static/%2e%2e/visits.py", "/static/....//visits.py",
        "/static//etc/passwd", "/static/%00", "/static/page.css%00.py", "/static/" + "a" * 5000,
        "/static/..\\visits.py",
        "/static/%5c..%5cvisits.py", "/docs/../visits.py", "/docs/swagger.py", "/docs/%2e%2e%2fswagger.py", "/static/",
    ],
)  # fmt: skip
def test_a_static_address_leads_to_no_other_file(site: Site, path: str) -> None:
    """Only what lies in the folder, by its name."""
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    answer = site.raw(head.encode())
    assert answer[9:12] in {b"404", b"400"}, answer[:100]
    assert b"import " not in answer


FORMS = [
    ("/logout", {}), ("/language", {"language": "tr"}), ("/deliveries", {"account": "kampanya"}),
    ("/accounts/kampanya/poll", {"once": "x"}), ("/accounts/kampanya/pause", {"reason": "x"}),
    ("/accounts/kampanya/resume", {}), ("/accounts/kampanya/retry", {}), ("/login", {"token": TOKEN}),
]  # fmt: skip


def test_no_form_is_taken_with_another_mark_than_its_own(site: Site, migrated_database: Engine) -> None:
    """8 forms with 9 marks each: 403, whatever session comes with it, and nothing is changed."""
    session, other = log_in(site.client), log_in(site.client)
    theirs = mark_in(site.client.get("/", headers=as_header(other)))
    anonymous = mark_in(site.client.get("/"))
    site.client.cookies.clear()
    mine = mark_in(site.client.get("/", headers=as_header(session)))
    marks = [None, "", "x", theirs, anonymous, mine[:-4], mine[::-1], next(iter(session.values())), "ğ" * 40]
    for path, fields in FORMS:
        for mark in marks:
            data = fields if mark is None else {**fields, "form_mark": mark}
            answer = site.client.post(path, data=data, headers=as_header(session))
            site.client.cookies.clear()
            assert answer.status_code == 403, (path, mark)
    with migrated_database.connect() as connection:
        changed = "SELECT (SELECT count(*) FROM polls) + (SELECT count(*) FROM ended_sessions)"
        paused = " + (SELECT count(*) FROM accounts WHERE paused_until IS NOT NULL)"
        assert connection.execute(text(changed + paused)).scalar_one() == 0
    assert site.client.get("/?fragment", headers=as_header(session)).status_code == 200


@pytest.mark.parametrize(
    "wanted",
    [
        "//evil.example", "///evil.example", "////evil.example", "https://evil.example", "http:evil.example",
        "/\\evil.example",
        "\\\\evil.example", "/\t/evil.example", "/\n/evil", "/\r\nLocation: //evil", "javascript:alert(1)",
        "evil.example",
        " //evil.example", "/%09/evil.example\u2028", "data:text/html,x", "//evil.example@127.0.0.1", "/\u202e/evil",
    ],
)  # fmt: skip
def test_a_log_in_leads_nowhere_else(site: Site, wanted: str) -> None:
    """The destination comes from the address, so anybody may write it."""
    page = site.client.get("/")
    data = {"form_mark": mark_in(page), "token": TOKEN, "next": wanted}
    answer = site.client.post("/login", data=data, headers=as_header(cookies_of(page)))
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


@pytest.mark.parametrize("path", ["/metrics", "/openapi.json", "/docs", "/docs/manual.js"])
def test_a_name_that_leads_here_by_rebinding_reads_nothing(site: Site, path: str) -> None:
    """Only an address, this host's own names and the public one; probes and callbacks do not ask for a name."""
    for host in (
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.example:8000",
        "",
        "[",
        "a b",
    ):
        sent = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        answer = site.raw(sent.encode())
        assert answer[9:12] in {b"421", b"400"}, (host, answer[:60])
        assert b"kampanya" not in answer
    for host in ("127.0.0.1", "127.0.0.1:8000", "localhost:8000", "[::1]:8000", "ulak.localhost", "10.0.0.7"):
        assert site.client.get(path, headers={"host": host}).status_code == 200, host
    assert site.client.get("/healthz", headers={"host": "evil.example"}).status_code == 200


def test_the_public_name_reads_them(migrated_database: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy on this host may pass on the name that it was asked for."""
    monkeypatch.setenv("ULAK_PUBLIC_URL", "https://ulak.firma.example")
    runtime = runtime_on(migrated_database)
    with running(make_api(runtime, token=TOKEN, settings=load_settings())) as url:
        assert httpx.get(f"{url}/metrics", headers={"host": "ulak.firma.example"}).status_code == 200
        assert httpx.get(f"{url}/metrics", headers={"host": "evil.example"}).status_code == 421
    runtime.door.close()


@pytest.mark.parametrize(
    "path", ["/v1/accounts", "/v1/deliveries", "/v1/changes", "/v1/polls", "/v1/deliveries/1", "/v1/nothing",
    "/nothing",
             "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/", "/callbacks/bip/x"]
)  # fmt: skip
def test_no_answer_is_kept_or_guessed_at(site: Site, path: str) -> None:
    """Answers hold people's numbers: no cache on the way, none on disk, and no browser takes JSON for a page."""
    for headers in ({"authorization": f"Bearer {TOKEN}"}, {}):
        answer = site.client.get(path, headers=headers)
        said = (answer.headers.get("cache-control"), answer.headers.get("x-content-type-options"))
        assert said == ("no-store", "nosniff"), path


def test_files_that_name_their_content_are_kept(site: Site) -> None:
    """A page's files by their hash; nothing of them is anybody's."""
    page = site.client.get("/").text
    addresses = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
    assert len(addresses) >= 3
    for address in addresses:
        assert site.client.get(address).headers["cache-control"] == "public, max-age=31536000, immutable"


# --------------------------------------------------------------------------------------------- hostile bodies

DEEP = "[" * 100_000 + "]" * 100_000
VALUES: list[str] = [
    "null", "true", "0", "-1", "1.5", '""', '"x"', "[]", "{}", "[[]]", "[{}]", "NaN", "Infinity", "-Infinity",
    "1e999", "1" * 10_000,
    "-0", '"\\u0000"', '"\\ud800"', '"\\udfff\\ud800"', '"\\u202e"', '"' + "a" * 5000 + '"', DEEP,
    '{"a":' * 5000 + "1" + "}" * 5000,
    '"0000-01-01"', '"9999-12-31"', '"2038-01-19T03:14:08Z"', '"2016-12-31T23:59:60Z"', '"-0001-01-01"',
    '"2026-02-30"',
    '"2026-05-01T12:00:00+25:00"', '"2026-05-01T12:00:00"', '"\' OR 1=1 --"', '"$(id)"', '"{{7*7}}"',
    '"../../etc/passwd"',
    '"<!DOCTYPE x [<!ENTITY a SYSTEM \\"file:///etc/passwd\\">]>"', '["a","b"]', '{"$ne":1}', '{"__proto__":{}}',
    "9223372036854775808",
]  # fmt: skip
FIELDS = {
    "/v1/polls": ("account", "from", "to", "ids"),
    "/v1/tracked": ("account", "ids", "kind", "value", "recipient", "expected", "sent_at", "valid_until", "client_ref"),
    "/v1/accounts/kampanya/pause": ("reason", "until", "why"),
}
WHOLE: list[bytes] = [
    b"", b" ", b"\xff\xfe{\x00}\x00", b"\xef\xbb\xbf{}", b"\x80", b"{", b"}", b"{}{}", b"{'a':1}",
    b'{"a":1,"a":2}', b'{"account":1,}',
    b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><x>&a;</x>", b"a=b&c=d",
    b"\x00" * 100,
    "{}".encode("utf-16"), "{}".encode("utf-32"), DEEP.encode(), b'"' + b"\\" * 5000, b"-", b"1" * 20_000, b"[1e400]",
]  # fmt: skip
TYPES = (
    "application/json",
    "text/plain",
    "application/xml",
    "multipart/form-data; boundary=x",
    "application/json; charset=utf-16",
    "\x01",
)


def bodies() -> Iterator[tuple[str, bytes, str]]:
    """Addresses, bodies and their types."""
    paths = (*FIELDS, "/v1/reports/kampanya", "/v1/accounts/kampanya/resume")
    for path, body, kind in itertools.product(paths, WHOLE, TYPES[:4]):
        yield path, body, kind
    for path, body in itertools.product(paths, VALUES):
        yield path, body.encode(), TYPES[0]
    for path, fields in FIELDS.items():
        for field, value in itertools.product(fields, VALUES):
            right = "" if field == "account" else '"account": "kampanya", '
            yield path, f'{{{right}"{field}": {value}}}'.encode(), TYPES[0]
            if path == "/v1/tracked" and field not in {"account", "ids"}:
                item = f'{{"kind": "number", "value": "771:5301234567", "{field}": {value}}}'
                yield path, f'{{"account": "kampanya", "ids": [{item}]}}'.encode(), TYPES[4]


def test_no_body_makes_a_fault_of_ours(site: Site) -> None:
    """Depth, integers, surrogates, duplicate keys, wrong types and charsets, XML, years, by every route: no 5xx."""
    headers = {"authorization": f"Bearer {TOKEN}"}
    many = 0
    for path, body, kind in bodies():
        answer = site.client.post(path, content=body, headers={**headers, "content-type": kind})
        many += 1
        assert answer.status_code < 500, (path, body[:200], kind, answer.text[:300])
        assert "Traceback" not in answer.text
    assert many >= 1300, many


ODD_WORDS = ("%00", "\x00", "ğ", "\u202e", "a,b", "'", '"', "\\", "%", "-" * 300, "٣", "1_0", " 1 ")
IN_PATHS = ("/v1/deliveries/{}", "/v1/polls/{}", "/v1/accounts/{}", "/callbacks/bip/{}")
PARAMETERS: dict[str, tuple[str, ...]] = {
    "/v1/deliveries": ("account", "status", "recipient", "client_ref", "cursor", "limit"),
    "/v1/changes": ("cursor", "limit", "account"),
    "/v1/polls": ("account", "state", "task", "cursor", "limit"),
    "/v1/accounts": ("cursor", "x"),
}


def test_no_parameter_makes_a_fault_of_ours(site: Site) -> None:
    """The same values in every parameter, cursor and path."""
    headers = {"authorization": f"Bearer {TOKEN}"}
    plain = [*(value[:3000] for value in VALUES), *ODD_WORDS]
    many = 0
    for path, names in PARAMETERS.items():
        for name, value in itertools.product(names, plain):
            answer = site.client.get(path, params={name: value}, headers=headers)
            many += 1
            assert answer.status_code < 500, (path, name, value[:100], answer.text[:300])
    for path, value in itertools.product(IN_PATHS, plain):
        for method in ("GET", "DELETE"):
            target = path.format(quote(value, safe=""))
            answer = site.client.request(method, target, headers=headers)
            many += 1
            assert answer.status_code < 500, (method, path, value[:100], answer.text[:300])
    assert many >= 1200, many


def test_the_counts_of_the_review_are_reached() -> None:
    """Bodies and parameters together were 1,858."""
    parameters = (len(VALUES) + len(ODD_WORDS)) * (sum(map(len, PARAMETERS.values())) + 8)
    assert sum(1 for _ in bodies()) + parameters >= 1858
