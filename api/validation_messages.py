"""What is wrong with a request, in our words.

pydantic (through FastAPI) and msgspec find the mistakes; their sentences are meant for programmers of the server and
quote what was sent. Here each kind of mistake has one sentence that goes after the field's name: what is wrong, and
what would be right. No sentence repeats a value.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

import msgspec
from pydantic import BaseModel

from ulak.core.redaction import redact_text
from ulak.models import vocabulary

ACCOUNT_ID: Final = f"^{vocabulary.ACCOUNT_ID}$"
NO_NUL: Final = r"^[^\x00]*$"
KEY: Final = r"^[\x21-\x7e]{1,200}$"
_PATTERNS: Final[Mapping[str, str]] = {
    ACCOUNT_ID: f"is no account id: give a-z, 0-9 and -, at most {vocabulary.MAX_ACCOUNT_ID_LENGTH} of them",
    NO_NUL: "holds a NUL character: leave it out",
    KEY: "is no key: give 1 to 200 printable ASCII characters without blanks",
}

TEXT: Final = "is no text: give a string"
WHOLE_NUMBER: Final = "is no whole number: give one such as 100"
NUMBER: Final = "is no number: give one such as 2.5"
FLAG: Final = "is neither true nor false: give one of the two"
TIME: Final = "is no time with an offset: give one such as 2026-05-01T10:00:00Z"
DAY: Final = "is no day: give one such as 2026-05-01"
LIST: Final = "is no list: give one in square brackets"
OBJECT: Final = "is no object: give one in braces"
EMPTY: Final = "is empty: give a value, or leave it out"
MISSING: Final = "is missing: it must be given"
NOT_VALID: Final = "is not valid: /docs shows its form"
UNKNOWN: Final = "is not known here: known are {known}"

_SENTENCES: Final[Mapping[str, str]] = {
    "missing": MISSING,
    "extra_forbidden": UNKNOWN,
    "string_type": TEXT,
    "string_unicode": TEXT,
    "string_too_short": "is too short: give at least {min_length} characters",
    "string_too_long": "is too long: give at most {max_length} characters",
    "greater_than_equal": "is too small: give at least {ge}",
    "less_than_equal": "is too large: give at most {le}",
    "greater_than": "is too small: give more than {gt}",
    "less_than": "is too large: give less than {lt}",
    "finite_number": NUMBER,
    "literal_error": "is none of the known words: give {expected}",
    "enum": "is none of the known words: give {expected}",
    "list_type": LIST,
    "too_short": "has too few entries: give at least {min_length}",
    "too_long": "has too many entries: give at most {max_length}",
    "model_type": OBJECT,
    "model_attributes_type": OBJECT,
    "dict_type": OBJECT,
    "timezone_aware": TIME,
}
_FAMILIES: Final[Mapping[str, str]] = {
    "int_": WHOLE_NUMBER,
    "float_": NUMBER,
    "bool_": FLAG,
    "datetime_": TIME,
    "date_": DAY,
}
"""By how the name of pydantic's error begins: parsing, type and range of each are one mistake to a caller."""


def mistake_of(error: Mapping[str, Any], known: Iterable[str]) -> tuple[str, str]:
    """(field, what is wrong and what would be right) of one error of pydantic. `known`: the names allowed there.

    The field is named as it was sent, a name that the caller made up masked like any text.
    """
    return _field(".".join(str(part) for part in error["loc"])), _sentence(
        str(error["type"]), error.get("ctx") or {}, known
    )


def _sentence(kind: str, context: Mapping[str, Any], known: Iterable[str]) -> str:
    if kind == "value_error":
        # Raised by a check of ours, whose text is such a sentence.
        return str(context.get("error", NOT_VALID))
    if kind == "string_pattern_mismatch":
        return _PATTERNS.get(str(context.get("pattern")), NOT_VALID)
    if kind == "string_too_short" and context.get("min_length") == 1:
        return EMPTY
    family = next((sentence for begin, sentence in _FAMILIES.items() if kind.startswith(begin)), NOT_VALID)
    values = {name: str(value).replace("'", "") for name, value in context.items()}
    return _SENTENCES.get(kind, family).format(**values | {"known": ", ".join(known)})


def known_names(annotation: Any, path: Sequence[str | int]) -> tuple[str, ...]:
    """The names that an object may have, as they are sent: the one that `path` leads to from a field's annotation."""
    for part in path:
        model = _model_in(annotation)
        if isinstance(part, int):
            annotation = next((each for each in get_args(_plain(annotation))), None)
        elif model is not None:
            fields = {field.alias or name: field for name, field in model.model_fields.items()}
            annotation = fields[part].annotation if part in fields else None
    model = _model_in(annotation)
    return () if model is None else tuple(field.alias or name for name, field in model.model_fields.items())


def _plain(annotation: Any) -> Any:
    """Without `Annotated` and `| None`."""
    while get_origin(annotation) in {Annotated, Union, UnionType}:
        annotation = next((each for each in get_args(annotation) if each is not type(None)), None)
    return annotation


def _model_in(annotation: Any) -> type[BaseModel] | None:
    found = _plain(annotation)
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


_TYPES: Final[Mapping[str, str]] = {
    "str": TEXT,
    "int": WHOLE_NUMBER,
    "float": NUMBER,
    "bool": FLAG,
    "datetime": TIME,
    "date": DAY,
    "array": LIST,
    "object": OBJECT,
}
_MSGSPEC: Final[Sequence[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]]] = (
    (re.compile(r"Expected `str` of length >= (\d+)"), lambda _: EMPTY),
    (
        re.compile(r"Expected `str` of length <= (\d+)"),
        lambda found: _SENTENCES["string_too_long"].format(max_length=found[1]),
    ),
    (re.compile(r"Expected `int` >= (\d+)"), lambda found: _SENTENCES["greater_than_equal"].format(ge=found[1])),
    (re.compile(r"Expected `int` <= (\d+)"), lambda found: _SENTENCES["less_than_equal"].format(le=found[1])),
    (re.compile(r"Invalid RFC3339 encoded datetime|Expected `datetime` with"), lambda _: TIME),
    (re.compile(r"Expected `(\w+)(?: \| null)?`, got"), lambda found: _TYPES.get(found[1], NOT_VALID)),
    (re.compile(r"Integer value out of range"), lambda _: WHOLE_NUMBER),
)
_OF_A_KEY: Final = re.compile(r"Object (missing required|contains unknown) field `(.*)`", re.DOTALL)


def mistake_in(error: msgspec.ValidationError, known: Iterable[str]) -> tuple[str, str]:
    """(field, what is wrong and what would be right) of what msgspec found in a body; no field where it is the whole.

    `known`: the names that the body's fields may have.
    """
    what, _, where = str(error).partition(" - at `$")
    place = where.removesuffix("`")
    if key := _OF_A_KEY.fullmatch(what):
        place = f"{place}.{key[2]}"
        sentence = MISSING if key[1].startswith("missing") else UNKNOWN.format(known=", ".join(known))
    else:
        found = ((pattern.match(what), make) for pattern, make in _MSGSPEC)
        sentence = next((make(match) for match, make in found if match), NOT_VALID)
    return _field(place.lstrip(".")), sentence


def _field(name: str) -> str:
    """A field as it was sent, masked. Cut before it is searched: a caller may name one with a megabyte."""
    return redact_text(name[:1000])[:200]
