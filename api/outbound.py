"""The one client for requests that do not go to messaging providers: the single sign-on, and whatever comes to it.

One request, as `ulak.providers.http` makes them: no redirect, no retry, no cookie, no proxy, certificate or password
from the environment, and every socket operation within one deadline. An answer is read up to a cap, unpacked never.
Errors hold no address and nothing of an answer.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from ulak.core import clock
from ulak.providers.deadline import Deadline
from ulak.providers.egress import Egress
from ulak.providers.http import Transport

SECONDS: Final = 10.0
"""From the first byte to the last."""
MAX_BYTES: Final = 256 * 1024
_CONNECTIONS: Final = 4
_OK: Final = 200
_REDIRECTS: Final = range(300, 400)


class OutboundError(Exception):
    """No response; the text is a clause naming the cause, without addresses or received data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole answer that is no redirect."""

    status: int
    body: bytes = field(repr=False)

    def good(self) -> "Reply":
        """The same; `OutboundError` for any status other than 200."""
        if self.status != _OK:
            raise OutboundError(f"answered with status {self.status}")
        return self

    def json(self) -> dict[str, Any]:
        """The object that the body holds; `OutboundError` for anything else."""
        try:
            found = msgspec.json.decode(self.body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise OutboundError("answered with something that is no JSON") from None
        if not isinstance(found, dict):
            raise OutboundError("answered with JSON that is no object")
        return found


class Outbound:
    """Threads share it; connections are made when first needed."""

    def __init__(self, *, ca_file: Path | None = None, seconds: float = SECONDS, largest: int = MAX_BYTES) -> None:
        """`ca_file`: certificates that are trusted in place of the public ones; `EgressError` where it holds none."""
        self._deadline = Deadline(clock.boot)
        self._seconds = seconds
        self._largest = largest
        limits = httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=0)
        self._transport = Transport(limits, self._deadline, Egress(ca_file=None if ca_file is None else str(ca_file)))

    def send(self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Reply:
        """Make the request, once. `OutboundError` where no whole answer came, or a redirect."""
        # A pool that keeps none may still lend a connection in the instant before it closes it.
        fixed = {
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": "ulak",
            "connection": "close",
        }
        given = {name.lower(): value for name, value in (headers or {}).items()}
        timeout = httpx.Timeout(self._seconds).as_dict()
        try:
            request = httpx.Request(method, url, headers=given | fixed, content=body, extensions={"timeout": timeout})
        except (httpx.InvalidURL, ValueError, TypeError) as error:
            raise OutboundError(f"has an address that cannot be used ({type(error).__name__})") from None
        with self._deadline.until(clock.boot() + self._seconds):
            try:
                response = self._transport.handle_request(request)
                try:
                    return self._read(response)
                finally:
                    response.close()
            except httpx.HTTPError as error:
                raise OutboundError(_why(error)) from None

    def close(self) -> None:
        """Close every connection."""
        self._transport.close()

    def _read(self, response: httpx.Response) -> Reply:
        if response.status_code in _REDIRECTS:
            raise OutboundError("answered with a redirect, which is not followed")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise OutboundError("answered with a packed body, which was not asked for")
        body = bytearray()
        for chunk in response.stream:  # type: ignore[union-attr]
            body += chunk
            if len(body) > self._largest:
                raise OutboundError(f"answered with more than {self._largest} bytes")
        return Reply(status=response.status_code, body=bytes(body))


def _why(error: httpx.HTTPError) -> str:
    """Words of our own: those of httpx may hold the address."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "shows a certificate that is not trusted"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.TimeoutException):
        return "did not answer in time"
    if isinstance(error, httpx.ConnectError):
        return "cannot be reached"
    return f"broke the answer off ({type(error).__name__})"
