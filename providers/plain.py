"""The fast way to read an answer: bytes straight into Structs, where everything in it is plain.

Plain is what documents and samples show: no field but the documented ones, each of a type that it is known to have,
texts of printable ASCII, times in the provider's usual form. An adapter declares an item as a subclass of `PlainItem`
and makes of it exactly the reports that its tolerant reader would make; where anything is not plain it raises
`NotPlainError`, and the tolerant reader reads the whole answer. `tests/laws/test_plain_laws.py` holds both equal.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Annotated, Any, Final, TypeVar
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta, UnsetType

from ulak.providers.decoding import KEY_LIMIT, MAX_COUNT, MAX_INT, as_amount, as_count, is_no_time, local_time
from ulak.providers.value_limits import check_values

Unset = UnsetType
Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Whole = Annotated[int, Meta(ge=0, le=MAX_INT)]
Text = Annotated[str, Meta(max_length=KEY_LIMIT)]
"""No text that an item keeps may be longer, so none would be cut."""

Plain = Whole | float | Text | UnsetType | None
"""A field that the tolerant reader's functions read."""

_HOUR_FORM: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}").fullmatch
_HOUR: Final = len("2016-11-02 11")
_IN_UTC: Final = {f":{each // 60:02}:{each % 60:02}": f":{each // 60:02}:{each % 60:02}+00:00" for each in range(3600)}
"""What follows the hour in a time, as it is written in UTC."""
_ALMOST_AN_HOUR: Final = timedelta(minutes=59, seconds=59)
_Body = TypeVar("_Body")


class NotPlainError(Exception):
    """Something in the answer is not plain: the tolerant reader has to read it."""


class PlainItem(msgspec.Struct, eq=False, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """The documented fields of an item, as given; UNSET where it lacks one. It is used like the JSON object.

    It becomes the report's statement, so an adapter sets what must not be kept to UNSET.
    """

    def __getitem__(self, name: str) -> Any:
        value = getattr(self, name) if name in self.__struct_fields__ else msgspec.UNSET
        if value is msgspec.UNSET:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.__struct_fields__ if getattr(self, name) is not msgspec.UNSET)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    keys, items, values, get = Mapping.keys, Mapping.items, Mapping.values, Mapping.get
    __contains__, __eq__, __hash__ = Mapping.__contains__, Mapping.__eq__, None  # type: ignore[assignment]


Mapping.register(PlainItem)


def read_plain(decode: Callable[[bytes], _Body], body: bytes) -> _Body:
    """The body as the decoder's Struct; `NotPlainError` where it is not one.

    Raises `AnswerNotUnderstood`, before any value is built, if the body holds more than `value_limits` allows.
    """
    check_values(body, count_short=False)
    try:
        return decode(body)
    except msgspec.MsgspecError:
        raise NotPlainError from None


def plain_text(value: Any) -> str | None:
    """What `as_key` and `Fields.text` give; None where there is no text."""
    if isinstance(value, str):
        if value.isprintable() and value.isascii() and (not value or (value[0] != " " != value[-1])):
            return value or None
        raise NotPlainError
    if value is None or isinstance(value, UnsetType):
        return None
    if isinstance(value, float):
        raise NotPlainError
    return str(value)


def plain_key(value: Any) -> str:
    """What `as_key` gives; `NotPlainError` where it gives none."""
    text = plain_text(value)
    if text is None:
        raise NotPlainError
    return text


def plain_count(value: float | str | UnsetType | None) -> int | None:
    """What `Fields.count` gives; None where there is none."""
    if value is None or value is msgspec.UNSET or value == "":
        return None
    count = None if isinstance(value, float) else as_count(value)
    if count is None:
        raise NotPlainError
    return count


@lru_cache(maxsize=4096)
def plain_time(text: float | str | UnsetType | None, zone: ZoneInfo) -> str | None:
    """What `Fields.time` gives, as ISO 8601; None where there is no time. Messages of one send share their times."""
    if text is None or isinstance(text, UnsetType) or text == "":
        return None
    if not isinstance(text, str):
        raise NotPlainError
    rest = _IN_UTC.get(text[_HOUR:])
    hour = None if rest is None else _utc_hour(text[:_HOUR], zone)
    if hour is not None:
        return f"{hour}{rest}"
    if not (text.isascii() and text.isprintable()):
        raise NotPlainError
    moment = local_time(text, zone)
    if moment is None and not is_no_time(text):
        raise NotPlainError
    return None if moment is None else moment.isoformat()


@lru_cache(maxsize=4096)
def _utc_hour(hour: str, zone: ZoneInfo) -> str | None:
    """The UTC hour of a local hour (`2016-11-02 11` → `2016-11-02T08`); None where it is not one whole UTC hour."""
    if not _HOUR_FORM(hour):
        return None
    first, last = local_time(f"{hour}:00:00", zone), local_time(f"{hour}:59:59", zone)
    if first is None or last is None or first.minute or first.second or last - first != _ALMOST_AN_HOUR:
        return None
    return first.isoformat()[:_HOUR]


@lru_cache(maxsize=1024)
def _amount(value: str) -> float | None:
    return as_amount(value)


def plain_amount(value: float | str | UnsetType | None) -> float | None:
    """What `Fields.amount` gives; None where there is none."""
    if value is None or isinstance(value, UnsetType) or value == "":
        return None
    amount = _amount(value) if isinstance(value, str) else as_amount(value)
    if amount is None:
        raise NotPlainError
    return amount
