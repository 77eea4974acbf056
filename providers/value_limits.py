"""How many values a body holds, counted before anything is built of them.

A list of empty lists takes three bytes an item and becomes sixty-four in memory; so what a body may hold is bounded by
its values, not by its bytes alone. Counting costs a few passes at the speed of memory; only a body that may hold too
many is looked at closer, and no further than to the first value too many.
"""

import re
from typing import Final

from ulak.providers.errors import AnswerNotUnderstood

MAX_VALUES: Final = 1_000_000
"""Of any body: objects, lists, fields and items of JSON together; elements and attributes of XML."""
VALUE_BYTES: Final = 64
"""About what one takes once it is built."""
_MAX_TAG_BYTES: Final = 64 * 1024
"""A parser holds all attributes of an element before it shows them to anybody."""
_QUOTE: Final = ord('"')
_BEGIN_VALUES: Final = (b"{", b"[", b",", b":")
_TOKENS: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[{\[,:]', re.DOTALL)
_LONG_TAG: Final = re.compile(rb"<[^<]{%d}" % _MAX_TAG_BYTES)


def check_values(body: bytes, most: int = MAX_VALUES, *, count_short: bool = True) -> int:
    """At most how many values JSON or XML holds, no more than `most`.

    Raises `AnswerNotUnderstood`, with the bytes, where there are more. `count_short` False: JSON of at most `most`
    bytes is not counted, since each value takes at least one; its length is returned.
    """
    if is_xml(body):
        found = body.count(b"<") // 2 + body.count(b"=")
        too_many = found > most or _LONG_TAG.search(body) is not None
    elif not count_short and len(body) <= most:
        return len(body)
    else:
        found = sum(map(body.count, _BEGIN_VALUES))
        too_many = found > most and _has_more(body, most)
    if too_many:
        raise AnswerNotUnderstood(f"The body holds more than {most} values.", raw=body)
    return min(found, most)


def is_xml(body: bytes) -> bool:
    """Whether a body is XML rather than JSON, judged by its first character."""
    return body[:64].replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n").startswith(b"<")


def _has_more(body: bytes, most: int) -> bool:
    """Whether there are more than `most` outside of strings."""
    found = 0
    for token in _TOKENS.finditer(body):
        found += body[token.start()] != _QUOTE
        if found > most:
            return True
    return False
