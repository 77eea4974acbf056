"""What an adapter is: a provider's API as pure functions over plain values (sans-I/O).

An adapter has no clock, no network and no database: time is passed in, bytes go out, bytes come in. So it can be driven
by recorded bytes and by a fuzzer. One adapter module exports one `ADAPTER`, whose `record` is all that the rooms above
know of the provider: configuration checks, beat entries, limits, windows and callback routes are made from it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Final, Protocol
from zoneinfo import ZoneInfo

from ulak.models.report import AmbiguousReport, Discovered, IdAnswer, KeptStatement, Report, TrackedKey, Unreadable
from ulak.models.vocabulary import Granularity, Status
from ulak.providers.options import ProviderOptions

JsonObject = Mapping[str, Any]
MAX_ANSWER_BYTES = 32 * 1024 * 1024
"""No call allows its answer more (`Request.largest_bytes`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """At most `requests` calls in any sliding window of `per_seconds`, `concurrency` of them unanswered."""

    requests: int
    per_seconds: float
    concurrency: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PollSchedule:
    """The numbers of the poll policy for one provider's ids, as data; all in seconds unless named otherwise."""

    steps_seconds: tuple[float, ...]
    """Waiting times before the first, second, … check after sending."""
    growth: float = 1.6
    """Each later wait is this times the one before …"""
    max_seconds: float = 1800.0
    """… up to this."""
    after_validity_seconds: float = 86400.0
    """After validity has ended: one check right then, then every so often …"""
    forget_days: float = 30.0
    """… until the provider is taken to have forgotten."""


REFERENCES_OF_MESSAGES: Final[Mapping[str, Granularity]] = {"order": Granularity.ORDER, "message": Granularity.MESSAGE}
"""`reference_kinds` of a provider whose messages have a key of their own and name their send as the parent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeMeanings:
    """What a provider's codes mean, in a few words each, for people. Nothing is decided by it."""

    status: Mapping[Granularity, Mapping[str, str]] = field(default_factory=dict)
    """By what the row is about: each code that `provider_status` may hold."""
    in_rows_of: Mapping[Status, Mapping[str, str]] = field(default_factory=dict)
    """Codes that mean something else in reports of this status."""
    error: Mapping[str, str] = field(default_factory=dict)
    """Each code that `provider_error` may hold."""

    def of_status(self, granularity: Granularity, status: Status, code: str) -> str | None:
        """What a status code means in a report of this status; None for one that is not documented."""
        return self.in_rows_of.get(status, {}).get(code) or self.status.get(granularity, {}).get(code)

    def of_error(self, code: str | None) -> str | None:
        """What an error code means; None for none, or one that is not documented."""
        return None if code is None else self.error.get(code)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderRecord:
    """All that the rooms above `providers/` know of a provider."""

    name: str
    title: str
    base_url: str | None
    """The public address; None where every customer has its own (then accounts must give one)."""
    credentials: tuple[tuple[str, ...], ...]
    """Accepted sets of credential names, the preferred first."""
    limit: Limit
    poll: PollSchedule
    options: type[ProviderOptions] = ProviderOptions
    """What an account may set, and the provider's defaults."""
    every_seconds: float = 60.0
    lookback_days: int = 3
    status_codes: frozenset[str] = frozenset()
    """The documented status codes, as text, of a provider that may use others too: those an account's `status_map` may
    name (`ulak.providers.statuses`). Empty: the provider has no such codes."""
    meanings: CodeMeanings = field(default_factory=CodeMeanings)
    """What the codes mean that deliveries of this provider hold."""
    credits_mean: str | None = None
    """What the sum of `credits` is, in a sentence for people; None where the provider reports none."""
    id_kinds: tuple[str, ...] = ()
    """Kinds of tracked ids that a sender may register (`ulak track`)."""
    id_forms: Mapping[str, Callable[[str], str]] = field(default_factory=dict)
    """For each kind of tracked id: its one form, made of whatever was given. Raises `RequestIsWrong` with a sentence
    that names the expected form, and does not repeat the id."""
    phone_key_part: Mapping[str, int] = field(default_factory=dict)
    """For kinds whose value holds the recipient's number: which part of it, by `ulak.models.keys.split_key`."""
    person_part: Mapping[str, int] = field(default_factory=dict)
    """The same for kinds whose value holds a provider's own id of a person."""
    person_fields: frozenset[str] = frozenset()
    """Fields of statements and of `extra` that name a person (an object: in all it holds), in whatever spelling."""
    message_kinds: frozenset[str] = frozenset()
    """Kinds whose ids name one message each and are done with its final status. For these, and for ids of which the
    sender declares that they belong to one message (`expected`), the account learns how long its messages take."""
    wholes: Mapping[str, str] = field(default_factory=dict)
    """For kinds whose ids are parts of a whole (a send): the kind under which the whole is tracked. Its value is the
    first part of theirs. A whole is checked once: when its last open part closes, or right after validity ends."""
    settled_by_parts: frozenset[str] = frozenset()
    """Kinds whose ids are the `parent_key` of all messages that their answer holds: once callbacks have brought the
    last of these to its end, there is nothing left to ask."""
    reference_kinds: Mapping[str, Granularity] = field(default_factory=dict)
    """Kinds of ids that a sender may register only to attach its `client_ref`: the value is the key of a delivery of
    this granularity, and the reference goes to that delivery and, for an order, to those whose `parent_key` it is.
    Registering one causes no request. Named as in `REFERENCES_OF_MESSAGES`, none is one of `id_kinds`."""
    is_repetition: Callable[[str], bool] | None = None
    """Whether the key of a message names a second or later one that nothing but repetition in an answer tells from the
    first (an equal number in an order), so that a wrong answer may have invented it. None: there are no such keys."""
    probe: "FetchSpec | None" = None
    """A fetch that asks for nothing but whether the credentials are accepted, where the provider has such a call."""
    sweep_window_days: int | None = None
    """Calendar days (inclusive) that one list window may span; None: the provider has no list to sweep."""
    plan_range: "Callable[[Account, Sequence[DueId], date, date], tuple[FetchSpec, ...]] | None" = None
    """For a provider without a list that can be asked for its ids over a range of days (inclusive): the fetches that do
    so. They hold no ids, since such a response does not determine when an id is polled next."""
    callback_paths: tuple[str, ...] | None = None
    """Tails of the callback routes (`""` is the bare one); None: the provider has no route of a fixed name."""
    optional_credentials: tuple[str, ...] = ()
    """Names that may accompany any of the sets; they do not distinguish accounts."""
    user_names: tuple[str, ...] = ()
    """Credentials that only name the user: no secrets, and reports may rightly contain them."""
    derived_secret: Callable[[Mapping[str, str]], str] | None = None
    """What requests carry in place of the credentials where it is made from them: to be masked like them."""
    callback_secret: str | None = None
    """For a provider that presents no login: the credential whose value its callback address ends in.

    What the address holds after it reaches the adapter as the callback's tail.
    """
    callback_password: str | None = None
    """The credential that the provider presents with each push, where we choose it."""
    callback_signature: str | None = None
    """The header, in lower case, that signs the body of a push: only with its body does such a push prove anything. All
    others prove themselves by their head alone, and nothing more is read of one that does not."""
    dropped_fields: tuple[str, ...] = ()
    """Fields of pushed JSON that are dropped on receipt, before anything is read, sealed or stored (message text)."""

    @property
    def is_pulled(self) -> bool:
        """Whether the provider can be polled at all; if not, it only pushes."""
        return bool(self.id_kinds) or self.sweep_window_days is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One account as an adapter sees it: credentials resolved, options complete with their defaults."""

    id: str
    provider: str
    base_url: str
    timezone: ZoneInfo
    credentials: Mapping[str, str] = field(repr=False)
    options: ProviderOptions = field(default_factory=ProviderOptions)
    """Of the provider's own class (`ProviderRecord.options`)."""
    lookback_days: int = 3
    learned: Mapping[str, Any] = field(default_factory=dict)
    """What earlier answers taught (Diyalog's clock offset); JSON values, kept in the account's row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DueId:
    """A tracked id that is due, as `plan_ids` gets it."""

    key: TrackedKey
    client_ref: str | None = None
    recipient: str | None = None
    expected: int | None = None
    sent_at: datetime | None = None
    valid_until: datetime | None = None
    fingerprint: str | None = None
    """`IdAnswer.fingerprint` of the last answer about this id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchSpec:
    """One provider call to be made. `params` is canonical JSON data: equal params mean the same call."""

    kind: str
    """`page` or `batch`."""
    params: JsonObject
    ids: tuple[TrackedKey, ...] = ()
    """Tracked ids that this fetch asks for (they are held until it ends)."""
    round: int = 1
    label: str = ""
    """A few words for people (`today page 3`), without numbers of persons."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """A fetch that is being made: its spec and what the step knows about its subject."""

    spec: FetchSpec
    ids: Mapping[TrackedKey, DueId] = field(default_factory=dict)
    """The tracked rows of the ids asked for."""
    seen_before: Mapping[str, int] = field(default_factory=dict)
    """For chained pages of one subject: how often each key stood on the pages before this one (`Parsed.seen` of earlier
    pages with the same `params["chain"]`, same round, same poll)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request. Its repr hides what may hold a secret."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False, default_factory=dict)
    body: bytes = field(repr=False, default=b"")
    endpoint: str = ""
    """What is requested, safe to log: `NumaraRaporu`, `get-reports page`."""
    largest_bytes: int = 8 * 1024 * 1024
    """Of the answer, as it comes and unpacked: several times what the provider documents for this call."""
    most_values: int = 100_000
    """Of the answer, as `ulak.providers.value_limits` counts them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One HTTP answer, whole. Header names are lower case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(repr=False, default=b"")
    asked_at: datetime | None = None
    """When the request was made, by PostgreSQL's clock. Statements are stored and read again as of this moment, so it
    alone decides whether a time in them still lay ahead, never `received_at`."""
    received_at: datetime | None = None
    """PostgreSQL's clock when the answer was whole (to learn a provider's clock offset from its `Date`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPage:
    """What one page of a list window reveals about the window."""

    number: int
    count: int | None
    """How many keys the whole window has, if the provider reports it."""
    last: bool
    """No further page follows."""
    size: int | None = None
    """How many keys a full page holds, where that is known."""
    newest_first: bool | None = None
    """Whether the list begins with its newest key; None where this page does not show it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """The content of a response."""

    reports: tuple[Report, ...] = ()
    children: tuple[FetchSpec, ...] = ()
    """Further fetches that this answer calls for (next pages). Pages of a window carry the same `params["window"]`."""
    answers: tuple[IdAnswer, ...] = ()
    discovered: tuple[Discovered, ...] = ()
    seen: tuple[str, ...] = ()
    """Keys on this page, in order, with repetitions."""
    page: SweepPage | None = None
    """Set for pages of a list window."""
    unreadable: tuple[Unreadable, ...] = ()
    ambiguous: tuple[AmbiguousReport, ...] = ()
    """Of callbacks: reports whose subject can only be resolved with stored data."""
    learned: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """One HTTP request that a provider made to us, or a body handed over by the sender."""

    tail: str
    """Which route of `callback_paths`; `send_reply` for a reply submitted through `ulak ingest`."""
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False, default_factory=dict)
    """Lower-case names."""
    client_ip: str | None = None


class Adapter(Protocol):
    """A provider's API as pure functions."""

    @property
    def record(self) -> ProviderRecord:
        """What the rooms above know of the provider."""

    def plan_window(self, account: Account, start: date, end: date) -> tuple[FetchSpec, ...]:
        """First fetches of one list window (days inclusive, in the account's time zone). Empty without a list.

        The specs carry `params["window"] = [start, end]` (ISO days) and `params["page"] = 1`; with another number the
        same params ask for that page.
        """

    def plan_ids(self, account: Account, due: Sequence[DueId], today: date) -> tuple[FetchSpec, ...]:
        """Fetches that ask for the ids that are due, batches filled to the brim; `today` is the UTC date."""

    def request(self, account: Account, fetch: Fetch, now: datetime) -> Request:
        """The HTTP request of a fetch; `now` is PostgreSQL's clock (Diyalog signs it)."""

    def parse(self, account: Account, fetch: Fetch, answer: Answer) -> Parsed:
        """Parse a response; raises an error of `ulak.providers.errors`."""

    def error_text(self, answer: Answer) -> str | None:
        """The provider's own words in an answer that reports an error, as they came; None where it has none.

        Never raises. Only for people: nothing is decided by it.
        """

    def parse_item(self, account: Account, fetch: Fetch, item: bytes) -> Parsed | None:
        """Parse one item that was cut out of a response to this fetch (`Unreadable.raw` of an item).

        Its reports count, or an ambiguous report if the item alone does not identify its subject; and its answers, if
        the response holds nothing but the item. Without anything unreadable it counts as parsed, even without a report.
        None if such bytes cannot be an item of such a response. Raises an error of `ulak.providers.errors` if they are
        no item at all.
        """

    def restate(self, account: Account, kept: KeptStatement) -> Report | None:
        """The report that a stored statement gives today; None where it gives none, and its stored facts stay.

        What only the surrounding response or a tracked id contained (the sender's reference) may be missing in it.
        """

    def parse_callback(self, account: Account, callback: Callback) -> Parsed:
        """Parse a pushed or submitted body; raises an error of `ulak.providers.errors`."""

    def authorise_callback(self, account: Account, callback: Callback) -> bool:
        """Whether the request proves to come from the provider (constant-time comparison).

        By its head alone, the body not being there yet, unless `record.callback_signature` names what signs it.
        """
