"""Who is logged in: signed cookies, and tokens for forms.

A session lives in its cookie alone, signed with a secret of the home: it ends after twelve hours, at log-out (in this
process), when the token it was opened with is revoked or replaced, and when the secret is removed.
"""

import base64
import binascii
import hmac
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from threading import Lock

import msgspec
from sqlalchemy import Engine

from models.tokens import PREFIX, digest, holder_of, list_tokens
from workers.api.auth import CONFIGURED

LASTS_SECONDS = 12 * 3600
LONGEST_TOKEN = 512
LONGEST_COOKIE = 1024


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A log-in."""

    holder: str
    """The token's name; `configured` for `ULAK_API_TOKEN`."""
    id: str
    expires: int
    """Seconds since 1970."""
    mark: str = ""
    """Ties a session of the configured token to its value."""


class Signer:
    """Signs and checks with keys derived from one secret."""

    def __init__(self, secret: str) -> None:
        """`secret`: of the home, or of this process alone."""
        self._secret = secret.encode()

    def key(self, purpose: str) -> bytes:
        """A key of 32 bytes for one purpose."""
        return hmac.digest(self._secret, b"key:" + purpose.encode(), sha256)

    def mark(self, purpose: str, text: str) -> str:
        """What only this signer can say of `text` for `purpose`."""
        return _encode(hmac.digest(self.key(purpose), text.encode("utf-8", "surrogateescape"), sha256))

    def is_mark(self, purpose: str, text: str, mark: str) -> bool:
        """Whether `mark` is what this signer says of `text`, compared in constant time."""
        return hmac.compare_digest(self.mark(purpose, text).encode(), mark.encode("utf-8", "surrogateescape"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """Opens, reads and ends sessions."""

    engine: Engine
    signer: Signer
    token: str = field(repr=False)
    """The configured token."""
    _ended: dict[str, int] = field(default_factory=dict, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def holder(self, token: str) -> str | None:
        """Whose token this is; None where it is nobody's. Asks the database only about what may be one of ours."""
        if hmac.compare_digest(digest(token), digest(self.token)):
            return CONFIGURED
        if not token.startswith(PREFIX) or len(token) > LONGEST_TOKEN:
            return None
        return holder_of(self.engine, token)

    def open(self, holder: str, now: datetime) -> Session:
        """A new session."""
        mark = self._token_mark() if holder == CONFIGURED else ""
        expires = int(now.timestamp()) + LASTS_SECONDS
        return Session(holder=holder, id=secrets.token_urlsafe(18), expires=expires, mark=mark)

    def write(self, session: Session) -> str:
        """The session as its cookie."""
        payload = _encode(msgspec.json.encode(session))
        return f"{payload}.{self.signer.mark('session', payload)}"

    def read(self, cookie: str, now: datetime) -> Session | None:
        """The session of a cookie; None where it is not ours, is over, or its token is no more."""
        payload, dot, mark = cookie.partition(".")
        if not dot or len(cookie) > LONGEST_COOKIE or not self.signer.is_mark("session", payload, mark):
            return None
        try:
            session = msgspec.json.decode(_decode(payload), type=Session)
        except (binascii.Error, ValueError, msgspec.MsgspecError):
            return None
        is_over = session.expires <= now.timestamp() or session.id in self._ended
        return None if is_over or not self._stands(session) else session

    def end(self, session: Session, now: datetime) -> None:
        """Refuse the cookie from now on, should somebody have kept a copy."""
        with self._lock:
            for gone in [each for each, expires in self._ended.items() if expires <= now.timestamp()]:
                del self._ended[gone]
            self._ended[session.id] = session.expires

    def _stands(self, session: Session) -> bool:
        """Whether the token that opened the session would still open one."""
        if session.holder == CONFIGURED:
            return hmac.compare_digest(session.mark.encode(), self._token_mark().encode())
        with self.engine.connect() as connection:
            tokens = list_tokens(connection)
        return any(token.name == session.holder and token.revoked_at is None for token in tokens)

    def _token_mark(self) -> str:
        return self.signer.mark("token", self.token)


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
