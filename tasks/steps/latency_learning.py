"""Learning how long an account's messages take, and making its poll plan of that: a step of upkeep.

It reads what checks have left in `tracked_ids`; no call pays for it. Each account has a transaction of its own, which
takes the account's row last and for one statement.
"""

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from ulak.models import callback_shares, latencies
from ulak.models.account import StoredAccount, find
from ulak.models.database import transaction
from ulak.providers.effective import options, record_of, validity
from ulak.schedules.announcements import counted as count_announced
from ulak.schedules.announcements import has_moved
from ulak.schedules.latency import END, PER_DECADE, Latency
from ulak.schedules.learning import counted, learn
from ulak.schedules.plans import announced_of, missed_of, read, written, written_announced, written_times
from ulak.schedules.poll_times import MAX_PRICE, PRICE_SECONDS, Bounds, poll_times, price_for_calls
from ulak.schedules.pricing import calls_per_message, steered
from ulak.tasks.effects import Effects
from ulak.tasks.isolation import isolated
from ulak.tasks.runtime import Runtime

MIN_NEW = 10.0
NEW_SHARE = 0.01
"""A kind is fitted again once this part of what is known is new, and at least `MIN_NEW` ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What is known of one kind of an account's ids after a look."""

    name: str
    latency: Latency | None
    """None where the fixed schedule holds."""
    per_second: float
    """Messages sent."""
    shifts: int
    messages: float
    missed: float
    """The part of the final states that no callback announces."""


def learn_all(runtime: Runtime) -> Effects:
    """Look at every adaptive account that closed ids since the last look."""
    effects = Effects()
    with transaction(runtime.engine) as connection:
        accounts = latencies.candidates(connection)
    for account_id in accounts:
        with isolated("poll.learning_failed", account=account_id), transaction(runtime.engine) as connection:
            _learn_account(connection, effects, account_id)
    return effects


def _learn_account(connection: Connection, effects: Effects, account_id: str) -> None:
    """One account's new plan, unless another process makes it now."""
    stored = find(connection, account_id)
    if stored is None or not latencies.lock(connection, account_id):
        return
    record, factor = record_of(stored), stored.time_factor
    scale = latencies.Scale(per_decade=PER_DECADE, longest=END - 1, factor=factor, kinds=sorted(record.message_kinds))
    kinds = [
        kind
        for known in latencies.known(connection, account_id, stored.now)
        if (kind := _learn_kind(connection, stored, known, scale)) is not None
    ]
    if not kinds:
        return
    plan = _plan(connection, stored, kinds, factor)
    for kind in kinds:
        before = stored.poll_plan.get("kinds", {}).get(kind.name)
        if (kind.name in plan["kinds"]) is not (before is not None):
            effects.info(
                "poll.adapts" if before is None else "poll.forgets",
                account=account_id,
                kind=kind.name,
                messages=round(kind.messages),
                shifts=kind.shifts,
            )
    latencies.plan(connection, account_id, plan)


def _learn_kind(
    connection: Connection, stored: StoredAccount, known: latencies.Known, scale: latencies.Scale
) -> Kind | None:
    """What is known of a kind with what was closed since; None where too much of it is known already for a look.

    Either way it is counted, so that the next look reads only what is closed from now on.
    """
    name, until = known.id_kind, stored.now - timedelta(seconds=latencies.SETTLES_SECONDS)
    if until <= known.read_through:
        # A new kind, or a clock that was set back: nothing is counted twice.
        return None
    learned = read(known.learned, known.read_through)
    window = (known.read_through, until)
    by_parts = name in record_of(stored).settled_by_parts
    brought = callback_shares.shares(connection, stored.id, name, by_parts=by_parts, window=window, factor=scale.factor)
    callbacks = count_announced(announced_of(known.learned), announced=brought.announced, missed=brought.missed)
    is_told = has_moved(missed_of(latencies.in_force(stored), name), callbacks.missed_share)
    found = latencies.closed(connection, stored.id, name, scale, groups=learned.groups, window=window)
    closed: dict[int, dict[tuple[int, int], float]] = {}
    for each in found:
        last = END if each.last < 0 else max(each.first + 1, each.last)
        cells = closed.setdefault(each.group, {})
        cells[each.first, last] = cells.get((each.first, last), 0.0) + each.many
    new = sum(each.many for each in found if each.group > 0)
    if not is_told and learned.new + new < max(MIN_NEW, NEW_SHARE * learned.messages):
        is_more = new or brought.announced or brought.missed or not known.learned
        more = written(counted(learned, closed)) | written_announced(callbacks) if is_more else None
        latencies.store(connection, stored.id, name, more, until=until)
        return None
    still_open: dict[int, dict[int, float]] = {}
    for group, first, many in latencies.still_open(
        connection, stored.id, name, scale, groups=learned.groups, until=until
    ):
        still_open.setdefault(group, {})[first] = float(many)
    learned, latency = learn(learned, closed, still_open, until)
    latencies.store(connection, stored.id, name, written(learned) | written_announced(callbacks), until=until)
    return Kind(
        name=name,
        latency=latency,
        per_second=learned.per_second,
        shifts=learned.shifts,
        messages=learned.messages,
        missed=callbacks.missed_share,
    )


def _plan(connection: Connection, stored: StoredAccount, kinds: list[Kind], factor: float) -> dict[str, Any]:
    """The account's plan: what it had, with the schedules of these kinds made anew at the price that the limit asks."""
    old: dict[str, Any] = dict(stored.poll_plan)
    batch = options(stored).ids_per_call
    per_second = stored.calls_per_second
    due, ready = latencies.waiting(connection, stored.id)
    seconds = (stored.now.timestamp() - old["at"]) if "at" in old else 0.0
    share = steered(
        float(old.get("share", 1.0)),
        waiting_seconds=(ready + math.ceil(due / batch)) / per_second / factor,
        seconds=max(0.0, seconds) / factor,
    )
    # A call answers for a whole batch: its price is shared by those who fill it.
    sent = sum(kind.per_second for kind in kinds)
    calls = calls_per_message(calls_per_second=per_second * batch, messages_per_second=sent, share=share)
    bounds = bounds_of(stored)
    schedules, price = dict(latencies.in_force(stored).get("kinds", {})), PRICE_SECONDS / batch
    missed = dict(latencies.in_force(stored).get("missed", {})) | {kind.name: kind.missed for kind in kinds}
    most = MAX_PRICE / batch
    for kind in kinds:
        schedules.pop(kind.name, None)
        if kind.latency is not None:
            wanted = price_for_calls(
                kind.latency, calls, bounds, missed=kind.missed, least=PRICE_SECONDS / batch, most=most
            )
            price = max(price, wanted)
    for kind in kinds:
        if kind.latency is not None:
            times = poll_times(kind.latency, price, bounds, missed=kind.missed)
            schedules[kind.name] = written_times(times) | {"messages": round(kind.messages)}
            if batch > 1:
                schedules[kind.name]["masses"] = [round(mass, 7) for mass in kind.latency.masses]
    return {
        "kinds": schedules,
        "missed": {name: round(share, 4) for name, share in missed.items() if share < 1.0},
        "share": round(share, 4),
        "price": round(price * batch, 2),
        "at": stored.now.timestamp(),
        "of_one": sorted(record_of(stored).message_kinds),
        "settings": latencies.settings(stored),
    }


def bounds_of(stored: StoredAccount) -> Bounds:
    """What every schedule of the account keeps: its validity, and the waits that are configured."""
    first, longest = stored.first_check_seconds, stored.max_check_seconds
    return Bounds(
        validity=validity(stored).total_seconds() / stored.time_factor,
        # As in the fixed schedule, the longest wait holds for the first check too.
        first=first if first is None or longest is None else min(first, longest),
        longest=longest,
    )
