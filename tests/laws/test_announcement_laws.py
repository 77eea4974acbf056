"""Laws of what callbacks leave to polls: the share is found, and callbacks that stop or begin are noticed at once."""

from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from ulak.providers.adapter import PollSchedule
from ulak.schedules.announcements import MIN_MISSED_SHARE, Announced, counted, stretch
from ulak.schedules.policy import _waits

NUMBERS = PollSchedule(steps_seconds=(10.0, 30.0, 60.0))


def _after(known: Announced, many: int, reliability: float, rng: Random) -> Announced:
    """What is known after so many final states, looked at in small lots."""
    while many:
        lot = min(many, rng.randint(1, 10))
        announced = sum(rng.random() < reliability for _ in range(lot))
        known = counted(known, announced=announced, missed=lot - announced)
        many -= lot
    return known


@settings(deadline=None, max_examples=40)
@given(st.floats(0.3, 1.0), st.integers(0, 10**6))
def test_the_share_that_callbacks_miss_is_found(reliability: float, seed: int) -> None:
    """Within a few per cent after 1,500 final states, and never below the least."""
    share = _after(Announced(), 1500, reliability, Random(seed)).missed_share
    assert share >= MIN_MISSED_SHARE
    assert abs(share - (1 - reliability)) < 0.1


def test_no_callback_ever_leaves_everything_to_polls() -> None:
    """However long nothing comes."""
    assert Announced().missed_share == 1.0
    assert _after(Announced(), 3000, 0.0, Random(1)).missed_share == 1.0


def test_callbacks_that_stop_are_noticed_by_a_handful_of_misses() -> None:
    """From then on polls cover everything again."""
    for seed in range(50):
        rng = Random(seed)
        known = _after(Announced(), 600, 0.95, rng)
        assert known.missed_share < 0.2
        late = 0
        while known.missed_share < 0.9:
            known, late = counted(known, announced=0, missed=1), late + 1
        assert late <= 12, seed


def test_callbacks_that_come_back_are_noticed_by_a_handful_too() -> None:
    """The outage is forgotten, or it would cost polls for as long as it has lasted."""
    for seed in range(50):
        rng = Random(seed)
        known = _after(_after(Announced(), 600, 0.95, rng), 2000, 0.0, rng)
        assert _after(known, 100, 0.95, rng).missed_share < 0.2, seed


def test_steady_callbacks_are_hardly_ever_taken_for_another_kind() -> None:
    """A false alarm costs some polls; over 50 runs of 3,000 final states there are few."""
    runs = [_after(_after(Announced(), 300, 0.95, Random(seed)), 3000, 0.95, Random(seed + 99)) for seed in range(50)]
    assert sum(known.shifts for known in runs) < 100


@given(st.floats(0, 1), st.floats(0, 1), st.floats(1, 4000), st.floats(0.5, 4000))
def test_waits_grow_with_the_reliability_and_configured_ones_never(
    one: float, other: float, first: float, longest: float
) -> None:
    """Fewer misses never shorten a wait, lists neither; what is configured holds exactly."""
    low, high = sorted([one, other])
    assert 1.0 <= stretch(high) <= stretch(low) <= 1.0 / MIN_MISSED_SHARE**0.5
    assert stretch(low) <= stretch(low, is_counted_by_lists=True) <= 1.0 / MIN_MISSED_SHARE
    assert stretch(high, is_counted_by_lists=True) <= stretch(low, is_counted_by_lists=True)
    for missed, less in pairwise([1.0, high, low]):
        usual, long = (_waits(NUMBERS, None, None, stretch(share)) for share in (missed, less))
        assert all(wait <= later * (1 + 1e-9) for wait, later, _ in zip(usual, long, range(30), strict=False))
    bound = _waits(NUMBERS, first, longest, stretch(low))
    waits = [wait for wait, _ in zip(bound, range(30), strict=False)]
    assert waits[0] == min(first, longest)
    assert max(waits) <= longest
