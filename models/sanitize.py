"""What PostgreSQL can store: values of others made harmless before they reach it.

One odd report must not keep a whole answer from being stored, so nothing here refuses; what a column cannot hold is
replaced, and the same value is always replaced by the same.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import msgspec

_MAX_KEY_LENGTH = 400
_MAX_INTEGER = 2**31 - 1
_MAX_JSON_DEPTH = 40
_MAX_INTEGER_BITS = 2048
_SHORTER_THAN_WIDE_INTEGERS = 600
"""An integer of more than `_MAX_INTEGER_BITS` has more digits than this."""
_MANY_DIGITS = re.compile(rb"\d{600}")


def utc(moment: datetime | None) -> datetime | None:
    """The moment in UTC; None where it lies outside the calendar. A naive time is our bug and raises ValueError."""
    if moment is None or moment.tzinfo is UTC:
        return moment
    if moment.tzinfo is None:
        raise ValueError("a report carries a time without a zone")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return None


def iso_time(moment: datetime) -> str | None:
    """The moment as ISO 8601 in UTC; None where it lies outside the calendar."""
    if moment.tzinfo is UTC:
        return moment.isoformat()
    stored = utc(moment)
    return None if stored is None else stored.isoformat()


def small_integer(number: int) -> int | None:
    """The number where an `integer` column holds it, else None."""
    return int(number) if -_MAX_INTEGER <= number <= _MAX_INTEGER else None


def finite(number: float) -> float | None:
    """The number as a float that JSON can say (never negative zero), else None."""
    return float(number) + 0.0 if math.isfinite(number) else None


def clean_text(text: str) -> str:
    """Text that PostgreSQL accepts: a lone surrogate becomes `?`, NUL becomes U+FFFD."""
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    return text.replace("\0", "\ufffd")


def clean_key(text: str) -> str:
    """Clean text that fits an index entry; a longer one keeps its beginning and ends in its hash."""
    if len(text) <= _MAX_KEY_LENGTH and text.isascii() and "\0" not in text:
        return text
    text = clean_text(text)
    if len(text) <= _MAX_KEY_LENGTH:
        return text
    digest = sha256(text.encode()).hexdigest()
    return f"{text[: _MAX_KEY_LENGTH - len(digest) - 1]}~{digest}"


def clean_json(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """A JSON object that jsonb accepts: `value` itself wherever it is acceptable as it is.

    A Struct in the place of a mapping is the word of its maker that nothing in it has to be changed.
    """
    if isinstance(value, msgspec.Struct):
        return value
    try:
        if isinstance(value, dict) and _is_acceptable(msgspec.json.encode(value)):
            return value
    except (TypeError, ValueError, RecursionError):
        pass
    return {clean_text(str(name)): _clean_value(inner, 1) for name, inner in value.items()}


def _is_acceptable(encoded: bytes) -> bool:
    """Whether these bytes hold no NUL, no number of hundreds of digits and no deep nesting, judged cheaply.

    Bytes that only might hold one are not accepted: going through the value then finds nothing to change.
    """
    if b"\\u0000" in encoded or encoded.count(b"[") + encoded.count(b"{") >= _MAX_JSON_DEPTH:
        return False
    return len(encoded) <= _SHORTER_THAN_WIDE_INTEGERS or _MANY_DIGITS.search(encoded) is None


def _clean_value(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return hex(value) if isinstance(value, int) and value.bit_length() > _MAX_INTEGER_BITS else value
    if isinstance(value, Mapping | list | tuple) and depth >= _MAX_JSON_DEPTH:
        return None
    if isinstance(value, Mapping):
        return {clean_text(str(name)): _clean_value(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean_value(inner, depth + 1) for inner in value]
    return clean_text(str(value))
