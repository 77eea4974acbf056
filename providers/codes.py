"""A provider's own codes and credits, explained from the record of its adapter."""

from collections.abc import Iterable, Mapping
from typing import Any

from ulak.models.vocabulary import Granularity, Status
from ulak.providers.adapter import CodeMeanings
from ulak.providers.registry import ADAPTERS


def explain_codes(row: Mapping[Any, Any]) -> dict[str, Any]:
    """What the codes of a row mean: `provider_status_meaning`, `provider_error_meaning`; None if undocumented.

    `row` has the columns `provider`, `granularity`, `status`, `provider_status` and `provider_error` of the delivery
    table, for a statement with its own.
    """
    adapter = ADAPTERS.get(row["provider"])
    meanings = CodeMeanings() if adapter is None else adapter.record.meanings
    return {
        "provider_status_meaning": meanings.of_status(
            Granularity(row["granularity"]), Status(row["status"]), row["provider_status"]
        ),
        "provider_error_meaning": meanings.of_error(row["provider_error"]),
    }


def with_meaning(row: Mapping[Any, Any], column: str) -> str | None:
    """The code in a column as people see it: `114: sending completed`."""
    code, meaning = row[column], explain_codes(row)[f"{column}_meaning"]
    return code if meaning is None else f"{code}: {meaning}"


def explain_credits(providers: Iterable[str]) -> dict[str, str]:
    """What the credits of each of these providers are; without those that report none."""
    records = (ADAPTERS[name].record for name in sorted(set(providers) & ADAPTERS.keys()))
    return {record.name: record.credits_mean for record in records if record.credits_mean is not None}
