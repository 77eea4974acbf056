"""`ca_file` and `proxy` of an account, over real TLS with a private authority and through a real proxy."""

import itertools
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from command_line import Ulak, ulak
from driving import Driver, make_runtime, scalar
from private_ca import Authority, Proxy, proxying, serving
from sqlalchemy import Engine, text

from ulak.core.redaction import redact_text
from ulak.models.account import list_accounts, load
from ulak.models.accounts import apply
from ulak.models.database import transaction
from ulak.models.permit import Permit
from ulak.providers.accounts import AccountsFileError, parse_accounts
from ulak.providers.adapter import Answer, Request
from ulak.providers.egress import Egress, EgressError
from ulak.providers.errors import PauseAccount, ProviderError, TryAgainSoon
from ulak.providers.http import HttpDoor, PermitExpiredError
from ulak.tasks.steps.tracking import track

__all__ = ["ulak"]

CALLS = itertools.count(1)
CAP = 200_000
PASSWORD = "c4n4ry:paß@wort"
QUOTED = "c4n4ry%3Apa%C3%9F%40wort"
UNTRUSTED = "The TLS certificate of the provider's server is not trusted."


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The company's own authority."""
    return Authority(tmp_path)


@pytest.fixture
def door() -> Iterator[HttpDoor]:
    """A door with a small cap."""
    opened = HttpDoor(max_connections=8, boot=time.monotonic)
    yield opened
    opened.close()


def ask(door: HttpDoor, url: str, way: Egress, deadline: float = 20.0) -> Answer | ProviderError:
    """One request; with another permit where the machine was too busy to use one within its second."""
    request = Request(method="POST", url=f"{url}/s3cr3t/report?api_key=s3cr3t", body=b"{}", largest_bytes=CAP)
    for _ in range(5):
        permit = Permit(
            call_id=next(CALLS),
            account_id="a",
            asked_at=datetime.now(UTC),
            committed_boot=time.monotonic(),
            deadline_seconds=deadline,
        )
        with suppress(PermitExpiredError):
            return door.send(request, permit, way).outcome
    raise AssertionError("five permits expired")


def said(outcome: Answer | ProviderError) -> bytes | str:
    """The body, or the error's sentence."""
    return outcome.body if isinstance(outcome, Answer) else outcome.message


def test_a_private_authority_is_trusted_by_the_accounts_that_name_it_and_by_no_other(
    door: HttpDoor, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the environment says; another company's authority does not count either."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    stranger = Authority(tmp_path, "stranger")
    ways = [Egress(ca_file=str(authority.file)), Egress(), Egress(ca_file=str(stranger.file))]
    with serving(authority.server_context()) as url:
        assert [said(ask(door, url, way)) for way in ways] == [b"{}", UNTRUSTED, UNTRUSTED]


def test_a_renewed_file_counts_from_the_next_request_on(door: HttpDoor, authority: Authority, tmp_path: Path) -> None:
    """No restart is needed when the company replaces its authority, nor when the file comes late."""
    renewed = Authority(tmp_path, "renewed")
    way = Egress(ca_file=str(authority.file))
    with serving(renewed.server_context()) as url:
        assert said(ask(door, url, way)) == UNTRUSTED
        authority.file.write_bytes(authority.pem + renewed.pem)
        assert said(ask(door, url, way)) == b"{}"
        authority.file.unlink()
        with pytest.raises(EgressError, match="cannot be read"):
            ask(door, url, way)


def test_replacing_a_file_breaks_no_request_that_is_on_its_way(door: HttpDoor, authority: Authority) -> None:
    """The connections before the change are closed when the last of their users is done."""
    held, calm = threading.Semaphore(0), threading.Event()
    leave = [threading.Event(), threading.Event()]
    waiting = iter(leave)

    def slowly(path: str) -> bytes:
        del path
        if not calm.is_set():
            mine = next(waiting)
            held.release()
            mine.wait(20)
        return b"done"

    way = Egress(ca_file=str(authority.file))
    with serving(authority.server_context(), slowly) as url, ThreadPoolExecutor(2) as pool:
        early = []
        for _ in leave:
            early.append(pool.submit(ask, door, url, way))
            assert held.acquire(timeout=20)
        calm.set()
        authority.file.write_bytes(b"# renewed\n" + authority.pem)
        assert said(ask(door, url, way)) == b"done"
        for each, asked in zip(leave, early, strict=True):
            each.set()
            assert said(asked.result()) == b"done"


@pytest.mark.parametrize("login", [None, f"ulak:{PASSWORD}"])
@pytest.mark.parametrize("secure", [True, False])
def test_requests_go_through_the_proxy(door: HttpDoor, authority: Authority, login: str | None, secure: bool) -> None:
    """By CONNECT where the provider speaks TLS, so that the proxy sees neither path nor key; with its login."""
    way_in = f"ulak:{QUOTED}@" if login else ""
    with proxying(Proxy(login=login)) as proxy, serving(authority.server_context() if secure else None) as url:
        way = Egress(ca_file=str(authority.file), proxy=f"http://{way_in}{proxy.host}")
        assert [said(ask(door, url, way)) for _ in range(2)] == [b"{}", b"{}"]
    host = url.partition("//")[2]
    if secure:
        assert proxy.asked == [f"CONNECT {host} HTTP/1.1"]
        assert "s3cr3t" not in str(proxy.heads)
    else:
        assert proxy.asked[0] == f"POST {url}/s3cr3t/report?api_key=s3cr3t HTTP/1.1"
    assert PASSWORD not in repr(way)
    if login:
        shown = redact_text(f"({PASSWORD}) ({QUOTED}) ({b64encode(login.encode()).decode()})")
        assert [secret for secret in (PASSWORD, QUOTED, b64encode(login.encode()).decode()) if secret in shown] == []


@pytest.mark.parametrize("secure", [True, False])
@pytest.mark.parametrize("address", ["::1", "127.0.0.1"])
def test_addresses_of_version_6_are_reached_through_a_proxy(
    door: HttpDoor, authority: Authority, secure: bool, address: str
) -> None:
    """The provider's is named in brackets (RFC 9110, section 9.3.6), or the proxy could not tell the port."""
    context = authority.server_context() if secure else None
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with proxying(Proxy(address=address)) as proxy, serving(context, host="::1") as url:
        way = Egress(ca_file=str(authority.file), proxy=f"http://{proxy.host}")
        assert said(ask(door, url, way)) == b"{}"
    host = url.partition("//")[2]
    assert host.startswith("[::1]:")
    assert proxy.asked[0].split()[1] == (host if secure else f"{url}/s3cr3t/report?api_key=s3cr3t")
    if secure:
        assert f"host: {host}" in proxy.heads[0].lower()


@pytest.mark.parametrize(
    ("proxy", "error", "sentence"),
    [
        (
            Proxy(login="other:one"),
            PauseAccount,
            "The proxy refuses the user and password of the account's proxy (HTTP 407).",
        ),
        (
            Proxy(status="502 Bad gateway"),
            TryAgainSoon,
            "The proxy opened no connection to the provider's server (HTTP 502).",
        ),
        (Proxy(drips=True), TryAgainSoon, "The provider did not answer in time."),
    ],
    ids=["wrong login", "no way", "forever"],
)
def test_a_proxy_that_opens_no_way_is_an_error_in_time(
    door: HttpDoor, authority: Authority, proxy: Proxy, error: type[ProviderError], sentence: str
) -> None:
    """The total deadline includes the proxy's handshake; who is to act is told; nobody hammers with a wrong login."""
    with proxying(proxy), serving(authority.server_context()) as url:
        began = time.monotonic()
        outcome = ask(door, url, Egress(proxy=f"http://u:p@{proxy.host}"), deadline=1.0 if proxy.drips else 20.0)
        took = time.monotonic() - began
    assert (type(outcome), said(outcome)) == (error, sentence)
    assert took < 10


def test_a_proxy_that_is_not_there_is_named_as_what_is_missing(door: HttpDoor) -> None:
    """The provider's server is not to blame."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        way = Egress(proxy=f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert said(ask(door, "https://127.0.0.1:1", way)) == "The proxy refused the connection."
    unknown = Egress(proxy="http://no-such-host.invalid:3128")
    assert said(ask(door, "https://127.0.0.1:1", unknown)) == "The name of the proxy could not be resolved."


def test_the_size_cap_holds_through_a_proxy(door: HttpDoor, authority: Authority) -> None:
    """As everywhere."""
    with proxying(Proxy()) as proxy, serving(authority.server_context(), lambda _: bytes(CAP + 1)) as url:
        way = Egress(ca_file=str(authority.file), proxy=f"http://{proxy.host}")
        assert said(ask(door, url, way)) == f"The answer is larger than {CAP} bytes."


def test_ways_that_nobody_uses_any_more_are_let_go(authority: Authority) -> None:
    """A rotated password makes a new way; the old one's connections do not stay forever."""
    moment = [0.0]
    door = HttpDoor(max_connections=2, boot=lambda: moment[0])
    for number in range(5):
        door.prepare(Egress(ca_file=str(authority.file), proxy=f"http://u:{number}@127.0.0.1:1"))
        moment[0] += 200
    assert len(door._lines) == 2
    door.close()


# ---------------------------------------------------------------------------------------- accounts.toml

ACCOUNT = """
[[account]]
id = "kampanya"
provider = "vairo"
base_url = "{url}"
{more}
[account.credentials]
api_key = "env:VAIRO_KEY"
[account.poll]
time_factor = 0.01
"""


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('ca_file = "/no/such/file.pem"', "the file cannot be read (No such file or directory)"),
        ('ca_file = "/tmp"', "the file cannot be read (Is a directory)"),
        ('ca_file = "{empty}"', "the file holds no certificate that can be read"),
        ('ca_file = "{der}"', "the file holds no certificate that can be read"),
        ("ca_file = 7", "it is not a path"),
        ('ca_file = ""', "it is not a path"),
        ('ca_file = "a\\u0000b"', "the file cannot be read (no such path)"),
        ('proxy = "http://u:c4n4ry@p:3128"', "it holds a user or password, and secrets do not belong into this file"),
        ('proxy = "https://p:3128"', "it is not the address of an HTTP proxy"),
        ('proxy = "socks5://p:1080"', "it is not the address of an HTTP proxy"),
        ('proxy = "p:3128"', "it is not the address of an HTTP proxy"),
        ('proxy = "http://p:99999"', "it is not the address of an HTTP proxy"),
        ('proxy = "http://p:3128/c4n4ry"', "it is not the address of an HTTP proxy"),
        ('proxy = "http://pröxy:3128"', "it is not the address of an HTTP proxy"),
        ("proxy = true", "it is not the address of an HTTP proxy"),
    ],
)
def test_a_wrong_way_out_is_refused_with_its_line(tmp_path: Path, line: str, problem: str) -> None:
    """Line, what is wrong and what would be right; never the value."""
    (tmp_path / "empty.pem").write_text("# nothing\n")
    (tmp_path / "ca.der").write_bytes(b"\x30\x82\x01\x00" + bytes(300))
    given = line.format(empty=tmp_path / "empty.pem", der=tmp_path / "ca.der") if "{" in line else line
    with pytest.raises(AccountsFileError) as caught:
        parse_accounts(ACCOUNT.format(url="https://127.0.0.1", more=given))
    [mistake] = caught.value.mistakes
    assert (mistake.line, mistake.where) == (6, line.partition(" ")[0])
    assert mistake.problem.startswith(problem)
    assert mistake.right
    assert "c4n4ry" not in str(mistake)


def test_a_relative_file_is_kept_by_its_whole_path(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers run in other folders than who applies the file."""
    monkeypatch.chdir(tmp_path)
    [found] = parse_accounts(ACCOUNT.format(url="https://127.0.0.1", more=f'ca_file = "{authority.file.name}"'))
    assert found.ca_file == str(authority.file)


def test_check_says_what_is_wrong_with_the_way_out(
    ulak: Ulak, authority: Authority, migrated_database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As seen from this host: a file that went away, a reference that leads nowhere or to no proxy; never a value."""
    monkeypatch.setenv("VAIRO_KEY", "k")
    more = f'ca_file = "{authority.file}"\nproxy = "env:THE_PROXY"'
    with transaction(migrated_database) as connection:
        apply(connection, parse_accounts(ACCOUNT.format(url="https://127.0.0.1", more=more)), prune=True)
    told = []
    for value in (None, "c4n4ry", "http://u:c4n4ry@p:3128", "http://u:c4n4ry@p:3128"):
        if value is not None:
            monkeypatch.setenv("THE_PROXY", value)
        ran = ulak("check")
        told += [line for line in ran.out.splitlines() if line.startswith("account kampanya")]
        assert "c4n4ry" not in ran.out + ran.err
        if len(told) == 3:
            authority.file.unlink()
    assert told[0].endswith("The credential env:THE_PROXY is missing: set the environment variable THE_PROXY.")
    assert told[1].startswith("account kampanya: The account's proxy cannot be used: it is not the address of an HTTP")
    assert told[2].startswith("account kampanya: ok")
    assert told[3].startswith(
        "account kampanya: The account's ca_file cannot be used: the file cannot be read (No such"
    )


def test_an_account_is_polled_on_its_own_way_and_changes_it_without_a_restart(
    authority: Authority, migrated_database: Engine
) -> None:
    """From the file to the row of the delivery: through the proxy first, directly after the file was applied again."""
    secrets = {"env:VAIRO_KEY": "k"}
    runtime = make_runtime(migrated_database, resolve=lambda reference: secrets[reference])

    def report(path: str) -> bytes:
        send = path.partition("?")[0].rstrip("/").rsplit("/", 1)[1]
        answer = f'{{"id":"m-{send}","sms_gonderim_id":"{send}","numara":"5301234567","durum_gonderim":"DELIVERED"}}'
        return f'{{"durum":true,"aciklama":{answer}}}'.encode()

    with proxying(Proxy(login="u:c4n4ry")) as proxy, serving(authority.server_context(), report) as url:
        secrets["env:WAY"] = f"http://u:c4n4ry@{proxy.host}"
        ca = f'ca_file = "{authority.file}"'
        with Driver(runtime).running() as driver:
            for send, more in (("1", f'{ca}\nproxy = "env:WAY"'), ("2", ca)):
                with transaction(migrated_database) as connection:
                    apply(connection, parse_accounts(ACCOUNT.format(url=url, more=more)), prune=True)
                track(runtime, "kampanya", [{"kind": "number", "value": f"{send}:5301234567"}])
                assert driver.until(
                    lambda send=send: (  # type: ignore[misc]
                        scalar(migrated_database, "SELECT count(*) FROM delivery_status WHERE is_final") == int(send)
                    ),
                    seconds=60,
                )
                connects = len(proxy.asked)
                assert connects >= 1
        assert len(proxy.asked) == connects
    with migrated_database.connect() as connection:
        stored = str(connection.execute(text("SELECT a::text FROM accounts a")).all())
        assert load(connection, "kampanya").proxy is None
    assert "c4n4ry" not in stored


def test_a_way_that_cannot_be_used_pauses_the_account_and_asks_nobody(
    authority: Authority, migrated_database: Engine
) -> None:
    """The reason says what to do; an answered callback needs neither file nor proxy, so those go on."""
    runtime = make_runtime(migrated_database, resolve=lambda _: "k")
    with serving(authority.server_context()) as url:
        with transaction(migrated_database) as connection:
            more = f'ca_file = "{authority.file}"'
            apply(connection, parse_accounts(ACCOUNT.format(url=url, more=more)), prune=True)
        authority.file.unlink()
        track(runtime, "kampanya", [{"kind": "number", "value": "1:5301234567"}])
        with Driver(runtime).running() as driver:
            reason = "SELECT pause_reason FROM accounts"
            assert driver.until(lambda: scalar(migrated_database, reason) is not None, seconds=60)
    told = str(scalar(migrated_database, reason))
    assert told.startswith("The account's ca_file cannot be used: the file cannot be read (No such file or directory)")
    assert scalar(migrated_database, "SELECT count(*) FROM calls") == 0
    with migrated_database.connect() as connection:
        [stored] = list_accounts(connection)
    assert runtime.account(stored).id == "kampanya"
    runtime.door.close()
