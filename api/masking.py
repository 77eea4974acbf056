"""Rows of the shared table for callers who may not see people's numbers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ulak.core.redaction import redact_text, redact_value
from ulak.providers.phone_numbers import same_number_spellings
from ulak.workers.audit_recording import Row, people_of

_SHOWN_DIGITS: Final = 2
_MIN_MASKED_LENGTH: Final = 6
_MIN_FOUND_LENGTH: Final = 4
"""A shorter id of a person would be found by chance in many other words."""
_TEXTS: Final = ("provider_key", "parent_key", "client_ref", "provider_status", "provider_error", "value")


def mask(recipient: str | None) -> str:
    """A person's number or id as a list shows it: its country and its end."""
    if not recipient:
        return ""
    if len(recipient) < _MIN_MASKED_LENGTH:
        return "•" * len(recipient)
    start = 3 if recipient.startswith("+") else 0
    return f"{recipient[:start]}•••••••{recipient[-_SHOWN_DIGITS:]}"


def masked_row(row: Row) -> dict[str, Any]:
    """The row of a delivery, or of a registered id, without the numbers in any of its columns.

    Other long runs of digits are masked as well, keys among them: the row is still named by its id.
    """
    people = people_of(row)
    shown: dict[str, Any] = dict(row)
    shown |= {name: _hidden(row[name], people) for name in _TEXTS if isinstance(row.get(name), str)}
    if "recipient" in row:
        shown["recipient"] = mask(row["recipient"]) or row["recipient"]
    if "extra" in row:
        shown["extra"] = masked_value(row["extra"], people)
    return shown


def masked_value(value: Any, people: Sequence[str]) -> Any:
    """A provider's fields, or a statement, without these people's numbers and whatever looks like one."""
    return redact_value(_walked(value, people))


def _walked(value: Any, people: Sequence[str]) -> Any:
    if isinstance(value, str):
        return _hidden(value, people)
    if isinstance(value, Mapping):
        return {_hidden(str(name), people): _walked(item, people) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_walked(item, people) for item in value]
    return value


def _hidden(text: str, people: Iterable[str]) -> str:
    spellings = {form for each in people for form in same_number_spellings(each) if len(form) >= _MIN_FOUND_LENGTH}
    for form in sorted(spellings, key=lambda form: (-len(form), form)):
        text = text.replace(form, mask(form))
    return redact_text(text)
