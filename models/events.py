"""Who did, saw or erased what: the append-only table `events`.

PostgreSQL itself refuses to change or delete a row. No row holds a person's number: where an event is about a person,
`person` is a keyed hash of the number, so that the events can be found by number and key, also after an erasure.
"""

import hmac
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, insert, or_, select

from ulak.models.tables import events

LIMIT = 100
_PERSON = b"ulak events: person\0"


class Action(StrEnum):
    """What happened. The words are stored, so none is ever given another meaning."""

    ACCOUNT_CREATED = "account.created"
    ACCOUNT_CHANGED = "account.changed"
    ACCOUNT_DISABLED = "account.disabled"
    ACCOUNT_PAUSED = "account.paused"
    ACCOUNT_RESUMED = "account.resumed"
    POLL_OPENED = "poll.opened"
    POLL_CANCELLED = "poll.cancelled"
    DEAD_RETRIED = "dead.retried"
    DEAD_DISCARDED = "dead.discarded"
    QUARANTINE_RETRIED = "quarantine.retried"
    QUARANTINE_DISCARDED = "quarantine.discarded"
    QUARANTINE_RESEALED = "quarantine.resealed"
    IDS_REGISTERED = "ids.registered"
    """At most once an hour for each actor, account and process: senders do it all the time."""
    IDS_UNTRACKED = "ids.untracked"
    """With how many were open; recorded with the change, where there is one."""
    REPORTS_HANDED_OVER = "reports.handed_over"
    """At most once an hour, like `IDS_REGISTERED`."""
    TABLE_REBUILT = "table.rebuilt"
    TOKEN_CREATED = "token.created"  # noqa: S105 - a word, no secret
    TOKEN_REVOKED = "token.revoked"  # noqa: S105 - a name, no secret
    SESSION_OPENED = "session.opened"
    SESSIONS_ENDED = "sessions.ended"
    NUMBER_REVEALED = "number.revealed"
    """A person made one delivery's number be shown."""
    DELIVERY_VIEWED = "delivery.viewed"
    """A program, or the command line, read one delivery with its number."""
    PERSON_SEARCHED = "person.searched"
    """Somebody looked for a number, whether it was found or not."""
    DELIVERIES_READ = "deliveries.read"
    """Many numbers were read at once; at most once an hour for each actor and process."""
    PERSON_ERASED = "person.erased"
    RETENTION_ANNOUNCED = "retention.announced"
    """What `keep_days` is going to remove, and from when on."""
    RETENTION_STARTED = "retention.started"
    RETENTION_CANCELLED = "retention.cancelled"
    DELIVERIES_REMOVED = "deliveries.removed"
    """What had been kept long enough; once for each run of upkeep that removed something."""
    DELIVERIES_EXPORTED = "deliveries.exported"
    """A month was written to a file, with its numbers."""
    SECRETS_SHOWN = "secrets.shown"


ABOUT_PEOPLE = frozenset(
    {
        Action.NUMBER_REVEALED,
        Action.DELIVERY_VIEWED,
        Action.PERSON_SEARCHED,
        Action.DELIVERIES_READ,
        Action.DELIVERIES_EXPORTED,
        Action.PERSON_ERASED,
    }
)
"""Who saw or erased people's numbers. With `ABOUT_ENTRY`, shown to administrators alone."""
ABOUT_ENTRY = frozenset(
    {
        Action.TOKEN_CREATED,
        Action.TOKEN_REVOKED,
        Action.SESSION_OPENED,
        Action.SESSIONS_ENDED,
        Action.SECRETS_SHOWN,
    }
)
OPEN_TO_ALL = frozenset(Action) - ABOUT_PEOPLE - ABOUT_ENTRY
"""What was done to an account: shown to everyone who may see the account."""


class Kind(StrEnum):
    """Who an actor is."""

    CONFIGURED = "configured"
    """The bearer of `ULAK_API_TOKEN`."""
    TOKEN = "token"  # noqa: S105 - a name, no secret
    """The bearer of a token of `ulak tokens`."""
    PERSON = "person"
    """Somebody who came in by single sign-on."""
    CLI = "cli"
    """A user of the host on which a command was run."""
    SYSTEM = "system"
    """Ulak itself, as it is configured to."""


class Via(StrEnum):
    """Through what."""

    PAGE = "page"
    API = "api"
    CLI = "cli"
    UPKEEP = "upkeep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who did it."""

    kind: Kind
    name: str
    """What stays the same: the token's name, the subject that the provider of the sign-on gives, the user's name."""
    label: str | None = None
    """What people know a person by; it may change."""

    @property
    def shown(self) -> str:
        """For people."""
        return self.label or self.name

    @property
    def caller(self) -> str:
        """For the log: names of tokens as they are, others with their kind before them."""
        return self.name if self.kind in {Kind.CONFIGURED, Kind.TOKEN} else f"{self.kind}:{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that was done or seen."""

    action: Action
    actor: Actor
    via: Via
    account: str | None = None
    delivery_id: int | None = None
    person: bytes | None = None
    """`person_mark` of whom it is about."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Figures and names of ours. The caller masks what people wrote."""


def person_mark(key: bytes, person: str) -> bytes:
    """The identifier of a person in `events`. `person`: E.164, or a provider's own id."""
    return hmac.digest(key, _PERSON + person.encode("utf-8", "surrogatepass"), "sha256")


def record(connection: Connection, *happened: Event) -> None:
    """Append events; they are durable once the caller commits."""
    if happened:
        connection.execute(insert(events), [_row_of(event) for event in happened])


def _row_of(event: Event) -> dict[str, Any]:
    return {
        "action": event.action.value,
        "actor_kind": event.actor.kind.value,
        "actor": event.actor.name,
        "actor_label": event.actor.label,
        "via": event.via.value,
        "account_id": event.account,
        "delivery_id": event.delivery_id,
        "person": event.person,
        "details": dict(event.details),
    }


def list_events(
    connection: Connection,
    *,
    accounts: Collection[str] | None = None,
    actions: Collection[Action] | None = None,
    actor: str | None = None,
    people: Collection[bytes] | None = None,
    deliveries: Collection[int] = (),
    of_no_account: bool = False,
    since: datetime | None = None,
    before_id: int | None = None,
    limit: int = LIMIT,
) -> Sequence[Row[Any]]:
    """Events that match everything given, the newest first; the last id is the cursor of the next page.

    `accounts`: of these; None: of all and of none. `actor`: by name or by label. `people` and `deliveries`: about one
    of these identifiers of a person, or one of these deliveries. `of_no_account`: only those that name no account, such
    as erasures, which concern every account.
    """
    table = events.c
    wanted: list[ColumnElement[bool]] = []
    if accounts is not None:
        wanted.append(table.account_id.in_(sorted(accounts)))
    if of_no_account:
        wanted.append(table.account_id.is_(None))
    if actions is not None:
        wanted.append(table.action.in_(sorted(actions)))
    if actor is not None:
        wanted.append(or_(table.actor == actor, table.actor_label == actor))
    if people is not None:
        wanted.append(or_(table.person.in_(people), table.delivery_id.in_(sorted(deliveries))))
    if since is not None:
        wanted.append(table.at >= since)
    if before_id is not None:
        wanted.append(table.id < before_id)
    return connection.execute(select(events).where(*wanted).order_by(table.id.desc()).limit(limit)).all()
