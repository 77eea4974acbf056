"""Reading what providers send: strict about meaning, tolerant about form.

Official samples of one provider give the same code as 114 and as "114", a price as 0.5 and as "0,0372", a time as
"0000-00-00 00:00:00". Every adapter reads such values through the functions here, which never raise anything but the
errors of `ulak.providers.errors` and never guess: what cannot be read is None.
"""

import codecs
import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final, NoReturn, TypeVar
from zoneinfo import ZoneInfo

from ulak.models.report import Unreadable
from ulak.providers.adapter import Answer, Callback
from ulak.providers.errors import (
    AnswerNotUnderstood,
    PauseAccount,
    RequestIsWrong,
    SlowDown,
    TryAgainSoon,
    readable_detail,
)
from ulak.providers.value_limits import check_values

Body = TypeVar("Body", Answer, Callback)

MAX_DEPTH: Final = 32
"""No documented answer is nested deeper than six; a deeper one could exhaust the stack of a later traversal."""
MAX_INT: Final = 2**63 - 1
MAX_COUNT: Final = 2**31 - 1
TEXT_LIMIT: Final = 500
KEY_LIMIT: Final = 200
MAX_WAIT_SECONDS: Final = 86400.0

_EXACT_FLOATS: Final = 2**53
_MAX_AMOUNT: Final = 1e15

_INT: Final = re.compile(r"[+-]?[0-9]{1,19}")
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_AMOUNT: Final = re.compile(r"[+-]?[0-9]{1,15}(?:[.,][0-9]{1,12})?")
_TIME: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[ Tt]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.,][0-9]{1,9})?)?"
    r"(?: ?(?:([Zz]|UTC|GMT)|([+\u2212-])([0-9]{2})(?::?([0-9]{2}))?))?"
)
"""A local time, or ISO 8601 with the offset that makes it unambiguous."""
_MAX_TIME_LENGTH: Final = len("2016-11-02 11:47:38.123456789 +03:00")
_NO_TIME: Final = re.compile(r"0000-00-00(?:[ Tt][0:.,]*)?(?: ?(?:[Zz]|[+-][0-9:]{2,5}))?|-0001-11-(?:29|30)[ Tt].*")
"""MySQL's zero date, as it is and as PHP's date classes write it."""
_MAX_OFFSET: Final = timedelta(hours=14)
EMPTY: Final[tuple[Any, ...]] = (None, "", [], {})
"""How providers write that there is nothing, a list without items included."""
_Value = TypeVar("_Value")
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
_NOT_IN_A_KEY: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff\ufffd]")
_YEARS: Final = range(1990, 2200)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST_MS, _LATEST_MS = (
    (datetime(year, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(milliseconds=1) for year in (_YEARS.start, _YEARS.stop)
)

_CHARSET: Final = re.compile(r"(?i);\s*charset\s*=\s*[\"']?\s*([^\s\"';]*)")
_XML_CHARSET: Final = re.compile(r"""(<\?xml\b[^>]*?)\s+encoding\s*=\s*["']\s*([^"'>]*?)\s*["']""")
_DECLARED_WITHIN: Final = 256
"""An XML declaration is at the very beginning of a body."""
_KNOWN_CODECS: Final = re.compile(r"utf-8|utf-(?:16|32)(?:-[lb]e)?|ascii|iso8859-\d+|cp125\d|cp857|mac-turkish")
"""Python's names of the charsets that a body may declare: what its other codecs do is no reading of text."""
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_ZEROS: Final = (
    (re.compile(rb"\0\0\0[^\0]", re.DOTALL), "utf-32-be"),
    (re.compile(rb"[^\0]\0\0\0", re.DOTALL), "utf-32-le"),
    (re.compile(rb"\0[^\0]", re.DOTALL), "utf-16-be"),
    (re.compile(rb"[^\0]\0", re.DOTALL), "utf-16-le"),
)
"""JSON and XML begin with an ASCII character, whose zero bytes reveal the width and byte order."""


def in_utf8(message: Body) -> Body:
    """The same answer or callback with its body in UTF-8, whatever charset the body is in; no charset is named in it.

    A body is in the charset that it declares: by a byte order mark, `charset` of Content-Type, or an XML declaration;
    UTF-8 where it declares none. Declarations may differ where all of them give the same text. Raises
    `AnswerNotUnderstood` with the bytes, and why, where a declaration is not known or not true or contradicts another;
    for a response whose HTTP status is sufficient, the error of that status (`check_http`, `refuse_client_error`).
    """
    declared = message.headers.get("content-type", "")
    try:
        body = _utf8(message.body, _CHARSET.search(declared))
    except AnswerNotUnderstood:
        if isinstance(message, Answer):
            check_http(message)
            refuse_client_error(message)
        raise
    if body is message.body:
        return message
    return replace(message, body=body, headers={**message.headers, "content-type": _CHARSET.sub("", declared)})


def text_for_people(answer: Answer) -> str:
    """The body as text for people to read, whatever it is: what cannot be decoded is replaced."""
    try:
        return _utf8(answer.body, _CHARSET.search(answer.headers.get("content-type", ""))).decode()
    except (AnswerNotUnderstood, UnicodeDecodeError):
        return answer.body.decode("utf-8", "replace")


def _utf8(body: bytes, stated: re.Match[str] | None) -> bytes:
    """The body in UTF-8, without byte order mark and named charset; `body` itself where nothing is to be changed."""
    mark, seen = _seen_charset(body)
    beginning = body[len(mark) :][:_DECLARED_WITHIN].decode(seen or "latin-1", "replace").lstrip()
    declaration = _XML_CHARSET.match(beginning)
    claims = (("Content-Type", stated and stated[1]), ("The XML declaration", declaration and declaration[2]))
    texts = {} if seen is None else {seen: _decoded(body, mark, seen, "The first bytes show")}
    for where, name in claims:
        if name:
            codec = _declared_codec(body, seen, where, name)
            texts[codec] = _decoded(body, mark, codec, f"{where} declares")
    if not texts:
        try:
            body.decode()
        except UnicodeDecodeError:
            raise AnswerNotUnderstood("The body is not UTF-8 and declares no other charset.", raw=body) from None
        return body
    text, *others = set(texts.values())
    if others:
        names = " and ".join(sorted(name.upper() for name in texts))
        raise AnswerNotUnderstood(f"The body's declarations of its charset contradict each other: {names}.", raw=body)
    return (_XML_CHARSET.sub(r"\1", text, count=1) if declaration else text).encode()


def _declared_codec(body: bytes, seen: str | None, where: str, name: str) -> str:
    """Python's name of a charset that is declared; `seen`: what the first bytes show."""
    try:
        codec = codecs.lookup(name).name
    except (LookupError, ValueError):
        codec = ""
    if not _KNOWN_CODECS.fullmatch(codec):
        if body.isascii() and seen is None:
            # Whatever a provider means by the name, ASCII is within it.
            return "ascii"
        shown = readable_detail(name[:40])
        raise AnswerNotUnderstood(f"{where} declares a charset that is not known.", raw=body, code=shown)
    wide = codec[:6] in {"utf-16", "utf-32"}
    if wide and (seen is None or seen[:6] != codec[:6]):
        raise AnswerNotUnderstood(f"{where} declares {codec.upper()}, which the body is not.", raw=body)
    # Which byte of two comes first is seen better than declared.
    return seen if wide and seen is not None else codec


def _seen_charset(body: bytes) -> tuple[bytes, str | None]:
    """(byte order mark, charset) as the first bytes show it; None where they are those of ASCII or of a superset."""
    for mark, codec in _MARKS:
        if body.startswith(mark):
            return mark, codec
    return b"", next((codec for zeros, codec in _ZEROS if zeros.match(body)), None)


def _decoded(body: bytes, mark: bytes, codec: str, claim: str) -> str:
    try:
        return body[len(mark) :].decode(codec)
    except UnicodeDecodeError:
        raise AnswerNotUnderstood(f"{claim} {codec.upper()}, which the body is not.", raw=body) from None


def load_json(body: bytes) -> Any:
    """The JSON value of a whole answer (UTF-8, a byte order mark is tolerated).

    Raises `AnswerNotUnderstood` with the bytes for anything else: no JSON, another encoding, NaN or an infinite number,
    deeper than `MAX_DEPTH`, or more values than `ulak.providers.value_limits` allows, counted before any is built.
    """
    check_values(body, count_short=False)
    try:
        value = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant, parse_float=_finite)
        deep = _is_deeper(value, MAX_DEPTH)
    except (ValueError, RecursionError):
        # The cause is not chained: its text quotes the body.
        raise AnswerNotUnderstood("The answer is not JSON.", raw=body) from None
    if deep:
        raise AnswerNotUnderstood("The answer is nested too deep.", raw=body)
    return value


def drop_fields(body: bytes, names: Collection[str]) -> bytes:
    """The JSON text without the fields of these names, at any depth and in any spelling of upper and lower case.

    Nothing is left of a body that is not JSON: what cannot be read may hold them anywhere.
    """
    unwanted = {name.casefold() for name in names}
    try:
        value = load_json(body)
    except AnswerNotUnderstood:
        return b""
    return json.dumps(_without(value, unwanted), ensure_ascii=True).encode("ascii")


def _without(value: Any, unwanted: Collection[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(inner, unwanted) for key, inner in value.items() if key.casefold() not in unwanted}
    return [_without(inner, unwanted) for inner in value] if isinstance(value, list) else value


def load_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a whole answer; `AnswerNotUnderstood` for any other value."""
    value = load_json(body)
    if not isinstance(value, dict):
        raise AnswerNotUnderstood("The answer is not a JSON object.", raw=body)
    return value


def dump_item(item: Any) -> bytes:
    """The bytes of one item of an answer, for quarantine; lone surrogates stay escaped."""
    return json.dumps(item, ensure_ascii=True, default=str).encode("ascii")


def as_list(value: Any) -> list[Any] | None:
    """A JSON list, also where PHP wrote it as an object; None for everything else.

    PHP's `json_encode` writes an array whose indexes have a gap, or do not begin at 0, as an object whose keys are all
    indexes (`{"1": …, "3": …}`); its items are given in the order of their indexes. An empty array is never written so,
    and an empty object is no list.
    """
    if isinstance(value, list):
        return value
    if not isinstance(value, dict) or not value or not all(map(_INDEX.fullmatch, value)):
        return None
    return [value[key] for key in sorted(value, key=int)]


def as_int(value: Any, *, minimum: int = -MAX_INT, maximum: int = MAX_INT) -> int | None:
    """A whole number given as 114, "114" or 114.0; None for everything else, booleans and out-of-range ones too."""
    match value:
        case bool():
            return None
        case int():
            number = value
        case float() if value.is_integer() and abs(value) < _EXACT_FLOATS:
            number = int(value)
        case str() if _INT.fullmatch(value.strip()):
            number = int(value)
        case _:
            return None
    return number if minimum <= number <= maximum else None


def as_count(value: Any) -> int | None:
    """A count that fits the table's columns: 0 … 2³¹-1."""
    return as_int(value, minimum=0, maximum=MAX_COUNT)


def as_text(value: Any, *, limit: int = TEXT_LIMIT) -> str | None:
    """A text, or a whole number as text; blank, boolean, fraction, object: None.

    NUL and lone surrogates, which PostgreSQL refuses, become U+FFFD; longer than `limit` characters is cut.
    """
    number = _whole_text(value)
    if number is not None:
        return number[:limit]
    if not isinstance(value, str):
        return None
    return clean_text(value.strip(), limit=limit) or None


def as_key(value: Any) -> str | None:
    """A text that names something (id, key part): never changed, so that two ids cannot become one.

    None where it is blank, longer than `KEY_LIMIT` or holds a control character, a lone surrogate or U+FFFD.
    """
    text = value.strip() if isinstance(value, str) else _whole_text(value) or ""
    return text if 0 < len(text) <= KEY_LIMIT and not _NOT_IN_A_KEY.search(text) else None


def _whole_text(value: Any) -> str | None:
    """A whole number as text, the same for 114 and 114.0; None for everything else."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_FLOATS:
        return str(int(value))
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def as_amount(value: Any) -> float | None:
    """An amount given as 1, 0.5, "0.5" or "0,0372" (decimal comma); None for everything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value) if abs(value) < _MAX_AMOUNT else None
    if isinstance(value, str) and _AMOUNT.fullmatch(value.strip()):
        return float(value.strip().replace(",", "."))
    return None


def local_time(text: Any, zone: ZoneInfo) -> datetime | None:
    """A local time "2016-11-02 11:47:38" in `zone`, or ISO 8601 ("2016-11-02T08:47:38.123Z"), as an aware UTC time.

    An offset that the text names counts, not `zone`. Fractions of a second are dropped, seconds may be missing. None
    for MySQL's zero date, an impossible date, another form or a year outside 1990-2199. Of an hour that occurs twice
    (end of summer time) the first is meant.
    """
    text = text.strip() if isinstance(text, str) else ""
    # What cannot be a time must not be remembered: it may be as long as an answer, and say anything.
    return _local_time(text, zone) if len(text) <= _MAX_TIME_LENGTH and text[4:5] == "-" else None


@lru_cache(maxsize=4096)
def _local_time(text: str, zone: ZoneInfo) -> datetime | None:
    """The messages of one send share their times."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    if year not in _YEARS:
        return None
    try:
        named = _named_zone(*match.groups()[6:]) or zone
        return datetime(year, month, day, hour, minute, second, tzinfo=named).astimezone(UTC)
    except ValueError:
        return None


def _named_zone(utc: str | None, sign: str | None, hours: str | None, minutes: str | None) -> timezone | None:
    """The zone that a time names itself; None where it names none. ValueError for an offset that no zone has."""
    if utc is not None:
        return UTC
    if hours is None:
        return None
    offset = timedelta(hours=int(hours), minutes=int(minutes or 0))
    if offset > _MAX_OFFSET or int(minutes or 0) >= 60:  # noqa: PLR2004 - minutes of an hour
        raise ValueError("no such offset")
    return timezone(offset if sign == "+" else -offset)


def is_no_time(text: str) -> bool:
    """Whether a text means that there is no time: blank, or MySQL's zero date."""
    return _is_absent(text, _NO_TIME)


def epoch_milliseconds(value: Any) -> datetime | None:
    """A moment given as milliseconds since 1970, in UTC; None for everything else.

    None also for a year outside 1990-2199: what looks like 1970 was given in seconds.
    """
    stamp = as_int(value, minimum=_EARLIEST_MS, maximum=_LATEST_MS - 1)
    return None if stamp is None else EPOCH + timedelta(milliseconds=stamp)


class Fields:
    """The optional fields of one item of an answer.

    A field is None where it is absent (missing, null, empty, MySQL's zero date). One that is there and cannot be read
    is None too, but recorded in `unreadable`: the rest of the item still counts.
    """

    __slots__ = ("_wrong", "_zone", "item")

    def __init__(self, item: Mapping[str, Any], zone: ZoneInfo) -> None:
        """`zone`: of the item's local times."""
        self.item = item
        self._zone = zone
        self._wrong: list[str] = []

    def count(self, name: str) -> int | None:
        """A count that fits the table's columns: 0 … 2³¹-1."""
        return self._read(name, as_count)

    def whole(self, name: str) -> int | None:
        """A whole number."""
        return self._read(name, as_int)

    def amount(self, name: str) -> float | None:
        """An amount, with a decimal point or comma."""
        return self._read(name, as_amount)

    def text(self, name: str, *, limit: int = TEXT_LIMIT) -> str | None:
        """A text, or a whole number as text."""
        return self._read(name, lambda value: as_text(value, limit=limit))

    def time(self, name: str) -> datetime | None:
        """A local time, or ISO 8601."""
        return self._read(name, lambda value: local_time(value, self._zone), no_value=_NO_TIME)

    def read(self, name: str, read: Callable[[Any], _Value | None]) -> _Value | None:
        """The field as `read` reads it; `read` gives None for what it cannot read."""
        return self._read(name, read)

    def unreadable(self, what: str, within: Mapping[str, Any] | None = None) -> tuple[Unreadable, ...]:
        """One entry for each field that is there and could not be read; `what` names the item: "A report".

        `within`: what is kept to be read again, where the item alone cannot be.
        """
        if not self._wrong:
            return ()
        raw = dump_item(dict(self.item if within is None else within))
        return tuple(
            Unreadable(reason=f"{what} has a `{name}` that cannot be read.", raw=raw, once=True)
            for name in dict.fromkeys(self._wrong)
        )

    def _read(
        self, name: str, read: Callable[[Any], _Value | None], no_value: re.Pattern[str] | None = None
    ) -> _Value | None:
        value = self.item.get(name)
        if value is None:
            return None
        found = read(value)
        if found is None and not _is_absent(value, no_value):
            self._wrong.append(name)
        return found


def _is_absent(value: Any, no_value: re.Pattern[str] | None) -> bool:
    """Whether a field is explicitly empty."""
    if isinstance(value, str):
        text = value.strip()
        return not text or (no_value is not None and no_value.fullmatch(text) is not None)
    return value in EMPTY


def retry_after(answer: Answer) -> float | None:
    """Seconds the provider asks us to wait (`Retry-After`: seconds or an HTTP date), at most a day; None if unsaid.

    A date counts from the provider's own clock (`Date`), since ours may differ; from ours where there is no `Date`.
    """
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), MAX_WAIT_SECONDS)
    moment, now = http_date(text), http_date(answer.headers.get("date", "")) or answer.received_at
    if moment is None or now is None:
        return None
    wait = (moment - now).total_seconds()
    return min(max(wait, 0.0), MAX_WAIT_SECONDS)


def http_date(text: str) -> datetime | None:
    """An HTTP date as an aware UTC time, None where it is not one."""
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def check_http(answer: Answer) -> None:
    """Raise what an HTTP status means at every provider, whatever the body: 429, 5xx and redirects; else return.

    A 503 that names a waiting time slows the whole account down instead of being asked again at our own pace.
    """
    status = answer.status
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        raise SlowDown("The provider asks us to slow down.", retry_after_seconds=retry_after(answer), code="429")
    if status == HTTPStatus.SERVICE_UNAVAILABLE and (wait := retry_after(answer)) is not None:
        raise SlowDown("The provider is out of service and asks us to wait.", retry_after_seconds=wait, code="503")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise TryAgainSoon(f"The provider answered HTTP {status}.", code=str(status))
    if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES and status < HTTPStatus.BAD_REQUEST:
        raise TryAgainSoon(f"The provider answered HTTP {status} (redirects are never followed).", code=str(status))


def refuse_client_error(answer: Answer) -> None:
    """Raise the error of a bare HTTP 4xx if the body has no details; return for any other status."""
    status = answer.status
    if status in {401, 403, 407}:
        raise PauseAccount(f"The provider refuses the account (HTTP {status}).", code=str(status))
    if status in {408, 425}:
        raise TryAgainSoon(f"The provider answered HTTP {status}.", code=str(status))
    if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
        raise RequestIsWrong(f"The provider refuses the request (HTTP {status}).", code=str(status))


def scrub(item: Mapping[str, Any], *, drop: Collection[str] = ()) -> dict[str, Any]:
    """The raw item as it may be kept: without the fields named in `drop` (at any depth), every text storable.

    Values stay as given (114 is not "114"); what is nested deeper than eight levels is left out.
    """
    cleaned = _scrubbed(dict(item), frozenset(drop), 8)
    return cleaned if isinstance(cleaned, dict) else {}


def clean_text(text: str, *, limit: int = TEXT_LIMIT) -> str:
    """The text with what PostgreSQL refuses replaced by U+FFFD, cut to `limit` characters."""
    text = text[:limit]
    # Nearly every text is plain, and to see that costs a tenth of the search.
    return text if text.isascii() and "\0" not in text else _UNSTORABLE.sub("\ufffd", text)


def _scrubbed(value: Any, drop: frozenset[str], depth: int) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict | list) and depth == 0:
        return None
    if isinstance(value, dict):
        return {
            clean_text(str(key)): clean_text(inner) if isinstance(inner, str) else _scrubbed(inner, drop, depth - 1)
            for key, inner in value.items()
            if key not in drop
        }
    if isinstance(value, list):
        return [_scrubbed(inner, drop, depth - 1) for inner in value]
    return value


def _is_deeper(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth + 1):
        containers = [item for item in level if isinstance(item, dict | list)]
        if not containers:
            return False
        level = [inner for item in containers for inner in (item.values() if isinstance(item, dict) else item)]
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number
