"""When people are told of a problem and of its end: pure, in virtual time."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ulak.models.notifications import MAX_PAUSE_SECONDS, pause_seconds
from ulak.models.problems import (
    GAP_SECONDS,
    HOLD_SECONDS,
    LONGER_HOLDS,
    QUIET_SECONDS,
    Change,
    Episode,
    Problem,
    State,
    follow,
    merged,
    message_id,
)

START = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
EVERY = 15.0


def problem(kind: str = "dead", account: str = "a") -> Problem:
    """One of a kind."""
    key = f"{kind}:{account}"
    return Problem(key=key, kind=kind, severity="bad", account=account, summary=key, advice="look")


class Watched:
    """Follows looks in virtual time."""

    def __init__(self) -> None:
        self.now = START
        self.known: dict[str, Episode] = {}
        self.told: list[tuple[State, str, float]] = []

    def look(self, *found: Problem, after: float = EVERY) -> list[Change]:
        """One look, so many seconds after the last one."""
        self.now += timedelta(seconds=after)
        followed = follow(self.known, found, self.now)
        self.known = dict(followed.kept)
        for change in followed.changes:
            self.told.append((change.state, change.episode.problem.key, (self.now - START).total_seconds()))
        return list(followed.changes)


def test_a_problem_is_told_once_when_it_has_lasted_and_once_when_it_is_over() -> None:
    """However often it is seen in between."""
    watched = Watched()
    for _ in range(40):
        watched.look(problem())
    for _ in range(40):
        watched.look()
    opens = EVERY + HOLD_SECONDS
    ends = 40 * EVERY + EVERY + QUIET_SECONDS
    assert watched.told == [(State.OPEN, "dead:a", opens), (State.RESOLVED, "dead:a", ends)]
    assert watched.known == {}


@pytest.mark.parametrize("kind", ["dead", "breaker", "throttled", "behind"])
def test_a_flap_that_is_shorter_than_its_kind_must_last_is_never_told(kind: str) -> None:
    """Ninety per cent of the time, over and over."""
    watched = Watched()
    for _ in range(30):
        for _ in range(int(LONGER_HOLDS.get(kind, HOLD_SECONDS) / EVERY)):
            watched.look(problem(kind))
        watched.look()
    assert watched.told == []


def test_a_recovery_that_is_too_short_is_no_end() -> None:
    """A problem that comes and goes while its cause lasts is one problem."""
    watched = Watched()
    for _ in range(20):
        for _ in range(6):
            watched.look(problem())
        watched.look(after=10)
        watched.look(after=20)
    assert [state for state, *_ in watched.told] == [State.OPEN]


def test_nothing_opens_because_of_two_looks_with_nobody_between_them() -> None:
    """Where no process ran meanwhile, the problem may have been away."""
    watched = Watched()
    watched.look(problem())
    assert watched.look(problem(), after=GAP_SECONDS + 1) == []
    assert [change.state for _ in range(5) for change in watched.look(problem())] == [State.OPEN]


@given(
    looks=st.lists(st.tuples(st.sets(st.sampled_from(["dead", "burning", "breaker"])), st.floats(1, 900)), max_size=60),
    attempts=st.lists(st.booleans(), min_size=60, max_size=60),
)
def test_whoever_reads_every_message_knows_what_is_wrong(
    looks: list[tuple[set[str], float]], attempts: list[bool]
) -> None:
    """However messages are grouped: each beginning and each end is told exactly once, under ids of their own."""
    watched = Watched()
    sent: list[list[dict[str, Any]]] = []
    unsent: list[dict[str, Any]] = []
    for (kinds, after), is_attempted in zip(looks, attempts, strict=False):
        unsent = merged(unsent, watched.look(*map(problem, sorted(kinds)), after=after))
        if is_attempted and unsent:
            sent.append(unsent)
            unsent = []
    sent += [unsent] if unsent else []
    open_now: set[str] = set()
    seen: list[tuple[str, str]] = []
    for item in (item for items in sent for item in items):
        if item["state"] == State.OPEN:
            assert item["key"] not in open_now
            open_now.add(item["key"])
        elif item["state"] == State.RESOLVED:
            open_now.remove(item["key"])
        seen += [(item["episode"], state) for state in ("open", "resolved") if item["state"] in {state, State.PASSED}]
    assert open_now == {key for key, episode in watched.known.items() if episode.opened_at is not None}
    assert len(seen) == len(set(seen)) == len(watched.told)
    ids = [message_id(items) for items in sent]
    assert len(ids) == len(set(ids))


def test_a_message_keeps_its_id_while_more_is_added_to_it() -> None:
    """Until it is attempted; and two processes that report the same episode derive the same id."""
    episode = Episode(problem=problem(), name="dead:a@1", first_seen_at=START, seen_at=START, opened_at=START)
    other = Episode(problem=problem("paused"), name="paused:a@1", first_seen_at=START, seen_at=START)
    first = merged((), [Change(state=State.OPEN, episode=episode)])
    more = merged(first, [Change(state=State.OPEN, episode=other)])
    over = merged(more, [Change(state=State.RESOLVED, episode=episode, until=START)])
    assert message_id(first) == message_id(more) == message_id(over)
    assert [item["state"] for item in over] == [State.PASSED, State.OPEN]
    end = merged((), [Change(state=State.RESOLVED, episode=episode, until=START)])
    assert message_id(end) != message_id(first)


def test_pauses_double_up_to_a_cap() -> None:
    """However often it was tried."""
    assert [pause_seconds(attempts) for attempts in (1, 2, 3, 4, 5, 6)] == [10, 20, 40, 80, 160, 300]
    assert pause_seconds(100_000) == MAX_PAUSE_SECONDS
