"""Who is logged in: sealed cookies, and marks for forms.

A session lives in its cookie, sealed with a key made of the home's secret. It ends after twelve hours, at log-out, when
the token it was opened with is revoked or replaced, when all sessions of the person are ended, and when the secret is
removed, at every API process alike. What it opens is looked up for each request: a role is never kept in a cookie.
"""

import base64
import hmac
import secrets
from dataclasses import dataclass, field
from datetime import datetime

import msgspec
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import Engine

from ulak.api.auth import CONFIGURED, bearer_caller
from ulak.api.authorization import Caller
from ulak.api.pages.sign_on import Identity, SignOn
from ulak.models.access import Access, Role
from ulak.models.database import transaction
from ulak.models.events import Actor, Kind
from ulak.models.sessions import MAX_SESSION_AGE, access_of_token, database_now, end_session, is_valid
from ulak.models.tokens import PREFIX, bearer_of, digest

SESSION_TTL = MAX_SESSION_AGE
MAX_TOKEN_LENGTH = 512
MAX_COOKIE_LENGTH = 4000


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A log-in."""

    holder: str
    """The token's name; of a person the subject, as the provider of the sign-on gives it."""
    id: str
    mark: str = ""
    """Ties a session of the configured token to its value, and a person's to the provider."""
    kind: Kind = Kind.TOKEN
    label: str | None = None
    groups: tuple[str, ...] = ()
    """Of a person: what the role follows from."""
    opened_at: datetime | None = None
    """Of a person: by PostgreSQL's clock."""

    @property
    def actor(self) -> Actor:
        """Whose session it is."""
        return Actor(kind=self.kind, name=self.holder, label=self.label)


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

    sign_on: SignOn | None = None

    def bearer(self, token: str) -> Caller | None:
        """The holder of this token; None if unknown. Queries the database only for well-formed tokens."""
        if hmac.compare_digest(digest(token), digest(self.token)):
            return CONFIGURED
        if not token.startswith(PREFIX) or len(token) > MAX_TOKEN_LENGTH:
            return None
        bearer = bearer_of(self.engine, token)
        return None if bearer is None else bearer_caller(bearer)

    def open(self, actor: Actor) -> Session:
        """A new session of a token's bearer."""
        mark = self.keys.mark_of(self.token) if actor.kind is Kind.CONFIGURED else ""
        return Session(holder=actor.name, kind=actor.kind, id=secrets.token_urlsafe(18), mark=mark)

    def open_for(self, identity: Identity, sign_on: SignOn) -> Session:
        """A new session of a person."""
        with self.engine.connect() as connection:
            opened_at = database_now(connection)
        return Session(
            holder=identity.actor.name,
            kind=Kind.PERSON,
            id=secrets.token_urlsafe(18),
            mark=self.keys.mark_of(sign_on.name),
            label=identity.actor.label,
            groups=identity.groups,
            opened_at=opened_at,
        )

    def write(self, session: Session, now: datetime) -> str:
        """The session as its cookie."""
        return self._box().encrypt_at_time(msgspec.json.encode(session), int(now.timestamp())).decode()

    def read(self, cookie: str, now: datetime) -> "Seat | None":
        """The session of a cookie; None where it is not ours, is over, or its holder has no role any more.

        Raises the database's errors: a session that may have been ended elsewhere grants no access.
        """
        if len(cookie) > MAX_COOKIE_LENGTH:
            return None
        try:
            content = self._box().decrypt_at_time(
                _bytes(cookie), int(SESSION_TTL.total_seconds()), int(now.timestamp())
            )
            session = msgspec.json.decode(content, type=Session)
        except (InvalidToken, msgspec.MsgspecError):
            return None
        access = self._access(session)
        if access is None or not access.may(Role.READ):
            return None
        return Seat(session=session, caller=Caller(actor=session.actor, access=access))

    def end(self, session: Session) -> None:
        """Revoke the cookie in every process, in case a copy was kept."""
        with transaction(self.engine) as connection:
            end_session(connection, session.id, lasts=SESSION_TTL)

    def _access(self, session: Session) -> Access | None:
        """The session's current access; None if it was ended, or its credential is no longer valid."""
        match session.kind:
            case Kind.CONFIGURED:
                access = CONFIGURED.access if self._fits(session, self.token) else None
            case Kind.PERSON:
                is_here = self.sign_on is not None and self._fits(session, self.sign_on.name)
                access = self.sign_on.access_of(session.groups) if self.sign_on is not None and is_here else None
            case _:
                access = Access()
        if access is None or (session.kind is Kind.PERSON and session.opened_at is None):
            return None
        person = session.holder if session.kind is Kind.PERSON else None
        with self.engine.connect() as connection:
            if not is_valid(connection, session.id, person=person, since=session.opened_at):
                return None
            return access_of_token(connection, session.holder) if session.kind is Kind.TOKEN else access

    def _fits(self, session: Session, what: str) -> bool:
        return hmac.compare_digest(_bytes(session.mark), _bytes(self.keys.mark_of(what)))

    def _box(self) -> Fernet:
        return self.keys.box("session")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """A valid session, and its caller."""

    session: Session
    caller: Caller


def _bytes(text: str) -> bytes:
    """Also of what a stranger sent: headers may hold any byte."""
    return text.encode("utf-8", "surrogatepass")
