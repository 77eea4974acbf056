"""The merge rule: a row of the shared table is the greatest of its observations (a join, in the lattice sense).

Pure functions over plain values. Because the row depends on the *set* of observations alone, neither order nor
repetition of reports can matter, and the table can be rebuilt from the history.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from hashlib import sha256
from typing import Any

import msgspec

from ulak.models.facts import Facts, encode_facts
from ulak.models.report import PlainReport, Report
from ulak.models.sanitize import clean_json, clean_key, clean_text, finite, iso_time, small_integer, utc
from ulak.models.vocabulary import FAILURES, STATUS_CLASS, Granularity, Source, Status, is_final

CONVERSATION_SETTLES = timedelta(hours=48)
"""After the end of its day; the provider's counts are corrected for a while."""

STATUS_FIELDS = ("status", "reason", "provider_status", "provider_error")
COUNT_FIELDS = ("total", "delivered", "undelivered", "waiting")
KEPT_FIELDS = ("parent_key", "client_ref", "recipient", "segments", "credits", "sent_at", "done_at", "valid_until")
"""A later observation without one of these fields does not clear it."""

_CONVERSATION = Granularity.CONVERSATION
"""Bound once: looking up an enumeration member costs more than comparing with it, and this runs for each report."""

_LONG_AGO = datetime.min.replace(tzinfo=UTC)
"""Represents minus infinity: an observation without a time precedes every other."""

_TIE = {status: place for place, status in enumerate(Status)}
"""Fixed order for observations of the same class and time (the order of the vocabulary's table)."""


class Observation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A distinct report about one delivery, and the earliest time at which it was made."""

    facts: Facts
    content_hash: bytes
    source: Source
    as_of: datetime | None = None
    """The earliest time at which this report was made; None: minus infinity."""
    as_of_last: datetime | None = None
    """Conversations only: the latest time at which it was made."""
    provider_time: datetime | None = None
    first_seen_at: datetime | None = None
    """When it was first stored; None: not yet."""
    statement: Mapping[str, Any] = msgspec.field(default_factory=dict)
    encoded: bytes | None = None
    """The facts as canonical JSON, if already encoded; code that replaces the facts sets it to None."""


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
FACT_FIELDS = tuple(name for name in ROW_FIELDS if name in Facts.__struct_fields__)
"""All but what is derived from the facts."""


def normalise(report: Report) -> Facts:
    """The facts of a report: canonical JSON values, None where the report has none.

    Equal reports become equal facts whatever their form (time zone, int or float credits). A value that no column
    could hold (`ulak.models.sanitize`) counts as absent; the raw item is kept in `statement`.
    """
    if isinstance(report, PlainReport):
        return report.facts
    return Facts(
        client_ref=_key(report.client_ref),
        credits=None if report.credits is None else finite(report.credits),
        day=None if report.day is None else report.day.isoformat(),
        delivered=None if report.delivered is None else small_integer(report.delivered),
        done_at=None if report.done_at is None else iso_time(report.done_at),
        extra=(clean_json(report.extra) or None) if report.extra else None,
        parent_key=_key(report.parent_key),
        provider_error=None if report.provider_error is None else clean_text(report.provider_error),
        provider_status=clean_text(report.provider_status),
        reason=report.reason,
        recipient=_key(report.recipient),
        segments=None if report.segments is None else small_integer(report.segments),
        sent_at=None if report.sent_at is None else iso_time(report.sent_at),
        status=report.status,
        total=None if report.total is None else small_integer(report.total),
        undelivered=None if report.undelivered is None else small_integer(report.undelivered),
        valid_until=None if report.valid_until is None else iso_time(report.valid_until),
        waiting=None if report.waiting is None else small_integer(report.waiting),
    )


def _key(text: str | None) -> str | None:
    return None if text is None else clean_key(text)


def observe(report: Report, *, asked_at: datetime | None) -> Observation:
    """The observation of a report. `asked_at` replaces a missing `as_of`, for reports of polls only."""
    provider_time = None
    if isinstance(report, PlainReport):
        facts, statement = report.facts, report.statement
        as_of = utc(asked_at)
    else:
        facts, statement = normalise(report), clean_json(report.statement)
        as_of = utc(asked_at if report.as_of is None and report.source is Source.POLL else report.as_of)
        provider_time = utc(report.provider_time)
    encoded = encode_facts(facts)
    return Observation(
        facts=facts,
        encoded=encoded,
        content_hash=sha256(encoded).digest(),
        source=report.source,
        as_of=as_of,
        as_of_last=as_of if report.granularity is _CONVERSATION else None,
        provider_time=provider_time,
        statement=statement,
    )


def merge_observation(one: Observation, other: Observation) -> Observation:
    """Merge two observations with equal facts: least `as_of` and `first_seen_at`, greatest `as_of_last`.

    Source and raw item come from the earlier one.

    Associative, commutative and idempotent.
    """
    order, other_order = _sort_key(one), _sort_key(other)
    if order == other_order:
        is_first = _encode_sorted(one.statement) <= _encode_sorted(other.statement)
    else:
        is_first = order < other_order
    first = one if is_first else other
    lasts = [moment for moment in (one.as_of_last, other.as_of_last) if moment is not None]
    last = max(lasts, default=None)
    stored = min((at for at in (one.first_seen_at, other.first_seen_at) if at is not None), default=None)
    if (first.as_of_last, first.first_seen_at) == (last, stored):
        return first
    return msgspec.structs.replace(first, as_of_last=last, first_seen_at=stored)


_encode_sorted = msgspec.json.Encoder(order="sorted").encode


def _sort_key(seen: Observation) -> tuple[datetime, str, datetime]:
    return seen.as_of or _LONG_AGO, seen.source.value, seen.provider_time or _LONG_AGO


def merge_history(observations: Iterable[Observation]) -> dict[bytes, Observation]:
    """Distinct observations by content hash."""
    history: dict[bytes, Observation] = {}
    for seen in observations:
        known = history.get(seen.content_hash)
        history[seen.content_hash] = seen if known is None else merge_observation(known, seen)
    return history


def _message_key(seen: Observation) -> tuple[Any, ...]:
    status = seen.facts.status
    return (
        STATUS_CLASS[status],
        status is not Status.SCHEDULED,
        seen.as_of or _LONG_AGO,
        _TIE[status],
        seen.content_hash,
    )


def _order_key(seen: Observation) -> tuple[Any, ...]:
    facts = seen.facts
    status = facts.status
    delivered = facts.delivered or 0
    return (
        STATUS_CLASS[status],
        delivered + (facts.undelivered or 0),
        delivered,
        seen.as_of or _LONG_AGO,
        _TIE[status],
        seen.content_hash,
    )


def _conversation_key(seen: Observation) -> tuple[Any, ...]:
    return STATUS_CLASS[seen.facts.status], seen.as_of_last or _LONG_AGO, seen.content_hash


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
"""The names of a key's parts, as shown to users."""

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
    facts, is_final, conflict = _join(granularity, merge_history(observations).values())
    values = {name: getattr(facts, name) for name in FACT_FIELDS}
    return Row(**{**values, "extra": facts.extra or {}}, is_final=is_final, conflict=conflict)


def fold_encoded(granularity: Granularity, observations: Collection[Observation]) -> tuple[bytes, bool, bool]:
    """Like `fold`, for distinct observations: (facts as canonical JSON, is_final, conflict).

    They hold a conversation's `day`, although the row has no such field.
    """
    if len(observations) == 1:
        # The only observation wins.
        [only] = observations
        return only.encoded or encode_facts(only.facts), _is_final(granularity, only), False
    facts, is_final, conflict = _join(granularity, observations)
    return encode_facts(facts), is_final, conflict


def _join(granularity: Granularity, observations: Collection[Observation]) -> tuple[Facts, bool, bool]:
    """(facts, is_final, conflict) of the row that follows from distinct observations: the merge rule."""
    ranked = rank(granularity, observations)
    greatest = ranked[0]
    lent: dict[str, Any] = {
        name: getattr(seen.facts, name) for name, seen in _kept_field_sources(granularity, ranked).items()
    }
    own = extra = greatest.facts.extra or {}
    for seen in ranked[1:]:
        if seen.facts.extra and not seen.facts.extra.keys() <= extra.keys():
            extra = {**seen.facts.extra, **extra}
    if extra is not own:
        lent["extra"] = extra
    facts = msgspec.structs.replace(greatest.facts, **lent) if lent else greatest.facts
    conflict = granularity is Granularity.MESSAGE and bool(find_contradictions(ranked))
    return facts, _is_final(granularity, greatest), conflict


def _kept_field_sources(granularity: Granularity, ranked: Sequence[Observation]) -> dict[str, Observation]:
    """For each kept field that the greatest observation lacks: the greatest observation that has it."""
    lenders = {}
    facts = ranked[0].facts
    for name in _KEPT_FIELDS[granularity]:
        if getattr(facts, name) is None:
            for seen in ranked[1:]:
                if getattr(seen.facts, name) is not None:
                    lenders[name] = seen
                    break
    return lenders


def winners(granularity: Granularity, ranked: Sequence[Observation]) -> dict[str, Observation]:
    """The observation that provides each field of the row; a field without one is absent. `extra` is merged by key."""
    greatest = ranked[0]
    names = (*_STATUS_FIELDS[granularity], *_KEPT_FIELDS[granularity])
    won = {name: greatest for name in names if getattr(greatest.facts, name) is not None}
    return won | _kept_field_sources(granularity, ranked)


def _is_final(granularity: Granularity, greatest: Observation) -> bool:
    if granularity is not _CONVERSATION:
        return is_final(greatest.facts.status)
    first, last = greatest.as_of or _LONG_AGO, greatest.as_of_last
    if greatest.facts.day is None or last is None or first >= last:
        return False
    end_of_day = datetime.combine(date.fromisoformat(greatest.facts.day), time(), UTC) + timedelta(days=1)
    return last >= end_of_day + CONVERSATION_SETTLES


_FINALS = frozenset(status for status in Status if STATUS_CLASS[status] == STATUS_CLASS[Status.DELIVERED])


def find_contradictions(observations: Collection[Observation]) -> frozenset[Status]:
    """The contradicting statuses of a message's history: different final ones, or `read` and a failure."""
    if len(observations) == 1:
        return frozenset()
    statuses = frozenset(seen.facts.status for seen in observations)
    finals = statuses & _FINALS
    contradicting = finals if len(finals) > 1 else frozenset()
    if Status.READ in statuses and statuses & FAILURES:
        contradicting |= {Status.READ} | (statuses & FAILURES)
    return contradicting
