"""The two forms of an Organik reply, JSON and XML, read into one shape.

Source: organikapi.com/documents/reports_detailed. JSON: `{"response": {"result": true, "data": [...]}}`. XML: the
documented sample is a bare sequence of `<item>` without a root; a reply with a root (and `result` 0 or 1) is read too.
"""

import re
from dataclasses import dataclass
from typing import Any, Final
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from ulak.providers.decoding import EMPTY, as_int, as_list, as_text, load_object
from ulak.providers.errors import AnswerNotUnderstood
from ulak.providers.value_limits import check_values, is_xml

_DECLARATION: Final = re.compile(r"\s*<\?xml[^>]*\?>")
_LEAVES: Final = frozenset({"result", "error", "item"})
_LEVELS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a reply holds: rows, or the numbers of its error."""

    ok: bool
    rows: tuple[Any, ...] = ()
    """Objects field → value; anything else in it is a row that cannot be read."""
    codes: tuple[int, ...] = ()
    """The error's `number`, then its `code`: the documents do not say which of them holds the table's value."""
    said: str | None = None
    """The error's `message`, as it came."""


def read_reply(body: bytes) -> Reply:
    """The reply in either form, distinguished by its first byte: an XML account may get a JSON error, and vice versa.

    Raises `AnswerNotUnderstood` with the bytes for anything that is neither.
    """
    return _read_xml(body) if is_xml(body) else _read_json(body)


def _read_json(body: bytes) -> Reply:
    response = load_object(body).get("response")
    if not isinstance(response, dict):
        raise AnswerNotUnderstood("The answer lacks `response`.", raw=body)
    result = response.get("result")
    verdict = int(result) if isinstance(result, bool) else as_int(result)
    if verdict == 0:
        return _refusal(response.get("error"))
    given = response.get("data", False)
    data = [] if given in EMPTY else as_list(given)
    if verdict != 1 or data is None:
        raise AnswerNotUnderstood("The answer lacks `result` or `data`.", raw=body)
    return Reply(ok=True, rows=tuple(data))


def _read_xml(body: bytes) -> Reply:
    found = _elements(parse_xml(body))
    results = found.get("result", [])
    verdict = as_int(text_of(results[0])) if len(results) == 1 else None
    if found.get("error") or verdict == 0:
        return _refusal({child.tag: text_of(child) for error in found.get("error", []) for child in error})
    rows = found.get("item", [])
    # Without `result` (the documented sample) only rows can show that this is a reply at all.
    if (verdict != 1 and results) or (not results and not rows):
        raise AnswerNotUnderstood("The answer is not a reply of Organik.", raw=body)
    return Reply(ok=True, rows=tuple(_row(row) for row in rows))


def parse_xml(body: bytes) -> Element:
    """The elements of a document with or without one root, under a root of ours.

    Our root precedes everything, so a document type declaration, and with it any entity, is a syntax error; the
    hardened parser is the second wall.
    """
    check_values(body)
    try:
        text = _DECLARATION.sub("", body.decode("utf-8-sig"), count=1)
        root: Element = fromstring(f"<reply>{text}</reply>", forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, RecursionError):
        raise AnswerNotUnderstood("The answer is not XML that may be read.", raw=body) from None
    return root


def _elements(root: Element) -> dict[str, list[Element]]:
    """`result`, `error` and `item` elements by name; how the elements around them are called is not documented."""
    found: dict[str, list[Element]] = {}
    level = [root]
    for _ in range(_LEVELS):
        inner = [child for parent in level for child in parent]
        for element in inner:
            if element.tag in _LEAVES:
                found.setdefault(element.tag, []).append(element)
        level = [element for element in inner if element.tag not in _LEAVES]
    return found


def _row(item: Element) -> dict[str, str | None] | list[str]:
    """The fields of one `<item>`; the list of its tags if a field occurs twice, which makes it unreadable."""
    tags = [child.tag for child in item]
    if len(set(tags)) != len(tags):
        return tags
    return {child.tag: text_of(child) for child in item}


def text_of(element: Element) -> str | None:
    """The text of a leaf; an empty element (`<finish_date />`) is None, as null is in JSON."""
    return (element.text or "").strip() or None


def _refusal(error: Any) -> Reply:
    said = error.get("message") if isinstance(error, dict) else error
    return Reply(ok=False, codes=codes_of(error), said=as_text(said))


def codes_of(error: Any) -> tuple[int, ...]:
    """The numbers of an `error` object, or the number in its place."""
    given = (error.get("number"), error.get("code")) if isinstance(error, dict) else (error,)
    return tuple(number for number in map(as_int, given) if number is not None)
