"""Which addresses of providers are accepted: where our credentials travel, in which form, and never in the clear."""

import re
from ipaddress import IPv6Address, ip_address
from typing import Final
from urllib.parse import urlsplit

from ulak.core.addresses import is_loopback

MAX_LENGTH: Final = 500
_ADDRESS_FORM: Final = 'base_url = "https://host/path", no user, query or fragment'
_PLAIN: Final = re.compile(r"[!#-;=?-\[\]_a-z~]+")
"""Visible ASCII that an address may hold as it is: RFC 3986, section 2, and brackets of IPv6."""
_ENCODED_CONTROL: Final = re.compile(r"(?i)%(?:[01][0-9a-f]|7f)")
_LABEL: Final = "[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_HOST_NAME: Final = re.compile(rf"(?i)(?=.{{1,253}}\.?$){_LABEL}(?:\.{_LABEL})*\.?")
_NUMERIC_LABEL: Final = re.compile(r"(?i)(?:0x[0-9a-f]*|\d+)")


def fault_of(url: object, *, allow_plain_http: bool) -> tuple[str, str] | None:
    """What is wrong with an account's `base_url`, and what would be right; None where it may be used."""
    # Before it is parsed: `urlsplit` drops tabs and line breaks without a word.
    if not isinstance(url, str) or not url or len(url) > MAX_LENGTH or not _PLAIN.fullmatch(url) or "\\" in url:
        return "it is no web address", f"{_ADDRESS_FORM}; a name with other letters in its xn-- form"
    try:
        parts = urlsplit(url)
        port_is_right = parts.port is None or parts.port > 0
    except ValueError:
        return "it is no web address", _ADDRESS_FORM
    is_bare = not (parts.username or parts.password or parts.query or parts.fragment or "@" in parts.netloc)
    is_whole = parts.scheme in {"http", "https"} and bool(parts.hostname) and is_bare and port_is_right
    if not is_whole or _ENCODED_CONTROL.search(url):
        return "it is no web address", _ADDRESS_FORM
    if (fault := _fault_of_host(parts.hostname or "")) is not None:
        return fault
    if allow_plain_http or not is_readable_on_the_way(url):
        return None
    problem = "the credentials would travel readable for everybody on the way"
    return problem, "https://…, or allow_plain_http = true beside it where the provider has no https"


def _fault_of_host(host: str) -> tuple[str, str] | None:
    try:
        address = ip_address(host)
    except ValueError:
        # A numeric last label makes the resolver read the name as an address: 0x7f000001 and 2130706433 are 127.0.0.1.
        is_name = bool(_HOST_NAME.fullmatch(host)) and not _NUMERIC_LABEL.fullmatch(host.rstrip(".").rpartition(".")[2])
        return None if is_name else ("its host is neither a name nor an address", f"{_ADDRESS_FORM}, IPv4 as 192.0.2.7")
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    address = mapped or address
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return "no provider is at such an address (link-local, multicast or unspecified)", _ADDRESS_FORM
    return None


def is_readable_on_the_way(url: str) -> bool:
    """Whether requests to this address leave this host unencrypted."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")
