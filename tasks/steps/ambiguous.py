"""Pushed statements that do not name their subject: written where it can only be one, else asked for."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from ulak.models.account import StoredAccount
from ulak.models.deliveries import Key, stored_keys
from ulak.models.ledger.ending import discover
from ulak.models.report import AmbiguousReport, NewId, Report, TrackedKey
from ulak.models.tracked import read_whole
from ulak.models.vocabulary import is_final
from ulak.providers import effective


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """What became of ambiguous reports."""

    reports: tuple[Report, ...]
    """Those whose subject is sure."""
    ask: tuple[TrackedKey, ...]
    """What is to be asked for, since the subject of a statement is not sure."""


def place(connection: Connection, account_id: str, ambiguous: Sequence[AmbiguousReport]) -> Placed:
    """Resolve the subject of each report by what is stored; nothing is locked or written.

    A subject is sure where a poll has read everything under `ask`, the report's delivery is among it and its twin is
    not. A subject that was read is never unread again, so what is sure remains sure while others write.

    A poll is needed for every other subject, with one exception: where nothing of `ask` was read yet and the report is
    not final, there is no end to find. The list that names the order, or the callback of an end, leads to its poll.
    """
    if not ambiguous:
        return Placed(reports=(), ask=())
    whole = read_whole(connection, account_id, {ambiguous_report.ask for ambiguous_report in ambiguous})
    stored = stored_keys(
        connection, account_id, {key for ambiguous_report in ambiguous for key in _keys(ambiguous_report)}
    )
    reports: list[Report] = []
    ask: dict[TrackedKey, None] = {}
    for ambiguous_report in ambiguous:
        if (
            ambiguous_report.report is not None
            and ambiguous_report.ask in whole
            and [key in stored for key in _keys(ambiguous_report)] == [True, False]
        ):
            reports.append(ambiguous_report.report)
        elif (
            ambiguous_report.report is None or is_final(ambiguous_report.report.status) or ambiguous_report.ask in whole
        ):
            ask[ambiguous_report.ask] = None
    return Placed(reports=tuple(reports), ask=tuple(ask))


def _keys(ambiguous_report: AmbiguousReport) -> tuple[Key, ...]:
    """The keys of the subject and of its twin."""
    if ambiguous_report.report is None:
        return ()
    return (ambiguous_report.report.granularity, ambiguous_report.report.provider_key), (
        ambiguous_report.report.granularity,
        ambiguous_report.twin_key,
    )


def ask_now(connection: Connection, stored: StoredAccount, keys: Iterable[TrackedKey]) -> None:
    """Make these ids due now, open again where they were closed, known where they were not.

    What is in the air was asked before: it can neither close them nor put them off. After the deliveries, in the order
    of every writer's locks.
    """
    now = stored.now
    validity = effective.validity(stored)
    rows = [
        NewId(id_kind=key.id_kind, value=key.value, sent_at=now, valid_until=now + validity, next_check_at=now)
        for key in sorted(keys, key=lambda key: (key.id_kind, key.value))
    ]
    reopened: list[Mapping[str, Any]] = [{"id_kind": each.id_kind, "value": each.value} for each in rows]
    # What is in the air may have an as_of ahead of the clock, after that was set back.
    as_of = max(now, stored.last_as_of or now)
    discover(connection, stored.id, as_of, rows, reopened, announced_at=now)
