"""When ids are checked, against the optimum that knows the latencies: a discrete-event run in virtual time.

The laws are assumed mixtures (`when_world.LAWS`), since no public trace exists. *Cost* is calls + lag / 30 s. Where the
limit does not bind, the schedule in force after so many messages is judged by what it costs on average under the true
law, divided by the cost of the best schedule for that law; whole runs by what happened, beside the fixed schedule on
the very same messages. Where it binds, mean lag is divided by the Lagrangian lower bound (no queueing, law known).
"""

import time
from collections.abc import Sequence

from when_world import DAY, NUMBERS, TICK, World, exact

from ulak.schedules.latency import Latency
from ulak.schedules.policy import _waits
from ulak.schedules.poll_times import PRICE_SECONDS, Bounds, PollTimes, forecast, poll_times

BOUNDS = Bounds(validity=DAY)
PER_MINUTE = 0.5
"""So slowly that the limit of 20 a minute never binds, and that 1,000 messages take longer than a validity."""
AFTER = (500, 1000, 2000, 5000)
BINDING_DAYS = 2.5


def main(_: str) -> None:
    """No database: the functions are pure."""
    _planning_time()
    for law in ("fast", "mixed", "slow"):
        _steady(law)
    for one, other in (("fast", "mixed"), ("mixed", "slow")):
        _shift(one, other)
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
        wanted = {moment for moment, is_waiting in world.busy if is_waiting}
        used = sum(1 for moment in world.calls if moment // TICK * TICK in wanted)
        possible = len(wanted) * TICK * 20 / 60.15
        print(
            f"{law}, {calls:g} calls a message, {name:8s} mean lag {sum(lags) / len(lags):.0f} s /"
            f" bound {bound:.0f} s ="
            f" {sum(lags) / len(lags) / bound:.2f} (goal 1.3); slots used while work waits {used / possible:.3f}"
            f" (goal 0.97); price {world.price:.0f} s; unresolved {unseen};"
            f" most calls in a window {_most(world.calls)} (limit 20)"
            f" [{time.perf_counter() - begun:.0f} s]",
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
