"""Phone numbers by fixed rules.

E.164 numbers are parts of keys, so the rules are written here once and never taken from a library, whose next
version might judge a number differently and so change a key. The rules are those of Turkish senders' interfaces:

    +…                        as it is             0…  with 00 in front        +…
    10 digits starting 5      +90…                 11 digits starting 05       drop the 0, +90…
    12 digits starting 90     +…                   with the foreign flag       +…
    anything else             not a number: the caller keeps the raw text

Masked samples (9053XXXXXXXX) and hashed user ids are not numbers.

What people paste may also hold invisible marks, digits of other scripts and typographic dashes. `lookup_form` and what
is built on it read these; `e164`, which makes keys of what providers send, does not, so no stored key changes.
"""

import re
from typing import Final

_INVISIBLE: Final = re.compile(
    "[\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U00013438"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Format characters (Unicode category Cf), variation selectors and fillers: nothing of them can be seen."""
_ZEROS: Final = (
    0x0660,
    0x06F0,
    0x07C0,
    0x0966,
    0x09E6,
    0x0A66,
    0x0AE6,
    0x0B66,
    0x0BE6,
    0x0C66,
    0x0CE6,
    0x0D66,
    0x0DE6,
    0x0E50,
    0x0ED0,
    0x0F20,
    0x1040,
    0x1090,
    0x17E0,
    0x1810,
    0x1946,
    0x19D0,
    0x1A80,
    0x1A90,
    0x1B50,
    0x1BB0,
    0x1C40,
    0x1C50,
    0xA620,
    0xA8D0,
    0xA900,
    0xA9D0,
    0xA9F0,
    0xAA50,
    0xABF0,
    0xFF10,
    0x104A0,
    0x10D30,
    0x11066,
    0x110F0,
    0x11136,
    0x111D0,
    0x112F0,
    0x11450,
    0x114D0,
    0x11650,
    0x116C0,
    0x11730,
    0x118E0,
    0x11950,
    0x11C50,
    0x11D50,
    0x11DA0,
    0x16A60,
    0x16AC0,
    0x16B50,
    0x1D7CE,
    0x1D7D8,
    0x1D7E2,
    0x1D7EC,
    0x1D7F6,
    0x1E140,
    0x1E2F0,
    0x1E950,
    0x1FBF0,
)
"""The zero of every decimal script (Unicode 14, category Nd) but ASCII; its nine other digits follow it."""
_DIGITS: Final = {zero + digit: str(digit) for zero in _ZEROS for digit in range(10)}
_LOOK_ALIKE: Final = (
    _DIGITS
    | dict.fromkeys((0x058A, 0x2043, 0x207B, 0x208B, 0x2212, 0x2E3A, 0x2E3B, 0xFE58, 0xFE63, 0xFF0D), "-")
    | dict.fromkeys((0x207A, 0x208A, 0x2795, 0xFE62, 0xFF0B), "+")
    | dict.fromkeys(
        (0x00B7, 0x2022, 0x2024, 0x2027, 0x2044, 0x2215, 0x22C5, 0x30FB, 0xFF08, 0xFF09, 0xFF0E, 0xFF0F), "."
    )
)
"""Digits, dashes and plus signs of other forms as their ASCII twins; dots, slashes and brackets as a separator."""
_SEPARATORS: Final = re.compile(r"[\s\-()./\u2010-\u2015]")
_FULL_PREFIX: Final = re.compile(r"\+|00")
_FULL: Final = re.compile(r"[1-9][0-9]{6,14}")
_TURKISH: Final = re.compile(r"90[1-9][0-9]{9}")
_WITH_COUNTRY: Final = re.compile(r"90[0-9]{10}|900[1-9][0-9]{9}")
_LENGTH_WITH_COUNTRY: Final = 12
_TRUNK_ZERO: Final = re.compile(r"900([1-9][0-9]{9})")
_MOBILE: Final = re.compile(r"5[0-9]{9}")
_NATIONAL: Final = re.compile(r"0?([2-58][0-9]{9})")


def e164(text: str, *, foreign: bool = False) -> str | None:
    """The number in E.164 (`+905399999999`), None where the rules do not know it.

    `foreign`: the provider marks the number as foreign, so its digits are full international ones (a Cuban
    `5351234567` is not the Turkish mobile number that it looks like).
    """
    if len(text) == _LENGTH_WITH_COUNTRY and text.startswith("90") and text.isascii() and text.isdigit():
        # The usual form: all that follows would come to the same.
        return f"+{text}"
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


def plain(text: str) -> str:
    """The text without invisible marks, and without blanks at its ends; the digits of any script as 0-9.

    For what a person or another program gives as an id. Visible letters and signs stay as they are.
    """
    if text.isascii():
        return text.strip()
    return _INVISIBLE.sub("", text).translate(_DIGITS).strip()


def trimmed(text: str) -> str:
    """The text without blanks and invisible marks at its ends; a mark within it may belong to its script."""
    if text.isascii():
        return text.strip()
    visible = [place for place, one in enumerate(text) if not (one.isspace() or _INVISIBLE.fullmatch(one))]
    return text[visible[0] : visible[-1] + 1] if visible else ""


def person(text: str) -> str:
    """What a person gives as a recipient: E.164 in any usual spelling, otherwise the text itself, `plain`."""
    return lookup_form(text) or plain(text)


def national_number(number: str) -> str:
    """How a Turkish interface writes an E.164 number: ten digits; a number abroad keeps its country code, without +."""
    digits = number.removeprefix("+")
    return digits[2:] if _TURKISH.fullmatch(digits) else digits


def lookup_form(text: str) -> str | None:
    """The E.164 form of any usual human spelling of a number, for look-ups; None where it is not one.

    Wider than `e164`: land lines (0212 …) too, and bare digits that are not Turkish are full international ones;
    invisible marks do not count, and digits, dashes and plus signs may be of any script.
    """
    if not text.isascii():
        text = _INVISIBLE.sub("", text).translate(_LOOK_ALIKE)
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
        return tuple(dict.fromkeys((plain(text), text.strip())))
    digits, short = number.removeprefix("+"), national_number(number)
    zero = (f"0{short}",) if short != digits else ()
    return tuple(dict.fromkeys((number, digits, short, *zero, f"00{digits}", text.strip())))


def _international(digits: str) -> str | None:
    trunk = _TRUNK_ZERO.fullmatch(digits)
    if trunk:
        return f"+90{trunk.group(1)}"
    return f"+{digits}" if _FULL.fullmatch(digits) else None
