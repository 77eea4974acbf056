"""Registering what a sender sent, so that it gets polled."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping

from models import tracked
from models.database import transaction
from models.keys import split_key
from models.report import TrackedKey
from providers.adapter import Account, Adapter, DueId
from providers.numbers import lookup_form
from schedules.policy import first_check
from tasks.runtime import Runtime, adapter_of

MOST_AT_ONCE = 5000


class UnknownIdKindError(ValueError):
    """The provider knows no such kind of id; the text says which it knows."""


def policy_numbers(row: RowMapping) -> dict[str, Any]:
    """The account's own numbers of the poll policy, as keyword arguments of `schedules.policy`."""
    poll = row["poll"]
    return {
        "time_factor": float(poll.get("time_factor", 1.0)),
        "first_check_seconds": poll.get("first_check_seconds"),
        "max_check_seconds": poll.get("max_check_seconds"),
    }


def due_id(row: RowMapping | Mapping[str, Any]) -> DueId:
    """A tracked row as the adapter gets it."""
    return DueId(
        key=TrackedKey(id_kind=row["id_kind"], value=row["value"]),
        client_ref=row["client_ref"],
        recipient=row["recipient"],
        expected=row["expected"],
        sent_at=row["sent_at"],
        valid_until=row["valid_until"],
        gate_open=row["gate_open"],
    )


def track(runtime: Runtime, account_id: str, items: Sequence[Mapping[str, Any]]) -> int:
    """Register ids of an account, idempotent, in transactions of at most `MOST_AT_ONCE`; returns how many are new.

    An item: kind, value, and optionally client_ref, recipient, expected, sent_at, valid_until (aware times).
    """
    created = 0
    for start in range(0, len(items), MOST_AT_ONCE):
        with transaction(runtime.engine) as connection:
            row = account_row(connection, account_id)
            rows = _rows(row, adapter_of(row), items[start : start + MOST_AT_ONCE], row["now"])
            created += tracked.register(connection, account_id, rows)
    return created


def account_row(connection: Connection, account_id: str) -> RowMapping:
    """The account's row, with PostgreSQL's `now`; LookupError with a sentence where there is none."""
    row = tracked.account_of(connection, account_id)
    if row is None:
        raise LookupError(f"There is no account {account_id!r}: `ulak accounts list` shows the known ones.")
    return row


def register(
    connection: Connection, row: RowMapping, account: Account, adapter: Adapter, items: Sequence[Mapping[str, Any]]
) -> Sequence[RowMapping]:
    """Register the ids that an on-demand poll names, and give their tracked rows."""
    rows = _rows(row, adapter, items, row["now"])
    tracked.register(connection, account.id, rows)
    return tracked.find(connection, account.id, rows)


def _rows(row: RowMapping, adapter: Adapter, items: Sequence[Mapping[str, Any]], now: datetime) -> list[dict[str, Any]]:
    """Rows to insert, the later of equal ids winning, missing times filled in."""
    validity = timedelta(hours=float(row["options"].get("validity_hours", adapter.record.validity_hours)))
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for item in items:
        kind, value = str(item["kind"]), str(item["value"])
        if kind not in adapter.record.id_kinds:
            known = ", ".join(adapter.record.id_kinds) or "none: it needs no registered ids"
            raise UnknownIdKindError(f"{adapter.record.title} knows no id of kind {kind!r} (known: {known}).")
        sent_at = item.get("sent_at") or now
        valid_until = item.get("valid_until") or sent_at + validity
        recipient = item.get("recipient") or _number_in(adapter, kind, value)
        rows[kind, value] = {
            "id_kind": kind,
            "value": value,
            "client_ref": item.get("client_ref"),
            "recipient": lookup_form(str(recipient)) or str(recipient) if recipient else None,
            "expected": item.get("expected"),
            "sent_at": sent_at,
            "valid_until": valid_until,
            "next_check_at": first_check(
                adapter.record.poll, sent_at=sent_at, valid_until=valid_until, now=now, **policy_numbers(row)
            ),
        }
    return list(rows.values())


def _number_in(adapter: Adapter, kind: str, value: str) -> str | None:
    """The recipient's number where the id itself names it, so that an unanswered id is found by its number."""
    place = adapter.record.number_part.get(kind)
    parts = split_key(value)
    return None if place is None or place >= len(parts) else parts[place]
