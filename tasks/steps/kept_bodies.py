"""Bodies as they came: unpacking those that are pushed to us, and what must be kept so that bytes can be read again."""

import gzip
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

from ulak.core.content_coding import unpack
from ulak.models.report import Unreadable
from ulak.providers.adapter import Answer, Callback

MAX_BYTES: Final = 8 * 1024 * 1024
"""Of a pushed body, as it comes and unpacked. A BiP report of tens of thousands of receivers fits; a flood does not."""

MAX_UNREADABLE: Final = 1000
"""Of one body: where more of it cannot be read, the body is kept in their place."""
_PACKED_FROM_BYTES: Final = 64 * 1024
_MAX_KEPT_ANSWER: Final = 1024 * 1024
"""Of a whole answer, packed: it is requested again, so of one that packs badly only the beginning is kept."""
_CODING: Final = "content-encoding"
_KEPT: Final = ("content-type", _CODING)
_MAX_HEADER_LENGTH: Final = 200
_Came = TypeVar("_Came", Answer, Callback)


def unpacked(came: _Came, cap: int = MAX_BYTES) -> _Came:
    """What came, with its content coding undone; raises an error of `ulak.core.content_coding`."""
    if _CODING not in came.headers:
        return came
    plain = unpack(came.body, came.headers[_CODING], cap)
    return replace(came, body=plain, headers={name: value for name, value in came.headers.items() if name != _CODING})


def body_context(came: Answer | Callback | None) -> dict[str, Any]:
    """For an entry in quarantine: the charset that was declared, and the coding where the bytes are still packed."""
    found = (
        {}
        if came is None
        else {name: came.headers[name][:_MAX_HEADER_LENGTH] for name in _KEPT if name in came.headers}
    )
    return {"headers": found} if found else {}


def body_headers(context: Mapping[str, Any]) -> dict[str, str]:
    """The headers that `body_context` kept."""
    return dict(context.get("headers", {}))


def to_keep(
    items: tuple[Unreadable, ...], came: Answer | Callback | None
) -> tuple[tuple[Unreadable, ...], dict[str, Any]]:
    """What is to be kept of a body that was not understood in these places, and its context in quarantine.

    One body in place of very many of its items; and a large one packed, as if it had come so.
    """
    context = body_context(came)
    if came is not None and len(items) > MAX_UNREADABLE:
        reason = f"{len(items)} parts of it could not be read, the first of them: {items[0].reason}"
        items = (Unreadable(reason=reason, raw=came.body),)
    if len(items) != 1 or len(items[0].raw) <= _PACKED_FROM_BYTES or _CODING in context.get("headers", {}):
        return items, context
    packed = gzip.compress(items[0].raw, compresslevel=1, mtime=0)
    if isinstance(came, Answer) and len(packed) > _MAX_KEPT_ANSWER:
        reason = f"{items[0].reason} Only its beginning is kept."
        return (replace(items[0], reason=reason, raw=items[0].raw[:_MAX_KEPT_ANSWER]),), context
    context["headers"] = {**context.get("headers", {}), _CODING: "gzip"}
    return (replace(items[0], raw=packed),), context
