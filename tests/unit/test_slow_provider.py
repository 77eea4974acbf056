"""A provider that becomes slow, and normal operation, in virtual time: who is told when."""

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from ulak.api.notify.message_texts import problems_of
from ulak.api.notify.notifier import EVERY_SECONDS
from ulak.api.pages.alarms import find_alarms
from ulak.api.pages.language import Language
from ulak.models.account import AccountState
from ulak.models.backlog import Backlog
from ulak.models.freshness import MINUTE_SECONDS, SETTLES_SECONDS, objective_status
from ulak.models.objectives import DEVIATIONS, MAX_RATIO, MIN_FINALS, RULES, WINDOWS, Count, Objective, Rule
from ulak.models.overview import AccountOverview
from ulak.models.problems import Episode, State, follow
from ulak.models.snapshot import Work

START = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
USUAL = Objective(percent=95.0, seconds=60.0)
ALERTS = Path(__file__).parents[2] / "deploy" / "alerts.yml"
SCRAPES = 15.0


def account(now: float, **more: Any) -> AccountOverview:
    """An account that works, at a moment of the run."""
    usual: dict[str, Any] = {
        "id": "kampanya", "provider": "vairo", "enabled": True, "state": AccountState.OK, "reason": None, "until": None,
        "paused_by": None, "as_of": START + timedelta(seconds=now), "open_deliveries": 5, "final_deliveries": 500,
        "open_tracked": 5, "oldest_unanswered": None, "freshness_seconds": 4.0, "calls_last_minute": 10,
        "calls_last_hour": 600, "limit_requests": 20, "limit_per_seconds": 60.0, "limit_concurrency": 2,
        "busy_slots": 5, "ready_fetches": 1, "sending_fetches": 1, "dead_fetches": 0, "running_polls": 1,
        "quarantined": 0, "last_trouble": None, "last_trouble_at": None,
    }  # fmt: skip
    return AccountOverview(**(usual | more))


@dataclass
class Told:
    """What an API process tells receivers, look by look."""

    said: list[tuple[State, str, float]]
    known: dict[str, Episode]

    def look(self, now: float, seen: AccountOverview, waiting: Backlog | None = None) -> None:
        """One look at this moment of the run."""
        alarms = find_alarms([seen], {} if waiting is None else {seen.id: waiting}, {"vairo": 30.0})
        followed = follow(self.known, problems_of(alarms, Language("en")), seen.as_of)
        self.known = dict(followed.kept)
        self.said += [(each.state, each.episode.problem.kind, now) for each in followed.changes]


class Rows:
    """What upkeep has counted: rows of running totals, one a minute, each visible a while after what it holds."""

    def __init__(self, finals: Sequence[tuple[int, int]]) -> None:
        """`finals`: of each minute, how many there were and how many of them in time."""
        self.at = [60.0 * minute for minute in range(len(finals) + 1)]
        self.total = [0, *accumulate(total for total, _ in finals)]
        self.good = [0, *accumulate(good for _, good in finals)]

    def visible(self, now: float) -> int:
        """The place of the last row that is there."""
        return bisect_right(self.at, now - SETTLES_SECONDS) - 1

    def counts(self, now: float) -> dict[float, Count]:
        """What `ulak.models.freshness.objective_statuses` reads."""
        last = self.visible(now)
        found = {}
        for window in WINDOWS:
            base = max(0, bisect_right(self.at, now - window + MINUTE_SECONDS, hi=last + 1) - 1)
            found[window] = Count(self.total[last] - self.total[base], self.good[last] - self.good[base])
        return found

    def increase(self, totals: Sequence[int], now: float, window: float) -> float:
        """`increase(…[window])` of Prometheus over scrapes of these totals, with its extrapolation to the window."""
        first, last = (math.floor((now - window) / SCRAPES) + 1) * SCRAPES, math.floor(now / SCRAPES) * SCRAPES
        if last <= first:
            return 0.0
        raw = float(totals[max(0, self.visible(last))] - totals[max(0, self.visible(first))])
        sampled = last - first
        ends = [end if end < SCRAPES * 1.1 else SCRAPES / 2 for end in (first - (now - window), now - last)]
        start = totals[max(0, self.visible(first))]
        to_zero = sampled * start / raw if raw > 0 else math.inf
        return raw * (sampled + min(ends[0], to_zero) + ends[1]) / sampled

    def prometheus_holds(self, rule: Rule, now: float) -> bool:
        """The expression of `deploy/alerts.yml`."""
        late, finals = {}, {}
        for window in (rule.long, rule.short):
            finals[window] = self.increase(self.total, now, window)
            late[window] = max(0.0, finals[window] - self.increase(self.good, now, window))
        limit, many = rule.limit(USUAL), finals[rule.long]
        is_missed = late[rule.long] > limit * many + DEVIATIONS * math.sqrt(limit * (1 - limit) * many)
        return is_missed and many >= MIN_FINALS and late[rule.short] > limit * finals[rule.short]


def slowing(random: Random) -> tuple[Rows, float]:
    """Hours of traffic that is fresh, until the provider becomes slow; and when it does."""
    calm = random.randrange(60, 300)
    share, load = random.uniform(0.0, 0.04), random.uniform(2, 40)
    ramp = random.choice([1, 1, 30])
    finals = []
    for minute in range(calm + 400):
        many = sum(random.expovariate(load) < 1 / load for _ in range(int(load))) or 1
        late = share if minute < calm else min(1.0, share + (minute - calm + 1) / ramp)
        finals.append((many, many - sum(random.random() < late for _ in range(many))))
    return Rows(finals), 60.0 * calm


@pytest.mark.parametrize("seed", range(30))
def test_a_provider_that_becomes_slow_is_told_no_later_than_by_prometheus(seed: int) -> None:
    """At every moment at which its rule holds, people have been told."""
    random = Random(seed)
    rows, slow_at = slowing(random)
    told = Told([], {})
    phase = random.uniform(0, EVERY_SECONDS)
    theirs: float | None = None
    now = slow_at - 600 + phase
    while theirs is None and now < rows.at[-1]:
        told.look(now, account(now, objective=objective_status(USUAL, rows.counts(now))))
        if any(rows.prometheus_holds(rule, now) for rule in RULES if rule.is_urgent):
            theirs = now
        now += EVERY_SECONDS
    assert theirs is not None
    ours = [moment for state, kind, moment in told.said if (state, kind) == (State.OPEN, "burning")]
    assert len(ours) == 1
    assert slow_at < ours[0] <= theirs


def test_the_rule_file_has_the_same_rules() -> None:
    """Factors, windows, the cap and what is asked of few messages."""
    [group] = [each for each in yaml.safe_load(ALERTS.read_text())["groups"] if each["name"] == "ulak-objectives"]
    text = "\n".join(str(rule.get("expr")) for rule in group["rules"])
    names = {300.0: "5m", 1800.0: "30m", 3600.0: "1h", 21600.0: "6h", 259200.0: "3d"}
    limits = dict(re.findall(r"ulak:late_limit:(\d+)'?, 'expr': 'clamp_max\(([\d.]+) \*", str(group["rules"])))
    assert sorted(map(float, limits.values())) == sorted(rule.factor for rule in RULES)
    assert set(re.findall(r"clamp_max\(.*, ([\d.]+)\)", text)) == {f"{MAX_RATIO}"}
    found = re.findall(
        r"late:increase(\w+) > ulak:late_limit:(\d+) \* ulak:finals:increase\1\s+"
        r"\+ (\d) \* sqrt\(ulak:late_limit:\2 \* \(1 - ulak:late_limit:\2\) \* ulak:finals:increase\1\)\s+"
        r"and ulak:finals:increase\1 >= (\d+)\s+and ulak:late:increase(\w+) > ulak:late_limit:\2 \*",
        text,
    )
    assert [(float(limits[limit]), long, short) for long, limit, _, _, short in found] == [
        (rule.factor, names[rule.long], names[rule.short]) for rule in RULES
    ]
    assert {(float(three), float(ten)) for _, _, three, ten, _ in found} == {(DEVIATIONS, MIN_FINALS)}


@pytest.mark.parametrize("seed", range(100))
def test_nobody_is_told_anything_in_normal_operation(seed: int) -> None:
    """An hour with retries, a breaker that opens and closes, throttling, used limits, and a few late finals."""
    random = Random(seed)
    rows = Rows([(many := random.randrange(0, 12), many - (random.random() < 0.15 and many > 0)) for _ in range(200)])
    told = Told([], {})
    trouble: tuple[float, dict[str, Any]] = (0.0, {})
    for look in range(240):
        now = 3600.0 + look * EVERY_SECONDS
        if now >= trouble[0]:
            was_calm = not trouble[1]
            trouble = (now + 120 + random.expovariate(1 / 300), {})
            if was_calm and random.random() < 0.6:
                trouble = _some_trouble(random, now)
        due = START + timedelta(seconds=now - random.expovariate(1 / 10))
        free = START + timedelta(seconds=now if trouble[1].get("busy_slots") else now - 5)
        work = Work(
            account_id="kampanya", provider="vairo", enabled=True, now=START + timedelta(seconds=now), free_since=free,
            ready=1, retrying=0, ready_since=due, sending=1, lease_ended=None, dead=0, polls=1, unplanned_since=None,
            quarantined=0, ids=5, ids_since=None, due=1, due_since=due,
        )  # fmt: skip
        waiting = Backlog(
            work=work, planned_at=due, every_seconds=None, late_ids=0, late_ids_since=None, late_deliveries=0
        )
        told.look(now, account(now, objective=objective_status(USUAL, rows.counts(now)), **trouble[1]), waiting)
    assert told.said == []


def _some_trouble(random: Random, now: float) -> tuple[float, dict[str, Any]]:
    """What ends without anybody's help, until when."""
    kind, lasts = random.choice([("breaker", 400.0), ("throttled", 300.0), ("full", 500.0), ("errors", 600.0)])
    until = now + random.uniform(10, lasts)
    ends = START + timedelta(seconds=until)
    began = START + timedelta(seconds=now)
    shown: dict[str, dict[str, Any]] = {
        "breaker": {
            "state": AccountState.BREAKER_OPEN,
            "reason": "5 failures",
            "until": ends,
            "last_trouble_at": began,
        },
        "throttled": {"state": AccountState.THROTTLED, "reason": "429", "until": ends},
        "full": {"busy_slots": 20, "calls_last_minute": 0},
        "errors": {"last_trouble": "RetrySoon: 503", "last_trouble_at": began, "freshness_seconds": 30.0},
    }
    return until, shown[kind]
