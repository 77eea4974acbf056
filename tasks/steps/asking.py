"""What the parts of a fetch step hand to one another."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import Connection, RowMapping

from core import clock
from models.ledger.finishing import CallEnd
from models.ledger.limiter import Taken
from models.quarantine import seal
from models.report import TrackedKey, Unreadable
from providers.adapter import Account, Adapter, Fetch, Request
from providers.http import Sent
from providers.way_out import WayOut
from tasks.runtime import Runtime
from tasks.steps.bodies import to_keep
from tasks.steps.events import Events


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """All that is needed to ask and to understand the answer, read before the fetch is held."""

    row: RowMapping = field(repr=False)
    """The account's row."""
    account: Account
    adapter: Adapter
    fetch: Fetch = field(repr=False)
    request: Request
    way_out: WayOut
    tracked: Mapping[TrackedKey, RowMapping] = field(repr=False)
    """The tracked rows that the fetch holds."""
    behind: timedelta = timedelta(0)
    """By how much the request takes PostgreSQL's clock to be behind; its response must be judged by the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request that was made: what it was made for, under which lease, and how it ended."""

    runtime: Runtime
    prepared: Prepared
    taken: Taken
    sent: Sent

    def call_end(self, outcome: str) -> CallEnd:
        """How the call ended; the time since the answer is read as late as can be."""
        return CallEnd(
            call_id=self.taken.permit.call_id,
            outcome=outcome,
            http_status=self.sent.answer.status if self.sent.answer is not None else None,
            duration_seconds=self.sent.duration_seconds,
            seconds_since=max(0.0, clock.boot() - self.sent.answered_boot),
        )

    def put_away(self, connection: Connection, events: Events, items: tuple[Unreadable, ...]) -> None:
        """Keep what was not understood, sealed, with the reason."""
        if not items:
            return
        items, context = to_keep(items, self.sent.answer)
        new = seal(
            connection,
            self.runtime.seal_key,
            account_id=self.taken.account_id,
            origin=f"poll:{self.taken.kind}",
            unreadable=items,
            context={
                "params": dict(self.taken.params),
                "as_of": self.taken.as_of.isoformat(),
                **context,
            },
            fetch_id=self.taken.fetch_id,
        )
        # What is kept once comes again with every item of its kind.
        for reason in sorted({item.reason for item in items if new or not item.once}):
            events.warning("quarantine.kept", fetch=self.taken.fetch_id, reason=reason)
