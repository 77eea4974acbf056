"""Laws of the price under a limit that binds."""

from hypothesis import given
from hypothesis import strategies as st

from ulak.schedules.pricing import MAX_SHARE, MIN_SHARE, WAITING_SECONDS, calls_per_message, steered

shares = st.floats(MIN_SHARE, MAX_SHARE)
waits = st.floats(0, 1e6)
times = st.floats(0, 1e6)


@given(shares, waits, waits, times)
def test_more_waiting_work_never_plans_for_more_of_the_limit(
    share: float, one: float, other: float, seconds: float
) -> None:
    """Monotone, and within its bounds."""
    more, less = (steered(share, waiting_seconds=wait, seconds=seconds) for wait in sorted([one, other], reverse=True))
    assert MIN_SHARE <= more <= less <= MAX_SHARE


@given(shares, times)
def test_the_share_rests_where_as_much_waits_as_wanted(share: float, seconds: float) -> None:
    """It grows while nothing waits, and shrinks while more than that does."""
    assert steered(share, waiting_seconds=WAITING_SECONDS, seconds=seconds) == share
    assert steered(share, waiting_seconds=0.0, seconds=seconds) >= share
    assert steered(share, waiting_seconds=2 * WAITING_SECONDS, seconds=seconds) <= share


@given(st.floats(0.01, 100), st.floats(0, 100), shares)
def test_a_message_is_always_worth_a_call(calls: float, messages: float, share: float) -> None:
    """However many are sent: one call each is the least that resolves them."""
    assert calls_per_message(calls_per_second=calls, messages_per_second=messages, share=share) >= 1.0
