"""What every account has been asked for and what waits there: the counts and moments that all observers read.

The status page, `ulak status`, `/v1/accounts` and `/metrics` show these and no others. Nothing here writes; open rows
are read by their partial indexes only.
"""

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, text

from ulak.models.latencies import DUE_SINCE
from ulak.models.ledger.slots import FREE_SINCE, busy_sql


class Calls(NamedTuple):
    """The calls of an account."""

    account_id: str
    provider: str
    now: datetime
    """PostgreSQL's clock, as in `Work`."""
    minute: int
    hour: int
    """How many were made within the last minute, the last hour."""
    busy_slots: int
    """How many slots of its limit are taken."""
    unanswered: int
    good_asked_at: datetime | None
    """When the last call was made that was answered well …"""
    good_answered_at: datetime | None
    """… and when it was answered."""


class Work(NamedTuple):
    """The open work of an account; each moment is that of the oldest, None where there is none."""

    account_id: str
    provider: str
    enabled: bool
    now: datetime
    free_since: datetime | None
    """Since when nothing has kept a call from being made; ahead where something does. None: since ever."""
    ready: int
    """Fetches that wait for a call …"""
    retrying: int
    """… of which so many failed before …"""
    ready_since: datetime | None
    """… and could be made since then."""
    sending: int
    lease_ended: datetime | None
    """A fetch whose worker stored no response in time, and that has not been recovered."""
    dead: int
    polls: int
    """Polls that run."""
    unplanned_since: datetime | None
    """A poll that has not been planned."""
    quarantined: int
    """Unresolved entries in quarantine."""
    ids: int
    """Tracked ids that are open …"""
    ids_since: datetime | None
    """… and sent since then. A whole (a send) only waits for its parts: how long says nothing about the provider."""
    due: int
    """Ids that are due for polling and in no request yet …"""
    due_since: datetime | None
    """… since then; ahead where they may wait for their batch."""

    def stalled_since(self, moment: datetime | None) -> datetime | None:
        """Since when work is stalled that could be done since `moment`; ahead where it waits rightly.

        None for no work, and for a disabled account.
        """
        if moment is None or not self.enabled:
            return None
        return moment if self.free_since is None else max(moment, self.free_since)


_CALLS = text(f"""
    SELECT a.id, a.provider, clock_timestamp(), recent.minute, recent.hour, least(busy.slots, a.limit_requests),
        air.unanswered, good.asked_at, good.answered_at
    FROM accounts a
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE c.asked_at > now() - interval '1 minute') AS minute, count(*) AS hour
        FROM calls c WHERE c.account_id = a.id AND c.asked_at > now() - interval '1 hour') recent
    CROSS JOIN LATERAL (SELECT count(*) AS slots FROM calls c WHERE c.account_id = a.id AND {busy_sql()}) busy
    CROSS JOIN LATERAL (
        SELECT count(*) AS unanswered FROM calls c
        WHERE c.account_id = a.id AND c.answered_at IS NULL AND c.gives_up_at > clock_timestamp()) air
    LEFT JOIN LATERAL (
        SELECT c.asked_at, c.answered_at FROM calls c WHERE c.account_id = a.id AND c.outcome = 'ok'
        ORDER BY c.asked_at DESC LIMIT 1) good ON true
    WHERE CAST(:ids AS text[]) IS NULL OR a.id = ANY(:ids) ORDER BY a.id
""")
_WORK = text(f"""
    SELECT a.id, a.provider, a.enabled, clock_timestamp(), {FREE_SINCE}, ready.many, ready.retrying, ready.since,
        sending.many, sending.lease_ended,
        (SELECT count(*) FROM fetches f WHERE f.account_id = a.id AND f.state = 'dead'),
        polls.many, polls.unplanned_since,
        (SELECT count(*) FROM quarantine q WHERE q.account_id = a.id AND q.resolved_at IS NULL),
        ids.many, ids.since, due.many, due.since
    FROM accounts a
    CROSS JOIN LATERAL (
        SELECT count(*) AS many, count(*) FILTER (WHERE f.attempts > 0) AS retrying, min(f.available_at) AS since
        FROM fetches f WHERE f.account_id = a.id AND f.state = 'ready') ready
    CROSS JOIN LATERAL (
        SELECT count(*) AS many, min(f.lease_until) FILTER (WHERE f.lease_until < clock_timestamp()) AS lease_ended
        FROM fetches f WHERE f.account_id = a.id AND f.state = 'sending') sending
    CROSS JOIN LATERAL (
        SELECT count(*) AS many, min(p.started_at) FILTER (WHERE p.planned_at IS NULL) AS unplanned_since
        FROM polls p WHERE p.account_id = a.id AND p.state = 'running') polls
    CROSS JOIN LATERAL (
        SELECT count(*) AS many, min(t.sent_at) FILTER (WHERE t.whole IS DISTINCT FROM t.value) AS since
        FROM tracked_ids t WHERE t.account_id = a.id AND t.closed_at IS NULL) ids
    CROSS JOIN LATERAL (
        SELECT count(*) AS many, min({DUE_SINCE}) AS since
        FROM tracked_ids t WHERE t.account_id = a.id AND t.closed_at IS NULL AND t.fetch_id IS NULL
          AND t.next_check_at <= statement_timestamp()) due
    WHERE CAST(:ids AS text[]) IS NULL OR a.id = ANY(:ids) ORDER BY a.id
""")


def age(now: datetime, moment: datetime | None) -> float | None:
    """Seconds since then, 0 where it lies ahead; None without a moment."""
    return None if moment is None else max(0.0, (now - moment).total_seconds())


def read_calls(connection: Connection, ids: Collection[str] | None = None) -> list[Calls]:
    """Of these accounts, or of all, in the order of their ids."""
    return [Calls(*row) for row in connection.execute(_CALLS, {"ids": None if ids is None else list(ids)})]


def read_work(connection: Connection, ids: Collection[str] | None = None) -> list[Work]:
    """Of these accounts, or of all, in the order of their ids."""
    return [Work(*row) for row in connection.execute(_WORK, {"ids": None if ids is None else list(ids)})]
