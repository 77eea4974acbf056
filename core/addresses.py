"""Addresses that people configure: each check returns the address in its one form or raises `ValueError`."""

import re
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from pydantic import SecretStr


def is_loopback(host: str) -> bool:
    """Whether a host name or an address means this host itself."""
    host = host.strip("[]").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def server_address(*schemes: str) -> Callable[[SecretStr], SecretStr]:
    """A check of a server's address, which may hold a password."""

    def check(url: SecretStr) -> SecretStr:
        text = url.get_secret_value()
        parts = urlsplit(text)
        # Libraries split an address elsewhere if its password holds a bare special character: a piece of the password
        # would be taken for the host, shown in errors and looked up in the DNS.
        is_unambiguous = text.count("@") == parts.netloc.count("@") <= 1 and (parts.port is None or parts.port > 0)
        if parts.scheme not in schemes or not is_unambiguous:
            raise ValueError(parts.scheme)
        return url

    return check


def web_address(url: str) -> str:
    """An http or https address without user and password."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.password:
        raise ValueError(url)
    return url


def origin(url: str) -> str:
    """`https://host[:port]` without anything behind it, in lower case."""
    parts = urlsplit(web_address(url))
    if parts.path not in {"", "/"} or parts.query or parts.fragment or not re.fullmatch(r"[!-~]+", url):
        raise ValueError(url)
    return f"{parts.scheme}://{parts.netloc.lower()}"


def issuer(url: str) -> str:
    """An OpenID provider's issuer: https, or on this host; without query and fragment (OpenID Connect Core, 2)."""
    parts = urlsplit(web_address(url))
    is_safe = parts.scheme == "https" or is_loopback(parts.hostname or "")
    if not is_safe or parts.query or parts.fragment or not re.fullmatch(r"[!-~]+", url):
        raise ValueError(url)
    return url


def mail_addresses(text: str) -> str:
    """Bare addresses separated by commas, without the blanks."""
    found = [each.strip() for each in text.split(",")]
    if not all(re.fullmatch(r"[!-~]+@[!-~]+", each) and not set(each) & set('<>",;()') for each in found):
        raise ValueError(text)
    return ",".join(found)


def mail_address(text: str) -> str:
    """One bare address."""
    found = mail_addresses(text)
    if "," in found:
        raise ValueError(text)
    return found


def networks(text: str) -> str:
    """Addresses and networks separated by commas, or `*`, without the blanks."""
    items = [item.strip() for item in text.split(",")]
    for item in items:
        if item != "*":
            ip_network(item)
    return ",".join(items)
