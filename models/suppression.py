"""The list of erased people: what was sent to them before their erasure is never stored again.

The list (table `suppressions`) holds no number: each spelling of a person is a keyed hash, beside the time of the
erasure. The pseudonym in an account with hashed recipients holds the same hash (`ulak.models.pseudonyms`). The key is
the person key, which no row of the database reveals; a thief of the database alone cannot try out numbers. Entries
are kept permanently.

What counts is when a message was sent: its own `sent_at`, else that of its order, else the earliest of the time of the
registered id it answers and the moments at which its report was or can have been made (an id may be registered long
after the sending). A message with none of these counts as sent now. A conversation-day counts from its first moment.
Each report is judged by itself, so with the list held
fixed the table does not depend on the order, the grouping or the repetition of reports.

An erasure takes effect at once, in every process. Each store takes a shared advisory lock with its first statement and
names, in the first statement that writes or locks rows, the version of the list by which it judged (`IS_CURRENT`); with
another version nothing is written, and it judges again. `suppress` holds the lock exclusively until its commit. So it
waits for the stores that are under way, whose rows the erasure then finds, and those that come later know the list.
An empty list costs no statement.
"""

import hmac
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from itertools import chain
from typing import Final

from sqlalchemy import Connection, text

from ulak.core.credentials import CredentialError
from ulak.models.ages import id_times, latest_time, order_times, own_time
from ulak.models.database import execute, json_parameter
from ulak.models.facts import Facts
from ulak.models.keys import split_key
from ulak.models.merge import Observation
from ulak.models.pseudonyms import MARK_BYTES, mark
from ulak.models.report import DeliveryReport, Report
from ulak.models.vocabulary import Granularity, Source

_LOCK: Final = 0x756C6173
_CHECK: Final = b"ulak erased: key\0"

HOLDS_OFF: Final = f"(SELECT pg_advisory_xact_lock_shared({_LOCK}, 0)::text) IS NOT NULL"
"""SQL, true: from this statement to the end of the transaction nobody comes on the list. A statement's snapshot is
older than the lock that it takes, so the list is only known to stand still for the statements after it."""
IS_CURRENT: Final = "(SELECT max(version) FROM suppressions) IS NOT DISTINCT FROM %(listed)s::bigint"
"""SQL: whether the list still has this version."""


class OtherPersonKeyError(CredentialError):
    """The list was made with another key, so nobody on it would be recognised. Nothing is stored then."""

    def __init__(self) -> None:
        """Say what to do."""
        super().__init__(
            "The list of erased people was made with another person key: give every process the same"
            " ULAK_PERSON_KEY_FILE. Until then no report is stored."
        )


def _no_key() -> bytes:
    raise OtherPersonKeyError


@dataclass(frozen=True, slots=True)
class Listed:
    """The list as it stood at one version."""

    version: int | None = None
    """None: it is empty."""
    erased: Mapping[bytes, datetime] = field(default_factory=dict, repr=False)
    """When, by the mark of each spelling of a person."""
    key: bytes = field(default=b"", repr=False)

    def since(self, people: Iterable[str]) -> datetime | None:
        """When the last of these was erased, each a number, an id or a pseudonym; None where none of them was."""
        found = [at for each in people if (at := self.erased.get(mark(self.key, each))) is not None]
        return max(found, default=None)

    def allowed(
        self, connection: Connection, account_id: str, reports: Sequence[Report], asked_at: datetime | None
    ) -> Sequence[Report]:
        """The reports without those about erased people that were sent before their erasure; asks only for these."""
        refused = self.refused(connection, account_id, reports, asked_at)
        if not refused:
            return reports
        # Our own words about a message (its validity has ended) come with the provider's, and go with them.
        lost = {(reports[place].granularity, reports[place].provider_key) for place in refused}
        return [
            each
            for place, each in enumerate(reports)
            if place not in refused
            and not (each.source is Source.OURS and (each.granularity, each.provider_key) in lost)
        ]

    def refused(
        self, connection: Connection, account_id: str, reports: Sequence[Report], asked_at: datetime | None
    ) -> set[int]:
        """The places of the reports about erased people that were sent before their erasure."""
        if not self.erased:
            return set()
        since = {
            place: at
            for place, each in enumerate(reports)
            if (at := self.since(_named(each.granularity, each.provider_key, each.parent_key, each.recipient)))
        }
        if not since:
            return set()
        times = _Times.of(connection, account_id, [reports[place] for place in since], reports)
        return {place for place, at in since.items() if times.is_before(reports[place], at, asked_at)}

    def is_erased(self, kind: str, value: str, recipient: str | None, sent_at: datetime) -> bool:
        """Whether an id of what was sent then, of this kind, may not be registered any more."""
        if not self.erased:
            return False
        is_conversation = kind == Granularity.CONVERSATION.value
        parts = split_key(value)[: 2 if is_conversation else None] if kind in KEYED else ()
        since = self.since(filter(None, (recipient, *parts)))
        if since is None:
            return False
        day = _day_of(value) if is_conversation else None
        return min(filter(None, (sent_at, day))) < since

    def without_erased(
        self, row: "MessageOfOrder", observations: Iterable[Observation]
    ) -> tuple[list[Observation], bool]:
        """Those that may stay of a stored message whose order came with a sending time, and whether any may not."""
        given = list(observations)
        kept = [seen for seen in given if not self._is_before_order(row, seen.facts)]
        if len(kept) == len(given):
            return kept, False
        return [seen for seen in kept if seen.source is not Source.OURS], True

    def _is_before_order(self, row: "MessageOfOrder", facts: Facts) -> bool:
        if facts.sent_at is not None or facts.parent_key != row.order_key:
            return False
        since = self.since(_named(Granularity.MESSAGE, row.provider_key, facts.parent_key, facts.recipient))
        return since is not None and row.order_sent_at < since


NOBODY: Final = Listed()
KEYED: Final = frozenset({Granularity.MESSAGE.value, Granularity.CONVERSATION.value})
"""Kinds of ids that are keys of deliveries and may hold a number (`ulak.models.references`). An order names nobody."""


def _day_of(conversation: str) -> datetime | None:
    """When the day of a conversation's key begins; None where it names none."""
    try:
        return datetime.combine(date.fromisoformat(split_key(conversation)[-1]), time(), UTC)
    except ValueError:
        return None


def _named(granularity: Granularity, key: str, parent: str | None, recipient: str | None) -> Iterable[str]:
    """Whom a delivery names.

    A conversation: both sides, which its key holds. A message without a recipient: any part of its key may be one.
    """
    if granularity is Granularity.CONVERSATION:
        return filter(None, (recipient, parent, *split_key(key)[:2]))
    if recipient is not None:
        return (recipient,)
    return split_key(key) if granularity is Granularity.MESSAGE else ()


# ----------------------------------------------------------------------------------------------------- when it was sent


@dataclass(frozen=True, slots=True)
class _Times:
    """What is known besides the reports themselves."""

    of_orders: Mapping[str, datetime]
    of_ids: Mapping[str, datetime]

    @classmethod
    def of(cls, connection: Connection, account_id: str, about: Sequence[Report], batch: Iterable[Report]) -> "_Times":
        """What the orders in the batch and those that are stored say, and the ids that were registered."""
        parents = {each.parent_key for each in about if each.sent_at is None and each.parent_key is not None}
        of_orders: dict[str, datetime] = {}
        of_ids: dict[str, datetime] = {}
        if parents:
            of_orders = {
                each.provider_key: each.sent_at
                for each in batch
                if each.granularity is Granularity.ORDER and each.sent_at is not None
            } | order_times(connection, account_id, parents)
        untimed = [each for each in about if each.sent_at is None and (each.parent_key or "") not in of_orders]
        if untimed:
            of_ids = id_times(connection, account_id, untimed)
        return cls(of_orders, of_ids)

    def is_before(self, report: Report, erased_at: datetime, asked_at: datetime | None) -> bool:
        """Whether the message that the report is about was sent before its person was erased."""
        sent_at = report.sent_at or self.of_orders.get(report.parent_key or "") or own_time(report)
        if sent_at is None:
            sent_at = latest_time(report, self.of_ids, asked_at)
        return sent_at is not None and sent_at < erased_at


def report_of(granularity: Granularity, key: str, seen: Observation) -> DeliveryReport:
    """A stored observation as a report, with all by which it is judged."""
    facts = seen.facts
    return DeliveryReport(
        granularity=granularity,
        provider_key=key,
        status=facts.status,
        provider_status=facts.provider_status,
        parent_key=facts.parent_key,
        recipient=facts.recipient,
        day=None if facts.day is None else date.fromisoformat(facts.day),
        source=seen.source,
        as_of=seen.as_of,
        provider_time=seen.provider_time,
        sent_at=_moment(facts.sent_at),
        done_at=_moment(facts.done_at),
    )


def _moment(at: str | None) -> datetime | None:
    return None if at is None else datetime.fromisoformat(at)


# --------------------------------------------------------------------------------- messages whose order came after them

_MESSAGES: Final = """
SELECT m.id, m.provider_key, r.provider_key, o.sent_at, array_append(
  ARRAY(SELECT DISTINCT facts ->> 'recipient' FROM observations WHERE delivery_id = m.id AND facts IS NOT NULL),
  m.recipient)
FROM jsonb_to_recordset(%(orders)s::jsonb) AS r(provider_key text)
CROSS JOIN LATERAL (
  SELECT sent_at FROM delivery_status
  WHERE account_id = %(account)s AND granularity = 'order' AND provider_key BETWEEN r.provider_key AND r.provider_key
  ORDER BY provider_key LIMIT 1
) o
CROSS JOIN LATERAL (
  SELECT id, provider_key, granularity, recipient FROM delivery_status
  WHERE account_id = %(account)s AND parent_key BETWEEN r.provider_key AND r.provider_key
  ORDER BY parent_key OFFSET 0
) m
WHERE o.sent_at < %(last)s AND m.granularity = 'message'
"""


@dataclass(frozen=True, slots=True)
class MessageOfOrder:
    """A stored message of an order whose sending time is known."""

    id: int
    provider_key: str
    order_key: str
    order_sent_at: datetime


def messages_of_orders(
    connection: Connection, account_id: str, orders: Collection[str], listed: Listed
) -> Sequence[MessageOfOrder]:
    """The messages of these orders of which some statement may name somebody who was erased after the order was sent.

    Locks nothing. Orders that were sent after the last erasure cost only their look-up.
    """
    given = {
        "account": account_id,
        "orders": json_parameter([{"provider_key": key} for key in sorted(orders)]),
        "last": max(listed.erased.values()),
    }
    return [
        MessageOfOrder(place, key, order, sent_at)
        for place, key, order, sent_at, recipients in execute(connection, _MESSAGES, given)
        if (at := listed.since(chain(split_key(key), filter(None, recipients)))) is not None and sent_at < at
    ]


# ------------------------------------------------------------------------------------------------------ the list itself

_READ: Final = "SELECT mark, erased_at, version, key_check FROM suppressions"
_VERSION: Final = "SELECT max(version) FROM suppressions"


@dataclass(slots=True)
class Suppressions:
    """The list as one process knows it. For any number of threads.

    `key`: gives the person key; it is first asked for when somebody is on the list. `CredentialError` where there is
    none, `OtherPersonKeyError` where it is not the one that the list was made with: nothing is stored then.
    """

    key: Callable[[], bytes] = field(default=_no_key, repr=False)
    known: Listed = field(default=NOBODY, repr=False)
    """As it was last read; it may be out of date."""

    def current(self, connection: Connection) -> Listed:
        """The list as this transaction sees it; read again only where it has another version."""
        [[version]] = execute(connection, _VERSION).fetchall()
        if version != self.known.version:
            self.known = self._read(connection)
        return self.known

    def held(self, connection: Connection) -> Listed:
        """As `current`; and nobody comes on the list until the transaction ends."""
        execute(connection, f"SELECT WHERE {HOLDS_OFF}")
        return self.current(connection)

    def _read(self, connection: Connection) -> Listed:
        rows = execute(connection, _READ).fetchall()
        if not rows:
            return NOBODY
        key = self.key()
        if any(bytes(check) != _key_check(key) for *_, check in rows):
            raise OtherPersonKeyError
        erased: dict[bytes, datetime] = {}
        for each, at, *_ in rows:
            # Until pseudonyms were made of them, marks were kept in full.
            short = bytes(each)[:MARK_BYTES]
            erased[short] = max(at, erased.get(short, at))
        return Listed(max(row[2] for row in rows), erased, key)


def _key_check(key: bytes) -> bytes:
    return hmac.digest(key, _CHECK, "sha256")[:16]


# Of two erasures of one person the later counts.
_ADD: Final = text("""
    INSERT INTO suppressions (mark, erased_at, key_check, version)
    SELECT mark, clock_timestamp(), :key_check, (SELECT coalesce(max(version), 0) + 1 FROM suppressions)
    FROM unnest(CAST(:marks AS bytea[])) AS given(mark) ORDER BY mark
    ON CONFLICT (mark) DO UPDATE
    SET erased_at = greatest(suppressions.erased_at, excluded.erased_at), version = excluded.version
""")


def suppress(connection: Connection, key: bytes, spellings: Collection[str]) -> None:
    """Put a person on the list, as erased now; the caller commits at once.

    Waits for the stores that are under way, and holds up others until the commit. `OtherPersonKeyError` where the list
    was made with another key.
    """
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock, 0)"), {"lock": _LOCK})
    Suppressions(lambda: key).current(connection)
    marks = sorted({mark(key, each) for each in spellings})
    connection.execute(_ADD, {"key_check": _key_check(key), "marks": marks})
