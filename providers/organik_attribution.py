"""Which rows of a transaction are about which of the gsm ids that a send reply gave for it.

A gsm id in the text form of the send reply (`16502030-4730-63032793`) names its transaction, but reports show another,
whole number. So a row is known by the number that the text ends in, else by what the sender registered with the id (its
recipient, or its own reference), else only together with the other rows: then nothing is settled before all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from ulak.models.report import Report, TrackedKey
from ulak.providers.adapter import DueId

_ANY: Final = ("", None)


@dataclass(slots=True)
class Attribution:
    """What the rows of one transaction show of the ids asked for."""

    shown: dict[TrackedKey, list[Report]] = field(default_factory=dict)
    """For each id among the rows: the rows of which one is its own."""
    owners: dict[str, TrackedKey] = field(default_factory=dict)
    """Row (`provider_key`) → the id whose registration completes it."""
    sure: set[TrackedKey] = field(default_factory=set)
    """Ids whose row is known."""
    lacking: list[TrackedKey] = field(default_factory=list)
    """Ids that no row can be about."""


def attribute(waiting: Sequence[DueId], rows: Sequence[Report]) -> Attribution:
    """Tell the rows of one transaction (distinct by key) apart by the ids that wait for them."""
    found, left = Attribution(), {row.provider_key: row for row in rows}
    unnamed: list[DueId] = []
    for item in waiting:
        row = left.pop(item.key.value, None) or left.pop(item.key.value.rpartition("-")[2], None)
        if row is None:
            unnamed.append(item)
        else:
            _show(found, [item], [row])
    # The id that knows most about its row chooses first.
    unnamed.sort(key=lambda item: (item.recipient is None, item.client_ref is None, item.key.value))
    groups: dict[tuple[str, str | None], list[DueId]] = {}
    for item in unnamed:
        groups.setdefault(_trait(item), []).append(item)
    places: dict[tuple[str, str | None], list[str]] = {}
    for row in left.values():
        for trait in (("recipient", row.recipient), ("client_ref", row.client_ref)):
            places.setdefault(trait, []).append(row.provider_key)
    for trait, items in groups.items():
        chosen = [left[key] for key in (left if trait == _ANY else places.get(trait, ())) if key in left]
        # Where rows do not name a reference themselves, they must not be given that of another message.
        is_mixed = len({item.client_ref for item in items}) > 1 and any(row.client_ref is None for row in chosen)
        if len(chosen) < len(items) or is_mixed:
            found.lacking += [item.key for item in items]
            continue
        _show(found, items, chosen)
        for row in chosen:
            del left[row.provider_key]
    return found


def _trait(item: DueId) -> tuple[str, str | None]:
    """What a row must have to be this id's."""
    if item.recipient is not None:
        return "recipient", item.recipient
    return ("client_ref", item.client_ref) if item.client_ref is not None else _ANY


def _show(found: Attribution, items: Sequence[DueId], rows: Sequence[Report]) -> None:
    if len(items) == len(rows) == 1:
        found.sure.add(items[0].key)
    found.shown |= {item.key: list(rows) for item in items}
    found.owners |= {
        row.provider_key: item.key
        for item, row in zip(items, sorted(rows, key=lambda row: row.provider_key), strict=False)
    }
