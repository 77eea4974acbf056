"""The merge rule: a row of the shared table is the greatest of what was said about it (a join, in the lattice sense).

Pure functions over plain values. Because the row depends on the *set* of observations alone, neither order nor
repetition of statements can matter, and the table can be rebuilt from the history.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from hashlib import sha256
from typing import Any

import msgspec

from models.report import DeliveryReport
from models.storable import clean_json, clean_key, clean_text, finite, iso_time, small_integer, utc
from models.vocabulary import FAILURES, STATUS_CLASS, Granularity, Source, Status, is_final

Facts = dict[str, Any]
"""A normalised statement: JSON values only, absent where nothing was said."""

CONVERSATION_SETTLES = timedelta(hours=48)
"""After the end of its day; the provider's counts are corrected for a while."""

STATUS_FIELDS = ("status", "reason", "provider_status", "provider_error")
COUNT_FIELDS = ("total", "delivered", "undelivered", "waiting")
KEPT_FIELDS = ("parent_key", "client_ref", "recipient", "segments", "credits", "sent_at", "done_at", "valid_until")
"""A statement that is silent about one of these does not wipe it."""

_CONVERSIONS: Mapping[str, Callable[[Any], Any]] = {
    "status": lambda status: status.value,
    "provider_status": clean_text,
    "reason": lambda reason: reason.value,
    "provider_error": clean_text,
    "parent_key": clean_key,
    "client_ref": clean_key,
    "recipient": clean_key,
    **dict.fromkeys(COUNT_FIELDS, small_integer),
    "segments": small_integer,
    "credits": finite,
    "sent_at": iso_time,
    "done_at": iso_time,
    "valid_until": iso_time,
    "day": date.isoformat,
    "extra": lambda extra: clean_json(extra) or None if extra else None,
}

_LONG_AGO = datetime.min.replace(tzinfo=UTC)
"""Stands for minus infinity: a statement without a time was made before every other."""

_TIE = {status: place for place, status in enumerate(Status)}
"""Fixed order for statements of one class and one moment (the order of the vocabulary's table)."""


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """A distinct statement about one delivery, and the least time at which it was made."""

    facts: Facts
    content_hash: bytes
    source: Source
    as_of: datetime | None = None
    """The least time at which this statement was made; None: minus infinity."""
    as_of_last: datetime | None = None
    """Conversations only: the greatest time at which it was made."""
    provider_time: datetime | None = None
    statement: dict[str, Any] = msgspec.field(default_factory=dict)


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The values of one row of `delivery_status` that follow from its observations. Times are ISO 8601 in UTC."""

    status: str
    is_final: bool
    provider_status: str
    reason: str | None = None
    provider_error: str | None = None
    conflict: bool = False
    total: int | None = None
    delivered: int | None = None
    undelivered: int | None = None
    waiting: int | None = None
    parent_key: str | None = None
    client_ref: str | None = None
    recipient: str | None = None
    segments: int | None = None
    credits: float | None = None
    sent_at: str | None = None
    done_at: str | None = None
    valid_until: str | None = None
    extra: dict[str, Any] = msgspec.field(default_factory=dict)


ROW_FIELDS = tuple(field.name for field in msgspec.structs.fields(Row))


def normalise(report: DeliveryReport) -> Facts:
    """The normalised statement of a report: canonical JSON values, without what was not said.

    Equal statements become equal facts whatever their form (time zone, int or float credits). A value that no column
    could hold (`models.storable`) counts as not said; the raw item stays in the statement.
    """
    facts: Facts = {}
    for name, convert in _CONVERSIONS.items():
        said = getattr(report, name)
        if said is not None:
            stored = convert(said)
            if stored is not None:
                facts[name] = stored
    return facts


def content_hash(facts: Facts) -> bytes:
    """SHA-256 of the facts as canonical JSON (keys sorted, no blanks)."""
    return sha256(msgspec.json.encode(facts, order="sorted")).digest()


def observe(report: DeliveryReport, *, asked_at: datetime | None) -> Observation:
    """The observation that a report is. `asked_at` stands in for the missing `as_of` of a poll's report only."""
    as_of = report.as_of
    if as_of is None and report.source is Source.POLL:
        as_of = asked_at
    as_of = utc(as_of)
    facts = normalise(report)
    return Observation(
        facts=facts,
        content_hash=content_hash(facts),
        source=report.source,
        as_of=as_of,
        as_of_last=as_of if report.granularity is Granularity.CONVERSATION else None,
        provider_time=utc(report.provider_time),
        statement=clean_json(report.statement),
    )


def merge_observation(one: Observation, other: Observation) -> Observation:
    """The same statement made twice: least `as_of`, greatest `as_of_last`; how it was made is told by the earlier one.

    Associative, commutative and idempotent.
    """
    first = min(one, other, key=_telling_order)
    lasts = [moment for moment in (one.as_of_last, other.as_of_last) if moment is not None]
    last = max(lasts, default=None)
    return first if first.as_of_last == last else msgspec.structs.replace(first, as_of_last=last)


def _telling_order(seen: Observation) -> tuple[datetime, str, datetime, bytes]:
    statement = msgspec.json.encode(seen.statement, order="sorted")
    return seen.as_of or _LONG_AGO, seen.source.value, seen.provider_time or _LONG_AGO, statement


def merge_history(observations: Iterable[Observation]) -> dict[bytes, Observation]:
    """Distinct statements by content hash."""
    history: dict[bytes, Observation] = {}
    for seen in observations:
        known = history.get(seen.content_hash)
        history[seen.content_hash] = seen if known is None else merge_observation(known, seen)
    return history


def _message_key(seen: Observation) -> tuple[Any, ...]:
    status = Status(seen.facts["status"])
    return (
        STATUS_CLASS[status],
        status is not Status.SCHEDULED,
        seen.as_of or _LONG_AGO,
        _TIE[status],
        seen.content_hash,
    )


def _order_key(seen: Observation) -> tuple[Any, ...]:
    facts = seen.facts
    status = Status(facts["status"])
    delivered = facts.get("delivered", 0)
    return (
        STATUS_CLASS[status],
        delivered + facts.get("undelivered", 0),
        delivered,
        seen.as_of or _LONG_AGO,
        _TIE[status],
        seen.content_hash,
    )


def _conversation_key(seen: Observation) -> tuple[Any, ...]:
    return STATUS_CLASS[Status(seen.facts["status"])], seen.as_of_last or _LONG_AGO, seen.content_hash


KEYS: Mapping[Granularity, Callable[[Observation], tuple[Any, ...]]] = {
    Granularity.MESSAGE: _message_key,
    Granularity.ORDER: _order_key,
    Granularity.CONVERSATION: _conversation_key,
}
"""The total order of the observations of one delivery; the content hash comes last, so no two are equal."""

KEY_PARTS: Mapping[Granularity, tuple[str, ...]] = {
    Granularity.MESSAGE: ("class", "handed_over", "as_of", "tie_order", "content_hash"),
    Granularity.ORDER: ("class", "answered", "delivered", "as_of", "tie_order", "content_hash"),
    Granularity.CONVERSATION: ("class", "as_of_last", "content_hash"),
}
"""What the parts of a key are called where they are shown to people."""

_STATUS_FIELDS: Mapping[Granularity, tuple[str, ...]] = {
    Granularity.MESSAGE: STATUS_FIELDS,
    Granularity.ORDER: STATUS_FIELDS + COUNT_FIELDS,
    Granularity.CONVERSATION: STATUS_FIELDS + COUNT_FIELDS,
}
_KEPT_FIELDS: Mapping[Granularity, tuple[str, ...]] = {
    Granularity.MESSAGE: KEPT_FIELDS + COUNT_FIELDS,
    Granularity.ORDER: KEPT_FIELDS,
    Granularity.CONVERSATION: KEPT_FIELDS,
}


def rank(granularity: Granularity, observations: Collection[Observation]) -> list[Observation]:
    """The observations, the greatest first."""
    if len(observations) == 1:
        return list(observations)
    return sorted(observations, key=KEYS[granularity], reverse=True)


def fold(granularity: Granularity, observations: Iterable[Observation]) -> Row:
    """The row that follows from the observations of one delivery (at least one; repetitions do not matter).

    The status, and what explains it, come from the greatest observation; every other field from the greatest that has
    it.
    """
    return Row(**fold_values(granularity, observations))


def fold_values(granularity: Granularity, observations: Iterable[Observation]) -> dict[str, Any]:
    """What `fold` gives, as JSON values by column, absent where nothing was said."""
    history = merge_history(observations)
    if len(history) == 1:
        return _values_of_one(granularity, *history.values())
    ranked = rank(granularity, history.values())
    extra: dict[str, Any] = {}
    for seen in reversed(ranked):
        extra.update(seen.facts.get("extra", ()))
    values = {name: seen.facts[name] for name, seen in winners(granularity, ranked).items()}
    values["is_final"] = _is_final(granularity, ranked[0])
    values["conflict"] = granularity is Granularity.MESSAGE and bool(find_contradictions(ranked))
    values["extra"] = extra
    return values


def _values_of_one(granularity: Granularity, seen: Observation) -> dict[str, Any]:
    """What `fold_values` gives for the only statement: nothing competes, so all that it says stands."""
    values = {"extra": {}, **seen.facts, "is_final": _is_final(granularity, seen), "conflict": False}
    values.pop("day", None)
    return values


def winners(granularity: Granularity, ranked: Sequence[Observation]) -> dict[str, Observation]:
    """Which observation each field of the row comes from; a field that none has is absent. `extra` goes key by key."""
    greatest = ranked[0]
    won = {name: greatest for name in _STATUS_FIELDS[granularity] if name in greatest.facts}
    for name in _KEPT_FIELDS[granularity]:
        for seen in ranked:
            if name in seen.facts:
                won[name] = seen
                break
    return won


def _is_final(granularity: Granularity, greatest: Observation) -> bool:
    if granularity is not Granularity.CONVERSATION:
        return is_final(Status(greatest.facts["status"]))
    first, last = greatest.as_of or _LONG_AGO, greatest.as_of_last
    if "day" not in greatest.facts or last is None or first >= last:
        return False
    end_of_day = datetime.combine(date.fromisoformat(greatest.facts["day"]), time(), UTC) + timedelta(days=1)
    return last >= end_of_day + CONVERSATION_SETTLES


def find_contradictions(observations: Collection[Observation]) -> frozenset[Status]:
    """The statuses of a message's history that cannot all be true: different finals, or read and a failure."""
    if len(observations) == 1:
        return frozenset()
    statuses = frozenset(Status(seen.facts["status"]) for seen in observations)
    finals = frozenset(status for status in statuses if STATUS_CLASS[status] == STATUS_CLASS[Status.DELIVERED])
    contradicting = finals if len(finals) > 1 else frozenset()
    if Status.READ in statuses and statuses & FAILURES:
        contradicting |= {Status.READ} | (statuses & FAILURES)
    return contradicting
