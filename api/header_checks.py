"""What the head of a request may say, before anybody acts on it."""

from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ulak.api.problems import problem


class HeaderChecks:
    """Refuses heads that two readers could understand differently, and answers HEAD like GET without its body.

    RFC 9110, 9.1: every server supports GET and HEAD; the server leaves the body away itself. RFC 9112, 6.1: a
    `Content-Length` beside `Transfer-Encoding` is an attempt to smuggle. RFC 9110, 11.6.2: one `Authorization`.
    """

    def __init__(self, app: ASGIApp) -> None:
        """`app`: what answers."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        why = _ambiguity(Headers(scope=scope))
        if why is not None:
            refusal = problem(HTTPStatus.BAD_REQUEST, why)
            refusal.headers["Connection"] = "close"
            await refusal(scope, receive, send)
            return
        # A copy: the server goes by its own, and leaves the body away.
        await self._app({**scope, "method": "GET"} if scope["method"] == "HEAD" else scope, receive, send)


def _ambiguity(headers: Headers) -> str | None:
    """What is wrong with the head; None where it is clear."""
    if "content-length" in headers and "transfer-encoding" in headers:
        return "The request has both Content-Length and Transfer-Encoding: send one of them."
    if len(headers.getlist("authorization")) > 1:
        return "The request has several Authorization headers: send one."
    return None
