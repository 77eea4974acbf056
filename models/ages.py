"""When a message was sent, as well as a report and what is stored beside it say: what is too old is not stored.

Used where the row itself cannot answer, because there is none: for reports about people who were erased
(`ulak.models.suppression`), and about messages that were removed because they had been kept long enough.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, time
from typing import Final

from sqlalchemy import Connection

from ulak.models.database import execute, json_parameter
from ulak.models.report import Report
from ulak.models.vocabulary import Source

_ORDER_TIMES: Final = """
SELECT r.parent, o.sent_at FROM jsonb_to_recordset(%(parents)s::jsonb) AS r(parent text)
CROSS JOIN LATERAL (
  SELECT sent_at FROM delivery_status
  WHERE account_id = %(account)s AND granularity = 'order' AND provider_key BETWEEN r.parent AND r.parent
  ORDER BY provider_key LIMIT 1
) o WHERE o.sent_at IS NOT NULL
"""
# Of what is no order's. Ids of every kind, since a push does not say of which kind the id is that was registered.
_ID_TIMES: Final = """
SELECT value, min(sent_at) FROM tracked_ids WHERE account_id = %(account)s AND value = ANY(%(values)s) GROUP BY value
"""


def order_times(connection: Connection, account_id: str, orders: Collection[str]) -> dict[str, datetime]:
    """When these orders were sent, as stored; those of which that is not known are left out."""
    if not orders:
        return {}
    parents = json_parameter([{"parent": each} for each in sorted(orders)])
    return dict(execute(connection, _ORDER_TIMES, {"account": account_id, "parents": parents}).fetchall())


def id_times(connection: Connection, account_id: str, reports: Iterable[Report]) -> dict[str, datetime]:
    """When the registered ids were sent under which these reports may be known, by the id's value."""
    values = sorted({value for each in reports for value in _ids(each)})
    if not values:
        return {}
    return dict(execute(connection, _ID_TIMES, {"account": account_id, "values": values}).fetchall())


def own_time(report: Report) -> datetime | None:
    """When the report itself says that its subject was sent; a conversation-day counts from its first moment."""
    if report.sent_at is None and report.day is not None:
        return datetime.combine(report.day, time(), UTC)
    return report.sent_at


def latest_time(report: Report, of_ids: Mapping[str, datetime], asked_at: datetime | None) -> datetime | None:
    """By when its subject had been sent at the latest; None where nothing says so.

    The earliest of the time of the registered id that it answers and the moments at which the report was or can have
    been made (an id may be registered long after the sending).
    """
    registered = (of_ids.get(each) for each in _ids(report))
    is_polled = report.source is Source.POLL
    made = (report.done_at, report.provider_time, report.as_of or (asked_at if is_polled else None))
    return min(filter(None, (*registered, *made)), default=None)


def _ids(report: Report) -> Iterable[str]:
    """Values of ids under which the message may have been registered."""
    tracked = () if report.tracked is None else (report.tracked.value,)
    return dict.fromkeys(filter(None, (*tracked, report.parent_key, report.provider_key)))


def sent_since(
    connection: Connection, account_id: str, reports: Sequence[Report], asked_at: datetime | None, since: datetime
) -> Sequence[Report]:
    """The reports whose subject was not sent before `since`, as far as anybody knows.

    Each is judged separately: by its own time, else by `latest_time` and the time of its order as it is stored. The
    times of orders that come in the same batch do not count, so no result depends on how reports are grouped; and no
    order is stored that was sent before `since`, so none depends on their order either.
    """
    times = [own_time(each) or latest_time(each, {}, asked_at) for each in reports]
    unsure = [
        each for each, at in zip(reports, times, strict=True) if own_time(each) is None and (at is None or at >= since)
    ]
    of_ids: Mapping[str, datetime] = {}
    of_orders: Mapping[str, datetime] = {}
    if unsure:
        of_ids = id_times(connection, account_id, unsure)
        of_orders = order_times(connection, account_id, {each.parent_key for each in unsure if each.parent_key})

    def is_old(report: Report) -> bool:
        own = own_time(report)
        known = (
            (own,)
            if own is not None
            else (latest_time(report, of_ids, asked_at), of_orders.get(report.parent_key or ""))
        )
        return any(at is not None and at < since for at in known)

    kept = [each for each in reports if not is_old(each)]
    return reports if len(kept) == len(reports) else kept
