"""What the parts of a fetch step hand to one another."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from sqlalchemy import Connection

from ulak.core import clock
from ulak.models.account import StoredAccount
from ulak.models.ledger.ending import CallEnd, close_call
from ulak.models.ledger.taking import Taken, TakeResult
from ulak.models.quarantine import seal
from ulak.models.report import TrackedKey, Unreadable
from ulak.models.tracked import AskedId
from ulak.providers.adapter import Account, Adapter, Fetch, Request
from ulak.providers.egress import Egress
from ulak.providers.http import Sent
from ulak.providers.pseudonymiser import Pseudonymiser
from ulak.tasks.effects import Effects
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.kept_bodies import to_keep


class Follow(Protocol):
    """The end of a finishing transaction: takes what comes next, or has it taken by another thread."""

    def __call__(self, connection: Connection, /, *, account: StoredAccount | None) -> TakeResult:
        """`account`: where it is locked already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """All that is needed to ask and to understand the answer."""

    stored: StoredAccount = field(repr=False)
    account: Account
    adapter: Adapter
    fetch: Fetch = field(repr=False)
    request: Request
    egress: Egress
    tracked: Mapping[TrackedKey, AskedId] = field(repr=False)
    """The ids that the fetch asks for, by their stored form."""
    hidden: Pseudonymiser | None = None
    """What replaces people in what the answer says, where the account keeps no clear recipients."""
    behind: timedelta = timedelta(0)
    """By how much the request takes PostgreSQL's clock to be behind; its response must be judged by the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request that was made: what it was made for, under which lease, and how it ended."""

    runtime: Runtime
    prepared: Prepared
    taken: Taken
    sent: Sent

    def close_call(self, connection: Connection, outcome: str, *, shares_references: bool = False) -> datetime | None:
        """Fence, and write how the call ended (`ulak.models.ledger.ending.close_call`)."""
        end = CallEnd(
            call_id=self.taken.permit.call_id,
            endpoint=self.prepared.request.endpoint,
            outcome=outcome,
            http_status=self.sent.answer.status if self.sent.answer is not None else None,
            duration_seconds=self.sent.duration_seconds,
            # Read as late as can be.
            seconds_since=max(0.0, clock.boot() - self.sent.answered_boot),
            shares_references=shares_references,
        )
        return close_call(connection, self.taken.fetch_id, self.taken.lease_token, end)

    def put_away(self, connection: Connection, effects: Effects, items: tuple[Unreadable, ...]) -> None:
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
            seals_context=self.prepared.hidden is not None,
        )
        # What is kept once comes again with every item of its kind.
        for reason in sorted({item.reason for item in items if new or not item.once}):
            effects.warning("quarantine.kept", fetch=self.taken.fetch_id, reason=reason)
