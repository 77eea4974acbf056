"""How many callbacks a second the HTTP process holds with nothing lost, beside bare requests of the same process.

    python tests/bench/bench_callbacks.py postgresql://… [seconds per case]

Each callback is a new notice of a new message with Basic authentication: it is answered after its commit, and all that
were answered 200 are counted in the table afterwards. Machines differ and are noisy, so the ratio to `/healthz` within
one run says more than the figures. The client is bare sockets that stay open.
"""

import asyncio
import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from socket import create_server
from tempfile import TemporaryDirectory
from time import perf_counter
from uuid import uuid4

import msgspec
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, make_url, text

from ulak.models.accounts import apply
from ulak.models.database import make_engine, transaction
from ulak.models.schema import migrate
from ulak.providers.accounts import parse_accounts

ACCOUNT = """
[[account]]
id = "bip-1"
provider = "bip"
[account.credentials]
callback_user = "env:BENCH_USER"
callback_password = "env:BENCH_PASSWORD"
"""
CREDENTIALS = {"BENCH_USER": "ulak", "BENCH_PASSWORD": "bench"}
CONNECTIONS = (1, 8, 32)


def notice(number: int) -> bytes:
    """A request with a delivered notice of a message that was never heard of."""
    body = msgspec.json.encode(
        {
            "sender": f"9053{number % 10**8:08}",
            "type": "R",
            "msgid": number,
            "sendtime": "18.05.2026 16:11:58.633 +0300",
            "txnid": f"t-{number}",
            "report": {"reportid": f"r-{number}", "reporttype": 0},
        }
    )
    login = b64encode(":".join(CREDENTIALS.values()).encode()).decode()
    head = f"POST /callbacks/bip/bip-1 HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {login}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def health(_: int) -> bytes:
    """A request that asks for nothing."""
    return b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


async def ask(port: int, make: Callable[[int], bytes], numbers: "Numbers", end: float) -> list[float]:
    """Seconds of each request over one connection until the time is over; every answer must be 200."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    taken: list[float] = []
    while perf_counter() < end:
        request = make(numbers.draw())
        started = perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        taken.append(perf_counter() - started)
    writer.close()
    return taken


class Numbers:
    """Numbers of messages, each once."""

    def __init__(self) -> None:
        self.drawn = 0

    def draw(self) -> int:
        """The next one."""
        self.drawn += 1
        return self.drawn


async def load(
    port: int, make: Callable[[int], bytes], numbers: Numbers, connections: int, seconds: float
) -> list[float]:
    """All requests of so many connections at once."""
    end = perf_counter() + seconds
    return [
        one
        for many in await asyncio.gather(*(ask(port, make, numbers, end) for _ in range(connections)))
        for one in many
    ]


def start_api(url: str, home: str) -> tuple["subprocess.Popen[bytes]", int]:
    """`ulak api` as production runs it, and its port."""
    with create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = {"ULAK_DATABASE_URL": url, "ULAK_HOME": home, "ULAK_API_PORT": str(port), "ULAK_LOG": "json"}
    env = {**os.environ, **settings, **CREDENTIALS}
    command = [sys.executable, "-m", "ulak.cli.main", "api"]
    return subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL), port


async def wait(port: int) -> None:
    """Return when it answers."""
    for _ in range(200):
        try:
            await ask(port, health, Numbers(), perf_counter() + 0.01)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            return
    raise TimeoutError


def measure(engine: Engine, url: str, seconds: float) -> Table:
    """The table of figures; fails where an answered callback is not stored."""
    table = Table("connections", "callbacks/s", "p95 ms", "/healthz/s", "callback : /healthz", "answered = stored")
    numbers = Numbers()
    answered = 0
    with TemporaryDirectory() as home:
        process, port = start_api(url, home)
        try:
            asyncio.run(wait(port))
            for connections in CONNECTIONS:
                bare = asyncio.run(load(port, health, Numbers(), connections, seconds / 2))
                taken = sorted(asyncio.run(load(port, notice, numbers, connections, seconds)))
                answered += len(taken)
                with engine.connect() as connection:
                    stored = connection.execute(text("SELECT count(*) FROM delivery_status")).scalar_one()
                assert stored == answered, f"{answered} answered, {stored} stored"
                speed, bare_speed = len(taken) / seconds, len(bare) / (seconds / 2)
                slow = f"{taken[int(len(taken) * 0.95)] * 1000:.1f}"
                row = (
                    f"{speed:,.0f}",
                    slow,
                    f"{bare_speed:,.0f}",
                    f"{speed / bare_speed:.2f}",
                    f"{answered:,} = {stored:,}",
                )
                table.add_row(str(connections), *row)
        finally:
            process.terminate()
            process.wait(20)
    return table


def main(url: str, seconds: float = 5.0) -> None:
    """Measure in a database of its own and print the table."""
    name = f"bench_{uuid4().hex[:8]}"
    server = make_engine(url, pool_size=1).execution_options(isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    own = make_url(url).set(database=name).render_as_string(hide_password=False)
    engine = make_engine(own)
    try:
        migrate(engine)
        with transaction(engine) as connection:
            apply(connection, parse_accounts(ACCOUNT), prune=False)
        Console(width=110).print(measure(engine, own, seconds))
    finally:
        engine.dispose()
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        server.dispose()


if __name__ == "__main__":
    main(sys.argv[1], *(float(word) for word in sys.argv[2:3]))
