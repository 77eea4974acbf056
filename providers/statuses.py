"""What a provider's status code means: its documented table, then the account's own map for codes beyond it.

A provider may begin to use codes before its documents, or a version of ours, know them. `[account.options.status_map]`
names their status meanwhile. It can only add: a documented code always has the meaning of the adapter's table.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from ulak.models.vocabulary import FAILURES, Reason, Status
from ulak.providers.adapter import Account
from ulak.providers.options import ProviderOptions, mistake

STATUS_MAP: Final = "status_map"
"""The option's name: raw code → `status`, or `status/reason` for a failure (`rejected/opted_out`)."""
RECORD: Final = "record"
"""The name under which the context of a validation holds the provider's record."""

_OURS: Final = frozenset({Status.UNKNOWN, Status.UNREPORTED, Status.PARTIALLY_DELIVERED})
MAPPABLE: Final = tuple(status for status in Status if status not in _OURS)
"""What one code alone can mean: not our own words, nor what follows from an order's counts."""

Meaning = tuple[Status, Reason | None]
_Code = TypeVar("_Code", int, str)


def judge(account: Account, table: Mapping[_Code, Meaning], code: _Code) -> Meaning:
    """(status, reason) of a code: by the documented table, otherwise by the account's map, otherwise `unknown`."""
    documented = table.get(code)
    return documented if documented is not None else judge_unlisted(account, str(code))


def judge_unlisted(account: Account, code: str) -> Meaning:
    """(status, reason) that the account's map gives to a code that no table lists; `unknown` where it names none."""
    named = MappedOptions.of(account.options).status_map.get(code)
    meaning = read_meaning(named) if named is not None else None
    return meaning if meaning is not None else (Status.UNKNOWN, None)


@lru_cache(maxsize=256)
def read_meaning(text: str) -> Meaning | None:
    """`rejected` or `rejected/opted_out` as a meaning; None for any other text. Only a failure has a reason."""
    word, slash, why = text.partition("/")
    if word not in MAPPABLE or (slash and why not in set(Reason)):
        return None
    status, reason = Status(word), Reason(why) if slash else None
    return None if reason is not None and status not in FAILURES else (status, reason)


def _code(code: str, info: ValidationInfo) -> str:
    """A code that may be mapped: one that the provider's table lacks."""
    record = info.context[RECORD] if info.context else None
    if record is not None and code in record.status_codes:
        page = f"docs/reference/providers/{record.name}.md"
        raise mistake("this code is documented, and its meaning is fixed", f"only codes that {page} lacks")
    if not code or code != code.strip():
        raise mistake("it is no status code", "the code as the provider writes it, without blanks around it")
    return code


def _words(given: Any) -> str:
    """The words of a meaning."""
    if not isinstance(given, str) or read_meaning(given) is None:
        right = f'one of {", ".join(MAPPABLE)}; a failure may name its reason, as in "rejected/opted_out"'
        raise mistake("it is no status that a code can mean", right)
    return given


class MappedOptions(ProviderOptions):
    """Options of a provider that may use codes beyond the documented ones."""

    status_map: dict[Annotated[str, AfterValidator(_code)], Annotated[str, BeforeValidator(_words)]] = Field(
        default_factory=dict,
        description="The status of codes that the provider's table lacks: "
        "[status_map](../configuration.md#status_map).",
    )
