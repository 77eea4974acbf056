"""Bodies as they came: unpacking those that are pushed to us, and what must be kept so that bytes can be read again."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

from core.content_coding import unpack
from providers.adapter import Answer, Callback

LARGEST_BYTES: Final = 8 * 1024 * 1024
"""Of a pushed body, as it comes and unpacked. A BiP report of tens of thousands of receivers fits; a flood does not."""

_CODING: Final = "content-encoding"
_KEPT: Final = ("content-type", _CODING)
_LONGEST: Final = 200
_Came = TypeVar("_Came", Answer, Callback)


def unpacked(came: _Came, cap: int = LARGEST_BYTES) -> _Came:
    """What came, with its content coding undone; raises an error of `core.content_coding`."""
    if _CODING not in came.headers:
        return came
    plain = unpack(came.body, came.headers[_CODING], cap)
    return replace(came, body=plain, headers={name: value for name, value in came.headers.items() if name != _CODING})


def body_context(came: Answer | Callback | None) -> dict[str, Any]:
    """For an entry in quarantine: the charset that was declared, and the coding where the bytes are still packed."""
    found = {} if came is None else {name: came.headers[name][:_LONGEST] for name in _KEPT if name in came.headers}
    return {"headers": found} if found else {}


def body_headers(context: Mapping[str, Any]) -> dict[str, str]:
    """The headers that `body_context` kept."""
    return dict(context.get("headers", {}))
