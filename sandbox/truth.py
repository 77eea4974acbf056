"""Rows in the terms of the shared table, written from the providers' documents alone."""

from collections.abc import Iterable
from typing import Any

from ulak.sandbox.outcomes import NEVER
from ulak.sandbox.provider_times import iso

COLUMNS = (
    "provider",
    "account",
    "granularity",
    "provider_key",
    "parent_key",
    "client_ref",
    "recipient",
    "status",
    "is_final",
    "reason",
    "total",
    "delivered",
    "undelivered",
    "waiting",
    "segments",
    "credits",
    "sent_at",
    "done_at",
    "settles_at",
    "status_any",
    "valid_until",
    "ever",
    "optional",
)

FINAL = frozenset({"sent", "delivered", "undeliverable", "expired", "rejected", "partially_delivered", "read"})

Row = dict[str, Any]


def build_row(provider: str, granularity: str, key: str, status: str, **columns: Any) -> Row:
    """One row with every column; times given as epoch seconds become ISO text.

    `status_any` lists what else a careful reader may call an open state whose class is open too. `ever` maps every
    status that was true at some moment up to now to the beginning of that moment.
    """
    row: Row = dict.fromkeys(COLUMNS)
    row |= {
        "provider": provider,
        "account": f"demo-{provider}",
        "granularity": granularity,
        "provider_key": key,
        "status": status,
        "is_final": status in FINAL,
        "status_any": [status],
        "ever": {},
        "optional": False,
    }
    row |= columns
    for name in ("sent_at", "done_at", "settles_at", "valid_until"):
        at = row[name]
        if isinstance(at, int | float):
            row[name] = None if at == NEVER else iso(at)
    row["ever"] = {name: iso(at) for name, at in row["ever"].items()}
    return row


def first_times(reached: Iterable[tuple[float, str]]) -> dict[str, float]:
    """Status → since when, of (since, status) in the order of time.

    `scheduled` and `enroute` are both open, and documents say little about where one ends: each allows the other.
    """
    first: dict[str, float] = {}
    for at, status in reached:
        for name in ("scheduled", "enroute") if status in ("scheduled", "enroute") else (status,):
            first.setdefault(name, at)
    return first


def allow_unreported(row: Row, now: float, valid_until: float) -> Row:
    """The row, which its reader may call `unreported` once its validity is over without an end."""
    if now >= valid_until:
        row["ever"]["unreported"] = iso(valid_until)
        if row["status"] in ("scheduled", "enroute"):
            row["status_any"] = [*row["status_any"], "unreported"]
    return row


def encode_part(part: str) -> str:
    """One part of a key: `%` and `:` percent-encoded, nothing else."""
    return part.replace("%", "%25").replace(":", "%3A")


def write_e164(number: str) -> str:
    """`+90…` of a number the stand-ins made up themselves; anything else as it is."""
    return f"+{number}" if number.isdigit() else number
