"""What must never be read in a log line, masked: phone numbers, secrets, telling parts of URLs.

Pure functions over text and values, besides one registry of known secrets. Masking twice changes
nothing more. When in doubt about a long run of digits it is masked: a hidden order id costs a look
into the table, a leaked number cannot be taken back.
"""

import json
import re
import threading
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from html import escape
from typing import Any, Final
from urllib.parse import quote, quote_plus
from uuid import UUID

MASK: Final = "***"
NUMBER_MASK: Final = "*******"
MIN_SECRET_LENGTH: Final = 4
MIN_ENCODED_LENGTH: Final = 8
"""A shorter piece of base64 would be found in many words."""
MAX_DEPTH: Final = 8

_SECRET_NAMES: Final = frozenset(
    [
        "accesskey",
        "accesskeyid",
        "accesskeysecret",
        "accesstoken",
        "apikey",
        "apitoken",
        "auth",
        "authorization",
        "callbackpassword",
        "cookie",
        "credentials",
        "flowerauth",
        "hash",
        "key",
        "passwd",
        "password",
        "proxyauthorization",
        "pwd",
        "secret",
        "setcookie",
        "token",
        "xapikey",
    ],
)
_SECRET_ENDINGS: Final = ("password", "secret", "apikey", "apitoken", "accesstoken", "authtoken")
_CONTENT_NAMES: Final = frozenset(
    ["body", "content", "messagebody", "messagetext", "payload", "rawbody", "smstext", "text"],
)

_UUID: Final = r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
_CLOCK_TIME: Final = r"[0-2]\d:[0-5]\d(?::[0-6]\d(?:[.,]\d+)?)?(?:Z|[ ]?[+-]\d\d:?\d\d(?!\d))?"
_ISO_TIME: Final = rf"(?:19|20)\d\d-[01]\d-[0-3]\d(?!\d)(?:[T ]{_CLOCK_TIME})?"
_PLAIN: Final = re.compile(rf"[a-z_.\-]*|{_UUID}|{_ISO_TIME}")
"""Names of events, fields, tasks and loggers, times and ids of tasks: no form below is found in them."""
_MIN_DIGITS: Final = 10
"""A number without a plus has at least so many digits; shorter runs are our own ids."""
_SUSPICIOUS: Final = re.compile(
    rf"(?i)[/<]|authorization|bearer|basic|dlga|cookie|pass|pwd|secret|api|access|key|hash|token|"
    r"\u015fifre|\u015e\u0130FRE|sifre|parola|"
    # From the first plus on, since a search from each would look through the rest of the text again.
    rf"\A[^+]*+\+(?:\D*+\d){{4}}|(?:\d\D*+){{{_MIN_DIGITS}}}",
)
"""Each form below needs one of these, so most values of our own lines are searched once and not once for each form."""

# In JSON within JSON the quotes have a backslash before them. A bare `key` counts only as a word of its own, unlike the
# one of `provider_key`.
_KEY_VALUE: Final = re.compile(
    r"(?i)(?P<name>(?:password|passwd|pwd|secret|api[_-]?key|api[_-]?token"
    r"|access[_-]?key(?:[_-]?(?:id|secret))?|access[_-]?token|x-api-key|\u015fifre|\u015e\u0130FRE|sifre|parola"
    r"|(?<![\w-])(?:key|hash|token))"
    r"(?:\\*[\"'])?\s*[:=]\s*(?:\\*[\"'])?)(?P<value>[^\s\"'&,;<>)}\]\\]+)",
)
_COOKIE: Final = re.compile(
    r"(?i)(?P<name>\b(?:set-)?cookie[\"']?\s*[:=,]\s*(?:b?[\"'])?)(?P<value>[^\s\"'][^\r\n\"']*)"
)
_OUR_TOKEN: Final = re.compile(r"ulak_(?=[a-z0-9_-]{0,42}[A-Z])[A-Za-z0-9_-]{20,}")
"""A token of `ulak tokens create`, or most of one."""
_HEADER: Final = re.compile(
    r"(?i)(?P<name>\b(?:proxy-)?authorization[\"']?\s*[:=,]\s*+(?:b?[\"'])?)"
    r"(?P<value>(?:basic|bearer|dlga|digest|token)?\s*+[^\s\"',;)}\]]+)",
)
_SCHEME: Final = re.compile(r"\b((?i:bearer|basic|dlga))\s+(?=\S*[0-9A-Z=])[A-Za-z0-9+/=._~:-]{6,}")
_ELEMENT: Final = re.compile(r"(?i)(<(key|hash|password|secret|token|apikey)>)[^<]*(?=</)")

# Bounded, since each of its letters may begin a scheme: without a bound a long word would be read once for each.
_URL: Final = re.compile(r"(?i)[a-z][a-z0-9+.-]{0,30}://[^\s\"'<>\\]+")
_TARGET: Final = re.compile(r"(?<![^\s\"'(=\[])/[^\s\"'<>\\]*")
_USERINFO: Final = re.compile(r"(?i)^([a-z][a-z0-9+.-]*://)([^/?#]*)@")
_LONG_SEGMENT: Final = re.compile(r"(?i)(?<=/)(?:[0-9a-f]{24,}|(?=[^/?#]*\d)[0-9a-z_]{28,})(?=[/?#]|$)")
_PARAMETER: Final = re.compile(r"([?&;#][^=&;#?]*=)[^&;#]+")
_BARE_QUERY: Final = re.compile(r"\?[^=&*]{12,}$")

# Blanks, dashes and invisible marks of every kind, and how they look in a URL and in HTML.
_BLANK: Final = r"\ \-\u00a0\u2000-\u200d\u202f\u205f\u2060\u3000\ufeff\u00ad\u2010-\u2015\u2212"
_SEPARATOR: Final = rf"(?:[{_BLANK}./_,\t\r\n]|%20|&nbsp;)"
_GAP: Final = rf"{_SEPARATOR}{{1,3}}"
_MAYBE_GAP: Final = rf"{_SEPARATOR}{{0,3}}"
# A masked number beside it is no part of a number: masking twice must change nothing more.
_END: Final = r"(?!\d|\*{7})"
_OCTET: Final = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
# What holds many digits and is no phone number. Alternatives are tried from left to right, so
# these protect their digits from the forms below them.
_NUMBER: Final = re.compile(
    rf"""
    (?P<keep>
        \b{_UUID}\b
      | (?<![0-9A-Za-z])(?=[0-9A-Fa-f]*[A-Fa-f])(?=[0-9A-Fa-f]*\d)[0-9A-Fa-f]{{16,}}(?![0-9A-Za-z])
      | (?<!\d){_ISO_TIME}
      | (?<!\d)[0-3]\d[./-][01]\d[./-](?:19|20)\d\d(?!\d)(?:[ ][0-2]\d:[0-5]\d(?::[0-6]\d)?)?
      | (?<![\d.])(?:{_OCTET}\.){{3}}{_OCTET}(?!\d|\.\d)
      | (?<![\d.+])(?:\d{{1,9}}|1\d{{9}})\.\d+(?![\d.])
    )
    | (?<!\*{{7}})(?P<number>
        \+\d{{8,15}}{_END}
      | (?<!\d)(?:(?:\+[ ]?90|90|0090|0){_MAYBE_GAP})?(?:\(0?[2-5]\d\d\)|0?[2-5]\d\d){_MAYBE_GAP}\d{{3}}
            {_MAYBE_GAP}\d\d{_MAYBE_GAP}\d\d{_END}
      | \+\d{{1,3}}{_MAYBE_GAP}(?:\(\d{{1,5}}\)|\d{{1,5}})(?:{_GAP}\d{{2,8}}){{1,5}}{_END}
      | (?<!\d)(?:1{_GAP})?(?:\([2-9]\d\d\)|[2-9]\d\d){_GAP}\d{{3}}{_GAP}\d{{4}}{_END}
      | (?<!\d)(?:00[1-9]\d{{7,14}}|\d{{10,15}}){_END}
      | (?<!\d)(?:\(\d{{1,5}}\)|\d{{1,5}})(?:[{_BLANK}]\d{{2,8}}){{2,5}}{_END}
    )
    """,
    re.VERBOSE,
)
_COMPACT_TIME: Final = re.compile(
    r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:[01]\d|2[0-3])[0-5]\d[0-5]\d",
)
_ESCAPE: Final = re.compile(r"%[0-9A-F]{2}")
_COUNTED: Final = re.compile(r"<\d{1,12} (?:bytes|characters)>")
_EPOCH: Final = re.compile(r"1\d{9}(?:\d{3})?")


class KnownSecrets:
    """Secrets that a process has opened. Reading takes no lock: the pattern is replaced whole."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forms: frozenset[str] = frozenset()
        self._pattern: re.Pattern[str] | None = None
        self._in_json: frozenset[str] = frozenset()

    def add(self, secret: str) -> None:
        """Masks this value from now on, in each of its spellings; any thread, any number of times."""
        forms = _spellings(secret)
        if len(secret) < MIN_SECRET_LENGTH or forms <= self._forms:
            return
        with self._lock:
            self._forms |= forms
            longest_first = sorted(self._forms, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, longest_first)))
            self._in_json = frozenset(json.dumps(form, ensure_ascii=False)[1:-1] for form in self._forms)

    def mask(self, text: str) -> str:
        """The text without any known secret."""
        return self._pattern.sub(MASK, text) if self._pattern else text

    def is_in_json(self, document: str) -> bool:
        """Whether a text of this document would be masked; cheap for a long one. Non-ASCII is not escaped in it."""
        return any(form in document for form in self._in_json)


def _spellings(secret: str) -> set[str]:
    """As it is; as URLs (either case, slashes kept or not), JSON and HTML hold it; within base64 at each place."""
    in_json = json.dumps(secret)[1:-1]
    in_urls = {
        quote(secret, safe="", errors="replace"),
        quote(secret, errors="replace"),
        quote_plus(secret, errors="replace"),
    }
    in_urls |= {_ESCAPE.sub(lambda match: match[0].lower(), each) for each in in_urls}
    return {secret, *in_urls, in_json, in_json.replace("/", "\\/"), escape(secret), *_in_base64(secret)}


def _in_base64(secret: str) -> Iterator[str]:
    """What base64 makes of it whatever comes before and after, as in the header of `user:secret`."""
    raw = secret.encode("utf-8", "surrogatepass")
    for before, unsure in ((0, 0), (1, 2), (2, 3)):
        sure = (before + len(raw)) * 8 // 6
        for encode in (b64encode, urlsafe_b64encode):
            found = encode(bytes(before) + raw).decode()[unsure:sure]
            if len(found) >= MIN_ENCODED_LENGTH:
                yield found


_KNOWN: Final = KnownSecrets()


def register_secret(value: str) -> None:
    """Mask this exact value from now on wherever it occurs, also as URLs, JSON, HTML and base64 spell it.

    Values under four characters are ignored: replacing them would make every line unreadable.
    """
    _KNOWN.add(value)


def redact_text(text: str) -> str:
    """The text with secrets, telling URL parts and phone numbers masked; the rest unchanged."""
    text = _OUR_TOKEN.sub(MASK, _KNOWN.mask(text))
    if _PLAIN.fullmatch(text) or not _SUSPICIOUS.search(text):
        return text
    return _mask_forms(text)


def _mask_forms(text: str) -> str:
    if "://" in text:
        text = _URL.sub(lambda match: redact_url(match[0]), text)
    if "/" in text:
        text = _TARGET.sub(lambda match: redact_url(match[0]), text)
    text = _ELEMENT.sub(rf"\g<1>{MASK}", text)
    text = _HEADER.sub(rf"\g<name>{MASK}", text)
    text = _COOKIE.sub(rf"\g<name>{MASK}", text)
    text = _SCHEME.sub(rf"\1 {MASK}", text)
    text = _KEY_VALUE.sub(rf"\g<name>{MASK}", text)
    return _NUMBER.sub(_mask_number, text)


def redact_url(url: str) -> str:
    """A URL or a request target without passwords, query values and long keys in its path."""
    url = _USERINFO.sub(_mask_userinfo, url)
    path, mark, rest = _split_query(url)
    path = _LONG_SEGMENT.sub(MASK, path)
    return path + _BARE_QUERY.sub(f"?{MASK}", _PARAMETER.sub(rf"\g<1>{MASK}", mark + rest))


def redact_value(value: Any, *, depth: int = 0) -> Any:
    """The same for any value: mappings and sequences are walked, other objects become text.

    Values under a telling key (`password`, `authorization`, `key` …) are masked whatever they
    are; message bodies are replaced by their length; bytes likewise. The argument is not changed.
    """
    if value is None or isinstance(value, bool | float | datetime | date | time | timedelta | UUID):
        return value
    if isinstance(value, int):
        text = str(value)
        masked = redact_text(text) if len(text) >= _MIN_DIGITS else _KNOWN.mask(text)
        return value if masked == text else masked
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if depth >= MAX_DEPTH:
        return "…"
    return _redact_compound(value, depth + 1)


def redact_field(name: Any, value: Any, *, depth: int = 0) -> Any:
    """One named value, masked like `redact_value`."""
    plain = _plain_name(str(name))
    if value is None or isinstance(value, bool):
        return value
    if plain in _SECRET_NAMES or plain.endswith(_SECRET_ENDINGS):
        return MASK
    if plain in _CONTENT_NAMES and isinstance(value, str):
        if _COUNTED.fullmatch(value):
            return value
        return f"<{len(value)} characters>"
    return redact_value(value, depth=depth)


@lru_cache(maxsize=1024)
def _plain_name(name: str) -> str:
    """A field's name as the lists of telling names spell it."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _redact_compound(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping):
        return {
            redact_value(key, depth=depth) if isinstance(key, str | int) else redact_text(str(key)): (
                redact_field(key, item, depth=depth)
            )
            for key, item in value.items()
        }
    if isinstance(value, list | set | frozenset | tuple):
        # Sets too become lists: masked members may have become equal, and order is nothing here.
        return [redact_value(item, depth=depth) for item in value]
    return redact_text(str(value) if isinstance(value, BaseException) else repr(value))


def _mask_userinfo(match: re.Match[str]) -> str:
    user, colon, _ = match[2].partition(":")
    return f"{match[1]}{user}:{MASK}@" if colon else f"{match[1]}{MASK}@"


def _split_query(url: str) -> tuple[str, str, str]:
    found = re.search(r"[?#]", url)
    return (url, "", "") if not found else (url[: found.start()], found[0], url[found.end() :])


def _mask_number(match: re.Match[str]) -> str:
    text = match[0]
    digits = re.sub(r"\D", "", text)
    if match["keep"] or not _looks_like_a_number(text, digits):
        return text
    return f"{_country_prefix(text, digits)}{NUMBER_MASK}{digits[-2:]}"


def _looks_like_a_number(text: str, digits: str) -> bool:
    if text.startswith("+"):
        return True
    if text == digits and (_EPOCH.fullmatch(text) or _COMPACT_TIME.fullmatch(text)):
        return False
    return len(digits) >= _MIN_DIGITS


def _country_prefix(text: str, digits: str) -> str:
    if text.startswith("+"):
        return f"+{digits[: 1 if digits[0] in '17' else 2]}"
    if text.startswith("00"):
        return digits[:4]
    if digits.startswith("90") and len(digits) == 12:  # noqa: PLR2004  90 and ten digits
        return "90"
    return ""
