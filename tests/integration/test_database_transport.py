"""What is said about the way to PostgreSQL, on real sessions through a TLS end of our own."""

import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from command_line import Ulak, ulak
from database_fixtures import add_account
from private_ca import Authority
from sqlalchemy import Engine, text
from test_sessions import _one_secret, api_process, as_header, log_in

from ulak.models.database import make_engine, transaction
from ulak.models.transport import transport_fault

__all__ = ["_one_secret", "ulak"]

HOST = "db.firma.example"
SSL_REQUEST = 80877103
"""https://www.postgresql.org/docs/current/protocol-message-formats.html"""


@contextmanager
def tls_before(port: int, context: ssl.SSLContext | None) -> Iterator[int]:
    """A port that speaks TLS as PostgreSQL does, or refuses it without a context, and passes everything on."""
    server = socket.create_server(("127.0.0.1", 0))
    sockets: list[socket.socket] = [server]

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError, ValueError):
            while part := source.recv(65536):
                target.sendall(part)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def serve(client: socket.socket) -> None:
        with suppress(OSError):
            first = client.recv(8, socket.MSG_WAITALL)
            database = socket.create_connection(("127.0.0.1", port))
            sockets.append(database)
            if first == struct.pack("!ii", 8, SSL_REQUEST):
                client.sendall(b"S" if context else b"N")
                client = context.wrap_socket(client, server_side=True) if context else client
                sockets.append(client)
            else:
                database.sendall(first)
            threading.Thread(target=pump, args=(client, database), daemon=True).start()
            pump(database, client)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = server.accept()
                sockets.append(client)
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield server.getsockname()[1]
    finally:
        for each in sockets:
            each.close()


def address(engine: Engine, port: int, host: str = HOST, **query: str) -> str:
    """The database's URL through this port, under this name."""
    url = engine.url.set(drivername="postgresql", host=host, port=port)
    named = {} if host in {"127.0.0.1", "localhost"} else {"hostaddr": "127.0.0.1"}
    return url.update_query_dict({**named, **query}).render_as_string(hide_password=False)


def fault_at(url: str) -> str | None:
    """What a session to this address is."""
    engine = make_engine(url, pool_size=1)
    try:
        with engine.connect() as connection:
            return transport_fault(connection)
    finally:
        engine.dispose()


def test_only_a_verified_session_to_another_host_is_well(migrated_database: Engine, tmp_path: Path) -> None:
    """Each way of libpq to encrypt and to verify, on a live session; local ones need neither."""
    company, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    port = migrated_database.url.port or 5432
    trusted = {"sslmode": "verify-full", "sslrootcert": str(company.file)}
    with (
        tls_before(port, company.server_context(HOST)) as encrypted,
        tls_before(port, stranger.server_context(HOST)) as foreign,
        tls_before(port, None) as plain,
    ):
        assert fault_at(address(migrated_database, port, "127.0.0.1")) is None
        assert fault_at(address(migrated_database, plain, "localhost")) is None
        assert fault_at(address(migrated_database, plain)) == "unencrypted"
        assert fault_at(address(migrated_database, plain, sslmode="prefer")) == "unencrypted"
        assert fault_at(address(migrated_database, encrypted, sslmode="disable")) == "unencrypted"
        assert fault_at(address(migrated_database, encrypted)) == "unverified"
        assert fault_at(address(migrated_database, encrypted, sslmode="require")) == "unverified"
        assert fault_at(address(migrated_database, foreign)) == "unverified"
        checked = {"sslmode": "verify-ca", "sslrootcert": str(company.file)}
        assert fault_at(address(migrated_database, encrypted, **checked)) == "unverified"
        assert fault_at(address(migrated_database, encrypted, **trusted)) is None
        for refused in (address(migrated_database, foreign, **trusted), address(migrated_database, plain, **trusted)):
            with pytest.raises(Exception, match=r"certificate verify failed|does not support SSL"):
                fault_at(refused)


def test_variables_of_libpq_count_too(
    migrated_database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the address leaves open they say."""
    company = Authority(tmp_path)
    port = migrated_database.url.port or 5432
    with tls_before(port, company.server_context(HOST)) as port, monkeypatch.context() as patched:
        patched.setenv("PGSSLMODE", "verify-full")
        patched.setenv("PGSSLROOTCERT", str(company.file))
        assert fault_at(address(migrated_database, port)) is None


def test_check_and_the_status_page_warn(
    migrated_database: Engine, ulak: Ulak, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning each, and no failure: it works. On this host there is none."""
    assert "\ndatabase transport: ok (verified, or on this host)\n" in ulak("check").out
    with tls_before(migrated_database.url.port or 5432, None) as port:
        monkeypatch.setenv("ULAK_DATABASE_URL", address(migrated_database, port))
        told = ulak("check").out
        assert "\ndatabase transport: warning: numbers and the password travel unencrypted to another host: add" in told
        elsewhere = make_engine(address(migrated_database, port), pool_size=4)
        with api_process(elsewhere) as client:
            page = client.get("/", headers=as_header(log_in(client))).text
            assert "password travel unencrypted to another host" in page
            assert "sslmode=verify-full&amp;sslrootcert=FILE" in page
        elsewhere.dispose()
    with api_process(migrated_database) as client:
        assert "password travel" not in client.get("/", headers=as_header(log_in(client))).text


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "ok (on this host)"),
        ({"ULAK_BIND": "0.0.0.0"}, "warning: it listens beyond this host, and neither ULAK_PUBLIC_URL nor"),
        ({"ULAK_BIND": "0.0.0.0", "ULAK_PUBLIC_URL": "https://ulak.firma.example"}, "ok (https://ulak.firma.example)"),
        ({"ULAK_BIND": "0.0.0.0", "ULAK_TRUSTED_PROXIES": "172.16.0.0/12"}, "ok (behind a proxy)"),
    ],
)
def test_check_says_where_cookies_are_not_secure(
    ulak: Ulak, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], told: str
) -> None:
    """Beyond loopback one of the two must say what the proxy in front speaks."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert f"\nstatus page: {told}" in ulak("check").out


def test_check_names_accounts_that_are_asked_in_the_clear(migrated_database: Engine, ulak: Ulak) -> None:
    """Those that were applied before this was refused keep running, and are named."""
    with transaction(migrated_database) as connection:
        add_account(connection, "kampanya")
        connection.execute(text("UPDATE accounts SET base_url = 'http://sms.example'"))
    assert "account kampanya: warning: its base_url is plain http: the credentials can be read" in ulak("check").out
