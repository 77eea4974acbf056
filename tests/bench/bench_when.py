"""When ids are checked, against the optimum that knows the latencies: a discrete-event run in virtual time.

The laws are assumed mixtures (`when_world.LAWS`), since no public trace exists. *Cost* is calls + lag / 30 s. Where the
limit does not bind, the schedule in force after so many messages is judged by what it costs on average under the true
law, divided by the cost of the best schedule for that law; whole runs by what happened, beside the fixed schedule on
the very same messages. With callbacks, polls and lag are divided by those without; in batches, calls by those of the
reference of `when_batches` at equal lag. Where the limit binds, mean lag is divided by the Lagrangian lower bound (no
queueing, law known).
"""

import math
import time
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from when_batches import BatchWorld
from when_world import ANSWER_SECONDS, DAY, NUMBERS, TICK, World, exact

from ulak.schedules.latency import Latency
from ulak.schedules.policy import _waits
from ulak.schedules.poll_times import PRICE_SECONDS, Bounds, PollTimes, forecast, poll_times

BOUNDS = Bounds(validity=DAY)
PER_MINUTE = 0.5
"""So slowly that the limit of 20 a minute never binds, and that 1,000 messages take longer than a validity."""
AFTER = (500, 1000, 2000, 5000)
BINDING_DAYS = 2.5
CONCURRENCY = 1
SEEDS = (1, 2, 3)
BACK = 100
"""So many messages after the last callback, cost and lag have to be those without callbacks."""
BATCH_SECONDS = 3600.0


def main(_: str) -> None:
    """No database: the functions are pure."""
    _planning_time()
    for law in ("fast", "mixed", "slow"):
        _steady(law)
    for one, other in (("fast", "mixed"), ("mixed", "slow")):
        _shift(one, other)
    for law in ("fast", "mixed", "slow"):
        _callbacks(law)
    for law in ("mixed", "slow"):
        _batches(law)
    for law, calls in (("mixed", 3.0), ("slow", 6.0)):
        _binding(law, calls)


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


def _ratios(world: World, law: str, at: Sequence[int]) -> str:
    truth = exact(law)
    best = _cost(truth, poll_times(truth, PRICE_SECONDS, BOUNDS))
    return " ".join(f"{many}: {_cost(truth, world.snapshots[many] or _fixed()) / best:.3f}" for many in at)


def _paid(world: World, first: int, last: int) -> float:
    """Mean cost of these messages, without the tick that both schedules lose alike."""
    some = world.messages[first:last]
    lag = sum((message.seen or 0.0) - message.sent - message.latency for message in some)
    return (sum(message.calls for message in some) * PRICE_SECONDS + lag) / len(some)


def _run(plan: list[tuple[int, str]], at: Sequence[int], *, adaptive: bool = True) -> World:
    return World(plan=plan, per_minute=PER_MINUTE, seed=1, adaptive=adaptive, snapshots=dict.fromkeys(at)).run()


def _planning_time() -> None:
    law, begun = exact("slow"), time.perf_counter()
    for _ in range(20):
        poll_times(law, PRICE_SECONDS, BOUNDS)
    print(f"a schedule takes {(time.perf_counter() - begun) / 20 * 1000:.1f} ms (goal: an account < 50 ms)")


def _steady(law: str) -> None:
    begun = time.perf_counter()
    world = _run([(5100, law)], AFTER)
    fixed = _run([(5100, law)], (), adaptive=False)
    truth = exact(law)
    ladder = _cost(truth, _fixed()) / _cost(truth, poll_times(truth, PRICE_SECONDS, BOUNDS))
    print(
        f"{law:6s} cost / optimum after {_ratios(world, law, AFTER)} (goals 1000: 1.15, 5000: 1.07;"
        f" fixed {ladder:.3f});"
        f" whole run / fixed {_paid(world, 0, 5100) / _paid(fixed, 0, 5100):.3f} (goal 1.05)"
        f" shifts by chance {len(world.shifts)} [{time.perf_counter() - begun:.0f} s]",
        flush=True,
    )


def _shift(one: str, other: str) -> None:
    begun, turn = time.perf_counter(), 3000
    at = (turn + 250, turn + 500, turn + 1000, turn + 2000)
    plan = [(turn, one), (2100, other)]
    world, fixed = _run(plan, at), _run(plan, (), adaptive=False)
    noticed = [many - turn for many in world.shifts]
    print(
        f"{one} -> {other}: noticed after {noticed} messages; cost / optimum {_ratios(world, other, at)} (goal 1.10);"
        f" first 2,000 / fixed {_paid(world, turn, turn + 2000) / _paid(fixed, turn, turn + 2000):.3f} (goal 1.3),"
        f" whole run {_paid(world, 0, turn + 2100) / _paid(fixed, 0, turn + 2100):.3f} (goal 1.05)"
        f" [{time.perf_counter() - begun:.0f} s]",
        flush=True,
    )


def _binding(law: str, calls: float) -> None:
    """So many calls a message are all that the limit has; judged by the messages sent in hours 6 to 33."""
    truth = exact(law)
    prices = [0.5 * 40_000 ** (step / 39) for step in range(40)]
    bound = max(_at_price(truth, price) - price * calls for price in prices)
    end = BINDING_DAYS * DAY
    per_minute = 20 / calls / (1 + 0.15 / 60)
    for name in ("fixed", "learned"):
        begun = time.perf_counter()
        many = int(end / 60 * per_minute)
        world = World(plan=[(many, law)], per_minute=per_minute, seed=1, adaptive=name == "learned").run(until=end)
        lags = [
            (end if message.seen is None else message.seen) - message.sent - message.latency
            for message in world.messages
            if 0.1 * end < message.sent < 0.55 * end
        ]
        unseen = sum(message.seen is None for message in world.messages if 0.1 * end < message.sent < 0.55 * end)
        print(
            f"{law}, {calls:g} calls a message, {name:8s} mean lag {sum(lags) / len(lags):.0f} s /"
            f" bound {bound:.0f} s ="
            f" {sum(lags) / len(lags) / bound:.2f} (goal 1.3); slots used while work waits {_used(world):.3f}"
            f" (goal 0.97); price {world.price:.0f} s; unresolved {unseen};"
            f" most calls in a window {_most(world.calls)} (limit 20)"
            f" [{time.perf_counter() - begun:.0f} s]",
            flush=True,
        )


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


def _callbacks(law: str) -> None:
    """Callbacks that bring 95 %, beside none, on the same messages; then they stop."""
    begun, turn, last = time.perf_counter(), 1500, 3000
    ratios, lags, noticed, after = [], [], [], []
    for seed in SEEDS:
        alone, beside, ended = (
            World(plan=[(last, law)], per_minute=PER_MINUTE, seed=seed, callbacks=share, callbacks_end=end).run()
            for share, end in ((0.0, None), (0.95, None), (0.95, turn))
        )
        ratios.append(_calls(beside, 1000, last) / _calls(alone, 1000, last))
        lags.append(_lag(beside, 1000, last) / _lag(alone, 1000, last))
        noticed.append(next(many for many in ended.callback_shifts if many >= turn) - turn)
        after.append(_paid(ended, turn + BACK, last) / _paid(alone, turn + BACK, last))
    print(
        f"{law:6s} with callbacks of 95 %: polls {median(ratios):.2f} (goal 0.3), lag {median(lags):.2f} (goal 1) of"
        f" those without; they stop: noticed after {median(noticed):.0f} messages (worst {max(noticed)}), cost from"
        f" message {BACK} on {median(after):.3f} of that without (worst {max(after):.3f})"
        f" [{time.perf_counter() - begun:.0f} s]",
        flush=True,
    )


def _calls(world: World, first: int, last: int) -> float:
    return sum(message.calls for message in world.messages[first:last]) / (last - first)


def _lag(world: World, first: int, last: int) -> float:
    some = world.messages[first:last]
    return sum((message.seen or 0.0) - message.sent - message.latency for message in some) / len(some)


def _batches(law: str) -> None:
    """A message a second in batches of 100, beside the reference at the same mean lag (between two of its prices)."""
    begun, end = time.perf_counter(), BATCH_SECONDS
    figures = []
    for greedy in (None, 20.0, 40.0, 80.0):
        world = BatchWorld(
            plan=[(int(end), law)],
            per_minute=60.0,
            seed=1,
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
    at_lag = many * (lag / low) ** (math.log(few / many) / math.log(high / low))
    print(
        f"{law:6s} in batches: {calls} calls, mean lag {lag:.1f} s; the reference at that lag {at_lag:.0f} calls:"
        f" {calls / at_lag:.2f} (goal 1.25) [{time.perf_counter() - begun:.0f} s]",
        flush=True,
    )


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
