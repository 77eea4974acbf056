"""`rediss://` with a private authority: the command line's connection and Celery's alike."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import kombu.exceptions
import pytest
from command_line import Ulak, ulak
from private_ca import Authority, pump
from pydantic import SecretStr

from ulak.core import task_names
from ulak.core.redis import connect
from ulak.core.settings import Settings
from ulak.workers.app import make_app

__all__ = ["ulak"]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The company's own authority."""
    return Authority(tmp_path)


@pytest.fixture
def secure_url(redis_url: str, authority: Authority) -> Iterator[str]:
    """The test's Valkey behind TLS."""
    plain = urlsplit(redis_url)
    context = authority.server_context()
    ended = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)

    def serve(client: socket.socket) -> None:
        client.settimeout(None)
        where = (str(plain.hostname), plain.port or 6379)
        with contextlib.suppress(OSError), socket.create_connection(where) as onward:
            secured = context.wrap_socket(client, server_side=True)
            threading.Thread(target=pump, args=(onward, secured), daemon=True).start()
            pump(secured, onward)
            secured.close()

    def accept() -> None:
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    login = plain.netloc.rpartition("@")[0]
    yield f"rediss://{login}{'@' if login else ''}127.0.0.1:{listener.getsockname()[1]}{plain.path}"
    ended.set()
    thread.join(20)
    listener.close()


def test_a_private_authority_is_named_in_the_address(secure_url: str, authority: Authority, redis_url: str) -> None:
    """One place for the command line and for the broker."""
    url = f"{secure_url}?ssl_ca_certs={authority.file}"
    with connect(url, retries=0) as client:
        assert client.ping()
    app = make_app(Settings(redis_url=SecretStr(url)))
    app.send_task("unknown", queue=task_names.QUEUE_CONTROL, retry=False)
    app.close()
    with connect(redis_url) as client:
        assert client.llen(f"ulak:{task_names.QUEUE_CONTROL}") == 1


def test_a_server_that_nobody_vouches_for_is_refused(
    secure_url: str, authority: Authority, ulak: Ulak, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No password goes to a stranger; `check` says what to do."""
    stranger = Authority(tmp_path, "stranger")
    told = []
    for file in (None, stranger.file, "/no/such.pem", authority.file):
        monkeypatch.setenv("ULAK_REDIS_URL", f"{secure_url}?ssl_ca_certs={file}" if file else secure_url)
        told += [line for line in ulak("check").out.splitlines() if line.startswith("Redis")]
    untrusted = "Redis: Redis's TLS certificate is not trusted: add ?ssl_ca_certs=FILE to ULAK_REDIS_URL."
    unread = "Redis: A certificate file that ULAK_REDIS_URL names cannot be read: see that it exists and may be read."
    assert told[:3] == [untrusted, untrusted, unread]
    assert told[3].startswith("Redis: ok")
    app = make_app(Settings(redis_url=SecretStr(f"{secure_url}?ssl_ca_certs={stranger.file}")))
    with pytest.raises((kombu.exceptions.OperationalError, ssl.SSLError)):
        app.send_task("unknown", queue=task_names.QUEUE_CONTROL, retry=False)
    app.close()
