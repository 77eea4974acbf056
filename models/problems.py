"""What is wrong, followed over time: when a problem is reported, and when its end is. Pure.

A problem opens once it has lasted as long as its kind must (`HOLD_SECONDS`), and is over once it has been absent as
long. Shorter flaps are never reported. The caller keeps the episodes; a repeated evaluation changes nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Final

HOLD_SECONDS: Final = 60.0
"""How long a problem must last before it is reported, unless its kind has its own time."""
QUIET_SECONDS: Final = 60.0
"""How long it must be absent at least before it is over."""
LONGER_HOLDS: Final[Mapping[str, float]] = MappingProxyType(
    {"breaker": 600.0, "throttled": 600.0, "behind": 300.0, "not_evaluated": 180.0}
)
"""Kinds that end without anybody's help as a rule."""
NO_HOLD: Final = frozenset({"burning", "burning_slowly"})
"""Kinds whose definition contains a time already."""
LONGER_QUIETS: Final[Mapping[str, float]] = MappingProxyType(
    {"breaker": 600.0, "throttled": 600.0, "resting": 300.0, "fruitless": 300.0, "burning": 300.0}
)
"""Kinds that come and go while their cause lasts: a probe in between is no recovery."""
GAP_SECONDS: Final = 180.0
"""Where nobody evaluated for so long, a problem that has not opened yet begins anew: it may have been away."""
DATABASE_AWAY: Final = "database_away"
NOT_EVALUATED: Final = "not_evaluated"
"""The database answers, and looks at what is wrong fail or take too long."""


class State(StrEnum):
    """What a message says of one episode."""

    OPEN = "open"
    RESOLVED = "resolved"
    PASSED = "passed"
    """It began and ended before its beginning could be sent to the receiver."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong now, with its texts. They hold no number of a person and no secret."""

    key: str
    """The same as long as it is the same problem."""
    kind: str
    severity: str
    account: str | None = None
    summary: str
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """A problem from its first sight to its end."""

    problem: Problem
    name: str
    """Unique: what the ids of messages are derived from."""
    first_seen_at: datetime
    seen_at: datetime
    opened_at: datetime | None = None
    absent_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What receivers are sent about one episode."""

    state: State
    episode: Episode
    until: datetime | None = None
    """When it was first absent, where it is over."""

    def item(self) -> dict[str, Any]:
        """As a part of a message."""
        problem = self.episode.problem
        return {
            "state": self.state.value,
            "episode": self.episode.name,
            "key": problem.key,
            "kind": problem.kind,
            "severity": problem.severity,
            "account": problem.account,
            "summary": problem.summary,
            "advice": problem.advice,
            "since": self.episode.first_seen_at.isoformat(),
            "until": None if self.until is None else self.until.isoformat(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What one evaluation made of the episodes."""

    kept: Mapping[str, Episode]
    """All that go on, by key."""
    changes: Sequence[Change] = field(default_factory=tuple)


def hold_seconds(kind: str) -> float:
    """How long a problem of this kind lasts before it is reported."""
    return 0.0 if kind in NO_HOLD else LONGER_HOLDS.get(kind, HOLD_SECONDS)


def quiet_seconds(kind: str) -> float:
    """How long it is absent before it is over."""
    return LONGER_QUIETS.get(kind, QUIET_SECONDS)


def follow(known: Mapping[str, Episode], current: Iterable[Problem], now: datetime) -> Followed:
    """The episodes after a look at `now` that found these problems, and what to send to receivers."""
    kept: dict[str, Episode] = {}
    changes: list[Change] = []
    for problem in current:
        if problem.key in kept:
            continue
        episode = _seen(known.get(problem.key), problem, now)
        if episode.opened_at is None and _seconds(episode.first_seen_at, now) >= hold_seconds(problem.kind):
            episode = replace(episode, opened_at=now)
            changes.append(Change(state=State.OPEN, episode=episode))
        kept[problem.key] = episode
    for key, before in known.items():
        if key in kept or before.opened_at is None:
            continue
        absent_since = before.absent_since or now
        if _seconds(absent_since, now) >= quiet_seconds(before.problem.kind):
            changes.append(Change(state=State.RESOLVED, episode=before, until=absent_since))
        else:
            kept[key] = replace(before, absent_since=absent_since)
    return Followed(kept=kept, changes=changes)


def _seen(before: Episode | None, problem: Problem, now: datetime) -> Episode:
    """The episode with another sight of its problem."""
    if before is None or (before.opened_at is None and _seconds(before.seen_at, now) > GAP_SECONDS):
        return Episode(problem=problem, name=episode_name(problem.key, now), first_seen_at=now, seen_at=now)
    if before.opened_at is not None:
        # What was reported is kept, so that the end is reported in the same words.
        return replace(before, absent_since=None)
    return replace(before, problem=problem, seen_at=now)


def episode_name(key: str, began: datetime) -> str:
    """What names an episode that was first seen then."""
    return f"{key}@{began.isoformat()}"


def merged(items: Sequence[Mapping[str, Any]], changes: Iterable[Change]) -> list[dict[str, Any]]:
    """The items of a message that nobody has been sent yet, with further changes.

    An end whose beginning is still among them takes its place: the receiver gets one message, that it began and ended.
    """
    found = [dict(item) for item in items]
    for change in changes:
        item = change.item()
        begun = next((each for each in found if each["episode"] == item["episode"]), None)
        if begun is None:
            found.append(item)
        elif change.state is State.RESOLVED and begun["state"] == State.OPEN:
            begun.update(state=State.PASSED.value, until=item["until"])
    return found


def message_id(items: Sequence[Mapping[str, Any]]) -> str:
    """The stable id of a message: of its first item, which never changes its place.

    Every process derives the same id for the same episode.
    """
    first = items[0]
    begins = State.RESOLVED if first["state"] == State.RESOLVED else State.OPEN
    return "msg_" + sha256(f"{first['episode']}\n{begins}".encode()).hexdigest()[:32]


def _seconds(earlier: datetime, later: datetime) -> float:
    return (later - earlier).total_seconds()
