"""Tracked ids in canonical form, whatever their origin: the sender's programs, files, people, or provider responses.

Ids that are whole numbers have no leading zeros, blanks or invisible marks. Each adapter's record names the function of
each of its kinds (`ProviderRecord.id_forms`), and every door uses that one.
"""

import re
from typing import Final

from ulak.providers.decoding import KEY_LIMIT, as_key
from ulak.providers.errors import RequestIsWrong
from ulak.providers.phone_numbers import plain

_WHOLE: Final = re.compile(r"[0-9]{1,19}")


def bare(value: str) -> str:
    """An id as it is compared: a whole number without leading zeros, any other text trimmed."""
    text = value.strip()
    return text.lstrip("0") or "0" if _WHOLE.fullmatch(text) else text


def whole_number(value: str) -> str | None:
    """The one form of an id that is a whole number of at most 19 digits; None where the text is none."""
    text = plain(value)
    return bare(text) if _WHOLE.fullmatch(text) else None


def whole_id(value: str) -> str:
    """The form of a kind whose ids are whole numbers; `RequestIsWrong` for any other text."""
    number = whole_number(value)
    if number is None:
        raise RequestIsWrong("The id must be a whole number, digits alone, such as 14094857.")
    return number


def text_id(value: str) -> str:
    """The form of a kind whose ids are texts of the sender's own; `RequestIsWrong` where no answer could name it."""
    text = as_key(plain(value))
    if text is None:
        raise RequestIsWrong(f"The id must be a text of 1 to {KEY_LIMIT} characters without control characters.")
    return text
