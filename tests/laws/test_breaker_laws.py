"""Laws of the breaker, driven as the workers drive it."""

from collections import deque
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import example, given
from hypothesis import strategies as st

from ulak.providers.breaker import BreakerChange, after

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CLOSED = BreakerChange(state="closed", failures=0, trips=0, until=None)


class Walk:
    """An account's breaker columns and its recent calls, as the ledger keeps them."""

    def __init__(self) -> None:
        self.row = CLOSED
        self.now = NOW
        self.recent: deque[bool] = deque(maxlen=20)

    def call(self, *, fails: bool) -> BreakerChange:
        """One call that is admitted, made and answered."""
        assert self.is_open_to_calls()
        if self.row.state == "open":
            self.row = replace(self.row, state="probing")
        self.recent.append(fails)
        change = after(
            outcome_is_soon_error=fails,
            state=self.row.state,
            consecutive_failures=self.row.failures,
            trips=self.row.trips,
            recent=list(self.recent),
            now=self.now,
            until=self.row.until,
        )
        if change is not None and change.state == "closed" and self.row.state != "closed":
            self.recent.clear()
        self.row = change or self.row
        return self.row

    def is_open_to_calls(self) -> bool:
        """Whether the limiter lets a call be made now, while none is in the air."""
        return self.row.state == "closed" or self.row.until is None or self.row.until <= self.now


@given(st.lists(st.booleans(), max_size=120))
@example([False, True] * 10)
@example([False, False, True] + [False, True] * 10)
def test_the_breaker_opens_exactly_when_its_rule_says(outcomes: list[bool]) -> None:
    """Open ⇔ the last five failed, or ten of the last twenty did and this one failed; a probe decides alone."""
    walk = Walk()
    history: list[bool] = []
    for fails in outcomes:
        if walk.row.state == "open":
            assert walk.row.until is not None
            assert not walk.is_open_to_calls()
            walk.now = walk.row.until
            trips = walk.row.trips
            row = walk.call(fails=fails)
            expected_trips = trips + 1 if fails else 0
            assert (row.state, row.trips) == ("open" if fails else "closed", expected_trips)
            history.clear()
            continue
        history.append(fails)
        row = walk.call(fails=fails)
        five = len(history) >= 5 and all(history[-5:])
        half = fails and len(history) >= 20 and sum(history[-20:]) >= 10
        assert row.state == ("open" if five or half else "closed")


def test_the_wait_doubles_up_to_ten_minutes_and_starts_anew_after_a_success() -> None:
    """30 s, 60 s, … 10 min while probes fail; after a success the next trip waits 30 s again."""
    walk = Walk()
    for _ in range(5):
        walk.call(fails=True)
    waits = []
    for _ in range(7):
        assert walk.row.until is not None
        waits.append((walk.row.until - walk.now).total_seconds())
        walk.now = walk.row.until
        walk.call(fails=True)
    assert waits == [30, 60, 120, 240, 480, 600, 600]
    assert walk.row.until is not None
    walk.now = walk.row.until
    assert walk.call(fails=False) == BreakerChange(state="closed", failures=0, trips=0, until=walk.now)
    for _ in range(5):
        walk.call(fails=True)
    assert walk.row == BreakerChange(state="open", failures=5, trips=1, until=walk.now + timedelta(seconds=30))


def test_calls_that_were_on_their_way_change_nothing_while_it_is_open() -> None:
    """A straggler neither closes an open breaker nor lengthens its wait."""
    for fails in (True, False):
        change = after(
            outcome_is_soon_error=fails, state="open", consecutive_failures=5, trips=1, recent=[fails], now=NOW
        )
        assert change is None


def test_a_success_without_trouble_writes_nothing() -> None:
    """The ordinary call costs no write to the account's breaker."""
    assert (
        after(outcome_is_soon_error=False, state="closed", consecutive_failures=0, trips=0, recent=[False], now=NOW)
        is None
    )
