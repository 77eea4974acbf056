"""The one HTTP door: the only user of httpx.

Exactly one request per permit: no redirect, no retry, no cookie, no proxy, certificate or password from the
environment. The door drives httpx's transport without its `Client`, which adds just these. Every fault of the network
comes back as an error of `ulak.providers.errors` whose sentence holds no URL: Vairo's key is in the query,
Organik's in the path.
"""

import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import httpcore
import httpx

from ulak.core.content_coding import ContentCodingError, ExpandedTooLargeError, unpack
from ulak.core.memory_budget import Budget
from ulak.core.metrics import histogram
from ulak.models.permit import MAX_DEADLINE_SECONDS, Permit
from ulak.providers.adapter import Answer, Request
from ulak.providers.deadline import Deadline, DeadlineBackend
from ulak.providers.egress import DIRECT, Egress, proxy_of, trusting, version_of
from ulak.providers.errors import AnswerNotUnderstood, OurBug, PauseAccount, ProviderError, TryAgainSoon
from ulak.providers.value_limits import VALUE_BYTES, check_values

PERMIT_SECONDS = 1.0
"""A permit is good for this long: afterwards the call row may already be taken for a lost one."""
CONNECT_SECONDS = 10.0
KEPT_OF_A_FLOOD_BYTES = 1024 * 1024
"""How much of an answer beyond the cap is kept with its refusal."""
SMALL_BYTES = 256 * 1024
"""Answers up to this size, as nearly all are, need no room of the budget …"""
LARGE_ANSWERS_BYTES = 32 * 1024 * 1024
"""… which larger ones of all threads share, from the first byte beyond until they are stored."""
_KEEP_ALIVE_SECONDS = 5.0
_UNUSED_SECONDS = 300.0
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
    refused: Answer | None = None
    """The answer that `outcome` refuses because its body cannot be unpacked or held: the bytes as they came."""
    room: "Room | None" = None
    """What the answer holds of the budget, given back when this record is no longer referenced."""
    duration_seconds: float
    answered_boot: float
    """Boot clock when the answer was whole or given up: nothing of this request is on its way any more."""

    @property
    def answer(self) -> Answer | None:
        """What came, read or refused; None where no answer came."""
        return self.outcome if isinstance(self.outcome, Answer) else self.refused


class Room:
    """What one answer holds of the budget for large ones."""

    def __init__(self, budget: Budget) -> None:
        """Nothing is held at first."""
        self._budget = budget
        self._held = 0

    def __del__(self) -> None:
        """Give it back, however the step of this answer ends."""
        self.shrink(0)

    @property
    def is_used(self) -> bool:
        """Whether it holds any."""
        return self._held > 0

    def take(self, amount: int, seconds: float) -> None:
        """Hold `amount`, all of it at once: waiting for more while holding some could deadlock.

        Raises `NoRoomError` where it does not come within so many seconds.
        """
        if not self._held:
            if not self._budget.wait(amount, seconds):
                raise NoRoomError
            self._held = amount

    def shrink(self, amount: int) -> None:
        """Give back all but `amount`."""
        surplus = self._held - amount
        if surplus > 0:
            self._held = amount
            self._budget.give(surplus)


class NoRoomError(Exception):
    """Other large answers held all the room until the deadline."""


class HttpDoor:
    """The process's HTTP client. Threads share it; connections and TLS set-up are made when first needed."""

    def __init__(
        self,
        *,
        max_connections: int,
        boot: Callable[[], float],
        large_answers_bytes: int = LARGE_ANSWERS_BYTES,
    ) -> None:
        """`boot`: `ulak.core.clock.boot`. `max_connections`: at least the number of threads."""
        self._boot = boot
        self._budget = Budget(large_answers_bytes)
        self._deadline = Deadline(boot)
        self._limits = httpx.Limits(
            max_connections=max_connections,
            max_keepalive_connections=max_connections,
            keepalive_expiry=_KEEP_ALIVE_SECONDS,
        )
        self._lock = threading.Lock()
        self._lines: dict[Egress, _Line] = {}
        self._spent: dict[int, float] = {}
        self._agent = f"ulak/{_version()}"

    def prepare(self, egress: Egress) -> None:
        """Make ready what a request on this way needs; `EgressError` where its `ca_file` or `proxy` cannot be used.

        The slow part of the first request is done here, before its call is committed.
        """
        with self._lent(egress):
            pass

    def send(self, request: Request, permit: Permit, egress: Egress = DIRECT) -> Sent:
        """Make `request`, once; at most `permit.deadline_seconds` (≤ 75) after the permit's commit it has ended.

        The deadline includes a proxy's handshake. Only a host name that cannot be resolved may hold the caller
        longer; then nothing is sent. Raises `PermitExpiredError`, `PermitSpentError` and `EgressError`, always before
        a byte has left.
        """
        with self._lent(egress) as transport:
            ends = permit.committed_boot + min(permit.deadline_seconds, MAX_DEADLINE_SECONDS)
            started = self._spend(permit)
            room = Room(self._budget)
            with self._deadline.until(ends):
                outcome, refused = self._outcome(transport, request, _Reading(room=room, ends=ends, boot=self._boot))
            answered = self._boot()
        # By PostgreSQL's clock, which every worker shares: this host's may be wrong.
        received_at = permit.asked_at + timedelta(seconds=answered - permit.committed_boot)
        if isinstance(outcome, Answer):
            outcome = replace(outcome, asked_at=permit.asked_at, received_at=received_at)
        if refused is not None:
            refused = replace(refused, received_at=received_at)
        sent = Sent(
            outcome=outcome,
            refused=refused,
            duration_seconds=answered - started,
            answered_boot=answered,
            room=room,
        )
        word = f"{sent.answer.status // 100}xx" if sent.answer is not None else "none"
        _SECONDS.labels(permit.account_id, word).observe(answered - started)
        return sent

    def close(self) -> None:
        """Close every idle connection. The door may be used again."""
        with self._lock:
            lines, self._lines = self._lines, {}
            idle = [line for line in lines.values() if not line.users]
        for line in idle:
            line.transport.close()

    @contextmanager
    def _lent(self, egress: Egress) -> Iterator["Transport"]:
        """The transport of this way, shared by all who use it; a changed `ca_file` gets a new one.

        One that was replaced is closed when its last user is done.
        """
        version = version_of(egress.ca_file)
        gone: list[_Line] = []
        with self._lock:
            line = self._lines.get(egress)
            if line is None or line.version != version:
                # Building a TLS context costs some 50 ms, so it is built once.
                made = _Line(transport=Transport(self._limits, self._deadline, egress), version=version)
                gone = self._replace(egress, made)
                line = made
            line.users += 1
        for each in gone:
            each.transport.close()
        try:
            yield line.transport
        finally:
            with self._lock:
                line.users -= 1
                line.used_at = self._boot()
                is_gone = not line.users and self._lines.get(egress) is not line
            if is_gone:
                line.transport.close()

    def _replace(self, egress: Egress, made: "_Line") -> list["_Line"]:
        """Keep this line; returns the unused ones: its predecessor, and those that no account refers to any more."""
        before = self._lines.pop(egress, None)
        others = [(way, line) for way, line in self._lines.items() if not line.users and way != DIRECT]
        oldest = self._boot() - _UNUSED_SECONDS if others else 0.0
        idle = [way for way, line in others if line.used_at < oldest]
        self._lines[egress] = made
        gone = [self._lines.pop(way) for way in idle]
        return gone if before is None or before.users else [*gone, before]

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

    def _outcome(
        self, transport: "Transport", request: Request, reading: "_Reading"
    ) -> tuple[Answer | ProviderError, Answer | None]:
        """The response, or the error for httpx's exception; and the response that such an error rejects."""
        try:
            asked = self._asked(request, reading.seconds_left())
        except (httpx.InvalidURL, ValueError, TypeError) as error:
            return OurBug(f"The request could not be built: {type(error).__name__}."), None
        try:
            return _answer(transport.handle_request(asked), request, reading)
        except httpx.PoolTimeout:
            raise PermitExpiredError("no connection was free within a second") from None
        except httpx.HTTPError as error:
            return _translated(error, "The proxy" if transport.has_proxy else "The provider's server"), None
        except NoRoomError:
            # Not the account's fault, nor the provider's.
            return TryAgainSoon("Other large answers were being read; this one was not.", is_outage=False), None

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """Under what an answer is read: the room it takes, and until when (boot clock)."""

    room: Room
    ends: float
    boot: Callable[[], float]

    def seconds_left(self) -> float:
        """Until the deadline."""
        return self.ends - self.boot()


def _answer(
    response: httpx.Response, request: Request, reading: _Reading
) -> tuple[Answer | ProviderError, Answer | None]:
    """The answer, read whole, unpacked and its values counted; else an error and the answer as it came.

    An HTTP error counts by its status even where its body cannot be unpacked or held: the adapter gets its bytes then.
    """
    try:
        body, problem = _received(response, request.largest_bytes, reading)
    finally:
        response.close()
    headers = {name.lower(): value for name, value in response.headers.items()}
    came = Answer(status=response.status_code, headers=headers, body=body)
    if problem is None:
        try:
            plain = _unpacked(body, headers.get("content-encoding"), request.largest_bytes, reading)
            values = check_values(plain, request.most_values, count_short=reading.room.is_used)
            reading.room.shrink(len(plain) + values * VALUE_BYTES)
        except ContentCodingError as error:
            problem = error.sentence("answer")
        except AnswerNotUnderstood as error:
            problem = error.message
        else:
            # What the adapter gets is packed no more.
            rest = {name: value for name, value in headers.items() if name != "content-encoding"}
            return replace(came, headers=rest, body=plain), None
    reading.room.shrink(len(body))
    if came.status >= HTTPStatus.BAD_REQUEST:
        return replace(came, body=came.body[:SMALL_BYTES]), None
    return AnswerNotUnderstood(problem, raw=body), came


def _unpacked(body: bytes, declared: str | None, cap: int, reading: _Reading) -> bytes:
    """The body unpacked; room is taken as soon as it turns out to be large."""
    try:
        return unpack(body, declared, min(SMALL_BYTES, cap))
    except ExpandedTooLargeError:
        reading.room.take(cap, reading.seconds_left())
        return unpack(body, declared, cap)


@dataclass(slots=True, kw_only=True)
class _Line:
    """A transport and who uses it at the moment."""

    transport: "Transport"
    version: tuple[int, int, int] | None
    users: int = 0
    used_at: float = 0.0


class Transport(httpx.HTTPTransport):
    """httpx's transport over sockets that obey the deadline. The door's, and that of `ulak.api.outbound`."""

    def __init__(self, limits: httpx.Limits, deadline: Deadline, egress: Egress) -> None:
        """`deadline`: shared with the sender."""
        # Lines of these two show URLs (INFO) and headers (DEBUG), that is keys.
        for name in ("httpx", "httpcore"):
            logging.getLogger(name).setLevel(logging.WARNING)
        proxy = proxy_of(egress.proxy) if egress.proxy is not None else None
        context = trusting(egress.ca_file) if egress.ca_file else httpx.create_ssl_context(trust_env=False)
        super().__init__(verify=context, trust_env=False, limits=limits, retries=0)
        self.has_proxy = proxy is not None
        # httpx has no argument for the sockets' maker; its pool is made anew with ours.
        common: dict[str, Any] = {
            "ssl_context": context,
            "max_connections": limits.max_connections,
            "max_keepalive_connections": limits.max_keepalive_connections,
            "keepalive_expiry": limits.keepalive_expiry,
            "retries": 0,
            "network_backend": DeadlineBackend(deadline),
        }
        if proxy is None:
            self._pool = httpcore.ConnectionPool(**common)
        else:
            self._pool = _ProxyPool(proxy.url, proxy_auth=proxy.login, **common)


class _ProxyPool(httpcore.HTTPProxy):
    """httpcore's way through a proxy, with brackets around an address of version 6, as RFC 9110 requires.

    httpcore 1.0 leaves them out of the request to the proxy, which then cannot separate the port from the address.
    """

    def handle_request(self, request: httpcore.Request) -> httpcore.Response:
        """Make the request."""
        url = request.url
        if b":" in url.host:
            host = b"[%b]" % url.host
            request.url = httpcore.URL(scheme=url.scheme, host=host, port=url.port, target=url.target)
        return super().handle_request(request)


def _received(response: httpx.Response, cap: int, reading: _Reading) -> tuple[bytes, str | None]:
    """The body as it came, and what is wrong with it; of one that is larger than `cap`, its beginning."""
    body = bytearray()
    for chunk in response.stream:  # type: ignore[union-attr]
        body += chunk
        if len(body) > cap:
            return bytes(body[: min(cap, KEPT_OF_A_FLOOD_BYTES)]), f"The answer is larger than {cap} bytes."
        if len(body) > SMALL_BYTES:
            reading.room.take(cap, reading.seconds_left())
    surplus = _surplus(response)
    if surplus:
        # They would be taken for the beginning of the next answer on this connection.
        response.extensions["network_stream"].close()
    if surplus.strip():
        return bytes(body) + surplus, "The answer is longer than its Content-Length says."
    return bytes(body), None


def _surplus(response: httpx.Response) -> bytes:
    """Bytes that came after the end of an answer whose body has been read; httpcore leaves them in its parser."""
    stream: Any = response.stream
    parser = stream._httpcore_stream._stream._connection._h11_state  # noqa: SLF001 - there is no public way to them
    found: bytes = parser.trailing_data[0]
    return found


_SENTENCES: tuple[tuple[type[httpx.HTTPError], str], ...] = (
    (httpx.ConnectTimeout, "{} could not be reached in time."),
    (httpx.WriteTimeout, "{} did not take the request in time."),
    (httpx.ReadTimeout, "The provider did not answer in time."),
    (httpx.ReadError, "The connection broke while the answer was awaited."),
    (httpx.WriteError, "The connection broke while the request was sent."),
    (httpx.RemoteProtocolError, "The answer broke off or is not HTTP."),
)


def _translated(error: httpx.HTTPError, peer: str) -> ProviderError:
    """What httpx raised, as an error of our tree: words of our own only, its text may hold the URL.

    `peer`: whom we connect to, at the beginning of a sentence.
    """
    if isinstance(error, (httpx.LocalProtocolError, httpx.UnsupportedProtocol)):
        return OurBug(f"The request could not be sent: {type(error).__name__}.")
    if isinstance(error, httpx.ProxyError):
        return _refused_by_proxy(error)
    if isinstance(error, httpx.ConnectError):
        return TryAgainSoon(_why_unreachable(error, peer))
    for kind, sentence in _SENTENCES:
        if isinstance(error, kind):
            return TryAgainSoon(sentence.format(peer))
    return TryAgainSoon(f"The request failed on its way: {type(error).__name__}.")


def _refused_by_proxy(error: httpx.ProxyError) -> ProviderError:
    """A proxy that opened no connection: its status is at the beginning of the error's text."""
    status = str(error)[:3]
    if status == str(int(HTTPStatus.PROXY_AUTHENTICATION_REQUIRED)):
        return PauseAccount("The proxy refuses the user and password of the account's proxy (HTTP 407).", code=status)
    told = f" (HTTP {status})" if status.isascii() and status.isdigit() else ""
    return TryAgainSoon(f"The proxy opened no connection to the provider's server{told}.")


def _why_unreachable(error: BaseException, peer: str) -> str:
    """Which step of connecting failed, so that a person knows where to look."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "The TLS certificate of the provider's server is not trusted."
        if isinstance(cause, ssl.SSLError):
            return "The TLS handshake with the provider's server failed."
        if isinstance(cause, socket.gaierror):
            name = "proxy" if peer == "The proxy" else "provider's server"
            return f"The name of the {name} could not be resolved."
        if isinstance(cause, ConnectionRefusedError):
            return f"{peer} refused the connection."
        cause = cause.__cause__ or cause.__context__
    return f"{peer} could not be reached."


def _version() -> str:
    """The installed version; a checkout that was never installed has none."""
    try:
        return version("ulak")
    except PackageNotFoundError:
        return "0"
