"""Objectives, error budgets and burn rates: pure."""

import math
from random import Random

import pytest

from ulak.models.freshness import objective_status
from ulak.models.objectives import (
    DAY,
    HOUR,
    MAX_RATIO,
    MIN_FINALS,
    RULES,
    WINDOWS,
    Count,
    Objective,
    budget_left,
    burn_rate,
    burning,
    read_objective,
)

USUAL = Objective(percent=95.0, seconds=60.0)


@pytest.mark.parametrize(
    ("text", "percent", "seconds", "shown"),
    [
        ("95 % within 60 s", 95.0, 60.0, "95 % within 60 s"),
        ("95% within 60s", 95.0, 60.0, "95 % within 60 s"),
        (" 99.5 %  within 90 s ", 99.5, 90.0, "99.5 % within 90 s"),
        ("50 % within 24 h", 50.0, DAY, "50 % within 24 h"),
        ("99.99 % within 0.5 s", 99.99, 0.5, "99.99 % within 0.5 s"),
        ("90 % within 15 min", 90.0, 900.0, "90 % within 15 min"),
    ],
)
def test_an_objective_is_read_as_people_write_it(text: str, percent: float, seconds: float, shown: str) -> None:
    """And written in one form, which is read back."""
    objective = read_objective(text)
    assert (objective.percent, objective.seconds, str(objective)) == (percent, seconds, shown)
    assert read_objective(shown) == objective


@pytest.mark.parametrize(
    "text",
    ["", "95", "95 % in 60 s", "100 % within 60 s", "49 % within 60 s", "95 % within 0 s", "95 % within 25 h",
     "95 % within 60", "95 % within 60 d", "-95 % within 60 s", "95.123 % within 60 s", "95 % within 1e3 s"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    """With the form that is right."""
    with pytest.raises(ValueError, match="within"):
        read_objective(text)


def test_the_rules_are_those_of_the_workbook() -> None:
    """Said once in full: 2, 5 and 10 % of a budget of 30 days."""
    assert [(rule.factor, rule.long, rule.short, rule.is_urgent) for rule in RULES] == [
        (14.4, HOUR, 300.0, True),
        (6.0, 6 * HOUR, 1800.0, True),
        (1.0, 3 * DAY, 6 * HOUR, False),
    ]
    assert [round(rule.factor * rule.long / (30 * DAY), 3) for rule in RULES] == [0.02, 0.05, 0.1]


def counts(**late: float) -> dict[float, Count]:
    """Ten thousand deliveries in each window, so many per cent of them late."""
    names = {"m5": 300.0, "m30": 1800.0, "h1": HOUR, "h6": 6 * HOUR, "d3": 3 * DAY}
    return {window: Count(10_000.0, 10_000.0 - 100.0 * late.get(name, 0.0)) for name, window in names.items()}


def test_a_rule_needs_both_of_its_windows() -> None:
    """The long one so that it matters, the short one so that it ends with the trouble."""
    fast, slow, slowest = RULES
    assert burning(USUAL, counts()) == []
    assert burning(USUAL, counts(h1=73)) == []
    assert burning(USUAL, counts(m5=100)) == []
    assert burning(USUAL, counts(m5=74, h1=74)) == [fast]
    assert burning(USUAL, counts(m5=72, h1=72)) == []
    assert burning(USUAL, counts(m30=32, h6=32)) == [slow]
    assert burning(USUAL, counts(h6=6, d3=6)) == [slowest]
    assert burning(USUAL, counts(m5=90, m30=90, h1=90, h6=40, d3=6)) == [fast, slowest]


def test_few_messages_are_no_evidence() -> None:
    """One late one of three is no incident; nor is what an account that keeps its objective shows by chance."""
    assert burning(USUAL, dict.fromkeys(WINDOWS, Count(MIN_FINALS - 1, 0.0))) == []
    assert burning(USUAL, dict.fromkeys(WINDOWS, Count(MIN_FINALS, 0.0))) == [RULES[1], RULES[2]]
    assert burning(USUAL, dict.fromkeys(WINDOWS, Count(24, 0.0))) == [RULES[0], RULES[2]]
    assert burning(USUAL, dict.fromkeys(WINDOWS, Count(100, 100 - 11))) == []
    assert burning(USUAL, dict.fromkeys(WINDOWS, Count(100, 100 - 12))) == [RULES[2]]


def test_an_objective_with_a_large_budget_can_still_be_missed_fast() -> None:
    """14.4 times 20 % would be more than all there is."""
    loose = Objective(percent=80.0, seconds=60.0)
    assert burning(loose, counts(m5=91.5, h1=91.5)) == [RULES[0]]
    assert burning(loose, counts(m5=90, h1=90)) == []
    assert MAX_RATIO == 0.9


def test_a_budget_is_spent_exactly_at_rate_one() -> None:
    """Nothing is left then, and all of it is while everything is fresh."""
    assert burn_rate(USUAL, Count(100, 95)) == pytest.approx(1.0)
    assert round(budget_left(USUAL, Count(100, 95)), 9) == 0.0
    assert (burn_rate(USUAL, Count(0, 0)), budget_left(USUAL, Count(100, 100))) == (0.0, 1.0)
    assert budget_left(USUAL, Count(100, 85)) == pytest.approx(-2.0)
    standing = objective_status(USUAL, counts(d3=1))
    assert standing.good_percent == pytest.approx(99.0)
    assert standing.budget_left == pytest.approx(0.8)
    assert list(standing.burn_rates) == ["5m", "30m", "1h", "6h", "3d"]


@pytest.mark.parametrize("seed", range(100))
def test_a_hundred_runs_of_normal_operation_never_burn(seed: int) -> None:
    """Three days with 2 to 4.5 % late: load by the hour, small numbers at night, bursts, short jams of a minute."""
    random = Random(seed)
    share = random.uniform(0.02, 0.045)
    jam = 0
    minutes: list[Count] = []
    for minute in range(3 * 24 * 60):
        busy = 0.2 + max(0.0, math.sin(minute / 1440 * 2 * math.pi))
        many = int(random.expovariate(1 / (6 * busy)))
        if jam == 0 and random.random() < 1 / 2000:
            jam = 1
        late = sum(random.random() < (0.5 if jam else share) for _ in range(many))
        jam = max(0, jam - 1)
        minutes.append(Count(many, many - late))
    sums = [Count(0.0, 0.0)]
    for each in minutes:
        sums.append(Count(sums[-1].total + each.total, sums[-1].good + each.good))
    for now in range(60, len(sums), 5):
        within = {}
        for window in WINDOWS:
            base = sums[max(0, now - int(window / 60))]
            within[window] = Count(sums[now].total - base.total, sums[now].good - base.good)
        assert burning(USUAL, within) == [], (seed, now)
