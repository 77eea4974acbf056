"""What a provider's status code means: its documented table, then the account's own map for codes beyond it.

A provider may begin to use codes before its documents, or a version of ours, know them. `[account.options.status_map]`
names their status meanwhile. It can only add: a documented code always has the meaning of the adapter's table.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final, TypeVar

from ulak.models.vocabulary import FAILURES, Reason, Status
from ulak.providers.adapter import Account

STATUS_MAP: Final = "status_map"
"""The option's name: raw code → `status`, or `status/reason` for a failure (`rejected/opted_out`)."""

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
    named = account.options.get(STATUS_MAP)
    given = named.get(code) if isinstance(named, Mapping) else None
    meaning = read_meaning(given) if isinstance(given, str) else None
    return meaning if meaning is not None else (Status.UNKNOWN, None)


@lru_cache(maxsize=256)
def read_meaning(text: str) -> Meaning | None:
    """`rejected` or `rejected/opted_out` as a meaning; None for any other text. Only a failure has a reason."""
    word, slash, why = text.partition("/")
    if word not in MAPPABLE or (slash and why not in set(Reason)):
        return None
    status, reason = Status(word), Reason(why) if slash else None
    return None if reason is not None and status not in FAILURES else (status, reason)
