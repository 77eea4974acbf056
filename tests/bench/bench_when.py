"""When ids are checked, against the optimum that knows the latencies: a discrete-event run in virtual time.

The laws are assumed mixtures (`when_world.LAWS`), since no public trace exists. *Cost* is calls + lag / 30 s. Where the
limit does not bind, the schedule in force after so many messages is judged by what it costs on average under the true
law, divided by the cost of the best schedule for that law; whole runs by what happened, beside the fixed schedule on
the very same messages. With callbacks, polls and lag are divided by those without; in batches, calls by those of the
reference of `when_batches` at equal lag. Where the limit binds, mean lag is divided by the Lagrangian lower bound (no
queueing, law known). Each goal is judged by the median over `SEEDS`, on which nothing was tuned.
"""

import math
import time
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from verdicts import Verdicts
from when_batches import BatchWorld
from when_world import ANSWER_SECONDS, DAY, NUMBERS, TICK, World, drawn, exact

from ulak.schedules.batching import half_age
from ulak.schedules.latency import Latency
from ulak.schedules.policy import _waits
from ulak.schedules.poll_times import PRICE_SECONDS, Bounds, PollTimes, forecast, poll_times, price_for_calls

BOUNDS = Bounds(validity=DAY)
PER_MINUTE = 0.5
"""So slowly that the limit of 20 a minute never binds, and that 1,000 messages take longer than a validity."""
AFTER = {1000: 1.15, 5000: 1.07}
"""Messages → goal."""
SHIFTED_AT, SHIFTED_FOR = 3000, 2000
BINDING_DAYS = 2.5
CONCURRENCY = 1
SEEDS = (7101, 7102, 7103)
BACK = 100
"""So many messages after the last callback, cost and lag have to be those without callbacks."""
CALLBACKS_END, CALLBACK_MESSAGES = 1500, 3000
BATCH_SECONDS = 3600.0
CAMPAIGN, CAMPAIGN_EVERY = 3000, 600.0
"""So many messages at once, so often: several times what the limit can follow."""


def main(_: str) -> None:
    """No database: the functions are pure."""
    verdicts = Verdicts()
    _planning_time(verdicts)
    for law in ("fast", "mixed", "slow"):
        _steady(verdicts, law)
    for one, other in (("fast", "mixed"), ("mixed", "slow")):
        _shift(verdicts, one, other)
    for law, calls in (("mixed", 3.0), ("slow", 6.0)):
        _binding(verdicts, law, calls)
    for law in ("mixed", "slow"):
        _batches(verdicts, law)
    for law in ("mixed", "slow"):
        _bursts(verdicts, law)
    for law in ("fast", "mixed", "slow"):
        _callbacks(verdicts, law)
    verdicts.end()


def _cost(law: Latency, times: PollTimes) -> float:
    return forecast(law, times, DAY).cost(PRICE_SECONDS)


def _fixed() -> PollTimes:
    """The ladder of the provider's numbers, as ages."""
    ages: list[float] = []
    age = 0.0
    for wait in _waits(NUMBERS, None, None):
        age += wait
        if age >= DAY:
            return PollTimes(ages=tuple(ages))
        ages.append(age)
    raise AssertionError


def _ratio(world: World, law: str, after: int) -> float:
    """What the schedule in force after so many messages costs, of the best one."""
    truth = exact(law)
    return _cost(truth, world.snapshots[after] or _fixed()) / _cost(truth, poll_times(truth, PRICE_SECONDS, BOUNDS))


def _paid(world: World, first: int, last: int) -> float:
    """Mean cost of these messages."""
    return _calls(world, first, last) * PRICE_SECONDS + _lag(world, first, last)


def _calls(world: World, first: int, last: int) -> float:
    return sum(message.calls for message in world.messages[first:last]) / (last - first)


def _lag(world: World, first: int, last: int) -> float:
    some = world.messages[first:last]
    return sum((message.seen or 0.0) - message.sent - message.latency for message in some) / len(some)


def _runs(plan: list[tuple[int, str]], at: Sequence[int]) -> list[tuple[World, World]]:
    """Of each seed: the adaptive run and the fixed one, on the same messages."""
    return [
        (
            World(plan=plan, per_minute=PER_MINUTE, seed=seed, snapshots=dict.fromkeys(at)).run(),
            World(plan=plan, per_minute=PER_MINUTE, seed=seed, adaptive=False).run(),
        )
        for seed in SEEDS
    ]


def _planning_time(verdicts: Verdicts) -> None:
    """An account whose limit binds: the price is searched for, then the schedule is made."""
    law, begun = exact("slow"), time.process_time()
    for _ in range(10):
        price = price_for_calls(law, 4.0, BOUNDS, least=PRICE_SECONDS)
        poll_times(law, price, BOUNDS)
    verdicts.at_most("planning an account, ms", [(time.process_time() - begun) / 10 * 1000], 50.0)


def _steady(verdicts: Verdicts, law: str) -> None:
    last = max(AFTER) + 100
    runs = _runs([(last, law)], [*AFTER])
    for after, goal in AFTER.items():
        found = [_ratio(world, law, after) for world, _ in runs]
        verdicts.at_most(f"{law}, cost / optimum after {after:,} messages", found, goal)
    found = [_paid(world, 0, last) / _paid(fixed, 0, last) for world, fixed in runs]
    verdicts.at_most(f"{law}, whole run / fixed schedule", found, 1.05)


def _shift(verdicts: Verdicts, one: str, other: str) -> None:
    turn, end = SHIFTED_AT, SHIFTED_AT + SHIFTED_FOR
    runs = _runs([(turn, one), (SHIFTED_FOR + 100, other)], [end])
    found = [_ratio(world, other, end) for world, _ in runs]
    verdicts.at_most(f"{one} -> {other}, cost / optimum {SHIFTED_FOR:,} messages later", found, 1.10)
    found = [_paid(world, turn, end) / _paid(fixed, turn, end) for world, fixed in runs]
    verdicts.at_most(f"{one} -> {other}, first {SHIFTED_FOR:,} after the shift / fixed schedule", found, 1.3)
    found = [_paid(world, 0, end + 100) / _paid(fixed, 0, end + 100) for world, fixed in runs]
    verdicts.at_most(f"{one} -> {other}, whole run / fixed schedule", found, 1.05)


def _binding(verdicts: Verdicts, law: str, calls: float) -> None:
    """So many calls a message are all that the limit has; judged by the messages sent in hours 6 to 33."""
    truth = exact(law)
    prices = [0.5 * 40_000 ** (step / 39) for step in range(40)]
    bound = max(_at_price(truth, price) - price * calls for price in prices)
    end = BINDING_DAYS * DAY
    per_minute = 20 / calls / (1 + ANSWER_SECONDS / 60)
    plan = [(int(end / 60 * per_minute), law)]
    worlds = [World(plan=plan, per_minute=per_minute, seed=seed).run(until=end) for seed in SEEDS]
    what = f"{law}, {calls:g} calls a message"
    some = [[each for each in world.messages if 0.1 * end < each.sent < 0.55 * end] for world in worlds]
    lags = [
        sum((end if each.seen is None else each.seen) - each.sent - each.latency for each in part) / len(part)
        for part in some
    ]
    verdicts.at_most(f"{what}: mean lag / lower bound of {bound:.0f} s", [lag / bound for lag in lags], 1.3)
    verdicts.at_least(f"{what}: slots used of what the limit allows", [_used(world) for world in worlds], 0.97)
    resolved = [sum(each.seen is not None for each in part) / len(part) for part in some]
    verdicts.at_least(f"{what}: part resolved", resolved, 1.0)
    verdicts.at_most(f"{what}: most calls in any window", [max(_most(world.calls) for world in worlds)], 20)


def _used(world: World) -> float:
    """Slots used, of what the limit allows while there is demand: min(T / (T + h + w), C T / (N h)), with w = 0.

    Counted in every stretch of ticks in which work waited, from the second window on: the first one begins with slots
    that were left over.
    """
    requests, seconds = world.limit
    share = min(seconds / (seconds + ANSWER_SECONDS), CONCURRENCY * seconds / (requests * ANSWER_SECONDS))
    used, possible, begun = 0, 0.0, math.inf
    for (moment, is_waiting), (after, _) in pairwise(world.busy):
        begun = min(begun, moment) if is_waiting and after - moment <= TICK else math.inf
        if moment >= begun + seconds:
            used += bisect_left(world.calls, after) - bisect_left(world.calls, moment)
            possible += (after - moment) * requests / seconds * share
    return used / possible


def _callbacks(verdicts: Verdicts, law: str) -> None:
    """Callbacks that bring 95 %, beside none, on the same messages; then they stop."""
    turn, last = CALLBACKS_END, CALLBACK_MESSAGES
    polls, lags, after = [], [], []
    for seed in SEEDS:
        alone, beside, ended = (
            World(plan=[(last, law)], per_minute=PER_MINUTE, seed=seed, callbacks=share, callbacks_end=end).run()
            for share, end in ((0.0, None), (0.95, None), (0.95, turn))
        )
        polls.append(_calls(beside, 1000, last) / _calls(alone, 1000, last))
        lags.append(_lag(beside, 1000, last) / _lag(alone, 1000, last))
        after.append(_paid(ended, turn + BACK, last) / _paid(alone, turn + BACK, last))
    verdicts.at_most(f"{law}, callbacks of 95 %: polls / without callbacks", polls, 0.3)
    verdicts.at_most(f"{law}, callbacks of 95 %: lag / without callbacks", lags, 1.0)
    verdicts.at_most(f"{law}, callbacks stop: cost from message {BACK} on / without callbacks", after, 1.15)


def _batches(verdicts: Verdicts, law: str) -> None:
    """A message a second in batches of 100, beside the reference at the same mean lag (between two of its prices)."""
    found = [_batch_ratio(law, seed) for seed in SEEDS]
    verdicts.at_most(f"{law}, batches of 100: calls / reference at equal lag", found, 1.25)


def _batch_ratio(law: str, seed: int) -> float:
    end, figures = BATCH_SECONDS, []
    for greedy in (None, 20.0, 40.0, 80.0):
        world = BatchWorld(
            plan=[(int(end), law)],
            per_minute=60.0,
            seed=seed,
            batch=100,
            limit=(1, 1.0),
            adaptive=greedy is None,
            fixed_latency=None if greedy is None else exact(law),
            greedy=greedy,
        ).run(until=end)
        counted = [each for each in world.messages if end / 3 <= each.sent + each.latency < end - 300]
        lag = sum((end if each.seen is None else each.seen) - each.sent - each.latency for each in counted)
        figures.append((sum(end / 3 <= at for at in world.calls), lag / len(counted)))
    (calls, lag), *reference = figures
    (many, low), (few, high) = next((pair for pair in pairwise(reference) if pair[1][1] >= lag), reference[-2:])
    at_lag: float = many * (lag / low) ** (math.log(few / many) / math.log(high / low))
    return calls / at_lag


def _bursts(verdicts: Verdicts, law: str) -> None:
    """Campaigns that the limit cannot follow: no id is checked first before half of those that can be final are."""
    truth, early, used = exact(law), [], []
    half = truth.below(half_age(truth))[0]
    for seed in SEEDS:
        messages = enumerate(drawn([(4 * CAMPAIGN, law)], PER_MINUTE, seed))
        sends = [(place // CAMPAIGN * CAMPAIGN_EVERY, latency) for place, (_, latency) in messages]
        world = BatchWorld(sends=sends, batch=100, limit=(1, 10.0), fixed_latency=truth, adaptive=False)
        world.run(until=4 * CAMPAIGN_EVERY)
        early.append(sum(done < half - 1e-9 for done in world.first_checks) / len(world.first_checks))
        used.append(_used(world))
    verdicts.at_most(f"{law}, bursts: part of the first checks before half can be final", early, 0.0)
    verdicts.at_least(f"{law}, bursts: slots used of what the limit allows", used, 0.97)


def _at_price(truth: Latency, price: float) -> float:
    return forecast(truth, poll_times(truth, price, BOUNDS), DAY).cost(price)


def _most(calls: Sequence[float]) -> int:
    """The most calls in any window of a minute."""
    most = first = 0
    for place, at in enumerate(calls):
        while calls[first] <= at - 60.0:
            first += 1
        most = max(most, place - first + 1)
    return most
