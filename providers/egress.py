"""How an account's requests leave this machine: which certificates it trusts, and through which proxy.

Nothing of the environment is read here (`SSL_CERT_FILE`, `HTTPS_PROXY` and the like): only the account configures it.
"""

import re
import ssl
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ulak.core.credentials import CredentialError, is_reference, resolve_reference
from ulak.core.redaction import register_secret

PROXY_FORM = "http://host:port, or env:NAME or file:PATH that leads to http://user:password@host:port"
_PLAIN = re.compile(r"[!-~]*")
_HEADER_SAFE = re.compile(r"[^\x00-\x1f\x7f]*")


class EgressError(CredentialError):
    """An account's `ca_file` or `proxy` cannot be used; the text holds neither a password nor a proxy's address."""

    def __init__(self, what: str, problem: str, right: str) -> None:
        """`what`: which of the two; `problem`, `right`: parts of a sentence."""
        super().__init__(f"The account's {what} cannot be used: {problem}; right would be {right}.")
        self.problem = problem
        self.right = right


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress:
    """Whom an account trusts and which proxy it uses. Equal values share their connections."""

    ca_file: str | None = None
    """A PEM file of certificates that are trusted instead of the public ones."""
    proxy: str | None = field(default=None, repr=False)
    """`http://[user:password@]host[:port]`; None: directly."""


DIRECT = Egress()


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A proxy's address in parts."""

    url: str = field(repr=False)
    """Without user and password."""
    login: tuple[bytes, bytes] | None = field(repr=False, default=None)


def trusting(ca_file: str) -> ssl.SSLContext:
    """A client context that trusts the certificates of this file and no others; `EgressError` where it holds none."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        right = "a PEM file: blocks that begin with -----BEGIN CERTIFICATE-----"
        raise EgressError("ca_file", "the file holds no certificate that can be read", right) from None
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "no such path"
        right = "the path of a PEM file that exists and that this user may read"
        raise EgressError("ca_file", f"the file cannot be read ({why})", right) from None
    # Python 3.13 made this the default. Many companies' own authorities lack an extension that it demands.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def version_of(ca_file: str | None) -> tuple[int, int, int] | None:
    """Changes whenever the file does; None where there is none."""
    if ca_file is None:
        return None
    try:
        found = Path(ca_file).stat()
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def proxy_of(url: str) -> Proxy:
    """A proxy's address, read; its password becomes known to the redaction of logs. `EgressError` where it is none."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _no_proxy() from None
    is_address = bool(parts.hostname) and parts.path in {"", "/"} and not parts.query and not parts.fragment
    if parts.scheme != "http" or not is_address or port == 0 or url.count("@") > 1 or not _PLAIN.fullmatch(url):
        raise _no_proxy()
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    address = f"http://{host}:{port or 80}"
    if parts.username is None and parts.password is None:
        return Proxy(url=address)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if not user or ":" in user or not _HEADER_SAFE.fullmatch(user + password):
        raise _no_proxy()
    login = (user.encode(), password.encode())
    for secret in (password, parts.password, b64encode(b":".join(login)).decode()):
        if secret:
            register_secret(secret)
    return Proxy(url=address, login=login)


def resolved(proxy: str | None, resolve: Callable[[str], str] = resolve_reference) -> str | None:
    """The proxy's address behind an account's `proxy`; `CredentialError` where a reference leads nowhere."""
    return resolve(proxy) if proxy is not None and is_reference(proxy) else proxy


def check_egress(ca_file: str | None, proxy: str | None) -> None:
    """`CredentialError` where the account's egress settings cannot be used from this machine."""
    address = resolved(proxy)
    if address is not None:
        proxy_of(address)
    if ca_file is not None:
        trusting(ca_file)


def has_login(url: str) -> bool:
    """Whether an address that was written out holds a user or a password."""
    return "@" in url


def _no_proxy() -> EgressError:
    problem = "it is not the address of an HTTP proxy (https and socks proxies are not supported)"
    return EgressError("proxy", problem, f"{PROXY_FORM}, special characters of the password percent-encoded")
