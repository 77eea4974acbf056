"""What would be asked, and when: the plan itself, made without a provider call and without a trace.

An on-demand poll is planned by the same functions as a real one, in a transaction that is rolled back. When an id is
checked comes from the same pure functions of `schedules/` that the finishing transaction uses.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from sqlalchemy import Connection

from ulak.models.account import StoredAccount, find
from ulak.models.ledger.opening import PRIORITY_ON_DEMAND, NewFetch, Scope
from ulak.models.tracked import TrackedId, open_by
from ulak.providers.effective import adapter_of, record_of
from ulak.providers.registry import ADAPTERS
from ulak.schedules.plans import latency_of
from ulak.schedules.policy import next_check
from ulak.schedules.poll_times import PollTimes
from ulak.tasks.runtime import Runtime, account_without_credentials
from ulak.tasks.steps.fetch_rows import fetches_for
from ulak.tasks.steps.ondemand import Window, pollable_account
from ulak.tasks.steps.poll_targets import wanted
from ulak.tasks.steps.tracking import learned_times, schedule_of

CHECKS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What an on-demand poll would ask for."""

    fetches: Sequence[NewFetch]
    ids: int
    seconds: float
    """How long the account's limit needs for these calls at least. Lists may have further pages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coming:
    """When an open id is checked next, if every check finds it open."""

    account_id: str
    tracked: str
    recipient: str | None
    sent_at: datetime
    valid_until: datetime
    is_held: bool
    """A request for it is planned or under way already."""
    learned: PollTimes | None
    """The schedule; None where the fixed one holds."""
    waits_for_batch: bool
    """Checks before the end of validity come later where the batch is not worth a call yet."""
    checks: Sequence[datetime]
    """The first is the one that is stored."""


def preview_poll(runtime: Runtime, account_id: str, window: Window) -> Preview:
    """What `ulak poll` would ask for now; nothing is sent or stored. Raises what `open_on_demand` raises."""
    start, end = window
    poll = Scope(window_from=start, window_to=None if start is None else end or start, ids=None)
    with runtime.engine.connect() as connection:
        stored = pollable_account(connection, account_id, window)
        account = account_without_credentials(stored)
        asked = wanted(connection, runtime, stored, account, poll)
        fetches = asked.fetches + fetches_for(adapter_of(stored), account, asked.ids, stored.now, PRIORITY_ON_DEMAND)
        connection.rollback()
    # The slots that are free now take the first calls; each further round waits for the window.
    rounds = max(0, -(-len(fetches) // stored.limit_requests) - 1)
    return Preview(fetches=fetches, ids=len(asked.ids), seconds=rounds * stored.limit_per_seconds)


def coming_checks(
    connection: Connection, ident: str, *, values: Sequence[str] = (), recipients: Sequence[str] = ()
) -> list[Coming]:
    """The next checks of every open id of this client reference or value, one of these values, or these numbers."""
    kinds = sorted({kind for adapter in ADAPTERS.values() for kind in adapter.record.id_kinds})
    found = open_by(connection, ident, kinds=kinds, values=[ident, *values], recipients=recipients)
    accounts = {name: find(connection, name) for name in sorted({each.account_id for each in found})}
    return [_coming(stored, each) for each in found if (stored := accounts[each.account_id]) is not None]


def _coming(stored: StoredAccount, tracked: TrackedId) -> Coming:
    times = learned_times(stored, tracked.id_kind, tracked.expected)
    return Coming(
        account_id=tracked.account_id,
        tracked=f"{tracked.id_kind}={tracked.value}",
        recipient=tracked.recipient,
        sent_at=tracked.sent_at,
        valid_until=tracked.valid_until,
        is_held=tracked.fetch_id is not None,
        learned=times,
        waits_for_batch=times is not None and latency_of(stored.poll_plan, tracked.id_kind) is not None,
        checks=list(islice(_checks(stored, tracked), CHECKS)),
    )


def _checks(stored: StoredAccount, tracked: TrackedId) -> Iterator[datetime]:
    """The stored check, then what the poll policy gives if each finds the id open."""
    moment = tracked.next_check_at
    while moment is not None:
        yield moment
        moment = next_check(
            record_of(stored).poll,
            sent_at=tracked.sent_at,
            valid_until=tracked.valid_until,
            now=max(moment, stored.now) + timedelta(microseconds=1),
            early=not tracked.is_whole,
            **schedule_of(stored, tracked.id_kind, tracked.expected),
        )
