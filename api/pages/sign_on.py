"""Single sign-on with OpenID Connect: the authorization code flow with PKCE, state and nonce, by Authlib and joserfc.

https://openid.net/specs/openid-connect-core-1_0.html, RFC 7636 (PKCE), RFC 9207 (issuer of the answer). All requests go
out through `ulak.api.outbound`. Nothing that a provider or a stranger sends gets into a log line or a page but the
words of `SignOnError`.
"""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from secrets import token_urlsafe
from threading import Lock
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from authlib.common.errors import AuthlibBaseError
from authlib.oauth2.client import OAuth2Client
from authlib.oidc.core import CodeIDToken
from authlib.oidc.discovery import get_well_known_url
from joserfc import jwk, jwt
from joserfc.errors import JoseError

from ulak.api.outbound import Outbound, OutboundError, Reply
from ulak.core import clock
from ulak.core.addresses import is_loopback
from ulak.core.plain_text import one_line
from ulak.core.settings import Settings, SettingsError
from ulak.models.access import Access, Grant, Role
from ulak.models.events import Actor, Kind

CALLBACK: Final = "/login/sso/callback"
ALGORITHMS: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "Ed25519",
)
"""Signatures by a key that only the provider has: never `none`, and no HMAC, whose key would be a public one."""
METADATA_SECONDS: Final = 3600.0
LEEWAY_SECONDS: Final = 60
"""How far the clocks of provider and host may differ."""
MAX_CLAIM_LENGTH: Final = 255
MAX_TOKEN_LENGTH: Final = 64 * 1024
_KEY_TYPES: Final = frozenset({"RSA", "EC", "OKP"})


class SignOnError(Exception):
    """Nobody was let in. `kind` names the text of the page (`sso.<kind>`); the message is for the log."""

    def __init__(self, kind: str, why: str) -> None:
        """`why`: words of ours."""
        super().__init__(why)
        self.kind = kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What a log-in began with; kept in the visitor's sealed cookie."""

    state: str
    nonce: str
    verifier: str
    target: str
    """Where the visitor wanted to go."""

    @classmethod
    def begin(cls, target: str) -> "Attempt":
        """A new one."""
        return cls(state=token_urlsafe(24), nonce=token_urlsafe(24), verifier=token_urlsafe(48), target=target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The identity that the provider asserts."""

    actor: Actor
    groups: tuple[str, ...]
    """Marks of the groups that have a role here and that the person is in."""


def grants_by_group(text: str) -> dict[str, Grant]:
    """`ULAK_OIDC_ROLES` read: `GROUP=ROLE` or `GROUP=ROLE@ACCOUNT,ACCOUNT`, separated by semicolons. ValueError."""
    found: dict[str, Grant] = {}
    for part in filter(None, (each.strip() for each in text.split(";"))):
        group, equals, rest = part.rpartition("=")
        role, at, names = rest.partition("@")
        accounts = frozenset(each.strip() for each in names.split(",") if each.strip()) if at else None
        group = group.strip()
        if not equals or not group or accounts == frozenset() or group in found:
            raise ValueError(part)
        found[group] = Grant(role=Role(role.strip()), accounts=accounts)
    if not found:
        raise ValueError(text)
    return found


def sign_on_for(settings: Settings) -> "SignOn | None":
    """What the settings say; None without an issuer. `SettingsError` where something is missing or wrong."""
    if settings.oidc_issuer is None:
        return None
    needed = {
        "ULAK_OIDC_CLIENT_ID": settings.oidc_client_id,
        "ULAK_OIDC_ROLES": settings.oidc_roles,
        "ULAK_PUBLIC_URL": settings.public_url,
    }
    if missing := [name for name, value in needed.items() if not value]:
        raise SettingsError(f"ULAK_OIDC_ISSUER is set, and {', '.join(missing)} must be set with it.")
    if not settings.is_https and not is_loopback(urlsplit(settings.public_url or "").hostname or ""):
        raise SettingsError("ULAK_PUBLIC_URL must be https for the single sign-on: its codes would travel readable.")
    try:
        grants = grants_by_group(settings.oidc_roles or "")
    except ValueError:
        raise SettingsError(
            "ULAK_OIDC_ROLES is wrong: write GROUP=ROLE or GROUP=ROLE@ACCOUNT,ACCOUNT, separated by semicolons, each "
            "group once; roles are read, support, operate, admin."
        ) from None
    secret = settings.oidc_client_secret
    return SignOn(
        issuer=settings.oidc_issuer,
        client_id=settings.oidc_client_id or "",
        client_secret=None if secret is None else secret.get_secret_value(),
        redirect_uri=f"{settings.public_url}{CALLBACK}",
        scope=settings.oidc_scopes,
        claim=settings.oidc_claim,
        grants=grants,
        outbound=Outbound(ca_file=settings.oidc_ca_file),
    )


@dataclass(slots=True, kw_only=True)
class SignOn:
    """One provider. For any number of threads."""

    issuer: str
    client_id: str
    client_secret: str | None = field(repr=False)
    redirect_uri: str
    scope: str
    claim: str
    grants: Mapping[str, Grant]
    outbound: Outbound
    _lock: Lock = field(default_factory=Lock, repr=False)
    _metadata: dict[str, Any] | None = None
    _valid_until: float = 0.0
    _keys: jwk.KeySet | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Of these sessions: those of another provider or client are over."""
        return f"{self.issuer} {self.client_id}"

    def access_of(self, groups: Sequence[str]) -> Access:
        """What these groups give at this moment."""
        held = set(groups)
        return Access(tuple(grant for group, grant in self.grants.items() if _mark(group) in held))

    def begin(self, attempt: Attempt) -> str:
        """Where the visitor's browser goes to log in."""
        metadata = self._found()
        url: str
        url, _ = self._client(metadata).create_authorization_url(
            metadata["authorization_endpoint"],
            state=attempt.state,
            code_verifier=attempt.verifier,
            nonce=attempt.nonce,
        )
        return url

    def finish(self, attempt: Attempt, query: Mapping[str, str]) -> Identity:
        """Who came back with this query; `SignOnError` for anybody who cannot be let in."""
        if not hmac.compare_digest(query.get("state", "").encode(), attempt.state.encode()):
            raise SignOnError("stale", "the state is not the one that this browser was sent with")
        metadata = self._found()
        self._check_issuer(metadata, query.get("iss"))
        if "error" in query:
            raise SignOnError("refused", "the provider refused")
        if not query.get("code"):
            raise SignOnError("stale", "the answer holds no code")
        answer = self._tokens(metadata, attempt, query["code"])
        return self._identity(self._claims(metadata, attempt, answer))

    def check(self) -> None:
        """`SignOnError` where the provider does not answer, or with something that is of no use."""
        metadata = self._found()
        self._fetch_keys(metadata)

    # -------------------------------------------------------------------------------------------- the provider

    def _found(self) -> dict[str, Any]:
        """Its metadata, looked up at most once an hour."""
        with self._lock:
            if self._metadata is None or clock.boot() >= self._valid_until:
                self._metadata = self._discover()
                self._valid_until = clock.boot() + METADATA_SECONDS
            return self._metadata

    def _discover(self) -> dict[str, Any]:
        metadata = self._get(get_well_known_url(self.issuer, external=True))
        if metadata.get("issuer") != self.issuer:
            raise SignOnError("away", "the provider's document names another issuer")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not self._is_safe(metadata.get(name)):
                raise SignOnError("away", f"the provider's document holds no usable {name}")
        return metadata

    def _is_safe(self, url: Any) -> bool:
        """Whether what is sent there is encrypted, or stays on this host like the issuer itself."""
        if not isinstance(url, str):
            return False
        try:
            parts = urlsplit(url)
        except ValueError:
            return False
        is_local = is_loopback(parts.hostname or "") and is_loopback(urlsplit(self.issuer).hostname or "")
        return (parts.scheme == "https" and bool(parts.hostname)) or (parts.scheme == "http" and is_local)

    def _get(self, url: str) -> dict[str, Any]:
        try:
            return self.outbound.send("GET", url).good().json()
        except OutboundError as error:
            raise SignOnError("away", f"the provider {error}") from None

    def _check_issuer(self, metadata: Mapping[str, Any], given: str | None) -> None:
        """RFC 9207: an answer of another provider must not be taken for this one's."""
        is_due = metadata.get("authorization_response_iss_parameter_supported") is True
        if given != self.issuer and (given is not None or is_due):
            raise SignOnError("wrong", "the answer is of another issuer")

    def _client(self, metadata: Mapping[str, Any]) -> OAuth2Client:
        supported = metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        method = "client_secret_basic" if "client_secret_basic" in supported else "client_secret_post"
        return OAuth2Client(
            _Session(self.outbound),
            client_id=self.client_id,
            client_secret=self.client_secret,
            token_endpoint_auth_method=method if self.client_secret else "none",
            scope=self.scope,
            redirect_uri=self.redirect_uri,
            code_challenge_method="S256",
        )

    def _tokens(self, metadata: Mapping[str, Any], attempt: Attempt, code: str) -> Mapping[str, Any]:
        """The answer to the code, which is good once."""
        try:
            answer: Mapping[str, Any] = self._client(metadata).fetch_token(
                metadata["token_endpoint"],
                grant_type="authorization_code",
                code=code,
                code_verifier=attempt.verifier,
                redirect_uri=self.redirect_uri,
            )
        except OutboundError as error:
            raise SignOnError("away", f"the provider {error}") from None
        except (AuthlibBaseError, ValueError, TypeError):
            raise SignOnError("wrong", "the provider did not take the code") from None
        return answer

    # ----------------------------------------------------------------------------------------------- the token

    def _claims(self, metadata: Mapping[str, Any], attempt: Attempt, answer: Mapping[str, Any]) -> dict[str, Any]:
        """The claims of the ID token, fully verified."""
        text = answer.get("id_token")
        if not isinstance(text, str) or len(text) > MAX_TOKEN_LENGTH:
            raise SignOnError("wrong", "the provider gave no ID token")
        token = self._opened(metadata, text)
        options: Any = {
            "iss": {"essential": True, "value": self.issuer},
            "aud": {"essential": True, "value": self.client_id},
            "nonce": {"essential": True, "value": attempt.nonce},
        }
        given = {"nonce": attempt.nonce, "client_id": self.client_id, "access_token": answer.get("access_token")}
        claims = CodeIDToken(token.claims, token.header, options=options, params=given)
        try:
            claims.validate(now=int(clock.now().timestamp()), leeway=LEEWAY_SECONDS)
        except (JoseError, AuthlibBaseError, ValueError, TypeError) as error:
            raise SignOnError("wrong", f"the ID token is not valid here ({type(error).__name__})") from None
        return dict(claims)

    def _opened(self, metadata: Mapping[str, Any], text: str) -> jwt.Token:
        """The token, its signature checked; with keys looked up anew where the provider may have changed them."""
        for keys in (self._keys, None):
            try:
                return jwt.decode(text, keys or self._fetch_keys(metadata), algorithms=ALGORITHMS)
            except (JoseError, ValueError, TypeError) as error:
                if keys is None:
                    raise SignOnError("wrong", f"the ID token is not signed rightly ({type(error).__name__})") from None
        raise AssertionError("the second round ends in either way")

    def _fetch_keys(self, metadata: Mapping[str, Any]) -> jwk.KeySet:
        """The provider's public keys of the kinds that we take."""
        listed = self._get(metadata["jwks_uri"]).get("keys")
        keys: list[Any] = []
        for each in listed if isinstance(listed, list) else ():
            if isinstance(each, dict) and each.get("kty") in _KEY_TYPES and each.get("use", "sig") == "sig":
                try:
                    keys.append(jwk.import_key(each))
                except (JoseError, ValueError, TypeError):
                    continue
        if not keys:
            raise SignOnError("away", "the provider shows no key that signs")
        self._keys = jwk.KeySet(keys)
        return self._keys

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        subject = claims.get("sub")
        if not isinstance(subject, str) or not subject or len(subject) > MAX_CLAIM_LENGTH or not subject.isprintable():
            raise SignOnError("wrong", "the ID token names no subject")
        given = _claim(claims, self.claim)
        if given is None:
            raise SignOnError("no_role", f"the ID token has no claim {self.claim}")
        groups = tuple(_mark(group) for group in self.grants if group in given)
        if not groups:
            raise SignOnError("no_role", "the person is in no group that has a role")
        return Identity(actor=Actor(kind=Kind.PERSON, name=subject, label=_label(claims)), groups=groups)


def _mark(group: str) -> str:
    """A group in a session's cookie: its name may be long, and there may be many."""
    return sha256(group.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _claim(claims: Mapping[str, Any], name: str) -> list[str] | None:
    """The words of a claim; `a.b` is looked for within `a` where there is no claim of the whole name."""
    found: Any = claims
    for part in [name] if name in claims else name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(found, str):
        return [found]
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else None


def _label(claims: Mapping[str, Any]) -> str | None:
    """What people know the person by."""
    for name in ("preferred_username", "email", "name"):
        value = claims.get(name)
        if isinstance(value, str) and value.strip():
            return one_line(value).strip()[:MAX_CLAIM_LENGTH].replace("\x00", "")
    return None


_OK: Final = 200
_FAILED: Final = 500


class _Session:
    """What Authlib takes for a session of requests; it sends through our client."""

    def __init__(self, outbound: Outbound) -> None:
        """`outbound`: sends."""
        self._outbound = outbound

    def post(self, url: str, data: Mapping[str, str], headers: Mapping[str, str], auth: Any) -> "_Response":
        """A form, signed by Authlib's `auth`."""
        url, given, body = auth.prepare("POST", url, dict(headers), urlencode(data))
        return _Response(self._outbound.send("POST", url, headers=given, body=body.encode()))


class _Response:
    """The answer as Authlib reads it."""

    def __init__(self, reply: Reply) -> None:
        """`reply`: whole."""
        self.status_code = reply.status
        self._reply = reply

    def json(self) -> dict[str, Any]:
        """The object of the body."""
        return self._reply.json()

    def raise_for_status(self) -> None:
        """`OutboundError` for a status of failure."""
        if self.status_code >= _FAILED:
            raise OutboundError(f"answered with status {self.status_code}")
        if self.status_code != _OK:
            raise ValueError(self.status_code)
