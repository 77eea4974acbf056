"""Which names this host goes by, where API and browser run on one machine.

A web page elsewhere can let a name of its own lead to 127.0.0.1 (DNS rebinding) and read what requires no token.
"""

from http import HTTPStatus
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ulak.api.problems import problem
from ulak.core.addresses import is_loopback

READABLE = ("/metrics", "/openapi.json", "/docs")
"""Paths that need no token and reveal something about the accounts or the API."""


class KnownHosts:
    """Answers `READABLE` only under an address, a name of this host, or the public one. For an API on loopback."""

    def __init__(self, app: ASGIApp, public_url: str | None) -> None:
        """`app`: what answers."""
        self._app = app
        self._public = None if public_url is None else urlsplit(public_url).hostname

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or refuse it."""
        if scope["type"] == "http" and scope["path"].startswith(READABLE) and not self._knows(scope):
            detail = "This name is unknown here: ask by address, as localhost, or set ULAK_PUBLIC_URL to this name."
            await problem(HTTPStatus.MISDIRECTED_REQUEST, detail)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        try:
            host = urlsplit(f"//{Headers(scope=scope).get('host', '')}").hostname or ""
        except ValueError:
            return False
        return is_loopback(host) or host == self._public or _is_address(host)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
