"""Mistakes of `accounts.toml` in words: where, what is wrong, and what would be right."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from ulak.providers.options import MISTAKE

_MAX_NAMES: Final = 12
_WRONG_TYPE: Final[Mapping[str, tuple[str, str]]] = {
    "bool_type": ("it is neither true nor false", "{key} = true or {key} = false, without quotes"),
    "string_type": ("it has the wrong type", "a text in quotes"),
    "list_type": ("it has the wrong type", "a list in brackets"),
    "dict_type": ("it is not a table", "[account.{path}]"),
    "model_type": ("it is not a table", "[account.{path}]"),
}
"""Error types of pydantic (https://docs.pydantic.dev/latest/errors/validation_errors/) in our words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One thing that is wrong in the file."""

    line: int
    """From 1."""
    account: str
    """The account's id, `#2` for the second account where the id is not usable, empty for the file itself."""
    where: str
    """The key, dotted: `limit.requests`."""
    problem: str
    right: str

    def __str__(self) -> str:
        """One line for people, without the place."""
        subject = " ".join(part for part in (self.account, self.where) if part)
        return f"{subject + ': ' if subject else ''}{self.problem}; right would be: {self.right}"


def explain(error: ErrorDetails, model: type[BaseModel]) -> tuple[str, str]:
    """What is wrong and what would be right, of an error that `model` reports. Neither repeats the value.

    In the remedy `{key}` is replaced by the key and `{path}` by its dotted path within the account.
    """
    kind, name = error["type"], str(error["loc"][-1])
    if kind == MISTAKE:
        return error["ctx"]["problem"], error["ctx"]["right"]
    table = model
    for step in error["loc"][:-1]:
        table = table.model_fields[str(step)].annotation  # type: ignore[assignment] # a nested table
    if kind == "extra_forbidden":
        return "it is not known", nearest(name, sorted(table.model_fields))
    field = table.model_fields[name]
    if kind in {"literal_error", "enum"}:
        return "it is not known", nearest(error["input"], _choices(field))
    return _WRONG_TYPE.get(kind) or ("it is no number within its bounds", _number(field))


def nearest(given: Any, names: Iterable[str]) -> str:
    """What was probably meant; otherwise the names in their order, where there are many only the first of them."""
    names = list(names)
    close = difflib.get_close_matches(str(given), names, n=1, cutoff=0.6)
    if close:
        return close[0]
    return "one of " + ", ".join(names[:_MAX_NAMES]) + (", …" if len(names) > _MAX_NAMES else "")


def _choices(field: FieldInfo) -> list[str]:
    """The values of a literal or an enumeration."""
    kind = field.annotation
    return [each.value for each in kind] if isinstance(kind, type) and issubclass(kind, Enum) else list(get_args(kind))


def _number(field: FieldInfo) -> str:
    """The kind of number and its bounds."""
    is_whole = field.annotation in {int, int | None}
    words = [
        f"{word} {bound:.15g}"
        for name, word in (("ge", "at least"), ("gt", "above"), ("le", "at most"))
        for each in field.metadata
        if (bound := getattr(each, name, None)) is not None
    ]
    return f"a {'whole ' * is_whole}number {', '.join(words)}{'' if is_whole else ', without quotes'}"
