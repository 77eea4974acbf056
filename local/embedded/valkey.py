"""The embedded Valkey: append-only file, nothing evicted, a password, loopback only."""

import os
import secrets
from pathlib import Path
from typing import Final

from redis.exceptions import RedisError

from ulak.core import clock
from ulak.core.credentials import generated_secret
from ulak.core.redis import connect
from ulak.local.child_process import ChildSpec
from ulak.local.embedded.binaries import find_valkey
from ulak.local.embedded.identity import bare_environment
from ulak.local.embedded.server import LOOPBACK, EmbeddedServer, EmbeddedServerError

GOING_SECONDS: Final = 15.0


class ValkeyServer(EmbeddedServer):
    """Valkey in `home`, see `EmbeddedServer`. `durable=False` is for tests."""

    name = "valkey"

    def __init__(
        self,
        home: Path,
        *,
        program: Path | None = None,
        durable: bool = True,
        databases: int = 16,
    ) -> None:
        super().__init__(home)
        self._configured = program
        self._durable = durable
        self._databases = databases

    def prepare(self) -> ChildSpec:
        """Data, password and port made ready; the child to run."""
        folder = self.home / "valkey"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        program = find_valkey(self._configured)
        self._stop_leftover()
        port = self._choose_port()
        return ChildSpec(
            name=self.name,
            argv=(str(program), str(self._write_configuration(folder, port))),
            env=bare_environment(),
            inherit_env=False,
            foreign=True,
            tier=0,
            before_start=self._stop_leftover,
        )

    @property
    def url(self) -> str:
        """`redis://:…@127.0.0.1:port/0`."""
        return f"redis://:{self._password()}@{LOOPBACK}:{self._remembered()['port']}/0"

    def running_url(self) -> str | None:
        """The URL of a server that runs in this home and answers, else None."""
        return self.url if "port" in self._remembered() and self._answers() else None

    def _password(self) -> str:
        return generated_secret(self.home, "valkey.password", lambda: secrets.token_urlsafe(24))

    def _answers(self) -> bool:
        try:
            with connect(self.url, retries=0, connect_timeout_seconds=2) as client:
                return bool(client.ping())
        except RedisError:
            return False

    def _after_ready(self) -> None:
        """Nothing: databases are there by number."""

    def _stop_leftover(self) -> None:
        """Ends a server whose supervisor was killed; only ours knows our password."""
        if self.running_url() is None:
            return
        with connect(self.url, retries=0) as client:
            client.shutdown()
        deadline = clock.boot() + GOING_SECONDS
        while self._answers():
            if clock.boot() > deadline:
                raise EmbeddedServerError(f"Another Valkey runs in {self.home}: stop it first.")
            clock.sleep(0.05)

    def _write_configuration(self, folder: Path, port: int) -> Path:
        """The configuration file; a file, for a password among the arguments is seen by all."""
        path = folder / "valkey.conf"
        path.unlink(missing_ok=True)
        lines = [
            f"bind {LOOPBACK}",
            f"port {port}",
            f'dir "{folder}"',
            f"requirepass {self._password()}",
            f"databases {self._databases}",
            f"appendonly {'yes' if self._durable else 'no'}",
            "appendfsync everysec",
            "aof-load-truncated yes",
            'save ""',
            "maxmemory-policy noeviction",
            "daemonize no",
        ]
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        return path
