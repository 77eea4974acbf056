"""An OpenID provider of a few lines over real HTTP on loopback: its own keys, PKCE, codes that are good once."""

import json
import secrets
import threading
import time
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from joserfc import jwk, jwt
from joserfc.jwk import RSAKey

CLIENT_ID, CLIENT_SECRET = "ulak-at-the-provider", "canary-secret-of-the-client"


@dataclass
class Provider:
    """`with Provider() as provider:`; its fields may be changed while it runs."""

    person: dict[str, Any] = field(
        default_factory=lambda: {"sub": "u-17", "preferred_username": "ayse", "groups": ["destek"]}
    )
    """The claims about whoever logs in."""
    claims: dict[str, Any] = field(default_factory=dict)
    """Beside these and the standard ones; None takes a claim away."""
    sign: Callable[["Provider", dict[str, Any]], str] | None = None
    """Makes the ID token in place of the provider's own way."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Over the standard ones."""
    replies: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    """Answers by path, in place of the usual ones."""
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "first", "use": "sig"}))
    log: list[str] = field(default_factory=list)
    """The paths that were asked for."""
    forms: list[dict[str, str]] = field(default_factory=list)
    """What came to the token endpoint."""
    _codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def issuer(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/realm"

    def rotate(self, kid: str = "second") -> None:
        """A new key in place of the old one."""
        self.key = RSAKey.generate_key(2048, {"kid": kid, "use": "sig"})

    def token(self, claims: dict[str, Any]) -> str:
        """The claims, signed as they should be."""
        return jwt.encode({"alg": "RS256", "kid": self.key.kid}, claims, self.key, algorithms=["RS256"])

    # -------------------------------------------------------------------------------------------- the endpoints

    def document(self) -> dict[str, Any]:
        """What /.well-known/openid-configuration says."""
        base = self.issuer
        standard = {
            "issuer": base,
            "authorization_endpoint": f"{base}/authorize",
            "token_endpoint": f"{base}/token",
            "jwks_uri": f"{base}/keys",
            "token_endpoint_auth_methods_supported": ["client_secret_basic"],
        }
        return standard | self.metadata

    def authorize(self, query: dict[str, str]) -> str:
        """Where the browser of somebody who has logged in is sent."""
        code = secrets.token_urlsafe(8)
        self._codes[code] = query
        return f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state'], 'iss': self.issuer})}"

    def exchange(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """The answer to a code."""
        self.forms.append(form)
        asked = self._codes.pop(form.get("code", ""), None)
        expected = f"{quote(CLIENT_ID)}:{quote(CLIENT_SECRET)}"
        if b64decode(authorization.removeprefix("Basic ")).decode() != expected:
            return 401, {"error": "invalid_client"}
        digest = sha256(form.get("code_verifier", "").encode()).digest()
        challenge = urlsafe_b64encode(digest).rstrip(b"=").decode()
        if (
            asked is None
            or (asked["code_challenge"], asked["code_challenge_method"]) != (challenge, "S256")
            or asked["redirect_uri"] != form.get("redirect_uri")
        ):
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        standard = {"iss": self.issuer, "aud": CLIENT_ID, "exp": now + 300, "iat": now, "nonce": asked["nonce"]}
        claims = {name: value for name, value in (standard | self.person | self.claims).items() if value is not None}
        token = self.sign(self, claims) if self.sign is not None else self.token(claims)
        return 200, {"access_token": "at", "token_type": "Bearer", "id_token": token}

    def keys(self) -> dict[str, Any]:
        """The public keys, among them kinds that nobody should take."""
        odd = {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"}
        return {"keys": [odd, {"kty": "new-kind"}, jwk.import_key(self.key.as_dict(private=False)).as_dict()]}


class _Server(ThreadingHTTPServer):
    daemon_threads = True


def _handler(provider: Provider) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            provider.log.append(parts.path)
            if parts.path.endswith("/authorize"):
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                self._say(302, {"Location": provider.authorize(query)}, b"")
                return
            made = {"/.well-known/openid-configuration": provider.document, "/keys": provider.keys}
            self._json(200, made[parts.path.removeprefix("/realm")]())

        def do_POST(self) -> None:
            provider.log.append(self.path)
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            self._json(*provider.exchange(form, self.headers.get("Authorization", "")))

        def _json(self, status: int, value: Any) -> None:
            self._say(status, {"Content-Type": "application/json"}, json.dumps(value).encode())

        def _say(self, status: int, headers: dict[str, str], body: bytes) -> None:
            path = urlsplit(self.path).path.removeprefix("/realm")
            status, headers, body = provider.replies.get(path, (status, headers, body))
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    return Handler
