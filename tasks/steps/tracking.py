"""Registering what a sender sent, so that it gets polled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection

from ulak.models import tracked
from ulak.models.account import StoredAccount, load
from ulak.models.database import retry_transaction
from ulak.models.events import Event, record
from ulak.models.keys import split_key
from ulak.models.latencies import in_force
from ulak.models.ledger import clocksteps
from ulak.models.references import attach_references
from ulak.models.report import Discovered, NewId, TrackedKey
from ulak.models.suppression import KEYED, Suppressions
from ulak.models.tracked import AskedId, TrackedId
from ulak.providers import effective
from ulak.providers.adapter import Account, Adapter, DueId
from ulak.providers.effective import adapter_of, record_of
from ulak.providers.errors import RequestIsWrong
from ulak.providers.phone_numbers import person, plain, trimmed
from ulak.providers.pseudonymiser import Pseudonymiser
from ulak.schedules.announcements import stretch
from ulak.schedules.plans import missed_of, times_of
from ulak.schedules.policy import first_check
from ulak.schedules.poll_times import PollTimes
from ulak.schedules.sweeping import MAX_SECONDS
from ulak.tasks.runtime import Runtime

MAX_AT_ONCE = 5000


class UnknownIdKindError(ValueError):
    """The provider knows no such kind of id; the text says which it knows."""


def policy_numbers(stored: StoredAccount) -> dict[str, Any]:
    """The account's own numbers of the poll policy, as keyword arguments of `ulak.schedules.policy`."""
    return {
        "time_factor": stored.time_factor,
        "first_check_seconds": stored.first_check_seconds,
        "max_check_seconds": stored.max_check_seconds,
    }


def learned_times(stored: StoredAccount, kind: str, expected: int | None) -> PollTimes | None:
    """The schedule that the account has learned for such an id; None where the fixed one holds.

    Only for ids of one message: one check of several answers for all of them.
    """
    is_one = kind in record_of(stored).message_kinds or expected == 1
    return times_of(in_force(stored), kind) if is_one and stored.is_adaptive else None


def schedule_of(stored: StoredAccount, kind: str, expected: int | None) -> dict[str, Any]:
    """When such an id of the account is checked, as keyword arguments of `ulak.schedules.policy`."""
    missed = missed_of(in_force(stored), kind) if stored.is_adaptive else 1.0
    return policy_numbers(stored) | {
        "learned": learned_times(stored, kind, expected),
        "stretch": stretch(missed, is_counted_by_lists=_is_counted_by_lists(stored, kind)),
    }


def _is_counted_by_lists(stored: StoredAccount, kind: str) -> bool:
    """Whether lists state how many messages of such an id have ended, and are swept as often as an idle account's."""
    record = record_of(stored)
    is_listed = record.sweep_window_days is not None and kind in record.settled_by_parts
    return is_listed and effective.every_seconds(stored) <= MAX_SECONDS * stored.time_factor


def announced_kinds(stored: StoredAccount, account: Account, adapter: Adapter) -> frozenset[str]:
    """Kinds of ids of several messages whose ends callbacks may bring; none without a webhook or adaptation."""
    secret = adapter.record.callback_secret
    is_pushed = stored.is_adaptive and secret is not None and secret in account.credentials
    return adapter.record.settled_by_parts if is_pushed else frozenset()


def normal_id(adapter: Adapter, kind: str, value: str) -> tuple[str, str]:
    """Kind and value in the one form under which an id is stored; `RequestIsWrong` where it cannot be an id."""
    kind = plain(kind)
    return kind, adapter.record.id_forms.get(kind, plain)(value)


def due_id(tracked_id: AskedId) -> DueId:
    """A tracked id as the adapter gets it, with clear numbers."""
    clear = tracked_id.clear or {}
    return DueId(
        key=TrackedKey(id_kind=tracked_id.id_kind, value=clear.get("value", tracked_id.value)),
        client_ref=tracked_id.client_ref,
        recipient=clear.get("recipient", tracked_id.recipient),
        expected=tracked_id.expected,
        sent_at=tracked_id.sent_at,
        valid_until=tracked_id.valid_until,
        fingerprint=tracked_id.answer_fingerprint,
    )


def asked_by(
    adapter: Adapter, account: Account, ids: Sequence[TrackedId], params: Mapping[str, Any], now: datetime
) -> list[TrackedId]:
    """Those of these ids for which the adapter would make the call with these parameters, or a part of it."""
    today = now.astimezone(UTC).date()
    return [
        each
        for each in ids
        if any(_is_part(spec.params, params) for spec in adapter.plan_ids(account, [due_id(each)], today))
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
    """Register ids of an account, idempotent, in transactions of at most `MAX_AT_ONCE`; returns how many are new.

    An item: kind, value, and optionally client_ref, recipient, expected, sent_at, valid_until (aware times).
    """
    created = 0
    for start in range(0, len(items), MAX_AT_ONCE):
        part = items[start : start + MAX_AT_ONCE]
        run = partial(_track, runtime=runtime, account_id=account_id, items=part)
        created += retry_transaction(runtime.engine, run)
    return created


def _track(connection: Connection, runtime: Runtime, account_id: str, items: Sequence[Mapping[str, Any]]) -> int:
    """Register some ids in one transaction; a reference goes to what is stored already, too."""
    stored = load(connection, account_id)
    kinds = record_of(stored).reference_kinds
    rows = _rows(connection, runtime, stored, items, references=True)
    references = {
        TrackedKey(id_kind=each.id_kind, value=each.value): each.client_ref
        for each in rows
        if each.id_kind in kinds and each.client_ref
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
    stored = load(connection, account_id)
    hidden = runtime.pseudonymiser_of(stored)
    keys = [
        TrackedKey(id_kind=kind, value=value)
        for kind, value in _one_forms(connection, account_id, adapter_of(stored), hidden, items)
    ]
    if hidden is not None:
        keys = list(map(hidden.tracked, keys))
    closed = tracked.untrack(connection, account_id, set(keys))
    if closed:
        record(connection, replace(event, details={"ids": len(closed)}))
    return [Untracked(key=key, was_open=key in closed) for key in keys]


def without_erased(connection: Connection, suppressions: Suppressions, ids: Sequence[NewId]) -> Sequence[NewId]:
    """The ids to track without those about a person who was erased after the message was sent.

    Until the transaction ends no person is added to the list, so an erasure finds what is registered meanwhile.
    """
    if not any(each.recipient or each.id_kind in KEYED for each in ids):
        return ids
    listed = suppressions.held(connection)
    return [each for each in ids if not listed.is_erased(each.id_kind, each.value, each.recipient, each.sent_at)]


def register(
    connection: Connection, runtime: Runtime, stored: StoredAccount, items: Sequence[Mapping[str, Any]]
) -> Sequence[TrackedId]:
    """Register the ids that an on-demand poll names, and give them as they are tracked."""
    rows = _rows(connection, runtime, stored, items)
    tracked.register(connection, stored.id, rows)
    # A closed row does not keep what a request for it needs.
    clear = {(each.id_kind, each.value): each.clear for each in rows}
    found = tracked.find(connection, stored.id, clear)
    return [replace(each, clear=each.clear or clear[each.id_kind, each.value]) for each in found]


def register_named(connection: Connection, runtime: Runtime, stored: StoredAccount, found: Sequence[Discovered]) -> int:
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
    return tracked.register(connection, stored.id, _rows(connection, runtime, stored, items)) if items else 0


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
    stored: StoredAccount,
    items: Sequence[Mapping[str, Any]],
    *,
    references: bool = False,
) -> Sequence[NewId]:
    """Ids to track, as they are stored, without those of erased people (`without_erased`).

    Of equal ids the later wins where it says something. With `references` also of kinds that only attach a reference;
    those are not to be asked for.
    """
    adapter, hidden = adapter_of(stored), runtime.pseudonymiser_of(stored)
    attaching = adapter.record.reference_kinds if references else {}
    rows: dict[tuple[str, str], NewId] = {}
    for item, (kind, value) in zip(items, _one_forms(connection, stored.id, adapter, hidden, items), strict=True):
        if kind not in adapter.record.id_kinds and kind not in attaching:
            known = ", ".join(adapter.record.id_kinds) or "none: it needs no registered ids"
            raise UnknownIdKindError(f"{adapter.record.title} knows no id of kind {kind!r} (known: {known}).")
        given = new_id(
            connection,
            stored,
            TrackedKey(id_kind=kind, value=value),
            now=stored.now,
            sent_at=item.get("sent_at"),
            valid_until=item.get("valid_until"),
            expected=item.get("expected"),
            client_ref=trimmed(item.get("client_ref") or "") or None,
            recipient=person(str(item.get("recipient") or _number_in(adapter, kind, value) or "")) or None,
            whole=split_key(value)[0] if kind in adapter.record.wholes else None,
            close_reason=tracked.REFERENCE if kind in attaching else None,
        )
        before = rows.get((kind, value), given)
        said = {each.name: getattr(given, each.name) for each in fields(NewId)}
        rows[kind, value] = replace(before, **{name: value for name, value in said.items() if value is not None})
    new = list(rows.values()) if hidden is None else list(map(hidden.new_id, rows.values()))
    return without_erased(connection, runtime.suppressions, new)


def new_id(
    connection: Connection,
    stored: StoredAccount,
    key: TrackedKey,
    *,
    now: datetime,
    sent_at: datetime | None,
    valid_until: datetime | None,
    expected: int | None,
    **more: Any,
) -> NewId:
    """An id of the account with the times that follow from those given; `more`: its other fields."""
    sent_at = sent_at or now
    valid_until = valid_until or sent_at + effective.validity(stored)
    late = sent_late(connection, sent_at, now)
    sent_at, valid_until = sent_at - late, valid_until - late
    due = first_check(
        record_of(stored).poll,
        sent_at=sent_at,
        valid_until=valid_until,
        now=now,
        **schedule_of(stored, key.id_kind, expected),
    )
    return NewId(
        id_kind=key.id_kind,
        value=key.value,
        sent_at=sent_at,
        valid_until=valid_until,
        next_check_at=due,
        expected=expected,
        **more,
    )


def _one_forms(
    connection: Connection,
    account_id: str,
    adapter: Adapter,
    hidden: Pseudonymiser | None,
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
    others = [pair for pair, form in zip(given, forms, strict=True) if pair != form and hidden is None]
    found = tracked.find(connection, account_id, others) if others else ()
    known = {(each.id_kind, each.value) for each in found}
    return [pair if pair in known else form for pair, form in zip(given, forms, strict=True)]


def _number_in(adapter: Adapter, kind: str, value: str) -> str | None:
    """The recipient's number where the id itself names it, so that an unanswered id is found by its number."""
    place = adapter.record.phone_key_part.get(kind)
    parts = split_key(value)
    return None if place is None or place >= len(parts) else parts[place]
