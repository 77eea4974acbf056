"""Laws of the poll policy: whatever the numbers, the age and the validity."""

from datetime import UTC, datetime, timedelta

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from ulak.providers.adapter import PollSchedule
from ulak.schedules.policy import AFTER_VALIDITY_SECONDS, check_again, first_check, next_check
from ulak.schedules.poll_times import PollTimes

SENT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
VAIRO = PollSchedule(
    steps_seconds=(5, 20, 60), growth=1.6, max_seconds=1800, after_validity_seconds=86400, forget_days=30
)

waits = st.one_of(st.sampled_from([5.0, 60.0]), st.floats(0.01, 4000))
numbers_of_any_provider = st.builds(
    PollSchedule,
    steps_seconds=st.lists(waits, min_size=1, max_size=5).map(tuple),
    growth=st.floats(1.0, 4.0),
    max_seconds=st.floats(1, 8000),
    after_validity_seconds=st.floats(10, 200_000),
    forget_days=st.one_of(st.just(0.0), st.floats(0.1, 60)),
)
factors = st.sampled_from([1.0, 0.5, 0.01, 0.001, 2.0])
ages = st.one_of(st.floats(-100, 100), st.floats(0, 200_000), st.floats(0, 90 * 86400)).map(
    lambda seconds: timedelta(seconds=seconds)
)
validities = st.floats(0, 200_000).map(lambda seconds: timedelta(seconds=seconds))


def _just_after(factor: float) -> timedelta:
    return max(timedelta(seconds=AFTER_VALIDITY_SECONDS * factor), timedelta(microseconds=1))


@given(numbers_of_any_provider, ages, validities, factors)
def test_the_next_check_lies_strictly_ahead(
    numbers: PollSchedule, age: timedelta, validity: timedelta, factor: float
) -> None:
    """No policy may name the present or the past, or a worker would spin."""
    now = SENT + age
    moment = next_check(numbers, sent_at=SENT, valid_until=SENT + validity, now=now, time_factor=factor)
    assert moment is None or moment > now


@given(numbers_of_any_provider, ages, ages, validities, factors)
def test_an_older_id_is_never_asked_earlier(
    numbers: PollSchedule, one: timedelta, other: timedelta, validity: timedelta, factor: float
) -> None:
    """The next check is monotone in age; None (forgotten) is the latest of all."""
    moments = [
        next_check(numbers, sent_at=SENT, valid_until=SENT + validity, now=SENT + age, time_factor=factor)
        for age in sorted([one, other])
    ]
    earlier, later = (moment or datetime.max.replace(tzinfo=UTC) for moment in moments)
    assert earlier <= later


@given(numbers_of_any_provider, ages, validities, factors)
def test_the_next_check_is_a_fixed_moment_of_the_id(
    numbers: PollSchedule, age: timedelta, validity: timedelta, factor: float
) -> None:
    """Asked again a moment before the check is due, the policy names the same check: there is no counter."""
    now, until = SENT + age, SENT + validity
    moment = next_check(numbers, sent_at=SENT, valid_until=until, now=now, time_factor=factor)
    assume(moment is not None)
    assert moment is not None
    just_before = moment - timedelta(microseconds=1)
    assert next_check(numbers, sent_at=SENT, valid_until=until, now=just_before, time_factor=factor) == moment


@given(numbers_of_any_provider, ages, validities, factors, st.one_of(st.none(), st.floats(0.1, 600)))
def test_no_wait_within_validity_is_longer_than_the_longest(
    numbers: PollSchedule, age: timedelta, validity: timedelta, factor: float, longest: float | None
) -> None:
    """Within validity a check comes at most the longest wait (times the factor) after any moment since sending."""
    now, until = SENT + max(age, timedelta()), SENT + validity
    assume(now < until)
    moment = next_check(
        numbers, sent_at=SENT, valid_until=until, now=now, time_factor=factor, max_check_seconds=longest
    )
    assert moment is not None
    bound = timedelta(seconds=(numbers.max_seconds if longest is None else longest) * factor)
    assert moment - now <= bound + _just_after(factor)


@given(numbers_of_any_provider, validities, factors)
@example(VAIRO, timedelta(hours=24), 1.0)
def test_one_check_comes_right_after_validity_ends(numbers: PollSchedule, validity: timedelta, factor: float) -> None:
    """From the end of validity on, exactly one check lies in the first second after it."""
    until = SENT + validity
    assume(numbers.after_validity_seconds > AFTER_VALIDITY_SECONDS * 2)
    first = next_check(numbers, sent_at=SENT, valid_until=until, now=until, time_factor=factor)
    assert first == until + _just_after(factor)
    second = next_check(numbers, sent_at=SENT, valid_until=until, now=first, time_factor=factor)
    assert second is None or second > until + _just_after(factor)


@settings(max_examples=40, deadline=None)
@given(numbers_of_any_provider, validities, factors)
@example(VAIRO, timedelta(hours=48), 1.0)
def test_every_walk_ends(numbers: PollSchedule, validity: timedelta, factor: float) -> None:
    """Checked whenever it is due, an id is forgotten in the end, after no more checks than its waits allow."""
    until, now, checks = SENT + validity * factor, SENT, 0
    shortest = min(numbers.max_seconds, *numbers.steps_seconds)
    after = numbers.forget_days * 86400 / numbers.after_validity_seconds
    assume(validity.total_seconds() / shortest + after < 1000)
    while (moment := next_check(numbers, sent_at=SENT, valid_until=until, now=now, time_factor=factor)) is not None:
        now, checks = moment, checks + 1
        assert checks <= 1100
    assert now >= until + timedelta(seconds=numbers.forget_days * 86400 * factor)


@given(numbers_of_any_provider, ages, validities, factors)
def test_the_first_check_is_never_before_registration(
    numbers: PollSchedule, age: timedelta, validity: timedelta, factor: float
) -> None:
    """An id registered late is due at once; one registered at once is due at its first step."""
    now = SENT + age
    moment = first_check(numbers, sent_at=SENT, valid_until=SENT + validity, now=now, time_factor=factor)
    assert moment >= now
    assert moment <= max(now, SENT + validity + _just_after(factor))


def test_vairo_walks_as_the_design_says() -> None:
    """5 s, 20 s, 60 s, then each wait 1.6 times the one before, up to half an hour."""
    now, waited = SENT, []
    for _ in range(13):
        moment = next_check(VAIRO, sent_at=SENT, valid_until=SENT + timedelta(hours=24), now=now)
        assert moment is not None
        waited.append(round((moment - now).total_seconds(), 1))
        now = moment
    assert waited == [5, 20, 60, 96, 153.6, 245.8, 393.2, 629.1, 1006.6, 1610.6, 1800, 1800, 1800]


def test_an_account_may_ask_sooner_and_less_far_apart() -> None:
    """`first_check_seconds` replaces the first step, `max_check_seconds` bounds each wait, the factor shrinks all."""
    now, waited = SENT, []
    for _ in range(4):
        moment = next_check(
            VAIRO,
            sent_at=SENT,
            valid_until=SENT + timedelta(hours=24),
            now=now,
            time_factor=0.1,
            first_check_seconds=2,
            max_check_seconds=50,
        )
        assert moment is not None
        waited.append((moment - now).total_seconds())
        now = moment
    assert waited == [0.2, 2, 5, 5]


def test_equal_steps_are_steps_like_any_other() -> None:
    """Two equal steps in a row are not yet the longest wait."""
    numbers = PollSchedule(steps_seconds=(5, 5, 60), growth=2, max_seconds=120)
    moments = [
        next_check(numbers, sent_at=SENT, valid_until=SENT + timedelta(hours=1), now=SENT + timedelta(seconds=age))
        for age in (0, 5, 10, 70, 190, 200)
    ]
    assert moments == [SENT + timedelta(seconds=due) for due in (5, 10, 70, 190, 310, 310)]


def test_a_provider_that_forgets_at_once_is_asked_once_after_validity() -> None:
    """With `forget_days` 0 the check right after validity is the last."""
    numbers = PollSchedule(steps_seconds=(60,), forget_days=0)
    until = SENT + timedelta(seconds=90)
    after = until + timedelta(seconds=1)
    walk = [SENT + timedelta(seconds=seconds) for seconds in (0, 60, 90, 90.5, 91)]
    assert [next_check(numbers, sent_at=SENT, valid_until=until, now=now) for now in walk] == [
        SENT + timedelta(seconds=60),
        after,
        after,
        after,
        None,
    ]


@given(numbers_of_any_provider, ages, validities, factors, st.integers(0, 2**31))
def test_an_incomplete_answer_only_ever_brings_the_next_check_forward(
    numbers: PollSchedule, age: timedelta, validity: timedelta, factor: float, before: int
) -> None:
    """Strictly ahead, after 5 s and then twice as long each time, and never later than the age says."""
    now = SENT + age
    by_age = next_check(numbers, sent_at=SENT, valid_until=SENT + validity, now=now, time_factor=factor)
    moment = check_again(numbers, by_age, now=now, incomplete_before=before, time_factor=factor)
    pause = 5 * 2.0 ** min(before, 30)
    if moment is None:
        assert by_age is None
        assert pause > numbers.after_validity_seconds
        return
    assert now < moment <= (by_age or moment)
    assert moment == by_age or moment - now == timedelta(seconds=pause * factor)


@given(numbers_of_any_provider, st.floats(0, 1), st.sampled_from([None, 900.0]), factors)
def test_an_id_that_stays_valid_for_longer_than_was_learned_is_still_checked(
    numbers: PollSchedule, share: float, longest: float | None, factor: float
) -> None:
    """Past the validity for which the ages were chosen, no wait is longer than the fixed schedule's."""
    learned = PollTimes(ages=(10.0, 600.0), until=3600.0)
    until = SENT + timedelta(seconds=10 * 86400 * factor)
    now = SENT + timedelta(seconds=(601 + share * 9 * 86400) * factor)
    moment = next_check(
        numbers,
        sent_at=SENT,
        valid_until=until,
        now=now,
        time_factor=factor,
        max_check_seconds=longest,
        learned=learned,
    )
    assert moment is not None
    longest_step = max(*numbers.steps_seconds, numbers.max_seconds)
    wait = (moment - now).total_seconds() / factor
    assert 0 < wait <= (longest_step + 3600.0 if longest is None else longest) * (1 + 1e-6) + 1


def test_an_id_for_which_no_check_was_chosen_is_checked_when_it_stays_valid_for_longer() -> None:
    """Where the only check is right after a validity of an hour, that of a longer one comes at an hour, too."""
    learned = PollTimes(ages=(), until=3600.0)
    moments = [
        first_check(VAIRO, sent_at=SENT, valid_until=SENT + timedelta(hours=hours), now=SENT, learned=learned)
        for hours in (1, 24)
    ]
    assert moments == [SENT + timedelta(seconds=3601), SENT + timedelta(hours=1)]
