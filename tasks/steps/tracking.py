"""Registering what a sender sent, so that it gets polled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection, RowMapping

from ulak.models import tracked
from ulak.models.database import Record, retry_transaction
from ulak.models.events import Event, record
from ulak.models.keys import split_key
from ulak.models.latencies import in_force
from ulak.models.ledger import clocksteps
from ulak.models.references import attach_references
from ulak.models.report import Discovered, TrackedKey
from ulak.models.suppression import KEYED, Suppressions
from ulak.providers.adapter import Account, Adapter, DueId
from ulak.providers.errors import RequestIsWrong
from ulak.providers.hidden_people import HiddenPeople
from ulak.providers.numbers import person, plain, trimmed
from ulak.schedules.announcements import stretch
from ulak.schedules.plans import missed_of, times_of
from ulak.schedules.policy import first_check
from ulak.schedules.poll_times import PollTimes
from ulak.tasks.runtime import Runtime, adapter_of

MOST_AT_ONCE = 5000


class UnknownIdKindError(ValueError):
    """The provider knows no such kind of id; the text says which it knows."""


def time_factor(row: Record) -> float:
    """What multiplies every wait of the account's poll policy."""
    return float(row["poll"].get("time_factor", 1.0))


def policy_numbers(row: Record) -> dict[str, Any]:
    """The account's own numbers of the poll policy, as keyword arguments of `ulak.schedules.policy`."""
    poll = row["poll"]
    return {
        "time_factor": time_factor(row),
        "first_check_seconds": poll.get("first_check_seconds"),
        "max_check_seconds": poll.get("max_check_seconds"),
    }


def learned_times(row: Record, adapter: Adapter, kind: str, expected: int | None) -> PollTimes | None:
    """The schedule that the account has learned for such an id; None where the fixed one holds.

    Only for ids of one message: one check of several answers for all of them.
    """
    is_one = kind in adapter.record.message_kinds or expected == 1
    if not is_one or not row["poll"].get("adaptive", True):
        return None
    return times_of(in_force(row), kind)


def schedule_of(row: Record, adapter: Adapter, kind: str, expected: int | None) -> dict[str, Any]:
    """When such an id of the account is checked, as keyword arguments of `ulak.schedules.policy`."""
    is_adaptive = row["poll"].get("adaptive", True)
    return policy_numbers(row) | {
        "learned": learned_times(row, adapter, kind, expected),
        "stretch": stretch(missed_of(in_force(row), kind)) if is_adaptive else 1.0,
    }


def announced_kinds(row: Record, account: Account, adapter: Adapter) -> frozenset[str]:
    """Kinds of ids of several messages whose ends callbacks may bring; none without a webhook or adaptation."""
    secret = adapter.record.callback_secret
    is_pushed = row["poll"].get("adaptive", True) and secret is not None and secret in account.credentials
    return adapter.record.settled_by_parts if is_pushed else frozenset()


def validity_of(row: RowMapping) -> timedelta:
    """How long the account's messages may take: its option, otherwise the provider's record."""
    return timedelta(hours=float(row["options"].get("validity_hours", adapter_of(row).record.validity_hours)))


def is_whole(row: RowMapping | tracked.AskedId) -> bool:
    """Whether the tracked row is a whole (a send) whose parts are tracked ids too."""
    return bool(row["whole"] is not None and row["whole"] == row["value"])


def normal_id(adapter: Adapter, kind: str, value: str) -> tuple[str, str]:
    """Kind and value in the one form under which an id is stored; `RequestIsWrong` where it cannot be an id."""
    kind = plain(kind)
    return kind, adapter.record.id_forms.get(kind, plain)(value)


def due_id(row: RowMapping | Mapping[str, Any] | tracked.AskedId) -> DueId:
    """A tracked row as the adapter gets it, with clear numbers."""
    clear = row["clear"] or {}
    return DueId(
        key=TrackedKey(id_kind=row["id_kind"], value=clear.get("value", row["value"])),
        client_ref=row["client_ref"],
        recipient=clear.get("recipient", row["recipient"]),
        expected=row["expected"],
        sent_at=row["sent_at"],
        valid_until=row["valid_until"],
        fingerprint=row["answer_fingerprint"],
    )


def asked_by(
    adapter: Adapter, account: Account, rows: Sequence[RowMapping], params: Mapping[str, Any], now: datetime
) -> list[RowMapping]:
    """Those of these tracked rows for which the adapter would make the call with these parameters, or a part of it."""
    today = now.astimezone(UTC).date()
    return [
        row
        for row in rows
        if any(_is_part(spec.params, params) for spec in adapter.plan_ids(account, [due_id(row)], today))
    ]


def _is_part(one: Mapping[str, Any], whole: Mapping[str, Any]) -> bool:
    """Whether a call for one id is that other call, or a part of its batch."""
    if one.keys() != whole.keys():
        return False
    pairs = [(value, whole[name]) for name, value in one.items()]
    return all(
        set(part) <= set(all_) if isinstance(part, list) and isinstance(all_, list) else part == all_
        for part, all_ in pairs
    )


def track(runtime: Runtime, account_id: str, items: Sequence[Mapping[str, Any]]) -> int:
    """Register ids of an account, idempotent, in transactions of at most `MOST_AT_ONCE`; returns how many are new.

    An item: kind, value, and optionally client_ref, recipient, expected, sent_at, valid_until (aware times).
    """
    created = 0
    for start in range(0, len(items), MOST_AT_ONCE):
        part = items[start : start + MOST_AT_ONCE]
        run = partial(_track, runtime=runtime, account_id=account_id, items=part)
        created += retry_transaction(runtime.engine, run)
    return created


def _track(connection: Connection, runtime: Runtime, account_id: str, items: Sequence[Mapping[str, Any]]) -> int:
    """Register some ids in one transaction; a reference goes to what is stored already, too."""
    row = account_row(connection, account_id)
    adapter = adapter_of(row)
    kinds = adapter.record.reference_kinds
    rows = _rows(connection, runtime, row, items, references=True)
    references = {
        TrackedKey(id_kind=each["id_kind"], value=each["value"]): each["client_ref"]
        for each in rows
        if each["id_kind"] in kinds and each["client_ref"]
    }
    attach_references(connection, account_id, kinds, references)
    return tracked.register(connection, account_id, rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Untracked:
    """What became of an id that its sender gave up."""

    key: TrackedKey
    """In the form in which it is stored."""
    was_open: bool


def untrack(
    connection: Connection, runtime: Runtime, account_id: str, items: Sequence[Mapping[str, Any]], event: Event
) -> list[Untracked]:
    """End the polling of ids (kind, value), in whatever form they are given; one result for each.

    Where any was open, `event` is recorded in the same transaction, with how many were.
    """
    row = account_row(connection, account_id)
    hidden = runtime.hidden_people(row)
    keys = [
        TrackedKey(id_kind=kind, value=value)
        for kind, value in _one_forms(connection, account_id, adapter_of(row), hidden, items)
    ]
    if hidden is not None:
        keys = list(map(hidden.tracked, keys))
    closed = tracked.untrack(connection, account_id, set(keys))
    if closed:
        record(connection, replace(event, details={"ids": len(closed)}))
    return [Untracked(key=key, was_open=key in closed) for key in keys]


def account_row(connection: Connection, account_id: str) -> RowMapping:
    """The account's row, with PostgreSQL's `now`; LookupError with a sentence where there is none."""
    row = tracked.account_of(connection, account_id)
    if row is None:
        raise LookupError(f"There is no account {account_id!r}: `ulak accounts list` shows the known ones.")
    return row


def without_erased(
    connection: Connection, suppressions: Suppressions, rows: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The rows to track without those about somebody who was erased after the message was sent.

    Until the transaction ends nobody comes on the list, so an erasure finds what is registered meanwhile.
    """
    if not any(row["recipient"] or row["id_kind"] in KEYED for row in rows):
        return list(rows)
    listed = suppressions.held(connection)
    return [row for row in rows if not listed.is_erased(row["id_kind"], row["value"], row["recipient"], row["sent_at"])]


def register(
    connection: Connection, runtime: Runtime, row: RowMapping, items: Sequence[Mapping[str, Any]]
) -> Sequence[Record]:
    """Register the ids that an on-demand poll names, and give their tracked rows."""
    rows = _rows(connection, runtime, row, items)
    tracked.register(connection, row["id"], rows)
    # A closed row does not keep what a request for it needs.
    clear = {(each["id_kind"], each["value"]): each.get("clear") for each in rows}
    return [
        {**each, "clear": each["clear"] or clear[each["id_kind"], each["value"]]}
        for each in tracked.find(connection, row["id"], rows)
    ]


def register_named(connection: Connection, runtime: Runtime, row: RowMapping, found: Sequence[Discovered]) -> int:
    """Register the ids that a send reply names, as if the sender had; returns how many were not known before."""
    items = [
        {
            "kind": item.key.id_kind,
            "value": item.key.value,
            "client_ref": item.client_ref,
            "recipient": item.recipient,
            "expected": item.expected,
            "sent_at": item.sent_at,
            "valid_until": item.valid_until,
        }
        for item in found
    ]
    return tracked.register(connection, row["id"], _rows(connection, runtime, row, items)) if items else 0


def sent_late(connection: Connection, sent_at: datetime, now: datetime) -> timedelta:
    """By how much a time of sending must be moved to be one of PostgreSQL's clock: mostly by nothing.

    One that lies ahead by no more than that clock was set back of late is no sending that is still to come: whoever
    named it has a better clock. Without this, nobody would ask for the id until the clock has caught up.
    """
    ahead = sent_at - now
    if ahead <= timedelta(0):
        return timedelta(0)
    behind = clocksteps.behind(connection)
    return behind if ahead <= behind else timedelta(0)


def _rows(
    connection: Connection,
    runtime: Runtime,
    row: RowMapping,
    items: Sequence[Mapping[str, Any]],
    *,
    references: bool = False,
) -> list[Mapping[str, Any]]:
    """Rows to insert, as they are stored, without those of erased people (`without_erased`).

    Of equal ids the later wins where it says something. With `references` also of kinds that only attach a reference;
    those are not to be asked for.
    """
    adapter, hidden = adapter_of(row), runtime.hidden_people(row)
    attaching = adapter.record.reference_kinds if references else {}
    validity, now = validity_of(row), row["now"]
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for item, (kind, value) in zip(items, _one_forms(connection, row["id"], adapter, hidden, items), strict=True):
        if kind not in adapter.record.id_kinds and kind not in attaching:
            known = ", ".join(adapter.record.id_kinds) or "none: it needs no registered ids"
            raise UnknownIdKindError(f"{adapter.record.title} knows no id of kind {kind!r} (known: {known}).")
        sent_at = item.get("sent_at") or now
        valid_until = item.get("valid_until") or sent_at + validity
        late = sent_late(connection, sent_at, now)
        sent_at, valid_until = sent_at - late, valid_until - late
        recipient = person(str(item.get("recipient") or _number_in(adapter, kind, value) or "")) or None
        before = rows.get((kind, value), {})
        given = {
            "id_kind": kind,
            "value": value,
            "client_ref": trimmed(item.get("client_ref") or "") or None,
            "recipient": recipient,
            "expected": item.get("expected"),
            "sent_at": sent_at,
            "valid_until": valid_until,
            "next_check_at": first_check(
                adapter.record.poll,
                sent_at=sent_at,
                valid_until=valid_until,
                now=now,
                **schedule_of(row, adapter, kind, item.get("expected")),
            ),
            "whole": split_key(value)[0] if kind in adapter.record.wholes else None,
            "close_reason": tracked.REFERENCE if kind in attaching else None,
        }
        rows[kind, value] = before | {name: said for name, said in given.items() if said is not None or not before}
    stored: list[Mapping[str, Any]] = list(rows.values())
    if hidden is not None:
        stored = list(map(hidden.tracked_row, stored))
    return without_erased(connection, runtime.suppressions, stored)


def _one_forms(
    connection: Connection,
    account_id: str,
    adapter: Adapter,
    hidden: HiddenPeople | None,
    items: Sequence[Mapping[str, Any]],
) -> list[tuple[str, str]]:
    """(kind, value) of each item in its one form, not yet hidden.

    An id that an earlier version stored as it was given keeps that row, or its registration would come again as new.
    The doors have refused what cannot be an id; what comes here all the same (a poll that was stored before) is kept as
    it is, and the call that asks for it says what is wrong.
    """
    given = [(str(item["kind"]), str(item["value"])) for item in items]
    forms: list[tuple[str, str]] = []
    for kind, value in given:
        try:
            forms.append(normal_id(adapter, kind, value))
        except RequestIsWrong:
            forms.append((plain(kind), value))
    others = [
        {"id_kind": kind, "value": value}
        for (kind, value), form in zip(given, forms, strict=True)
        if (kind, value) != form and hidden is None
    ]
    known = (
        {(row["id_kind"], row["value"]) for row in tracked.find(connection, account_id, others)} if others else set()
    )
    return [pair if pair in known else form for pair, form in zip(given, forms, strict=True)]


def _number_in(adapter: Adapter, kind: str, value: str) -> str | None:
    """The recipient's number where the id itself names it, so that an unanswered id is found by its number."""
    place = adapter.record.number_part.get(kind)
    parts = split_key(value)
    return None if place is None or place >= len(parts) else parts[place]
