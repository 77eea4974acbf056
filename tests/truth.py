"""Comparing the shared table with what the stand-in providers say: row for row, by their own truth."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, text

from ulak.models.pseudonyms import pseudonym
from ulak.models.vocabulary import Granularity
from ulak.providers.pseudonymiser import Pseudonymiser
from ulak.providers.registry import ADAPTERS

PLAIN = (
    "parent_key",
    "client_ref",
    "recipient",
    "is_final",
    "reason",
    "total",
    "delivered",
    "undelivered",
    "waiting",
    "segments",
)
TIMES = ("sent_at", "done_at")


def stored_rows(connection: Connection) -> list[dict[str, Any]]:
    """The whole shared table."""
    return [dict(row) for row in connection.execute(text("SELECT * FROM delivery_status")).mappings()]


def differences(stored: Iterable[Mapping[str, Any]], truth: Iterable[Mapping[str, Any]]) -> list[str]:
    """Every way in which the table is not what the providers say; empty when they are equal, row for row.

    Equal numbers of one order are compared as a multiset: the provider shuffles them between two reads.
    """
    rows = {(row["account_id"], row["granularity"], row["provider_key"]): row for row in _ranked(stored, "account_id")}
    found: list[str] = []
    for told in _ranked(truth, "account"):
        key = (told["account"], told["granularity"], told["provider_key"])
        row = rows.pop(key, None)
        if row is None:
            # What an optional row says need not be asked for.
            found += [] if told.get("optional") else [f"{key}: missing"]
        else:
            found += [f"{key}: {each}" for each in _unequal(row, told)]
    return found + [f"{key}: invented" for key in rows]


def hashed(told: Mapping[str, Any], key: bytes) -> dict[str, Any]:
    """A row of the truth as an account with hashed recipients keeps it."""
    people = Pseudonymiser(ADAPTERS[told["provider"]].record, partial(pseudonym, key))
    recipient, parent = told["recipient"], told["parent_key"]
    is_person = parent is not None and told["granularity"] == Granularity.CONVERSATION
    return {
        **told,
        "provider_key": people.key(
            Granularity(told["granularity"]), told["provider_key"], [recipient] if recipient else []
        ),
        "parent_key": people.pseudonym(parent) if is_person else parent,
        "recipient": None if recipient is None else people.pseudonym(recipient),
    }


def _ranked(rows: Iterable[Mapping[str, Any]], account: str) -> list[Mapping[str, Any]]:
    """The rows with the ordinals of equal numbers of one order dealt out anew, by status."""
    given = list(rows)
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in given:
        parts = row["provider_key"].rsplit(":", 1)
        if row["granularity"] == "message" and row["provider"] == "iletimerkezi" and len(parts) == 2:
            groups.setdefault((row[account], parts[0]), []).append(row)
    ranked = {id(row): row for row in given}
    for (_, stem), group in groups.items():
        for ordinal, row in enumerate(sorted(group, key=lambda row: (row["status"], row["provider_key"])), 1):
            ranked[id(row)] = {**row, "provider_key": f"{stem}:{ordinal}"}
    return list(ranked.values())


def _unequal(row: Mapping[str, Any], told: Mapping[str, Any]) -> list[str]:
    """The fields in which a row differs. Where validity has ended, ours (`unreported`) stands beside the open word."""
    allowed = told.get("status_any") or [told["status"]]
    found = [] if row["status"] in allowed else [f"status {row['status']} instead of {allowed}"]
    is_ours = row["status"] == "unreported"
    names = [name for name in PLAIN if not (is_ours and name == "is_final")]
    if row["granularity"] == "conversation":
        # A day is final by a rule of ours (48 hours and two equal reads) that the provider knows nothing of.
        names.remove("is_final")
    found += [f"{name} {row[name]!r} instead of {told[name]!r}" for name in names if row[name] != told[name]]
    found += [f"{name} {row[name]} instead of {told[name]}" for name in TIMES if row[name] != _time(told[name])]
    credit = None if row["credits"] is None else float(row["credits"])
    found += [] if credit == told["credits"] else [f"credits {credit} instead of {told['credits']}"]
    return found + (["conflict"] if row["conflict"] else [])


def _time(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)
