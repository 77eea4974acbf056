"""Who is logged in: sealed cookies, marks for forms, and a brake on guessing.

A session lives in its cookie, sealed with a key made of the home's secret. It ends after twelve hours, at log-out, when
the token it was opened with is revoked or replaced, and when the secret is removed, at every API process alike.
"""

import base64
import hmac
import secrets
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Lock

import msgspec
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import Engine

from models.database import transaction
from models.sessions import end_session, is_valid
from models.tokens import PREFIX, digest, holder_of
from workers.api.auth import CONFIGURED

LASTS = timedelta(hours=12)
LONGEST_TOKEN = 512
LONGEST_COOKIE = 1024

TRIES, TRIES_OF_ALL, WITHIN_SECONDS = 5, 60, 60.0
"""So many wrong tokens an address, and all together, may try in a minute."""
MOST_ADDRESSES = 10_000


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A log-in."""

    holder: str
    """The token's name; `configured` for `ULAK_API_TOKEN`."""
    id: str
    mark: str = ""
    """Ties a session of the configured token to its value."""


class Keys:
    """Keys for separate purposes, derived from one secret (HKDF, RFC 5869)."""

    def __init__(self, secret: str) -> None:
        """`secret`: of the home, or of this process alone."""
        self._secret = secret.encode()

    def box(self, purpose: str) -> Fernet:
        """What seals, and opens again, for one purpose."""
        return Fernet(self._derived(purpose))

    def mark_of(self, token: str) -> str:
        """Identifies a token without revealing it."""
        return self._derived(f"token:{token}").decode()

    def _derived(self, purpose: str) -> bytes:
        info = purpose.encode("utf-8", "surrogateescape")
        return base64.urlsafe_b64encode(HKDF(SHA256(), length=32, salt=None, info=info).derive(self._secret))


class FormMarks:
    """What a visitor's forms carry, so that another site cannot make a browser send one."""

    def __init__(self, box: Fernet) -> None:
        """`box`: for this purpose alone."""
        self._box = box

    def make(self, visit_id: str) -> str:
        """A mark for a form of this visitor."""
        return self._box.encrypt(_bytes(visit_id)).decode()

    def fits(self, visit_id: str, mark: str) -> bool:
        """Whether the mark was made for this visitor."""
        try:
            found = self._box.decrypt(_bytes(mark))
        except InvalidToken:
            return False
        return hmac.compare_digest(found, _bytes(visit_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """Opens, reads and ends sessions."""

    engine: Engine
    keys: Keys
    token: str = field(repr=False)
    """The configured token."""

    def holder(self, token: str) -> str | None:
        """Whose token this is; None where it is nobody's. Asks the database only about what may be one of ours."""
        if hmac.compare_digest(digest(token), digest(self.token)):
            return CONFIGURED
        if not token.startswith(PREFIX) or len(token) > LONGEST_TOKEN:
            return None
        return holder_of(self.engine, token)

    def open(self, holder: str) -> Session:
        """A new session."""
        mark = self.keys.mark_of(self.token) if holder == CONFIGURED else ""
        return Session(holder=holder, id=secrets.token_urlsafe(18), mark=mark)

    def write(self, session: Session, now: datetime) -> str:
        """The session as its cookie."""
        return self._box().encrypt_at_time(msgspec.json.encode(session), int(now.timestamp())).decode()

    def read(self, cookie: str, now: datetime) -> Session | None:
        """The session of a cookie; None where it is not ours, is over, or its token is no more.

        Raises the database's errors: what may have been ended elsewhere lets nobody in.
        """
        if len(cookie) > LONGEST_COOKIE:
            return None
        try:
            content = self._box().decrypt_at_time(_bytes(cookie), int(LASTS.total_seconds()), int(now.timestamp()))
            session = msgspec.json.decode(content, type=Session)
        except (InvalidToken, msgspec.MsgspecError):
            return None
        return session if self._is_valid(session) else None

    def end(self, session: Session) -> None:
        """Refuse the cookie from now on at every process, should somebody have kept a copy."""
        with transaction(self.engine) as connection:
            end_session(connection, session.id, lasts=LASTS)

    def _is_valid(self, session: Session) -> bool:
        """Whether nobody ended the session, and the token that opened it would still open one."""
        is_configured = session.holder == CONFIGURED
        if is_configured and not hmac.compare_digest(_bytes(session.mark), _bytes(self.keys.mark_of(self.token))):
            return False
        with self.engine.connect() as connection:
            return is_valid(connection, session.id, token_name=None if is_configured else session.holder)

    def _box(self) -> Fernet:
        return self.keys.box("session")


@dataclass(slots=True)
class Attempts:
    """Counts wrong tokens, by address and in all, in this process."""

    _failed: dict[str, deque[float]] = field(default_factory=dict)
    _all: deque[float] = field(default_factory=deque)
    _lock: Lock = field(default_factory=Lock)

    def are_too_many(self, address: str, now: float) -> bool:
        """Whether this address must wait. `now`: of the boot clock."""
        with self._lock:
            mine = _recent(self._failed.get(address, deque()), now)
            return len(mine) >= TRIES or len(_recent(self._all, now)) >= TRIES_OF_ALL

    def note_failure(self, address: str, now: float) -> None:
        """One more."""
        with self._lock:
            if len(self._failed) >= MOST_ADDRESSES:
                self._failed = {each: times for each, times in self._failed.items() if _recent(times, now)}
            if len(self._failed) < MOST_ADDRESSES:
                self._failed.setdefault(address, deque(maxlen=TRIES)).append(now)
            self._all.append(now)


def _recent(times: deque[float], now: float) -> deque[float]:
    while times and times[0] <= now - WITHIN_SECONDS:
        times.popleft()
    return times


def _bytes(text: str) -> bytes:
    """Also of what a stranger sent: headers may hold any byte."""
    return text.encode("utf-8", "surrogatepass")
