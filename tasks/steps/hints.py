"""Pushed statements that do not name their subject: written where it can only be one, else asked for."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from ulak.models.account import StoredAccount
from ulak.models.deliveries import Key, stored_keys
from ulak.models.ledger.finishing import discover
from ulak.models.report import Hint, NewId, Report, TrackedKey
from ulak.models.tracked import read_whole
from ulak.providers import effective


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """What became of hints."""

    reports: tuple[Report, ...]
    """Those whose subject is sure."""
    ask: tuple[TrackedKey, ...]
    """What is to be asked for, since the subject of a statement is not sure."""


def place(connection: Connection, account_id: str, hints: Sequence[Hint]) -> Placed:
    """Tell the subject of each hint by what is stored; nothing is locked or written.

    A subject is sure where a poll has read all that stands under `ask`, the report's delivery is among it and its twin
    is not. A subject that was read is never unread again, so what is sure stays sure while others write.
    """
    if not hints:
        return Placed(reports=(), ask=())
    whole = read_whole(connection, account_id, {hint.ask for hint in hints})
    stored = stored_keys(connection, account_id, {key for hint in hints for key in _keys(hint)})
    reports: list[Report] = []
    ask: dict[TrackedKey, None] = {}
    for hint in hints:
        if hint.report is not None and hint.ask in whole and [key in stored for key in _keys(hint)] == [True, False]:
            reports.append(hint.report)
        else:
            ask[hint.ask] = None
    return Placed(reports=tuple(reports), ask=tuple(ask))


def _keys(hint: Hint) -> tuple[Key, ...]:
    """The keys of the hint's subject and of its twin."""
    if hint.report is None:
        return ()
    return (hint.report.granularity, hint.report.provider_key), (hint.report.granularity, hint.twin_key)


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
