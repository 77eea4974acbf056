"""The options of an account, typed: `[account.options]` of `accounts.toml`, with every default.

Each adapter adds its own to the two that every provider has. Names, bounds, defaults and descriptions are only here and
in the adapters' subclasses: the reader of the file and the documents take them from the fields.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from ulak.models.permit import DEFAULT_DEADLINE_SECONDS, MAX_DEADLINE_SECONDS

MISTAKE = "mistake"
"""The type of the errors that carry their own text."""

ValidityHours = Annotated[
    float,
    Field(gt=0, le=366 * 24, description="How long a message stays valid when its sender gave no validity period."),
]
DeadlineSeconds = Annotated[
    float,
    Field(
        gt=0,
        le=MAX_DEADLINE_SECONDS,
        description=f"The longest time that one request may take, at most {MAX_DEADLINE_SECONDS:g}.",
    ),
]


def mistake(problem: str, right: str) -> PydanticCustomError:
    """An error for a validator to raise. `right`: the remedy, in which `{key}` is replaced by the key."""
    return PydanticCustomError(MISTAKE, "{problem}", {"problem": problem, "right": right})


class Table(BaseModel):
    """A table of `accounts.toml`: unknown keys are refused, and no value is converted to another type."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class ProviderOptions(Table):
    """The options that every provider has. An adapter's subclass may give them other defaults."""

    validity_hours: ValidityHours = 24.0
    deadline_seconds: DeadlineSeconds = DEFAULT_DEADLINE_SECONDS

    @property
    def ids_per_call(self) -> int:
        """The most tracked ids that one call may ask for."""
        return 1

    @property
    def longest_window_days(self) -> int | None:
        """The longest list window in calendar days; None: the provider's longest."""
        return None

    @classmethod
    def own_names(cls) -> tuple[str, ...]:
        """The options that not every provider has."""
        return tuple(name for name in cls.model_fields if name not in ProviderOptions.model_fields)

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> Self:
        """The options of an account's row, checked when they were stored; missing ones have their defaults."""
        return cls.model_construct(**stored)

    @classmethod
    def of(cls, options: "ProviderOptions") -> Self:
        """The options of an account of this provider; `TypeError` for those of another."""
        if not isinstance(options, cls):
            raise TypeError(f"These are {type(options).__name__}, not {cls.__name__}.")
        return options
