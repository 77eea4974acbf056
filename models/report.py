"""What a provider said, in our words: the values that travel from the adapters to the tables.

Plain frozen records without behaviour that needs a database, so that adapters can make them and the merge rule can
fold them.
"""

# ruff: noqa: D102 -- the properties of `PlainReport` are fields of `DeliveryReport`, which documents them

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, ClassVar

import msgspec

from ulak.models.facts import Facts
from ulak.models.sanitize import clean_key
from ulak.models.vocabulary import Granularity, Reason, Source, Status


class TrackedKey(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Names one tracked id of an account: what a sender registered or a list sweep discovered."""

    id_kind: str
    value: str


class DeliveryReport(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One statement of a provider about one subject.

    Everything except `as_of`, `provider_time`, `source`, `statement` and `tracked` is the *normalised statement*: two
    reports that agree on it are the same observation, whatever form it had (114 or "114", list or detail).
    """

    granularity: Granularity
    provider_key: str
    """Unique within (account, granularity); made by `ulak.models.keys.join_key` where it has parts."""
    status: Status
    provider_status: str
    """The provider's own word or code, as text, always kept."""
    parent_key: str | None = None
    client_ref: str | None = None
    recipient: str | None = None
    """E.164 where it is a number, otherwise the provider's own id of the person (BiP's hash, Diyalog's receiverId)."""
    reason: Reason | None = None
    provider_error: str | None = None
    total: int | None = None
    delivered: int | None = None
    undelivered: int | None = None
    waiting: int | None = None
    segments: int | None = None
    credits: float | None = None
    sent_at: datetime | None = None
    done_at: datetime | None = None
    valid_until: datetime | None = None
    day: date | None = None
    """Conversations only: the UTC day that is counted."""
    extra: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """Provider fields worth keeping, never message text, names or links; JSON values."""

    source: Source = Source.POLL
    as_of: datetime | None = None
    """When the statement was made: for polls None here (the step fills in the moment the answer was asked for); for
    callbacks and send replies the provider's own time, or None where there is none (the earliest possible)."""
    provider_time: datetime | None = None
    """The provider's own time of the event, as reported, for the history only."""
    statement: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """The raw item with message text, names and links removed."""
    tracked: TrackedKey | None = None
    """The tracked id that this report answers, where there is one."""

    def completed(self, *, client_ref: str | None = None, recipient: str | None = None) -> "DeliveryReport":
        """The report with what the sender registered where the provider does not state it."""
        client_ref, recipient = self.client_ref or client_ref, self.recipient or recipient
        if client_ref == self.client_ref and recipient == self.recipient:
            return self
        return msgspec.structs.replace(self, client_ref=client_ref, recipient=recipient)

    def in_full(self) -> "DeliveryReport":
        """The report field by field, as it is already."""
        return self


class PlainReport(msgspec.Struct, frozen=True, kw_only=True, eq=False, gc=False):
    """A report of a poll whose adapter has made the facts itself, because every value is storable as it is.

    It has the fields of the `DeliveryReport` with the same content (`in_full`), of which `ulak.models.merge.normalise`
    makes the same facts. The facts are stored without a copy, so a field is derived from them only where it is read.
    """

    granularity: Granularity
    provider_key: str
    facts: Facts
    statement: Any
    """A Struct with the documented fields of the raw item, used like a mapping (`ulak.providers.plain.PlainItem`)."""
    tracked: TrackedKey | None = None

    source: ClassVar[Source] = Source.POLL
    as_of: ClassVar[datetime | None] = None
    provider_time: ClassVar[datetime | None] = None

    @property
    def status(self) -> Status:
        return self.facts.status

    @property
    def provider_status(self) -> str:
        return self.facts.provider_status

    @property
    def parent_key(self) -> str | None:
        return self.facts.parent_key

    @property
    def client_ref(self) -> str | None:
        return self.facts.client_ref

    @property
    def recipient(self) -> str | None:
        return self.facts.recipient

    @property
    def reason(self) -> Reason | None:
        return self.facts.reason

    @property
    def provider_error(self) -> str | None:
        return self.facts.provider_error

    @property
    def total(self) -> int | None:
        return self.facts.total

    @property
    def delivered(self) -> int | None:
        return self.facts.delivered

    @property
    def undelivered(self) -> int | None:
        return self.facts.undelivered

    @property
    def waiting(self) -> int | None:
        return self.facts.waiting

    @property
    def segments(self) -> int | None:
        return self.facts.segments

    @property
    def credits(self) -> float | None:
        return self.facts.credits

    @property
    def sent_at(self) -> datetime | None:
        return _moment(self.facts.sent_at)

    @property
    def done_at(self) -> datetime | None:
        return _moment(self.facts.done_at)

    @property
    def valid_until(self) -> datetime | None:
        return _moment(self.facts.valid_until)

    @property
    def day(self) -> date | None:
        return None if self.facts.day is None else date.fromisoformat(self.facts.day)

    @property
    def extra(self) -> Mapping[str, Any]:
        return self.facts.extra or {}

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PlainReport):
            other = other.in_full()
        return self.in_full() == other if isinstance(other, DeliveryReport) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def in_full(self) -> DeliveryReport:
        """The same, field by field."""
        return DeliveryReport(**{name: getattr(self, name) for name in DeliveryReport.__struct_fields__})

    def completed(self, *, client_ref: str | None = None, recipient: str | None = None) -> "PlainReport":
        """As `DeliveryReport.completed`."""
        given = {"client_ref": client_ref, "recipient": recipient}
        added = {name: clean_key(text) for name, text in given.items() if text and not getattr(self, name)}
        return msgspec.structs.replace(self, facts=msgspec.structs.replace(self.facts, **added)) if added else self


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


Report = DeliveryReport | PlainReport


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptStatement:
    """A raw statement as the history keeps it, with what names its delivery: enough to derive its facts again."""

    granularity: Granularity
    provider_key: str
    parent_key: str | None
    recipient: str | None
    source: Source
    as_of: datetime | None
    """When the statement was made, as `DeliveryReport.as_of`."""
    statement: Mapping[str, Any] = field(repr=False)
    """As `DeliveryReport.statement`: the raw item without message text, names and links."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovered:
    """An id found by an answer (an order of a list, a straggler of a big transaction) that is to be polled from now on.

    Inserted into `tracked_ids` as `discovered`; an existing row stays as it is, except that it is reopened and made due
    when the delivery named by `reopen_on` was new or advanced in the same transaction.
    """

    key: TrackedKey
    client_ref: str | None = None
    recipient: str | None = None
    expected: int | None = None
    sent_at: datetime | None = None
    valid_until: datetime | None = None
    reopen_on: tuple[Granularity, str] | None = None
    """(granularity, provider_key) of the report whose change reopens the id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewId:
    """An id to be tracked, in its stored form."""

    id_kind: str
    value: str
    sent_at: datetime
    valid_until: datetime
    next_check_at: datetime
    client_ref: str | None = None
    recipient: str | None = None
    expected: int | None = None
    whole: str | None = None
    """The id of the send that it is a part of."""
    close_reason: str | None = None
    """Set where it is not to be polled."""
    clear: Mapping[str, str] | None = field(default=None, repr=False)
    """What requests need of it where it is stored hashed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdAnswer:
    """What one answer settles about one tracked id that was asked for.

    `settled` is the adapter's word that this answer shows every child final (and at least `expected` of them).
    """

    key: TrackedKey
    found: bool
    """False: the provider knows no row for it (yet). It stays open."""
    settled: bool = False
    close_reason: str | None = None
    """With `settled`: why (`final`, `split`, …). Default `final`."""
    is_incomplete: bool = False
    """The answer lacks some of what it must hold. It is asked again soon, then with doubling pauses, however old the id
    is; it is no failure of the account or of the fetch."""
    not_before: datetime | timedelta | None = None
    """The provider has nothing new to say before this moment, or for so long (an order is scheduled for later)."""
    fingerprint: str | None = None
    """What the next answer is to be compared with (`DueId.fingerprint`); it must not reveal what it was made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AmbiguousReport:
    """A pushed statement that does not name its subject, only traits of it (an order and a number).

    Where everything under `ask` has been read and `report`'s delivery is stored while `twin_key` is not, it is the only
    subject with these traits and the report is written. Else nothing is guessed, and `ask` is asked now.
    """

    report: Report | None
    """The statement, under the key of the first subject with these traits; None where it says nothing we know."""
    twin_key: str
    """The provider_key (same granularity) of a second subject with these traits."""
    ask: TrackedKey
    """What a poll asks for to learn the same for sure; becomes a discovered id where it is not known yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """Something in an answer that could not be understood: kept sealed in quarantine, with the reason."""

    reason: str
    """One sentence without any content of the answer beyond field names and codes."""
    raw: bytes = field(repr=False)
    """The bytes of the item (or of the whole answer)."""
    provider_key: str | None = None
    """The delivery it belongs to, where known (an unknown status word)."""
    once: bool = False
    """Kept once for an account, whatever it stands in: the first bytes with this reason, and how often it came again.
    For an optional field that cannot be read: its item is stored all the same, and each poll would say it again."""
    is_open: bool = True
    """False: only kept for as long as quarantine keeps things. Nobody has to look at it, so it is not listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkedPage:
    """A page of a list window as a poll has read it: `ulak.providers.adapter.SweepPage`, and the keys seen."""

    round: int
    """The attempt that read it, from 1."""
    number: int
    count: int | None
    last: bool
    seen: tuple[str, ...]
    size: int | None = None
    newest_first: bool | None = None
