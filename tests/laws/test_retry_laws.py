"""Laws of the retry decision, and each branch of the error tree."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ulak.providers.errors import (
    AnswerNotUnderstood,
    OurBug,
    PauseAccount,
    ProviderError,
    RequestIsWrong,
    SlowDown,
    TryAgainAt,
    TryAgainSoon,
)
from ulak.providers.retry import MAX_RETRY_AFTER_SECONDS, Decision, GiveUp, Pause, RetryAt, RetryPolicy, decide

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
COUNTED = [TryAgainSoon("The provider did not answer."), AnswerNotUnderstood("No JSON."), OurBug("KeyError")]

rolls = st.floats(0, 1, exclude_max=True)
policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 30),
    base_seconds=st.floats(0.001, 60),
    cap_seconds=st.floats(60, 3600),
)


def _seconds(moment: datetime) -> float:
    return (moment - NOW).total_seconds()


@given(policies, st.sampled_from(COUNTED), st.integers(0, 5000), rolls)
def test_a_back_off_never_leaves_its_bounds(
    policy: RetryPolicy, error: ProviderError, attempts: int, roll: float
) -> None:
    """Every counted wait lies between nothing and the smaller of the cap and base · 2^attempts."""
    decision = decide(policy, error, attempts=attempts, now=NOW, roll=roll, throttles=0)
    if isinstance(decision, RetryAt):
        assert decision.counted
        bound = min(policy.cap_seconds, policy.base_seconds * 2**attempts)
        assert 0 <= _seconds(decision.at) <= bound + 1e-6
    else:
        assert attempts + 1 >= policy.max_attempts


@given(policies, st.lists(st.sampled_from(COUNTED), min_size=40, max_size=40), rolls)
def test_no_fetch_is_tried_more_often_than_allowed(
    policy: RetryPolicy, errors: list[ProviderError], roll: float
) -> None:
    """A fetch that always fails is tried exactly `max_attempts` times."""
    tries = 0
    for error in errors:
        tries += 1
        if isinstance(decide(policy, error, attempts=tries - 1, now=NOW, roll=roll, throttles=0), GiveUp):
            break
    assert tries == policy.max_attempts


@given(policies, st.one_of(st.none(), st.floats()), st.integers(0, 5000), st.integers(0, 5000), rolls)
def test_throttling_never_gives_up_and_always_slows_down(
    policy: RetryPolicy, asked: float | None, attempts: int, throttles: int, roll: float
) -> None:
    """However often the account is throttled, the fetch is kept, uncounted, and the whole account waits."""
    error = SlowDown("Too many requests.", retry_after_seconds=asked)
    decision = decide(policy, error, attempts=attempts, now=NOW, roll=roll, throttles=throttles)
    assert isinstance(decision, RetryAt)
    assert (decision.counted, decision.not_before) == (False, decision.at)
    longest = MAX_RETRY_AFTER_SECONDS if asked is not None and asked > 0 else policy.cap_seconds
    # A moment is kept to the microsecond, rounded.
    assert 0 <= _seconds(decision.at) <= longest + 1e-6
    if asked is None:
        assert _seconds(decision.at) >= min(policy.cap_seconds, policy.base_seconds) / 2 - 1e-6


POLICY = RetryPolicy()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (SlowDown("429", retry_after_seconds=7), RetryAt(at=NOW + timedelta(seconds=7), counted=False)),
        (SlowDown("429"), RetryAt(at=NOW + timedelta(seconds=6), counted=False)),
        (TryAgainAt("Later.", at=NOW + timedelta(hours=3)), RetryAt(at=NOW + timedelta(hours=3), counted=False)),
        (TryAgainAt("Past.", at=NOW - timedelta(hours=3)), RetryAt(at=NOW + timedelta(seconds=1), counted=False)),
        (TryAgainAt("In.", after_seconds=90), RetryAt(at=NOW + timedelta(seconds=90), counted=False)),
        (TryAgainAt("In.", after_seconds=1e30), RetryAt(at=NOW + timedelta(days=366), counted=False)),
        (TryAgainAt("Ago.", after_seconds=-1e30), RetryAt(at=NOW + timedelta(seconds=1), counted=False)),
        (TryAgainAt("Some time."), RetryAt(at=NOW + timedelta(seconds=300), counted=False)),
        (
            PauseAccount("The key is refused.", code="401"),
            Pause(until=NOW + timedelta(minutes=1), reason="The key is refused. [401]"),
        ),
        (RequestIsWrong("Bad range.", code="458"), GiveUp(reason="Bad range. [458]")),
        (TryAgainSoon("Timed out."), RetryAt(at=NOW + timedelta(seconds=0.5), counted=True)),
        (OurBug("KeyError"), RetryAt(at=NOW + timedelta(seconds=0.5), counted=True)),
    ],
)
def test_each_error_is_met_as_its_name_says(error: ProviderError, expected: Decision) -> None:
    """One row per branch of the tree: first try of the fetch, third throttle in a row, roll one half."""
    if isinstance(error, SlowDown) and isinstance(expected, RetryAt):
        expected = RetryAt(at=expected.at, counted=False, not_before=expected.at)
    assert decide(POLICY, error, attempts=0, now=NOW, roll=0.5, throttles=3) == expected


def test_the_last_try_says_how_often_it_was_tried() -> None:
    """A dead fetch tells a person that it was not given up lightly."""
    decision = decide(POLICY, TryAgainSoon("Timed out."), attempts=7, now=NOW, roll=0.5, throttles=0)
    assert decision == GiveUp(reason="Timed out. (tried 8 times)")


@given(policies, st.integers(0, 5000), rolls)
def test_a_refused_account_is_probed_ever_more_rarely(policy: RetryPolicy, refusals: int, roll: float) -> None:
    """After one minute first, doubled with each refusal in a row, never more than half an hour apart."""
    waits = [
        decide(policy, PauseAccount("No."), attempts=0, now=NOW, roll=roll, throttles=0, refusals=many)
        for many in (refusals, refusals + 1)
    ]
    first, second = (_seconds(wait.until) for wait in waits if isinstance(wait, Pause))
    assert (first, second) == (min(60 * 2**refusals, 1800), min(2 * first, 1800))
