"""The servers: five stand-ins and the control API, one event loop in one thread."""

import asyncio
import logging
import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from ulak.sandbox.control import Control
from ulak.sandbox.middleware import Connections, Middleware
from ulak.sandbox.pushes import Pushes
from ulak.sandbox.settings import PROVIDERS
from ulak.sandbox.truth import Row
from ulak.sandbox.world import World

HOST = "127.0.0.1"
NAMES = (*PROVIDERS, "control")
DEFAULT_PORTS = (9401, 9402, 9403, 9404, 9405, 9400)
EPHEMERAL = (0,) * len(NAMES)
logger = logging.getLogger("sandbox")


def open_socket(port: int) -> socket.socket:
    """A listening socket on loopback; a free port where the wanted one is busy."""
    for wanted in (port, 0):
        # asyncio turns Nagle's delay off only for a socket that names its protocol.
        wire = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            wire.bind((HOST, wanted))
        except OSError:
            wire.close()
            if wanted == 0:
                raise
            logger.warning("port %d is busy, taking a free one", port)
            continue
        wire.listen(512)
        return wire
    raise AssertionError


def watch_wires(wires: Connections) -> type[asyncio.Protocol]:
    """Uvicorn's own protocol, that also registers open connections in `wires`."""

    def connection_made(self: Any, transport: asyncio.Transport) -> None:
        self._watched = transport.get_extra_info("peername")
        wires.transports[self._watched] = transport
        AutoHTTPProtocol.connection_made(self, transport)

    def connection_lost(self: Any, exc: Exception | None) -> None:
        wires.transports.pop(self._watched, None)
        AutoHTTPProtocol.connection_lost(self, exc)

    methods = {"connection_made": connection_made, "connection_lost": connection_lost}
    return type("WatchedProtocol", (AutoHTTPProtocol,), methods)


class AnnouncedServer(uvicorn.Server):
    """uvicorn's server, with an event for when it listens."""

    def __init__(self, config: uvicorn.Config, ready: threading.Event) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, then sets the event."""
        await super().startup(sockets)
        self._ready.set()


class Ports:
    """The ASGI application over all ports: the port determines the provider."""

    def __init__(self, by_port: dict[int, ASGIApp]) -> None:
        self.by_port = by_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands the request on."""
        await self.by_port[scope["server"][1]](scope, receive, send)


class Sandbox:
    """Five stand-in providers on loopback, running while the `with` block does.

    `urls` holds the base URL of each provider (Vairo's with its API root) and of `control`.
    `speed` 24 ends every life within 25 seconds; `ports` are in the order of `NAMES`.
    """

    def __init__(
        self,
        *,
        seed: int = 1,
        speed: float = 24.0,
        scale: str = "small",
        ports: Sequence[int] = EPHEMERAL,
        state: Path | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.world = World(seed=seed, scale=scale, speed=speed, state=state, settings=settings)
        self._ports = ports
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sandbox", daemon=True)
        self._server: uvicorn.Server | None = None
        self._failure: BaseException | None = None

    @property
    def urls(self) -> dict[str, str]:
        """Base URLs by name."""
        return self.world.urls

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when all six listen."""
        self._sockets = [open_socket(port) for port in self._ports]
        for name, wire in zip(NAMES, self._sockets, strict=True):
            root = self.world.standins[name].root if name in self.world.standins else ""
            self.world.urls[name] = f"http://{HOST}:{wire.getsockname()[1]}{root}"
        self._thread.start()
        self._ready.wait(20)
        if self._failure is not None:
            raise RuntimeError("the sandbox did not start") from self._failure

    def stop(self) -> None:
        """Ends within a second, also while requests hang."""
        if self._server is not None:
            self._server.should_exit = True
        self._thread.join(10)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001  the starting thread must see it
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        wires = Connections()
        pushes = {name: Pushes(name, self.world.faults) for name, one in self.world.standins.items() if one.pushes}
        control = Control(self.world, pushes)
        apps: list[ASGIApp] = [Middleware(self.world, name, wires) for name in PROVIDERS]
        apps.append(control.application())
        numbers = [wire.getsockname()[1] for wire in self._sockets]
        config = uvicorn.Config(
            Ports(dict(zip(numbers, apps, strict=True))),
            http=watch_wires(wires),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=75,
        )
        # uvicorn takes part of a second as well, though its type says otherwise.
        config.timeout_graceful_shutdown = 0.2  # type: ignore[assignment]
        self._server = AnnouncedServer(config, self._ready)
        pumps = [asyncio.create_task(one.run()) for one in pushes.values()]
        try:
            await self._server.serve(self._sockets)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    # For tests ----------------------------------------------------------------------------

    def truth(self, provider: str | None = None) -> list[Row]:
        """As `GET /truth`."""
        return self.world.truth(provider)

    def log(self, since: int = 0) -> list[dict[str, Any]]:
        """As `GET /log`."""
        return self.world.ledger.tell(since)

    def control(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """One request to the control API; its JSON answer."""
        with httpx.Client(trust_env=False, timeout=20) as client:
            answer = client.request(method, self.urls["control"] + path, json=body)
            answer.raise_for_status()
            return answer.json()
