"""Phone numbers by fixed rules.

E.164 numbers are parts of keys, so the rules are written here once and never taken from a library, whose next
version might judge a number differently and so change a key. The rules are those of Turkish senders' interfaces:

    +…                        as it is             0…  with 00 in front        +…
    10 digits starting 5      +90…                 11 digits starting 05       drop the 0, +90…
    12 digits starting 90     +…                   with the foreign flag       +…
    anything else             not a number: the caller keeps the raw text

Masked samples (9053XXXXXXXX) and hashed user ids are not numbers.
"""

import re
from typing import Final

_SEPARATORS: Final = re.compile(r"[\s\-()./\u2010-\u2015]")
_FULL_PREFIX: Final = re.compile(r"\+|00")
_FULL: Final = re.compile(r"[1-9][0-9]{6,14}")
_TURKISH: Final = re.compile(r"90[1-9][0-9]{9}")
_WITH_COUNTRY: Final = re.compile(r"90[0-9]{10}|900[1-9][0-9]{9}")
_TRUNK_ZERO: Final = re.compile(r"900([1-9][0-9]{9})")
_MOBILE: Final = re.compile(r"5[0-9]{9}")
_NATIONAL: Final = re.compile(r"0?([2-58][0-9]{9})")


def e164(text: str, *, foreign: bool = False) -> str | None:
    """The number in E.164 (`+905399999999`), None where the rules do not know it.

    `foreign`: the provider says that the number is abroad, so its digits are full international ones (a Cuban
    `5351234567` is not the Turkish mobile number that it looks like).
    """
    digits = _SEPARATORS.sub("", text)
    full = _FULL_PREFIX.match(digits)
    if full:
        return _international(digits[full.end() :])
    if digits.startswith("0") and _MOBILE.fullmatch(digits[1:]):
        return f"+90{digits[1:]}"
    if _MOBILE.fullmatch(digits) and not foreign:
        return f"+90{digits}"
    return _international(digits) if foreign or _WITH_COUNTRY.fullmatch(digits) else None


def recipient(text: str, *, foreign: bool = False) -> str:
    """What is stored as `recipient`: E.164, or the text as it was given where it is not a number we know."""
    return e164(text, foreign=foreign) or text


def national_number(number: str) -> str:
    """How a Turkish interface writes an E.164 number: ten digits; a number abroad keeps its country code, without +."""
    digits = number.removeprefix("+")
    return digits[2:] if _TURKISH.fullmatch(digits) else digits


def lookup_form(text: str) -> str | None:
    """The E.164 form of any usual human spelling of a number, for look-ups; None where it is not one.

    Wider than `e164`: land lines (0212 …) too, and bare digits that are not Turkish are full international ones.
    """
    strict = e164(text)
    if strict is not None:
        return strict
    digits = _SEPARATORS.sub("", text)
    national = _NATIONAL.fullmatch(digits)
    return f"+90{national.group(1)}" if national else _international(digits)


def same_number_spellings(text: str) -> tuple[str, ...]:
    """All forms under which a report may have stored this recipient, the likeliest first, the text itself last.

    A number that the fixed rules did not know is stored as its provider wrote it, so a look-up tries those forms too.
    """
    number = lookup_form(text)
    if number is None:
        return (text.strip(),)
    digits, short = number.removeprefix("+"), national_number(number)
    zero = (f"0{short}",) if short != digits else ()
    return tuple(dict.fromkeys((number, digits, short, *zero, f"00{digits}", text.strip())))


def _international(digits: str) -> str | None:
    trunk = _TRUNK_ZERO.fullmatch(digits)
    if trunk:
        return f"+90{trunk.group(1)}"
    return f"+{digits}" if _FULL.fullmatch(digits) else None
