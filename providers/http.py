"""The one HTTP door: the only user of httpx.

Exactly one request per permit: no redirect, no retry, no cookie, no proxy or password from the environment. The door
drives httpx's transport without its `Client`, which adds just these. Every fault of the network comes back as an error
of `providers.errors` whose sentence holds no URL: Vairo's key stands in the query, Organik's in the path.
"""

import logging
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version

import httpcore
import httpx

from core.metrics import histogram
from models.permit import Permit
from providers.adapter import Answer, Request
from providers.deadline import Deadline, DeadlineBackend
from providers.errors import AnswerNotUnderstood, OurBug, ProviderError, TryAgainSoon

PERMIT_SECONDS = 1.0
"""A permit is good for this long: afterwards the call row may already be taken for a lost one."""
LONGEST_DEADLINE_SECONDS = 75.0
CONNECT_SECONDS = 10.0
RESPONSE_CAP_BYTES = 64 * 1024 * 1024
_KEEP_ALIVE_SECONDS = 5.0
_SECONDS = histogram(
    "ulak_http_request_seconds", "One request to a provider, by HTTP status class.", ("account", "status")
)


class PermitExpiredError(Exception):
    """Nothing was sent: more than a second has passed since the call row was committed, or no connection was free.

    The fetch goes back uncounted.
    """


class PermitSpentError(Exception):
    """Nothing was sent: the permit had been used already, which is a bug of the caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A request that was made, whatever came of it."""

    outcome: Answer | ProviderError
    """The answer, whole; or why there is none (soon-errors mostly; never raised here)."""
    duration_seconds: float
    answered_boot: float
    """Boot clock when the answer was whole or given up: nothing of this request is on its way any more."""


class HttpDoor:
    """The process's way out. Threads share it; connections and TLS set-up are made when first needed."""

    def __init__(
        self,
        *,
        max_connections: int,
        boot: Callable[[], float],
        response_cap_bytes: int = RESPONSE_CAP_BYTES,
    ) -> None:
        """`boot`: `core.clock.boot`. `max_connections`: at least the number of threads."""
        self._boot = boot
        self._cap = response_cap_bytes
        self._deadline = Deadline(boot)
        self._limits = httpx.Limits(
            max_connections=max_connections,
            max_keepalive_connections=max_connections,
            keepalive_expiry=_KEEP_ALIVE_SECONDS,
        )
        self._lock = threading.Lock()
        self._transport: _Transport | None = None
        self._spent: dict[int, float] = {}
        self._agent = f"ulak/{_version()}"

    def send(self, request: Request, permit: Permit) -> Sent:
        """Make `request`, once; at most `permit.deadline_seconds` (≤ 75) after the permit's commit it has ended.

        Only a host name that cannot be resolved may hold the caller longer; then nothing is sent. Raises
        `PermitExpiredError` and `PermitSpentError`, always before a byte has left.
        """
        transport = self._open()
        ends = permit.committed_boot + min(permit.deadline_seconds, LONGEST_DEADLINE_SECONDS)
        started = self._spend(permit)
        with self._deadline.until(ends):
            outcome = self._outcome(transport, request, ends - started)
        answered = self._boot()
        if isinstance(outcome, Answer):
            # By PostgreSQL's clock, which every worker shares: this host's may be wrong.
            came_after = timedelta(seconds=answered - permit.committed_boot)
            outcome = replace(outcome, received_at=permit.asked_at + came_after)
        word = f"{outcome.status // 100}xx" if isinstance(outcome, Answer) else "none"
        _SECONDS.labels(permit.account_id, word).observe(answered - started)
        return Sent(outcome=outcome, duration_seconds=answered - started, answered_boot=answered)

    def close(self) -> None:
        """Close every idle connection. The door may be used again."""
        with self._lock:
            transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def _open(self) -> "_Transport":
        """The shared transport; building its TLS context costs some 50 ms, so it is built once."""
        with self._lock:
            if self._transport is None:
                self._transport = _Transport(self._limits, self._deadline)
            return self._transport

    def _spend(self, permit: Permit) -> float:
        """The moment at which the permit was used up; refuses a late and a second use."""
        with self._lock:
            moment = self._boot()
            if not 0 <= moment - permit.committed_boot <= PERMIT_SECONDS:
                raise PermitExpiredError("more than a second has passed since the call was committed")
            # A permit older than a second is refused above, so only young ones need to be remembered.
            self._spent = {call: at for call, at in self._spent.items() if moment - at <= PERMIT_SECONDS}
            if permit.call_id in self._spent:
                raise PermitSpentError("a permit is good for one request")
            self._spent[permit.call_id] = permit.committed_boot
            return moment

    def _outcome(self, transport: "_Transport", request: Request, left: float) -> Answer | ProviderError:
        """The answer, or the error that stands for what httpx raised."""
        try:
            asked = self._asked(request, left)
        except (httpx.InvalidURL, ValueError, TypeError) as error:
            return OurBug(f"The request could not be built: {type(error).__name__}.")
        try:
            return self._answer(transport.handle_request(asked))
        except httpx.PoolTimeout:
            raise PermitExpiredError("no connection was free within a second") from None
        except httpx.HTTPError as error:
            return _translated(error)
        except AnswerNotUnderstood as error:
            return error.with_traceback(None)

    def _asked(self, request: Request, left: float) -> httpx.Request:
        """The request as httpx takes it, its four time-outs within what is left."""
        timeout = httpx.Timeout(left, connect=min(CONNECT_SECONDS, left), pool=min(PERMIT_SECONDS, left))
        fixed = {"accept-encoding": "gzip", "user-agent": self._agent}
        return httpx.Request(
            request.method,
            request.url,
            headers={**{name.lower(): value for name, value in request.headers.items()}, **fixed},
            content=request.body,
            extensions={"timeout": timeout.as_dict()},
        )

    def _answer(self, response: httpx.Response) -> Answer:
        """The answer, read whole and unpacked, or refused as soon as it is larger than the cap."""
        try:
            coding = response.headers.get("content-encoding", "identity").strip().lower()
            body = _unpacked(response.iter_raw(), coding, self._cap)
        finally:
            response.close()
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(status=response.status_code, headers=headers, body=body)


class _Transport(httpx.HTTPTransport):
    """httpx's transport over sockets that obey the deadline."""

    def __init__(self, limits: httpx.Limits, deadline: Deadline) -> None:
        # Lines of these two show URLs (INFO) and headers (DEBUG), that is keys.
        for name in ("httpx", "httpcore"):
            logging.getLogger(name).setLevel(logging.WARNING)
        context = httpx.create_ssl_context(trust_env=False)
        super().__init__(verify=context, trust_env=False, limits=limits, retries=0)
        # httpx has no argument for the sockets' maker; its pool is made anew with ours.
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            retries=0,
            network_backend=DeadlineBackend(deadline),
        )


def _unpacked(chunks: Iterator[bytes], coding: str, cap: int) -> bytes:
    """The body, unpacked as it comes, so that a zip bomb is never held: at most `cap` bytes on either side."""
    if coding not in {"identity", "", "gzip", "x-gzip"}:
        raise AnswerNotUnderstood("The answer is packed in a way that was not asked for.")
    unpack = _Gunzip() if "gzip" in coding else None
    body, received = bytearray(), 0
    for chunk in chunks:
        received += len(chunk)
        body += unpack(chunk, cap + 1 - len(body)) if unpack else chunk
        if max(received, len(body)) > cap:
            raise AnswerNotUnderstood(f"The answer is larger than {cap} bytes.")
    if unpack and received and not unpack.is_whole:
        raise AnswerNotUnderstood("The packed answer broke off.")
    return bytes(body)


class _Gunzip:
    """A gzip stream, unpacked piece by piece, each piece with a limit."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(16 + zlib.MAX_WBITS)

    def __call__(self, packed: bytes, limit: int) -> bytes:
        """What `packed` holds, at most `limit` (> 0) bytes of it."""
        try:
            return self._stream.decompress(packed, limit)
        except zlib.error:
            raise AnswerNotUnderstood("The answer says that it is packed, but it is not.") from None

    @property
    def is_whole(self) -> bool:
        """Whether the stream has come to its own end."""
        return self._stream.eof


_SENTENCES: tuple[tuple[type[httpx.HTTPError], str], ...] = (
    (httpx.ConnectTimeout, "The provider's server could not be reached in time."),
    (httpx.WriteTimeout, "The provider's server did not take the request in time."),
    (httpx.ReadTimeout, "The provider did not answer in time."),
    (httpx.ReadError, "The connection broke while the answer was awaited."),
    (httpx.WriteError, "The connection broke while the request was sent."),
    (httpx.RemoteProtocolError, "The answer broke off or is not HTTP."),
)


def _translated(error: httpx.HTTPError) -> ProviderError:
    """What httpx raised, as an error of our tree: words of our own only, its text may hold the URL."""
    if isinstance(error, (httpx.LocalProtocolError, httpx.UnsupportedProtocol)):
        return OurBug(f"The request could not be sent: {type(error).__name__}.")
    if isinstance(error, httpx.ConnectError):
        return TryAgainSoon(_why_unreachable(error))
    for kind, sentence in _SENTENCES:
        if isinstance(error, kind):
            return TryAgainSoon(sentence)
    return TryAgainSoon(f"The request failed on its way: {type(error).__name__}.")


def _why_unreachable(error: BaseException) -> str:
    """Which step of connecting failed, so that a person knows where to look."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "The TLS certificate of the provider's server is not trusted."
        if isinstance(cause, ssl.SSLError):
            return "The TLS handshake with the provider's server failed."
        if isinstance(cause, socket.gaierror):
            return "The name of the provider's server could not be resolved."
        if isinstance(cause, ConnectionRefusedError):
            return "The provider's server refused the connection."
        cause = cause.__cause__ or cause.__context__
    return "The provider's server could not be reached."


def _version() -> str:
    """The installed version; a checkout that was never installed has none."""
    try:
        return version("ulak")
    except PackageNotFoundError:
        return "0"
