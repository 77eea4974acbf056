"""The shared table, recomputed from its history, and the history's facts derived again from its raw items."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Connection, func, select, text

from ulak.models.deliveries import (
    delete_deliveries,
    find_differing,
    load_histories,
    load_whole_histories,
    lock_deliveries,
    refold,
    rewrite_histories,
)
from ulak.models.history import holds
from ulak.models.merge import Observation, observe
from ulak.models.report import KeptStatement, Report
from ulak.models.statistics_upkeep import recount, retract_deleted
from ulak.models.suppression import Listed, Suppressions, report_of
from ulak.models.tables import delivery_status
from ulak.models.vocabulary import Granularity, Source

CHUNK = 1000

Restate = Callable[[KeptStatement], Report | None]
"""The report that an adapter makes of a kept statement; None where it makes none, and the stored facts stay."""
RestateOf = Callable[[str], Restate]
"""`Restate` of an account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildResult:
    """What a rebuild found."""

    deliveries: int
    """Rows recomputed."""
    differed: int
    """Rows that were not what their history says, and were written."""
    doubtful: int = 0
    """Rows that are not what their only statement said, and whose raw item does not prove what that was: left alone."""
    miscounted: int = 0
    """Counts of the statistics that were not those of the rows, and were corrected."""


def rebuild(
    connection: Connection,
    account_id: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    restate_of: RestateOf | None = None,
) -> RebuildResult:
    """Recompute every row (of one account, or of all) from its observations; afterwards the table is what they say.

    Where the row itself holds the facts of its only statement, their hash shows whether it still is what was reported.
    If not, the facts are derived from the raw item by `restate_of`, and written if they have that hash. Of a final row
    `message_time` is recomputed only where it is missing: it is fixed then (`ulak.models.sending_time`).

    Streams in chunks of 1000 rows, so memory does not grow with the table. Locks and writes only rows that differ, and
    may run beside the workers. `on_progress` gets (rows done, rows in all). The caller commits.
    """
    mine = delivery_status.c.account_id == account_id if account_id is not None else delivery_status.c.id > 0
    total = connection.execute(select(func.count()).select_from(delivery_status).where(mine)).scalar_one()
    done = differed = doubtful = 0
    wrote_orders = False
    for deliveries in _chunks(connection, mine):
        written, unproven = _rebuild_chunk(connection, deliveries, restate_of)
        differed, doubtful = differed + len(written), doubtful + unproven
        wrote_orders = wrote_orders or any(deliveries[place] is Granularity.ORDER for place in written)
        done += len(deliveries)
        if on_progress is not None:
            on_progress(done, max(total, done))
    if wrote_orders:
        # Messages before their order took their time from it as it was.
        differed += sum(len(_rebuild_chunk(connection, again, restate_of)[0]) for again in _chunks(connection, mine))
    accounts = None if account_id is None else [account_id]
    return RebuildResult(
        deliveries=done, differed=differed, doubtful=doubtful, miscounted=recount(connection, accounts)
    )


def _chunks(connection: Connection, mine: ColumnElement[bool]) -> Iterator[dict[int, Granularity]]:
    last = 0
    while True:
        page = select(delivery_status.c.id, delivery_status.c.granularity).where(mine, delivery_status.c.id > last)
        found = connection.execute(page.order_by(delivery_status.c.id).limit(CHUNK)).all()
        if not found:
            return
        yield {place: Granularity(granularity) for place, granularity in found}
        last = found[-1].id


def _rebuild_chunk(
    connection: Connection, deliveries: dict[int, Granularity], restate_of: RestateOf | None
) -> tuple[set[int], int]:
    """The rows that were written, and how many are doubtful."""
    histories, from_rows = load_whole_histories(connection, list(deliveries))
    changed = {place for place in from_rows if not all(map(holds, histories[place].values()))}
    said = {place: (deliveries[place], history.values()) for place, history in histories.items()}
    differing = find_differing(connection, said) - changed
    if changed:
        # All at once: two locks one after the other would not be in the writers' order.
        lock_deliveries(connection, sorted(differing | changed))
    # What differed without a lock may have been a neighbour's commit in between: the fold under the lock decides.
    written = refold(connection, {place: deliveries[place] for place in differing})
    restored, doubtful = _restore_changed(connection, sorted(changed), restate_of)
    return written | restored, doubtful


def _restore_changed(connection: Connection, ids: Sequence[int], restate_of: RestateOf | None) -> tuple[set[int], int]:
    """Give rows that were changed by hand what their only statement says, where its raw item proves what it was."""
    histories, from_rows = load_whole_histories(connection, ids, with_statements=True)
    proven: dict[int, tuple[Granularity, Sequence[Observation]]] = {}
    doubtful = 0
    for row in _subjects(connection, sorted(from_rows)):
        [seen] = histories[row.id].values()
        given = None if restate_of is None else _proven(row, seen, restate_of(row.account_id))
        if given is None:
            doubtful += 1
        else:
            proven[row.id] = (Granularity(row.granularity), [given])
    return rewrite_histories(connection, proven), doubtful


class _Subject(NamedTuple):
    """What names a delivery."""

    id: int
    account_id: str
    granularity: str
    provider_key: str
    parent_key: str | None
    recipient: str | None


def _proven(row: _Subject, seen: Observation, restate: Restate) -> Observation | None:
    """The observation with the facts that have its hash, derived from its raw item; None where there are none such.

    What came from the tracked id may be what was changed, so each such fact is tried with the row's value and without.
    """
    for dropped in ((), *((name,) for name in _FROM_OTHER_ROWS), _FROM_OTHER_ROWS):
        facts = msgspec.structs.replace(seen.facts, **dict.fromkeys(dropped))
        today = _restated(row, msgspec.structs.replace(seen, facts=facts), restate)
        if today.content_hash == seen.content_hash and holds(today):
            return today
    return None


def _subjects(connection: Connection, ids: Sequence[int]) -> Sequence[_Subject]:
    query = select(*(delivery_status.c[name] for name in _Subject._fields)).where(delivery_status.c.id.in_(ids))
    return [_Subject(*row) for row in connection.execute(query)]


# ------------------------------------------------------------------------------------------------------- facts again

_FROM_OTHER_ROWS = ("client_ref", "recipient")
"""Facts that a report may have from its tracked id: kept where the statement itself does not name them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RereadChunk:
    """What one chunk of deliveries came to."""

    last_id: int | None
    """Go on after this one; None: there are no further deliveries."""
    deliveries: int = 0
    differed: int = 0
    """Deliveries whose history held other facts than its statements give today."""
    written: int = 0
    """Rows that changed by it."""


def reread_chunk(
    connection: Connection, account_id: str, restate: Restate, suppressions: Suppressions, *, after_id: int = 0
) -> RereadChunk:
    """Derive the facts of up to 1000 deliveries again from their raw statements, and write those that differ.

    Keys, times of observation and our own statements stay. Only deliveries that differ are locked, and they are derived
    again under the lock, so workers may write beside it. What turns out to name somebody who was erased after it was
    sent is removed. The caller commits each chunk.
    """
    listed = suppressions.held(connection)
    page = select(delivery_status.c.id).where(
        delivery_status.c.account_id == account_id, delivery_status.c.id > after_id
    )
    ids = list(connection.execute(page.order_by(delivery_status.c.id).limit(CHUNK)).scalars())
    if not ids:
        return RereadChunk(last_id=None)
    differing = sorted(place for place, (_, is_other) in _derived(connection, ids, restate).items() if is_other)
    written: set[int] = set()
    if differing:
        held = lock_deliveries(connection, differing)
        derived = {place: found for place, (found, _) in _derived(connection, held, restate).items()}
        allowed = _allowed(connection, account_id, derived, listed)
        delete_deliveries(connection, [place for place, (_, stays) in allowed.items() if not stays])
        written = rewrite_histories(connection, {place: found for place, found in allowed.items() if found[1]})
    return RereadChunk(last_id=ids[-1], deliveries=len(ids), differed=len(differing), written=len(written))


def _allowed(
    connection: Connection,
    account_id: str,
    derived: Mapping[int, tuple[Granularity, Sequence[Observation]]],
    listed: Listed,
) -> Mapping[int, tuple[Granularity, Sequence[Observation]]]:
    """The observations without those about erased people that were sent before their erasure."""
    if not listed.erased:
        return derived
    keys = {row.id: row.provider_key for row in _subjects(connection, list(derived))}
    places = [(place, seen) for place, (_, found) in derived.items() for seen in found]
    reports = [report_of(derived[place][0], keys[place], seen) for place, seen in places]
    refused = listed.refused(connection, account_id, reports, None)
    stays: dict[int, list[Observation]] = {place: [] for place in derived}
    for number, (place, seen) in enumerate(places):
        if number not in refused:
            stays[place].append(seen)
    return {place: (granularity, stays[place]) for place, (granularity, _) in derived.items()}


_Derived = tuple[tuple[Granularity, Sequence[Observation]], bool]


def _derived(connection: Connection, ids: Sequence[int], restate: Restate) -> dict[int, _Derived]:
    """By delivery: its observations with today's facts, and whether any of them differs from what is stored."""
    histories = load_histories(connection, ids, with_statements=True)
    derived: dict[int, _Derived] = {}
    for row in _subjects(connection, ids):
        stored = list(histories.get(row.id, {}).values())
        if stored:
            today = [_restated(row, seen, restate) for seen in stored]
            derived[row.id] = (Granularity(row.granularity), today), today != stored
    return derived


def _restated(row: _Subject, seen: Observation, restate: Restate) -> Observation:
    """The observation with the facts that its statement gives today."""
    if seen.source is Source.OURS or not seen.statement:
        return seen
    granularity = Granularity(row.granularity)
    kept = KeptStatement(
        granularity=granularity,
        provider_key=row.provider_key,
        parent_key=row.parent_key,
        recipient=row.recipient,
        source=seen.source,
        as_of=seen.as_of,
        statement=seen.statement,
    )
    report = restate(kept)
    if report is None:
        return seen
    from_ids = {
        name: getattr(seen.facts, name)
        for name in _FROM_OTHER_ROWS
        if getattr(report, name) is None and getattr(seen.facts, name) is not None
    }
    full = msgspec.structs.replace(
        report.in_full(), granularity=granularity, provider_key=row.provider_key, source=seen.source, **from_ids
    )
    today = observe(full, asked_at=seen.as_of)
    return msgspec.structs.replace(
        seen,
        facts=today.facts,
        encoded=None,
        content_hash=today.content_hash,
        # A time that could not be read when the statement was stored may be readable now.
        as_of=seen.as_of if today.as_of is None else today.as_of,
        provider_time=seen.provider_time if today.provider_time is None else today.provider_time,
    )


# ------------------------------------------------------------------------------------------------------- phantoms

_SURPLUS = text("""
    SELECT o.provider_key FROM delivery_status o
    WHERE o.account_id = :account_id AND o.granularity = 'order' AND o.total < (
        SELECT count(*) FROM delivery_status m
        WHERE m.account_id = o.account_id AND m.parent_key = o.provider_key AND m.granularity = 'message')
    ORDER BY o.id
""")
_MESSAGES = text("""
    SELECT id, provider_key FROM delivery_status
    WHERE account_id = :account_id AND parent_key = :order AND granularity = 'message' ORDER BY id FOR UPDATE
""")
_TOTAL = text("""
    SELECT total FROM delivery_status
    WHERE account_id = :account_id AND granularity = 'order' AND provider_key = :order
""")


def surplus_orders(connection: Connection, account_id: str) -> list[str]:
    """Keys of the orders that have more messages stored than recipients."""
    return list(connection.execute(_SURPLUS, {"account_id": account_id}).scalars())


def remove_repetitions(
    connection: Connection, account_id: str, order: str, is_repetition: Callable[[str], bool]
) -> int:
    """Remove the repeated messages of an order that has more of them than recipients; returns how many.

    Which of them a wrong response invented cannot be told, so all go, and the feed of changes reports them as removed.
    The caller makes the order due in the same transaction: its next responses bring back those that exist.
    """
    names = {"account_id": account_id, "order": order}
    messages = connection.execute(_MESSAGES, names).all()
    total = connection.execute(_TOTAL, names).scalar_one_or_none()
    if total is None or len(messages) <= total:
        return 0
    retract_deleted(connection, retracts=True)
    removed = delete_deliveries(connection, [row.id for row in messages if is_repetition(row.provider_key)])
    retract_deleted(connection, retracts=False)
    return removed
