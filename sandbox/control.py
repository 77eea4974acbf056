"""The control API: what a demo or a test may ask of the sandbox, and do to it."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from time import time
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ulak.sandbox.outcomes import OUTCOMES
from ulak.sandbox.provider_times import iso
from ulak.sandbox.pushes import Callback, Pushes
from ulak.sandbox.settings import PROVIDERS
from ulak.sandbox.world import World


class Control:
    """Handlers over one world and the pushes of its providers."""

    def __init__(self, world: World, pushes: Mapping[str, Pushes]) -> None:
        self.world, self.pushes = world, pushes
        self.replan()

    def replan(self) -> None:
        """Plans all pushes, to the receivers in the state file."""
        for name, pushes in self.pushes.items():
            pushes.clear()
            pushes.plan(self.world.standins[name].events)
            if name in self.world.callbacks:
                pushes.start(Callback(**self.world.callbacks[name]))

    def application(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/", self.show_urls),
                Route("/accounts", self.show_accounts),
                Route("/sends", self.show_sends),
                Route("/sends/{provider}", self.send, methods=["POST"]),
                Route("/truth", self.show_truth),
                Route("/truth/settled", self.show_settled),
                Route("/log", self.show_log),
                Route("/log/violations", self.show_violations),
                Route("/canaries", self.show_canaries),
                Route("/faults", self.change_faults, methods=["GET", "POST", "DELETE"]),
                Route("/limits", self.change_limit, methods=["POST"]),
                Route("/settings", self.change_settings, methods=["POST"]),
                Route("/{provider}/callback", self.start_pushes, methods=["POST"]),
                Route("/{provider}/pushes", self.show_pushes),
                Route("/reset", self.reset, methods=["POST"]),
            ],
            exception_handlers={
                ValueError: refuse,
                TypeError: refuse,
                KeyError: refuse,
            },
        )

    async def show_urls(self, request: Request) -> Response:
        """The base URL of each server."""
        del request
        return JSONResponse(self.world.urls)

    async def show_accounts(self, request: Request) -> Response:
        """Ready account records, credentials literal."""
        del request
        return JSONResponse(self.world.accounts())

    async def show_canaries(self, request: Request) -> Response:
        """Texts that must never leak."""
        del request
        return JSONResponse(self.world.canaries())

    async def show_sends(self, request: Request) -> Response:
        """What the sender would register, or for `provider=bip` the replies it got."""
        provider = request.query_params.get("provider")
        if provider == "bip":
            replies = self.world.bip.replies(time())
            return JSONResponse({"replies": write_times(replies)})
        return JSONResponse(self.world.sends(provider))

    async def send(self, request: Request) -> Response:
        """Sends `count` more now, all with `outcome`, or one send to `recipients`."""
        provider = known_provider(request.path_params["provider"])
        values = await read_values(request)
        outcome = values.get("outcome")
        if outcome is not None and outcome not in OUTCOMES:
            raise ValueError(f"there is no outcome {outcome}; known: {', '.join(OUTCOMES)}")
        recipients = [str(one).lstrip("+") for one in values.get("recipients", [])]
        batch, events = self.world.send(provider, int(values.get("count", 1)), outcome, recipients)
        if provider in self.pushes:
            self.pushes[provider].plan(events)
        body = {
            "batch": batch,
            "sends": self.world.sends(provider, batch),
            "replies": [],
        }
        if provider == "bip":
            body["replies"] = write_times(self.world.bip.replies(time(), batch))
        return JSONResponse(body, 201)

    async def show_truth(self, request: Request) -> Response:
        """The rows of the shared table as of now."""
        provider = request.query_params.get("provider")
        return await asyncio.to_thread(lambda: JSONResponse(self.world.truth(provider)))

    async def show_settled(self, request: Request) -> Response:
        """Whether every life that has an end has reached it, and when it does."""
        del request
        at, now = self.world.settles_at(), time()
        waiting = sum(pushes.waiting_by(max(at, now)) for pushes in self.pushes.values())
        settled = now >= at and waiting == 0
        return JSONResponse({"settled": settled, "at": iso(at), "pushes_waiting": waiting})

    async def show_log(self, request: Request) -> Response:
        """Every request with n greater than `since`."""
        since = int(request.query_params.get("since", "0"))
        return await asyncio.to_thread(lambda: JSONResponse(self.world.ledger.tell(since)))

    async def show_violations(self, request: Request) -> Response:
        """Those beyond a limit."""
        since = int(request.query_params.get("since", "0"))
        return JSONResponse(self.world.ledger.tell(since, violations=True))

    async def change_faults(self, request: Request) -> Response:
        """Orders trouble, takes all of it back (calm), or lists it."""
        faults = self.world.faults
        if request.method == "DELETE":
            faults.calm()
        if request.method == "POST":
            values = await read_values(request)
            faults.order(values.get("provider", "all"), values["kind"], values)
        return JSONResponse([asdict(fault) for fault in faults.orders])

    async def change_limit(self, request: Request) -> Response:
        """Changes parts of a limit."""
        values = await read_values(request)
        provider = known_provider(values.pop("provider"))
        return JSONResponse(asdict(self.world.settings.change_limit(provider, values)))

    async def change_settings(self, request: Request) -> Response:
        """Changes choices the documents leave open."""
        self.world.settings.change(await read_values(request))
        return JSONResponse(asdict(self.world.settings))

    async def start_pushes(self, request: Request) -> Response:
        """Pushes this provider's reports to this URL from now on."""
        provider = self._pushing(request)
        values = await read_values(request)
        callback: dict[str, str] = {"url": str(values["url"])}
        callback |= {name: str(value) for name, value in values.items() if name in ("user", "password")}
        self.world.callbacks[provider] = callback
        self.world.remember()
        self.pushes[provider].start(Callback(**callback))
        return JSONResponse(self.pushes[provider].tell())

    async def show_pushes(self, request: Request) -> Response:
        """What became of the pushes."""
        return JSONResponse(self.pushes[self._pushing(request)].tell())

    def _pushing(self, request: Request) -> str:
        """The provider of the path, if it is one that pushes."""
        provider = known_provider(request.path_params["provider"])
        if provider not in self.pushes:
            raise ValueError(f"{provider} pushes nothing; known: {', '.join(self.pushes)}")
        return provider

    async def reset(self, request: Request) -> Response:
        """A new life from now on."""
        del request
        self.world.reset()
        self.replan()
        return JSONResponse({"start": iso(self.world.start)})


def known_provider(name: str) -> str:
    """The name, if it is one of the five."""
    if name not in PROVIDERS:
        raise ValueError(f"there is no provider {name}; known: {', '.join(PROVIDERS)}")
    return name


async def read_values(request: Request) -> dict[str, Any]:
    """The JSON object of a request; nothing at all counts as an empty one."""
    body = await request.body()
    values = await request.json() if body else {}
    if not isinstance(values, dict):
        raise TypeError("a JSON object is expected")
    return values


def write_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with `sent_at` as ISO text."""
    return [{**row, "sent_at": iso(row["sent_at"])} for row in rows]


async def refuse(request: Request, error: Exception) -> Response:
    """An invalid request, explained in a sentence."""
    del request
    return JSONResponse({"error": str(error)}, 422)
