"""The embedded PostgreSQL: durable, with a password, on loopback only."""

import hashlib
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

import psycopg

from ulak.core.credentials import generated_secret
from ulak.local.child_process import ChildSpec
from ulak.local.embedded.binaries import SEARCH_ORDER, Origin, PostgresBinaries, find_postgres
from ulak.local.embedded.identity import (
    ServiceUser,
    bare_environment,
    can_write,
    has_name,
    run_as,
    service_user,
)
from ulak.local.embedded.postmaster import running_postmaster, stop_postmaster
from ulak.local.embedded.server import LOOPBACK, EmbeddedServer, EmbeddedServerError

USER: Final = "ulak"
DATABASE: Final = "ulak"

# Statements and the values in them stay out of the log: they hold numbers of people.
OPTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "listen_addresses": LOOPBACK,
        "unix_socket_directories": "",
        "max_connections": "200",
        "shared_buffers": "128MB",
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "logging_collector": "off",
        "log_min_error_statement": "panic",
        "log_error_verbosity": "terse",
        "log_parameter_max_length_on_error": "0",
        "log_checkpoints": "off",
        "cluster_name": "ulak",
    },
)
# For tests only: the data may be lost in a crash.
NON_DURABLE: Final[Mapping[str, str]] = MappingProxyType(
    {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"},
)


class PostgresServer(EmbeddedServer):
    """PostgreSQL in `home`, see `EmbeddedServer`; the database `ulak` exists when it answers.

    As root it runs as `nobody`. Where that user cannot come to `home` (a folder under `/root`),
    its data lie in a folder of their own under `/var/tmp`, which the home remembers; no mode of
    any folder that exists is ever changed. `durable=False` is for tests.
    """

    name = "postgres"

    def __init__(
        self,
        home: Path,
        *,
        binaries: Path | None = None,
        durable: bool = True,
        options: Mapping[str, str] | None = None,
        order: Sequence[Origin] = SEARCH_ORDER,
    ) -> None:
        super().__init__(home)
        self._configured = binaries
        self._durable = durable
        self._order = order
        self._options = {**OPTIONS, **({} if durable else NON_DURABLE), **(options or {})}

    def prepare(self) -> ChildSpec:
        """Data, password and port made ready; the child to run."""
        self.home.mkdir(parents=True, exist_ok=True)
        user = service_user()
        place = self._place(user)
        data = place / "data"
        binaries = find_postgres(
            self._configured,
            user=user,
            beside=place,
            major=_major_of(data),
            order=self._order,
        )
        stop_postmaster(data)
        if not data.exists():
            self._initialise(place, binaries, user)
        port = self._choose_port()
        settings = [f"--{name}={value}" for name, value in self._options.items()]
        return ChildSpec(
            name=self.name,
            argv=(str(binaries.folder / "postgres"), "-D", str(data), f"--port={port}", *settings),
            env=bare_environment(),
            inherit_env=False,
            foreign=True,
            # A fast shutdown ends open sessions; an immediate one leaves a recovery to the next
            # start but loses nothing.
            stop_signal=signal.SIGINT,
            harsh_signal=signal.SIGQUIT,
            uid=user.uid if user else None,
            gid=user.gid if user else None,
            tier=0,
            before_start=lambda: stop_postmaster(data),
        )

    @property
    def url(self) -> str:
        """`postgresql://ulak:…@127.0.0.1:port/ulak`."""
        return self._url_of(DATABASE)

    def running_url(self) -> str | None:
        """The URL of a server that runs in this home and answers, else None."""
        place = self._remembered().get("place")
        if not place or running_postmaster(Path(place) / "data") is None:
            return None
        return self.url if self._answers() else None

    def _url_of(self, database: str) -> str:
        port = self._remembered()["port"]
        return f"postgresql://{USER}:{quote(self._password())}@{LOOPBACK}:{port}/{database}"

    def _password(self) -> str:
        return generated_secret(self.home, "postgres.password", lambda: secrets.token_urlsafe(24))

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._url_of("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _after_ready(self) -> None:
        with psycopg.connect(self._url_of("postgres"), autocommit=True) as connection:
            known = connection.execute(
                "SELECT 1 FROM pg_database WHERE datname = %s",
                [DATABASE],
            ).fetchone()
            if not known:
                connection.execute(f"CREATE DATABASE {DATABASE}")

    def _place(self, user: ServiceUser | None) -> Path:
        remembered = self._remembered().get("place")
        if remembered and (Path(remembered) / "data").exists():
            return Path(remembered)
        place = _own_folder(self.home / "postgres", user)
        if not can_write(place, user):
            place.rmdir()
            digest = hashlib.sha256(str(self.home).encode()).hexdigest()[:16]
            place = _own_folder(_fallback_data_root() / f"ulak-{digest}", user)
            if not can_write(place, user):
                raise EmbeddedServerError(
                    f"PostgreSQL may not run as root, and the user nobody cannot write to {place}: "
                    "start Ulak as an ordinary user or set ULAK_DATABASE_URL.",
                )
        self._remember(place=str(place))
        return place

    def _initialise(
        self,
        place: Path,
        binaries: PostgresBinaries,
        user: ServiceUser | None,
    ) -> None:
        """Makes the data folder, whole or not at all: a half-made one is thrown away."""
        uid = user.uid if user else os.geteuid()
        if not has_name(uid):
            raise EmbeddedServerError(
                f"PostgreSQL wants a user who has a name, and user {uid} has none: start Ulak as another user, "
                "give this one a line in /etc/passwd, or set ULAK_DATABASE_URL."
            )
        draft = place / "data.part"
        shutil.rmtree(draft, ignore_errors=True)
        password = place / ".password"
        _write_for(user, password, self._password())
        command = [f"{binaries.folder}/initdb", "-D", f"{draft}", "-U", USER]
        command += [f"--pwfile={password}"]
        command += ["-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-instructions"]
        if not self._durable:
            command.append("--no-sync")
        try:
            done = run_as(user, *command)
        finally:
            password.unlink()
        if done.returncode != 0:
            raise EmbeddedServerError(
                f"initdb failed in {place}: {' '.join(done.stderr.split())[-400:]}",
            )
        draft.rename(place / "data")


def _major_of(data: Path) -> int | None:
    try:
        return int((data / "PG_VERSION").read_text(encoding="ascii"))
    except FileNotFoundError:
        return None


def _own_folder(path: Path, user: ServiceUser | None) -> Path:
    """The folder, mode 0700 and owned by the user; a folder of another user is refused."""
    owner = user.uid if user else os.geteuid()
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        found = path.lstat()
        if path.is_symlink() or not path.is_dir() or found.st_uid != owner:
            raise EmbeddedServerError(
                f"{path} exists and does not belong to user {owner}: move it away.",
            ) from None
    else:
        if user:
            os.chown(path, user.uid, user.gid)
    return path


def _fallback_data_root() -> Path:
    lasting = Path("/var/tmp")  # noqa: S108  the folder made in it is checked for its owner
    return lasting if lasting.is_dir() else Path(tempfile.gettempdir())


def _write_for(user: ServiceUser | None, path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text + "\n")
    if user:
        os.chown(path, user.uid, user.gid)
