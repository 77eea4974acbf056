"""When `keep_days` takes effect: announced first, then by midnight, never back."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ulak.models.keeping import LEAP, NOTICE, Keeping, Step, advance

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
MIDNIGHT = NOON - timedelta(hours=12)
IN_FORCE = Keeping(keep_days=30, keep_days_in_force=30, kept_from=MIDNIGHT - timedelta(days=30))


def test_a_first_keep_days_is_announced_and_takes_effect_a_day_later() -> None:
    """Until then nothing is removed or refused."""
    announced, step = advance(Keeping(keep_days=30), NOON)
    assert (step, announced.kept_from) == (Step.ANNOUNCED, None)
    assert announced.removal_starts_at == NOON + NOTICE
    assert advance(announced, NOON + NOTICE - timedelta(seconds=1)) == (announced, Step.NOTHING)
    started, step = advance(announced, NOON + NOTICE)
    assert (step, started) == (
        Step.STARTED,
        replace(IN_FORCE, kept_from=MIDNIGHT + timedelta(days=1) - timedelta(days=30)),
    )


def test_a_shorter_one_is_announced_while_the_one_before_goes_on() -> None:
    """Shortening it again begins another day of notice; a longer one that is still shorter than before does not."""
    shorter = replace(IN_FORCE, keep_days=10)
    announced, step = advance(shorter, NOON)
    assert (step, announced.kept_from, announced.keep_days_in_force) == (Step.ANNOUNCED, IN_FORCE.kept_from, 30)
    next_day, step = advance(announced, NOON + timedelta(hours=13))
    assert (step, next_day.kept_from) == (Step.MOVED, MIDNIGHT + timedelta(days=1) - timedelta(days=30))
    again, step = advance(replace(next_day, keep_days=8), NOON + timedelta(hours=13))
    assert (step, again.removal_starts_at) == (Step.ANNOUNCED, NOON + timedelta(hours=37))
    relaxed, step = advance(replace(again, keep_days=20), NOON + timedelta(hours=37))
    assert (step, relaxed.keep_days_in_force, relaxed.kept_from) == (Step.STARTED, 20, MIDNIGHT - timedelta(days=18))


def test_a_longer_one_takes_effect_at_once_and_brings_nothing_back() -> None:
    """What was sent before `kept_from` is refused until the longer time has caught up."""
    longer, step = advance(replace(IN_FORCE, keep_days=60), NOON)
    assert (step, longer) == (Step.MOVED, replace(IN_FORCE, keep_days=60, keep_days_in_force=60))


def test_without_keep_days_everything_is_kept_again() -> None:
    """An announcement is cancelled, too."""
    for before in (IN_FORCE, advance(Keeping(keep_days=30), NOON)[0]):
        assert advance(replace(before, keep_days=None), NOON) == (Keeping(), Step.CANCELLED)
    assert advance(Keeping(), NOON) == (Keeping(), Step.NOTHING)


def test_a_clock_that_leaps_ahead_removes_nothing_at_once() -> None:
    """It is announced as if it were new; once the clock is right again, the notice begins anew and nothing was lost."""
    ahead = NOON + timedelta(days=3000)
    announced, step = advance(IN_FORCE, ahead)
    assert (step, announced.kept_from, announced.removal_starts_at) == (
        Step.ANNOUNCED,
        IN_FORCE.kept_from,
        ahead + NOTICE,
    )
    again, step = advance(announced, NOON + timedelta(hours=1))
    assert (step, again.removal_starts_at) == (Step.ANNOUNCED, NOON + timedelta(hours=1) + NOTICE)
    started, step = advance(again, NOON + timedelta(hours=25))
    assert (step, started.kept_from) == (Step.STARTED, MIDNIGHT - timedelta(days=29))
    shorter, _ = advance(replace(IN_FORCE, keep_days=10), ahead)
    assert shorter.kept_from == IN_FORCE.kept_from


@pytest.mark.parametrize("before", [Keeping(keep_days=30), replace(IN_FORCE, keep_days=10)], ids=["first", "shorter"])
def test_a_clock_that_leaps_ahead_during_the_notice_begins_it_anew(before: Keeping) -> None:
    """What would be removed is far more than what was announced; a start that is a few days late is none of that."""
    announced, _ = advance(before, NOON)
    ahead = NOON + timedelta(days=3000)
    again, step = advance(announced, ahead)
    assert (step, again.kept_from, again.removal_starts_at) == (Step.ANNOUNCED, before.kept_from, ahead + NOTICE)
    assert advance(announced, NOON + NOTICE + LEAP)[1] is Step.STARTED


_days = st.none() | st.integers(7, 400)


@given(st.lists(st.tuples(_days, st.integers(0, 60 * 60 * 24 * 12)), min_size=1, max_size=12))
def test_nothing_is_removed_without_a_day_of_notice_and_kept_from_never_moves_back(
    acts: list[tuple[int | None, int]],
) -> None:
    """Whatever is configured when: what is removed was covered by a `keep_days` that had been known for a day."""
    now, keeping = NOON, Keeping()
    known: dict[int, datetime] = {}
    for wanted, seconds in acts:
        now += timedelta(seconds=seconds)
        if wanted is None:
            known.clear()
        else:
            known.setdefault(wanted, now)
        before = keeping
        keeping, _ = advance(replace(keeping, keep_days=wanted), now)
        assert advance(keeping, now) == (keeping, Step.NOTHING)
        if keeping.kept_from is None:
            continue
        assert before.kept_from is None or keeping.kept_from >= before.kept_from
        if keeping.kept_from != before.kept_from:
            covering = [days for days, since in known.items() if since <= now - NOTICE]
            assert keeping.kept_from <= now - timedelta(days=max(min(covering), wanted or 0))
