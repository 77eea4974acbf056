"""An account's poll plan as it is stored: schedules by kind of id, and what was learned; pure data."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from ulak.schedules.announcements import Announced
from ulak.schedules.latency import Latency
from ulak.schedules.learning import Learned
from ulak.schedules.poll_times import PollTimes


def times_of(plan: Mapping[str, Any], kind: str) -> PollTimes | None:
    """The learned schedule of ids of this kind; None where the fixed one holds."""
    stored = (plan.get("kinds") or {}).get(kind)
    if stored is None:
        return None
    return PollTimes(ages=tuple(stored["ages"]), every=stored["every"], until=stored["until"])


def latency_of(plan: Mapping[str, Any], kind: str) -> Latency | None:
    """The distribution behind the schedule, where calls are batches."""
    masses = ((plan.get("kinds") or {}).get(kind) or {}).get("masses")
    return None if masses is None else Latency(tuple(masses))


def missed_of(plan: Mapping[str, Any], kind: str) -> float:
    """The part of the final states of these ids that no callback announces: 1 where nothing is known of any."""
    return float((plan.get("missed") or {}).get(kind, 1.0))


def announced_of(stored: Mapping[str, Any]) -> Announced:
    """What is remembered of callbacks, beside what `read` gives."""
    return Announced(**stored["callbacks"]) if stored.get("callbacks") else Announced()


def written_announced(announced: Announced) -> dict[str, Any]:
    """To be stored beside `written`; nothing where no callback ever came."""
    if not announced.announced and not announced.shifts:
        return {}
    return {"callbacks": {name: round(getattr(announced, name), 4) for name in Announced.__slots__}}


def written_times(times: PollTimes) -> dict[str, Any]:
    """As JSON."""
    return {"ages": [round(age, 3) for age in times.ages], "every": times.every, "until": times.until}


def written(learned: Learned) -> dict[str, Any]:
    """What was learned, as JSON: a few dozen to a few hundred small numbers."""
    return {
        "since": learned.since.isoformat(),
        "fresh_since": learned.fresh_since.isoformat(),
        "halved": [each.isoformat() for each in learned.halved],
        "base": _cells_written(learned.base.items()),
        "fresh": _cells_written(learned.fresh.items()),
        "shelved": _cells_written(learned.shelved.items()),
        "shifts": learned.shifts,
        "new": learned.new,
        "per_second": learned.per_second,
        "sent": learned.sent,
        "over": learned.over,
    }


def read(stored: Mapping[str, Any], now: datetime) -> Learned:
    """What `written` has stored; learning begins `now` where nothing was."""
    if not stored:
        return Learned(since=now, fresh_since=now)
    return Learned(
        since=datetime.fromisoformat(stored["since"]),
        fresh_since=datetime.fromisoformat(stored["fresh_since"]),
        halved=tuple(map(datetime.fromisoformat, stored["halved"])),
        base=_cells_read(stored["base"]),
        fresh=_cells_read(stored["fresh"]),
        # A worker of an earlier version keeps none.
        shelved=_cells_read(stored.get("shelved", ())),
        shifts=stored["shifts"],
        new=stored["new"],
        per_second=stored["per_second"],
        sent=stored["sent"],
        over=stored["over"],
    )


def _cells_written(cells: Iterable[tuple[tuple[int, int], float]]) -> list[list[float]]:
    return [[left, right, round(weight, 4)] for (left, right), weight in sorted(cells)]


def _cells_read(stored: Iterable[tuple[int, int, float]]) -> dict[tuple[int, int], float]:
    return {(int(left), int(right)): float(weight) for left, right, weight in stored}
