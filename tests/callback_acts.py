"""Acts on an account with a webhook for tests: pushes, answers about its orders, lists, and what is counted of them."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from ledger_acts import Held, add_account, add_ids, execute, fetches_of, plan

from ulak.core import clock
from ulak.models import callback_shares, latencies
from ulak.models.account import StoredAccount, find
from ulak.models.database import transaction
from ulak.models.deliveries import upsert
from ulak.models.report import DeliveryReport
from ulak.models.vocabulary import Granularity, Source, Status
from ulak.providers.adapter import Callback
from ulak.tasks.runtime import Runtime
from ulak.tasks.steps.callbacks import ingest
from ulak.tasks.steps.planning import plan_due

ONE, OTHER = "+905301234567", "+905301234568"
CHECKED = """
    UPDATE tracked_ids SET last_checked_at = now() - interval '5 s', last_found_at = now() - interval '5 s',
        checked_before_at = sent_at
    WHERE account_id = :a
"""
LATER = "UPDATE tracked_ids SET next_check_at = now() + interval '1 h' WHERE account_id = :a AND closed_at IS NULL"
CHECKED_AGAIN = """
    UPDATE tracked_ids SET checked_before_at = last_checked_at, last_checked_at = now(), changed_as_of = NULL
    WHERE account_id = :a
"""
CLOSE = """
    UPDATE tracked_ids SET closed_at = now(), close_reason = 'final', next_check_at = NULL,
        checked_before_at = coalesce(last_checked_at, sent_at), last_checked_at = now()
    WHERE account_id = :a AND closed_at IS NULL
"""


def webhook_account(runtime: Runtime, provider: str = "iletimerkezi", *, webhook: bool = True, **poll: Any) -> str:
    """An account whose lists are not due for an hour; `webhook` False: without a webhook's secret."""
    account_id = add_account(runtime.engine, provider=provider, poll={"every_seconds": 3600.0, **poll})
    if webhook:
        change = 'UPDATE accounts SET credentials = credentials || \'{"webhook_secret": "env:HOOK"}\''
        execute(runtime.engine, f"{change} WHERE id = :a", a=account_id)
    execute(runtime.engine, "UPDATE accounts SET planned_at = now() WHERE id = :a", a=account_id)
    return account_id


def account_row(runtime: Runtime, account_id: str) -> StoredAccount:
    """The account as it is stored."""
    with runtime.engine.connect() as connection:
        row = find(connection, account_id)
    assert row is not None
    return row


def push(runtime: Runtime, account_id: str, order: str, number: str, status: str = "delivered") -> None:
    """The webhook about one recipient."""
    report = {"id": 9, "packet_id": int(order), "status": status, "to": number}
    body = json.dumps({"report": report}).encode()
    ingest(runtime, account_row(runtime, account_id), Callback(tail="", body=body))


def read_messages(
    runtime: Runtime,
    account_id: str,
    order: str,
    numbers: Sequence[str],
    status: Status,
    *,
    source: Source = Source.POLL,
) -> None:
    """What a poll of the order has stored."""
    reports = [
        DeliveryReport(
            granularity=Granularity.MESSAGE,
            provider_key=f"{order}:{number}:1",
            parent_key=order,
            recipient=number,
            status=status,
            source=source,
            provider_status="110" if status is Status.ENROUTE else "111",
        )
        for number in numbers
    ]
    with transaction(runtime.engine) as connection:
        upsert(connection, account_id, "iletimerkezi", reports, asked_at=clock.now() - timedelta(seconds=5))


def tracked_order(runtime: Runtime, account_id: str, order: str, *, expected: int | None = 2) -> int:
    """An order that was read once, with two recipients on their way, and that is due."""
    [tracked] = add_ids(runtime.engine, account_id, [order], kind="order", expected=expected)
    execute(runtime.engine, CHECKED, a=account_id)
    read_messages(runtime, account_id, order, [ONE, OTHER], Status.ENROUTE)
    return tracked


def ready_fetches(runtime: Runtime, account_id: str) -> int:
    """Plan what is due; how many fetches are ready then."""
    list(plan_due(runtime, "iletimerkezi"))
    return len(fetches_of(runtime.engine, account_id, "ready"))


def counted(runtime: Runtime, account_id: str, kind: str, after: datetime) -> tuple[callback_shares.Shares, int]:
    """Shares of what was closed since, and for how many closed ids a latency is known."""
    window = after, clock.now()
    scale = latencies.Scale(per_decade=8, longest=50, factor=1.0, kinds=[kind])
    with transaction(runtime.engine) as connection:
        shares = callback_shares.shares(connection, account_id, kind, by_parts=kind == "order", window=window)
        groups = [after - timedelta(days=9)]
        found = latencies.closed(connection, account_id, kind, scale, groups=groups, window=window)
    return shares, sum(each.many for each in found)


def list_order(
    runtime: Runtime, account_id: str, *, status: int, delivered: int, undelivered: int = 0, total: int = 2
) -> None:
    """A sweep whose page states order 501 so."""
    execute(
        runtime.engine, "UPDATE accounts SET planned_at = NULL, closed_swept_at = now() WHERE id = :a", a=account_id
    )
    execute(runtime.engine, LATER, a=account_id)
    waiting = total - delivered - undelivered
    counts = {"total": total, "delivered": delivered, "undelivered": undelivered, "waiting": waiting}
    sent = {"submitAt": "2026-01-01 10:00:00", "sendAt": "2026-01-01 10:00:00"}
    page = {"status": {"code": 200}, "count": 1, "orders": [{"id": 501, "status": status, **counts, **sent}]}
    [fetch_id] = plan(runtime, account_id)
    Held(runtime, fetch_id).answer(msgspec.json.encode({"response": page}))
